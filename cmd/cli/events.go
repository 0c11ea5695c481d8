package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

func (a *app) eventsCommand() *cobra.Command {
	c := a.under("events", "The ledger's events, as they happen",
		"Every change is an event in the ledger. Each has a position, which is the only order there is.",
		a.eventsTailCommand())
	c.Aliases = []string{"event"}
	a.linked(c)
	a.about(c)
	return c
}

// errEnough ends a tail that has shown what it should.
var errEnough = errors.New("enough")

func (a *app) eventsTailCommand() *cobra.Command {
	var (
		types []string
		after string
		limit int
	)
	c := &cobra.Command{
		Use: "tail", Short: "Show events as they happen, until Ctrl-C", Args: takes(),
		Long: `Show events as they happen, until Ctrl-C. With --after it begins behind a
position, with --after 0 at the beginning of the ledger; without, with what
happens from now on. With -o json every event is one line, as the API sends it.

A connection that breaks is taken up again where it was: no event is left out,
none comes twice. Why it broke is said on standard error.`,
		Example: `  keyledger events tail
  keyledger events tail --types key.revoked,key.rotated -o json | my-follower
  keyledger events tail --after 0 --limit 20`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return usage("--limit is 0 or more", "")
			}
			s, err := a.open(cmd)
			if err != nil {
				return err
			}
			shown := 0
			// A stream is taken up again and again; what is wrong from the start
			// shows here.
			if _, err := s.Whoami(cmd.Context()); err != nil {
				return err
			}
			follow := client.Follow{Types: types, After: after, Organization: s.link.org, Interrupted: a.interruptions()}
			err = s.Events(cmd.Context(), follow, func(e wire.Event) error {
				if err := a.showEvent(e); err != nil {
					return err
				}
				if shown++; shown == limit {
					return errEnough
				}
				return nil
			})
			if errors.Is(err, errEnough) || cmd.Context().Err() != nil && errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		},
	}
	f := c.Flags()
	f.StringSliceVar(&types, "types", nil, "only these `kinds`, such as key.revoked,key.rotated")
	f.StringVar(&after, "after", "", "begin behind this `position`, 0 for the ledger's beginning")
	f.IntVar(&limit, "limit", 0, "end after this many `events`, 0 for never")
	return c
}

// interruptions tells why connections end; what is the same as the time before,
// such as a server that is still away, is told once.
func (a *app) interruptions() func(error) {
	last := ""
	return func(why error) {
		text := why.Error()
		if p, ok := problemOf(why); ok && p.Detail != "" {
			text = p.Code + ": " + p.Detail
		}
		if text != last {
			fmt.Fprintf(a.env.Stderr, "Interrupted, trying again: %s\n", redact(plain(strings.TrimPrefix(text, "client: "))))
		}
		last = text
	}
}

// showEvent prints an event on a line of its own: a stream has no widths to
// measure, and whoever reads it along must see each when it happens.
func (a *app) showEvent(e wire.Event) error {
	switch a.out.format {
	case formatJSON:
		return a.out.line(e)
	case formatID:
		return a.out.say("%s", e.Position)
	}
	return a.storyLine(tell(e))
}

// storyLine prints a story on one line.
func (a *app) storyLine(t story) error {
	line := fmt.Sprintf("%s  %-10s  %-20s  %s", t.at.UTC().Format(time.RFC3339), t.org, t.on, t.what)
	tail := "by " + t.who
	if t.why != "" {
		tail += ": " + t.why
	}
	return a.out.say("%s  %s", strings.TrimRight(cell(line), " "), a.out.dim(cell(tail)))
}
