package cli

import (
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

func (a *app) profilesCommand() *cobra.Command {
	c := a.under("profiles", "Profiles: settings that come back with every verdict",
		`A profile is a named JSON document of your own, such as limits or a model. It can
be attached to keys, and comes back with every verdict about them.`,
		a.profilesCreateCommand(), a.profilesListCommand(), a.profilesGetCommand(),
		a.profilesUpdateCommand(), a.profilesDeleteCommand())
	c.Aliases = []string{"profile"}
	a.linked(c)
	a.about(c)
	return c
}

func profileFields(p wire.Profile, revision string) []field {
	settings := p.Settings.Clone()
	if settings.Indent(jsontext.WithIndent("  ")) != nil {
		settings = p.Settings
	}
	return []field{
		{"id", p.ID},
		{"name", p.Name},
		{"settings", string(settings)},
		{"created", at(p.CreatedAt)},
		{"changed", changedText(p.CreatedAt, p.UpdatedAt)},
		{"revision", revision},
	}
}

// settings reads a profile's document from a file, or standard input for "-".
func (a *app) profileSettings(path string) (jsontext.Value, error) {
	if path == "" {
		return nil, nil
	}
	text, err := a.document(path)
	if err != nil {
		return nil, fmt.Errorf("the settings cannot be read: %w", err)
	}
	v := jsontext.Value(text)
	if v.Compact() != nil || v.Kind() != '{' {
		return nil, usage("the settings are no JSON object", "")
	}
	return v, nil
}

func (a *app) profilesCreateCommand() *cobra.Command {
	var name, settings string
	c := &cobra.Command{
		Use: "create ID", Short: "Begin a profile", Args: takes("ID"),
		Example: `  keyledger profiles create gold --settings gold.json
  echo '{"per_minute":600}' | keyledger profiles create gold --settings -`,
	}
	c.Flags().StringVar(&name, "name", "", "display `name` (default: the id)")
	c.Flags().StringVar(&settings, "settings", "", "JSON `file` with the settings, - for standard input")
	w := a.wishFlags(c, false)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		document, err := a.profileSettings(settings)
		if err != nil {
			return err
		}
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		if name == "" {
			name = args[0]
		}
		var got answer
		p, err := s.CreateProfile(cmd.Context(), org, wire.CreateProfile{ID: args[0], Name: name, Settings: document, Reason: w.reason}, a.options(w, &got)...)
		return a.changed(err, got, p, p.ID, func() error {
			return a.out.say("Created profile %s in organization %s.", titled(p.ID, p.Name), org)
		})
	}
	return c
}

func (a *app) profilesListCommand() *cobra.Command {
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List profiles", Args: takes()}
	page := pageFlags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		list, err := collect(page, func(p client.Page) (wire.List[wire.Profile], error) {
			return s.Profiles(cmd.Context(), org, p)
		})
		if err != nil {
			return err
		}
		g := grid{
			head: []string{"ID", "NAME", "SETTINGS", "CREATED"}, whole: map[string]bool{"ID": true},
			none: "No profiles. keyledger profiles create ID begins one.",
		}
		for _, p := range list.Items {
			settings := p.Settings.Clone()
			if settings.Compact() != nil {
				settings = p.Settings
			}
			g.add(p.ID, p.ID, p.Name, string(settings), day(p.CreatedAt))
		}
		return a.listed(list, list.NextCursor, g)
	}
	return c
}

func (a *app) profilesGetCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get ID", Short: "Show a profile", Args: takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, org, err := a.openOrg(cmd)
			if err != nil {
				return err
			}
			var got answer
			p, err := s.Profile(cmd.Context(), org, args[0], got.meta())
			if err != nil {
				return err
			}
			return a.out.record(p, p.ID, profileFields(p, got.revision()))
		},
	}
}

func (a *app) profilesUpdateCommand() *cobra.Command {
	var name, settings string
	c := &cobra.Command{
		Use: "update ID", Short: "Change a profile", Args: takes("ID"),
		Long: "Change a profile. Settings are merged: members that are given replace, null removes one.",
		Example: `  echo '{"per_minute":1200,"burst":null}' |
    keyledger profiles update gold --settings -`,
	}
	c.Flags().StringVar(&name, "name", "", "display `name`")
	c.Flags().StringVar(&settings, "settings", "", "JSON `file` to merge into the settings, - for standard input")
	w := a.wishFlags(c, true)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if !cmd.Flags().Changed("name") && settings == "" {
			return errNothingToChange(cmd)
		}
		patch := wire.UpdateProfile{Reason: w.reason}
		if cmd.Flags().Changed("name") {
			patch.Name = wire.Some(name)
		}
		var err error
		if patch.Settings, err = a.profileSettings(settings); err != nil {
			return err
		}
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		var got answer
		p, err := s.UpdateProfile(cmd.Context(), org, args[0], patch, a.options(w, &got)...)
		return a.changed(err, got, p, p.ID, func() error { return a.out.fields("", profileFields(p, got.revision())) })
	}
	return c
}

func (a *app) profilesDeleteCommand() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "delete ID", Short: "End a profile for ever", Args: takes("ID"),
		Long: "End a profile. One that keys have is refused, unless --force detaches it from them first.",
	}
	c.Flags().BoolVar(&force, "force", false, "detach it from every key that has it")
	a.yesFlag(c)
	w := a.wishFlags(c, true)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		if err := a.ask(cmd, w, "End profile "+args[0]+" of organization "+org+", for ever?"); err != nil {
			return err
		}
		var got answer
		options := a.endOptions(w, &got)
		if force {
			options = append(options, client.Force())
		}
		gone, err := s.DeleteProfile(cmd.Context(), org, args[0], options...)
		return a.changed(err, got, gone, args[0], func() error {
			return a.out.say("Profile %s of organization %s has ended.", args[0], org)
		})
	}
	return c
}
