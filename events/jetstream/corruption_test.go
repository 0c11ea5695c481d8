package jetstream_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
)

var errEnough = errors.New("enough")

// A message that went missing is found out by whoever comes across it, from
// wherever it is read.
func TestGap(t *testing.T) {
	for _, missing := range []uint64{1, 3, 5} {
		b := begin(t, t.TempDir())
		replace(t, b, jetstream.StreamLedger, func(c *natsjs.StreamConfig) { c.DenyDelete = false })
		l := ledger(t, b.Conn())
		wish := entries(6)
		for i := range wish {
			if _, err := l.Append(t.Context(), wish[i:i+1]); err != nil {
				t.Fatal(err)
			}
		}
		operate(t, b, func(js natsjs.JetStream) error {
			s, err := js.Stream(t.Context(), jetstream.StreamLedger)
			if err != nil {
				return err
			}
			return s.DeleteMsg(t.Context(), missing)
		})
		for after := range events.Position(missing) {
			seen := after
			err := l.Follow(t.Context(), after, func(slice []events.Recorded) error {
				seen = slice[len(slice)-1].Position
				return nil
			})
			if !errors.Is(err, events.ErrCorrupt) || seen >= events.Position(missing) {
				t.Fatalf("without %d, after %d: %v at %d", missing, after, err, seen)
			}
		}
		if _, err := l.At(t.Context(), events.Position(missing)); !errors.Is(err, events.ErrCorrupt) {
			t.Fatalf("at: %v", err)
		}
		if err := l.CheckStreams(t.Context()); !errors.Is(err, events.ErrCorrupt) {
			t.Fatalf("check: %v", err)
		}
		// Behind the gap all is well.
		err := l.Follow(t.Context(), events.Position(missing), func(slice []events.Recorded) error {
			if slice[len(slice)-1].Position == 6 {
				return errEnough
			}
			return nil
		})
		if !errors.Is(err, errEnough) {
			t.Fatalf("follow behind the gap: %v", err)
		}
	}
}

// A stream that was made anew under a follower is found out: while it is gone,
// while it is shorter, and when it has grown again to where the follower was.
func TestStreamMadeAnew(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*testing.T, *jetstream.Ledger, natsjs.JetStream, natsjs.StreamConfig) error
	}{
		{"gone", func(t *testing.T, _ *jetstream.Ledger, js natsjs.JetStream, _ natsjs.StreamConfig) error {
			return js.DeleteStream(t.Context(), jetstream.StreamLedger)
		}},
		{"shorter", func(t *testing.T, _ *jetstream.Ledger, js natsjs.JetStream, config natsjs.StreamConfig) error {
			if err := js.DeleteStream(t.Context(), jetstream.StreamLedger); err != nil {
				return err
			}
			_, err := js.CreateStream(t.Context(), config)
			return err
		}},
		{"grown again", func(t *testing.T, l *jetstream.Ledger, js natsjs.JetStream, config natsjs.StreamConfig) error {
			if err := js.DeleteStream(t.Context(), jetstream.StreamLedger); err != nil {
				return err
			}
			if _, err := js.CreateStream(t.Context(), config); err != nil {
				return err
			}
			_, err := l.Append(t.Context(), entries(9))
			return err
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := begin(t, t.TempDir())
			config := live(t, b, jetstream.StreamLedger)
			l := ledger(t, b.Conn())
			if _, err := l.Append(t.Context(), entries(3)); err != nil {
				t.Fatal(err)
			}
			changed := false
			err := l.Follow(t.Context(), 0, func(slice []events.Recorded) error {
				if changed {
					return errors.New("went on with another stream")
				}
				changed = true
				operate(t, b, func(js natsjs.JetStream) error { return test.change(t, l, js, config) })
				return nil
			})
			if !errors.Is(err, events.ErrCorrupt) || !changed {
				t.Fatalf("follow: %v", err)
			}
		})
	}
}

// A follower outlives lost lines and lost consumers: nothing is missed and
// nothing comes twice.
func TestFollowOutlives(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		disturb func(*testing.T, *line, natsjs.JetStream)
	}{
		{"cut lines", func(_ *testing.T, way *line, _ natsjs.JetStream) { way.cut() }},
		{"silence", func(_ *testing.T, way *line, _ natsjs.JetStream) {
			way.silence()
			time.Sleep(300 * time.Millisecond)
			way.cut()
		}},
		{"deleted consumers", func(t *testing.T, _ *line, js natsjs.JetStream) {
			s, err := js.Stream(t.Context(), jetstream.StreamLedger)
			if err != nil {
				t.Error(err)
				return
			}
			for name := range s.ConsumerNames(t.Context()).Name() {
				// It may have gone by itself.
				_ = s.DeleteConsumer(t.Context(), name)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := begin(t, t.TempDir())
			var way line
			follower := impatient(t, way.connect(t, b))
			writer := ledger(t, b.Conn())
			const facts = 60
			var all sync.WaitGroup
			all.Go(func() {
				wish := entries(facts)
				for i := 0; i < facts; i += 3 {
					if _, err := writer.Append(t.Context(), wish[i:i+3]); err != nil {
						t.Error(err)
						return
					}
					if i%15 == 6 {
						operate(t, b, func(js natsjs.JetStream) error {
							test.disturb(t, &way, js)
							return nil
						})
					}
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			seen := events.Position(0)
			err := follower.Follow(ctx, 0, func(slice []events.Recorded) error {
				for _, r := range slice {
					if seen++; r.Position != seen {
						return errors.New("out of order")
					}
				}
				if seen == facts {
					return errEnough
				}
				return nil
			})
			all.Wait()
			if !errors.Is(err, errEnough) {
				t.Fatalf("follow: %v at %d", err, seen)
			}
		})
	}
}

// Uses expire, and a follower begins with what is left.
func TestUsesExpire(t *testing.T) {
	b := begin(t, t.TempDir())
	l := ledger(t, b.Conn())
	publish := func(id string) {
		err := l.PublishUses(t.Context(), []events.UsesMessage{{Subject: events.UsesSubject("acme", "v1"), ID: id, Body: []byte(id)}})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"a", "b", "c"} {
		publish(id)
	}
	config := live(t, b, jetstream.StreamUses)
	forget := func(age time.Duration) {
		config.MaxAge, config.Duplicates = age, 0
		operate(t, b, func(js natsjs.JetStream) error {
			_, err := js.UpdateStream(t.Context(), config)
			return err
		})
	}
	forget(100 * time.Millisecond)
	for {
		var first uint64
		operate(t, b, func(js natsjs.JetStream) error {
			s, err := js.Stream(t.Context(), jetstream.StreamUses)
			first = s.CachedInfo().State.FirstSeq
			return err
		})
		if first == 4 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	forget(0)
	publish("d")
	for after := range events.Position(4) {
		var got []events.UsesMessage
		err := l.FollowUses(t.Context(), after, func(blocks []events.UsesMessage) error {
			got = append(got, blocks...)
			return errEnough
		})
		if !errors.Is(err, errEnough) || len(got) != 1 || got[0].Position != 4 || string(got[0].Body) != "d" {
			t.Fatalf("after %d: %v %v", after, got, err)
		}
	}
}
