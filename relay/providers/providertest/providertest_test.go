package providertest_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/relay/providers/providertest"
)

// get asks for a provider's models, with a header.
func get(t *testing.T, c *http.Client, url, header, value string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(header, value)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// TestStrays: a key where it does not belong is seen, wherever that is.
func TestStrays(t *testing.T) {
	key := providertest.Key(events.ProviderGoogle, providertest.Works)
	for _, c := range []struct {
		name, query, header string
		strays              bool
	}{
		{"where it belongs", "", "x-goog-api-key", false},
		{"in the address", "?key=" + key, "Accept", true},
		{"in another header", "", "Authorization", true},
		{"in both", "?key=" + key, "x-goog-api-key", true},
	} {
		s := providertest.Start(t)
		get(t, s.Client(), s.URL(events.ProviderGoogle)+"/models"+c.query, c.header, key)
		if s.Strayed() != c.strays {
			t.Errorf("%s: %v", c.name, s.Strayed())
		}
	}
}

// TestKeys: every key is of the form that its provider's keys have, and no other
// condition's.
func TestKeys(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range events.Providers() {
		for c := range providertest.Conditions(p) {
			key := providertest.Key(p, c)
			if f := provider.Check(p, key); !f.OK() {
				t.Errorf("%s, %s: %s", p, c, f.Problem)
			}
			if seen[key] {
				t.Errorf("%s, %s: not the only one", p, c)
			}
			seen[key] = true
		}
	}
}

// TestSet: what is the matter with a key changes at once; and who trusts the file
// trusts the server.
func TestSet(t *testing.T) {
	s := providertest.Start(t)
	name, err := s.WriteCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}

	p := events.ProviderMistral
	key := strings.Repeat("k", 32)
	for _, c := range []struct {
		condition providertest.Condition
		status    int
	}{{providertest.Unknown, 401}, {providertest.Works, 200}, {providertest.RateLimited, 429}, {providertest.Works, 200}} {
		s.Set(p, key, c.condition)
		if status, body := get(t, client, s.URL(p)+"/models", "Authorization", "Bearer "+key); status != c.status {
			t.Errorf("%s: %d %s", c.condition, status, body)
		}
	}
	if n := len(s.Requests(p)); n != 4 {
		t.Errorf("%d requests", n)
	}
}
