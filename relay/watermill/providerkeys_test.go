package watermill_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/relay/watermill"
)

// aboutProviderKey is one fact of each kind that there is about provider keys.
func aboutProviderKey() []events.Event {
	sealed := events.SealedSecret{DataKey: events.DataKeyID{1}, Secret: "c2VhbGVk", LastFour: "Zm91cg"}
	at := events.TimeOf(time.Now())
	return []events.Event{
		events.ProviderKeyAdded{Provider: events.ProviderOpenAI, Version: 1, Name: events.ClearText("Research"), Sealed: sealed},
		events.ProviderKeyTested{Version: 1, At: at, Result: events.ProviderMissingModels, MissingModels: []string{"gpt-5"}, Status: 200},
		events.ProviderKeyNewSource{At: at, By: keyID(1), Source: "00", First: true},
		events.ProviderKeyResolvesSpike{From: at, Resolves: 700, Threshold: 600},
		events.ProviderKeyFailing{Of: events.FailingResolves, Since: at, Failures: 5, Code: "forbidden"},
		events.ProviderKeyReplaced{Version: 2, Sealed: sealed, Replaces: events.DataKeyID{1}},
		events.ProviderKeyRenamed{Name: events.ClearText("Production")},
		events.ProviderKeyRemoved{DataKey: events.DataKeyID{1}},
	}
}

// Whoever follows the provider keys of an organization hears of everything that
// happens to them, in its order, and of nothing else.
func TestProviderKeys(t *testing.T) {
	b := broker(t)
	conn := operator(t, b)
	want := aboutProviderKey()
	of := 0
	for _, kind := range events.Kinds() {
		if strings.HasPrefix(string(kind), string(events.AggregateProviderKey)+".") {
			of++
		}
	}
	if of != len(want) {
		t.Fatalf("there are %d kinds about provider keys, and %d are tested", of, len(want))
	}
	for i, e := range want {
		fact := entry(events.ProviderKeySubject("acme", events.ProviderOpenAI), e)
		fact.Meta.Revision = events.Revision(i + 1)
		record(t, b.Conn(), fact, revocation("acme", i), entry(events.ProviderKeySubject("other", events.ProviderOpenAI), e))
	}
	for name, c := range map[string]struct {
		subjects []string
		orgs     []events.OrgID
	}{
		"one": {watermill.ProviderKeys("acme"), []events.OrgID{"acme"}},
		"all": {watermill.ProviderKeys(), []events.OrgID{"acme", "other"}},
	} {
		messages := subscribe(t, follower(t, watermill.FollowerConfig{
			Conn: conn, Ledger: ledgerID, Topics: map[string][]string{"p": c.subjects}, Delivery: swift(name),
		}), "p")
		for _, e := range want {
			for _, org := range c.orgs {
				m := next(t, messages)
				got, err := watermill.Decode(m)
				if err != nil || got.Subject != events.ProviderKeySubject(org, events.ProviderOpenAI) || !reflect.DeepEqual(got.Event, e) {
					t.Errorf("%s: %+v, %v, want %+v of %s", name, got, err, e, org)
				}
				if kind := m.Metadata.Get(watermill.MetadataKind); kind != string(e.Kind()) {
					t.Errorf("%s: a message of kind %s, want %s", name, kind, e.Kind())
				}
				m.Ack()
			}
		}
	}
}
