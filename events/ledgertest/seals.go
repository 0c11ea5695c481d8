package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	const name, rounds = "x.subject.raced", 8
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

// listed is what lies under the names that begin with a prefix, as name=body.
func listed(t *testing.T, b *bench, prefix string) []string {
	t.Helper()
	var out []string
	err := b.Ledger.EachSeal(b.ctx, prefix, func(name string, body []byte, stored events.Time) error {
		if stored.IsZero() {
			t.Errorf("%s was stored at no time", name)
		}
		out = append(out, name+"="+string(body))
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return out
}

func sealsListed(t *testing.T, b *bench) {
	lists := func(prefix string, want ...string) {
		t.Helper()
		if got := listed(t, b, prefix); !slices.Equal(got, want) {
			t.Errorf("under %s lie %q; want %q", prefix, got, want)
		}
	}
	lists("x.provider")
	for _, name := range []string{"x.provider.two.a", "x.subject.one", "x.provider.one.b", "x.provider", "x.providers.one", "y.x.provider.one", "x.provider.one.a"} {
		if err := b.Ledger.Seal(b.ctx, name, []byte("body of "+name)); err != nil {
			t.Fatal(err)
		}
	}
	const two, oneB, oneA = "x.provider.two.a=body of x.provider.two.a", "x.provider.one.b=body of x.provider.one.b", "x.provider.one.a=body of x.provider.one.a"
	lists("x.provider", two, oneB, oneA)
	lists("x.provider.one", oneB, oneA)
	lists("x.provider.three")
	if _, err := b.Ledger.Destroy(b.ctx, "x.provider.two.a", func([]byte) bool { return true }); err != nil {
		t.Fatal(err)
	}
	lists("x.provider", oneB, oneA)
	// Stored again it comes last.
	if err := b.Ledger.Seal(b.ctx, "x.provider.two.a", []byte("again")); err != nil {
		t.Fatal(err)
	}
	lists("x.provider", oneB, oneA, "x.provider.two.a=again")
	enough, met := errors.New("enough"), 0
	if err := b.Ledger.EachSeal(b.ctx, "x.provider", func(string, []byte, events.Time) error { met++; return enough }); !errors.Is(err, enough) || met != 1 {
		t.Errorf("told to stop: %v, %d were handed over", err, met)
	}
	gone, cancel := context.WithCancel(b.ctx)
	cancel()
	if err := b.Ledger.EachSeal(gone, "x.provider", func(string, []byte, events.Time) error { return nil }); !errors.Is(err, events.ErrUnavailable) {
		t.Errorf("without patience: %v", err)
	}
}

// What is stored under one name before it is destroyed under the other is met, whenever
// somebody looks.
func sealsMoved(t *testing.T, b *bench) {
	if err := b.Ledger.Seal(b.ctx, "x.moved.a", []byte("0")); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	const readers = 2
	looked, done := make(chan struct{}), make(chan struct{})
	for range readers {
		all.Go(func() {
			for {
				if len(listed(t, b, "x.moved")) == 0 {
					t.Error("there was nothing")
				}
				select {
				case <-done:
					return
				case looked <- struct{}{}:
				}
			}
		})
	}
	names := [...]string{"x.moved.a", "x.moved.b"}
	for n := range 20 {
		if err := b.Ledger.Seal(b.ctx, names[(n+1)%2], []byte(fmt.Sprint(n+1))); err != nil {
			t.Error(err)
			break
		}
		if done, err := b.Ledger.Destroy(b.ctx, names[n%2], is(fmt.Sprint(n))); err != nil || !done {
			t.Error(done, err)
			break
		}
		// Until somebody has looked who began after that.
		for range readers + 1 {
			<-looked
		}
	}
	close(done)
	all.Wait()
}
