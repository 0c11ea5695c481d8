package serve

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"testing"
)

// A server whose listener breaks says so, and leaves nothing running that would
// wait for it to be ready.
func TestBrokenListener(t *testing.T) {
	cfg := Config{Listen: "127.0.0.1:0", Data: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}
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
	parts, err := assemble(t.Context(), cfg, ledger)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := parts.serve(t.Context(), cfg, listener); !errors.Is(err, net.ErrClosed) {
		t.Errorf("serve: %v", err)
	}
	stacks := make([]byte, 1<<20)
	if stacks = stacks[:runtime.Stack(stacks, true)]; bytes.Contains(stacks, []byte("(*parts).ready")) {
		t.Error("somebody waits for it to be ready")
	}
}
