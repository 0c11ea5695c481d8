// Package wrappingtest holds every kind of key-encryption key to one contract: Run is
// the suite that keysets and key management services both pass.
package wrappingtest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/wrapping"
)

// Bench is a key to be tested.
type Bench struct {
	Key wrapping.Key
	// Rotate has the key wrap with another from then on, and open what was wrapped
	// before. It returns the key that does so: the same, or another in its place.
	Rotate func() wrapping.Key
	// Foreign is a key of the same kind, and maybe the same name, that opens nothing
	// of the first.
	Foreign wrapping.Key
}

// patience bounds what a test waits for. It is no measurement.
const patience = 60 * time.Second

// Run runs the suite. Each test opens a key of its own.
func Run(t *testing.T, open func(t *testing.T) Bench) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, context.Context, Bench)
	}{
		{"what was wrapped opens", opensAgain},
		{"what was wrapped opens for its purpose alone", bound},
		{"what was changed does not open", changed},
		{"what another wrapped does not open", foreign},
		{"a rotated key opens what was before", rotated},
		{"many use it at once", together},
		{"in a ring", inRing},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			t.Cleanup(cancel)
			test.run(t, ctx, open(t))
		})
	}
}

// plain is what is wrapped: as long as a data key.
var plain = []byte("a data key: " + strings.Repeat("k", 60))

var purpose = []byte("for this")

func wrap(t *testing.T, ctx context.Context, k wrapping.Key) []byte {
	t.Helper()
	wrapped, err := k.Wrap(ctx, plain, purpose)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(wrapped, plain[12:]) {
		t.Fatal("it is not wrapped")
	}
	return wrapped
}

func unwraps(t *testing.T, ctx context.Context, k wrapping.Key, wrapped []byte) {
	t.Helper()
	if got, err := k.Unwrap(ctx, wrapped, purpose); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("it opens as %d bytes, %v", len(got), err)
	}
}

func refuses(t *testing.T, ctx context.Context, k wrapping.Key, what string, wrapped, purpose []byte) {
	t.Helper()
	if got, err := k.Unwrap(ctx, wrapped, purpose); !errors.Is(err, wrapping.ErrWrongKey) || errors.Is(err, events.ErrUnavailable) || got != nil {
		t.Errorf("%s opens as %d bytes, %v", what, len(got), err)
	}
}

func current(t *testing.T, ctx context.Context, k wrapping.Key, wrapped []byte, want bool) {
	t.Helper()
	if got, err := k.Current(ctx, wrapped); err != nil || got != want {
		t.Errorf("current is %t, %v; want %t", got, err, want)
	}
}

func opensAgain(t *testing.T, ctx context.Context, b Bench) {
	if n := len(b.Key.Name()); n == 0 || n > wrapping.MaxName {
		t.Errorf("its name has %d bytes", n)
	}
	first, again := wrap(t, ctx, b.Key), wrap(t, ctx, b.Key)
	if bytes.Equal(first, again) {
		t.Error("the same is wrapped in the same way")
	}
	for _, w := range [][]byte{first, again} {
		unwraps(t, ctx, b.Key, w)
		current(t, ctx, b.Key, w, true)
	}
}

func bound(t *testing.T, ctx context.Context, b Bench) {
	wrapped := wrap(t, ctx, b.Key)
	for _, other := range []string{"", "for that", "for thi", "for this ", "for this\x00"} {
		refuses(t, ctx, b.Key, "for "+other+" it", wrapped, []byte(other))
	}
}

func changed(t *testing.T, ctx context.Context, b Bench) {
	wrapped := wrap(t, ctx, b.Key)
	for i := range wrapped {
		damaged := bytes.Clone(wrapped)
		damaged[i] ^= 1
		// Whoever keeps ids and notes in clear beside what is encrypted may not
		// know the key any more, which nobody can tell from a service that is away.
		if got, err := b.Key.Unwrap(ctx, damaged, purpose); err == nil || got != nil {
			t.Fatalf("with byte %d changed it opens", i)
		}
	}
	for _, part := range [][]byte{nil, {}, wrapped[:1], wrapped[:len(wrapped)/2], wrapped[:len(wrapped)-1]} {
		if got, err := b.Key.Unwrap(ctx, part, purpose); err == nil || got != nil {
			t.Errorf("%d bytes of it open", len(part))
		}
	}
	for _, none := range [][]byte{nil, {}, []byte("x"), plain} {
		current(t, ctx, b.Key, none, false)
		refuses(t, ctx, b.Key, "what is no wrapping", none, purpose)
	}
}

func foreign(t *testing.T, ctx context.Context, b Bench) {
	wrapped := wrap(t, ctx, b.Key)
	refuses(t, ctx, b.Foreign, "another's", wrapped, purpose)
	current(t, ctx, b.Foreign, wrapped, false)
}

func rotated(t *testing.T, ctx context.Context, b Bench) {
	before := wrap(t, ctx, b.Key)
	next := b.Rotate()
	if next.Name() != b.Key.Name() {
		t.Errorf("it was called %q and is now %q", b.Key.Name(), next.Name())
	}
	current(t, ctx, next, before, false)
	unwraps(t, ctx, next, before)
	after := wrap(t, ctx, next)
	current(t, ctx, next, after, true)
	unwraps(t, ctx, next, after)
}

func together(t *testing.T, ctx context.Context, b Bench) {
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			wrapped, err := b.Key.Wrap(ctx, plain, purpose)
			if err != nil {
				t.Error(err)
				return
			}
			unwraps(t, ctx, b.Key, wrapped)
			current(t, ctx, b.Key, wrapped, true)
		})
	}
	all.Wait()
}

func inRing(t *testing.T, ctx context.Context, b Bench) {
	first, second := wrapping.Ring{Primary: b.Key}, wrapping.Ring{Primary: b.Foreign, Others: []wrapping.Key{b.Key}}
	wrapped, err := first.Wrap(ctx, plain, purpose)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range []struct {
		ring    wrapping.Ring
		current bool
	}{{first, true}, {second, false}} {
		if got, err := one.ring.Unwrap(ctx, wrapped, purpose); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("it opens as %d bytes, %v", len(got), err)
		}
		if got, err := one.ring.Current(ctx, wrapped); err != nil || got != one.current {
			t.Errorf("current is %t, %v", got, err)
		}
	}
	alone := wrapping.Ring{Primary: b.Foreign}
	if got, err := alone.Unwrap(ctx, wrapped, purpose); !errors.Is(err, wrapping.ErrWrongKey) || got != nil {
		t.Errorf("another's opens as %d bytes, %v", len(got), err)
	}
}
