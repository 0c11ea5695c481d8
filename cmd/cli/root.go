package cli

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The groups that the help lists commands under.
const (
	groupStart = "start"
	groupKeys  = "keys"
	groupRead  = "read"
	groupOwn   = "own"
)

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "keyledger",
		Short: "An API key ledger",
		Long: `keyledger issues API keys, answers whether a key may do something, and keeps
every change and every use of it in a ledger that only grows.

New here? keyledger quickstart shows all of it in one minute.

Every flag is also KEYLEDGER_<FLAG> in the environment and a member of the
config file; flags win over the environment, and that over the file.`,
		Version: a.env.Version,
		Args:    a.group, SuggestionsMinimumDistance: 2,
		RunE:          help,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.settle(cmd)
		},
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if given := new(pflag.InvalidValueError); errors.As(err, &given) && given.GetFlag().Name == "kek" {
			// It may be a key, in the place of where one is.
			return usage("--kek says where a key is: file:PATH, env:NAME or kms:unix:///PATH", "See %s --help.", cmd.CommandPath())
		}
		// What the parser of numbers says adds nothing.
		text, _, _ := strings.Cut(err.Error(), ": strconv.")
		if before, _, ofTime := strings.Cut(text, ": time: "); ofTime {
			text = before + ": " + notATime
		}
		return usage(text, "See %s --help.", cmd.CommandPath())
	})
	root.PersistentFlags().String("config", "", "config `file`, YAML or JSON (default: ~/.config/keyledger/config.json)")
	root.PersistentFlags().BoolP("help", "h", false, "show this help")
	root.Flags().Bool("version", false, "print the version")
	root.AddGroup(
		&cobra.Group{ID: groupStart, Title: "Start"},
		&cobra.Group{ID: groupKeys, Title: "Manage"},
		&cobra.Group{ID: groupRead, Title: "Ask and watch"},
		&cobra.Group{ID: groupOwn, Title: "This program"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(groupStart, a.quickstartCommand(), a.serveCommand(), a.sidecarCommand(), a.initCommand(), a.ownerCommand(), a.natsAuthCommand(), a.kekCommand())
	add(groupKeys, a.keysCommand(), a.orgsCommand(), a.workspacesCommand(), a.permissionsCommand(), a.profilesCommand(),
		a.providerKeysCommand())
	add(groupRead, a.verifyCommand(), a.whoamiCommand(), a.verifiersCommand(), a.auditCommand(), a.eventsCommand(), a.healthCommand())
	add(groupOwn, a.contextCommand(), a.completionCommand(), a.versionCommand())
	root.SetHelpCommand(a.helpCommand())
	root.SetUsageFunc(func(cmd *cobra.Command) error { return writeUsage(cmd.OutOrStdout(), cmd) })
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) {
		fmt.Fprintf(cmd.OutOrStdout(), "%s\n\n%s", prose(cmd), cmd.UsageString())
	})
	root.SetVersionTemplate("keyledger {{.Version}}\n")
	return root
}

// group makes a command that only holds others, for its arguments: none, or a
// mistyped name.
func (a *app) group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if holdsSecret(args[0]) {
		return errSecretArgument
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		// Letters change places more often than they are lost.
		likely := slices.MinFunc(near, func(x, y string) int { return cmp.Compare(apart(x, args[0]), apart(y, args[0])) })
		return usage(fmt.Sprintf("%s has no command %q", cmd.CommandPath(), args[0]), "Did you mean %s %s?", cmd.CommandPath(), likely)
	}
	return usage(fmt.Sprintf("%s has no command %q", cmd.CommandPath(), args[0]), "See %s --help.", cmd.CommandPath())
}

// apart is by how much two names differ in length.
func apart(x, y string) int { return max(len(x)-len(y), len(y)-len(x)) }

// under returns a command that holds others.
func (a *app) under(use, short, long string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Long: long, Args: a.group, RunE: help}
	c.SuggestionsMinimumDistance = 2
	c.AddCommand(commands...)
	return c
}

func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// takes checks the arguments of a command against their names. One in brackets
// may be left out.
func takes(names ...string) cobra.PositionalArgs {
	least := 0
	for _, n := range names {
		if !strings.HasPrefix(n, "[") {
			least++
		}
	}
	return func(cmd *cobra.Command, args []string) error {
		for _, arg := range args {
			if holdsSecret(arg) {
				return errSecretArgument
			}
		}
		hint := "Usage: " + cmd.UseLine()
		if f := cmd.Flags().Lookup("wait"); f != nil && f.Changed && f.NoOptDefVal != "" {
			hint = "--wait takes its time behind an equals sign, such as --wait=10s."
		}
		switch {
		case len(args) < least:
			return usage(fmt.Sprintf("%s needs %s", cmd.CommandPath(), strings.Join(names[len(args):least], " and ")), "%s", hint)
		case len(args) > len(names) && len(names) == 0:
			return usage(cmd.CommandPath()+" takes no arguments", "%s", hint)
		case len(args) > len(names):
			return usage(fmt.Sprintf("%s takes %s and no more", cmd.CommandPath(), strings.Join(names, " and ")), "%s", hint)
		default:
			return nil
		}
	}
}
