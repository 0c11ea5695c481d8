package audit

import (
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/events"
)

// sealedSecret is what is told of a provider key's secret: that there is one. Its
// ciphertext is no text that anybody reads, and neither is its data key's id.
var sealedSecret = jsontext.Value(`"(sealed)"`)

// fieldSecret is a field of a provider key that has a secret.
const fieldSecret = "secret"

// providerKey reports whether it was about a provider key.
func (s *saying) providerKey(e events.Event) bool {
	switch e := e.(type) {
	case events.ProviderKeyAdded:
		s.text("provider", string(e.Provider))
		s.number("version", int(e.Version))
		s.personal("name", e.Name)
		s.text("base_url", e.BaseURL)
		s.set(fieldSecret, sealedSecret)
		s.yes(fieldDeleted, false)
		s.whole = append(s.whole, "last_test.")
	case events.ProviderKeyReplaced:
		s.number("version", int(e.Version))
		s.text("base_url", e.BaseURL)
		// Another one, that looks the same. Tests of the one before tell nothing of it.
		s.notes = append(s.notes, Change{fieldSecret, sealedSecret, sealedSecret})
		s.whole = append(s.whole, "last_test.")
	case events.ProviderKeyRenamed:
		s.personal("name", e.Name)
	case events.ProviderKeyTested:
		s.text("last_test.result", string(e.Result))
		s.time("last_test.at", e.At)
		s.number("last_test.version", int(e.Version))
		list(s, "last_test.missing_models", e.MissingModels)
		s.number("last_test.status", e.Status)
	case events.ProviderKeyRemoved:
		s.set(fieldSecret, nil)
		s.yes(fieldDeleted, true)
	default:
		return s.providerSignal(e)
	}
	return true
}

// providerSignal tells what happened around a provider key and is no part of it.
func (s *saying) providerSignal(e events.Event) bool {
	count := func(field string, n int) { s.note(field, strconv.AppendInt(nil, int64(n), 10)) }
	switch e := e.(type) {
	case events.ProviderKeyNewSource:
		s.note("resolved_at", s.instant(e.At))
		s.note("by", s.quoted(e.By.String()))
		s.note("source", s.quoted(string(e.Source)))
		if e.First {
			s.note("first", jsontext.Value("true"))
		}
	case events.ProviderKeyResolvesSpike:
		s.note("from", s.instant(e.From))
		count("resolves", e.Resolves)
		count("threshold", e.Threshold)
	case events.ProviderKeyFailing:
		s.note("of", s.quoted(string(e.Of)))
		s.note("since", s.instant(e.Since))
		count("failures", e.Failures)
		s.note("code", s.quoted(e.Code))
	default:
		return false
	}
	return true
}
