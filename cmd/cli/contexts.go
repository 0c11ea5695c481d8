package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// entry is a context: a server, the key to it, and the organization that is
// usually meant. It never holds the key itself.
type entry struct {
	name    string
	URL     string `json:"url,omitempty"`
	KeyFile string `json:"key-file,omitempty"`
	KeyEnv  string `json:"key-env,omitempty"`
	Org     string `json:"org,omitempty"`
}

func (e entry) holdsKey() bool { return e.KeyFile != "" || e.KeyEnv != "" }

// keyText says where the key is.
func (e entry) keyText() string {
	if e.KeyEnv != "" {
		return "$" + e.KeyEnv
	}
	return e.KeyFile
}

// The members of the config file that hold contexts.
const (
	memberContexts = "contexts"
	memberCurrent  = "current-context"
)

// book is the contexts of a config file.
type book struct {
	current  string
	contexts map[string]entry
}

// read takes the contexts out of a config file.
func (b *book) read(path string, content layer) error {
	text, err := json.Marshal(struct {
		Contexts any `json:"contexts,omitempty"`
		Current  any `json:"current-context,omitempty"`
	}{content[memberContexts], content[memberCurrent]})
	var into struct {
		Contexts map[string]entry `json:"contexts"`
		Current  string           `json:"current-context"`
	}
	if err = errors.Join(err, json.Unmarshal(text, &into)); err != nil {
		return usage(fmt.Sprintf("the contexts of the config file %s cannot be read", path), "keyledger context set writes them.")
	}
	delete(content, memberContexts)
	delete(content, memberCurrent)
	b.current, b.contexts = into.Current, into.Contexts
	for name, e := range b.contexts {
		e.name = name
		b.contexts[name] = e
	}
	return nil
}

// save writes the contexts back, beside whatever else the file holds.
func (b book) save(path string) error {
	if path == "" {
		return errors.New("there is no folder for a config file: set HOME or name one with --config")
	}
	content := map[string]any{}
	text, err := os.ReadFile(path)
	if err == nil {
		if err := json.Unmarshal(text, &content); err != nil {
			return usage(fmt.Sprintf("the config file %s is not JSON; contexts are only written to one that is", path), "")
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	delete(content, memberContexts)
	delete(content, memberCurrent)
	if len(b.contexts) > 0 {
		content[memberContexts] = b.contexts
	}
	if b.current != "" {
		content[memberCurrent] = b.current
	}
	if text, err = json.MarshalIndent(content, "", "  "); err != nil {
		return err
	}
	return writeFile(path, text)
}

func (b book) names() []string { return slices.Sorted(maps.Keys(b.contexts)) }

// chosenContext returns the context that was named, else the current one.
func (a *app) chosenContext() (entry, level, error) {
	name, chosen := a.link.context, a.settings.levels["context"]
	if name == "" {
		name, chosen = a.settings.book.current, fromCurrentContext
	}
	if name == "" {
		return entry{}, fromNowhere, nil
	}
	e, ok := a.settings.book.contexts[name]
	if !ok {
		return entry{}, chosen, a.noContext(name)
	}
	return e, chosen, nil
}

func (a *app) noContext(name string) error {
	hint := "keyledger context set " + name + " --url URL makes it."
	if names := a.settings.book.names(); len(names) > 0 {
		hint = "There are: " + strings.Join(names, ", ") + "."
	}
	return usage(fmt.Sprintf("there is no context %q", name), "%s", hint)
}

func (a *app) contextCommand() *cobra.Command {
	c := a.under("context", "Remember servers, and where their keys are",
		`A context is a name for a server, the place of the key to it and the
organization that is usually meant. Contexts live in the config file; a key
never does.`,
		a.contextListCommand(), a.contextSetCommand(), a.contextUseCommand(), a.contextDeleteCommand())
	a.out.flags(c.PersistentFlags())
	return c
}

func (a *app) contextListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List contexts", Args: takes(),
		RunE: func(*cobra.Command, []string) error {
			b := a.settings.book
			type item struct {
				Name    string `json:"name"`
				Current bool   `json:"current"`
				entry
			}
			items := []item{}
			rows := grid{head: []string{"", "NAME", "URL", "KEY FROM", "ORG"}, none: "No contexts. keyledger context set NAME --url URL makes one."}
			for _, name := range b.names() {
				e, mark := b.contexts[name], ""
				if name == b.current {
					mark = "*"
				}
				items = append(items, item{Name: name, Current: mark != "", entry: e})
				rows.add(name, mark, name, e.URL, e.keyText(), e.Org)
			}
			return a.out.list(map[string]any{"items": items}, rows)
		},
	}
}

var contextName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

func (a *app) contextSetCommand() *cobra.Command {
	var (
		url, keyFile, keyEnv, org string
		keyStdin                  bool
	)
	c := &cobra.Command{
		Use: "set NAME", Short: "Make or change a context",
		Long: `Make or change a context. What is not named stays as it was; the first
context becomes the current one.`,
		Example: `  keyledger context set prod --url https://keys.example.com \
    --key-file ~/prod.key --org acme
  keyledger context set ci --url https://keys.example.com --key-env LEDGER_KEY
  pass show keyledger |
    keyledger context set home --url https://keys.example.com --key-stdin`,
		Args:        takes("NAME"),
		Annotations: map[string]string{explicit: ""},
		RunE: func(cmd *cobra.Command, args []string) error {
			name, b := args[0], a.settings.book
			if !contextName.MatchString(name) {
				return usage("the name of a context is made of a-z, 0-9 and -", "")
			}
			e, existed := b.contexts[name]
			given := func(flag string, to *string, value string) bool {
				if cmd.Flags().Changed(flag) {
					*to = value
				}
				return cmd.Flags().Changed(flag)
			}
			given("url", &e.URL, strings.TrimRight(url, "/"))
			given("org", &e.Org, org)
			if given("key-env", &e.KeyEnv, keyEnv) {
				e.KeyFile = ""
			}
			if given("key-file", &e.KeyFile, keyFile) {
				e.KeyEnv = ""
			}
			if e.URL == "" {
				return usage("a context needs the --url of its server", "")
			}
			if !serverURL(e.URL) {
				return usage(fmt.Sprintf("--url is no http or https URL of a server: %q", e.URL), "")
			}
			var err error
			if keyStdin {
				e.KeyEnv = ""
				e.KeyFile, err = a.keepKey(name)
			} else if e.KeyFile != "" {
				e.KeyFile, err = keyFilePath(e.KeyFile)
			}
			if err != nil {
				return err
			}
			if b.contexts == nil {
				b.contexts = map[string]entry{}
			}
			b.contexts[name] = e
			if len(b.contexts) == 1 {
				b.current = name
			}
			if err := b.save(a.settings.file); err != nil {
				return err
			}
			verb := "Made"
			if existed {
				verb = "Changed"
			}
			return a.out.done(map[string]any{"name": name, "current": b.current == name}, name,
				"%s context %s in %s.", verb, name, a.settings.file)
		},
	}
	f := c.Flags()
	f.StringVar(&url, "url", "", "`address` of the server, such as https://keys.example.com")
	f.StringVar(&keyFile, "key-file", "", "`file` that holds the key")
	f.StringVar(&keyEnv, "key-env", "", "`variable` of the environment that holds the key")
	f.BoolVar(&keyStdin, "key-stdin", false, "read the key from standard input and keep it in a file of its own, mode 0600")
	f.StringVar(&org, "org", "", "organization `id` to use when none is named")
	c.MarkFlagsMutuallyExclusive("key-file", "key-env", "key-stdin")
	return c
}

// keepKey stores the key that comes in on standard input.
func (a *app) keepKey(name string) (string, error) {
	key, err := a.keyFromStdin()
	if err != nil {
		return "", err
	}
	if a.settings.file == "" {
		return "", errors.New("there is no folder to keep a key in: set HOME or name a config file with --config")
	}
	path, err := filepath.Abs(filepath.Join(filepath.Dir(a.settings.file), "keys", name+".key"))
	if err != nil {
		return "", err
	}
	return path, writeFile(path, []byte(key.Reveal()))
}

// keyFilePath makes the path of a key file one that holds in every folder, and
// checks that there is a key.
func keyFilePath(path string) (string, error) {
	if _, err := readKeyFile(path); err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

func (a *app) contextUseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "use NAME", Short: "Make a context the current one", Args: takes("NAME"),
		ValidArgsFunction: a.completeContexts,
		RunE: func(_ *cobra.Command, args []string) error {
			b := a.settings.book
			if _, ok := b.contexts[args[0]]; !ok {
				return a.noContext(args[0])
			}
			b.current = args[0]
			if err := b.save(a.settings.file); err != nil {
				return err
			}
			return a.out.done(map[string]any{"name": args[0], "current": true}, args[0], "Using context %s from now on.", args[0])
		},
	}
}

func (a *app) contextDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Forget a context", Args: takes("NAME"),
		Long:              "Forget a context. A key that context set --key-stdin kept for it is deleted, any other key file stays.",
		ValidArgsFunction: a.completeContexts,
		RunE: func(_ *cobra.Command, args []string) error {
			name, b := args[0], a.settings.book
			e, ok := b.contexts[name]
			if !ok {
				return a.noContext(name)
			}
			delete(b.contexts, name)
			if b.current == name {
				b.current = ""
			}
			if err := b.save(a.settings.file); err != nil {
				return err
			}
			kept, err := filepath.Abs(filepath.Join(filepath.Dir(a.settings.file), "keys", name+".key"))
			if err != nil {
				return err
			}
			if e.KeyFile == kept {
				if err := os.Remove(kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
			return a.out.done(map[string]any{"name": name, "deleted": true}, name, "Forgot context %s.", name)
		},
	}
}

func (a *app) completeContexts(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || a.settle(cmd) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.settings.book.names(), cobra.ShellCompDirectiveNoFileComp
}
