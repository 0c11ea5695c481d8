package asof_test

import (
	"errors"
	"iter"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/asof"
)

const (
	acme = events.OrgID("acme")
	t0   = events.Time(1_795_240_000_000_000)
	hour = events.Time(3600_000_000)
)

var (
	first  = events.KeyID{1, 6: 0x70, 8: 0x80}
	later  = events.KeyID{2, 6: 0x70, 8: 0x80}
	digest = events.Digest{Alg: events.SHA256, Value: events.DigestValue{7}}
)

// history numbers events, each its subject's next.
func history(all ...events.Recorded) iter.Seq2[events.Recorded, error] {
	revisions := map[events.Subject]events.Revision{}
	return func(yield func(events.Recorded, error) bool) {
		clear(revisions)
		for i, r := range all {
			revisions[r.Subject]++
			r.Position, r.Meta.Revision = events.Position(i+1), revisions[r.Subject]
			if !yield(r, nil) {
				return
			}
		}
	}
}

func fact(s events.Subject, e events.Event) events.Recorded {
	return events.Recorded{Subject: s, Event: e}
}

func asOne(all ...events.Recorded) []events.Recorded {
	for i := range all {
		all[i].Meta.BatchIndex, all[i].Meta.BatchSize = i+1, len(all)
	}
	return all
}

func begun(id events.KeyID) []events.Recorded {
	return []events.Recorded{
		fact(events.OrganizationSubject(acme), events.OrganizationCreated{ID: acme}),
		fact(events.CatalogSubject(acme), events.CatalogReplaced{Permissions: []events.CatalogPermission{{Name: "doc:read", Access: events.AccessRead}}}),
		fact(events.KeySubject(acme, id), events.KeyCreated{
			ID: id, KeyKind: events.KindAPI, Digest: digest, Permissions: events.Permissions{Level: events.LevelAll},
			Scope: events.Scope{AllWorkspaces: true}, ExpiresAt: t0 + hour,
		}),
	}
}

func answer(t *testing.T, a asof.Ask, all ...events.Recorded) asof.Answer {
	t.Helper()
	got, err := a.Of(history(all...))
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	return got[0]
}

func TestTheEventThatMadeItSo(t *testing.T) {
	key := events.KeySubject(acme, first)
	read := verify.Question{Permission: "doc:read"}
	none := fact(events.CatalogSubject(acme), events.CatalogReplaced{})
	again := fact(events.CatalogSubject(acme), begun(first)[1].Event)
	for name, tt := range map[string]struct {
		at    events.Time
		more  []events.Recorded
		code  events.Code
		by    events.Position
		asked verify.Question
	}{
		"its creation":            {t0, nil, events.CodeValid, 3, read},
		"its expiry, by creation": {t0 + hour, nil, events.CodeExpired, 3, read},
		"what changes nothing":    {t0, []events.Recorded{fact(key, events.KeyEnabled{})}, events.CodeValid, 3, read},
		"a change of its own":     {t0, []events.Recorded{fact(key, events.KeyDisabled{})}, events.CodeInactive, 4, read},
		"there and back":          {t0, []events.Recorded{fact(key, events.KeyDisabled{}), fact(key, events.KeyEnabled{})}, events.CodeValid, 5, read},
		"there and back as one":   {t0, asOne(fact(key, events.KeyDisabled{}), fact(key, events.KeyEnabled{})), events.CodeValid, 3, read},
		"the middle of one":       {t0, asOne(fact(key, events.KeyRenamed{}), fact(key, events.KeyDisabled{}), fact(key, events.KeyRenamed{})), events.CodeInactive, 5, read},
		"the catalog":             {t0, []events.Recorded{none}, events.CodeInsufficientPermissions, 4, read},
		"the catalog, twice":      {t0, []events.Recorded{none, again}, events.CodeValid, 5, read},
		"not the catalog":         {t0, []events.Recorded{none}, events.CodeValid, 3, verify.Question{}},
		"the organization's end":  {t0, []events.Recorded{fact(events.EndSubject(acme), events.OrganizationDeleted{})}, events.CodeRevoked, 4, read},
		"a query":                 {t0, nil, events.CodeValid, 3, verify.Question{Permission: "doc:read OR doc:write"}},
		"a query that is none":    {t0, nil, events.CodeInsufficientPermissions, 3, verify.Question{Permission: "doc:read OR"}},
		"another organization":    {t0, nil, events.CodeNotFound, 0, verify.Question{Within: "other"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := answer(t, asof.Ask{Question: tt.asked, At: tt.at}, append(begun(first), tt.more...)...)
			if got.ID != first || got.Code != tt.code || got.MadeBy != tt.by || got.At != tt.at {
				t.Errorf("%s by %d, not %s by %d", got.Code, got.MadeBy, tt.code, tt.by)
			}
		})
	}
}

func TestADigestIsOfOneKeyForEver(t *testing.T) {
	leads := func(events.Digest) (events.OrgID, events.KeyID, bool) { return "other", later, true }
	got := answer(t, asof.Ask{At: t0, Leads: leads}, append(begun(first), fact(events.RevokedSubject(acme, first), events.KeyRevoked{}))...)
	if got.Code != events.CodeNotFound || got.MadeBy != 3 || got.At != t0 {
		t.Errorf("%s by %d", got.Code, got.MadeBy)
	}
	leads = func(events.Digest) (events.OrgID, events.KeyID, bool) { return acme, first, true }
	if got := answer(t, asof.Ask{At: t0, Leads: leads}, begun(first)...); got.Code != events.CodeValid {
		t.Error(got.Code)
	}
}

func TestNothingIsToldOfAPastThatBreaksOff(t *testing.T) {
	broken := errors.New("broken")
	got, err := asof.Ask{At: t0}.Of(func(yield func(events.Recorded, error) bool) {
		for r := range history(begun(first)...) {
			if !yield(r, nil) {
				return
			}
		}
		yield(events.Recorded{}, broken)
	})
	if got != nil || !errors.Is(err, broken) {
		t.Error(got, err)
	}
}
