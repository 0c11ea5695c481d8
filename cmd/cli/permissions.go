package cli

import (
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/wire"
)

func (a *app) permissionsCommand() *cobra.Command {
	c := a.under("permissions", "The catalog: which permissions there are",
		`The permission catalog of an organization says which permissions exist, whether
each reads or writes, and which routes of your own API ask for it. A permission
that is not in the catalog is denied to every key.`,
		a.permissionsGetCommand(), a.permissionsSetCommand())
	c.Aliases = []string{"permission", "catalog"}
	a.linked(c)
	a.about(c)
	return c
}

func (a *app) permissionsGetCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get", Aliases: []string{"list", "ls"}, Short: "Show the catalog", Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, org, err := a.openOrg(cmd)
			if err != nil {
				return err
			}
			var got answer
			catalog, err := s.Permissions(cmd.Context(), org, got.meta())
			if err != nil {
				return err
			}
			if err := a.out.list(catalog, permissionGrid(catalog)); err != nil {
				return err
			}
			if got.revision() != "" && a.out.format == formatTable && len(catalog.Permissions) > 0 {
				return a.out.say("\n%s", a.out.dim("revision "+got.revision()))
			}
			return nil
		},
	}
}

func permissionGrid(catalog wire.Permissions) grid {
	g := grid{
		head: []string{"PERMISSION", "ACCESS", "ROUTES", "DESCRIPTION"}, whole: map[string]bool{"PERMISSION": true},
		none: "No permissions yet. keyledger permissions set puts a catalog in place.",
	}
	for _, p := range catalog.Permissions {
		g.add(p.Name, p.Name, p.Access, strings.Join(p.Routes, ", "), p.Description)
	}
	return g
}

func (a *app) permissionsSetCommand() *cobra.Command {
	var entries []string
	c := &cobra.Command{
		Use: "set [FILE]", Short: "Put a whole catalog in place of the one before",
		Long: `Put a whole catalog in place of the one before. It is read from a JSON file, or
from standard input for -, in the form that permissions get -o json prints; or
it is written with a --permission for each entry.`,
		Example: `  keyledger permissions set catalog.json
  keyledger permissions get -o json | jq '…' | keyledger permissions set -
  keyledger permissions set \
    --permission "interview:read=read,GET /interviews/{id}" \
    --permission "interview:start=write,POST /interviews/start"`,
		Args: takes("[FILE]"),
	}
	c.Flags().StringArrayVar(&entries, "permission", nil, "`entry` such as interview:start=write,POST /interviews, once for each")
	w := a.wishFlags(c, true)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		list, err := a.catalog(args, entries)
		if err != nil {
			return err
		}
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		var got answer
		catalog, err := s.ReplacePermissions(cmd.Context(), org, wire.ReplacePermissions{Permissions: list, Reason: w.reason}, a.options(w, &got)...)
		return a.changed(err, got, catalog, org, func() error {
			if err := a.out.say("The catalog of organization %s now has %s.\n", org, plural(len(catalog.Permissions), "permission")); err != nil {
				return err
			}
			if len(catalog.Permissions) == 0 {
				return nil
			}
			return a.out.grid("", permissionGrid(catalog))
		})
	}
	return c
}

// catalog reads the permissions of a file or of flags.
func (a *app) catalog(args, entries []string) ([]wire.Permission, error) {
	switch {
	case len(args) == 1 && len(entries) > 0:
		return nil, usage("the catalog comes from a file or from --permission, not from both", "")
	case len(args) == 0 && len(entries) == 0:
		return nil, usage("which permissions?", "Name a JSON file, - for standard input, or say --permission name=access for each.")
	case len(args) == 1:
		return a.catalogFile(args[0])
	}
	list := make([]wire.Permission, 0, len(entries))
	for _, e := range entries {
		name, rest, ok := strings.Cut(e, "=")
		access, routes, hasRoutes := strings.Cut(rest, ",")
		if !ok || access != "read" && access != "write" {
			return nil, usage("--permission is written name=read or name=write, with routes after commas",
				`Such as --permission "interview:start=write,POST /interviews/start".`)
		}
		p := wire.Permission{Name: strings.TrimSpace(name), Access: access}
		if hasRoutes {
			for r := range strings.SplitSeq(routes, ",") {
				p.Routes = append(p.Routes, strings.TrimSpace(r))
			}
		}
		list = append(list, p)
	}
	return list, nil
}

func (a *app) catalogFile(path string) ([]wire.Permission, error) {
	text, err := a.document(path)
	if err != nil {
		return nil, fmt.Errorf("the catalog cannot be read: %w", err)
	}
	var catalog wire.Permissions
	// A list alone is as good as the document around it.
	if err := json.Unmarshal(text, &catalog.Permissions, json.RejectUnknownMembers(true)); err == nil {
		return catalog.Permissions, nil
	}
	if err := json.Unmarshal(text, &catalog, json.RejectUnknownMembers(true)); err != nil || catalog.Permissions == nil {
		return nil, usage("the catalog is not JSON in the form of permissions get -o json",
			`Such as {"permissions":[{"name":"interview:start","access":"write","routes":["POST /interviews/start"]}]}.`)
	}
	return catalog.Permissions, nil
}
