package cli

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// TestSidecarIsToldOf holds the sidecar's page to name every flag and no other, and the
// files of deploy/sidecar to set nothing that does not exist.
func TestSidecarIsToldOf(t *testing.T) {
	a := newApp(Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard, LookupEnv: func(string) (string, bool) { return "", false }})
	known := map[string]bool{}
	for _, name := range flagNames(a.root, nil) {
		known[name] = true
	}
	read := func(path string) string {
		text, err := os.ReadFile(filepath.Join("..", "..", path))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	page := read("docs/sidecar.md")
	for _, m := range regexp.MustCompile("`--([a-z-]+)|  --([a-z-]+)").FindAllStringSubmatch(page, -1) {
		if name := m[1] + m[2]; !known[name] {
			t.Errorf("docs/sidecar.md names --%s, which is no flag", name)
		}
	}
	cmd, _, err := a.root.Find([]string{"sidecar"})
	if err != nil {
		t.Fatal(err)
	}
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && !regexp.MustCompile("--"+f.Name+`\b[^-]`).MatchString(page) {
			t.Errorf("docs/sidecar.md does not tell of --%s", f.Name)
		}
	})
	for _, path := range []string{"deploy/sidecar/compose.yml", "deploy/sidecar/keyledger-sidecar.service"} {
		text := read(path)
		// Of compose, KEYLEDGER_CREDS is its own.
		for _, m := range regexp.MustCompile(`(?:Environment=|\n +)(KEYLEDGER_[A-Z_]+)[=:]`).FindAllStringSubmatch(text, -1) {
			if name := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(m[1], "KEYLEDGER_"), "_", "-")); !known[name] {
				t.Errorf("%s sets %s, which is no setting", path, m[1])
			}
		}
		for _, m := range regexp.MustCompile(`"?--([a-z-]+)`).FindAllStringSubmatch(text, -1) {
			switch m[1] {
			case "wait", "now", "fail", "silent", "show-error", "unix-socket": // of compose, systemctl and curl
			default:
				if !known[m[1]] {
					t.Errorf("%s gives --%s, which is no flag", path, m[1])
				}
			}
		}
	}
}
