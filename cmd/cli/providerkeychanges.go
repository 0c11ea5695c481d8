package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/providerkey"
	"github.com/keyledger/keyledger/events"
)

// providerSecret are the flags of a command that takes a provider's key.
type providerSecret struct {
	file, baseURL string
	force, test   bool
}

func (p *providerSecret) flags(c *cobra.Command) {
	p.readFlags(c)
	f := c.Flags()
	f.BoolVar(&p.test, "test", false, "ask the provider first, and save it only when it works")
}

// readFlags are those of a key that is not saved.
func (p *providerSecret) readFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&p.file, "secret-file", "", "`file` with the provider's key (default: standard input)")
	f.BoolVar(&p.force, "force", false, "go on although it does not look like one of this provider's keys")
	f.StringVar(&p.baseURL, "base-url", "", "https `address` of the provider, where it has none of its own")
}

// read reads a provider's key, and takes nothing off it but the end of its line: what
// else is wrong with it the server tells.
func (a *app) readProviderSecret(file string) (providerkey.Secret, error) {
	var none providerkey.Secret
	in, from := a.env.Stdin, "standard input"
	if file != "" && file != "-" {
		f, err := os.Open(file)
		if err != nil {
			// A path that is none may be the key itself: it is not repeated.
			if at := new(fs.PathError); errors.As(err, &at) {
				err = at.Err
			}
			return none, fmt.Errorf("the secret file cannot be read: %w", err)
		}
		defer f.Close()
		in, from = f, "the file "+file
	} else if fd, terminal := terminalOf(a.env.Stdin); terminal {
		fmt.Fprint(a.env.Stderr, "The provider's key (it is not shown): ")
		typed, err := term.ReadPassword(fd)
		fmt.Fprintln(a.env.Stderr)
		if err != nil {
			return none, err
		}
		in, from = strings.NewReader(string(typed)), "what was typed"
	}
	// Two more than a key's longest are the end of its line.
	text, err := io.ReadAll(io.LimitReader(in, events.MaxProviderSecretLength+3))
	if err != nil {
		return none, fmt.Errorf("%s cannot be read: %w", from, err)
	}
	secret := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	switch {
	case strings.TrimSpace(secret) == "":
		return none, usage(from+" is empty", "The provider's key is read from standard input, or from --secret-file.")
	case len(secret) > events.MaxProviderSecretLength:
		return none, usage(from+" is longer than any provider's key", "")
	default:
		return providerkey.Conceal(secret), nil
	}
}

func (a *app) providerKeysAddCommand() *cobra.Command {
	var (
		p    providerSecret
		name string
	)
	c := &cobra.Command{
		Use: "add PROVIDER", Short: "Connect a provider: save the organization's key for it", Args: takesProvider("PROVIDER"),
		Long: `Save a key for a provider. It is read from standard input or a file, and asked for
without being shown at a terminal; afterwards its last four characters are shown, to
owners and admins alone. A provider that is connected keeps its key: replace puts
another one in its place.

What cannot be a key of this provider is refused, and said why. With --test the
provider is asked first; the exit code is 3 and nothing is saved unless it works.`,
		Example: `  keyledger provider-keys add openai --name production --test < openai.key
  keyledger provider-keys add azure-openai --secret-file azure.key \
    --base-url https://acme.openai.azure.com`,
		ValidArgs: idTexts(events.Providers()),
	}
	p.flags(c)
	c.Flags().StringVar(&name, "name", "", "display `name`")
	w := a.wishFlags(c, false)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		secret, s, org, err := a.secretToSave(cmd, args[0], p)
		if err != nil {
			return err
		}
		var got answer
		k, err := s.AddProviderKey(cmd.Context(), org, wire.CreateProviderKey{
			Provider: args[0], Secret: wire.ProviderSecret(secret.Reveal()), Name: name, BaseURL: p.baseURL, Force: p.force, Reason: w.reason,
		}, a.options(w, &got)...)
		return a.changed(err, got, k, k.Provider, func() error {
			if err := a.out.say("Connected %s for organization %s.\n", k.Provider, org); err != nil {
				return err
			}
			return a.out.fields("  ", providerKeyFields(k, time.Now(), got.revision()))
		})
	}
	return c
}

// secretToSave reads a key that is to be saved, and has it tested where that was asked
// for.
func (a *app) secretToSave(cmd *cobra.Command, provider string, p providerSecret) (secret providerkey.Secret, s *session, org string, err error) {
	if secret, err = a.readProviderSecret(p.file); err != nil {
		return secret, nil, "", err
	}
	if s, org, err = a.openOrg(cmd); err != nil {
		return secret, nil, "", err
	}
	return secret, s, org, a.firstTested(cmd, s, org, provider, secret, p)
}

// firstTested asks the provider about a key that is to be saved, where that was asked
// for. One that does not work ends the command, with what the test came to.
func (a *app) firstTested(cmd *cobra.Command, s *session, org, provider string, secret providerkey.Secret, p providerSecret) error {
	if !p.test {
		return nil
	}
	t, err := s.TryProviderKey(cmd.Context(), org, wire.TestProviderKey{
		Provider: provider, Secret: wire.ProviderSecret(secret.Reveal()), BaseURL: p.baseURL, Force: p.force,
	})
	if err != nil {
		return err
	}
	if t.Works {
		return nil
	}
	if err := a.tested(t, "not saved"); err != nil {
		return err
	}
	return errNo
}

func (a *app) providerKeysRenameCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "rename PROVIDER NAME", Short: "Give a provider key another name", Args: takesProvider("PROVIDER", "NAME"),
		Long:      "Give a provider key another name, '' for none.",
		Example:   `  keyledger provider-keys rename openai "production, EU"`,
		ValidArgs: idTexts(events.Providers()),
	}
	w := a.wishFlags(c, true)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		patch := wire.UpdateProviderKey{Name: wire.Some(args[1]), Reason: w.reason}
		if args[1] == "" {
			patch.Name = wire.Null[string]()
		}
		return a.updateProviderKey(cmd, args[0], patch, w)
	}
	return c
}

// updateProviderKey changes a provider key and shows it as it is then.
func (a *app) updateProviderKey(cmd *cobra.Command, id string, patch wire.UpdateProviderKey, w *wish) error {
	s, org, err := a.openOrg(cmd)
	if err != nil {
		return err
	}
	return a.patchProviderKey(cmd, s, org, id, patch, w)
}

func (a *app) patchProviderKey(cmd *cobra.Command, s *session, org, id string, patch wire.UpdateProviderKey, w *wish) error {
	var got answer
	k, err := s.UpdateProviderKey(cmd.Context(), org, id, patch, a.options(w, &got)...)
	return a.changed(err, got, k, k.Provider, func() error {
		return a.out.fields("", providerKeyFields(k, time.Now(), got.revision()))
	})
}

func (a *app) providerKeysReplaceCommand() *cobra.Command {
	var p providerSecret
	c := &cobra.Command{
		Use: "replace PROVIDER", Short: "Put another key in the place of the one that is saved", Args: takesProvider("PROVIDER"),
		Long: `Replace the key of a provider. Every resolve answers the old key or the new one, and
none fails between them; once this is answered, all answer the new one, and the old
one can be opened by nobody any more, not from a backup of the ledger either.

Whoever resolved the old key before may still use it at the provider: revoke it
there when they have had the time to ask again.`,
		Example: `  keyledger provider-keys replace openai --test < new.key
  keyledger provider-keys replace azure-openai --secret-file new.key \
    --base-url https://acme-eu.openai.azure.com --reason "moved to the EU"`,
		ValidArgs: idTexts(events.Providers()),
	}
	p.flags(c)
	w := a.wishFlags(c, true)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		secret, s, org, err := a.secretToSave(cmd, args[0], p)
		if err != nil {
			return err
		}
		return a.patchProviderKey(cmd, s, org, args[0], wire.UpdateProviderKey{
			Secret: wire.ProviderSecret(secret.Reveal()), BaseURL: given(cmd.Flags(), "base-url", p.baseURL), Force: p.force, Reason: w.reason,
		}, w)
	}
	return c
}

func (a *app) providerKeysRemoveCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "remove PROVIDER", Aliases: []string{"delete", "rm"}, Short: "Disconnect a provider, and destroy its key", Args: takesProvider("PROVIDER"),
		Long: `Disconnect a provider. From the answer on resolve says built_in, and the key that was
saved is dead for good: in the ledger, in exports and in backups of both. It is still
a key at the provider; whoever made it there ends it there.`,
		ValidArgs: idTexts(events.Providers()),
	}
	a.yesFlag(c)
	w := a.wishFlags(c, true)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		if err := a.ask(cmd, w, "Disconnect "+args[0]+" from organization "+org+" and destroy its key, for ever?"); err != nil {
			return err
		}
		var got answer
		gone, err := s.RemoveProviderKey(cmd.Context(), org, args[0], a.endOptions(w, &got)...)
		return a.changed(err, got, gone, args[0], func() error {
			return a.out.say("Disconnected %s from organization %s. Its key is destroyed, and resolve answers built_in.", args[0], org)
		})
	}
	return c
}

func (a *app) providerKeysRewrapCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "rewrap", Short: "Wrap data keys with the key-encryption key that is the first now", Args: takes(),
		Long: `Wrap every data key that another key-encryption key has wrapped with the one that
wraps now. No event changes, and no provider key stops working meanwhile. Servers do
this by themselves every hour; here it is done at once, and known to be done, before
an old key-encryption key is dropped. It takes an owner or admin of the installation.`,
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.open(cmd)
		if err != nil {
			return err
		}
		done, err := s.RewrapProviderKeys(cmd.Context())
		if err != nil {
			return err
		}
		err = a.out.done(done, "", "%s wrapped anew, %d wrapped with it before.", plural(done.Rewrapped, "data key"), done.Current)
		if err != nil {
			return err
		}
		if done.Failed > 0 {
			return hinted(errors.New(plural(done.Failed, "data key")+" could not be wrapped anew"),
				"Keep the old key-encryption key until none is left. The server's log says why.")
		}
		return nil
	}
	return c
}
