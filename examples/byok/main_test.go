package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keyledger/keyledger/relay/egress"
)

// worlds are a provider that takes one key, and a ledger that answers these, one
// after the other.
func worlds(t *testing.T, taken string, resolved ...string) (args []string) {
	t.Helper()
	provider := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/models" || r.Header.Get("Authorization") != "Bearer "+taken {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, "no such key: %s", r.Header.Get("Authorization"))
			return
		}
		fmt.Fprint(w, `{"object":"list","data":[{"id":"gpt-4o"},{"id":"gpt-4o-mini"}]}`)
	}))
	t.Cleanup(provider.Close)
	var asked atomic.Int64
	ledger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, resolved[min(int(asked.Add(1)), len(resolved))-1])
	}))
	t.Cleanup(ledger.Close)
	dir := t.TempDir()
	file, ca := filepath.Join(dir, "worker.key"), filepath.Join(dir, "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: provider.Certificate().Raw})
	for name, content := range map[string][]byte{file: []byte("kl_mgmt_of_a_worker\n"), ca: certificate} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"-url", ledger.URL, "-key-file", file, "-endpoint", provider.URL + "/v1", "-ca", ca}
}

func answer(version int, secret string) string {
	return fmt.Sprintf(`{"provider":"openai","source":"customer","version":%d,"secret":%q}`, version, secret)
}

const builtIn = `{"provider":"openai","source":"built_in","reason":"not_connected"}`

func TestRun(t *testing.T) {
	for name, c := range map[string]struct {
		taken    string
		resolved []string
		says     string
		fails    string
	}{
		"the customer's":           {"sk-theirs", []string{answer(1, "sk-theirs")}, "acme's own key, version 1, reaches 2 models\n", ""},
		"the platform's":           {"sk-ours", []string{builtIn}, "the built-in key reaches 2 models\n", ""},
		"replaced in between":      {"sk-new", []string{answer(1, "sk-old"), answer(2, "sk-new")}, "acme's own key, version 2, reaches 2 models\n", ""},
		"removed in between":       {"sk-ours", []string{answer(1, "sk-old"), builtIn}, "the built-in key reaches 2 models\n", ""},
		"one that is good no more": {"sk-other", []string{answer(1, "sk-old")}, "", "the customer has to know"},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			own := func(string) (string, bool) { return "sk-ours", true }
			args := append(worlds(t, c.taken, c.resolved...), "-allow", "127.0.0.1")
			err := run(t.Context(), args, own, &out, io.Discard)
			if out.String() != c.says {
				t.Errorf("says %q, want %q", out.String(), c.says)
			}
			if (err == nil) != (c.fails == "") || err != nil && (!strings.Contains(err.Error(), c.fails) || strings.Contains(err.Error(), "sk-")) {
				t.Errorf("got %v, want %q", err, c.fails)
			}
		})
	}
}

// A base URL that leads into the platform's own network is called by nobody.
func TestPrivateAddress(t *testing.T) {
	var out strings.Builder
	err := run(t.Context(), worlds(t, "sk-theirs", answer(1, "sk-theirs")), os.LookupEnv, &out, io.Discard)
	if !errors.Is(err, egress.ErrForbidden) || out.Len() > 0 {
		t.Errorf("got %v, %q", err, out.String())
	}
}
