package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/wire"
)

func (a *app) auditCommand() *cobra.Command {
	c := a.under("audit", "The audit log: who did what, when, from what to what, and why",
		"Every change and every use is on record. The audit log answers about them; it never changes any.",
		a.auditLogCommand(), a.auditUsesCommand(), a.auditAccessCommand(), a.auditReportCommand(), a.auditExportCommand(), a.auditAsOfCommand(), a.auditEraseCommand())
	a.linked(c)
	a.about(c)
	return c
}

// tellChange is a change as a person reads it.
func tellChange(c wire.Change) story {
	s := story{at: c.ClaimedAt, org: c.Organization, on: aboutChange(c), what: c.Type, who: whoDid(c), why: c.Reason}
	if c.Ticket != "" {
		s.why = strings.TrimSpace(s.why + " [" + c.Ticket + "]")
	}
	return s
}

// aboutChange says what a change is about.
func aboutChange(c wire.Change) string {
	switch c.Aggregate {
	case "key", "revoked":
		return "key " + shortID(c.ID)
	default:
		return c.Aggregate + " " + c.ID
	}
}

// whoDid says who did it, by name where it has one, and in which role.
func whoDid(c wire.Change) string {
	who := actorText(c.Actor)
	if c.ActorName != "" {
		who = c.ActorName + " (" + who + ")"
	}
	return who
}
