package ticks_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"golang.org/x/mod/sumdb/note"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/continuity"
	"github.com/keyledger/keyledger/relay/ticks"
)

// bound is the smallest that is met: a tick a second.
const bound = 3 * ticks.MinInterval

// patience is for what a broker does in its own time.
const patience = 90 * time.Second

// until waits for something.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// place is a ledger on a broker.
type place struct {
	t      *testing.T
	id     events.LedgerID
	signer note.Signer
	facts  int
}

func newPlace(t *testing.T) *place {
	t.Helper()
	return &place{t: t, id: events.LedgerID(uuid.New())}
}

// ledger opens it over a connection.
func (p *place) ledger(conn *nats.Conn, replicas int) *jetstream.Ledger {
	p.t.Helper()
	l, err := jetstream.New(jetstream.Config{Conn: conn, Ledger: p.id, Replicas: replicas, Heartbeat: 200 * time.Millisecond})
	if err != nil {
		p.t.Fatal(err)
	}
	return l
}

// begin appends its first facts.
func (p *place) begin(l *jetstream.Ledger) {
	p.t.Helper()
	w := newWorld(p.t) // for its signer, and the key of it
	p.signer = w.signer
	first, _ := w.ledger.Load(p.t.Context(), events.InstallationSubject(), 0)
	p.append(l, events.InstallationSubject(), events.InstallationCreated{Ledger: p.id, Epoch: 1}, 1)
	p.append(l, events.InstallationSubject(), first[1].Event, 2)
}

func (p *place) append(l *jetstream.Ledger, subject events.Subject, e events.Event, revision events.Revision) {
	p.t.Helper()
	_, err := l.Append(p.t.Context(), []events.Entry{{Subject: subject, Event: e, Meta: events.Meta{
		ID: events.EventID(newID(p.t)), Ledger: p.id, Time: events.TimeOf(time.Now()), Revision: revision,
		Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: events.CommandID(newID(p.t)),
	}}})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) add(l *jetstream.Ledger, org events.OrgID) {
	p.t.Helper()
	p.facts++
	id := events.WorkspaceID(fmt.Sprintf("w%d", p.facts))
	p.append(l, events.WorkspaceSubject(org, id), events.WorkspaceCreated{ID: id, Name: events.ClearText("w")}, 1)
}

// run runs a reader, and its ticker if it has a ledger to append to.
func (p *place) run(source projections.Source, l *jetstream.Ledger, c continuity.Config) *node {
	p.t.Helper()
	c.Ledger = p.id
	s := &node{}
	var err error
	if s.continuity, err = continuity.New(c); err != nil {
		p.t.Fatal(err)
	}
	if s.Runner, err = projections.NewRunner(projections.Config{
		Source: source, View: s.continuity, Filtered: c.Scope != "", Proven: s.continuity.Proven,
	}); err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			p.t.Error(err)
		}
	})
	if l != nil {
		if s.ticker, err = ticks.New(ticks.Config{
			Continuity: s.continuity, Ready: s.Ready(), Fresh: s.Fresh, WaitFor: s.WaitFor, Signer: p.signer, MaxStaleness: bound,
			Appender: ticks.AppenderFunc(func(ctx context.Context, t events.Tick, before events.Position, revision events.Revision) (events.Recorded, error) {
				return commands.Tick(ctx, l, p.id, t, before, revision)
			}),
		}); err != nil {
			p.t.Fatal(err)
		}
		running.Go(func() { s.ticker.Run(ctx) })
	}
	s.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	p.t.Cleanup(s.stop)
	return s
}

// node is a server on a broker.
type node struct {
	*projections.Runner
	continuity *continuity.View
	ticker     *ticks.Ticker
	stop       func()
}

func (s *node) stale() bool {
	f := s.Fresh()
	return f.IsZero() || time.Since(f) > bound
}

// single starts one broker in this process, where everybody may do everything.
func single(t *testing.T) *nats.Conn {
	t.Helper()
	s, err := natsserver.NewServer(&natsserver.Options{ServerName: "single", NoSigs: true, NoLog: true, DontListen: true, JetStream: true, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the broker did not start")
	}
	conn, err := nats.Connect("", nats.InProcessServer(s), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if err := jetstream.EnsureStreams(t.Context(), conn, 1); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestReadersOnABroker: whoever sees all that he should stays fresh on an idle
// ledger, and one from whom the broker keeps a part finds out.
func TestReadersOnABroker(t *testing.T) {
	p, conn := newPlace(t), single(t)
	l := p.ledger(conn, 1)
	p.begin(l)
	p.add(l, "acme")
	p.add(l, "globex")
	subject := func(org events.OrgID, rest string) string {
		s := events.OrganizationSubject(org).String()
		return s[:len(s)-len("organization.")-len(org)] + rest
	}
	reader := func(name string, label events.ScopeLabel, subjects ...string) *node {
		t.Helper()
		p.append(l, events.CredentialSubject(events.CredentialName(name)), events.CredentialIssued{
			Name: events.CredentialName(name), For: events.CredentialVerifier, Organizations: []events.OrgID{"globex"}, Account: "A", Scope: label,
		}, 1)
		spec := jetstream.ReaderSpec{
			Ledger: p.id, Stream: jetstream.StreamLedger, Name: name, Scope: string(label),
			Subjects: append(subjects, events.TickSubject().String(), events.InstallationSubject().String()),
		}
		if err := jetstream.EnsureReader(t.Context(), conn, spec); err != nil {
			t.Fatal(err)
		}
		info, err := jetstream.DescribeReader(t.Context(), conn, jetstream.StreamLedger, name)
		if err != nil {
			t.Fatal(err)
		}
		r, err := jetstream.NewReader(jetstream.ReaderConfig{Conn: conn, Name: name, Info: info, Heartbeat: 200 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return p.run(r, nil, continuity.Config{Scope: label, Organizations: []events.OrgID{"globex"}})
	}
	good := reader("good", "s1", subject("globex", ">"))
	// It is not shown what becomes of organizations, and of nothing else.
	bad := reader("bad", "s2", subject("globex", "workspace.>"), subject("globex", "key.>"), subject("globex", "revoked.>"))
	full := p.run(l, l, continuity.Config{})
	for name, s := range map[string]*node{"full": full, "good": good, "bad": bad} {
		until(t, name+" is fresh", func() bool { return !s.stale() })
	}
	for range 3 {
		n := full.ticker.Stats().Appended
		until(t, "another tick", func() bool { return full.ticker.Stats().Appended > n })
		p.add(l, "globex")
	}
	p.append(l, events.OrganizationSubject("globex"), events.OrganizationRenamed{Name: events.ClearText("g")}, 1)
	until(t, "the hole is found", func() bool { return errors.Is(bad.continuity.Err(), continuity.ErrDisagrees) })
	if !bad.Fresh().IsZero() {
		t.Error("fresh with a hole")
	}
	until(t, "the others are fresh", func() bool { return !good.stale() && !full.stale() })
	if n := good.continuity.Faults() + full.continuity.Faults(); n != 0 {
		t.Errorf("%d faults: %v, %v", n, good.continuity.Err(), full.continuity.Err())
	}
}

// TestIdleLedgerAfterARestart is fresh by the tick of whoever starts.
func TestIdleLedgerAfterARestart(t *testing.T) {
	p, conn := newPlace(t), single(t)
	l := p.ledger(conn, 1)
	p.begin(l)
	time.Sleep(bound + 100*time.Millisecond)
	s := p.run(l, l, continuity.Config{})
	until(t, "fresh", func() bool { return !s.stale() })
	if n := s.ticker.Stats().Appended; n != 1 {
		t.Errorf("%d ticks", n)
	}
}

// TestCutOffLeader: who is behind it is stale as soon as he was told, whatever the
// leader says; the others go on, and all are as one again when it is back.
func TestCutOffLeader(t *testing.T) {
	p, c := newPlace(t), clustertest.Start(t)
	c.Begin()
	var ledgers [clustertest.Nodes]*jetstream.Ledger
	var servers [clustertest.Nodes]*node
	var conns [clustertest.Nodes]*nats.Conn
	for i := range servers {
		conns[i] = c.Connect(i)
		ledgers[i] = p.ledger(conns[i], clustertest.Nodes)
	}
	p.begin(ledgers[0])
	for i := range servers {
		servers[i] = p.run(ledgers[i], ledgers[i], continuity.Config{})
	}
	all := func() {
		t.Helper()
		for i, s := range servers {
			until(t, fmt.Sprintf("server %d is fresh", i), func() bool { return !s.stale() })
		}
	}
	all()
	leader := c.Leader(jetstream.StreamLedger)
	behind := servers[leader]
	// Where a follower's consumer was on the leader, it takes its time to move:
	// what counts is who is at the leader itself.
	c.Isolate(leader)
	cut := time.Now()
	answered := false
	until(t, "who is behind the leader is stale", func() bool {
		if behind.stale() {
			return true
		}
		if _, err := ledgers[leader].Last(t.Context()); err == nil && time.Since(cut) > time.Second {
			answered = true
		}
		return false
	})
	if fresh := behind.Fresh(); fresh.After(cut.Add(time.Second)) {
		t.Errorf("fresh as of %s after the cut", fresh.Sub(cut))
	}
	if !answered {
		t.Error("the leader did not answer: this shows nothing")
	}
	for i, s := range servers {
		if i != leader {
			until(t, fmt.Sprintf("server %d goes on", i), func() bool { return !s.stale() && s.Fresh().After(cut) })
		}
	}
	if !behind.stale() {
		t.Errorf("who is cut off is fresh as of %s after the cut, %s ago, at node %d of leader %d", behind.Fresh().Sub(cut), time.Since(behind.Fresh()), c.NodeOf(conns[leader]), leader)
	}
	c.Heal(leader)
	all()
	for i, s := range servers {
		if n := s.continuity.Faults(); n != 0 {
			t.Errorf("server %d: %d faults: %v", i, n, s.continuity.Err())
		}
	}
}
