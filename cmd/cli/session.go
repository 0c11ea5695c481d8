package cli

import (
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/wire"
)

// open finds the server and makes a client for it.
func (a *app) open(cmd *cobra.Command) (*session, error) {
	l, err := a.findLink()
	if err != nil {
		return nil, err
	}
	a.link.found = l
	a.warnCleartext(cmd.Context(), l)
	return newSession(l, a.env.Version), nil
}

// openOrg opens a session, and says about which organization it is: the one
// that was named, else the key's own.
func (a *app) openOrg(cmd *cobra.Command) (*session, string, error) {
	s, err := a.open(cmd)
	if err != nil {
		return nil, "", err
	}
	if s.link.org != "" {
		return s, s.link.org, nil
	}
	who, err := s.whoami(cmd.Context())
	if err != nil {
		return nil, "", err
	}
	if who.Organization == "_system" {
		return nil, "", usage("which organization?",
			"Say --org ID, or set KEYLEDGER_ORG. keyledger orgs list shows them; keyledger context set can remember one.")
	}
	return s, who.Organization, nil
}

// wish is what every change may be asked with.
type wish struct {
	reason         string
	idempotencyKey string
	ifMatch        string
	dryRun         bool
}

// wishFlags gives a command the flags of a change.
func (a *app) wishFlags(c *cobra.Command, revisable bool) *wish {
	w := &wish{}
	f := c.Flags()
	f.StringVar(&w.reason, "reason", "", "why, for the audit log")
	f.StringVar(&w.idempotencyKey, "idempotency-key", "", "`text` that names this wish: repeated, it is still done once")
	f.BoolVar(&w.dryRun, "dry-run", false, "show the events that would be appended, and append none")
	if revisable {
		f.StringVar(&w.ifMatch, "if-match", "", "change it only while it is of this `revision`, as get shows it")
	}
	return w
}

// named gives a wish its idempotency key, so that the client may repeat what
// got no answer, and a person can when even that is to no avail.
func (a *app) named(w *wish) (wish, error) {
	if w.idempotencyKey == "" {
		id, err := uuid.NewRandom()
		if err != nil {
			return wish{}, err
		}
		w.idempotencyKey = id.String()
	}
	a.link.idempotencyKey = w.idempotencyKey
	return *w, nil
}

// rehearsed prints what a change would have done.
func (a *app) rehearsed(d wire.DryRun) error {
	if a.out.format == formatJSON {
		return a.out.json(d)
	}
	if len(d.Events) == 0 {
		return a.out.say("Nothing would change.")
	}
	if err := a.out.say("Nothing was changed. These events would be appended:\n"); err != nil {
		return err
	}
	for _, e := range d.Events {
		if err := a.out.say("  %s", a.out.bold(plain(e.Type))); err != nil {
			return err
		}
		if err := a.out.fields("    ", []field{{"subject", e.Subject}, {"data", string(e.Data)}}); err != nil {
			return err
		}
	}
	return nil
}
