package throughput_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain/installation"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/integration/natstest"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/index"
)

const (
	org = events.OrgID("acme")
	// raw is the stream that plain publishes go to.
	raw = "RAW"
	// turn is how many changes each caller makes before it is the other's turn, and
	// atLeast how many all of them do.
	turn    = 16
	atLeast = 128
)

// place is a broker with the streams of a ledger, and one beside them.
type place struct {
	replicas int
	// answers and views are a server's two connections; plain is that of a program
	// which publishes what it likes.
	answers, views, plain *nats.Conn
}

// oneNode is an embedded broker, as keyledger serve runs it.
func oneNode(b *testing.B) place {
	b.Helper()
	broker, err := embedded.Start(b.Context(), embedded.Config{Dir: b.TempDir()})
	must(b, err)
	b.Cleanup(broker.Shutdown)
	p := place{replicas: 1}
	// An operator's connection, to be kept beyond the call.
	must(b, broker.Setup(b.Context(), func(c *nats.Conn) error {
		o := c.Opts
		var err error
		p.plain, err = o.Connect()
		return err
	}))
	b.Cleanup(p.plain.Close)
	for _, conn := range []**nats.Conn{&p.answers, &p.views} {
		*conn, err = broker.Connect(b.Context(), "server")
		must(b, err)
		b.Cleanup((*conn).Close)
	}
	p.streams(b)
	return p
}

// threeNodes is the cluster of deploy/nats. All connections are to the node that
// leads both streams.
func threeNodes(b *testing.B) place {
	b.Helper()
	nodes, dir := natstest.Reserve(b), b.TempDir()
	authority, err := credentials.Create(dir)
	must(b, err)
	must(b, authority.WriteCluster(nodes.Members()))
	nodes.Start(dir)
	p := place{replicas: natstest.Nodes}
	connect := func(creds string, more ...nats.Option) *nats.Conn {
		conn, err := nats.Connect(nodes.URL(0), append(more, nats.UserCredentials(dir+"/"+creds), nats.DontRandomize())...)
		must(b, err)
		b.Cleanup(conn.Close)
		return conn
	}
	p.plain = connect(credentials.OperatorCreds)
	inbox := nats.CustomInboxPrefix(embedded.InboxPrefix)
	p.answers, p.views = connect(credentials.ServerCreds, inbox), connect(credentials.ServerCreds, inbox)
	p.streams(b)
	for _, stream := range []string{jetstream.StreamLedger, raw} {
		for nodes.Leader(stream) != 0 {
			_, err := p.plain.Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, []byte(`{"placement":{"preferred":"nats-1"}}`), time.Minute)
			must(b, err)
			time.Sleep(time.Second)
		}
	}
	for _, conn := range []*nats.Conn{p.answers, p.views, p.plain} {
		if u, err := url.Parse(conn.ConnectedUrl()); err != nil || u.Host != nodes.Client(0) {
			b.Fatalf("connected to %s: %v", conn.ConnectedUrl(), err)
		}
	}
	return p
}

// streams makes the ledger's streams, and one that is configured as LEDGER is.
func (p place) streams(b *testing.B) {
	b.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		err := jetstream.EnsureStreams(b.Context(), p.plain, p.replicas)
		if err == nil {
			break
		}
		if !errors.Is(err, events.ErrUnavailable) || time.Now().After(deadline) {
			b.Fatal(err)
		}
	}
	js, err := natsjs.New(p.plain)
	must(b, err)
	ledger, err := js.Stream(b.Context(), jetstream.StreamLedger)
	must(b, err)
	config := ledger.CachedInfo().Config
	config.Name, config.Subjects = raw, []string{"raw.>"}
	_, err = js.CreateStream(b.Context(), config)
	must(b, err)
}

// server carries wishes out as keyledger serve does, and answers when its own index
// has applied them.
func (p place) server(b *testing.B) *commands.Service {
	b.Helper()
	id := events.LedgerID{1}
	open := func(conn *nats.Conn) *jetstream.Ledger {
		l, err := jetstream.New(jetstream.Config{Conn: conn, Ledger: id, Replicas: p.replicas})
		must(b, err)
		return l
	}
	log, views := open(p.answers), open(p.views)
	secret, err := commands.NewOwner()
	must(b, err)
	must(b, commands.Begin(b.Context(), log, id, secret, installation.Signer{Name: "log", VerifierKey: "log+0+0"}, time.Now()))
	x, err := index.New(index.Config{})
	must(b, err)
	configuration := commands.NewConfiguration()
	runner, err := projections.NewRunner(projections.Config{Source: views, View: projections.Together("index", x, configuration)})
	must(b, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	done := make(chan error, 1)
	go func() { done <- runner.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	s, err := commands.New(commands.Config{
		Log: log, Ledger: id, Configuration: configuration, Await: runner.WaitFor, Logger: slog.New(slog.DiscardHandler),
		Holders: func(context.Context, events.OrgID) ([]events.KeyID, error) { return nil, errors.New("nobody asks") },
	})
	must(b, err)
	_, err = s.CreateOrganization(b.Context(), wish(), organization.Create{ID: org, Name: events.ClearText("An organization")})
	must(b, err)
	return s
}

func wish() commands.Wish {
	return commands.Wish{RequestID: "r-1", Principal: commands.Principal{
		Actor: events.Actor{Type: events.ActorSystem, Name: "bench"}, Org: events.System,
		Role: events.RoleOwner, Scope: events.Scope{AllWorkspaces: true},
	}}
}

func plainKey() commands.CreateKey {
	return commands.CreateKey{Create: key.Create{
		Name: events.ClearText("interview service"), Permissions: events.Permissions{Level: events.LevelAll},
		Scope: events.Scope{AllWorkspaces: true},
	}}
}

// made collects the facts of a turn.
type made struct {
	mu    sync.Mutex
	facts []events.Recorded
}

func (m *made) add(facts []events.Recorded) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.facts = append(m.facts, facts...)
}

// crowd has so many callers do n things, and returns how long it took, and how long
// each of the things.
func crowd(b *testing.B, callers, n int, do func(i int) error) (time.Duration, []time.Duration) {
	b.Helper()
	each := make([]time.Duration, n)
	var next atomic.Int64
	var running sync.WaitGroup
	start := time.Now()
	for range callers {
		running.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				began := time.Now()
				if err := do(i); err != nil {
					b.Error(err)
					return
				}
				each[i] = time.Since(began)
			}
		})
	}
	running.Wait()
	return time.Since(start), each
}

// BenchmarkChanges has callers create keys of one organization, and revoke them, each
// in turns with plain publishes of the bytes that came of it.
func BenchmarkChanges(b *testing.B) {
	for _, at := range []struct {
		nodes int
		begin func(*testing.B) place
	}{{1, oneNode}, {natstest.Nodes, threeNodes}} {
		for _, callers := range []int{1, 64, 256} {
			b.Run(fmt.Sprintf("nodes=%d/callers=%d", at.nodes, callers), func(b *testing.B) { changes(b, at.begin(b), callers) })
		}
	}
}

func changes(b *testing.B, p place, callers int) {
	s := p.server(b)
	n := max(atLeast, turn*callers)
	var creates, revocations, afterCreates, afterRevocations tally
	for b.Loop() {
		var facts made
		keys := make([]events.KeyID, n)
		creates.add(crowd(b, callers, n, func(i int) error {
			out, err := s.CreateKey(b.Context(), wish(), org, plainKey())
			keys[i] = out.Key.ID
			facts.add(out.Facts)
			return err
		}))
		afterCreates.add(p.publish(b, callers, facts.facts))
		facts = made{}
		revocations.add(crowd(b, callers, n, func(i int) error {
			out, err := s.RevokeKey(b.Context(), wish(), org, keys[i], false)
			facts.add(out.Facts)
			return err
		}))
		afterRevocations.add(p.publish(b, callers, facts.facts))
	}
	b.ReportMetric(creates.rate(), "creates/s")
	b.ReportMetric(afterCreates.rate(), "raw-creates/s")
	b.ReportMetric(creates.rate()/afterCreates.rate(), "creates-of-raw")
	b.ReportMetric(creates.p99(), "create-p99-ms")
	b.ReportMetric(afterCreates.p99(), "raw-create-p99-ms")
	b.ReportMetric(revocations.rate(), "revocations/s")
	b.ReportMetric(afterRevocations.rate(), "raw-revocations/s")
	b.ReportMetric(revocations.rate()/afterRevocations.rate(), "revocations-of-raw")
	b.ReportMetric(0, "ns/op")
}

// publish publishes the bytes of facts by themselves, with nothing expected.
func (p place) publish(b *testing.B, callers int, facts []events.Recorded) (time.Duration, []time.Duration) {
	b.Helper()
	return crowd(b, callers, len(facts), func(i int) error {
		answer, err := p.plain.RequestWithContext(b.Context(), "raw."+facts[i].Subject.String(), facts[i].Raw)
		if err != nil {
			return err
		}
		var ack struct {
			Seq   uint64
			Error json.RawMessage
		}
		if err := json.Unmarshal(answer.Data, &ack); err != nil || ack.Seq == 0 {
			return fmt.Errorf("not stored: %s %w", ack.Error, err)
		}
		return nil
	})
}

// tally adds turns up.
type tally struct {
	took time.Duration
	each []time.Duration
}

func (t *tally) add(took time.Duration, each []time.Duration) {
	t.took += took
	t.each = append(t.each, each...)
}

func (t *tally) rate() float64 { return float64(len(t.each)) / t.took.Seconds() }

func (t *tally) p99() float64 {
	slices.Sort(t.each)
	return float64(t.each[len(t.each)*99/100]) / float64(time.Millisecond)
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
