package api_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/events"
	records "github.com/keyledger/keyledger/events/access"
	gather "github.com/keyledger/keyledger/relay/access"
	"github.com/keyledger/keyledger/relay/egress"
	"github.com/keyledger/keyledger/relay/providers"
	"github.com/keyledger/keyledger/relay/providers/providertest"
)

// byok is a server whose providers are on this machine, with an organization and the
// keys of some of its people.
type byok struct {
	*apitest.Server
	fake                   *providertest.Server
	owner, admin, resolver string
}

const keysOf = "/v1/organizations/acme/provider-keys"

func startBYOK(t *testing.T, change ...func(*api.Config)) byok {
	t.Helper()
	fake := providertest.Start(t)
	asked := func(c *api.Config) {
		var err error
		c.Providers.Models = map[events.ProviderID][]string{events.ProviderOpenAI: providertest.Models(events.ProviderOpenAI)}
		if c.Providers.Client, err = providers.New(providers.Config{Doer: fake.Client(), Endpoints: fake.Endpoints(), Models: c.Providers.Models}); err != nil {
			t.Fatal(err)
		}
	}
	b := byok{Server: apitest.Start(t, append([]func(*api.Config){asked}, change...)...), fake: fake}
	furnish(b.Server, "acme")
	b.owner = managementKey(t, b.Server, "acme", "owner", everywhere)
	b.admin = managementKey(t, b.Server, "acme", "admin", everywhere)
	b.resolver = managementKey(t, b.Server, "acme", "resolver", everywhere)
	return b
}

func key(c providertest.Condition) string { return providertest.Key(events.ProviderOpenAI, c) }

func isProblem(err error, code string) bool {
	var p *client.Problem
	return errors.As(err, &p) && p.Code == code
}

// resolved asks as the platform does.
func (b byok) resolved(t *testing.T, provider string) wire.ResolvedProviderKey {
	t.Helper()
	a := b.Must(200, b.resolver, "POST", keysOf+"/resolve", `{"provider":"`+provider+`"}`)
	if got := a.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("an answer with a secret may be kept: %q", got)
	}
	return as[wire.ResolvedProviderKey](t, a)
}

// The whole life of a provider key, through the Go client.
func TestLifeOfAProviderKey(t *testing.T) {
	b := startBYOK(t)
	ctx, c := t.Context(), clientOf(t, b.Server, b.admin)
	good, other := key(providertest.Works), key(providertest.Paged)
	if got := b.resolved(t, "openai"); got.Source != "built_in" || got.Reason != "not_connected" || got.Secret != "" {
		t.Errorf("before: %+v", got)
	}
	made, err := c.AddProviderKey(ctx, "acme", wire.CreateProviderKey{Provider: "openai", Secret: wire.ProviderSecret(good), Name: "Ours", Reason: "pilot"})
	if err != nil {
		t.Fatal(err)
	}
	if made.ID != "openai" || made.State != "untested" || made.Version != 1 || made.LastFour != good[len(good)-4:] || made.Masked != "…"+made.LastFour || made.Name != "Ours" {
		t.Errorf("%+v", made)
	}
	var meta client.Answered
	shown, err := c.ProviderKey(ctx, "acme", "openai", client.Meta(&meta))
	if err != nil || shown.Position != made.Position || shown.LastFour != made.LastFour || meta.ETag != `"1"` {
		t.Errorf("%+v, %+v, %v", shown, meta, err)
	}
	test, err := c.TestProviderKey(ctx, "acme", "openai")
	if err != nil || !test.Works || test.Version != 1 || test.Status != 200 || test.Message == "" {
		t.Errorf("%+v, %v", test, err)
	}
	if _, err := c.UpdateProviderKey(ctx, "acme", "openai", wire.UpdateProviderKey{Name: wire.Some("x")}, client.IfMatch(`"1"`)); !isProblem(err, "stale_revision") {
		t.Errorf("on the revision before the test: %v", err)
	}
	if got := b.resolved(t, "openai"); got.Source != "customer" || got.Secret.Reveal() != good || got.LastTest == nil || got.LastTest.Result != "works" {
		t.Errorf("%+v", got)
	}
	replaced, err := c.UpdateProviderKey(ctx, "acme", "openai", wire.UpdateProviderKey{Secret: wire.ProviderSecret(other), Name: wire.Null[string]()})
	if err != nil || replaced.Version != 2 || replaced.State != "untested" || replaced.ReplacedAt == nil || replaced.Name != "" || replaced.LastTest != nil {
		t.Errorf("%+v, %v", replaced, err)
	}
	if got := b.resolved(t, "openai"); got.Version != 2 || got.Secret.Reveal() != other || got.LastTest != nil {
		t.Errorf("%+v", got)
	}
	b.fake.Set(events.ProviderOpenAI, other, providertest.Revoked)
	if test, err = c.TestProviderKey(ctx, "acme", "openai"); err != nil || test.Works {
		t.Errorf("revoked at the provider: %+v, %v", test, err)
	}
	list, err := c.ProviderKeys(ctx, "acme")
	if err != nil || len(list.Items) != 1 || list.Items[0].State != "failing" || list.Items[0].LastTest.Version != 2 || list.Items[0].LastResolvedAt == nil {
		t.Errorf("%+v, %v", list, err)
	}
	if done, err := clientOf(t, b.Server, b.Owner).RewrapProviderKeys(ctx); err != nil || done != (wire.RewrappedProviderKeys{Current: 1}) {
		t.Errorf("%+v, %v", done, err)
	}
	if _, err := c.RemoveProviderKey(ctx, "acme", "openai"); err != nil {
		t.Error(err)
	}
	if got := b.resolved(t, "openai"); got.Source != "built_in" {
		t.Errorf("after: %+v", got)
	}
	if _, err := c.ProviderKey(ctx, "acme", "openai"); !isProblem(err, "not_found") {
		t.Errorf("after: %v", err)
	}
	page, err := c.ProviderKeyResolves(ctx, "acme", "openai", client.Page{Limit: 3})
	if err != nil || len(page.Items) != 3 || page.NextCursor == "" || page.Items[0].Answer != "built_in" || page.Items[1].Version != 2 ||
		page.Items[1].ActorName != "resolver" || page.Items[1].Role != "resolver" || page.Items[1].Source == "" {
		t.Errorf("%+v, %v", page, err)
	}
	for _, secret := range []string{good, other} {
		if strings.Contains(b.Log.String(), secret) || strings.Contains(b.Must(200, "", "GET", "/metrics", "").Body, secret) {
			t.Error("a secret stands in the log, or in metrics")
		}
	}
	told := b.Must(200, b.owner, "GET", "/v1/organizations/acme/audit/events?type=provider_key.new_source", "")
	if !strings.Contains(told.Body, `"type":"provider_key.new_source"`) {
		// It is noted after the answer.
		b.eventually(t, "provider_key.new_source")
	}
}

// eventually waits for an event of a type.
func (b byok) eventually(t *testing.T, kind string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if strings.Contains(b.Must(200, b.owner, "GET", "/v1/organizations/acme/audit/events?type="+kind, "").Body, `"type":"`+kind) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s", kind)
		}
	}
}

// A wish that is repeated meets its outcome, by its secret too, of which nothing that
// a guess could be tried on is kept.
func TestProviderKeysAreAddedOnce(t *testing.T) {
	b := startBYOK(t)
	body := func(secret string) string { return `{"provider":"openai","secret":"` + secret + `"}` }
	good := key(providertest.Works)
	first := b.Must(201, b.admin, "POST", keysOf, body(good), "Idempotency-Key", "one")
	again := b.Must(201, b.admin, "POST", keysOf, body(good), "Idempotency-Key", "one")
	if again.Header.Get("Idempotency-Replayed") != "true" || as[wire.ProviderKey](t, again).Position != as[wire.ProviderKey](t, first).Position {
		t.Errorf("%v %s", again.Header, again.Body)
	}
	if a := b.Must(422, b.admin, "POST", keysOf, body(key(providertest.Gzip)), "Idempotency-Key", "one"); problem(t, a).Code != "idempotency_key_reused" {
		t.Error(a.Body)
	}
	if a := b.Must(409, b.admin, "POST", keysOf, body(good)); problem(t, a).Code != "provider_key_exists" {
		t.Error(a.Body)
	}
	tested := b.Must(200, b.admin, "POST", keysOf+"/openai/test", "", "Idempotency-Key", "two")
	n := len(b.fake.Requests(events.ProviderOpenAI))
	again = b.Must(200, b.admin, "POST", keysOf+"/openai/test", "", "Idempotency-Key", "two")
	if len(b.fake.Requests(events.ProviderOpenAI)) != n || again.Header.Get("Idempotency-Replayed") != "true" || again.Body != tested.Body {
		t.Errorf("%s, and again %s", tested.Body, again.Body)
	}
}

// What cannot be right is refused by name, and nothing is sent anywhere.
func TestProviderKeysRefused(t *testing.T) {
	const compatible = "llm-aB3dE5gH7jK9mN1pQ3sT5vX7"
	b := startBYOK(t, func(c *api.Config) {
		c.Providers.Reach = func(_ context.Context, base string) error {
			if strings.Contains(base, "private") {
				return egress.ErrForbidden
			}
			return egress.ErrName
		}
	})
	good := key(providertest.Works)
	for refused, want := range map[string]string{
		`{"provider":"opnai","secret":"` + good + `"}`:                                                        "provider_unknown",
		`{"secret":"` + good + `"}`:                                                                           "invalid_value",
		`{"provider":"openai"}`:                                                                               "invalid_value",
		`{"provider":"anthropic","secret":"` + good + `"}`:                                                    "provider_key_malformed",
		`{"provider":"openai","secret":" ` + good + `"}`:                                                      "provider_key_malformed",
		`{"provider":"openai","secret":"` + good + `","base_url":"https://llm.example.com"}`:                  "base_url_forbidden",
		`{"provider":"openai-compatible","secret":"` + compatible + `"}`:                                      "base_url_required",
		`{"provider":"openai-compatible","secret":"` + compatible + `","base_url":"http://a.example"}`:        "base_url_forbidden",
		`{"provider":"openai-compatible","secret":"` + compatible + `","base_url":"https://private.example"}`: "base_url_forbidden",
		`{"provider":"openai","secret":"` + good + `","name":"it is ` + good + `"}`:                           "secret_in_field",
	} {
		a := b.Must(422, b.admin, "POST", keysOf, refused)
		if p := problem(t, a); p.Code != want || strings.Contains(a.Body, good) || (p.Problem == "") != (want != "provider_key_malformed") {
			t.Errorf("%s: %s, want %s", refused, a.Body, want)
		}
	}
	body := `{"provider":"openai-compatible","secret":"` + compatible + `","base_url":"https://llm.example.com/v1/"}`
	if a := b.Must(422, b.admin, "POST", keysOf, body, "X-Request-Id", compatible); strings.Contains(a.Body+a.Header.Get("X-Request-Id"), compatible) {
		t.Errorf("%v %s", a.Header, a.Body)
	}
	// Where no secret is expected, what looks like one is no request id, nor told of.
	if a := b.Must(200, b.admin, "GET", keysOf, "", "X-Request-Id", good, "User-Agent", good); strings.Contains(a.Header.Get("X-Request-Id"), good) {
		t.Errorf("%v", a.Header)
	}
	// A name that does not resolve today may do so tomorrow.
	b.Must(201, b.admin, "POST", keysOf, body)
	if a := b.Must(422, b.admin, "PATCH", keysOf+"/openai-compatible", `{"base_url":"https://other.example.com"}`); problem(t, a).Field != "base_url" {
		t.Error(a.Body)
	}
	// A secret that is there and empty is none to keep, and none to replace one with.
	for _, empty := range []string{`{"secret":""}`, `{"name":"a","secret":null}`} {
		if p := problem(t, b.Must(422, b.admin, "PATCH", keysOf+"/openai-compatible", empty)); p.Code != "invalid_value" || p.Field != "secret" {
			t.Errorf("%s: %+v", empty, p)
		}
	}
	b.Must(400, b.admin, "PATCH", keysOf+"/openai-compatible", `{"secret":5}`)
	b.Must(200, b.Owner, "PATCH", "/v1/organizations/acme", `{"plan":"starter"}`)
	for path, body := range map[string]string{keysOf: `{"provider":"openai","secret":"` + good + `"}`, keysOf + "/test": `{"provider":"openai","secret":"` + good + `"}`} {
		if a := b.Must(403, b.admin, "POST", path, body); problem(t, a).Code != "plan_required" || !strings.Contains(a.Body, "growth") {
			t.Errorf("%s: %s", path, a.Body)
		}
	}
	if n := len(b.fake.Requests(events.ProviderOpenAI)); n != 0 || strings.Contains(b.Log.String(), good) || strings.Contains(b.Log.String(), compatible) {
		t.Errorf("%d requests, or the secret in the log", n)
	}
}

// A key is tested before it is saved, as often as is reasonable.
func TestPastedProviderKeys(t *testing.T) {
	b := startBYOK(t)
	ask := func(c providertest.Condition) apitest.Answer {
		return b.Do(b.admin, "POST", keysOf+"/test", `{"provider":"openai","secret":"`+key(c)+`"}`)
	}
	for c, want := range providertest.Conditions(events.ProviderOpenAI) {
		if c == providertest.Slow || c == providertest.Endless {
			continue
		}
		a := ask(c)
		got := as[wire.ProviderTest](t, a)
		if a.Status != 200 || got.Result != string(want) || got.Works != (want == events.ProviderWorks) || strings.Contains(a.Body, key(c)) || got.MissingModels == nil {
			t.Errorf("%s: %s, want %s", c, a.Body, want)
		}
	}
	if got := as[wire.List[wire.ProviderKey]](t, b.Must(200, b.admin, "GET", keysOf, "")); len(got.Items) != 0 {
		t.Errorf("something was saved: %+v", got)
	}
	limited := apitest.Answer{}
	for range 100 {
		if limited = ask(providertest.Works); limited.Status != 200 {
			break
		}
	}
	if limited.Status != 429 || problem(t, limited).Code != "rate_limited" || limited.Header.Get("Retry-After") == "" {
		t.Errorf("%v %s", limited.Header, limited.Body)
	}
	// So are looks at addresses, which tell something of where they lead.
	// There may be one more by now, and no second within its two seconds.
	for range 100 {
		limited = b.Do(b.admin, "POST", keysOf+"?dry_run=true", `{"provider":"openai-compatible","secret":"llm-aB3dE5gH7jK9mN1pQ3sT5vX7","base_url":"https://llm.example.com"}`)
		if limited.Status != 200 {
			break
		}
	}
	if limited.Status != 429 || problem(t, limited).Code != "rate_limited" {
		t.Error(limited.Body)
	}
	// What is not sent anywhere is told all the same.
	a := b.Must(200, b.admin, "POST", keysOf+"/test", `{"provider":"anthropic","secret":"`+key(providertest.Works)+`"}`)
	if got := as[wire.ProviderTest](t, a); got.Result != "malformed" || got.Problem != "other_provider" || got.LooksLike != "openai" {
		t.Error(a.Body)
	}
	told := accesses(t, b.Server, b.owner, "acme", "&kind="+string(records.ProviderKeyTested), func(list []wire.Access) bool { return len(list) >= 4 })
	for _, r := range told {
		if r.Code == "" || r.What != "openai" && r.What != "anthropic" {
			t.Errorf("%+v", r)
		}
	}
	if strings.Contains(b.Log.String(), "sk-") {
		t.Error("the log tells of a secret")
	}
}

// A provider that was shown the saved secret stands on record, also where no event
// tells of it.
func TestDryTestsAreOnRecord(t *testing.T) {
	b := startBYOK(t)
	b.Must(201, b.admin, "POST", keysOf, `{"provider":"openai","secret":"`+key(providertest.Works)+`"}`)
	b.Must(200, b.admin, "POST", keysOf+"/openai/test?dry_run=true", "")
	if n := len(b.fake.Requests(events.ProviderOpenAI)); n == 0 {
		t.Error("nobody was asked")
	}
	if got := as[wire.ProviderKey](t, b.Must(200, b.admin, "GET", keysOf+"/openai", "")); got.LastTest != nil {
		t.Errorf("%+v", got.LastTest)
	}
	for _, r := range accesses(t, b.Server, b.owner, "acme", "&kind="+string(records.ProviderKeyTested), func(list []wire.Access) bool { return len(list) > 0 }) {
		if r.What != "openai" || r.Code != "works" || r.Count != 1 {
			t.Errorf("%+v", r)
		}
	}
}

// startDeaf is startBYOK, with a provider connected, where nothing can be recorded any
// more.
func startDeaf(t *testing.T) (byok, *gather.Gatherer) {
	t.Helper()
	var deaf *gather.Gatherer
	b := startBYOK(t, func(c *api.Config) {
		var err error
		deaf, err = gather.New(gather.Config{
			Ledger: c.Positions.Ledger, Server: "deaf", Sink: nowhere{},
			Tell: func(context.Context, string, string) (string, records.SourceKind) { return "", "" },
		})
		if err != nil {
			t.Fatal(err)
		}
		deaf.Start()
		c.Accesses = deaf
	})
	connect(b.Server, "acme")
	if err := deaf.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b, deaf
}

// What cannot be recorded is not handed out.
func TestResolvesAreRecordedFirst(t *testing.T) {
	b, _ := startDeaf(t)
	a := b.Must(503, b.resolver, "POST", keysOf+"/resolve", `{"provider":"openai"}`)
	if strings.Contains(a.Body, openAIKey) || strings.Contains(a.Body, "built_in") || a.Header.Get("Retry-After") == "" {
		t.Errorf("%v %s", a.Header, a.Body)
	}
}

// A key that is revoked while its resolve is recorded gets nothing.
func TestRevokedWhileResolving(t *testing.T) {
	at := &meanwhile{}
	b := startBYOK(t, func(c *api.Config) {
		var err error
		c.Accesses, err = gather.New(gather.Config{
			Ledger: c.Positions.Ledger, Server: "slow", Sink: at,
			Tell: func(context.Context, string, string) (string, records.SourceKind) { return "", "" },
		})
		if err != nil {
			t.Fatal(err)
		}
		c.Accesses.Start()
		t.Cleanup(func() {
			if err := c.Accesses.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	})
	connect(b.Server, "acme")
	doomed := as[wire.Created](t, b.Must(201, b.owner, "POST", "/v1/organizations/acme/keys", `{"kind":"management","role":"resolver","scope":{"all_workspaces":true}}`))
	at.set(func() { b.Must(200, b.owner, "DELETE", "/v1/organizations/acme/keys/"+doomed.Key.ID, "") })
	a := b.Must(401, doomed.Secret, "POST", keysOf+"/resolve", `{"provider":"openai"}`)
	if strings.Contains(a.Body, openAIKey) {
		t.Error(a.Body)
	}
	if got := b.resolved(t, "openai"); got.Secret.Reveal() != openAIKey {
		t.Errorf("another key: %+v", got)
	}
}

// meanwhile does something once, before it has stored a resolve.
type meanwhile struct {
	mu sync.Mutex
	do func()
}

func (m *meanwhile) set(do func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.do = do
}

func (m *meanwhile) PublishAccess(_ context.Context, list []records.Message) error {
	for _, r := range list {
		if !bytes.Contains(r.Body, []byte(records.ProviderKeyResolved)) {
			continue
		}
		m.mu.Lock()
		do := m.do
		m.do = nil
		m.mu.Unlock()
		if do != nil {
			do()
		}
	}
	return nil
}

// nowhere takes records and keeps none.
type nowhere struct{}

func (nowhere) PublishAccess(context.Context, []records.Message) error { return nil }

// Who is refused is recorded with the provider that was asked for; what another
// organization has is recorded at home.
func TestRefusedResolves(t *testing.T) {
	b := startBYOK(t)
	furnish(b.Server, "other")
	connect(b.Server, "acme")
	stranger := managementKey(t, b.Server, "other", "resolver", everywhere)
	for caller, want := range map[string]int{b.admin: 403, stranger: 404} {
		if a := b.Must(want, caller, "POST", keysOf+"/resolve", `{"provider":"openai"}`); strings.Contains(a.Body, openAIKey) {
			t.Error(a.Body)
		}
	}
	b.Must(422, b.resolver, "POST", keysOf+"/resolve", `{"provider":"opnai"}`)
	r := only(t, accesses(t, b.Server, b.owner, "acme", "&kind=provider_key.resolved", counted(1)))
	if r.Code != "forbidden" || r.What != "openai" || r.Role != "admin" || r.Answer != "" {
		t.Errorf("%+v", r)
	}
	r = only(t, accesses(t, b.Server, b.Owner, "other", "&kind=command.denied", counted(1)))
	if r.Code != "not_found" || r.What != "resolve-provider-key" {
		t.Errorf("%+v", r)
	}
	shown := as[wire.List[wire.ProviderKeyResolve]](t, b.Must(200, b.owner, "GET", keysOf+"/openai/resolves", ""))
	if len(shown.Items) != 1 || shown.Items[0].Code != "forbidden" || shown.Items[0].Answer != "" {
		t.Errorf("%+v", shown)
	}
}

// A server without what opens secrets says so, and shows everything else.
func TestLastFourIsLeftOut(t *testing.T) {
	b := startBYOK(t, func(c *api.Config) { c.Providers.LastFour = nil })
	connect(b.Server, "acme")
	got := as[wire.List[wire.ProviderKey]](t, b.Must(200, b.admin, "GET", keysOf, ""))
	if len(got.Items) != 1 || got.Items[0].LastFour != "" || got.Items[0].Masked != "" || got.Items[0].State != "untested" {
		t.Errorf("%+v", got)
	}
}
