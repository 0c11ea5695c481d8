package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/relay/providers"
	"github.com/keyledger/keyledger/relay/providers/providertest"
)

// The walk through bringing one's own key, as written, with what it says comes. The
// provider stands on this machine; whoever reads along has keys of the real one.
func TestBYOKDocument(t *testing.T) {
	asked := providertest.Start(t)
	dir := t.TempDir()
	ca, err := asked.WriteCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, condition := range map[string]providertest.Condition{"openai.key": providertest.Works, "openai-new.key": providertest.Gzip} {
		key := providertest.Key(events.ProviderOpenAI, condition)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(key+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	walk(t, "../docs/byok.md", dir,
		"KEYLEDGER_PROVIDER_ENDPOINT=openai="+asked.URL(events.ProviderOpenAI),
		"KEYLEDGER_PROVIDER_ALLOW="+asked.Host(),
		"KEYLEDGER_PROVIDER_CA="+ca)
	if asked.Strayed() {
		t.Error("a key was sent where its provider does not want it")
	}
}

// Everything that a test can come to stands in the table of what it means, and every
// provider in the tables of what it is asked, and where its customers look after their
// keys.
func TestBYOKDocumentIsWhole(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/byok.md")
	if err != nil {
		t.Fatal(err)
	}
	says := func(row string) {
		t.Helper()
		if !strings.Contains(string(text), "\n"+row) && !strings.Contains(string(text), ", "+strings.TrimPrefix(row, "| ")) {
			t.Errorf("docs/byok.md has no row %q", row)
		}
	}
	for _, result := range events.ProviderResults() {
		says("| `" + string(result) + "` |")
	}
	for _, problem := range provider.Problems() {
		says("| `" + string(problem) + "`")
	}
	source, err := os.ReadFile("../relay/providers/outcome.go")
	if err != nil {
		t.Fatal(err)
	}
	reasons := regexp.MustCompile(`Reason = "([a-z_]+)"`).FindAllSubmatch(source, -1)
	if len(reasons) == 0 {
		t.Error("no reasons")
	}
	for _, r := range reasons {
		// The API names no provider that is not known.
		if reason := string(r[1]); reason != string(providers.Unasked) && !strings.Contains(string(text), "`"+reason+"`") {
			t.Errorf("docs/byok.md does not tell what %s is", reason)
		}
	}
	for _, p := range provider.All() {
		says("| " + p.Name + " |")
		for _, url := range []string{p.KeysURL, p.UsageURL} {
			if !strings.Contains(string(text), url) {
				t.Errorf("docs/byok.md does not say where %s has %s", p.Name, url)
			}
		}
	}
}
