package providers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/relay/egress"
	"github.com/keyledger/keyledger/relay/providers"
	"github.com/keyledger/keyledger/relay/providers/providertest"
)

func newClient(t *testing.T, s *providertest.Server, cfg providers.Config) *providers.Client {
	t.Helper()
	if cfg.Doer == nil {
		cfg.Doer = s.Client()
	}
	cfg.Endpoints = s.Endpoints()
	c, err := providers.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func wish(s *providertest.Server, p events.ProviderID, c providertest.Condition) providers.Wish {
	return providers.Wish{Provider: p, Secret: providertest.Key(p, c), BaseURL: s.BaseURL(p)}
}

// holds reports whether anything of an outcome has the key, or much of it.
func holds(o providers.Outcome, key string) bool {
	text := fmt.Sprintf("%#v %s", o, o.Message())
	return strings.Contains(text, key) || strings.Contains(text, key[len(key)-12:])
}

// everyCondition tests a key of every condition of every provider.
func everyCondition(t *testing.T, s *providertest.Server, c, hurried *providers.Client, want func(events.ProviderID, providertest.Condition, events.ProviderResult) events.ProviderResult) {
	t.Helper()
	for _, p := range events.Providers() {
		conditions := providertest.Conditions(p)
		for _, condition := range slices.Sorted(maps.Keys(conditions)) {
			t.Run(string(p)+"/"+string(condition), func(t *testing.T) {
				client := c
				if condition == providertest.Slow {
					client = hurried
				}
				w := wish(s, p, condition)
				out := client.Test(t.Context(), w)
				if result := want(p, condition, conditions[condition]); out.Result != result {
					t.Errorf("came to %s (%s, status %d), want %s", out.Result, out.Reason, out.Status, result)
				}
				if out.Provider != p || out.Works() != (out.Result == events.ProviderWorks) {
					t.Errorf("%+v", out)
				}
				if message := out.Message(); len(message) < 10 || !strings.HasSuffix(message, ".") {
					t.Errorf("says %q", message)
				}
				if holds(out, w.Secret) {
					t.Error("the outcome holds the key")
				}
			})
		}
	}
	if s.Strayed() {
		t.Error("a key stood in an address, or in a header of another use")
	}
}

// TestTellsApart: each provider's answers come to what its documentation says they
// mean, when the key alone is asked for.
func TestTellsApart(t *testing.T) {
	s := providertest.Start(t)
	everyCondition(t, s, newClient(t, s, providers.Config{}), newClient(t, s, providers.Config{Timeout: 50 * time.Millisecond}),
		func(_ events.ProviderID, c providertest.Condition, documented events.ProviderResult) events.ProviderResult {
			if c == providertest.FewModels {
				return events.ProviderWorks
			}
			return documented
		})
}

// TestTellsApartWithModels: the same, when models are needed.
func TestTellsApartWithModels(t *testing.T) {
	s := providertest.Start(t)
	models := map[events.ProviderID][]string{}
	for _, p := range events.Providers() {
		models[p] = providertest.Models(p)
	}
	everyCondition(t, s, newClient(t, s, providers.Config{Models: models}), newClient(t, s, providers.Config{Models: models, Timeout: 50 * time.Millisecond}),
		func(p events.ProviderID, c providertest.Condition, documented events.ProviderResult) events.ProviderResult {
			if p == events.ProviderCohere && c == providertest.Revoked {
				// What says so is no list.
				return events.ProviderInvalid
			}
			return documented
		})
}

// TestThroughEgress: the door that customers' addresses are reached by says as much
// of what went wrong as a plain client does.
func TestThroughEgress(t *testing.T) {
	s := providertest.Start(t)
	door := func(cfg egress.Config) *egress.Client {
		c, err := egress.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	allowed := egress.Config{Allow: []string{s.Host()}, CA: s.CA(), MaxBody: providers.MaxBody}
	open := door(allowed)
	everyCondition(t, s, newClient(t, s, providers.Config{Doer: open}), newClient(t, s, providers.Config{Doer: open, Timeout: 50 * time.Millisecond}),
		func(_ events.ProviderID, c providertest.Condition, documented events.ProviderResult) events.ProviderResult {
			if c == providertest.FewModels {
				return events.ProviderWorks
			}
			return documented
		})

	distrusting := allowed
	distrusting.CA = nil
	p := events.ProviderOpenAICompatible
	for _, c := range []struct {
		name string
		door *egress.Client
		to   string
		key  providertest.Condition
		want providers.Reason
	}{
		{"an address that nobody allowed", door(egress.Config{CA: s.CA()}), s.URL(p), providertest.Works, providers.ForbiddenAddress},
		{"a certificate that nobody vouches for", door(distrusting), s.URL(p), providertest.Works, providers.InsecureTLS},
		{"a redirect", open, s.URL(p), providertest.Redirected, providers.Redirect},
		{"an answer without an end", open, s.URL(p), providertest.Endless, providers.Unintelligible},
		{"a path that is not there", open, s.URL(p) + "/v2", providertest.Works, providers.NotFound},
		{"no base URL", open, "", providertest.Works, providers.BadAddress},
		{"no https", open, "http://" + s.Host(), providertest.Works, providers.BadAddress},
	} {
		w := wish(s, p, c.key)
		w.BaseURL = c.to
		out := newClient(t, s, providers.Config{Doer: c.door}).Test(t.Context(), w)
		if out.Result != events.ProviderUnreachable || out.Reason != c.want {
			t.Errorf("%s: %s (%s), want %s", c.name, out.Result, out.Reason, c.want)
		}
	}
}

// TestMissingModels: each model that the key does not reach is named, in the order
// of the configuration, and none that it reaches by another name.
func TestMissingModels(t *testing.T) {
	s := providertest.Start(t)
	for _, p := range events.Providers() {
		have := providertest.Models(p)
		need := []string{have[2], have[0], "model-of-tomorrow", have[1]}
		c := newClient(t, s, providers.Config{Models: map[events.ProviderID][]string{p: need}})
		out := c.Test(t.Context(), wish(s, p, providertest.FewModels))
		if want := []string{have[2], "model-of-tomorrow", have[1]}; out.Result != events.ProviderMissingModels || !slices.Equal(out.MissingModels, want) {
			t.Errorf("%s: %s, %q, want %q", p, out.Result, out.MissingModels, want)
		}
		for _, m := range out.MissingModels {
			if !strings.Contains(out.Message(), m) {
				t.Errorf("%s: the message does not name %s", p, m)
			}
		}
		if got := c.Models(p); !slices.Equal(got, need) {
			t.Errorf("%s: needs %q", p, got)
		}
	}
	for p, name := range map[events.ProviderID]string{
		events.ProviderAnthropic:   "claude-sonnet-4",
		events.ProviderGoogle:      "models/gemini-2.5-pro",
		events.ProviderMistral:     "mistral-large-latest",
		events.ProviderAzureOpenAI: "gpt-4o",
	} {
		c := newClient(t, s, providers.Config{Models: map[events.ProviderID][]string{p: {name}}})
		if out := c.Test(t.Context(), wish(s, p, providertest.FewModels)); !out.Works() {
			t.Errorf("%s: %s is %s, %q", p, name, out.Result, out.MissingModels)
		}
	}
	// A name that another begins with is another model.
	c := newClient(t, s, providers.Config{Models: map[events.ProviderID][]string{events.ProviderAnthropic: {"claude-opus", "claude-3-5"}}})
	if out := c.Test(t.Context(), wish(s, events.ProviderAnthropic, providertest.Works)); len(out.MissingModels) != 2 {
		t.Errorf("%s, %q", out.Result, out.MissingModels)
	}
}

// TestMalformedIsNotSent: what cannot be a key of the provider goes nowhere, above
// all not to a provider whose key it is not. Whoever insists may send what is only
// of another form than usual.
func TestMalformedIsNotSent(t *testing.T) {
	s := providertest.Start(t)
	c := newClient(t, s, providers.Config{})
	p := events.ProviderOpenAI
	good := providertest.Key(p, providertest.Works)
	for _, w := range []struct {
		name, secret string
		force        bool
		want         provider.Problem
		looksLike    string
	}{
		{"a space", good + " ", false, provider.Spaces, ""},
		{"a space, insisting", good + " ", true, provider.Spaces, ""},
		{"a line break in the middle", good[:20] + "\r\nX-Evil: 1" + good[20:], true, provider.Spaces, ""},
		{"quotes", `"` + good + `"`, true, provider.Characters, ""},
		{"another provider's", providertest.Key(events.ProviderAnthropic, providertest.Works), true, provider.OtherProvider, "anthropic"},
		{"no prefix", good[len("sk-"):], false, provider.MissingPrefix, ""},
		{"half of it", good[:30], false, provider.TooShort, ""},
		{"nothing", "", true, provider.TooShort, ""},
	} {
		out := c.Test(t.Context(), providers.Wish{Provider: p, Secret: w.secret, Force: w.force})
		if out.Result != events.ProviderMalformed || out.Problem != w.want || out.LooksLike != w.looksLike || out.Message() == "" {
			t.Errorf("%s: %s, %s, looks like %q", w.name, out.Result, out.Problem, out.LooksLike)
		}
	}
	if asked := s.Requests(p); len(asked) != 0 {
		t.Fatalf("the provider was asked %d times", len(asked))
	}
	s.Set(p, good[len("sk-"):], providertest.Works)
	if out := c.Test(t.Context(), providers.Wish{Provider: p, Secret: good[len("sk-"):], Force: true}); !out.Works() {
		t.Errorf("insisting came to %s", out.Result)
	}
}

// TestOneRequest: a test is one request where the provider says all at once.
func TestOneRequest(t *testing.T) {
	s := providertest.Start(t)
	for _, p := range events.Providers() {
		for _, need := range [][]string{nil, providertest.Models(p)} {
			before := len(s.Requests(p))
			c := newClient(t, s, providers.Config{Models: map[events.ProviderID][]string{p: need}})
			if out := c.Test(t.Context(), wish(s, p, providertest.Works)); !out.Works() {
				t.Fatalf("%s: %s", p, out.Result)
			}
			asked := s.Requests(p)[before:]
			keyed := slices.DeleteFunc(slices.Clone(asked), func(r providertest.Request) bool { return !r.Keyed })
			if len(keyed) != 1 {
				t.Errorf("%s: the key was sent %d times", p, len(keyed))
			}
			if others := len(asked) - len(keyed); others > 0 && p != events.ProviderOpenAICompatible {
				t.Errorf("%s: %d requests without a key", p, others)
			}
		}
	}
}

// TestGateways: a list that anybody is shown proves no key, nor does one that is
// missing refute any: those are asked for a completion of nothing.
func TestGateways(t *testing.T) {
	s := providertest.Start(t)
	p := events.ProviderOpenAICompatible
	models := map[events.ProviderID][]string{p: providertest.Models(p)}
	missing := map[events.ProviderID][]string{p: {"model-of-tomorrow"}}
	for _, c := range []struct {
		name      string
		base      string
		condition providertest.Condition
		models    map[events.ProviderID][]string
		want      events.ProviderResult
		reason    providers.Reason
	}{
		{"a list for those with a key", s.URL(p), providertest.Works, nil, events.ProviderWorks, ""},
		{"a list for anybody", s.PublicURL(), providertest.Works, nil, events.ProviderWorks, ""},
		{"a list for anybody, and models", s.PublicURL(), providertest.Works, models, events.ProviderWorks, ""},
		{"a list for anybody, without a model", s.PublicURL(), providertest.Works, missing, events.ProviderMissingModels, ""},
		{"a list for anybody, a key that nobody knows", s.PublicURL(), providertest.Unknown, nil, events.ProviderInvalid, ""},
		{"a list for anybody, an unknown key and no model", s.PublicURL(), providertest.Unknown, missing, events.ProviderInvalid, ""},
		{"a list for anybody, an expired key", s.PublicURL(), providertest.Expired, nil, events.ProviderExpiredOrRevoked, ""},
		{"a list for anybody, no credit", s.PublicURL(), providertest.QuotaExhausted, nil, events.ProviderRateLimited, providers.QuotaExhausted},
		{"a list for anybody, a failure", s.PublicURL(), providertest.Failing, nil, events.ProviderWorks, providers.Unproven},
		{"everything for anybody", s.OpenURL(), providertest.Unknown, nil, events.ProviderWorks, providers.Unproven},
		{"everything for anybody, without a model", s.OpenURL(), providertest.Unknown, missing, events.ProviderMissingModels, ""},
		{"no list", s.UnlistedURL(), providertest.Works, nil, events.ProviderWorks, ""},
		{"no list, but models", s.UnlistedURL(), providertest.Works, models, events.ProviderWorks, providers.Unlisted},
		{"no list, a key that nobody knows", s.UnlistedURL(), providertest.Unknown, nil, events.ProviderInvalid, ""},
		{"no list, a failure", s.UnlistedURL(), providertest.Failing, nil, events.ProviderUnreachable, providers.NotFound},
		{"nothing", s.URL(p) + "/v2", providertest.Works, nil, events.ProviderUnreachable, providers.NotFound},
	} {
		w := wish(s, p, c.condition)
		w.BaseURL = c.base
		out := newClient(t, s, providers.Config{Models: c.models}).Test(t.Context(), w)
		if out.Result != c.want || out.Reason != c.reason || out.Message() == "" {
			t.Errorf("%s: %s (%s, status %d), want %s (%s)", c.name, out.Result, out.Reason, out.Status, c.want, c.reason)
		}
	}
	if s.Strayed() {
		t.Error("a key stood in an address, or in a header of another use")
	}
}

// TestRedirectsAreNotFollowed: the key stays where it was sent, whoever the client
// is that sends it.
func TestRedirectsAreNotFollowed(t *testing.T) {
	s := providertest.Start(t)
	followed := false
	plain := s.Client()
	plain.CheckRedirect = func(*http.Request, []*http.Request) error { followed = true; return errors.New("no further") }
	c := newClient(t, s, providers.Config{Doer: plain})
	out := c.Test(t.Context(), wish(s, events.ProviderAnthropic, providertest.Redirected))
	if followed || out.Reason != providers.Redirect || out.Status != http.StatusTemporaryRedirect {
		t.Errorf("followed: %v, %s (%s)", followed, out.Result, out.Reason)
	}
}

// TestTheOperatorsOwnAddresses: what an operator has asked in the place of a provider
// goes by another door than what customers name.
func TestTheOperatorsOwnAddresses(t *testing.T) {
	s := providertest.Start(t)
	c := newClient(t, s, providers.Config{Doer: doer{egress.ErrForbidden}, Own: s.Client()})
	for _, p := range events.Providers() {
		out := c.Test(t.Context(), wish(s, p, providertest.Works))
		if named := s.BaseURL(p) != ""; out.Works() == named || named && out.Reason != providers.ForbiddenAddress {
			t.Errorf("%s: %s (%s)", p, out.Result, out.Reason)
		}
	}
}

// doer answers every request with an error.
type doer struct{ err error }

func (d doer) Do(*http.Request) (*http.Response, error) { return nil, d.err }

// TestWithoutAnAnswer: what kept the answer away is told, and not in the words of
// the error, which have the address.
func TestWithoutAnAnswer(t *testing.T) {
	s := providertest.Start(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "https://" + free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	p := events.ProviderOpenAICompatible
	for _, c := range []struct {
		name string
		doer providers.Doer
		want providers.Reason
	}{
		{"nobody listens", http.DefaultClient, providers.Refused},
		{"no such name", doer{&net.DNSError{Err: "no such host", Name: "secret.example", IsNotFound: true}}, providers.UnknownName},
		{"too slow", doer{context.DeadlineExceeded}, providers.Timeout},
		{"a forbidden address", doer{fmt.Errorf("dial: %w", egress.ErrForbidden)}, providers.ForbiddenAddress},
		{"a name of the door's", doer{egress.ErrName}, providers.UnknownName},
		{"something else", doer{errors.New("secret")}, providers.Refused},
	} {
		w := wish(s, p, providertest.Works)
		w.BaseURL = nobody
		out := newClient(t, s, providers.Config{Doer: c.doer}).Test(t.Context(), w)
		if out.Result != events.ProviderUnreachable || out.Reason != c.want || out.Status != 0 || strings.Contains(out.Message(), "secret") {
			t.Errorf("%s: %+v", c.name, out)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if out := newClient(t, s, providers.Config{}).Test(ctx, wish(s, p, providertest.Slow)); out.Reason != providers.Timeout {
		t.Errorf("a caller who went: %s (%s)", out.Result, out.Reason)
	}
	if out := newClient(t, s, providers.Config{}).Test(t.Context(), providers.Wish{Provider: "groq", Secret: "x"}); out.Works() || out.Reason != providers.Unasked {
		t.Errorf("an unknown provider: %s (%s)", out.Result, out.Reason)
	}
}

// much answers with a list and spaces after it, and counts what is read of them.
type much struct {
	spaces int
	read   int
}

func (m *much) Do(*http.Request) (*http.Response, error) {
	body := io.MultiReader(strings.NewReader(`{"data":[]}`), m)
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(body)}, nil
}

func (m *much) Read(p []byte) (int, error) {
	n := min(len(p), m.spaces-m.read)
	if n == 0 {
		return 0, io.EOF
	}
	for i := range p[:n] {
		p[i] = ' '
	}
	m.read += n
	return n, nil
}

// TestBounded: no more of an answer is read than is bounded, and what is longer is
// none.
func TestBounded(t *testing.T) {
	s := providertest.Start(t)
	list := len(`{"data":[]}`)
	for spaces, want := range map[int]events.ProviderResult{
		providers.MaxBody - list:     events.ProviderWorks,
		providers.MaxBody - list + 1: events.ProviderUnreachable,
		4 * providers.MaxBody:        events.ProviderUnreachable,
	} {
		m := &much{spaces: spaces}
		out := newClient(t, s, providers.Config{Doer: m}).Test(t.Context(), wish(s, events.ProviderOpenAI, providertest.Works))
		if out.Result != want || m.read > providers.MaxBody {
			t.Errorf("%d spaces: %s (%s), %d were read", spaces, out.Result, out.Reason, m.read)
		}
	}
}

// TestReasons: what a customer has to do differs within a result.
func TestReasons(t *testing.T) {
	s := providertest.Start(t)
	c := newClient(t, s, providers.Config{})
	for condition, want := range map[providertest.Condition]providers.Reason{
		providertest.QuotaExhausted:  providers.QuotaExhausted,
		providertest.RateLimited:     "",
		providertest.OtherAddress:    providers.SourceAddress,
		providertest.OtherRegion:     providers.Region,
		providertest.ServiceDisabled: providers.ServiceDisabled,
		providertest.Restricted:      providers.Scopes,
		providertest.Overloaded:      providers.ServerError,
		providertest.HTMLPage:        providers.Unintelligible,
		providertest.HTMLError:       providers.Unintelligible,
	} {
		for _, p := range events.Providers() {
			if _, ok := providertest.Conditions(p)[condition]; !ok {
				continue
			}
			if out := c.Test(t.Context(), wish(s, p, condition)); out.Reason != want {
				t.Errorf("%s, %s: %s, want %s", p, condition, out.Reason, want)
			}
		}
	}
	if out := c.Test(t.Context(), wish(s, events.ProviderOpenAI, providertest.RateLimited)); out.RetryAfter != 20*time.Second {
		t.Errorf("again after %s", out.RetryAfter)
	}
}

// TestWishPrintsNoSecret: under no verb and in no encoding.
func TestWishPrintsNoSecret(t *testing.T) {
	w := providers.Wish{Provider: events.ProviderOpenAI, Secret: providertest.Key(events.ProviderOpenAI, providertest.Works)}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("testing", "wish", w, "within", struct{ W providers.Wish }{w})
	encoded, err := json.Marshal(map[string]any{"wish": w})
	if err != nil {
		t.Fatal(err)
	}
	text := log.String() + string(encoded)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		text += fmt.Sprintf(verb, w) + fmt.Sprintf(verb, &w) + fmt.Sprintf(verb, []providers.Wish{w})
	}
	if strings.Contains(text, w.Secret) || strings.Contains(text, fmt.Sprintf("%x", w.Secret)) {
		t.Error("the secret is printed")
	}
}

// TestConfig: what is wrong is said before anything is asked.
func TestConfig(t *testing.T) {
	many := make([]string, events.MaxModels+1)
	for i := range many {
		many[i] = fmt.Sprint("m", i)
	}
	type endpoints = map[events.ProviderID]string
	type models = map[events.ProviderID][]string
	for name, c := range map[string]providers.Config{
		"no client":              {},
		"a negative timeout":     {Doer: http.DefaultClient, Timeout: -1},
		"an unknown provider":    {Doer: http.DefaultClient, Endpoints: endpoints{"groq": "https://api.groq.com"}},
		"an endpoint with http":  {Doer: http.DefaultClient, Endpoints: endpoints{events.ProviderOpenAI: "http://api.example.com"}},
		"an endpoint of Azure":   {Doer: http.DefaultClient, Endpoints: endpoints{events.ProviderAzureOpenAI: "https://api.example.com"}},
		"models of nobody":       {Doer: http.DefaultClient, Models: models{"groq": {"m"}}},
		"a model without a name": {Doer: http.DefaultClient, Models: models{events.ProviderOpenAI: {""}}},
		"a model with a space":   {Doer: http.DefaultClient, Models: models{events.ProviderOpenAI: {"a b"}}},
		"a model named twice":    {Doer: http.DefaultClient, Models: models{events.ProviderOpenAI: {"a", "a"}}},
		"too many models":        {Doer: http.DefaultClient, Models: models{events.ProviderOpenAI: many}},
		"a model's long name":    {Doer: http.DefaultClient, Models: models{events.ProviderOpenAI: {strings.Repeat("m", events.MaxModelLength+1)}}},
	} {
		if _, err := providers.New(c); err == nil || !strings.HasPrefix(err.Error(), "providers: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := providers.New(providers.Config{Doer: http.DefaultClient, Endpoints: endpoints{events.ProviderOpenAI: "https://eu.api.openai.com/v1/"}, Models: models{events.ProviderOpenAI: many[1:]}}); err != nil {
		t.Error(err)
	}
}

// What to do about an address is told where the customer gave it, and nowhere else.
func TestAdviceFitsTheProvider(t *testing.T) {
	for _, reason := range []providers.Reason{providers.Redirect, providers.NotFound, providers.Unintelligible, providers.UnknownName} {
		for p, advised := range map[events.ProviderID]bool{
			events.ProviderOpenAI: false, events.ProviderGoogle: false, events.ProviderAzureOpenAI: true, events.ProviderOpenAICompatible: true,
		} {
			message := providers.Outcome{Provider: p, Result: events.ProviderUnreachable, Reason: reason}.Message()
			if strings.Contains(message, "base URL") != advised || strings.Contains(message, "OpenAI-compatible") {
				t.Errorf("%s, %s: says %q", p, reason, message)
			}
		}
	}
}
