// Package embedded runs a NATS broker inside the program, for a ledger on one
// machine: JetStream on files in one folder, every answer on disk, and nobody in it
// without credentials of package credentials. The working connection may append,
// read and follow, and cannot create, change, delete or restore a stream, nor purge
// the ledger; the operator's, which may, exists only for the time of a call to [Broker.Setup].
package embedded

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events/credentials"
)

// AuthorityDir is the folder below Dir that holds the broker's root of trust. Who
// has it can let anybody in; without it the streams beside it cannot be opened.
const AuthorityDir = "nats"

// addressFile below it says where a running broker listens.
const addressFile = "address"

// InboxPrefix is where answers to the working connections arrive.
const InboxPrefix = credentials.ServerInbox

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
	// 127.0.0.1:4222; port 0 takes any. Empty: nobody does. Beyond loopback it needs
	// TLS.
	Listen string
	// TLS is what the listener shows, and asks for. Its lowest version is 1.2,
	// whatever it says.
	TLS *tls.Config
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
		host, _, err := splitAddress(c.Listen)
		switch {
		case err != nil:
			faults = append(faults, fmt.Errorf("embedded: Listen: %w", err))
		case c.TLS == nil && !loopback(host):
			faults = append(faults, fmt.Errorf("%w: %s: give it a certificate, or let it listen on 127.0.0.1", ErrInsecure, c.Listen))
		}
	}
	return errors.Join(faults...)
}

// ErrInsecure says that what sidecars read and record would travel in clear.
var ErrInsecure = errors.New("embedded: the broker would listen beyond loopback without TLS")

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
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
	server    *server.Server
	release   func()
	authority *credentials.Authority
	conn      *nats.Conn
	log       *slog.Logger
	// address is the file that says where it listens, "" if there is none.
	address string
	down    sync.Once
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
	release, err := Lock(config.Dir)
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
	store := filepath.Join(config.Dir, "broker")
	var err error
	if b.authority, err = trust(filepath.Join(config.Dir, AuthorityDir), store); err != nil {
		return err
	}
	opts, err := b.options(config, store)
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
	// What fails here would fail again at every connection, and not say why.
	account, err := b.server.LookupAccount(b.authority.LedgerAccount())
	if err != nil || !account.JetStreamEnabled() {
		return fmt.Errorf("embedded: open streams: %w %s", err, log.reason())
	}
	if b.conn, err = b.Connect(ctx, "keyledger"); err != nil {
		return err
	}
	return b.tell(config)
}

// ErrNoTrust says that the streams' root of trust is gone.
var ErrNoTrust = errors.New("embedded: the broker's root of trust is missing")

// trust opens the root of trust of a data folder, or makes it in an empty one. The
// streams lie in a folder that is named after it: with another one they would not
// be found, and a ledger that is not found must never be begun anew.
func trust(dir, store string) (*credentials.Authority, error) {
	accounts, err := os.ReadDir(filepath.Join(store, "jetstream"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("embedded: read data folder: %w", err)
	}
	_, missing := credentials.Open(dir)
	earlier := false
	for _, account := range accounts {
		switch name := account.Name(); {
		case name == unsignedAccount:
			earlier = true
		case errors.Is(missing, credentials.ErrNoAuthority) && name != "$SYS":
			return nil, fmt.Errorf("%w: %s holds streams, and %s does not hold what opens them; restore it", ErrNoTrust, store, dir)
		}
	}
	// Also where it is there: an upgrade may have to tell the broker more.
	authority, err := credentials.Create(dir)
	if err != nil || !earlier {
		return authority, err
	}
	if err := os.Rename(filepath.Join(store, "jetstream", unsignedAccount), filepath.Join(store, "jetstream", authority.LedgerAccount())); err != nil {
		return nil, fmt.Errorf("embedded: move streams: %w", err)
	}
	return authority, nil
}

// unsignedAccount is the name of the streams' folder as it was before accounts were
// signed for.
const unsignedAccount = "LEDGER"

func (b *Broker) options(config Config, store string) (*server.Options, error) {
	operator, err := b.authority.Operator()
	if err != nil {
		return nil, err
	}
	accounts, err := b.authority.Accounts()
	if err != nil {
		return nil, err
	}
	// Accounts that come later are kept there, so that they need no restart.
	resolver, err := server.NewDirAccResolver(filepath.Join(config.Dir, AuthorityDir, "accounts"), 0, 0, server.NoDelete)
	if err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	for _, account := range accounts {
		if err := resolver.Store(account.Public, account.JWT); err != nil {
			return nil, fmt.Errorf("embedded: keep account: %w", err)
		}
	}
	opts := &server.Options{
		ServerName: "keyledger", NoSigs: true, NoLog: true, DontListen: config.Listen == "",
		JetStream: true, StoreDir: store, SyncAlways: true,
		TrustedOperators: []*jwt.OperatorClaims{operator}, SystemAccount: b.authority.SystemAccount(), AccountResolver: resolver,
	}
	if config.Listen == "" {
		return opts, nil
	}
	if opts.Host, opts.Port, err = splitAddress(config.Listen); err != nil {
		return nil, fmt.Errorf("embedded: Listen: %w", err)
	}
	if config.TLS != nil {
		opts.TLSConfig = config.TLS.Clone()
		opts.TLSConfig.MinVersion = max(opts.TLSConfig.MinVersion, tls.VersionTLS12)
		opts.TLS, opts.TLSTimeout = true, connectTimeout.Seconds()
	}
	return opts, nil
}

// tell writes down where the broker listens, for other programs of this machine
// that have the folder: the folder itself is taken.
func (b *Broker) tell(config Config) error {
	if b.Addr() == nil {
		return nil
	}
	scheme := "nats"
	if config.TLS != nil {
		scheme = "tls"
	}
	b.address = filepath.Join(config.Dir, AuthorityDir, addressFile)
	return credentials.WriteFile(b.address, []byte(scheme+"://"+b.Addr().String()+"\n"))
}

// Address returns where the broker of a data folder listens, as it said when it
// started; false if none runs there that does.
func Address(dir string) (string, bool) {
	text, err := os.ReadFile(filepath.Join(dir, AuthorityDir, addressFile))
	return strings.TrimSpace(string(text)), err == nil
}

// Authority returns the broker's root of trust.
func (b *Broker) Authority() *credentials.Authority { return b.authority }

// Conn returns the working connection. It is closed by Shutdown.
func (b *Broker) Conn() *nats.Conn { return b.conn }

// Connect returns one more working connection, the caller's to close: what
// replays a stream on one of its own does not delay the answers on another. The
// options come after its own.
func (b *Broker) Connect(ctx context.Context, name string, options ...nats.Option) (*nats.Conn, error) {
	return b.connect(ctx, credentials.ServerCreds, append([]nats.Option{nats.Name(name), nats.CustomInboxPrefix(InboxPrefix)}, options...))
}

// Setup runs f with a connection that may create streams, and closes it. It is
// for an installation's beginning.
func (b *Broker) Setup(ctx context.Context, f func(*nats.Conn) error) error {
	return b.briefly(ctx, credentials.OperatorCreds, "operator", f)
}

// Push makes accounts known to the broker.
func (b *Broker) Push(ctx context.Context, accounts ...credentials.Account) error {
	return b.briefly(ctx, credentials.SystemCreds, "system", func(conn *nats.Conn) error {
		return credentials.Push(ctx, conn, 1, accounts...)
	})
}

func (b *Broker) briefly(ctx context.Context, creds, name string, f func(*nats.Conn) error) error {
	conn, err := b.connect(ctx, creds, []nats.Option{nats.Name(name)})
	if err != nil {
		return err
	}
	defer conn.Close()
	return f(conn)
}

// Addr returns the address where others come in, nil if nobody does.
func (b *Broker) Addr() net.Addr { return b.server.Addr() }

func (b *Broker) connect(ctx context.Context, creds string, more []nats.Option) (*nats.Conn, error) {
	secret, err := b.authority.Creds(creds)
	if err != nil {
		return nil, err
	}
	pipe := &pipes{server: b.server}
	options := append([]nats.Option{
		nats.InProcessServer(pipe), nats.UserCredentialBytes(secret), nats.MaxReconnects(-1),
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
	if b.address != "" {
		// One that stays behind only says where nobody listens.
		_ = os.Remove(b.address)
	}
	b.release()
}
