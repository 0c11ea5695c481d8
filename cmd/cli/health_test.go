package cli_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/cmd/cli"
)

// A server that is not ready says so with the exit code, and why. No key is sent
// to it.
//
// Breaking it: a check that looks at whether there is an answer at all takes this
// server for a healthy one.
func TestHealthOfWhatIsNotReady(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" || r.Header.Get("Authorization") != "" {
			t.Errorf("asked for %s with %q", r.URL.Path, r.Header.Get("Authorization"))
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		if _, err := w.Write([]byte(`{"ready":false,"checks":{"index":"the view is replaying, 40 % done"}}`)); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	var out, fault bytes.Buffer
	code := cli.Main(t.Context(), cli.Env{
		Args: []string{"health", "--url", server.URL}, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &fault,
		LookupEnv: func(name string) (string, bool) {
			if name == "KEYLEDGER_KEY" {
				return "not to be sent", true
			}
			return "", false
		},
	})
	if code != 3 || !strings.Contains(out.String(), "the view is replaying, 40 % done") || fault.Len() > 0 {
		t.Errorf("exit code %d\n%s%s", code, out.String(), fault.String())
	}
}
