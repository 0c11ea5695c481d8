package cli

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/providerkey"
	"github.com/keyledger/keyledger/events"
)

func (a *app) providerKeysTestCommand() *cobra.Command {
	var (
		p        providerSecret
		provider string
	)
	c := &cobra.Command{
		Use: "test [PROVIDER]", Short: "Ask the provider whether a key works", Args: takesProvider("[PROVIDER]"),
		Long: `Send one small request to the provider, and say what came of it. With a PROVIDER it
is about the key that is saved, and the result is kept; with --provider about one
that is read from standard input or a file, and saved nowhere.

The exit code is 0 when the key works and 3 when it does not.`,
		Example: `  keyledger provider-keys test --provider openai < pasted.key
  keyledger provider-keys test openai`,
		ValidArgs: idTexts(events.Providers()),
	}
	p.readFlags(c)
	c.Flags().StringVar(&provider, "provider", "", "`id` of the provider that a key is tested with that is not saved")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		flags := cmd.Flags()
		switch saved := len(args) == 1; {
		case saved && (provider != "" || flags.Changed("secret-file") || flags.Changed("base-url") || p.force):
			return usage("PROVIDER tests the key that is saved; --provider, --secret-file, --base-url and --force are of one that is not", "")
		case !saved && provider == "":
			return usage("which key?", "keyledger provider-keys test PROVIDER tests the one that is saved, --provider PROVIDER one from standard input.")
		case saved:
			return a.testSaved(cmd, args[0])
		}
		id, err := parseProvider(provider)
		if err != nil {
			return err
		}
		secret, err := a.readProviderSecret(p.file)
		if err != nil {
			return err
		}
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		t, err := s.TryProviderKey(cmd.Context(), org, wire.TestProviderKey{
			Provider: string(id), Secret: wire.ProviderSecret(secret.Reveal()), BaseURL: p.baseURL, Force: p.force,
		})
		if err != nil {
			return err
		}
		return a.verdictOf(t)
	}
	return c
}

func (a *app) testSaved(cmd *cobra.Command, provider string) error {
	s, org, err := a.openOrg(cmd)
	if err != nil {
		return err
	}
	t, err := s.TestProviderKey(cmd.Context(), org, provider)
	if err != nil {
		return err
	}
	return a.verdictOf(t)
}

// verdictOf prints what a test came to, and makes it the exit code.
func (a *app) verdictOf(t wire.ProviderTest) error {
	if err := a.tested(t, ""); err != nil {
		return err
	}
	if !t.Works {
		return errNo
	}
	return nil
}

// tested prints what a test came to.
func (a *app) tested(t wire.ProviderTest, saved string) error {
	again := ""
	if t.RetryAfter > 0 {
		again = "in " + plural(t.RetryAfter, "second") + ", says the provider"
	}
	return a.out.record(t, t.Provider, []field{
		{"provider", t.Provider},
		{"result", t.Result},
		{"because", becauseText(t)},
		{"models", missingText(t.MissingModels)},
		{"means", t.Message},
		{"answered", statusText(t.Status)},
		{"again", again},
		{"tested", at(t.TestedAt)},
		{"key", saved},
	})
}

// becauseText says what is behind a result: what is wrong with a key that was not
// sent, or what the answer of the provider tells.
func becauseText(t wire.ProviderTest) string {
	if t.LooksLike != "" {
		return t.Problem + ", it looks like one of " + t.LooksLike
	}
	return cmp.Or(t.Problem, t.Reason)
}

func missingText(models []string) string {
	if len(models) == 0 {
		return ""
	}
	return "not reached: " + strings.Join(models, ", ")
}

func statusText(status int) string {
	if status == 0 {
		return ""
	}
	return "HTTP status " + strconv.Itoa(status)
}

func versionText(version uint64) string {
	if version == 0 {
		return ""
	}
	return strconv.FormatUint(version, 10)
}

// lastTestFields show the last test of a saved key.
func lastTestFields(t *wire.ProviderLastTest, now time.Time) []field {
	if t == nil {
		return []field{{"last test", "never"}}
	}
	return []field{
		{"last test", t.Result + ", " + at(t.At) + ", " + distance(t.At, now)},
		{"models", missingText(t.MissingModels)},
		{"answered", statusText(t.Status)},
	}
}

func (a *app) providerKeysResolveCommand() *cobra.Command {
	var alone bool
	c := &cobra.Command{
		Use: "resolve PROVIDER", Short: "Ask whose key to use: the customer's, or the built-in one", Args: takesProvider("PROVIDER"),
		Long: `Answer the customer's key for a provider, or built_in: then use your own. It takes a
management key of role resolver or owner, and every resolve is on record.

The secret itself is printed by --secret-only and in -o json, and nowhere else; with
--secret-only nothing is printed for built_in. The exit code is 0 for both.`,
		Example: `  keyledger provider-keys resolve openai
  keyledger provider-keys resolve openai --secret-only | my-worker`,
		ValidArgs: idTexts(events.Providers()),
	}
	c.Flags().BoolVar(&alone, "secret-only", false, "print the secret alone, and nothing for built_in")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if alone && cmd.Flags().Changed("output") {
			return usage("--secret-only and --output exclude each other", "")
		}
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		r, err := s.ResolveProviderKey(cmd.Context(), org, args[0])
		switch {
		case err != nil:
			return err
		case alone && r.Secret == "":
			fmt.Fprintf(a.env.Stderr, "Note: built_in, %s.\n", builtInText(r.Reason))
			return nil
		case alone:
			return a.out.say("%s", r.Secret.Reveal())
		}
		return a.out.record(r, r.Provider, resolvedFields(r, time.Now()))
	}
	return c
}

func resolvedFields(r wire.ResolvedProviderKey, now time.Time) []field {
	fields := []field{{"provider", r.Provider}, {"source", r.Source}}
	if r.Secret == "" {
		return append(fields, field{"because", builtInText(r.Reason)})
	}
	fields = append(fields,
		field{"key", "…" + providerkey.Conceal(r.Secret.Reveal()).LastFour() + " (--secret-only prints it)"},
		field{"version", versionText(r.Version)},
		field{"base url", r.BaseURL})
	return append(fields, lastTestFields(r.LastTest, now)...)
}

// builtInText says why the built-in allocation serves.
func builtInText(reason string) string {
	switch reason {
	case "not_connected":
		return "no key is connected"
	case "plan":
		return "the organization's plan does not include provider keys"
	default:
		return strings.ReplaceAll(reason, "_", " ")
	}
}

func (a *app) providerKeysResolvesCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "resolves PROVIDER", Short: "Show who resolved a provider key, each time", Args: takesProvider("PROVIDER"),
		Long: `Show every resolve of a provider key, the newest first: who asked, from where, and
what was answered, those that were refused included. Access records end, 400 days
after they were written unless the server is told otherwise.`,
		Annotations: map[string]string{showsRecords: ""}, ValidArgs: idTexts(events.Providers()),
	}
	page := pageFlags(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		list, err := collect(page, func(p client.Page) (wire.List[wire.ProviderKeyResolve], error) {
			return s.ProviderKeyResolves(cmd.Context(), org, args[0], p)
		})
		if err != nil {
			return err
		}
		if a.out.format == formatCSV {
			return a.out.csv(resolveRecords(list.Items))
		}
		return a.listed(list, list.NextCursor, resolvesGrid(list.Items))
	}
	return c
}

func resolvesGrid(list []wire.ProviderKeyResolve) grid {
	g := grid{
		head: []string{"TIME", "ANSWER", "VERSION", "BY", "FROM", "REQUEST"}, none: "Nobody has resolved it.",
		whole: map[string]bool{"TIME": true, "ANSWER": true}, folded: map[string]bool{"BY": true}, spare: []string{"REQUEST"},
	}
	for _, r := range list {
		result := r.Answer
		if r.Code != "" {
			result = "refused: " + r.Code
		}
		if r.Count > 1 {
			result += fmt.Sprintf(" (%d times within a minute)", r.Count)
		}
		g.add(r.RequestID, at(r.At), result, versionText(r.Version), whoDid(wire.Change{Actor: r.Actor, ActorName: r.ActorName}), r.Source, r.RequestID)
	}
	return g
}

// resolveRecords are resolves with all of their members.
func resolveRecords(list []wire.ProviderKeyResolve) (head []string, rows [][]string) {
	head = []string{
		"at", "provider", "actor", "actor_name", "role", "answer", "version", "code", "source", "source_kind", "server", "count", "request_id",
	}
	for _, r := range list {
		rows = append(rows, []string{
			r.At.UTC().Format(time.RFC3339Nano), r.Provider, r.Actor, r.ActorName, r.Role, r.Answer, versionText(r.Version), r.Code,
			r.Source, r.SourceKind, r.Server, strconv.FormatUint(r.Count, 10), r.RequestID,
		})
	}
	return head, rows
}
