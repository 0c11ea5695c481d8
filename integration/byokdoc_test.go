package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/relay/providers/providertest"
)

// The walk through bringing one's own key, as written, with what it says comes. The
// provider stands on this machine; whoever reads along has keys of the real one.
func TestBYOKDocument(t *testing.T) {
	providers := providertest.Start(t)
	dir := t.TempDir()
	ca, err := providers.WriteCA(dir)
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
		"KEYLEDGER_PROVIDER_ENDPOINT=openai="+providers.URL(events.ProviderOpenAI),
		"KEYLEDGER_PROVIDER_ALLOW="+providers.Host(),
		"KEYLEDGER_PROVIDER_CA="+ca)
	if providers.Strayed() {
		t.Error("a key was sent where its provider does not want it")
	}
}
