package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

func (a *app) auditLogCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "log", Short: "Show what was changed, by whom, from what to what, and why", Args: takes(),
		Long:        "Show what was changed, from the newest on: when, what, by whom, from what to what, and why.",
		Annotations: map[string]string{showsRecords: ""},
	}
	page := pageFlags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		list, err := collect(page, func(p client.Page) (wire.List[wire.Change], error) {
			return s.Changes(cmd.Context(), org, client.ChangeFilter{Page: p})
		})
		if err != nil {
			return err
		}
		return a.listed(list, list.NextCursor, a.changeGrid(list.Items, "Nothing was changed."))
	}
	return c
}

func (a *app) changeGrid(changes []wire.Change, none string) grid {
	g := grid{
		head: []string{"WHEN (UTC)", "ON", "WHAT", "BY", "WHY"}, none: none,
		whole: map[string]bool{"WHEN (UTC)": true}, folded: map[string]bool{"WHAT": true, "WHY": true},
	}
	for _, c := range changes {
		t := tellChange(c)
		g.add(c.Position, t.at.UTC().Format(time.DateTime), t.on, t.what, t.who, t.why)
	}
	return g
}
