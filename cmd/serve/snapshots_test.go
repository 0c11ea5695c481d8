package serve

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/projections/snapshot"
)

// TestServerKeepsSnapshots: one of everything, signed with the installation's key, as
// soon as there is something; and none where none are asked for.
func TestServerKeepsSnapshots(t *testing.T) {
	t.Parallel()
	for name, every := range map[string]time.Duration{"asked for": 20 * time.Millisecond, "switched off": 0} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			url, stop := runningAs(t, dir, func(c *Config) { c.SnapshotEvery = every })
			if every > 0 {
				stored := func() bool {
					_, page := scrape(t, url+"/metrics")
					return strings.Contains(page, "keyledger_snapshots_total{outcome=\"stored\"} 1\n")
				}
				for end := time.Now().Add(time.Minute); !stored(); time.Sleep(5 * time.Millisecond) {
					if time.Now().After(end) {
						t.Fatal("nothing is stored after a minute")
					}
				}
			}
			stop()
			if left, err := filepath.Glob(filepath.Join(dir, "snapshot-*")); err != nil || left != nil {
				t.Errorf("left in the folder: %q %v", left, err)
			}
			cfg := Config{Listen: "127.0.0.1:0", Data: dir, Logger: discard}
			b, err := startBroker(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer b.stop()
			ledger, err := open(t.Context(), cfg, b)
			if err != nil {
				t.Fatal(err)
			}
			defer ledger.close()
			m, there, err := ledger.SnapshotManifest(t.Context(), "")
			if err != nil || there != (every > 0) {
				t.Fatalf("there: %t, %v", there, err)
			}
			if !there {
				return
			}
			key, err := os.ReadFile(filepath.Join(dir, VerifierKeyFile))
			if err != nil {
				t.Fatal(err)
			}
			if err := snapshot.CheckSignature(&m, []string{strings.TrimSpace(string(key))}); err != nil {
				t.Error(err)
			}
			if err := (snapshot.Reader{Ledger: ledger.positions.Ledger}).Admits(&m); err != nil {
				t.Error(err)
			}
		})
	}
}
