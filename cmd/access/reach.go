package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
)

var (
	// ErrNotBegun says that there is no ledger.
	ErrNotBegun = errors.New("access: no ledger has begun there")
	// ErrNobodyListens says that a running server takes nobody in.
	ErrNobodyListens = errors.New("access: a server runs on this folder, and its broker listens nowhere")
	// ErrNode says that a text is no address of a node.
	ErrNode = errors.New("access: this is no address of a node")
	// ErrNoBroker says that no broker answers.
	ErrNoBroker = errors.New("access: no broker answers")
)

// connectTimeout is for one node.
const connectTimeout = 5 * time.Second

// Reach says where an installation's broker is, and its root of trust.
type Reach struct {
	// Data is the folder of an embedded broker, which may run, with a listener, or
	// be stopped.
	Data string
	// URL is the addresses of a cluster's nodes; empty: Data. Auth is the folder of
	// its root of trust, Replicas on how many nodes each stream lies.
	URL, Auth string
	Replicas  int
	// LeafURL is where the leaf node is whose verifiers are let in and out; empty: none.
	LeafURL string
	// CA is the file with the authorities that certificates are checked by, PEM.
	CA string
	// Logger takes what operators should know.
	Logger *slog.Logger
}

// Validate reports every fault at once.
func (r Reach) Validate() error {
	var faults []error
	fault := func(bad bool, text string) {
		if bad {
			faults = append(faults, errors.New("access: "+text))
		}
	}
	fault(r.URL != "" && r.Auth == "", "--nats needs --auth, the folder that nats-auth operator made")
	fault(r.URL == "" && r.Auth != "", "--auth goes with --nats")
	fault(r.URL == "" && r.Data == "", "--data is needed")
	fault(r.URL != "" && !addresses(r.URL), "--nats takes addresses such as nats://10.0.0.1:4222, separated by commas")
	fault(r.URL != "" && r.Replicas != 1 && r.Replicas != 3 && r.Replicas != 5, "--replicas must be 1, 3 or 5")
	fault(r.LeafURL != "" && !addresses(r.LeafURL), "--leaf-nats takes an address such as nats://10.0.0.1:4222")
	fault(r.Logger == nil, "Logger is needed")
	return errors.Join(faults...)
}

// addresses tells whether a text is addresses of nodes.
func addresses(text string) bool {
	for node := range strings.SplitSeq(text, ",") {
		if _, err := Node(strings.TrimSpace(node)); err != nil {
			return false
		}
	}
	return true
}

// Node parses the address of a node, as the client does. What may stand in it to
// log in with is in no error.
func Node(text string) (*url.URL, error) {
	if !strings.Contains(text, "://") {
		text = "nats://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return nil, ErrNode
	}
	return u, nil
}

// Open reaches an installation's doors. The caller calls leave when he is done.
func (r Reach) Open(ctx context.Context) (doors *Doors, leave func(), err error) {
	if err := r.Validate(); err != nil {
		return nil, nil, err
	}
	if r.URL != "" {
		authority, err := credentials.Open(r.Auth)
		if err != nil {
			return nil, nil, err
		}
		return r.over(ctx, r.URL, authority, r.Replicas)
	}
	// Looking must not begin anything.
	authority, err := credentials.Open(filepath.Join(r.Data, embedded.AuthorityDir))
	if errors.Is(err, credentials.ErrNoAuthority) {
		return nil, nil, fmt.Errorf("%w: %s", ErrNotBegun, r.Data)
	}
	if err != nil {
		return nil, nil, err
	}
	broker, err := embedded.Start(ctx, embedded.Config{Dir: r.Data, Logger: r.Logger})
	if errors.Is(err, embedded.ErrLocked) {
		url, ok := embedded.Address(r.Data)
		if !ok {
			return nil, nil, ErrNobodyListens
		}
		return r.over(ctx, url, authority, 1)
	}
	if err != nil {
		return nil, nil, err
	}
	doors, err = newDoors(ctx, broker.Conn(), authority, 1, broker.Push, broker.Setup, r.Logger)
	if err != nil {
		broker.Shutdown()
		return nil, nil, err
	}
	doors.cfg.Leaf = r.leaf(authority)
	return doors, broker.Shutdown, nil
}

// leaf reaches the leaf node, for the time of a call: it trusts whom the broker trusts.
func (r Reach) leaf(authority *credentials.Authority) *Leaf {
	if r.LeafURL == "" {
		return nil
	}
	as := func(creds string, f func(*nats.Conn) error) error {
		conn, err := r.connect(r.LeafURL, authority, creds)
		if err != nil {
			return err
		}
		defer conn.Close()
		return f(conn)
	}
	return &Leaf{
		Push: func(ctx context.Context, accounts ...credentials.Account) error {
			return as(credentials.SystemCreds, func(conn *nats.Conn) error { return credentials.Push(ctx, conn, 0, accounts...) })
		},
		Operate: func(_ context.Context, f func(*nats.Conn) error) error { return as(credentials.OperatorCreds, f) },
	}
}

// over reaches them over the wire.
func (r Reach) over(ctx context.Context, url string, authority *credentials.Authority, replicas int) (*Doors, func(), error) {
	server, err := r.connect(url, authority, credentials.ServerCreds, nats.CustomInboxPrefix(embedded.InboxPrefix))
	if err != nil {
		return nil, nil, err
	}
	system, err := r.connect(url, authority, credentials.SystemCreds)
	if err != nil {
		server.Close()
		return nil, nil, err
	}
	leave := func() { server.Close(); system.Close() }
	push := func(ctx context.Context, accounts ...credentials.Account) error {
		return credentials.Push(ctx, system, 0, accounts...)
	}
	operate := func(_ context.Context, f func(*nats.Conn) error) error {
		operator, err := r.connect(url, authority, credentials.OperatorCreds)
		if err != nil {
			return err
		}
		defer operator.Close()
		return f(operator)
	}
	doors, err := newDoors(ctx, server, authority, replicas, push, operate, r.Logger)
	if err != nil {
		leave()
		return nil, nil, err
	}
	doors.cfg.Leaf = r.leaf(authority)
	return doors, leave, nil
}

func (r Reach) connect(url string, authority *credentials.Authority, creds string, more ...nats.Option) (*nats.Conn, error) {
	secret, err := authority.Creds(creds)
	if err != nil {
		return nil, err
	}
	options := append([]nats.Option{
		nats.Name("keyledger nats-auth"), nats.Timeout(connectTimeout), nats.UserCredentialBytes(secret),
		// What goes wrong shows in the answers that do not come.
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { r.Logger.Warn("broker connection", "error", err) }),
	}, more...)
	if r.CA != "" {
		options = append(options, nats.RootCAs(r.CA))
	}
	conn, err := nats.Connect(url, options...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoBroker, err)
	}
	return conn, nil
}

func newDoors(ctx context.Context, conn *nats.Conn, authority *credentials.Authority, replicas int,
	push func(context.Context, ...credentials.Account) error, operate func(context.Context, func(*nats.Conn) error) error, log *slog.Logger,
) (*Doors, error) {
	id, begun, err := jetstream.Identify(ctx, conn)
	if err == nil && !begun || errors.Is(err, jetstream.ErrStreamMissing) {
		return nil, errors.Join(ErrNotBegun, err)
	}
	if err != nil {
		return nil, err
	}
	ledger, err := jetstream.New(jetstream.Config{Conn: conn, Ledger: id, Replicas: replicas, Logger: log})
	if err != nil {
		return nil, err
	}
	return New(Config{Ledger: ledger, ID: id, Conn: conn, Authority: authority, Push: push, Operate: operate, Logger: log})
}

// EmbeddedDoors are the doors of a ledger on an embedded broker that runs in this
// process.
func EmbeddedDoors(broker *embedded.Broker, ledger *jetstream.Ledger, id events.LedgerID, log *slog.Logger) (*Doors, error) {
	return New(Config{
		Ledger: ledger, ID: id, Conn: broker.Conn(), Authority: broker.Authority(), Push: broker.Push, Operate: broker.Setup, Logger: log,
	})
}
