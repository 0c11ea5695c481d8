// Package embedded runs a NATS broker inside the program, for a ledger on one
// machine: JetStream on files in one folder, every answer on disk, and two kinds
// of connections. The working connection may append, read and follow, and cannot
// create, change, purge, delete or restore a stream; the operator's, which may,
// exists only for the time of a call to [Broker.Setup].
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/keyledger/keyledger/events/jetstream"
)

// Account is the account that holds the ledger's streams. It is also the name of
// their folder below Dir, and never changes.
const Account = "LEDGER"

// InboxPrefix is where answers to the working connections arrive; they subscribe to
// nothing else.
const InboxPrefix = "_INBOX_server"

// connectTimeout bounds one connection's beginning. In process there is nothing
// to wait for but the broker's own goroutines.
const connectTimeout = 10 * time.Second

// Config says where the broker keeps its files and whom it takes.
//
// There is no choice of when to sync: an answer is given after the bytes are on
// disk. The broker's own default syncs every two minutes, and an answered
// command would be lost with the power.
type Config struct {
	// Dir is the data folder. It is created if need be, with mode 0700, and
	// belongs to one process at a time.
	Dir string
	// Listen is the address where sidecars and subscribers come in, such as
	// 127.0.0.1:4222; port 0 takes any. Empty: nobody does.
	Listen string
	// Logger hears the broker's warnings and errors. Default: nobody.
	Logger *slog.Logger
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	var faults []error
	if c.Dir == "" {
		faults = append(faults, errors.New("embedded: Dir is missing"))
	}
	if c.Listen != "" {
		if _, _, err := splitAddress(c.Listen); err != nil {
			faults = append(faults, fmt.Errorf("embedded: Listen: %w", err))
		}
	}
	return errors.Join(faults...)
}

func splitAddress(address string) (string, int, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("port of %q is no number", address)
	}
	if port == 0 {
		return host, server.RANDOM_PORT, nil
	}
	return host, int(port), nil
}

// Broker is a running broker.
type Broker struct {
	server   *server.Server
	release  func()
	operator nkeys.KeyPair
	working  nkeys.KeyPair
	conn     *nats.Conn
	log      *slog.Logger
	down     sync.Once
}

// Start takes the data folder ([ErrLocked] if another process has it), starts a
// broker on it and connects. It takes as long as reading the streams' indexes
// does. Whether the streams are there is for [jetstream.Ledger.CheckStreams] to
// say.
func Start(ctx context.Context, config Config) (*Broker, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("embedded: data folder: %w", err)
	}
	release, err := lock(config.Dir)
	if err != nil {
		return nil, err
	}
	b := &Broker{release: release, log: config.Logger}
	if err := b.start(ctx, config); err != nil {
		b.Shutdown()
		return nil, err
	}
	return b, nil
}

func (b *Broker) start(ctx context.Context, config Config) error {
	var err error
	// The keys live as long as the broker: whoever comes in process gets one, and
	// nobody else can have one.
	if b.operator, err = nkeys.CreateUser(); err != nil {
		return fmt.Errorf("embedded: %w", err)
	}
	if b.working, err = nkeys.CreateUser(); err != nil {
		return fmt.Errorf("embedded: %w", err)
	}
	opts, err := b.options(config)
	if err != nil {
		return err
	}
	if b.server, err = server.NewServer(opts); err != nil {
		return fmt.Errorf("embedded: %w", err)
	}
	log := &logger{to: config.Logger}
	b.server.SetLogger(log, false, false)
	b.server.Start()
	wait := connectTimeout
	if deadline, ok := ctx.Deadline(); ok {
		wait = time.Until(deadline)
	}
	if log.reason() != "" || !b.server.ReadyForConnections(wait) || !b.server.JetStreamEnabled() {
		return fmt.Errorf("embedded: broker did not start: %s", log.reason())
	}
	// The server keeps a copy of the account it was given; this is the one in use.
	account, err := b.server.LookupAccount(Account)
	if err != nil {
		return fmt.Errorf("embedded: %w", err)
	}
	if err := account.EnableJetStream(nil, nil); err != nil {
		return fmt.Errorf("embedded: open streams: %w", err)
	}
	b.conn, err = b.Connect(ctx, "keyledger")
	return err
}

func (b *Broker) options(config Config) (*server.Options, error) {
	operator, err := b.operator.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	working, err := b.working.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	account := server.NewAccount(Account)
	opts := &server.Options{
		ServerName: "keyledger", NoSigs: true, NoLog: true, DontListen: config.Listen == "",
		JetStream: true, StoreDir: filepath.Join(config.Dir, "broker"), SyncAlways: true,
		Accounts: []*server.Account{account},
		// Nobody has a key of the system account, which the broker makes by itself.
		Nkeys: []*server.NkeyUser{
			{Nkey: operator, Account: account},
			{Nkey: working, Account: account, Permissions: ServerPermissions()},
		},
	}
	if config.Listen != "" {
		if opts.Host, opts.Port, err = splitAddress(config.Listen); err != nil {
			return nil, fmt.Errorf("embedded: Listen: %w", err)
		}
	}
	return opts, nil
}

// ServerPermissions are those of the connections that the server itself works
// with, on a cluster too. They are lists of what is allowed; all else is denied.
func ServerPermissions() *server.Permissions {
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: jetstream.Subjects()},
		Subscribe: &server.SubjectPermission{Allow: []string{InboxPrefix + ".>"}},
	}
}

// Conn returns the working connection. It is closed by Shutdown.
func (b *Broker) Conn() *nats.Conn { return b.conn }

// Connect returns one more working connection, the caller's to close: what
// replays a stream on one of its own does not delay the answers on another. The
// options come after its own.
func (b *Broker) Connect(ctx context.Context, name string, options ...nats.Option) (*nats.Conn, error) {
	return b.connect(ctx, b.working, append([]nats.Option{nats.Name(name), nats.CustomInboxPrefix(InboxPrefix)}, options...))
}

// Setup runs f with a connection that may create streams, and closes it. It is
// for an installation's beginning.
func (b *Broker) Setup(ctx context.Context, f func(*nats.Conn) error) error {
	conn, err := b.connect(ctx, b.operator, []nats.Option{nats.Name("operator")})
	if err != nil {
		return err
	}
	defer conn.Close()
	return f(conn)
}

// Addr returns the address where others come in, nil if nobody does.
func (b *Broker) Addr() net.Addr { return b.server.Addr() }

func (b *Broker) connect(ctx context.Context, key nkeys.KeyPair, more []nats.Option) (*nats.Conn, error) {
	public, err := key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	pipe := &pipes{server: b.server}
	options := append([]nats.Option{
		nats.InProcessServer(pipe), nats.Nkey(public, key.Sign), nats.MaxReconnects(-1),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			b.log.Error("broker connection", "error", err, "subject", subject)
		}),
	}, more...)
	type result struct {
		conn *nats.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := nats.Connect("", options...)
		done <- result{conn, err}
	}()
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("embedded: connect: %w", r.err)
		}
		return r.conn, nil
	case <-ctx.Done():
		pipe.hangUp()
		if r := <-done; r.conn != nil {
			r.conn.Close()
		}
		return nil, fmt.Errorf("embedded: connect: %w", ctx.Err())
	}
}

// pipes connects to the broker in process. A client that is refused there waits
// for ever to say good-bye, so its end can be cut off.
type pipes struct {
	server *server.Server
	mu     sync.Mutex
	last   net.Conn
}

func (p *pipes) InProcessConn() (net.Conn, error) {
	conn, err := p.server.InProcessConn()
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = conn
	return conn, nil
}

func (p *pipes) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last != nil {
		_ = p.last.Close()
	}
}

// Shutdown closes the working connection, stops the broker and gives the folder
// back. Further calls do nothing.
func (b *Broker) Shutdown() { b.down.Do(b.shutdown) }

func (b *Broker) shutdown() {
	if b.conn != nil {
		b.conn.Close()
	}
	if b.server != nil {
		b.server.Shutdown()
		b.server.WaitForShutdown()
	}
	b.release()
}
