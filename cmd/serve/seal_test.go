package serve

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/uses"
)

// sealing is a sealer of uses over a ledger in memory.
type sealing struct {
	*useSealer
	subjects *seals.Subjects
	looked   atomic.Int32
	fail     atomic.Pointer[error]
}

func newSealing(t *testing.T) *sealing {
	t.Helper()
	text, err := seals.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := seals.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	id := events.LedgerID{1}
	log := memory.New(id)
	keys, err := seals.Make(t.Context(), log, key, id)
	if err != nil {
		t.Fatal(err)
	}
	s := &sealing{subjects: seals.NewSubjects(keys, log, id)}
	ready := make(chan struct{})
	close(ready)
	s.useSealer = &useSealer{
		sealing: func(org events.OrgID) bool { return org == "acme" }, ready: ready, sealer: s.subjects.RecentSealer,
		log: slog.New(slog.DiscardHandler), known: map[usedKey]events.DataSubject{},
		subject: func(_ context.Context, _ events.OrgID, id events.KeyID) (events.DataSubject, error) {
			s.looked.Add(1)
			if err := s.fail.Load(); err != nil {
				return "", *err
			}
			if id[15]%2 == 0 {
				return "person-7", nil
			}
			return events.DataSubject(id.String()), nil
		},
	}
	return s
}

// used are uses of some keys, with texts.
func used(n, keys int) []uses.Use {
	list := make([]uses.Use, n)
	for i := range list {
		list[i] = uses.Use{Key: events.KeyID{15: byte(i % keys)}, Context: uses.Context{
			RequestID: "request " + string(rune('a'+i%26)), Method: "GET", Path: "/people", ClientIP: "192.0.2.7", UserAgent: "curl/8",
		}}
	}
	return list
}

func TestUsesAreSealedForTheirDataSubjects(t *testing.T) {
	s := newSealing(t)
	if !s.Sealing("acme") || s.Sealing("other") {
		t.Error("it is not the organization that says what is sealed")
	}
	clear, list := used(300, 40), used(300, 40)
	s.SealUses(t.Context(), "acme", list)
	for i, u := range list {
		subject := u.Key.String()
		if u.Key[15]%2 == 0 {
			subject = "person-7"
		}
		for _, text := range [][2]string{
			{u.RequestID, clear[i].RequestID}, {u.Path, clear[i].Path}, {u.ClientIP, clear[i].ClientIP}, {u.UserAgent, clear[i].UserAgent},
		} {
			sealed, ok := uses.ParseSealed(text[0])
			if !ok || sealed.Subject != subject {
				t.Fatalf("use %d: %q", i, text[0])
			}
			if got, err := s.subjects.Open(t.Context(), "acme", sealed, seals.TextOfUse); err != nil || got != text[1] {
				t.Fatalf("use %d: %q, %v", i, got, err)
			}
		}
		if u.Method != "GET" || u.Key != clear[i].Key {
			t.Fatalf("use %d: %+v", i, u)
		}
	}
	// What a use comes from is told by its sealed text: it is the same each time.
	again := used(300, 40)
	s.SealUses(t.Context(), "acme", again)
	if !slices.Equal(again, list) {
		t.Error("the same texts are sealed in another way")
	}
	if n := s.looked.Load(); n != 40 {
		t.Errorf("the data subjects of 40 keys were looked up %d times", n)
	}
}

// A text that cannot be sealed is not replaced, which has the recorder leave it
// out, and the others are.
func TestWhatCannotBeSealed(t *testing.T) {
	s := newSealing(t)
	first := used(10, 1)
	s.SealUses(t.Context(), "acme", first)
	away := errors.New("the catalog is away")
	s.fail.Store(&away)
	list := used(10, 2)
	s.SealUses(t.Context(), "acme", list)
	for _, u := range list {
		if sealed := strings.HasPrefix(u.ClientIP, uses.SealedPrefix); sealed != (u.Key[15] == 0) {
			t.Errorf("%+v", u)
		}
	}
	if n := s.leftOut.Load(); n != 5 {
		t.Errorf("%d uses are counted as left out", n)
	}
	s.fail.Store(nil)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	list = used(10, 3)
	s.SealUses(ended, "acme", list)
	for _, u := range list {
		if sealed := strings.HasPrefix(u.ClientIP, uses.SealedPrefix); sealed != (u.Key[15]%2 == 0) {
			t.Errorf("after its time: %+v", u)
		}
	}
}

// Before a server has read what organizations want, it writes nothing in clear and
// seals nothing.
func TestNothingIsSealedBeforeItIsKnown(t *testing.T) {
	s := newSealing(t)
	s.ready = make(chan struct{})
	list := used(3, 3)
	if s.SealUses(t.Context(), "other", list); !s.Sealing("other") || !slices.Equal(list, used(3, 3)) || s.looked.Load() != 0 {
		t.Errorf("%v, %+v", s.Sealing("other"), list)
	}
	if n := s.leftOut.Load(); n != 3 {
		t.Errorf("%d uses are counted as left out", n)
	}
}
