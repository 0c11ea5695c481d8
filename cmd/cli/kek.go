package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/wrapping"
)

func (a *app) kekCommand() *cobra.Command {
	return a.under("kek", "Make and rotate the key that provider keys are kept with",
		`Make and rotate a key-encryption key: what the keys that encrypt customers' provider
keys are wrapped with. It lies in a file that every server is given by --kek. No
command shows key material.

To rotate it on servers that run, give each of them the file after every step, and
start it again with it, before the next step:

  keyledger kek add FILE            a new key opens, on every server
  keyledger kek promote FILE        it wraps, on every server
  keyledger provider-keys rewrap    nothing is wrapped with the old one any more
  keyledger kek drop FILE           the old one is gone, also for old backups`,
		a.kekNewCommand(), a.kekAddCommand(), a.kekPromoteCommand(), a.kekDropCommand(), a.kekShowCommand())
}

func (a *app) kekNewCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "new FILE", Short: "Make a key-encryption key", Args: takesKEKs("FILE"),
		Long: `Make a key-encryption key in a file that only its owner can read. What is there
already is left as it is.

Keep a copy where keys are kept, and not beside the backups of the broker: without
it they open no provider key, and with it they do.`,
		Example: `  keyledger kek new provider.kek`,
		RunE: func(_ *cobra.Command, args []string) error {
			keys, err := wrapping.NewKeyset()
			if err != nil {
				return err
			}
			text, err := keys.Marshal()
			if err != nil {
				return err
			}
			err = credentials.CreateFile(args[0], text)
			if errors.Is(err, fs.ErrExist) {
				return hinted(fmt.Errorf("%s is there already, and was not touched", args[0]), "kek add puts a further key in it.")
			}
			if err != nil {
				return err
			}
			return a.tellKEK(args[0], keys, keys.Keys()[0].ID, "A new key-encryption key is in %s. Give it to every server by --kek file:%s", args[0], args[0])
		},
	}
	a.out.flags(c.Flags())
	return c
}

func (a *app) kekAddCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "add FILE", Short: "Add a key that opens, and does not wrap yet", Args: takesKEKs("FILE"),
		Long: `Add a new key to a file. It opens and does not wrap yet: when every server has the
file, kek promote has it wrap.`,
		Example: `  keyledger kek add provider.kek`,
		RunE: func(_ *cobra.Command, args []string) error {
			var id uint32
			keys, err := changeKEK(args[0], func(keys *wrapping.Keyset) (next *wrapping.Keyset, err error) {
				next, id, err = keys.Add()
				return next, err
			})
			if err != nil {
				return err
			}
			return a.tellKEK(args[0], keys, id, "Key %d is in %s and opens. When every server has the file, and was restarted: keyledger kek promote %s", id, args[0], args[0])
		},
	}
	a.out.flags(c.Flags())
	return c
}

func (a *app) kekPromoteCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "promote FILE [KEY]", Short: "Have another key wrap", Args: takesKEKs("FILE", "[KEY]"),
		Long: `Have another key of a file wrap from now on: the one that is named, or the one that
was added last. Every server must know it by then, or it cannot open what the others
wrap; and all must have the file before keyledger provider-keys rewrap.`,
		Example: `  keyledger kek promote provider.kek`,
		RunE: func(_ *cobra.Command, args []string) error {
			var id uint32
			keys, err := changeKEK(args[0], func(keys *wrapping.Keyset) (next *wrapping.Keyset, err error) {
				if len(args) == 1 {
					all := keys.Keys()
					id = all[len(all)-1].ID
				} else if id, err = kekID(keys, args[1]); err != nil {
					return nil, err
				}
				for _, key := range keys.Keys() {
					if key.ID == id && key.Wraps {
						return nil, usage(fmt.Sprintf("key %d of %s wraps already", id, args[0]), "kek add adds another.")
					}
				}
				return keys.Promote(id)
			})
			if err != nil {
				return err
			}
			return a.tellKEK(args[0], keys, id, "Key %d of %s wraps. When every server has the file, and was restarted: keyledger provider-keys rewrap", id, args[0])
		},
	}
	a.out.flags(c.Flags())
	return c
}

func (a *app) kekDropCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "drop FILE [KEY]", Short: "Remove a key for good", Args: takesKEKs("FILE", "[KEY]"),
		Long: `Remove a key from a file for good, the only other one unless it is named. What it has wrapped and was not wrapped anew since
is lost, in the ledger as in its backups: let keyledger provider-keys rewrap say first
that nothing is left. The key that wraps cannot be removed.`,
		Example: `  keyledger kek drop provider.kek 2618437022 --yes`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var id uint32
			keys, err := changeKEK(args[0], func(keys *wrapping.Keyset) (*wrapping.Keyset, error) {
				var err error
				if id, err = droppedKEK(keys, args[1:]); err != nil {
					return nil, err
				}
				for _, key := range keys.Keys() {
					if key.ID == id && key.Wraps {
						return nil, usage(fmt.Sprintf("key %d of %s is the one that wraps", id, args[0]), "kek promote has another wrap first.")
					}
				}
				if err := a.confirm(cmd, fmt.Sprintf("Remove key %d from %s? What is still wrapped with it is lost for good.", id, args[0])); err != nil {
					return nil, err
				}
				return keys.Drop(id)
			})
			if err != nil {
				return err
			}
			return a.tellKEK(args[0], keys, id, "Key %d is no more in %s. Remove its copies too.", id, args[0])
		},
	}
	a.yesFlag(c)
	a.out.flags(c.Flags())
	return c
}

func (a *app) kekShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "show FILE", Short: "Show which keys a file holds, and never the keys", Args: takesKEKs("FILE"),
		Example: `  keyledger kek show provider.kek`,
		RunE: func(_ *cobra.Command, args []string) error {
			keys, err := readKEK(args[0])
			if err != nil {
				return err
			}
			g := grid{head: []string{"KEY", "TYPE", "USE"}, whole: map[string]bool{"KEY": true}}
			for _, key := range keys.Keys() {
				g.add(kekText(key.ID), kekText(key.ID), key.Type, kekUse(key))
			}
			return a.out.list(kekDocument(args[0], keys), g)
		},
	}
	a.out.flags(c.Flags())
	return c
}

// takesKEKs is takes, for files with keys: the text of one, in the place of its name, is
// not repeated.
func takesKEKs(names ...string) cobra.PositionalArgs {
	count := takes(names...)
	return func(cmd *cobra.Command, args []string) error {
		if slices.ContainsFunc(args, func(arg string) bool { return strings.ContainsAny(arg, "{\"") }) {
			return errSecretArgument
		}
		return count(cmd, args)
	}
}

// tellKEK tells what became of a file of keys.
func (a *app) tellKEK(path string, keys *wrapping.Keyset, id uint32, format string, args ...any) error {
	return a.out.done(kekDocument(path, keys), kekText(id), format, args...)
}

// kekDocument is what is told of a file of keys.
func kekDocument(path string, keys *wrapping.Keyset) map[string]any {
	list := []map[string]any{}
	for _, key := range keys.Keys() {
		list = append(list, map[string]any{"key": kekText(key.ID), "type": key.Type, "use": kekUse(key)})
	}
	return map[string]any{"file": path, "keys": list}
}

func kekUse(key wrapping.KeyInfo) string {
	switch {
	case key.Wraps:
		return "wraps"
	case key.Enabled:
		return "opens"
	default:
		return "disabled"
	}
}

func kekText(id uint32) string { return strconv.FormatUint(uint64(id), 10) }

// kekID reads which of the keys is meant.
func kekID(keys *wrapping.Keyset, text string) (uint32, error) {
	for _, key := range keys.Keys() {
		if kekText(key.ID) == text {
			return key.ID, nil
		}
	}
	return 0, usage(fmt.Sprintf("the file has no key %q", text), "kek show lists its keys.")
}

// droppedKEK is the key that is named, or the only one that does not wrap.
func droppedKEK(keys *wrapping.Keyset, args []string) (uint32, error) {
	if len(args) == 1 {
		return kekID(keys, args[0])
	}
	var others []uint32
	for _, key := range keys.Keys() {
		if !key.Wraps {
			others = append(others, key.ID)
		}
	}
	if len(others) != 1 {
		return 0, usage(fmt.Sprintf("the file has %s beside the one that wraps", plural(len(others), "key")), "kek show lists its keys.")
	}
	return others[0], nil
}

func readKEK(path string) (*wrapping.Keyset, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	keys, err := wrapping.ParseKeyset(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, path)
	}
	return keys, nil
}

// changeKEK puts changed keys in a file's place, whole or not at all. Of two who change
// it at once one is refused: else a key that was just told of would be gone.
func changeKEK(path string, change func(*wrapping.Keyset) (*wrapping.Keyset, error)) (*wrapping.Keyset, error) {
	release, err := credentials.Claim(path)
	if err != nil {
		return nil, err
	}
	defer release()
	keys, err := readKEK(path)
	if err != nil {
		return nil, err
	}
	next, err := change(keys)
	if err != nil {
		return nil, err
	}
	text, err := next.Marshal()
	if err != nil {
		return nil, err
	}
	return next, credentials.WriteFile(path, text)
}
