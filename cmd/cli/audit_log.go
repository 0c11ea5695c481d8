package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

// changeFilters are the flags of which changes are wanted.
type changeFilters struct {
	client.ChangeFilter
	from, to string
}

func (w *changeFilters) flags(f *pflag.FlagSet) {
	f.StringVar(&w.Key, "key", "", "only what happened to this key, by its `id`")
	f.StringVar(&w.Actor, "actor", "", "only what this `actor` did: a key's id, or as in key/acme/ID or system/expiry")
	f.StringSliceVar(&w.Types, "type", nil, "only these `kinds`, such as key.revoked,key.rotated")
	f.StringVar(&w.Workspace, "workspace", "", "only what concerns this `workspace`")
	f.StringVar(&w.Ticket, "ticket", "", "only what was done for this `ticket`")
	f.StringVar(&w.from, "from", "", "only what was stored at this `time` or later")
	f.StringVar(&w.to, "to", "", "only what was stored before this `time`")
	f.StringVar(&w.Query, "search", "", "only what has this `text` in reason, ticket, a name, request id or id")
}

// read reads the times.
func (w *changeFilters) read() (err error) {
	if w.from != "" {
		if w.From, err = instant("from", w.from); err != nil {
			return err
		}
	}
	if w.to != "" {
		if w.To, err = instant("to", w.to); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) auditLogCommand() *cobra.Command {
	var (
		w              changeFilters
		follow, oldest bool
	)
	c := &cobra.Command{
		Use: "log", Short: "Show what was changed, by whom, from what to what, and why", Args: takes(),
		Long: `Show what was changed, from the newest on: when, what, by whom, from what to what,
and why. The time is that of the decision, by the server's clock; -o json and
-o csv also tell when it was recorded and stored.

With --follow it goes on with what happens, until Ctrl-C; the newest come last
then. The organization _system is the installation itself, and --all every
organization there is.`,
		Example: `  keyledger audit log --org acme --key $KEY
  keyledger audit log --org acme --type key.revoked --from 2026-11-01 -o csv
  keyledger audit log --org acme --ticket SEC-42
  keyledger audit log --org acme --search leaked --limit 0
  keyledger audit log --org acme --follow -o json | my-follower`,
		// KEYLEDGER_TICKET names the ticket of changes: it must not narrow the log.
		Annotations: map[string]string{showsRecords: "", explicit: ""},
	}
	f := c.Flags()
	w.flags(f)
	f.BoolVar(&w.AllOrganizations, "all", false, "of every organization, for auditors of the installation")
	f.BoolVar(&oldest, "oldest-first", false, "begin with the oldest")
	f.BoolVarP(&follow, "follow", "f", false, "go on with what happens, until Ctrl-C")
	page := pageFlags(c)
	c.MarkFlagsMutuallyExclusive("follow", "from")
	c.MarkFlagsMutuallyExclusive("follow", "to")
	c.MarkFlagsMutuallyExclusive("follow", "cursor")
	c.MarkFlagsMutuallyExclusive("follow", "oldest-first")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := w.read(); err != nil {
			return err
		}
		w.OldestFirst = oldest
		s, org, err := a.openAudit(cmd, w.AllOrganizations)
		if err != nil {
			return err
		}
		from := ""
		if follow {
			// What comes after here is followed, and what was before is listed.
			who, err := s.Whoami(cmd.Context())
			if err != nil {
				return err
			}
			from = who.Position
		}
		list, err := collect(page, func(p client.Page) (wire.List[wire.Change], error) {
			w.Page = p
			return s.Changes(cmd.Context(), org, w.ChangeFilter)
		})
		switch {
		case err != nil:
			return err
		case follow:
			return a.followChanges(cmd.Context(), s, org, w.ChangeFilter, from, list.Items)
		case a.out.format == formatCSV:
			rows, err := changeRows(list.Items)
			if err != nil {
				return err
			}
			return a.out.csv(changeColumns[:], rows)
		default:
			return a.listed(list, list.NextCursor, changeGrid(list.Items, w.AllOrganizations))
		}
	}
	return c
}

// openAudit opens a session about an organization, or about all of them.
func (a *app) openAudit(cmd *cobra.Command, all bool) (*session, string, error) {
	if !all {
		return a.openOrg(cmd)
	}
	s, err := a.open(cmd)
	return s, "_system", err
}

func changeGrid(changes []wire.Change, orgs bool) grid {
	g := grid{
		head: []string{"WHEN (UTC)", "ORG", "ON", "WHAT", "FROM → TO", "BY", "WHY"}, none: "Nothing was changed, or nothing like that.",
		whole: map[string]bool{"WHEN (UTC)": true, "ON": true}, folded: map[string]bool{"WHAT": true, "FROM → TO": true, "WHY": true, "BY": true},
		spare: []string{"FROM → TO"},
	}
	for _, c := range changes {
		t := tellChange(c)
		g.add(c.Position, t.at.UTC().Format(time.DateTime), t.org, t.on, t.what, movedText(c), t.who, t.why)
	}
	if !orgs {
		g = g.without(slices.Index(g.head, "ORG"))
	}
	return g
}

// movedAtMost is how many fields one cell tells of: a catalog may change a
// thousand permissions at once.
const movedAtMost = 8

// movedText says from what to what in one cell. What has just begun came from
// nothing, and so does what is only told: there the headline says what it is.
func movedText(c wire.Change) string {
	moves := strings.HasSuffix(c.Type, "_changed") || c.Type == "catalog.replaced" && c.Revision > 1
	var moved []string
	for _, f := range c.Changes {
		// Of a provider key's tests the one that is told now tells enough.
		if !strings.HasPrefix(f.Field, "last_test.") && (f.Before != nil || moves) {
			moved = append(moved, fieldText(f.Field)+" "+valueText(f.Field, f.Before)+" → "+valueText(f.Field, f.After))
		}
	}
	if more := len(moved) - movedAtMost; more > 0 {
		moved = append(moved[:movedAtMost], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(moved, "; ")
}

// followChanges prints what there is, the newest last, and then what comes.
func (a *app) followChanges(ctx context.Context, s *session, org string, f client.ChangeFilter, from string, newest []wire.Change) error {
	slices.Reverse(newest)
	tail := changeTail{app: a, last: from, head: true}
	if err := tail.print(newest); err != nil {
		return err
	}
	f.OldestFirst, f.Page = true, client.Page{Limit: pageSize}
	stream := client.Follow{
		Types: f.Types, After: from, Organization: org, Key: f.Key, Actor: f.Actor, Workspace: f.Workspace, Query: f.Query,
		Interrupted: a.interruptions(),
	}
	if f.AllOrganizations {
		stream.Organization = ""
	}
	// The stream tells that something is there, and the list what it changed.
	err := s.Events(ctx, stream, func(e wire.Event) error {
		for !tail.shown[e.Position] {
			f.After = tail.last
			list, err := s.Changes(ctx, org, f)
			if err != nil || len(list.Items) == 0 {
				return err
			}
			if err := tail.print(list.Items); err != nil {
				return err
			}
		}
		return nil
	})
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// changeTail prints changes as they come.
type changeTail struct {
	app  *app
	last string
	// shown are the positions that were printed last.
	shown map[string]bool
	// head says that the head of a table is still to be printed.
	head bool
}

func (t *changeTail) print(changes []wire.Change) error {
	out := t.app.out
	if out.format == formatCSV {
		rows, err := changeRows(changes)
		if err != nil {
			return err
		}
		var head []string
		if t.head {
			head = changeColumns[:]
		}
		if err := out.csv(head, rows); err != nil {
			return err
		}
	}
	t.head = false
	t.shown = make(map[string]bool, len(changes))
	for _, c := range changes {
		t.last, t.shown[c.Position] = c.Position, true
		if err := t.line(c); err != nil {
			return err
		}
	}
	return nil
}

func (t *changeTail) line(c wire.Change) error {
	out := t.app.out
	switch out.format {
	case formatCSV:
		return nil
	case formatJSON:
		return out.line(c)
	case formatID:
		return out.say("%s", c.Position)
	default:
		return t.app.changeLine(c)
	}
}
