package cli

import (
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

func (a *app) workspacesCommand() *cobra.Command {
	c := a.under("workspaces", "Workspaces: where inside an organization a key works",
		"A workspace is a project inside an organization. A key works in all of them, or in those it lists.",
		a.workspacesCreateCommand(), a.workspacesListCommand(), a.workspacesGetCommand(),
		a.workspacesUpdateCommand(), a.workspacesDeleteCommand())
	c.Aliases = []string{"workspace", "ws"}
	a.linked(c)
	a.about(c)
	return c
}

func workspaceFields(w wire.Workspace, revision string) []field {
	return []field{
		{"id", w.ID},
		{"name", w.Name},
		{"created", at(w.CreatedAt)},
		{"changed", changedText(w.CreatedAt, w.UpdatedAt)},
		{"revision", revision},
	}
}

func (a *app) workspacesCreateCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "create ID", Short: "Begin a workspace", Args: takes("ID"),
		Example: `  keyledger workspaces create hiring --org acme --name "Hiring"`,
	}
	c.Flags().StringVar(&name, "name", "", "display `name` (default: the id)")
	w := a.wishFlags(c, false)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		if name == "" {
			name = args[0]
		}
		var got answer
		ws, err := s.CreateWorkspace(cmd.Context(), org, wire.CreateWorkspace{ID: args[0], Name: name, Reason: w.reason}, a.options(w, &got)...)
		return a.changed(err, got, ws, ws.ID, func() error {
			return a.out.say("Created workspace %s in organization %s.", titled(ws.ID, ws.Name), org)
		})
	}
	return c
}

func (a *app) workspacesListCommand() *cobra.Command {
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List workspaces", Args: takes()}
	page := pageFlags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		list, err := collect(page, func(p client.Page) (wire.List[wire.Workspace], error) {
			return s.Workspaces(cmd.Context(), org, p)
		})
		if err != nil {
			return err
		}
		g := grid{
			head: []string{"ID", "NAME", "CREATED"}, whole: map[string]bool{"ID": true},
			none: "No workspaces. keyledger workspaces create ID begins one.",
		}
		for _, w := range list.Items {
			g.add(w.ID, w.ID, w.Name, day(w.CreatedAt))
		}
		return a.listed(list, list.NextCursor, g)
	}
	return c
}

func (a *app) workspacesGetCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get ID", Short: "Show a workspace", Args: takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, org, err := a.openOrg(cmd)
			if err != nil {
				return err
			}
			var got answer
			w, err := s.Workspace(cmd.Context(), org, args[0], got.meta())
			if err != nil {
				return err
			}
			return a.out.record(w, w.ID, workspaceFields(w, got.revision()))
		},
	}
}

func (a *app) workspacesUpdateCommand() *cobra.Command {
	var name string
	c := &cobra.Command{Use: "update ID", Short: "Rename a workspace", Args: takes("ID")}
	c.Flags().StringVar(&name, "name", "", "display `name`")
	w := a.wishFlags(c, true)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if !cmd.Flags().Changed("name") {
			return errNothingToChange(cmd)
		}
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		var got answer
		ws, err := s.UpdateWorkspace(cmd.Context(), org, args[0], wire.UpdateWorkspace{Name: wire.Some(name), Reason: w.reason}, a.options(w, &got)...)
		return a.changed(err, got, ws, ws.ID, func() error { return a.out.fields("", workspaceFields(ws, got.revision())) })
	}
	return c
}

func (a *app) workspacesDeleteCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "delete ID", Short: "End a workspace for ever", Args: takes("ID"),
		Long: "End a workspace. Keys that work nowhere else are denied from then on; its id is never used again.",
	}
	a.yesFlag(c)
	w := a.wishFlags(c, true)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		if err := a.ask(cmd, w, "End workspace "+args[0]+" of organization "+org+", for ever?"); err != nil {
			return err
		}
		var got answer
		gone, err := s.DeleteWorkspace(cmd.Context(), org, args[0], a.endOptions(w, &got)...)
		return a.changed(err, got, gone, args[0], func() error {
			return a.out.say("Workspace %s of organization %s has ended.", args[0], org)
		})
	}
	return c
}
