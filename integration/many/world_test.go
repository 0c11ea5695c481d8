// Package many has many verifiers read: by a mirror of the ledger on a cluster, and at
// a leaf node with a copy of its own, all of them real nats-server processes.
package many

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/cmd/access"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/integration/natstest"
)

var ledgerID = events.LedgerID(uuid.MustParse("0198c0de-0000-7000-8000-00000000001d"))

// patience bounds what a cluster takes its time for.
const patience = 90 * time.Second

// world is a cluster with a ledger on it.
type world struct {
	*testing.T
	cluster *natstest.Cluster
	auth    string
	ledger  *jetstream.Ledger
	mu      sync.Mutex
	// heads are the last facts of aggregates.
	heads map[events.Subject]events.Recorded
}

// begin begins a world beside those of other tests, which mostly wait.
func begin(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	c := natstest.Reserve(t)
	c.TakeLeafs()
	w := &world{T: t, cluster: c, auth: t.TempDir(), heads: map[events.Subject]events.Recorded{}}
	a, err := credentials.Create(w.auth)
	if err == nil {
		err = a.WriteCluster(c.Members())
	}
	if err != nil {
		t.Fatal(err)
	}
	// The nodes get these two files and nothing else.
	nodes := t.TempDir()
	for _, name := range []string{credentials.ConfFile, credentials.ClusterFile} {
		text, err := os.ReadFile(filepath.Join(w.auth, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(nodes, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	c.Start(nodes)
	operator := w.connect(c.URL(0), filepath.Join(w.auth, credentials.OperatorCreds))
	w.until("the streams to be there", func() error { return jetstream.EnsureStreams(t.Context(), operator, natstest.Nodes) })
	server := w.connect(c.URL(0), filepath.Join(w.auth, credentials.ServerCreds), nats.CustomInboxPrefix(embedded.InboxPrefix))
	if w.ledger, err = jetstream.New(jetstream.Config{Conn: server, Ledger: ledgerID, Replicas: natstest.Nodes}); err != nil {
		t.Fatal(err)
	}
	subject := events.InstallationSubject()
	w.append(subject, events.InstallationCreated{Ledger: ledgerID, Epoch: 1})
	return w
}

func (w *world) connect(url, creds string, options ...nats.Option) *nats.Conn {
	w.Helper()
	conn, err := nats.Connect(url, append(options, nats.UserCredentials(creds), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond),
		nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2),
		// Being refused is what is tried here.
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(conn.Close)
	return conn
}

// until waits for what a cluster does in its own time.
func (w *world) until(what string, f func() error) {
	w.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		err := f()
		// Nobody waits for anything in a test that has ended.
		if err == nil || w.Context().Err() != nil {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("%s: not within %s: %v", what, patience, err)
		}
	}
}

// doors reaches the broker as nats-auth does.
func (w *world) doors(leaf string, f func(*access.Doors) error) {
	w.Helper()
	reach := access.Reach{
		URL: w.cluster.URL(0), Auth: w.auth, Replicas: natstest.Nodes, LeafURL: leaf, Logger: slog.New(slog.DiscardHandler),
	}
	w.until("the doors", func() error {
		doors, leave, err := reach.Open(w.Context())
		if err != nil {
			return err
		}
		defer leave()
		return f(doors)
	})
}

func (w *world) append(subject events.Subject, event events.Event) events.Position {
	w.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	head := w.heads[subject]
	// One wish, however often it takes.
	entry := events.Entry{Subject: subject, Event: event, Expect: events.Expect(subject, head.Position), Meta: events.Meta{
		ID: events.EventID(uuid.Must(uuid.NewV7())), Ledger: ledgerID, Time: events.TimeOf(time.Now()), Revision: head.Meta.Revision + 1,
		Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: events.CommandID(uuid.New()),
	}}
	w.until("an append", func() error {
		facts, err := w.ledger.Append(w.Context(), []events.Entry{entry})
		if errors.Is(err, events.ErrConflict) {
			// An attempt whose answer was lost.
			facts, err = w.ledger.Load(w.Context(), subject, head.Position)
		}
		if err == nil {
			w.heads[subject] = facts[0]
		}
		return err
	})
	return w.heads[subject].Position
}

// revoke appends a revocation of acme's, and tells where it stands and when it was
// asked for.
func (w *world) revoke() (events.Position, time.Time) {
	w.Helper()
	asked := time.Now()
	return w.append(events.RevokedSubject("acme", events.KeyID(uuid.New())), events.KeyRevoked{}), asked
}

// reader follows the ledger by a credential, as a verifier does.
type reader struct {
	*jetstream.Reader
	conn *nats.Conn
	mu   sync.Mutex
	seen []events.Position
	at   map[events.Position]time.Time
	body map[events.Position]string
}

func (w *world) read(url, creds string, name events.CredentialName) *reader {
	w.Helper()
	r := &reader{conn: w.connect(url, creds), at: map[events.Position]time.Time{}, body: map[events.Position]string{}}
	var info jetstream.ReaderInfo
	w.until("what "+string(name)+" reads", func() (err error) {
		info, err = jetstream.DescribeReader(w.Context(), r.conn, jetstream.StreamLedger, string(name))
		return err
	})
	var err error
	if r.Reader, err = jetstream.NewReader(jetstream.ReaderConfig{Conn: r.conn, Name: string(name), Info: info, LoadTimeout: 2 * time.Second, Heartbeat: 300 * time.Millisecond}); err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() {
		err := r.Follow(ctx, 0, func(facts []events.Recorded) error {
			now := time.Now()
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, f := range facts {
				r.seen, r.at[f.Position], r.body[f.Position] = append(r.seen, f.Position), now, string(f.Raw)
			}
			return nil
		})
		// Who is shut out is not let in again.
		if ctx.Err() == nil && !r.conn.IsClosed() {
			w.Errorf("%s ended: %v", name, err)
		}
	})
	w.Cleanup(func() { cancel(); following.Wait() })
	return r
}

func (r *reader) last() events.Position {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.seen) == 0 {
		return 0
	}
	return r.seen[len(r.seen)-1]
}

// reaches waits until a reader has come to a position.
func (w *world) reaches(r *reader, pos events.Position) {
	w.Helper()
	w.until(fmt.Sprintf("position %d", pos), func() error {
		if last := r.last(); last < pos {
			return fmt.Errorf("it is at %d", last)
		}
		return nil
	})
}

// alike fails unless two readers have seen the same, in order, each once.
func (w *world) alike(a, b *reader) {
	w.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range []*reader{a, b} {
		for i := 1; i < len(r.seen); i++ {
			if r.seen[i] != r.seen[i-1]+1 {
				w.Errorf("after position %d came %d", r.seen[i-1], r.seen[i])
			}
		}
	}
	for pos, body := range a.body {
		if got, ok := b.body[pos]; ok && got != body {
			w.Errorf("position %d is not the same", pos)
		}
	}
}
