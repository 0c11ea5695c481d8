// Package serve puts a server together and runs it: the embedded broker, the
// ledger on it, the views that follow it, the verifier, and the API in front.
//
// Everything stops in the reverse of that order: the listener takes no new
// requests and answers those it has; the recorder stores the uses it holds and
// writes its end marks; the views stop; the broker closes.
package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
)

// Config is what a server is run with. The comments are the manual of the flags.
type Config struct {
	// Listen is where HTTP is served. Port 0 takes any.
	Listen string
	// Data is the folder of the embedded broker's files, the views and the keys.
	Data string
	// TLSCert and TLSKey are the files of the certificate and its key, in PEM.
	TLSCert, TLSKey string
	// InsecureHTTP allows listening beyond loopback without TLS.
	InsecureHTTP bool
	// Out gets the one line that says `ready`.
	Out io.Writer
	// Ready is called with the server's URL when it answers.
	Ready func(url string)
	// Began is called once, when an empty folder got its owner's key, with the
	// path of that key.
	Began func(path string)
	// Logger takes what operators should know.
	Logger *slog.Logger
	// Version is the program's.
	Version string
}

// ErrInsecure says that keys would travel in clear.
var ErrInsecure = errors.New("serve: listening beyond loopback without TLS")

// Validate reports every fault at once.
func (c Config) Validate() error {
	var faults []error
	if c.Data == "" {
		faults = append(faults, errors.New("serve: --data is needed"))
	}
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		faults = append(faults, fmt.Errorf("serve: --listen must be host:port: %w", err))
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		faults = append(faults, errors.New("serve: --tls-cert and --tls-key go together"))
	}
	if err == nil && c.TLSCert == "" && !c.InsecureHTTP && !loopback(host) {
		faults = append(faults, fmt.Errorf("%w: give --tls-cert and --tls-key, or --insecure-http where something else keeps the wire safe", ErrInsecure))
	}
	if c.Logger == nil {
		faults = append(faults, errors.New("serve: Logger is needed"))
	}
	return errors.Join(faults...)
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Run serves until the context ends, and returns nil then. Whatever cannot go
// on by itself ends it with an error that says why.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	// The port first: a taken one should not leave half a folder behind.
	listener, err := listen(cfg)
	if err != nil {
		return err
	}
	defer listener.Close()
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return fmt.Errorf("serve: data folder: %w", err)
	}
	broker, err := embedded.Start(ctx, embedded.Config{Dir: cfg.Data, Logger: cfg.Logger})
	if err != nil {
		return err
	}
	defer broker.Shutdown()
	ledger, err := open(ctx, cfg, broker)
	if err != nil {
		return err
	}
	parts, err := assemble(ctx, cfg, ledger)
	if err != nil {
		return err
	}
	return parts.serve(ctx, cfg, listener)
}

// opened is the ledger, and where its positions belong.
type opened struct {
	*jetstream.Ledger
	positions events.Positions
}

// open checks the ledger of a folder that has one, and begins it in one that
// has none.
func open(ctx context.Context, cfg Config, broker *embedded.Broker) (opened, error) {
	id, seen, err := begun(cfg.Data)
	if err != nil {
		return opened{}, err
	}
	if !seen {
		if err := broker.Setup(ctx, func(conn *nats.Conn) error { return jetstream.EnsureStreams(ctx, conn, 1) }); err != nil {
			return opened{}, err
		}
		if id, err = begin(ctx, brokerPlace{cfg, broker}, cfg.Data, time.Now()); err != nil {
			return opened{}, err
		}
		if cfg.Began != nil {
			cfg.Began(filepath.Join(cfg.Data, OwnerFile))
		}
	}
	ledger, err := newLedger(cfg, broker, id)
	if err != nil {
		return opened{}, err
	}
	if err := ledger.CheckStreams(ctx); err != nil {
		return opened{}, err
	}
	found, _, err := jetstream.Identify(ctx, broker.Conn())
	if err != nil {
		return opened{}, err
	}
	if found != id {
		return opened{}, fmt.Errorf("%w: the folder is of ledger %s", ErrForeignLedger, id)
	}
	state, err := commands.Installation(ctx, ledger)
	if err != nil {
		return opened{}, err
	}
	return opened{Ledger: ledger, positions: events.Positions{Ledger: id, Epoch: state.Epoch}}, nil
}

// brokerPlace is the embedded broker as a place where a ledger begins.
type brokerPlace struct {
	cfg    Config
	broker *embedded.Broker
}

func (p brokerPlace) identify(ctx context.Context) (events.LedgerID, bool, error) {
	return jetstream.Identify(ctx, p.broker.Conn())
}

func (p brokerPlace) open(id events.LedgerID) (commands.Log, error) {
	return newLedger(p.cfg, p.broker, id)
}

func newLedger(cfg Config, broker *embedded.Broker, id events.LedgerID) (*jetstream.Ledger, error) {
	return jetstream.New(jetstream.Config{Conn: broker.Conn(), Ledger: id, Replicas: 1, Logger: cfg.Logger})
}
