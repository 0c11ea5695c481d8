package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyledger/keyledger/events"
)

// is means one body and no other.
func is(want string) func([]byte) bool {
	return func(body []byte) bool { return string(body) == want }
}

func sealsDestroyed(t *testing.T, b *bench) {
	l := b.Ledger
	holds := func(name, want string) {
		t.Helper()
		if body, there, err := l.Sealed(b.ctx, name); err != nil || string(body) != want || there != (want != "") {
			t.Errorf("%s holds %q, %t, %v; want %q", name, body, there, err, want)
		}
	}
	destroys := func(name, meant string, want bool) {
		t.Helper()
		if done, err := l.Destroy(b.ctx, name, is(meant)); err != nil || done != want {
			t.Errorf("destroy %s: %t, %v; want %t", name, done, err, want)
		}
	}
	for name, body := range map[string]string{"x.subject.one": "first", "x.subject.two": "other"} {
		if err := l.Seal(b.ctx, name, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Seal(b.ctx, "x.subject.one", []byte("second")); !errors.Is(err, events.ErrConflict) {
		t.Errorf("stored where something lies: %v", err)
	}
	destroys("x.subject.none", "first", false)
	destroys("x.subject.one", "second", false)
	holds("x.subject.one", "first")
	destroys("x.subject.one", "first", true)
	destroys("x.subject.one", "first", false)
	holds("x.subject.one", "")
	holds("x.subject.two", "other")
	if err := l.Seal(b.ctx, "x.subject.one", []byte("second")); err != nil {
		t.Fatal(err)
	}
	destroys("x.subject.one", "first", false)
	holds("x.subject.one", "second")
	gone, cancel := context.WithCancel(b.ctx)
	cancel()
	if _, err := l.Destroy(gone, "x.subject.one", is("second")); !errors.Is(err, events.ErrUnavailable) {
		t.Errorf("without patience: %v", err)
	}
	holds("x.subject.one", "second")
}

// Whoever means one seal never destroys the one that takes its place.
func sealsRacing(t *testing.T, b *bench) {
	const name, rounds = "x.subject.raced", 20
	for n := range rounds {
		old, next := fmt.Sprintf("old %d", n), fmt.Sprintf("next %d", n)
		if err := b.Ledger.Seal(b.ctx, name, []byte(old)); err != nil {
			t.Fatal(err)
		}
		var (
			all    sync.WaitGroup
			stored atomic.Int32
		)
		for range 3 {
			all.Go(func() {
				if _, err := b.Ledger.Destroy(b.ctx, name, is(old)); err != nil {
					t.Error(err)
				}
				switch err := b.Ledger.Seal(b.ctx, name, []byte(next)); {
				case err == nil:
					stored.Add(1)
				case !errors.Is(err, events.ErrConflict):
					t.Error(err)
				}
			})
		}
		all.Wait()
		if body, _, err := b.Ledger.Sealed(b.ctx, name); err != nil || string(body) != next || stored.Load() != 1 {
			t.Fatalf("round %d: %q, %v; stored %d times", n, body, err, stored.Load())
		}
		if done, err := b.Ledger.Destroy(b.ctx, name, is(next)); err != nil || !done {
			t.Fatal(done, err)
		}
	}
}
