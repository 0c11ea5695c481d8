// Package providers asks AI providers whether a customer's key works, by the call
// that each documents for it, and says what came of it in this project's words.
//
// The secret goes to the provider in a header, over TLS, and nowhere else: nothing
// of what the provider answers is kept but its status, since errors of providers
// repeat the keys that they refuse.
package providers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"
	"unicode"

	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/events"
)

const (
	// DefaultTimeout is how long a test may take: who tests a key waits for it.
	DefaultTimeout = 10 * time.Second
	// MaxBody bounds what is read of an answer: the longest list of models there is
	// has about 1 MiB.
	MaxBody = 4 << 20
	// maxPages bounds how often the rest of a list is asked for. Providers give 1000
	// models at once.
	maxPages = 4
	// maxRetryAfter bounds what a provider may say of when to come back.
	maxRetryAfter = 24 * time.Hour
)

// Doer sends a request. It follows no redirects: the headers that hold the key
// would go along. *http.Client is one, and is kept from following any.
type Doer interface {
	Do(req *http.Request) (*http.Response, error)
}

// Config says how providers are asked.
type Config struct {
	// Doer sends the requests, and says which addresses may be reached.
	Doer Doer
	// Own sends those to Endpoints, which customers do not name; nil is Doer.
	Own Doer
	// Endpoints take the place of providers' own addresses, version included, such
	// as https://eu.api.openai.com/v1: an operator's gateway, or a region. Providers
	// whose customers give a base URL have none.
	Endpoints map[events.ProviderID]string
	// Models are those that the platform needs of each provider, by the names that
	// the provider lists them under. A key has to reach all of them to work.
	Models map[events.ProviderID][]string
	// Timeout is how long one test may take in all; 0 is [DefaultTimeout].
	Timeout time.Duration
}

// Validate reports everything that is wrong with the configuration.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("providers: "+format, args...))
	}
	if c.Doer == nil {
		fault("nothing to send requests with")
	}
	if c.Timeout < 0 {
		fault("the timeout is negative")
	}
	for _, id := range slices.Sorted(maps.Keys(c.Endpoints)) {
		if _, ok := dialects[id]; !ok {
			fault("endpoint of %q: there is no such provider", id)
		} else if dialects[id].endpoint == "" {
			fault("endpoint of %s: its customers give their own", id)
		} else if _, err := provider.ParseBaseURL(c.Endpoints[id]); err != nil {
			fault("endpoint of %s: %w", id, err)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.Models)) {
		if _, ok := dialects[id]; !ok {
			fault("models of %q: there is no such provider", id)
		}
		if len(c.Models[id]) > events.MaxModels {
			fault("models of %s: more than %d", id, events.MaxModels)
		}
		seen := map[string]bool{}
		for _, m := range c.Models[id] {
			if m == "" || len(m) > events.MaxModelLength || !isPlain(m) {
				fault("models of %s: %q is no name of 1 to %d printable characters", id, m, events.MaxModelLength)
			}
			if seen[m] {
				fault("models of %s: %q is named twice", id, m)
			}
			seen[m] = true
		}
	}
	return errors.Join(faults...)
}

func isPlain(s string) bool {
	for _, r := range s {
		if !unicode.IsGraphic(r) || unicode.IsSpace(r) {
			return false
		}
	}
	return true
}

// Client tests keys. It is safe for use by several goroutines, and holds nothing
// between tests.
type Client struct {
	doer, own Doer
	endpoints map[events.ProviderID]string
	models    map[events.ProviderID][]string
	timeout   time.Duration
}

// New makes a client.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Client{
		doer: unled(cfg.Doer), own: unled(cfg.Own), timeout: cfg.Timeout,
		endpoints: map[events.ProviderID]string{},
		models:    map[events.ProviderID][]string{},
	}
	if c.own == nil {
		c.own = c.doer
	}
	if c.timeout == 0 {
		c.timeout = DefaultTimeout
	}
	for id, d := range dialects {
		c.endpoints[id] = d.endpoint
	}
	for id, raw := range cfg.Endpoints {
		base, err := provider.ParseBaseURL(raw)
		if err != nil {
			return nil, fmt.Errorf("providers: endpoint of %s: %w", id, err)
		}
		c.endpoints[id] = base
	}
	for id, models := range cfg.Models {
		c.models[id] = slices.Clone(models)
	}
	return c, nil
}

// unled keeps a plain client from following redirects.
func unled(d Doer) Doer {
	plain, ok := d.(*http.Client)
	if !ok {
		return d
	}
	own := *plain
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &own
}

// Models returns those that the platform needs of a provider.
func (c *Client) Models(id events.ProviderID) []string { return slices.Clone(c.models[id]) }

// Wish is a key to be tested. It prints without the secret.
type Wish struct {
	Provider events.ProviderID
	Secret   string
	// BaseURL is where the provider is, for those that have no address of their own,
	// in the form that [provider.BaseURL] gives.
	BaseURL string
	// Force has a key sent that does not look like one of the provider's, where
	// somebody may insist on that: always for one that is saved.
	Force bool
}

// String says what is tested, and where.
func (w Wish) String() string { return "key of " + string(w.Provider) }

// Format writes the same under every verb.
func (w Wish) Format(f fmt.State, _ rune) {
	// fmt.State keeps the bytes in memory and cannot fail.
	_, _ = io.WriteString(f, w.String())
}

// LogValue gives slog the same.
func (w Wish) LogValue() slog.Value { return slog.StringValue(w.String()) }

// MarshalText gives encoders the same.
func (w Wish) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// Test asks the provider whether a key works. It never fails: that there was no
// answer is an outcome as well.
func (c *Client) Test(ctx context.Context, w Wish) Outcome {
	d, ok := dialects[w.Provider]
	if !ok {
		return Outcome{Provider: w.Provider, Result: events.ProviderUnreachable, Reason: Unasked}
	}
	if found := provider.Check(w.Provider, w.Secret); !found.OK() && !(found.Forcible && w.Force) {
		return Outcome{
			Provider: w.Provider, Result: events.ProviderMalformed,
			Problem: found.Problem, LooksLike: found.LooksLike, finding: found,
		}
	}
	base, doer := c.endpoints[w.Provider], c.own
	if base == "" {
		base, doer = w.BaseURL, c.doer
	}
	if _, err := provider.ParseBaseURL(base); err != nil {
		return Outcome{Provider: w.Provider, Result: events.ProviderUnreachable, Reason: BadAddress}
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	q := question{doer: doer, dialect: d, base: base, secret: w.Secret, need: c.models[w.Provider]}
	out := q.ask(ctx)
	out.Provider = w.Provider
	return out
}
