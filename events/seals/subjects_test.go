package seals_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/events/seals"
)

const (
	acme   = events.OrgID("acme")
	person = events.DataSubject("user-4711")
)

// watched is a store whose questions are counted, and of which some fail.
type watched struct {
	*memory.Ledger
	mu     sync.Mutex
	asked  int
	before func(what string) error
	after  func(what string) error
}

func (w *watched) hook(what string, f func(string) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(what)
}

func (w *watched) Sealed(ctx context.Context, name string) ([]byte, bool, error) {
	w.mu.Lock()
	w.asked++
	w.mu.Unlock()
	if err := w.hook("read", w.before); err != nil {
		return nil, false, err
	}
	return w.Ledger.Sealed(ctx, name)
}

func (w *watched) Seal(ctx context.Context, name string, body []byte) error {
	if err := w.hook("store", w.before); err != nil {
		return err
	}
	if err := w.Ledger.Seal(ctx, name, body); err != nil {
		return err
	}
	return w.hook("store", w.after)
}

func (w *watched) Destroy(ctx context.Context, name string, meant func([]byte) bool) (bool, error) {
	if err := w.hook("destroy", w.before); err != nil {
		return false, err
	}
	done, err := w.Ledger.Destroy(ctx, name, meant)
	if err == nil {
		err = w.hook("destroy", w.after)
	}
	return done, err
}

// installation is a store with the keys of one, and any number of servers on it.
func installation(t testing.TB) (*watched, func() *seals.Subjects) {
	t.Helper()
	w := &watched{Ledger: memory.New(ledger)}
	key, _ := newKey(t)
	keys, err := seals.Make(t.Context(), w, key, ledger)
	if err != nil {
		t.Fatal(err)
	}
	w.asked = 0
	return w, func() *seals.Subjects { return seals.NewSubjects(keys, w, ledger) }
}

func sealed(t testing.TB, s *seals.Subjects, org events.OrgID, subject events.DataSubject, text string) events.Sealed {
	t.Helper()
	out, err := s.Seal(t.Context(), org, subject, seals.TextOfFact, text)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func opens(t testing.TB, s *seals.Subjects, org events.OrgID, sealed events.Sealed, want string) {
	t.Helper()
	if text, err := s.Open(t.Context(), org, sealed, seals.TextOfFact); err != nil || text != want {
		t.Errorf("opened %q, %v; want %q", text, err, want)
	}
}

func refused(t testing.TB, s *seals.Subjects, org events.OrgID, sealed events.Sealed, what string, want error) {
	t.Helper()
	if text, err := s.Open(t.Context(), org, sealed, what); !errors.Is(err, want) || text != "" {
		t.Errorf("opened %q, %v; want %v", text, err, want)
	}
}

// A text opens on every server, for its organization, its subject and its purpose;
// the same text is the same box, and nothing of it can be read.
func TestTextsAreSealedPerSubject(t *testing.T) {
	_, server := installation(t)
	one, two := server(), server()
	const name = "Alice Example"
	first := sealed(t, one, acme, person, name)
	if again := sealed(t, two, acme, person, name); again != first {
		t.Errorf("sealed again it is another: %v, %v", first, again)
	}
	opens(t, one, acme, first, name)
	opens(t, two, acme, first, name)
	if len(first.Key) != events.SealingKeyLength || first.Subject != string(person) {
		t.Errorf("%+v", first)
	}
	if n := base64.RawStdEncoding.EncodedLen(len(name) + events.SealedTextBytes); len(first.Box) != n {
		t.Errorf("a box is %d long, and is said to be %d", len(first.Box), n)
	}
	if raw, err := base64.RawStdEncoding.DecodeString(first.Box); err != nil || strings.Contains(string(raw), "Alice") {
		t.Errorf("%q, %v", raw, err)
	}
	for what, other := range map[string]events.Sealed{
		"another subject's":      sealed(t, one, acme, "user-4712", name),
		"another organization's": sealed(t, one, "globex", person, name),
	} {
		if other.Key == first.Key || other.Box == first.Box {
			t.Errorf("%s is the same", what)
		}
	}
	globex := sealed(t, one, "globex", person, "Bob")
	refused(t, one, acme, globex, seals.TextOfFact, seals.ErrErased) // acme never had that key
	refused(t, one, acme, first, seals.TextOfUse, events.ErrMalformed)
	moved := first
	moved.Subject = "user-4712"
	refused(t, one, acme, moved, seals.TextOfFact, seals.ErrErased)
	for i := range []byte(first.Box) {
		damaged, box := first, []byte(first.Box)
		if box[i]++; box[i] == '{' || box[i] == '[' {
			box[i] = 'A'
		}
		damaged.Box = string(box)
		refused(t, one, acme, damaged, seals.TextOfFact, events.ErrMalformed)
	}
}

// Once its key is destroyed a text opens nowhere, whatever a server had in memory,
// and what is sealed then is sealed with another key.
func TestErased(t *testing.T) {
	store, server := installation(t)
	one, two := server(), server()
	first, other := sealed(t, one, acme, person, "Alice"), sealed(t, one, acme, "user-2", "Bob")
	opens(t, two, acme, first, "Alice")
	held, err := one.Held(t.Context(), acme, person)
	if err != nil || held != first.Key {
		t.Fatal(held, err)
	}
	if done, err := one.Destroy(t.Context(), acme, person, []string{strings.Repeat("0", 32)}); err != nil || done {
		t.Errorf("another key was meant: %t, %v", done, err)
	}
	opens(t, one, acme, first, "Alice")
	if done, err := one.Destroy(t.Context(), acme, person, []string{first.Key}); err != nil || !done {
		t.Fatal(done, err)
	}
	refused(t, one, acme, first, seals.TextOfFact, seals.ErrErased)
	opens(t, two, acme, first, "Alice") // it has not heard yet
	two.Forget(acme, person, []string{first.Key})
	refused(t, two, acme, first, seals.TextOfFact, seals.ErrErased)
	refused(t, server(), acme, first, seals.TextOfFact, seals.ErrErased)
	if held, err := one.Held(t.Context(), acme, person); err != nil || held != "" {
		t.Error(held, err)
	}
	next := sealed(t, two, acme, person, "Alice")
	if next.Key == first.Key || next.Box == first.Box {
		t.Errorf("it is sealed with what was destroyed: %v", next)
	}
	opens(t, one, acme, next, "Alice")
	refused(t, one, acme, first, seals.TextOfFact, seals.ErrErased)
	opens(t, one, acme, other, "Bob")
	// A repetition does not touch the next key.
	if done, err := two.Destroy(t.Context(), acme, person, []string{first.Key}); err != nil || done {
		t.Error(done, err)
	}
	opens(t, server(), acme, next, "Alice")
	before := store.asked
	refused(t, one, acme, first, seals.TextOfFact, seals.ErrErased)
	if store.asked != before {
		t.Error("the store is asked for what is known to be erased")
	}
}

// A server that hears nothing of the ledger has forgotten a key a minute later; one
// that seals asks each time.
func TestKeysAreForgottenByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := installation(t)
		one, deaf := server(), server()
		first := sealed(t, one, acme, person, "Alice")
		opens(t, deaf, acme, first, "Alice")
		if _, err := one.Destroy(t.Context(), acme, person, []string{first.Key}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute - time.Second)
		asked := store.asked
		opens(t, deaf, acme, first, "Alice")
		if recent, err := deaf.RecentSealer(t.Context(), acme, person); err != nil || store.asked != asked {
			t.Errorf("%v, %v: asked %d times", recent, err, store.asked-asked)
		}
		time.Sleep(time.Second)
		refused(t, deaf, acme, first, seals.TextOfFact, seals.ErrErased)
		recent, err := deaf.RecentSealer(t.Context(), acme, person)
		if err != nil {
			t.Fatal(err)
		}
		if next, err := recent.Seal(seals.TextOfUse, "203.0.113.7"); err != nil || next.Key == first.Key {
			t.Error(next, err)
		}
	})
}

// What is sealed after an erasure was answered is sealed with a new key, also by a
// server that has not heard of the erasure.
func TestSealingAsksEachTime(t *testing.T) {
	_, server := installation(t)
	one, deaf := server(), server()
	first := sealed(t, deaf, acme, person, "Alice")
	if _, err := one.Destroy(t.Context(), acme, person, []string{first.Key}); err != nil {
		t.Fatal(err)
	}
	if next := sealed(t, deaf, acme, person, "Alice"); next.Key == first.Key {
		t.Error("it was sealed with what is destroyed")
	}
}

// Of a key that is erased and still there nobody seals with: it is destroyed then.
func TestNoSealingWithWhatIsErased(t *testing.T) {
	_, server := installation(t)
	s := server()
	first := sealed(t, s, acme, person, "Alice")
	s.Forget(acme, person, []string{first.Key})
	next := sealed(t, s, acme, person, "Alice")
	if next.Key == first.Key {
		t.Fatal("it was sealed with what is erased")
	}
	opens(t, s, acme, next, "Alice")
	refused(t, server(), acme, first, seals.TextOfFact, seals.ErrErased)
}

// Of many who seal the first text of a subject at once all have one key, whatever
// becomes of the answers.
func TestOneKeyIsDrawn(t *testing.T) {
	store, server := installation(t)
	lost := 0
	store.after = func(what string) error {
		if lost++; what == "store" && lost%2 == 1 {
			return events.ErrOutcomeUnknown
		}
		return nil
	}
	var (
		all  sync.WaitGroup
		mu   sync.Mutex
		keys = map[string]bool{}
	)
	for range 16 {
		s := server()
		all.Go(func() {
			out, err := s.Seal(t.Context(), acme, person, seals.TextOfFact, "Alice")
			mu.Lock()
			defer mu.Unlock()
			if keys[out.Key] = true; err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if len(keys) != 1 || lost == 0 {
		t.Errorf("%d keys, %d answers lost", len(keys), lost)
	}
}

// Nobody takes a store that does not answer for one that holds nothing.
func TestStoreThatFails(t *testing.T) {
	store, server := installation(t)
	first := sealed(t, server(), acme, person, "Alice")
	store.before = func(string) error { return events.ErrUnavailable }
	s := server()
	if _, err := s.Seal(t.Context(), acme, person, seals.TextOfFact, "Alice"); !errors.Is(err, events.ErrUnavailable) {
		t.Error(err)
	}
	refused(t, s, acme, first, seals.TextOfFact, events.ErrUnavailable)
	if _, err := s.Held(t.Context(), acme, person); !errors.Is(err, events.ErrUnavailable) {
		t.Error(err)
	}
	if _, err := s.Destroy(t.Context(), acme, person, []string{first.Key}); !errors.Is(err, events.ErrUnavailable) {
		t.Error(err)
	}
	store.before = func(what string) error {
		if what == "store" {
			return events.ErrUnavailable
		}
		return nil
	}
	if _, err := s.Seal(t.Context(), acme, "user-2", seals.TextOfFact, "Bob"); !errors.Is(err, events.ErrUnavailable) {
		t.Error(err)
	}
}

// A subject's key opens in its own place and unchanged, and its place tells nothing.
func TestWrappedSubjectKeys(t *testing.T) {
	s := newStore()
	key, _ := newKey(t)
	keys, err := seals.Make(t.Context(), s, key, ledger)
	if err != nil {
		t.Fatal(err)
	}
	subjects := seals.NewSubjects(keys, memoryStore{s}, ledger)
	own := map[string]bool{}
	for name := range s.held {
		own[name] = true
	}
	first := sealed(t, subjects, acme, person, "Alice")
	second := sealed(t, subjects, acme, "user-2", "Bob")
	places := map[string]string{}
	for name, body := range s.held {
		if own[name] {
			continue
		}
		rest, ok := strings.CutPrefix(name, ledger.String()+".subject.")
		if raw, err := hex.DecodeString(rest); !ok || err != nil || len(raw) != 16 {
			t.Errorf("it lies under %s", name)
		}
		places[hex.EncodeToString(body[:16])] = name
	}
	at, other := places[first.Key], places[second.Key]
	if at == "" || other == "" || len(places) != 2 {
		t.Fatalf("they lie at %v", places)
	}
	whole := s.held[at]
	wrong := func(what string, body []byte) {
		t.Helper()
		s.held[at] = body
		_, err := seals.NewSubjects(keys, memoryStore{s}, ledger).Open(t.Context(), acme, first, seals.TextOfFact)
		if !errors.Is(err, seals.ErrWrongKey) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range whole {
		body := []byte(string(whole))
		body[i] ^= 1
		wrong("a changed byte", body)
	}
	wrong("nothing", nil)
	wrong("a part", whole[:16])
	wrong("another's", s.held[other])
}

// memoryStore is a store that destroys.
type memoryStore struct{ *store }

func (s memoryStore) Destroy(_ context.Context, name string, meant func([]byte) bool) (bool, error) {
	body, there := s.held[name]
	if !there || !meant(body) {
		return false, nil
	}
	delete(s.held, name)
	return true, nil
}

// However many subjects there are, memory holds so many keys.
func TestManySubjects(t *testing.T) {
	store, server := installation(t)
	s := server()
	var texts []events.Sealed
	for i := range 8300 {
		subject := events.DataSubject("user-" + strings.Repeat("0", 5) + hex.EncodeToString([]byte{byte(i >> 8), byte(i)}))
		texts = append(texts, sealed(t, s, acme, subject, "text"))
	}
	store.asked = 0
	for _, text := range texts {
		opens(t, s, acme, text, "text")
	}
	if store.asked < len(texts)-8192 {
		t.Errorf("the store was asked for %d of %d keys", store.asked, len(texts))
	}
}
