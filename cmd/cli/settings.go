package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/knadh/koanf/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/keyledger/keyledger/domain/permission"
)

// level says where a setting came from. The higher one wins.
type level int

const (
	fromNowhere level = iota
	fromFile
	fromCurrentContext
	fromEnvironment
	fromFlag
)

// settings are where the flags of the running command got their values.
type settings struct {
	levels map[string]level
	// file is the config file that was read, or would be; "" when this user has
	// no folder for one.
	file string
	book book
}

// explicit marks commands whose own flags are only themselves: what shall be
// remembered of a server is not what happens to be set for the next command.
const explicit = "keyledger/explicit"

// emptyFlag marks flags that mean something by being empty, and not by default.
const emptyFlag = "keyledger/empty"

// ofOneCommand is the flag that names the key a command is about. Its variable holds
// the key that a command is run with, which is a secret and nothing to filter by, and
// so would be a member of the config file that is called so.
const ofOneCommand = "key"

// envName is the variable of the environment that stands for a flag.
func envName(flag string) string {
	return "KEYLEDGER_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// layer is one source of settings, as koanf reads them.
type layer map[string]any

func (l layer) Read() (map[string]any, error) { return l, nil }

func (l layer) ReadBytes() ([]byte, error) { return nil, errors.ErrUnsupported }

// settle gives every flag that is not on the command line the value that the
// environment or the config file has for it.
func (a *app) settle(cmd *cobra.Command) error {
	a.settings = settings{levels: map[string]level{}}
	file, err := a.readConfig(cmd)
	if err != nil {
		return err
	}
	environment := layer{}
	_, flagsOnly := cmd.Annotations[explicit]
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		switch {
		case f.Name == "help" || f.Name == "version":
		case f.Changed:
			a.settings.levels[f.Name] = fromFlag
		case f.Name == ofOneCommand:
		case flagsOnly && f.Annotations[generalFlag] == nil && cmd.LocalFlags().Lookup(f.Name) != nil:
		case a.inEnvironment(f):
			a.settings.levels[f.Name] = fromEnvironment
			environment[f.Name] = a.env.getenv(envName(f.Name))
		case file[f.Name] != nil:
			a.settings.levels[f.Name] = fromFile
		}
	})
	merged := koanf.New(".")
	for _, l := range []layer{file, environment} {
		if err := merged.Load(l, nil); err != nil {
			return fmt.Errorf("read the settings: %w", err)
		}
	}
	for name, from := range a.settings.levels {
		if from == fromFlag || name == "config" {
			continue
		}
		if err := assign(cmd.Flags().Lookup(name), merged.Get(name)); err != nil {
			where := envName(name)
			if from == fromFile {
				where = fmt.Sprintf("%q in %s", name, a.settings.file)
			}
			return usage(fmt.Sprintf("%s: %v", where, err), "")
		}
	}
	return a.out.choose(cmd)
}

// inEnvironment tells whether the environment speaks of a flag. An empty variable
// says nothing, as everywhere, unless nothing is what the flag can be told.
func (a *app) inEnvironment(f *pflag.Flag) bool {
	text, set := a.env.LookupEnv(envName(f.Name))
	_, empty := f.Annotations[emptyFlag]
	return text != "" || set && empty
}

// assign sets a flag as if it stood on the command line, a list by repeating it.
func assign(f *pflag.Flag, value any) error {
	values, isList := value.([]any)
	if !isList {
		values = []any{value}
	}
	for _, v := range values {
		switch v.(type) {
		case string, bool, int, int64, uint64, float64:
		default:
			return errors.New("must be text, a number, true or false, or a list of these")
		}
		if err := f.Value.Set(fmt.Sprint(v)); err != nil {
			return plainFault(f, v, err)
		}
		f.Changed = true
	}
	return nil
}

// notATime says what is wrong with a time that cannot be read.
const notATime = "no time such as 30s, 10m or 24h"

// plainFault says what a flag takes, without what the parser of numbers adds.
func plainFault(f *pflag.Flag, value any, err error) error {
	switch f.Value.Type() {
	case "int":
		return fmt.Errorf("%q is no number", fmt.Sprint(value))
	case "bool":
		return fmt.Errorf("%q is neither true nor false", fmt.Sprint(value))
	case "duration":
		return fmt.Errorf("%q is %s", fmt.Sprint(value), notATime)
	default:
		return err
	}
}

// readConfig reads the config file: the one that was named, else the user's own
// where there is one.
func (a *app) readConfig(cmd *cobra.Command) (layer, error) {
	path, named := a.env.getenv(envName("config")), true
	if f := cmd.Flags().Lookup("config"); f.Changed {
		path = f.Value.String()
	}
	if path == "" {
		path, named = a.configFile(), false
	}
	a.settings.file = path
	if path == "" {
		return layer{}, nil
	}
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !named:
		return layer{}, nil
	case err != nil && named:
		return nil, usage(fmt.Sprintf("the config file cannot be read: %v", err), "")
	case err != nil:
		return nil, fmt.Errorf("the config file cannot be read: %w", err)
	}
	content := layer{}
	// JSON is YAML as well.
	if err := yaml.Unmarshal(text, &content); err != nil {
		return nil, usage(fmt.Sprintf("the config file %s is neither YAML nor JSON", path), "")
	}
	if err := a.settings.book.read(path, content); err != nil {
		return nil, err
	}
	return content, a.checkMembers(path, content)
}

// checkMembers refuses members that are no flag of any command: a misspelled
// setting must not be one that quietly does nothing.
func (a *app) checkMembers(path string, content layer) error {
	known := slices.DeleteFunc(flagNames(a.root, nil), func(name string) bool { return name == ofOneCommand })
	for name := range content {
		if slices.Contains(known, name) && name != "config" && name != "help" {
			continue
		}
		hint := "Its members are called like the flags, without the dashes."
		if near, ok := permission.Nearest(name, known); ok {
			hint = fmt.Sprintf("Did you mean %q?", near)
		}
		return usage(fmt.Sprintf("the config file %s has an unknown member %q", path, name), "%s", hint)
	}
	return nil
}

func flagNames(cmd *cobra.Command, names []string) []string {
	for _, set := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
		set.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	}
	for _, c := range cmd.Commands() {
		names = flagNames(c, names)
	}
	return names
}

// configFile is where this user's config file lies, "" when nobody knows.
func (a *app) configFile() string {
	dir := a.env.getenv("XDG_CONFIG_HOME")
	if dir == "" && runtime.GOOS == "windows" {
		dir = a.env.getenv("AppData")
	}
	if home := a.env.getenv("HOME"); dir == "" && home != "" {
		dir = filepath.Join(home, ".config")
	}
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, "keyledger", "config.json")
}

// writeFile puts a whole file in its place, readable by its owner alone.
func writeFile(path string, content []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// CreateTemp makes files of mode 0600.
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(bytes.TrimSpace(content), '\n'))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
