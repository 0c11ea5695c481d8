package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/permission"
)

// maxDocument bounds a document that is read from a file or standard input: a
// catalog as long as it may be, with room.
const maxDocument = 1 << 20

// confirm asks before what cannot be undone. Without a terminal there is nobody
// to ask, and --yes must say it.
func (a *app) confirm(cmd *cobra.Command, question string) error {
	if yes, err := cmd.Flags().GetBool("yes"); err != nil || yes {
		return err
	}
	if _, ok := terminalOf(a.env.Stdin); !ok {
		return usage(cmd.CommandPath()+" cannot be undone, and there is no terminal to ask at", "Say --yes to go on without a question.")
	}
	fmt.Fprintf(a.env.Stderr, "%s [y/N] ", question)
	answer, err := bufio.NewReader(a.env.Stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	default:
		return errors.New("nothing was changed")
	}
}

func (a *app) yesFlag(cmd *cobra.Command) {
	cmd.Flags().BoolP("yes", "y", false, "do not ask")
}

// keyFromStdin reads a key from standard input, without showing it when it is
// typed.
func (a *app) keyFromStdin() (keystring.Secret, error) {
	fd, terminal := terminalOf(a.env.Stdin)
	if !terminal {
		key, err := readKey(a.env.Stdin)
		if err != nil {
			return key, usage(fmt.Sprintf("standard input %v", err), "")
		}
		return key, nil
	}
	fmt.Fprint(a.env.Stderr, "Key (it is not shown): ")
	typed, err := term.ReadPassword(fd)
	fmt.Fprintln(a.env.Stderr)
	if err != nil {
		return keystring.Secret{}, err
	}
	key, err := readKey(strings.NewReader(string(typed)))
	if err != nil {
		return key, usage(fmt.Sprintf("what was typed %v", err), "")
	}
	return key, nil
}

// document reads a file, or standard input for "-".
func (a *app) document(path string) ([]byte, error) {
	in := a.env.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxDocument+1))
	if err == nil && len(text) > maxDocument {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxDocument)
	}
	return text, err
}

// pairs reads k=v, each given by a flag of its own.
func pairs(flag string, values []string) (map[string]string, error) {
	if len(values) == 0 {
		return nil, nil
	}
	out := make(map[string]string, len(values))
	for _, v := range values {
		k, value, ok := strings.Cut(v, "=")
		if !ok || k == "" {
			return nil, usage(fmt.Sprintf("--%s is written key=value", flag), "")
		}
		if _, twice := out[k]; twice {
			return nil, usage(fmt.Sprintf("--%s names %q twice", flag, k), "")
		}
		out[k] = value
	}
	return out, nil
}

// grants reads --permissions: a level, or a list of grants.
func grants(values []string) (level string, list []string, err error) {
	if len(values) == 1 {
		if l, err := permission.ParseLevel(values[0]); err == nil && l != permission.LevelRestricted {
			return string(l), nil, nil
		}
	}
	for _, v := range values {
		g, err := permission.ParseGrant(strings.TrimSpace(v))
		if err != nil {
			return "", nil, usage("--permissions is all, read_only, or a list of permissions such as interview:start,report:*", "")
		}
		list = append(list, string(g))
	}
	return string(permission.LevelRestricted), list, nil
}

// instant reads --expires-at: an instant, or a day in UTC.
func instant(flag, value string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, value); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, usage(fmt.Sprintf("--%s is an instant such as 2027-01-31T18:00:00Z, or a day such as 2027-01-31", flag), "")
}
