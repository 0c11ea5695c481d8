package api_test

import (
	"strings"
	"testing"

	"github.com/keyledger/keyledger/events"
)

// A secret that does not open is on record as that, and never answered as built_in.
func TestSecretThatDoesNotOpen(t *testing.T) {
	b := startBYOK(t)
	connect(b.Server, "acme")
	facts, err := b.Ledger.Load(t.Context(), events.ProviderKeySubject("acme", events.ProviderOpenAI), 0)
	if err != nil || len(facts) != 1 {
		t.Fatal(facts, err)
	}
	if done, err := b.Envelopes.Destroy(t.Context(), facts[0].Event.(events.ProviderKeyAdded).Sealed.DataKey); err != nil || !done {
		t.Fatal(done, err)
	}
	if a := b.Must(503, b.resolver, "POST", keysOf+"/resolve", `{"provider":"openai"}`); strings.Contains(a.Body, "built_in") {
		t.Error(a.Body)
	}
	r := only(t, accesses(t, b.Server, b.owner, "acme", "&kind=provider_key.resolved", counted(1)))
	if r.Code != "not_opened" || r.What != "openai" || r.Role != "resolver" || r.Answer != "" {
		t.Errorf("%+v", r)
	}
}

// An outage is not on record: it tells nothing of a provider key, and would be told of
// all of them.
func TestOutagesAreNoFailingResolves(t *testing.T) {
	b, deaf := startDeaf(t)
	before := deaf.Stats().Taken
	b.Must(503, b.resolver, "POST", keysOf+"/resolve", `{"provider":"openai"}`)
	if taken := deaf.Stats().Taken; taken != before {
		t.Errorf("%d are on record", taken-before)
	}
	b.Must(403, b.admin, "POST", keysOf+"/resolve", `{"provider":"openai"}`)
	if taken := deaf.Stats().Taken; taken != before+1 {
		t.Errorf("%d are on record after a refusal", taken-before)
	}
}
