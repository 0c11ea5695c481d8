package cli

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

func (a *app) auditAccessCommand() *cobra.Command {
	var (
		f          client.AccessFilter
		from, till string
	)
	c := &cobra.Command{
		Use: "access", Short: "Show who read the log, who could not log in, what was refused", Args: takes(),
		Long: `Show, from the newest minute on, who read the audit log or took a copy of it, whose
provider key was handed out or tried, which requests came without a management key
that is good, which changes were denied, and how often secrets were tried that
nobody has. What happened alike within a minute is one line with its count; each time
that a provider key was handed out is a line of its own.

What nobody known did is the installation's to see: --org _system, or --all for
what all organizations have. FROM is the client's address where addresses are
recorded (serve --record-client-ip), else a label that is the same for the same
address on one day.`,
		Example: `  keyledger audit access --kind login.failed --from 2026-11-21
  keyledger audit access --actor 0197ab6e-98f1-7c3a-8f0e-2f3a4b5c6d7e -o csv
  keyledger audit access --org _system --all --kind secret.unknown`,
		Annotations: map[string]string{showsRecords: ""},
	}
	flags := c.Flags()
	flags.StringVar(&f.Kind, "kind", "", "only this `kind`: audit.read, audit.exported, provider_key.resolved, provider_key.tested, login.failed, command.denied or secret.unknown")
	flags.StringVar(&f.Actor, "actor", "", "only what this management `key` did: its id, or key/<organization>/<id>")
	flags.StringVar(&from, "from", "", "only minutes from this `time` or day on")
	flags.StringVar(&till, "to", "", "only minutes before this `time` or day")
	flags.BoolVar(&f.AllOrganizations, "all", false, "those of all organizations; goes with --org _system")
	page := pageFlags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if f.From, f.To, err = periodOf(from, till); err != nil {
			return err
		}
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		list, err := collect(page, func(p client.Page) (wire.List[wire.Access], error) {
			f.Page = p
			return s.Accesses(cmd.Context(), org, f)
		})
		if err != nil {
			return err
		}
		if a.out.format == formatCSV {
			return a.out.csv(accessRecords(list.Items))
		}
		return a.listed(list, list.NextCursor, accessGrid(list.Items))
	}
	return c
}

// accessGrid is a table of access records.
func accessGrid(list []wire.Access) grid {
	g := grid{
		head: []string{"MINUTE (UTC)", "KIND", "WHAT", "CODE", "BY", "FROM", "COUNT"}, none: "There is nothing on record.",
		whole: map[string]bool{"MINUTE (UTC)": true, "KIND": true, "COUNT": true}, folded: map[string]bool{"WHAT": true, "BY": true},
	}
	for _, r := range list {
		who := ""
		if r.Actor != "" {
			who = whoDid(wire.Change{Actor: r.Actor, ActorName: r.ActorName})
		}
		g.add(r.RequestID, r.Minute.UTC().Format("2006-01-02 15:04"), r.Kind, accessWhat(r), r.Code, who, r.Source, strconv.FormatUint(r.Count, 10))
	}
	return g
}

// accessWhat says what it was, and of a provider key what was handed out.
func accessWhat(r wire.Access) string {
	switch {
	case r.Version != 0:
		return fmt.Sprintf("%s: %s, version %d", r.What, words(r.Answer), r.Version)
	case r.Answer != "":
		return r.What + ": " + words(r.Answer)
	default:
		return r.What
	}
}

// accessRecords are access records with all of their members.
func accessRecords(list []wire.Access) (head []string, rows [][]string) {
	head = []string{
		"minute", "kind", "organization", "server", "actor", "actor_name", "role", "what", "code", "source", "source_kind",
		"count", "first_at", "last_at", "request_id", "answer", "version",
	}
	for _, r := range list {
		version := ""
		if r.Version != 0 {
			version = strconv.FormatUint(r.Version, 10)
		}
		rows = append(rows, []string{
			r.Minute.Format(time.RFC3339), r.Kind, r.Organization, r.Server, r.Actor, r.ActorName, r.Role, r.What, r.Code, r.Source, r.SourceKind,
			strconv.FormatUint(r.Count, 10), r.FirstAt.Format(time.RFC3339Nano), r.LastAt.Format(time.RFC3339Nano), r.RequestID, r.Answer, version,
		})
	}
	return head, rows
}
