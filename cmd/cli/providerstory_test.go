package cli

import (
	"testing"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/events"
)

// What happened to a provider key reads the same, be it told by the event or by what
// it changed.
func TestStoriesOfProviderKeys(t *testing.T) {
	const since = events.Time(1_795_240_000_000_000)
	changed := func(pairs ...any) (list []wire.FieldChange) {
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, wire.FieldChange{Field: pairs[i].(string), After: pairs[i+1]})
		}
		return list
	}
	by := events.KeyID{0: 1, 6: 0x70, 8: 0x80, 15: 0xab}
	at := since.Std().Format("2006-01-02T15:04:05.000000Z")
	for _, tt := range []struct {
		event   events.Event
		changes []wire.FieldChange
		want    string
	}{
		{
			events.ProviderKeyAdded{Version: 3, BaseURL: "https://a.example"},
			changed("version", 3.0, "base_url", "https://a.example", "secret", "(sealed)"), "connected, version 3 at https://a.example",
		},
		{events.ProviderKeyAdded{Version: 1}, changed("version", 1.0), "connected, version 1"},
		{events.ProviderKeyRenamed{Name: events.ClearText("Research")}, changed("name", "Research"), "renamed Research"},
		{events.ProviderKeyRenamed{}, changed("name", nil), "name removed"},
		{
			events.ProviderKeyTested{Result: events.ProviderMissingModels, MissingModels: []string{"gpt-5", "o4-mini"}},
			changed("last_test.result", "missing_models", "last_test.missing_models", []any{"gpt-5", "o4-mini"}), "tested, missing models gpt-5, o4-mini",
		},
		{events.ProviderKeyTested{Result: events.ProviderWorks}, changed("last_test.result", "works"), "tested, works"},
		{events.ProviderKeyRemoved{}, changed("secret", nil, "deleted", true), "removed"},
		{events.ProviderKeyNewSource{By: by}, changed("by", by.String()), "resolved from a new address, by key " + shortID(by.String())},
		{events.ProviderKeyNewSource{By: by, First: true}, changed("by", by.String(), "first", true), "resolved for the first time, by key " + shortID(by.String())},
		{
			events.ProviderKeyResolvesSpike{From: since, Resolves: 612, Threshold: 600},
			changed("from", at, "resolves", 612.0, "threshold", 600.0),
			"resolved 612 times within a minute from 2026-11-21 05:46:40 UTC on",
		},
		{
			events.ProviderKeyFailing{Of: events.FailingTests, Since: since, Failures: 3, Code: "expired_or_revoked"},
			changed("of", "tests", "since", at, "failures", 3.0, "code", "expired_or_revoked"),
			"tests failed 3 times since 2026-11-21 05:46:40 UTC, the last was expired or revoked",
		},
	} {
		if got := happened(tt.event); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.event.Kind(), got, tt.want)
		}
		c := wire.Change{Type: tt.event.Kind().Name(), Aggregate: "provider_key", ID: "openai", Changes: tt.changes}
		if got := headline(c); got != tt.want {
			t.Errorf("%s by what it changed: %q, want %q", tt.event.Kind(), got, tt.want)
		}
		if got := aboutChange(c); got != "provider key openai" {
			t.Error(got)
		}
	}
}
