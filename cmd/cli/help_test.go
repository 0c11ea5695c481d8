package cli

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestHelp holds every command to what a page shows, and to
// saying in a phrase what it does.
func TestHelp(t *testing.T) {
	a := newApp(Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard, LookupEnv: func(string) (string, bool) { return "", false }})
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || c.RunE == nil && c.Run == nil {
			t.Errorf("%s: a phrase without a full stop says what it does, and it does it", c.CommandPath())
		}
		for line := range strings.Lines(prose(c)) {
			if len([]rune(strings.TrimRight(line, "\n"))) > pageWidth {
				t.Errorf("%s: longer than 80 columns: %s", c.CommandPath(), line)
			}
		}
		for line := range strings.Lines(c.Example) {
			if !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: examples are indented by two: %s", c.CommandPath(), line)
			}
		}
		var page strings.Builder
		if err := writeUsage(&page, c); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(page.String()) {
			if len([]rune(strings.TrimRight(line, "\n"))) > pageWidth {
				t.Errorf("%s: longer than 80 columns: %s", c.CommandPath(), line)
			}
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || strings.HasSuffix(f.Usage, ".") {
				t.Errorf("%s --%s: a phrase without a full stop says what it is for", c.CommandPath(), f.Name)
			}
			if f.Value.Type() == "string" && !strings.Contains(f.Usage, "`") {
				t.Errorf("%s --%s: its usage names what it takes", c.CommandPath(), f.Name)
			}
		})
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk(a.root)
}

// Every command about provider keys, and each of its own flags, stands in the document
// for those who use them.
func TestProviderKeysAreDescribed(t *testing.T) {
	text, err := os.ReadFile("../../docs/byok.md")
	if err != nil {
		t.Fatal(err)
	}
	a := newApp(Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard, LookupEnv: func(string) (string, bool) { return "", false }})
	serve, _, err := a.root.Find([]string{"serve"})
	if err != nil {
		t.Fatal(err)
	}
	says := func(words string) {
		t.Helper()
		if !strings.Contains(string(text), "`"+words) {
			t.Errorf("docs/byok.md does not tell of %s", words)
		}
	}
	serve.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if strings.HasPrefix(f.Name, "kek") || strings.HasPrefix(f.Name, "provider-") {
			says("--" + f.Name)
		}
	})
	group, _, err := a.root.Find([]string{"provider-keys"})
	if err != nil || len(group.Commands()) == 0 {
		t.Fatal(err)
	}
	for _, c := range group.Commands() {
		says(c.Name())
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Annotations[generalFlag] == nil && f.Name != "help" {
				says("--" + f.Name)
			}
		})
	}
}

// Paragraphs are filled, and lists are left alone.
func TestProse(t *testing.T) {
	c := &cobra.Command{Long: "One\ntwo:\n\n  a list\n  of two\n\nThree\nfour."}
	if got, want := prose(c), "One two:\n\n  a list\n  of two\n\nThree four."; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
