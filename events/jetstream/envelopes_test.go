package jetstream_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/wrapping"
)

// What is destroyed, or was wrapped before, is in no file of the broker any more.
func TestDataKeysLeaveNothing(t *testing.T) {
	dir := t.TempDir()
	b := begin(t, dir)
	l := ledger(t, b.Conn())
	before, during := rings(t)
	old, next := seals.NewEnvelopes(before, l, ledgerID), seals.NewEnvelopes(during, l, ledgerID)
	stored := func(of events.DataKeyID) (body []byte) {
		t.Helper()
		err := l.EachSeal(t.Context(), ledgerID.String()+".provider."+of.String(), func(_ string, b []byte, _ events.Time) error {
			body = bytes.Clone(b)
			return nil
		})
		if err != nil || body == nil {
			t.Fatal(err)
		}
		return body
	}
	rewrapped, destroyed := keep(t, old), keep(t, old)
	first, second := stored(rewrapped.DataKey), stored(destroyed.DataKey)
	if _, err := next.Rewrap(t.Context(), rewrapped.DataKey); err != nil {
		t.Fatal(err)
	}
	if _, err := next.Destroy(t.Context(), destroyed.DataKey); err != nil {
		t.Fatal(err)
	}
	third := stored(rewrapped.DataKey)
	look := func(when string) {
		t.Helper()
		for what, body := range map[string][]byte{"as it was wrapped before": first, "what was destroyed": second} {
			if in := files(t, dir, body); len(in) > 0 {
				t.Errorf("%s: %s stands in %q", when, what, in)
			}
		}
		if len(files(t, dir, third)) == 0 {
			t.Errorf("%s: the data key itself is not found", when)
		}
	}
	look("at once")
	b.Shutdown()
	look("with the broker shut down")
}

// Servers at three nodes that wrap a data key anew, and one that destroys it: while it
// is there it opens, and once that was answered nobody brings it back.
func TestDataKeysOnThreeNodes(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t)
	c.Begin()
	before, during := rings(t)
	var servers []*seals.Envelopes
	for i := range 2 * clustertest.Nodes {
		ring := before
		if i >= clustertest.Nodes {
			ring = during
		}
		servers = append(servers, seals.NewEnvelopes(ring, ledgerOver(t, c.Connect(i%clustertest.Nodes), 0), ledgerID))
	}
	for round := range 6 {
		sealed := keep(t, servers[round%len(servers)])
		var all sync.WaitGroup
		anew := make(chan struct{}, len(servers))
		for _, e := range servers {
			all.Go(func() {
				for range 3 {
					if _, err := e.Rewrap(t.Context(), sealed.DataKey); err != nil && !errors.Is(err, events.ErrUnavailable) {
						t.Error(err)
					}
					select {
					case anew <- struct{}{}:
					default:
					}
				}
			})
		}
		all.Go(func() {
			e := servers[(round+1)%len(servers)]
			for range len(servers) {
				<-anew
				if text, err := e.Open(t.Context(), bound, sealed); err != nil || text != secret {
					t.Errorf("it does not open: %v", err)
				}
			}
			if _, err := e.Destroy(t.Context(), sealed.DataKey); err != nil {
				t.Error(err)
			}
			for _, other := range servers {
				if _, err := other.Open(t.Context(), bound, sealed); !errors.Is(err, seals.ErrErased) {
					t.Errorf("what is destroyed opens: %v", err)
				}
			}
		})
		all.Wait()
		if found, err := servers[0].All(t.Context()); err != nil || len(found) != 0 {
			t.Fatalf("round %d: %+v, %v", round, found, err)
		}
	}
}

const secret = "sk-a-secret-of-a-provider-1234"

var bound = seals.Binding{Org: "acme", Provider: events.ProviderOpenAI, Version: 1}

func keep(t *testing.T, e *seals.Envelopes) events.SealedSecret {
	t.Helper()
	sealed, err := e.Seal(context.WithoutCancel(t.Context()), bound, secret, "1234")
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// rings are key-encryption keys before a rotation and after it.
func rings(t *testing.T) (before, during wrapping.Ring) {
	t.Helper()
	keys, err := wrapping.NewKeyset()
	if err != nil {
		t.Fatal(err)
	}
	added, id, err := keys.Add()
	if err != nil {
		t.Fatal(err)
	}
	promoted, err := added.Promote(id)
	if err != nil {
		t.Fatal(err)
	}
	return wrapping.Ring{Primary: added}, wrapping.Ring{Primary: promoted}
}

var _ seals.EnvelopeStore = (*jetstream.Ledger)(nil)
