package cutoff

import (
	"testing"
	"time"

	"github.com/keyledger/keyledger/integration/natstest"
)

// grace is how much later than its bound a verdict may be given on this machine: what
// a request takes to get its answer is not counted, as it is asked about when it
// began.
const grace = 500 * time.Millisecond

// TestCutOffVerifierDeniesPastItsBound: whatever it is cut off by. It goes on by
// itself, never takes a revocation back, and loses no use.
func TestCutOffVerifierDeniesPastItsBound(t *testing.T) {
	w := begin(t)
	for i, c := range []struct {
		name      string
		cut, mend func(*sidecar)
	}{
		{"its wire carries nothing", func(s *sidecar) { s.wire.cut() }, func(s *sidecar) { s.wire.mend() }},
		{"it stands still", func(s *sidecar) { s.Pause() }, func(s *sidecar) { s.Resume() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			gone, stays := w.in(t).key(), w.in(t).key()
			s := w.in(t).sidecar([]string{"wire", "still"}[i])
			watch := s.watch(gone, stays)
			watch.until(t, gone, time.Now(), "VALID")
			watch.until(t, stays, time.Now(), "VALID")
			before := s.connections.Load()
			c.cut(s)
			answered := w.in(t).revoke(gone)
			time.Sleep(2 * bound)
			c.mend(s)
			mended := time.Now()
			watch.until(t, gone, mended, "REVOKED")
			watch.until(t, stays, mended, "VALID")
			watch.stop()
			watch.neverAfter(t, gone, answered.Add(bound+grace), "VALID", "the bound had passed since the revocation was answered")
			watch.neverUndone(t, gone)
			// It comes back with one connection to one node, and not in a storm.
			if n := s.connections.Load() - before; n > 2*natstest.Nodes {
				t.Errorf("it came back with %d connections", n)
			}
			if i == 0 && watch.codes(stays)["STALE"] == 0 {
				t.Errorf("a key that is good was never STALE: %v", watch.codes(stays))
			}
			s.Stop()
			w.in(t).allRecorded(watch, gone)
			w.in(t).allRecorded(watch, stays)
		})
	}
}

// TestNodesThatDie: without nodes nothing is proven and everything denied, by the
// bound; a leader that dies is missed for an election at most. Either way the verifier
// goes on by itself, and what was answered in between is recorded in the end.
func TestNodesThatDie(t *testing.T) {
	w := begin(t)
	gone, stays := w.key(), w.key()
	s := w.sidecar("edge")
	watch := s.watch(gone, stays)
	watch.until(t, gone, time.Now(), "VALID")
	w.nodes.Kill(w.nodes.Leader("LEDGER"))
	answered := w.revoke(gone)
	watch.until(t, gone, answered, "REVOKED")
	watch.until(t, stays, answered, "VALID")
	for i := range natstest.Nodes {
		w.nodes.Kill(i)
	}
	killed := time.Now()
	watch.until(t, stays, killed.Add(bound), "STALE")
	watch.neverAfter(t, stays, killed.Add(bound+grace), "VALID", "all nodes died")
	w.nodes.RestartAll()
	watch.until(t, stays, time.Now(), "VALID")
	watch.until(t, gone, time.Now(), "REVOKED")
	watch.stop()
	watch.neverUndone(t, gone)
	watch.neverAfter(t, gone, answered.Add(bound+grace), "VALID", "the revocation was answered and the bound had passed")
	s.Stop()
	w.allRecorded(watch, gone)
	w.allRecorded(watch, stays)
}
