package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/cmd/access"
	"github.com/keyledger/keyledger/cmd/nodes"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
)

// ErrNoLedger says that nothing has begun on the cluster.
var ErrNoLedger = errors.New("serve: no ledger has begun on this cluster")

// How long a start waits for a cluster.
const (
	// connectPatience is for a cluster that is being started itself.
	connectPatience = 15 * time.Second
	// answerPatience is for streams that have no leader: an election takes 4 to
	// 9 s, and a cluster that starts makes several.
	answerPatience = 30 * time.Second
	// missingPatience is how long a stream that was there may be said not to be:
	// a cluster that starts says so before it has caught up.
	missingPatience = 10 * time.Second
	// tryAgain is the pause between two attempts.
	tryAgain = 250 * time.Millisecond
)

// Cluster says how to reach a cluster of brokers. Its zero value is none: the
// broker runs embedded.
type Cluster struct {
	// URL is the nodes' addresses, separated by commas.
	URL string
	// Creds is the file with the credentials: a NATS user's JWT and its seed.
	Creds string
	// CA is the file with the authorities that the nodes' certificates are checked
	// by, in PEM. With it, TLS is insisted on.
	CA string
	// Replicas is on how many of the nodes each stream lies: 1, 3 or 5.
	Replicas int
}

func (c Cluster) validate() []error {
	if c.URL == "" {
		if c.Creds != "" || c.CA != "" {
			return []error{errors.New("serve: --nats-creds and --nats-ca go with --nats")}
		}
		if c.Replicas > 1 {
			return []error{errors.New("serve: --replicas goes with --nats: the embedded broker is one")}
		}
		return nil
	}
	var faults []error
	if err := c.nodes().Validate(); err != nil {
		faults = append(faults, err)
	}
	if c.Replicas != 1 && c.Replicas != 3 && c.Replicas != 5 {
		faults = append(faults, errors.New("serve: --replicas must be 1, 3 or 5"))
	}
	return faults
}

func (c Cluster) nodes() nodes.Config { return nodes.Config{URL: c.URL, Creds: c.Creds, CA: c.CA} }

// Shown is the cluster's address without what may stand in it to log in with.
func (c Cluster) Shown() string { return c.nodes().Shown() }

// pause waits, unless the context ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// patiently asks a cluster until it answers: what is unavailable for a moment, or
// missing for one where it was there before, is part of every start of a cluster.
func patiently(ctx context.Context, f func() error) error {
	began := time.Now()
	for {
		err := f()
		waited := time.Since(began)
		switch {
		case errors.Is(err, jetstream.ErrStreamMissing) && waited < missingPatience:
		case errors.Is(err, events.ErrUnavailable) && waited < answerPatience:
		default:
			return err
		}
		if err := pause(ctx, tryAgain); err != nil {
			return err
		}
	}
}

// broker is what the ledger lies on: the one in this process, or a cluster.
type broker interface {
	// connect returns a connection with a server's rights, the caller's to close.
	connect(ctx context.Context, name string) (*nats.Conn, error)

	// arrive is for a folder that knows no ledger yet. It returns the one there
	// is: embedded it begins one, a cluster's has begun. How it began is reported.
	arrive(ctx context.Context, conn *nats.Conn, f folder) (id events.LedgerID, began bool, err error)

	// furnish makes the credentials that others come in with, where it is this
	// server that lets them in.
	furnish(ctx context.Context, ledger *jetstream.Ledger, id events.LedgerID, f folder) error

	// retain has access records kept for a period, where that is this server's to
	// say. Empty is the default.
	retain(ctx context.Context, keep events.Period) error

	// ask repeats a question as long as it makes sense to.
	ask(ctx context.Context, f func() error) error

	// replicas is on how many nodes each stream lies.
	replicas() int

	// address is where others come in, "" if nobody does.
	address() string

	stop()
}

// onCluster is a cluster as a server's broker.
type onCluster struct {
	Cluster
	log     *slog.Logger
	release func()
}

// useCluster takes the folder. Nothing is connected yet.
func useCluster(cfg Config) (*onCluster, error) {
	release, err := embedded.Lock(cfg.Data)
	if err != nil {
		return nil, err
	}
	return &onCluster{Cluster: cfg.Cluster, log: cfg.Logger, release: release}, nil
}

func (c *onCluster) connect(ctx context.Context, name string) (*nats.Conn, error) {
	return c.nodes().Connect(ctx, name, connectPatience, c.log, nats.CustomInboxPrefix(embedded.InboxPrefix))
}

func (c *onCluster) arrive(ctx context.Context, conn *nats.Conn, _ folder) (events.LedgerID, bool, error) {
	var (
		id     events.LedgerID
		exists bool
	)
	err := patiently(ctx, func() error {
		var err error
		id, exists, err = jetstream.Identify(ctx, conn)
		if errors.Is(err, jetstream.ErrStreamMissing) {
			exists, err = false, nil
		}
		return err
	})
	if err == nil && !exists {
		err = fmt.Errorf("%w (%s): keyledger init begins one, once", ErrNoLedger, c.Shown())
	}
	return id, false, err
}

// On a cluster it is the operator who lets others in: see nats-auth.
func (c *onCluster) furnish(context.Context, *jetstream.Ledger, events.LedgerID, folder) error {
	return nil
}

func (c *onCluster) ask(ctx context.Context, f func() error) error { return patiently(ctx, f) }
func (c *onCluster) replicas() int                                 { return c.Replicas }
func (c *onCluster) address() string                               { return "" }
func (c *onCluster) stop()                                         { c.release() }

// inProcess is the embedded broker.
type inProcess struct {
	*embedded.Broker
	scheme string
	log    *slog.Logger
}

func startEmbedded(ctx context.Context, cfg Config) (*inProcess, error) {
	secure, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	b, err := embedded.Start(ctx, embedded.Config{Dir: cfg.Data, Listen: cfg.NATSListen, TLS: secure, Logger: cfg.Logger})
	if err != nil {
		return nil, err
	}
	scheme := "nats"
	if secure != nil {
		scheme = "tls"
	}
	return &inProcess{Broker: b, scheme: scheme, log: cfg.Logger}, nil
}

func (b *inProcess) connect(ctx context.Context, name string) (*nats.Conn, error) {
	return b.Connect(ctx, name)
}

func (b *inProcess) arrive(ctx context.Context, conn *nats.Conn, f folder) (events.LedgerID, bool, error) {
	if err := b.Setup(ctx, func(conn *nats.Conn) error { return jetstream.EnsureStreams(ctx, conn, 1) }); err != nil {
		return events.LedgerID{}, false, err
	}
	return begin(ctx, brokerPlace{conn: conn, replicas: 1, log: b.log}, f, time.Now())
}

func (b *inProcess) furnish(ctx context.Context, ledger *jetstream.Ledger, id events.LedgerID, f folder) error {
	doors, err := access.EmbeddedDoors(b.Broker, ledger, id, b.log)
	if err != nil {
		return err
	}
	// What was left undone, or nobody can read, keeps nobody from serving: it lets
	// nobody in.
	if err := doors.Heal(ctx); err != nil {
		b.log.Error("not everybody who may come in at the broker can, or not everybody who may not is shut out", "error", err)
	}
	err = doors.Furnish(ctx, f.path(CredentialsFolder))
	if errors.Is(err, events.ErrCorrupt) {
		b.log.Error("the first credentials cannot be made", "error", err)
		return nil
	}
	return err
}

// Nobody is in doubt about what an embedded broker says.
func (b *inProcess) ask(_ context.Context, f func() error) error { return f() }
func (b *inProcess) replicas() int                               { return 1 }
func (b *inProcess) stop()                                       { b.Shutdown() }

func (b *inProcess) address() string {
	if a := b.Addr(); a != nil {
		return b.scheme + "://" + a.String()
	}
	return ""
}

// free tells of a port that somebody else has by the flag that moves it, which
// the broker itself does not know.
func free(address string) error {
	if address == "" {
		return nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return portFault(err, "--nats-listen", address, "127.0.0.1:4223")
	}
	return l.Close()
}

// brokerPlace is a broker as a place where a ledger begins.
type brokerPlace struct {
	conn     *nats.Conn
	replicas int
	log      *slog.Logger
}

func (p brokerPlace) identify(ctx context.Context) (events.LedgerID, bool, error) {
	return jetstream.Identify(ctx, p.conn)
}

func (p brokerPlace) open(id events.LedgerID) (store, error) {
	return newLedger(p.conn, id, p.replicas, p.log)
}

func newLedger(conn *nats.Conn, id events.LedgerID, replicas int, log *slog.Logger) (*jetstream.Ledger, error) {
	return jetstream.New(jetstream.Config{Conn: conn, Ledger: id, Replicas: replicas, Logger: log})
}
