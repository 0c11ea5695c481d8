package sidecar

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

// TestShareOf: a small index has Go's own share, a large one as much as there is room for, and
// the largest so little that it is not collected all the time.
func TestShareOf(t *testing.T) {
	for live, want := range map[uint64]int{
		0: 100, 1 << 20: 100, settled: 100, 2 * settled: 50, 8 * settled: 12, 1 << 40: 10,
	} {
		if got := shareOf(settled, live); got != want {
			t.Errorf("%d bytes live: %d %%, want %d", live, got, want)
		}
	}
}

// TestFreed: what a start has left behind is given back when it is over.
func TestFreed(t *testing.T) {
	t.Setenv("GOGC", "")
	ready := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	before := collections()
	go func() { defer close(ended); lean(ctx, ready) }()
	close(ready)
	for collections() == before {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-ended
}

// collections counts those that were asked for.
func collections() uint64 {
	sample := []metrics.Sample{{Name: "/gc/cycles/forced:gc-cycles"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// TestLean: what it has set ends with it, and where an operator has set it, it is left
// alone.
func TestLean(t *testing.T) {
	before := debug.SetGCPercent(77)
	defer debug.SetGCPercent(before)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, set := range []string{"", "50"} {
		t.Setenv("GOGC", set)
		lean(ctx, nil)
		if now := debug.SetGCPercent(77); now != 77 {
			t.Errorf("GOGC=%q: it left %d", set, now)
		}
	}
}
