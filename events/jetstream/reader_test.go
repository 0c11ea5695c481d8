package jetstream

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// That deliveries go elsewhere for longer than a reader that died could have them
// is said, and forgotten once it is over.
func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		r := &Reader{ledger: &Ledger{log: slog.New(slog.NewTextHandler(&said, nil))}, name: "sidecar"}
		tear := func(times int, every time.Duration) {
			for range times {
				r.torn(t.Context(), StreamLedger)
				time.Sleep(every)
			}
		}
		// As after a reader that died on another node.
		tear(10, time.Second)
		if r.Shared() || said.Len() > 0 {
			t.Fatalf("shared after 10 s: %s", said.String())
		}
		time.Sleep(2 * calm)
		tear(10, time.Second)
		if r.Shared() {
			t.Fatal("two restarts are taken for another reader")
		}
		tear(5, 8*time.Second)
		if !r.Shared() || !strings.Contains(said.String(), "sidecar") {
			t.Fatalf("not noticed: %q", said.String())
		}
		time.Sleep(2 * calm)
		if r.Shared() {
			t.Fatal("never forgotten")
		}
	})
}
