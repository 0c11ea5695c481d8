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

// TestVerifiersCutOff has one ledger for all that leaves its nodes alone.
func TestVerifiersCutOff(t *testing.T) {
	t.Parallel()
	w := begin(t, "--snapshot-every", "1s")
	for name, test := range map[string]func(*testing.T, *world){
		"a wire that carries nothing": func(t *testing.T, w *world) {
			deniesPastItsBound(t, w, "wire", func(s *sidecar) { s.wire.cut() }, func(s *sidecar) { s.wire.mend() })
		},
		"a process that stands still": func(t *testing.T, w *world) {
			deniesPastItsBound(t, w, "still", func(s *sidecar) { s.Pause() }, func(s *sidecar) { s.Resume() })
		},
		"a process that is killed":   leavesATrace,
		"who is cut off is named":    isNamed,
		"histories":                  nothingIsValidAfterTheReceipt,
		"an old snapshot put back":   oldSnapshotIsRefused,
		"what the server has stored": startsFromWhatTheServerStored,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, w.in(t))
		})
	}
}

// deniesPastItsBound whatever cuts it off. It goes on by itself, never takes a
// revocation back, and loses no use.
func deniesPastItsBound(t *testing.T, w *world, name string, cut, mend func(*sidecar)) {
	gone, stays := w.key(), w.key()
	s := w.sidecar(name)
	watch := s.watch(gone, stays)
	watch.until(t, gone, time.Now(), "VALID")
	watch.until(t, stays, time.Now(), "VALID")
	before := s.connections.Load()
	cut(s)
	answered := w.revoke(gone)
	time.Sleep(2 * bound)
	mend(s)
	mended := time.Now()
	watch.until(t, gone, mended, "REVOKED")
	watch.until(t, stays, mended, "VALID")
	watch.stop()
	watch.neverAfter(t, gone, answered.Add(bound+grace), "VALID", "the bound had passed since the revocation was answered")
	watch.neverUndone(t, gone)
	// It comes back with a connection to a node, and not in a storm.
	if n := s.connections.Load() - before; n > 2*natstest.Nodes {
		t.Errorf("it came back with %d connections", n)
	}
	s.Stop()
	w.allRecorded(watch, gone)
	w.allRecorded(watch, stays)
}

// TestNodesThatDie: without nodes nothing is proven and everything denied, by the
// bound; a leader that dies is missed for an election at most. Either way the verifier
// goes on by itself, and what was answered in between is recorded in the end.
func TestNodesThatDie(t *testing.T) {
	t.Parallel()
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
