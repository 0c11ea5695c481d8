package cli

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
)

func (a *app) providerKeysCommand() *cobra.Command {
	c := a.under("provider-keys", "Provider keys: customers' own keys for AI providers",
		`A provider key is an organization's own key for an AI provider (bring your own
key). The ledger keeps it encrypted, tests it against the provider, and hands it to
the platform when it is resolved; where there is none, resolve answers built_in.

There is one for each provider, and the provider's id is its id. Secrets are read
from standard input or a file, never from the command line.`,
		a.providersCommand(), a.providerKeysAddCommand(), a.providerKeysListCommand(), a.providerKeysShowCommand(),
		a.providerKeysRenameCommand(), a.providerKeysReplaceCommand(), a.providerKeysTestCommand(), a.providerKeysRemoveCommand(),
		a.providerKeysResolveCommand(), a.providerKeysResolvesCommand(), a.providerKeysRewrapCommand())
	c.Aliases = []string{"provider-key", "byok"}
	mistyped := c.Args
	c.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 && len(cmd.SuggestionsFor(args[0])) == 0 && mayBeSecret(args[0]) {
			return errProviderSecretArgument
		}
		return mistyped(cmd, args)
	}
	a.linked(c)
	a.about(c)
	return c
}

// errProviderSecretArgument says that a provider's key stands on the command line,
// without repeating it.
var errProviderSecretArgument = &fault{
	err:  errSecretArgument.err,
	hint: "A provider's key is read from standard input, or from --secret-file. Consider having the provider replace this one.",
	code: exitUsage,
}

// mayBeSecret tells whether an argument that is no provider's id is long enough to
// be a provider's key. Such a one is not repeated.
func mayBeSecret(arg string) bool {
	_, err := events.ParseProviderID(arg)
	return err != nil && len(arg) >= events.MinProviderSecretLength
}

// takesProvider checks the arguments of a command of which the first is a provider.
func takesProvider(names ...string) cobra.PositionalArgs {
	count := takes(names...)
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			if _, err := parseProvider(args[0]); err != nil {
				return err
			}
		}
		if len(args) > len(names) && mayBeSecret(args[len(names)]) {
			return errProviderSecretArgument
		}
		return count(cmd, args)
	}
}

// parseProvider reads a provider's id. What is none is not repeated: it may be a key
// in the wrong place.
func parseProvider(text string) (events.ProviderID, error) {
	id, err := events.ParseProviderID(text)
	if err == nil {
		return id, nil
	}
	known := idTexts(events.Providers())
	if near, ok := permission.Nearest(strings.ToLower(text), known); ok {
		return "", usage("there is no such provider", "Did you mean %s?", near)
	}
	if mayBeSecret(text) {
		return "", errProviderSecretArgument
	}
	return "", usage("there is no such provider", "Providers are %s.", strings.Join(known, ", "))
}

func idTexts(ids []events.ProviderID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = string(id)
	}
	return out
}

func (a *app) providersCommand() *cobra.Command {
	return &cobra.Command{
		Use: "providers", Short: "List the providers there are keys for", Args: takes(),
		Long: `List the providers: what their keys begin with, which need an address of their own
(--base-url), and which models this platform needs of each, as its server is told by
--provider-models.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.open(cmd)
			if err != nil {
				return err
			}
			list, err := s.Providers(cmd.Context())
			if err != nil {
				return err
			}
			g := grid{
				head: []string{"ID", "NAME", "KEYS BEGIN WITH", "BASE URL", "MODELS NEEDED", "MADE AT"}, none: "There are no providers.",
				whole: map[string]bool{"ID": true}, folded: map[string]bool{"MODELS NEEDED": true}, spare: []string{"MADE AT", "NAME"},
			}
			for _, p := range list.Items {
				needs := "not needed"
				if p.NeedsBaseURL {
					needs = "needed"
				}
				g.add(p.ID, p.ID, p.Name, strings.Join(p.KeyPrefixes, ", "), needs, strings.Join(p.Models, ", "), p.KeysURL)
			}
			return a.listed(list, list.NextCursor, g)
		},
	}
}

func (a *app) providerKeysListCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the providers that are connected", Args: takes(),
		Long: `List the connected providers. STATE is connected when the last test of the key that
is saved now found it working, whether or not the provider could be asked since;
untested before the first; failing after one that did not; and suspended while the
organization's plan does not include provider keys: then resolve answers built_in,
and the key waits.`,
		Example: `  keyledger provider-keys list
  keyledger provider-keys list -o json`,
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		list, err := s.ProviderKeys(cmd.Context(), org)
		if err != nil {
			return err
		}
		return a.listed(list, list.NextCursor, providerKeyGrid(list.Items, time.Now()))
	}
	return c
}

func providerKeyGrid(keys []wire.ProviderKey, now time.Time) grid {
	g := grid{
		head: []string{"PROVIDER", "NAME", "KEY", "VERSION", "STATE", "LAST TEST", "LAST RESOLVED", "ADDED"},
		none: "No provider is connected. keyledger provider-keys add PROVIDER connects one.",
		// A key that is cut short loses the four characters it is known by.
		whole: map[string]bool{"PROVIDER": true, "KEY": true, "STATE": true, "ADDED": true},
		spare: []string{"ADDED", "VERSION", "NAME"},
	}
	for _, k := range keys {
		tested := "never"
		if k.LastTest != nil {
			tested = k.LastTest.Result + ", " + distance(k.LastTest.At, now)
		}
		resolved := "never"
		if k.LastResolvedAt != nil {
			resolved = distance(*k.LastResolvedAt, now)
		}
		g.add(k.Provider, k.Provider, k.Name, k.Masked, versionText(k.Version), k.State, tested, resolved, day(k.CreatedAt))
	}
	return g
}

func (a *app) providerKeysShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show PROVIDER", Aliases: []string{"get"}, Short: "Show a provider key", Args: takesProvider("PROVIDER"),
		ValidArgs: idTexts(events.Providers()),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, org, err := a.openOrg(cmd)
			if err != nil {
				return err
			}
			var got answer
			k, err := s.ProviderKey(cmd.Context(), org, args[0], got.meta())
			if err != nil {
				return err
			}
			return a.out.record(k, k.Provider, providerKeyFields(k, time.Now(), got.revision()))
		},
	}
}

// providerKeyFields shows a provider key in full.
func providerKeyFields(k wire.ProviderKey, now time.Time, revision string) []field {
	replaced := ""
	if k.ReplacedAt != nil {
		replaced = at(*k.ReplacedAt)
	}
	fields := []field{
		{"provider", k.Provider},
		{"name", k.Name},
		{"key", k.Masked},
		{"version", versionText(k.Version)},
		{"state", k.State},
		{"base url", k.BaseURL},
		{"added", at(k.CreatedAt) + " by " + actorText(k.CreatedBy)},
		{"replaced", replaced},
		{"last resolved", usedText(k.LastResolvedAt, now)},
	}
	return append(append(fields, lastTestFields(k.LastTest, now)...), field{"revision", revision})
}
