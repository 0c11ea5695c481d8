package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
)

func TestSourcesAreNotedOnce(t *testing.T) {
	var mu sync.Mutex
	told := map[string]int{}
	failing := true
	s := newSources(func(_ context.Context, one seen) error {
		mu.Lock()
		defer mu.Unlock()
		told[one.source]++
		if failing && one.source == "unlucky" {
			return errors.New("no broker")
		}
		return nil
	}, slog.New(slog.DiscardHandler))
	note := func(source string) { s.note(seen{sourceName: sourceName{"acme", "openai", source}}) }
	for range 3 {
		note("192.0.2.1")
		note("192.0.2.2")
	}
	note("")
	note("unlucky")
	s.done.Wait()
	mu.Lock()
	failing = false
	mu.Unlock()
	note("unlucky")
	note("unlucky")
	s.close(t.Context())
	note("too late")
	if got := fmt.Sprint(told); got != "map[192.0.2.1:1 192.0.2.2:1 unlucky:2]" {
		t.Error(got)
	}
}

func TestSourcesAreBounded(t *testing.T) {
	block := make(chan struct{})
	var mu sync.Mutex
	n := 0
	s := newSources(func(context.Context, seen) error {
		<-block
		mu.Lock()
		defer mu.Unlock()
		n++
		return nil
	}, slog.New(slog.DiscardHandler))
	for i := range maxToNote * 3 {
		s.note(seen{sourceName: sourceName{"acme", "openai", fmt.Sprint(i)}})
	}
	close(block)
	s.close(t.Context())
	// None of those that note is left.
	if n < maxToNote || n > maxToNote+notersAtOnce {
		t.Errorf("%d were noted", n)
	}
	for i := range maxKnownSources {
		s.known[sourceName{source: fmt.Sprint(i)}] = true
	}
	s.closed = false
	s.note(seen{sourceName: sourceName{"acme", "openai", "one more"}})
	s.close(t.Context())
	if len(s.known) != 1 {
		t.Errorf("%d are remembered", len(s.known))
	}
}

// A server that stops does not wait for a broker that is away.
func TestSourcesAreLetGo(t *testing.T) {
	started := make(chan struct{}, maxToNote)
	s := newSources(func(ctx context.Context, _ seen) error {
		started <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}, slog.New(slog.DiscardHandler))
	for i := range 2 * notersAtOnce {
		s.note(seen{sourceName: sourceName{"acme", "openai", fmt.Sprint(i)}})
	}
	<-started
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.close(ctx)
	if len(started) >= notersAtOnce {
		t.Error("more were begun after the stop")
	}
}
