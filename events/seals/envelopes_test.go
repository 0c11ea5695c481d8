package seals_test

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/wrapping"
)

const providerSecret = "sk-test-0123456789abcdefghijklmnopqrstuvWXYZ"

var openai = seals.Binding{Org: acme, Provider: events.ProviderOpenAI, Version: 1}

func kek(t testing.TB) *wrapping.Keyset {
	t.Helper()
	k, err := wrapping.NewKeyset()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// rotated returns a keyset before a rotation, and as it wraps with a new key and opens
// with both, and with the new one alone.
func rotated(t testing.TB) (before, during, after wrapping.Ring) {
	t.Helper()
	old := kek(t)
	added, id, err := old.Add()
	if err != nil {
		t.Fatal(err)
	}
	promoted, err := added.Promote(id)
	if err != nil {
		t.Fatal(err)
	}
	dropped, err := promoted.Drop(old.Keys()[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	return wrapping.Ring{Primary: added}, wrapping.Ring{Primary: promoted}, wrapping.Ring{Primary: dropped}
}

func enveloped(t testing.TB, e *seals.Envelopes, of seals.Binding) events.SealedSecret {
	t.Helper()
	out, err := e.Seal(context.WithoutCancel(t.Context()), of, providerSecret, "WXYZ")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// reveals opens a secret, its last four characters or neither.
func reveals(t testing.TB, e *seals.Envelopes, of seals.Binding, sealed events.SealedSecret, want error) {
	t.Helper()
	secret, err := e.Open(context.WithoutCancel(t.Context()), of, sealed)
	if want == nil && (err != nil || secret != providerSecret) || want != nil && (!errors.Is(err, want) || secret != "") {
		t.Errorf("%d characters, %v; want %v", len(secret), err, want)
	}
	four, err := e.OpenLastFour(context.WithoutCancel(t.Context()), of, sealed)
	if want == nil && (err != nil || four != "WXYZ") || want != nil && (!errors.Is(err, want) || four != "") {
		t.Errorf("%d characters at the end, %v; want %v", len(four), err, want)
	}
}

// lying is what lies among the seals.
func lying(t testing.TB, store seals.EnvelopeStore) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := store.EachSeal(context.WithoutCancel(t.Context()), ledger.String()+".provider", func(name string, body []byte, _ events.Time) error {
		out[name] = string(body)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A secret opens on every server that has the key-encryption key, and on none after its
// data key is destroyed, whatever was kept of it.
func TestEnvelopes(t *testing.T) {
	store, ring := memory.New(ledger), wrapping.Ring{Primary: kek(t)}
	server := func() *seals.Envelopes { return seals.NewEnvelopes(ring, store, ledger) }
	one, two := server(), server()
	sealed, other := enveloped(t, one, openai), enveloped(t, two, openai)
	reveals(t, one, openai, sealed, nil)
	reveals(t, two, openai, sealed, nil)
	if sealed.DataKey == other.DataKey || sealed.Secret == other.Secret || sealed.LastFour == other.LastFour {
		t.Error("the same secret is sealed in the same way")
	}
	kept := lying(t, store)
	if len(kept) != 2 {
		t.Errorf("%d data keys lie there", len(kept))
	}
	for name, body := range kept {
		if strings.Contains(body, "type.googleapis.com") || !strings.HasSuffix(name, ".a") {
			t.Errorf("%s holds what is not wrapped", name)
		}
	}
	if done, err := two.Destroy(t.Context(), sealed.DataKey); err != nil || !done {
		t.Fatal(done, err)
	}
	one.Forget(sealed.DataKey)
	for _, e := range []*seals.Envelopes{one, two, server()} {
		reveals(t, e, openai, sealed, seals.ErrErased)
		reveals(t, e, openai, other, nil)
	}
	if done, err := one.Destroy(t.Context(), sealed.DataKey); err != nil || done {
		t.Error(done, err)
	}
	for name, body := range lying(t, store) {
		if body == kept[name] && strings.Contains(name, sealed.DataKey.String()) {
			t.Error("a wrapped data key that was destroyed lies there")
		}
	}
}

// What is sealed opens for its organization, provider, version, address and purpose, on
// its ledger, and unchanged.
func TestEnvelopesAreBound(t *testing.T) {
	store, ring := memory.New(ledger), wrapping.Ring{Primary: kek(t)}
	e := seals.NewEnvelopes(ring, store, ledger)
	of := openai
	of.BaseURL = "https://models.example/v1"
	sealed := enveloped(t, e, of)
	reveals(t, e, of, sealed, nil)
	for what, change := range map[string]func(*seals.Binding){
		"organization": func(b *seals.Binding) { b.Org = "globex" },
		"provider":     func(b *seals.Binding) { b.Provider = events.ProviderMistral },
		"version":      func(b *seals.Binding) { b.Version++ },
		"address":      func(b *seals.Binding) { b.BaseURL = "https://evil.example/v1" },
		"no address":   func(b *seals.Binding) { b.BaseURL = "" },
	} {
		t.Run(what, func(t *testing.T) {
			other := of
			change(&other)
			reveals(t, e, other, sealed, events.ErrMalformed)
		})
	}
	swapped := sealed
	swapped.Secret, swapped.LastFour = sealed.LastFour, sealed.Secret
	reveals(t, e, of, swapped, events.ErrMalformed)
	second := enveloped(t, e, of)
	mixed := sealed
	mixed.Secret, mixed.LastFour = second.Secret, second.LastFour
	reveals(t, e, of, mixed, events.ErrMalformed)
	damaged := sealed
	damaged.Secret, damaged.LastFour = "?"+sealed.Secret[1:], sealed.LastFour[1:]
	reveals(t, e, of, damaged, events.ErrMalformed)
	// A data key opens in its own place, and on its own ledger.
	names := []string{ledger.String() + ".provider." + sealed.DataKey.String() + ".a", ledger.String() + ".provider." + second.DataKey.String() + ".a"}
	moved := memory.New(ledger)
	for i, name := range names {
		body, _, err := store.Sealed(t.Context(), names[1-i])
		if err != nil {
			t.Fatal(err)
		}
		if err := moved.Seal(t.Context(), name, body); err != nil {
			t.Fatal(err)
		}
	}
	reveals(t, seals.NewEnvelopes(ring, moved, ledger), of, sealed, wrapping.ErrWrongKey)
	elsewhere := events.LedgerID{9}
	copied := memory.New(elsewhere)
	body, _, err := store.Sealed(t.Context(), names[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := copied.Seal(t.Context(), strings.Replace(names[0], ledger.String(), elsewhere.String(), 1), body); err != nil {
		t.Fatal(err)
	}
	reveals(t, seals.NewEnvelopes(ring, copied, elsewhere), of, sealed, wrapping.ErrWrongKey)
}

// A rotation of the key-encryption key touches no ciphertext, and leaves nothing that
// the old key opens.
func TestRewrap(t *testing.T) {
	before, during, after := rotated(t)
	store := memory.New(ledger)
	old := seals.NewEnvelopes(before, store, ledger)
	sealed := enveloped(t, old, openai)
	first := lying(t, store)
	if changed, err := old.Rewrap(t.Context(), sealed.DataKey); err != nil || changed {
		t.Error("what is current was wrapped anew", err)
	}
	next := seals.NewEnvelopes(during, store, ledger)
	lists := func(e *seals.Envelopes, current bool) {
		t.Helper()
		all, err := e.All(t.Context())
		if err != nil || len(all) != 1 || all[0].ID != sealed.DataKey || all[0].Current != current || all[0].Stored.IsZero() {
			t.Errorf("%+v, %v", all, err)
		}
	}
	lists(old, true)
	lists(next, false)
	reveals(t, next, openai, sealed, nil)
	if changed, err := next.Rewrap(t.Context(), sealed.DataKey); err != nil || !changed {
		t.Fatal(changed, err)
	}
	lists(next, true)
	for name, body := range lying(t, store) {
		if _, there := first[name]; there || slices.Contains(slices.Collect(maps.Values(first)), body) {
			t.Errorf("%s lies there as before", name)
		}
	}
	for _, ring := range []wrapping.Ring{before, during, after} {
		reveals(t, seals.NewEnvelopes(ring, store, ledger), openai, sealed, nil)
	}
	// And back again: there are two slots, and any number of rotations.
	if changed, err := old.Rewrap(t.Context(), sealed.DataKey); err != nil || !changed {
		t.Fatal(changed, err)
	}
	if changed, err := next.Rewrap(t.Context(), sealed.DataKey); err != nil || !changed {
		t.Fatal(changed, err)
	}
	// Whose keys do not open it leaves it alone.
	stranger := seals.NewEnvelopes(wrapping.Ring{Primary: kek(t)}, store, ledger)
	if changed, err := stranger.Rewrap(t.Context(), sealed.DataKey); !errors.Is(err, wrapping.ErrWrongKey) || changed {
		t.Error(changed, err)
	}
	reveals(t, stranger, openai, sealed, wrapping.ErrWrongKey)
	if err := stranger.Check(t.Context()); !errors.Is(err, wrapping.ErrWrongKey) {
		t.Error(err)
	}
	if err := seals.NewEnvelopes(after, store, ledger).Check(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := next.Destroy(t.Context(), sealed.DataKey); err != nil {
		t.Fatal(err)
	}
	if changed, err := next.Rewrap(t.Context(), sealed.DataKey); err != nil || changed {
		t.Error("what is destroyed was wrapped anew", changed, err)
	}
	if err := stranger.Check(t.Context()); err != nil {
		t.Error("nothing is there, and it does not open", err)
	}
}

// faulty is a store that fails at chosen calls, before or after they take effect.
type faulty struct {
	*memory.Ledger
	mu sync.Mutex
	// left counts the calls that go well.
	left  int
	after bool
	fault error
}

func (f *faulty) step(call func() error) error {
	f.mu.Lock()
	f.left--
	now := f.left < 0
	f.mu.Unlock()
	if now && !f.after {
		return f.fault
	}
	if err := call(); err != nil {
		return err
	}
	if now {
		return f.fault
	}
	return nil
}

func (f *faulty) Seal(ctx context.Context, name string, body []byte) error {
	return f.step(func() error { return f.Ledger.Seal(ctx, name, body) })
}

func (f *faulty) Destroy(ctx context.Context, name string, meant func([]byte) bool) (done bool, err error) {
	err = f.step(func() (err error) { done, err = f.Ledger.Destroy(ctx, name, meant); return err })
	return done, err
}

// Wherever wrapping anew is cut off, the data key opens, and the next attempt leaves it
// wrapped once, by the new key.
func TestRewrapCutOff(t *testing.T) {
	for _, after := range []bool{false, true} {
		for calls := range 4 {
			before, during, _ := rotated(t)
			store := &faulty{Ledger: memory.New(ledger), left: 1 << 30, after: after, fault: events.ErrUnavailable}
			old, next := seals.NewEnvelopes(before, store, ledger), seals.NewEnvelopes(during, store, ledger)
			sealed := enveloped(t, old, openai)
			store.left = calls
			_, err := next.Rewrap(t.Context(), sealed.DataKey)
			if cut := calls < 2; (err != nil) != cut {
				t.Errorf("cut off after %d calls: %v", calls, err)
			}
			reveals(t, next, openai, sealed, nil)
			reveals(t, old, openai, sealed, nil)
			anew := len(lying(t, store)) == 1 && (calls > 0 || after)
			if all, err := next.All(t.Context()); err != nil || len(all) != 1 || all[0].Current != anew {
				t.Errorf("cut off after %d calls: %+v, %v", calls, all, err)
			}
			store.left = 1 << 30
			if _, err := next.Rewrap(t.Context(), sealed.DataKey); err != nil {
				t.Error(err)
			}
			if all, err := next.All(t.Context()); err != nil || len(all) != 1 || !all[0].Current {
				t.Errorf("%+v, %v", all, err)
			}
			if n := len(lying(t, store)); n != 1 {
				t.Errorf("it lies in %d slots", n)
			}
			reveals(t, next, openai, sealed, nil)
		}
	}
}

// Wherever a destruction is cut off, the next attempt finishes it.
func TestDestroyCutOff(t *testing.T) {
	for _, after := range []bool{false, true} {
		for calls := range 4 {
			store := &faulty{Ledger: memory.New(ledger), left: 1 << 30, after: after, fault: events.ErrUnavailable}
			e := seals.NewEnvelopes(wrapping.Ring{Primary: kek(t)}, store, ledger)
			sealed := enveloped(t, e, openai)
			store.left = calls
			_, err := e.Destroy(t.Context(), sealed.DataKey)
			if cut := calls < 3; (err != nil) != cut {
				t.Errorf("cut off after %d calls: %v", calls, err)
			}
			store.left = 1 << 30
			if _, err := e.Destroy(t.Context(), sealed.DataKey); err != nil {
				t.Error(err)
			}
			reveals(t, e, openai, sealed, seals.ErrErased)
			if all, err := e.All(t.Context()); err != nil || len(all) != 0 {
				t.Errorf("%+v, %v", all, err)
			}
		}
	}
}

// What is destroyed in one slot and not yet in the other is listed, so that somebody
// finishes it, and is not wrapped anew.
func TestHalfDestroyed(t *testing.T) {
	before, during, _ := rotated(t)
	store := &faulty{Ledger: memory.New(ledger), left: 1 << 30, fault: events.ErrUnavailable}
	old, next := seals.NewEnvelopes(before, store, ledger), seals.NewEnvelopes(during, store, ledger)
	sealed := enveloped(t, old, openai)
	if _, err := next.Rewrap(t.Context(), sealed.DataKey); err != nil {
		t.Fatal(err)
	}
	store.left = 1
	if _, err := old.Destroy(t.Context(), sealed.DataKey); !errors.Is(err, events.ErrUnavailable) {
		t.Fatal(err)
	}
	store.left = 1 << 30
	if changed, err := old.Rewrap(t.Context(), sealed.DataKey); err != nil || changed {
		t.Error(changed, err)
	}
	if all, err := old.All(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	if done, err := old.Destroy(t.Context(), sealed.DataKey); err != nil || !done {
		t.Error(done, err)
	}
	reveals(t, next, openai, sealed, seals.ErrErased)
}

// An answer that is lost is no failure, and no second data key.
func TestEnvelopesWithLostAnswers(t *testing.T) {
	store := &lossy{Ledger: memory.New(ledger)}
	before, during, _ := rotated(t)
	e := seals.NewEnvelopes(before, store, ledger)
	for _, stored := range []bool{true, false} {
		store.lose(stored)
		sealed := enveloped(t, e, openai)
		reveals(t, e, openai, sealed, nil)
		store.lose(stored)
		if _, err := seals.NewEnvelopes(during, store, ledger).Rewrap(t.Context(), sealed.DataKey); err != nil {
			t.Error(err)
		}
		reveals(t, e, openai, sealed, nil)
		store.lose(stored)
		if _, err := e.Destroy(t.Context(), sealed.DataKey); err != nil {
			t.Error(err)
		}
		reveals(t, e, openai, sealed, seals.ErrErased)
	}
	if n := len(lying(t, store)); n != 4 {
		t.Errorf("%d tombstones lie there", n)
	}
}

// lossy loses the answer to the next that is stored.
type lossy struct {
	*memory.Ledger
	mu           sync.Mutex
	lost, stored bool
}

func (l *lossy) lose(stored bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost, l.stored = true, stored
}

func (l *lossy) Seal(ctx context.Context, name string, body []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.lost {
		return l.Ledger.Seal(ctx, name, body)
	}
	l.lost = false
	if l.stored {
		if err := l.Ledger.Seal(ctx, name, body); err != nil {
			return err
		}
	}
	return events.ErrOutcomeUnknown
}

// Servers that wrap anew at once, and disagree about which key wraps, never leave a
// moment in which nobody opens.
func TestRewrapRacing(t *testing.T) {
	before, during, _ := rotated(t)
	store := &slow{Ledger: memory.New(ledger)}
	sealed := enveloped(t, seals.NewEnvelopes(before, store, ledger), openai)
	var all, readers sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		e := seals.NewEnvelopes(during, store, ledger)
		readers.Go(func() {
			for {
				reveals(t, e, openai, sealed, nil)
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i := range 6 {
		ring := during
		if i%2 == 0 {
			ring = before
		}
		e := seals.NewEnvelopes(ring, store, ledger)
		all.Go(func() {
			for range 30 {
				// They are in each other's way; that is no fault, and nothing is lost.
				if _, err := e.Rewrap(t.Context(), sealed.DataKey); err != nil && !errors.Is(err, events.ErrUnavailable) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	close(done)
	readers.Wait()
	last := seals.NewEnvelopes(during, store, ledger)
	if _, err := last.Rewrap(t.Context(), sealed.DataKey); err != nil {
		t.Error(err)
	}
	if n := len(lying(t, store)); n != 1 {
		t.Errorf("it lies in %d slots", n)
	}
	reveals(t, last, openai, sealed, nil)
}

// slow takes a moment before it does what it is told, another each time.
type slow struct{ *memory.Ledger }

func (s slow) Seal(ctx context.Context, name string, body []byte) error {
	time.Sleep(rand.N(100 * time.Microsecond))
	return s.Ledger.Seal(ctx, name, body)
}

func (s slow) Destroy(ctx context.Context, name string, meant func([]byte) bool) (bool, error) {
	time.Sleep(rand.N(100 * time.Microsecond))
	return s.Ledger.Destroy(ctx, name, meant)
}

// Once a destruction is answered nobody who was wrapping anew brings the data key back.
func TestDestroyRacingRewrap(t *testing.T) {
	before, during, _ := rotated(t)
	for range 100 {
		store := &slow{Ledger: memory.New(ledger)}
		old := seals.NewEnvelopes(before, store, ledger)
		sealed := enveloped(t, old, openai)
		var all sync.WaitGroup
		for _, ring := range []wrapping.Ring{before, during, during} {
			e := seals.NewEnvelopes(ring, store, ledger)
			all.Go(func() {
				for range 4 {
					if _, err := e.Rewrap(t.Context(), sealed.DataKey); err != nil && !errors.Is(err, events.ErrUnavailable) {
						t.Error(err)
					}
				}
			})
		}
		all.Go(func() {
			if _, err := old.Destroy(t.Context(), sealed.DataKey); err != nil {
				t.Error(err)
				return
			}
			reveals(t, old, openai, sealed, seals.ErrErased)
		})
		all.Wait()
		if found, err := old.All(t.Context()); err != nil || len(found) != 0 {
			t.Fatalf("%+v, %v", found, err)
		}
	}
}

// stopped is a store at which something else happens before it stores, or destroys.
type stopped struct {
	*memory.Ledger
	storing, destroying func()
	looking             func(name string)
}

func (s *stopped) Sealed(ctx context.Context, name string) (body []byte, there bool, err error) {
	body, there, err = s.Ledger.Sealed(ctx, name)
	if s.looking != nil {
		s.looking(name)
	}
	return body, there, err
}

func (s *stopped) Seal(ctx context.Context, name string, body []byte) error {
	if s.storing != nil {
		s.storing()
	}
	return s.Ledger.Seal(ctx, name, body)
}

func (s *stopped) Destroy(ctx context.Context, name string, meant func([]byte) bool) (bool, error) {
	if s.destroying != nil {
		s.destroying()
	}
	return s.Ledger.Destroy(ctx, name, meant)
}

// What is moved from one slot to the other between two looks is found.
func TestOpenWhileItIsMoved(t *testing.T) {
	before, during, _ := rotated(t)
	store := &stopped{Ledger: memory.New(ledger)}
	old, next := seals.NewEnvelopes(before, store.Ledger, ledger), seals.NewEnvelopes(during, store.Ledger, ledger)
	sealed := enveloped(t, old, openai)
	if _, err := next.Rewrap(t.Context(), sealed.DataKey); err != nil {
		t.Fatal(err)
	}
	moved := 0
	store.looking = func(name string) {
		if moved++; moved == 1 {
			if changed, err := old.Rewrap(t.Context(), sealed.DataKey); err != nil || !changed || !strings.HasSuffix(name, ".a") {
				t.Error(name, changed, err)
			}
		}
	}
	if text, err := seals.NewEnvelopes(during, store, ledger).Open(t.Context(), openai, sealed); err != nil || text != providerSecret {
		t.Error(err)
	}
	if moved != 2 {
		t.Errorf("it was looked %d times", moved)
	}
}

// Who comes late to destroy what it has wrapped anew leaves alone what another has put
// in that slot meanwhile, which may be the last that opens.
func TestRewrapDestroysWhatItSaw(t *testing.T) {
	before, during, _ := rotated(t)
	store := &stopped{Ledger: memory.New(ledger)}
	old := seals.NewEnvelopes(before, store.Ledger, ledger)
	sealed := enveloped(t, old, openai)
	store.destroying = func() {
		store.destroying = nil
		if changed, err := old.Rewrap(t.Context(), sealed.DataKey); err != nil || !changed {
			t.Error(changed, err)
		}
	}
	if changed, err := seals.NewEnvelopes(during, store, ledger).Rewrap(t.Context(), sealed.DataKey); err != nil || !changed {
		t.Error(changed, err)
	}
	reveals(t, old, openai, sealed, nil)
}

// Who has opened a data key to wrap it anew, and stores it when it is destroyed
// meanwhile, finds its slot closed.
func TestLateRewrapFindsATombstone(t *testing.T) {
	before, during, _ := rotated(t)
	store := &stopped{Ledger: memory.New(ledger)}
	old := seals.NewEnvelopes(before, store.Ledger, ledger)
	sealed := enveloped(t, old, openai)
	store.storing = func() {
		if _, err := old.Destroy(t.Context(), sealed.DataKey); err != nil {
			t.Error(err)
		}
	}
	if changed, err := seals.NewEnvelopes(during, store, ledger).Rewrap(t.Context(), sealed.DataKey); err != nil || changed {
		t.Error(changed, err)
	}
	for name, body := range lying(t, store) {
		if body != "destroyed" {
			t.Errorf("%s holds %d bytes", name, len(body))
		}
	}
	reveals(t, old, openai, sealed, seals.ErrErased)
}

// Tombstones go when they are old enough, and nothing else does.
func TestTidy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New(ledger)
		e := seals.NewEnvelopes(wrapping.Ring{Primary: kek(t)}, store, ledger)
		kept, first, second := enveloped(t, e, openai), enveloped(t, e, openai), enveloped(t, e, openai)
		destroy := func(sealed events.SealedSecret) {
			if _, err := e.Destroy(t.Context(), sealed.DataKey); err != nil {
				t.Error(err)
			}
		}
		destroy(first)
		time.Sleep(time.Hour)
		destroy(second)
		if n, err := e.Tidy(t.Context(), events.TimeOf(time.Now())-1); err != nil || n != 2 {
			t.Error(n, err)
		}
		if n := len(lying(t, store)); n != 3 {
			t.Errorf("%d seals are left", n)
		}
		reveals(t, e, openai, kept, nil)
		reveals(t, e, openai, first, seals.ErrErased)
		reveals(t, e, openai, second, seals.ErrErased)
		if n, err := e.Tidy(t.Context(), events.TimeOf(time.Now())+1); err != nil || n != 2 {
			t.Error(n, err)
		}
		reveals(t, e, openai, kept, nil)
	})
}

// Last four characters are told again for a minute, secrets never without asking.
func TestLastFourAreHeldForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, ring := memory.New(ledger), wrapping.Ring{Primary: kek(t)}
		one, deaf := seals.NewEnvelopes(ring, store, ledger), seals.NewEnvelopes(ring, store, ledger)
		sealed := enveloped(t, one, openai)
		reveals(t, deaf, openai, sealed, nil)
		if _, err := one.Destroy(t.Context(), sealed.DataKey); err != nil {
			t.Fatal(err)
		}
		four := func(want error) {
			t.Helper()
			if _, err := deaf.OpenLastFour(t.Context(), openai, sealed); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		}
		four(nil)
		if _, err := deaf.Open(t.Context(), openai, sealed); !errors.Is(err, seals.ErrErased) {
			t.Error(err)
		}
		other := openai
		other.Org = "globex"
		if text, err := deaf.OpenLastFour(t.Context(), other, sealed); err == nil {
			t.Errorf("another organization is shown %q", text)
		}
		time.Sleep(time.Minute)
		four(seals.ErrErased)
	})
}

// away is a key management service that does not answer.
type away struct {
	wrapping.Key
	asked *int
}

func (a away) Current(context.Context, []byte) (bool, error) {
	*a.asked++
	return true, events.ErrUnavailable
}

func (away) Unwrap(context.Context, []byte, []byte) ([]byte, error) {
	return nil, events.ErrUnavailable
}

// Without the service that wraps, data keys do not open, and are found and destroyed.
func TestEnvelopesWithoutTheService(t *testing.T) {
	store, key, asked := memory.New(ledger), kek(t), 0
	e := seals.NewEnvelopes(wrapping.Ring{Primary: key}, store, ledger)
	sealed, other := enveloped(t, e, openai), enveloped(t, e, openai)
	cut := seals.NewEnvelopes(wrapping.Ring{Primary: away{key, &asked}}, store, ledger)
	reveals(t, cut, openai, sealed, events.ErrUnavailable)
	if err := cut.Check(t.Context()); !errors.Is(err, events.ErrUnavailable) {
		t.Error(err)
	}
	if changed, err := cut.Rewrap(t.Context(), sealed.DataKey); !errors.Is(err, events.ErrUnavailable) || changed {
		t.Error(changed, err)
	}
	if all, err := cut.All(t.Context()); err != nil || len(all) != 2 || all[0].Current || all[1].Current || asked != 1 {
		t.Errorf("%+v, %v; it was asked %d times", all, err, asked)
	}
	if done, err := cut.Destroy(t.Context(), sealed.DataKey); err != nil || !done {
		t.Error(done, err)
	}
	reveals(t, cut, openai, sealed, seals.ErrErased)
	reveals(t, e, openai, other, nil)
}

// A store that does not answer is not one that holds nothing.
func TestEnvelopesWithoutAStore(t *testing.T) {
	store := memory.New(ledger)
	e := seals.NewEnvelopes(wrapping.Ring{Primary: kek(t)}, store, ledger)
	sealed := enveloped(t, e, openai)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for what, call := range map[string]func() error{
		"seal":    func() error { _, err := e.Seal(ctx, openai, providerSecret, "WXYZ"); return err },
		"open":    func() error { _, err := e.Open(ctx, openai, sealed); return err },
		"destroy": func() error { _, err := e.Destroy(ctx, sealed.DataKey); return err },
		"rewrap":  func() error { _, err := e.Rewrap(ctx, sealed.DataKey); return err },
		"list":    func() error { _, err := e.All(ctx); return err },
		"tidy":    func() error { _, err := e.Tidy(ctx, 0); return err },
		"check":   func() error { return e.Check(ctx) },
	} {
		err := call()
		if !errors.Is(err, events.ErrUnavailable) || strings.Contains(err.Error(), providerSecret) {
			t.Errorf("%s: %v", what, err)
		}
	}
	reveals(t, e, openai, sealed, nil)
	if strings.Contains(sealed.Secret+sealed.LastFour, "WXYZ") {
		t.Error("a sealed secret shows its end")
	}
}
