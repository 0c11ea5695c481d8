package providersignals_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/installation"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/domain/providerkey"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/wrapping"
	"github.com/keyledger/keyledger/relay/providersignals"
)

const (
	acme      = events.OrgID("acme")
	globex    = events.OrgID("globex")
	openai    = events.ProviderOpenAI
	mistral   = events.ProviderMistral
	threshold = 100
)

// world is a ledger in memory with any number of servers on it, and a stream of
// access records that all of them follow.
type world struct {
	*testing.T
	log       *memory.Ledger
	envelopes *seals.Envelopes
	owner     commands.Wish
	hands     *server

	records []access.Message
	servers []*server
}

// newWorld has two organizations with two providers each, and spikes from a hundred
// resolves a minute on.
func newWorld(t *testing.T) *world {
	t.Helper()
	id := events.LedgerID{1}
	w := &world{T: t, log: memory.New(id)}
	secret, err := commands.NewOwner()
	if err == nil {
		err = commands.Begin(t.Context(), w.log, id, secret, installation.Signer{Name: "log", VerifierKey: "log+0+0"}, time.Now())
	}
	kek, fault := wrapping.NewKeyset()
	if err = errors.Join(err, fault); err != nil {
		t.Fatal(err)
	}
	w.envelopes = seals.NewEnvelopes(wrapping.Ring{Primary: kek}, w.log, id)
	w.owner = commands.Wish{Principal: commands.Principal{
		Actor: events.Actor{Type: events.ActorKey, Org: events.System, Key: events.KeyID{1}}, Org: events.System,
		Role: events.RoleOwner, Scope: events.Scope{AllWorkspaces: true},
	}}
	w.hands = w.service()
	for _, org := range []events.OrgID{acme, globex} {
		create := organization.Create{ID: org, Name: events.ClearText("A"), Policy: events.Policy{Signals: events.Signals{ResolvesPerMinute: threshold}}}
		if _, err := w.hands.CreateOrganization(t.Context(), w.owner, create); err != nil {
			t.Fatal(err)
		}
		for _, provider := range []events.ProviderID{openai, mistral} {
			if _, err := w.hands.AddProviderKey(t.Context(), w.owner, org, commands.AddProviderKey{
				Provider: provider, Secret: providerkey.Conceal("0123456789abcdefghijklmnopqrstuv"), Force: true,
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	// A minute begins.
	time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)))
	return w
}

// server is one with a keeper of its own.
type server struct {
	*commands.Service
	configuration *commands.Configuration
	keeper        *providersignals.Keeper
	ready         chan struct{}
	loads         atomic.Int64
}

// log counts how often the ledger is asked.
type log struct {
	*memory.Ledger
	s *server
}

func (l log) Load(ctx context.Context, subject events.Subject, after events.Position) ([]events.Recorded, error) {
	l.s.loads.Add(1)
	return l.Ledger.Load(ctx, subject, after)
}

func (w *world) service() *server {
	w.Helper()
	s := &server{configuration: commands.NewConfiguration(), ready: make(chan struct{})}
	var err error
	s.Service, err = commands.New(commands.Config{
		Log: log{w.log, s}, Ledger: events.LedgerID{1}, Configuration: s.configuration, Logger: slog.New(slog.DiscardHandler), Envelopes: w.envelopes,
		Holders: func(context.Context, events.OrgID) ([]events.KeyID, error) { return nil, nil },
		Await: func(ctx context.Context, pos events.Position) error {
			for {
				if at, _ := s.configuration.Position(ctx); at >= pos {
					return nil
				}
				time.Sleep(time.Millisecond)
			}
		},
		Label: func(parts ...string) ([32]byte, error) {
			mac := hmac.New(sha256.New, []byte("secret"))
			fmt.Fprintf(mac, "%q", parts)
			return [32]byte(mac.Sum(nil)), nil
		},
	})
	if err != nil {
		w.Fatal(err)
	}
	w.run(func(ctx context.Context) {
		_ = w.log.Follow(ctx, 0, func(facts []events.Recorded) error { return s.configuration.Apply(ctx, facts) })
	})
	return s
}

// run runs something until the test ends.
func (w *world) run(f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.Context()))
	var done sync.WaitGroup
	done.Go(func() { f(ctx) })
	w.Cleanup(func() { cancel(); done.Wait() })
}

// server starts one, which counts what was recorded before. change changes its
// keeper's configuration; nil is none.
func (w *world) server(change func(*providersignals.Config)) *server {
	w.Helper()
	s := w.service()
	cfg := providersignals.Config{
		Ledger: events.LedgerID{1}, Ready: s.ready, Logger: slog.New(slog.DiscardHandler),
		Threshold: func(org events.OrgID) int {
			config, _ := s.configuration.Of(org)
			return providerkey.SpikeThreshold(config.Organization.Policy.Signals)
		},
		NoteSpike: func(ctx context.Context, n providersignals.Spike) (providersignals.Outcome, error) {
			out, next, err := s.NoteProviderSpike(ctx, n.Org, n.Provider, n.From, n.Resolves)
			return providersignals.Outcome{Recorded: len(out.Facts) > 0 && !out.Replayed, Next: next}, err
		},
		NoteFailing: func(ctx context.Context, n providersignals.Failing) (providersignals.Outcome, error) {
			out, next, err := s.NoteProviderFailing(ctx, n.Org, n.Provider, events.ProviderKeyFailing{
				Of: events.FailingResolves, Since: n.Since, Failures: n.Failures, Code: n.Code,
			})
			return providersignals.Outcome{Recorded: len(out.Facts) > 0 && !out.Replayed, Next: next}, err
		},
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if s.keeper, err = providersignals.New(cfg); err != nil {
		w.Fatal(err)
	}
	s.keeper.Apply(w.records)
	w.servers = append(w.servers, s)
	w.run(s.keeper.Run)
	synctest.Wait()
	close(s.ready)
	return s
}

// recorded is a record of so many alike, now, which all servers hear of.
func (w *world) recorded(org events.OrgID, provider, answer, code string, count int) access.Message {
	w.Helper()
	at := events.TimeOf(time.Now())
	row := access.Row{
		Minute: access.Minute(at), Kind: access.ProviderKeyResolved, Org: org, What: provider, Code: code, Answer: answer,
		Actor: events.Actor{Type: events.ActorKey, Org: org, Key: events.KeyID{2}}, Role: events.RoleResolver,
	}
	m, err := access.Encode(&access.Record{
		Ledger: events.LedgerID{1}, Server: "s-1", Boot: access.BootID{1}, Number: uint64(len(w.records) + 1),
		Row: row, Count: uint64(count), FirstAt: at, LastAt: at,
	})
	if err != nil {
		w.Fatal(err)
	}
	m.Position, m.Stored = events.Position(len(w.records)+1), at
	w.records = append(w.records, m)
	for _, s := range w.servers {
		s.keeper.Apply([]access.Message{m})
	}
	return m
}

// resolves are answered ones, and fails those that are refused.
func (w *world) resolves(org events.OrgID, provider events.ProviderID, n int) {
	w.Helper()
	for range n {
		w.recorded(org, string(provider), access.AnswerCustomer, "", 1)
	}
}

func (w *world) fails(org events.OrgID, provider events.ProviderID, code string, n int) {
	w.Helper()
	w.recorded(org, string(provider), "", code, n)
}

// told are the signals of a provider key.
func (w *world) told(org events.OrgID, provider events.ProviderID) (spikes []events.ProviderKeyResolvesSpike, failing []events.ProviderKeyFailing) {
	w.Helper()
	facts, err := w.log.Load(w.Context(), events.ProviderKeySubject(org, provider), 0)
	if err != nil {
		w.Fatal(err)
	}
	for _, f := range facts {
		switch e := f.Event.(type) {
		case events.ProviderKeyResolvesSpike:
			spikes = append(spikes, e)
		case events.ProviderKeyFailing:
			failing = append(failing, e)
		}
	}
	return spikes, failing
}

// toldOnly fails unless there are so many signals of a provider key.
func (w *world) toldOnly(org events.OrgID, provider events.ProviderID, spikes, failing int) {
	w.Helper()
	a, b := w.told(org, provider)
	if len(a) != spikes || len(b) != failing {
		w.Errorf("%s %s: %d spikes and %d times failing, want %d and %d", org, provider, len(a), len(b), spikes, failing)
	}
}

// Two servers count the same, and so does one that starts later: each burst is told
// once, of the provider key that it is of, and again an hour later at the soonest.
func TestSpikesAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.server(nil), w.server(nil)
		began := events.TimeOf(time.Now())
		w.resolves(acme, openai, threshold)
		w.resolves(acme, mistral, threshold-1)
		w.resolves(globex, openai, 1)
		time.Sleep(time.Minute)
		w.resolves(acme, mistral, 1)
		w.toldOnly(acme, openai, 1, 0)
		w.toldOnly(acme, mistral, 0, 0)
		w.toldOnly(globex, openai, 0, 0)
		spikes, _ := w.told(acme, openai)
		if want := (events.ProviderKeyResolvesSpike{From: began, Resolves: threshold, Threshold: threshold}); len(spikes) != 1 || spikes[0] != want {
			t.Errorf("%+v, want %+v", spikes, want)
		}
		late := w.server(nil)
		for range 58 {
			w.resolves(acme, openai, threshold)
			time.Sleep(time.Minute)
		}
		w.toldOnly(acme, openai, 1, 0)
		w.resolves(acme, openai, 2*threshold)
		time.Sleep(time.Minute)
		w.resolves(acme, openai, 2*threshold)
		time.Sleep(time.Minute)
		w.toldOnly(acme, openai, 2, 0)
		w.toldOnly(acme, mistral, 0, 0)
		x, y, z := a.keeper.Stats(), b.keeper.Stats(), late.keeper.Stats()
		if x.Spikes+y.Spikes+z.Spikes != 2 || x.Idle+y.Idle+z.Idle != 4 || x.Failed+y.Failed+z.Failed != 0 {
			t.Errorf("%+v, %+v, %+v", x, y, z)
		}
	})
}

// What is no resolve of a customer's key makes no spike, nor does what is stored twice,
// or is old.
func TestWhatIsNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.server(nil)
		for range threshold {
			w.recorded(acme, string(openai), access.AnswerBuiltIn, "", 1)
			w.recorded(acme, access.Others, access.AnswerCustomer, "", 1)
			w.recorded(acme, "aleph", access.AnswerCustomer, "", 1)
		}
		w.resolves(acme, openai, threshold-1)
		for _, m := range w.records {
			again := m
			again.Position = events.Position(len(w.records) + 1)
			s.keeper.Apply([]access.Message{again, {Position: again.Position + 1, Stored: m.Stored, Body: []byte("{")}})
		}
		time.Sleep(time.Minute)
		w.resolves(globex, openai, threshold)
		old := w.records
		time.Sleep(2 * time.Hour)
		w.servers = nil
		w.records = nil
		late := w.server(nil)
		late.keeper.Apply(old)
		time.Sleep(time.Minute)
		w.toldOnly(acme, openai, 0, 0)
		w.toldOnly(globex, openai, 1, 0) // by the first, while it was new
		if st := late.keeper.Stats(); st != (providersignals.Stats{}) {
			t.Errorf("%+v", st)
		}
	})
}

// Resolves that fail again and again within an hour are told of once, whoever they
// failed at and however they were gathered; a few in more than an hour are not.
func TestFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.server(nil)
		w.server(nil)
		for range 2 * events.FailingResolvesPerHour {
			w.fails(acme, mistral, "forbidden", 1)
			time.Sleep(events.SpikeEvery/(events.FailingResolvesPerHour-1) + time.Minute)
		}
		w.toldOnly(acme, mistral, 0, 0)
		began := events.TimeOf(time.Now())
		w.fails(acme, openai, "forbidden", events.FailingResolvesPerHour-2)
		time.Sleep(50 * time.Minute)
		w.fails(acme, openai, "forbidden", 1)
		w.resolves(acme, openai, 5)
		time.Sleep(5 * time.Minute)
		w.toldOnly(acme, openai, 0, 0)
		w.fails(acme, openai, "unavailable", 1)
		time.Sleep(time.Minute)
		_, failing := w.told(acme, openai)
		want := events.ProviderKeyFailing{Of: events.FailingResolves, Since: began, Failures: events.FailingResolvesPerHour, Code: "unavailable"}
		if len(failing) != 1 || failing[0] != want {
			t.Errorf("%+v, want %+v", failing, want)
		}
		w.fails(acme, openai, "forbidden", 100)
		time.Sleep(time.Hour)
		w.toldOnly(acme, openai, 0, 1)
		w.fails(acme, openai, "forbidden", 100)
		time.Sleep(time.Minute)
		w.toldOnly(acme, openai, 0, 2)
		// One that is started in between counts on where the others were.
		w.fails(globex, openai, "forbidden", events.FailingResolvesPerHour-1)
		time.Sleep(30 * time.Minute)
		w.servers = nil
		w.server(nil)
		w.fails(globex, openai, "forbidden", 1)
		time.Sleep(time.Minute)
		w.toldOnly(globex, openai, 0, 1)
	})
}

// Whoever resolves as often as he can, or tries to without being allowed, makes the
// ledger be asked next to never, also where there is nothing to tell of.
func TestAStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		if _, err := w.hands.RemoveProviderKey(t.Context(), w.owner, globex, openai); err != nil {
			t.Fatal(err)
		}
		s := w.server(nil)
		before := s.loads.Load()
		for range 50 {
			w.resolves(acme, openai, 10)
			w.recorded(acme, string(openai), access.AnswerCustomer, "", 1000)
			w.fails(acme, openai, "forbidden", 1000)
			w.fails(globex, openai, "forbidden", 1000)
			time.Sleep(time.Minute)
		}
		w.toldOnly(acme, openai, 1, 1)
		w.toldOnly(globex, openai, 0, 0)
		if n := s.loads.Load() - before; n > 10 {
			t.Errorf("the ledger was asked %d times: %+v", n, s.keeper.Stats())
		}
	})
}

// Each organization says how many are a spike, and what it says counts from then on.
func TestThreshold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.server(nil)
		if _, err := w.hands.UpdateOrganization(t.Context(), w.owner, acme, organization.Update{ResolvesPerMinute: domain.Some(0)}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		w.resolves(acme, openai, events.DefaultResolvesPerMinute-1)
		w.resolves(globex, openai, threshold)
		time.Sleep(10 * time.Second)
		w.toldOnly(acme, openai, 0, 0)
		w.toldOnly(globex, openai, 1, 0)
		w.resolves(acme, openai, 1)
		time.Sleep(10 * time.Second)
		w.toldOnly(acme, openai, 1, 0)
	})
}

// A ledger that is away is asked again, and one provider key of which nothing is taken
// keeps none of the others from being told of.
func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var mu sync.Mutex
		fails := map[events.OrgID]error{acme: events.ErrUnavailable, globex: events.ErrUnavailable}
		set := func(org events.OrgID, err error) {
			mu.Lock()
			defer mu.Unlock()
			fails[org] = err
		}
		s := w.server(func(c *providersignals.Config) {
			spike, failing := c.NoteSpike, c.NoteFailing
			fault := func(org events.OrgID) error {
				mu.Lock()
				defer mu.Unlock()
				return fails[org]
			}
			c.NoteSpike = func(ctx context.Context, n providersignals.Spike) (providersignals.Outcome, error) {
				if err := fault(n.Org); err != nil {
					return providersignals.Outcome{}, err
				}
				return spike(ctx, n)
			}
			c.NoteFailing = func(ctx context.Context, n providersignals.Failing) (providersignals.Outcome, error) {
				if err := fault(n.Org); err != nil {
					return providersignals.Outcome{}, err
				}
				return failing(ctx, n)
			}
		})
		w.resolves(acme, openai, threshold)
		w.resolves(globex, openai, threshold)
		w.fails(acme, mistral, "forbidden", 10)
		time.Sleep(20 * time.Minute)
		w.toldOnly(globex, openai, 0, 0)
		set(acme, events.ErrCorrupt)
		set(globex, nil)
		time.Sleep(time.Minute)
		w.toldOnly(globex, openai, 1, 0)
		w.toldOnly(acme, openai, 0, 0)
		set(acme, nil)
		time.Sleep(6 * time.Minute)
		w.toldOnly(acme, openai, 1, 0)
		w.toldOnly(acme, mistral, 0, 1)
		if st := s.keeper.Stats(); st.Spikes != 2 || st.Failings != 1 || st.Failed == 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestValidate(t *testing.T) {
	_, err := providersignals.New(providersignals.Config{})
	if err == nil || strings.Count(err.Error(), "providersignals: no ") != 6 {
		t.Error(err)
	}
}
