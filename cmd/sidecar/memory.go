package sidecar

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// starting and settled are how much garbage there may be at least before it is
	// collected, until the first verdict and from then on. A replay makes some hundred
	// MB a second, and verdicts make next to nothing.
	starting, settled = 256 << 20, 64 << 20
	// usual is Go's own share of garbage to what lives, and leanest the smallest that
	// is asked for.
	usual, leanest = 100, 10
	// lookEvery is how often it is looked how much lives.
	lookEvery = time.Second
)

// lean keeps the program near what its index takes until the context ends. With Go's
// own rule, which waits until there is as much garbage as there is index, ten million
// keys would take another gigabyte for ever. Where GOGC is set, it is left alone.
func lean(ctx context.Context, ready <-chan struct{}) {
	if os.Getenv("GOGC") != "" {
		return
	}
	share, room := usual, uint64(starting)
	before := debug.SetGCPercent(share)
	defer debug.SetGCPercent(before)
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ready:
			room, ready = settled, nil
			// Who does next to nothing from now on would keep for ever what the start
			// has left behind.
			debug.FreeOSMemory()
		case <-look.C:
		}
		metrics.Read(sample)
		if sample[0].Value.Kind() != metrics.KindUint64 {
			return // a Go that does not tell
		}
		if next := shareOf(room, sample[0].Value.Uint64()); next != share {
			share = next
			debug.SetGCPercent(share)
		}
	}
}

// shareOf is how much garbage there may be, in percent of what lives.
func shareOf(room, live uint64) int {
	return int(min(max(room*100/max(live, 1), leanest), usual))
}
