package cli

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

func (a *app) verifiersCommand() *cobra.Command {
	c := a.under("verifiers", "Who gives verdicts, and how far each has come",
		`Verifiers are servers, sidecars and programs with the SDK. Each announces itself
every few seconds; one that is not heard of any more is lost.`,
		a.verifiersListCommand())
	c.Aliases = []string{"verifier"}
	a.linked(c)
	return c
}

func (a *app) verifiersListCommand() *cobra.Command {
	var f client.VerifierFilter
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List verifiers", Args: takes(),
		Long: `List verifiers by name, as each announced itself last. A verifier is live, lost when
it was not heard of within its lease, silent when it has a credential and never
spoke, or ended when it said so.

STALENESS is how long it was not shown that it holds everything, and the bound
past which it denies. A lost one denies by its bound too, unless it serves stale:
then nothing bounds how long it accepts a revoked key.`,
		Example: `  keyledger verifiers list
  keyledger verifiers list --state lost -q`,
	}
	c.Flags().StringVar(&f.State, "state", "", "only those of this `state`: live, lost, silent or ended")
	c.Flags().StringVar(&f.Organization, "serving", "", "only those that answer for keys of this `organization`")
	page := pageFlags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.open(cmd)
		if err != nil {
			return err
		}
		list, err := collect(page, func(p client.Page) (wire.List[wire.Verifier], error) {
			f.Page = p
			return s.Verifiers(cmd.Context(), f)
		})
		if err != nil {
			return err
		}
		return a.listed(list, list.NextCursor, verifierGrid(list.Items, time.Now()))
	}
	return c
}

// verifierGrid is a table of verifiers.
func verifierGrid(list []wire.Verifier, now time.Time) grid {
	g := grid{
		head:  []string{"NAME", "KIND", "STATE", "SERVES", "BEHIND", "STALENESS", "BACKLOG", "HEARD", "VERSION"},
		none:  "No verifier is like that.",
		whole: map[string]bool{"NAME": true, "STATE": true}, folded: map[string]bool{"SERVES": true},
		spare: []string{"VERSION", "KIND", "BACKLOG"},
	}
	for _, v := range list {
		serves := "all"
		if len(v.Organizations) > 0 {
			serves = strings.Join(v.Organizations, ", ")
		}
		heard := "never"
		if v.LastHeardAt != nil {
			heard = distance(*v.LastHeardAt, now)
		}
		g.add(v.Name, v.Name, v.Kind, stateText(v), serves, countText(v.Behind), stalenessText(v), countText(v.Backlog), heard, v.Version)
	}
	return g
}

// stateText is a verifier's state, and what is wrong with it beside.
func stateText(v wire.Verifier) string {
	text := v.State
	switch {
	case v.Duplicate:
		text += ", twice"
	case v.State == "live" && !v.Ready:
		text += ", not ready"
	}
	if v.Credential == "revoked" {
		text += ", shut out"
	}
	return text
}

func stalenessText(v wire.Verifier) string {
	bound := seconds(v.MaxStaleness)
	if v.ServesStale {
		bound = "none"
	}
	if v.Staleness == nil {
		return "unknown of " + bound
	}
	return seconds(*v.Staleness) + " of " + bound
}

// seconds writes a time as people like to read it.
func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(100 * time.Millisecond).String()
}

func countText(n *uint64) string {
	if n == nil {
		return ""
	}
	return decimal(*n)
}
