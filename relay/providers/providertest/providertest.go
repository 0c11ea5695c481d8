// Package providertest is all AI providers on this machine, for tests: it speaks
// the shapes, errors and oddities of each over TLS, and knows keys by what is the
// matter with them.
//
//	s := providertest.Start(t)
//	client, err := providers.New(providers.Config{Doer: s.Client(), Endpoints: s.Endpoints()})
//	out := client.Test(ctx, providers.Wish{
//		Provider: events.ProviderOpenAI,
//		Secret:   providertest.Key(events.ProviderOpenAI, providertest.Expired),
//	})
//
// Another process finds it by the same endpoints, and trusts it by the file that
// [Server.WriteCA] writes.
package providertest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keyledger/keyledger/events"
)

// Condition is what is the matter with a key.
type Condition string

// Conditions that providers tell of, each in its own words; not all of them tell
// of all.
const (
	Works           Condition = "works"
	FewModels       Condition = "few_models" // reaches the first of [Models] alone
	Unknown         Condition = "unknown"
	Expired         Condition = "expired"
	Revoked         Condition = "revoked"
	Suspended       Condition = "suspended" // the project is
	Restricted      Condition = "restricted"
	OtherAddress    Condition = "other_address" // takes requests from elsewhere only
	OtherRegion     Condition = "other_region"
	ServiceDisabled Condition = "service_disabled"
	RateLimited     Condition = "rate_limited"
	QuotaExhausted  Condition = "quota_exhausted"
	Failing         Condition = "failing"
	Overloaded      Condition = "overloaded"
)

// Oddities, which all servers may have.
const (
	Gzip            Condition = "gzip"              // works, compressed whether asked for or not
	Paged           Condition = "paged"             // works, one model at a time where there are pages
	Echo            Condition = "echo"              // refused, with the whole key in body and headers
	Vague           Condition = "vague"             // refused, without a body
	ForbiddenFor401 Condition = "forbidden_for_401" // unknown, with status 403
	ErrorIn200      Condition = "error_in_200"      // unknown, with status 200
	HTMLPage        Condition = "html_page"         // a page for people, with status 200
	HTMLError       Condition = "html_error"        // a page for people, with status 403
	Garbage         Condition = "garbage"           // JSON that is nothing of a provider
	Redirected      Condition = "redirected"        // to another host, with the key in the address
	NotFound        Condition = "not_found"
	Dropped         Condition = "dropped" // the connection ends in the middle
	Slow            Condition = "slow"    // no answer before the caller goes
	Endless         Condition = "endless" // an answer without an end
)

// oddities are those of all providers, with what each of them comes to.
var oddities = []struct {
	condition Condition
	result    events.ProviderResult
}{
	{Gzip, events.ProviderWorks},
	{Paged, events.ProviderWorks},
	{Echo, events.ProviderInvalid},
	{Vague, events.ProviderInvalid},
	{ForbiddenFor401, events.ProviderInvalid},
	{ErrorIn200, events.ProviderInvalid},
	{HTMLPage, events.ProviderUnreachable},
	{HTMLError, events.ProviderUnreachable},
	{Garbage, events.ProviderUnreachable},
	{Redirected, events.ProviderUnreachable},
	{NotFound, events.ProviderUnreachable},
	{Dropped, events.ProviderUnreachable},
	{Slow, events.ProviderUnreachable},
	{Endless, events.ProviderUnreachable},
}

// Conditions returns all that a provider's keys can be in here, with what a test of
// such a key has to come to by the provider's documentation.
func Conditions(p events.ProviderID) map[Condition]events.ProviderResult {
	all := map[Condition]events.ProviderResult{Works: events.ProviderWorks, FewModels: events.ProviderMissingModels}
	for _, o := range oddities {
		all[o.condition] = o.result
	}
	for c, r := range replies[p] {
		all[c] = r.result
	}
	return all
}

// Key returns the provider's key of a condition: always the same, and of the form
// that the provider's keys have.
func Key(p events.ProviderID, c Condition) string {
	sum := sha256.Sum256([]byte(string(p) + " " + string(c)))
	digits := hex.EncodeToString(sum[:])
	switch p {
	case events.ProviderOpenAI:
		return "sk-proj-" + digits
	case events.ProviderAnthropic:
		return "sk-ant-api03-" + digits + digits[:31]
	case events.ProviderGoogle:
		return "AIza" + digits[:35]
	case events.ProviderCohere:
		return digits[:40]
	case events.ProviderMistral, events.ProviderAzureOpenAI:
		return digits[:32]
	default:
		return "token-" + digits
	}
}

// Models returns three models that the provider's keys reach.
func Models(p events.ProviderID) []string {
	switch p {
	case events.ProviderAnthropic:
		return []string{"claude-sonnet-4-20250514", "claude-opus-4-6", "claude-3-5-haiku-20241022"}
	case events.ProviderGoogle:
		return []string{"gemini-2.5-pro", "gemini-2.5-flash", "text-embedding-004"}
	case events.ProviderMistral:
		return []string{"mistral-large-2411", "mistral-small-2503", "codestral-2501"}
	case events.ProviderCohere:
		return []string{"command-a-03-2025", "embed-v4.0", "rerank-v3.5"}
	case events.ProviderAzureOpenAI:
		return []string{"gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18", "text-embedding-3-small"}
	case events.ProviderOpenAICompatible:
		return []string{"llama-3.3-70b", "qwen3-32b", "bge-m3"}
	default:
		return []string{"gpt-4o", "gpt-4o-mini", "text-embedding-3-small"}
	}
}

// Request is one that was made, without the key.
type Request struct {
	Provider     events.ProviderID
	Method, Path string
	// Keyed says that it had a key where the provider wants it.
	Keyed bool
	// Strays says that a known key was also somewhere else: in the address, or in
	// another header.
	Strays bool
}

// Server is all providers.
type Server struct {
	http *httptest.Server
	ca   []byte
	done chan struct{}

	mu       sync.Mutex
	keys     map[events.ProviderID]map[string]Condition
	requests []Request
}

// Start starts a server that ends with the test.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s, err := New()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// New starts a server on a free port of 127.0.0.1. It knows [Key] of every provider
// and condition.
func New() (*Server, error) {
	certificate, ca, err := newCertificate()
	if err != nil {
		return nil, fmt.Errorf("providertest: %w", err)
	}
	s := &Server{ca: ca, done: make(chan struct{}), keys: map[events.ProviderID]map[string]Condition{}}
	for _, p := range events.Providers() {
		s.keys[p] = map[string]Condition{}
		for c := range Conditions(p) {
			if c != Unknown {
				s.keys[p][Key(p, c)] = c
			}
		}
	}
	s.http = httptest.NewUnstartedServer(s)
	s.http.TLS = certificate
	// Clients that do not trust the server are part of tests.
	s.http.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.http.StartTLS()
	return s, nil
}

// Close ends the server and the answers that are under way.
func (s *Server) Close() {
	close(s.done)
	s.http.CloseClientConnections()
	s.http.Close()
}

// bases are the paths that stand for hosts here, API versions included.
var bases = map[events.ProviderID]string{
	events.ProviderOpenAI:           "/openai/v1",
	events.ProviderAnthropic:        "/anthropic/v1",
	events.ProviderGoogle:           "/google/v1beta",
	events.ProviderMistral:          "/mistral/v1",
	events.ProviderCohere:           "/cohere/v1",
	events.ProviderAzureOpenAI:      "/azure",
	events.ProviderOpenAICompatible: "/compatible/v1",
}

// Bases of OpenAI-compatible servers of other habits.
const (
	publicBase   = "/public/v1"
	openBase     = "/open/v1"
	unlistedBase = "/unlisted/v1"
)

// URL returns a provider's address: an endpoint that takes the place of its own, or
// the base URL that a customer gives.
func (s *Server) URL(p events.ProviderID) string { return s.http.URL + bases[p] }

// PublicURL returns the base URL of an OpenAI-compatible server that lists its
// models to anybody, and wants a key for everything else.
func (s *Server) PublicURL() string { return s.http.URL + publicBase }

// OpenURL returns that of one that never wants a key.
func (s *Server) OpenURL() string { return s.http.URL + openBase }

// UnlistedURL returns that of one that has no list of models.
func (s *Server) UnlistedURL() string { return s.http.URL + unlistedBase }

// Host returns the server's address and port.
func (s *Server) Host() string { return s.http.Listener.Addr().String() }

// Endpoints returns the addresses of all providers whose customers give none.
func (s *Server) Endpoints() map[events.ProviderID]string {
	all := map[events.ProviderID]string{}
	for p := range bases {
		if p != events.ProviderAzureOpenAI && p != events.ProviderOpenAICompatible {
			all[p] = s.URL(p)
		}
	}
	return all
}

// BaseURL returns the base URL that a customer gives for a provider, or "".
func (s *Server) BaseURL(p events.ProviderID) string {
	if p == events.ProviderAzureOpenAI || p == events.ProviderOpenAICompatible {
		return s.URL(p)
	}
	return ""
}

// CA returns the certificate that the server is trusted by, in PEM.
func (s *Server) CA() []byte { return slices.Clone(s.ca) }

// WriteCA writes it to a file in a folder, and returns the file's name.
func (s *Server) WriteCA(dir string) (string, error) {
	name := filepath.Join(dir, "provider-ca.pem")
	if err := os.WriteFile(name, s.ca, 0o600); err != nil {
		return "", fmt.Errorf("providertest: %w", err)
	}
	return name, nil
}

// Client returns a client that trusts the server.
func (s *Server) Client() *http.Client { return s.http.Client() }

// Set says what is the matter with a key from now on: one that the provider never
// saw before, or that was in another condition.
func (s *Server) Set(p events.ProviderID, key string, c Condition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[p][key] = c
}

// Requests returns those that were made of a provider so far.
func (s *Server) Requests(p events.ProviderID) []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.requests), func(r Request) bool { return r.Provider != p })
}

// Strayed reports whether a known key was ever anywhere but where its provider
// wants it.
func (s *Server) Strayed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.requests, func(r Request) bool { return r.Strays })
}

// note remembers a request, and returns what is the matter with its key.
func (s *Server) note(p events.ProviderID, r *http.Request, key string) Condition {
	s.mu.Lock()
	defer s.mu.Unlock()
	elsewhere := r.Header.Clone()
	elsewhere.Del(keyHeader[p])
	text := fmt.Sprint(r.URL.String(), elsewhere)
	strays := key != "" && strings.Contains(text, key)
	for known := range s.keys[p] {
		strays = strays || strings.Contains(text, known)
	}
	s.requests = append(s.requests, Request{Provider: p, Method: r.Method, Path: r.URL.Path, Keyed: key != "", Strays: strays})
	if c, ok := s.keys[p][key]; ok {
		return c
	}
	return Unknown
}
