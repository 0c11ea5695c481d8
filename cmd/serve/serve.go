// Package serve puts a server together and runs it: the broker, embedded or a
// cluster's, the ledger on it, the views that follow it, the verifier, and the API
// in front. It also begins installations on a cluster, once, and gives one that
// has lost its owner a new one.
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
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain/period"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/seals"
)

// Config is what a server is run with. The comments are the manual of the flags.
type Config struct {
	// Listen is where HTTP is served. Port 0 takes any.
	Listen string
	// GRPCListen is where gateways ask over gRPC, as Envoy does (ext_authz): host:port
	// or unix:PATH. Empty: nowhere.
	GRPCListen string
	// Data is the folder of the embedded broker's files, the views and the keys.
	Data string
	// Cluster is where the ledger lies; its zero value is the embedded broker.
	Cluster Cluster
	// NATSListen is where the embedded broker takes verifiers, subscribers and auditors;
	// port 0 takes any. Empty: nobody comes in.
	NATSListen string
	// InstallationKey is the file of the installation key; empty: the one in Data.
	InstallationKey string
	// KEKs are the key-encryption keys that provider keys are kept with, each file:PATH,
	// env:NAME or kms:unix:///PATH, the socket of a plugin that speaks KMS v2 as
	// Kubernetes has it. The first wraps, the others only open what they have wrapped.
	// Empty: the one in Data, which is drawn on the embedded broker when no provider key
	// is kept yet. "none" alone: no provider keys are kept.
	KEKs []string
	// KEKLost starts though none of them opens the provider keys there are, which are
	// lost until they are replaced.
	KEKLost bool
	// TLSCert and TLSKey are the files of the certificate and its key, in PEM, for
	// all listeners.
	TLSCert, TLSKey string
	// InsecureHTTP allows listening beyond loopback without TLS.
	InsecureHTTP bool
	// RecordClientIP records the addresses that keys are used from. They are
	// personal data.
	RecordClientIP bool
	// AccessRetention is how long access records are kept, a period or never; empty
	// is 400d. On a cluster their stream says it: this only has a difference told.
	AccessRetention events.Period
	// UsesRetention is how long single uses are kept, a period or never; empty is
	// never. An organization's policy may ask for less. All servers of an
	// installation should say the same.
	UsesRetention events.Period
	// SnapshotEvery is how often it is looked whether verifiers need a newer snapshot
	// to start from; 0 is never.
	SnapshotEvery time.Duration
	// Providers says how AI providers are asked about customers' keys.
	Providers Providers
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

// ErrInsecure says that keys, or the ledger, would travel in clear.
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
	faults = append(faults, c.validateGRPC()...)
	faults = append(faults, c.Cluster.validate()...)
	if c.NATSListen != "" {
		faults = append(faults, c.validateNATSListen()...)
	}
	if c.Logger == nil {
		faults = append(faults, errors.New("serve: Logger is needed"))
	}
	if err := validateKEKs(c.KEKs); err != nil {
		faults = append(faults, err)
	}
	faults = append(faults, c.Providers.validate()...)
	if err := checkRetention(c.AccessRetention); err != nil {
		faults = append(faults, err)
	}
	if c.SnapshotEvery < 0 {
		faults = append(faults, errors.New("serve: --snapshot-every must not be negative; 0 is never"))
	}
	if period.Check("", c.UsesRetention) != nil {
		faults = append(faults, errors.New("serve: --uses-retention must be <n>d, <n>mo, <n>y or never, such as 400d"))
	}
	return errors.Join(faults...)
}

func (c Config) validateNATSListen() []error {
	if c.Cluster.URL != "" {
		return []error{errors.New("serve: --nats and --nats-listen exclude each other: on a cluster, others come in at its nodes")}
	}
	host, _, err := net.SplitHostPort(c.NATSListen)
	switch {
	case err != nil:
		return []error{fmt.Errorf("serve: --nats-listen must be host:port: %w", err)}
	case c.TLSCert == "" && !loopback(host):
		return []error{fmt.Errorf("%w: --nats-listen %s needs --tls-cert and --tls-key", ErrInsecure, c.NATSListen)}
	}
	return nil
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
	if err := withholdDumps(); err != nil {
		cfg.Logger.Warn("what this process has in memory may come into core dumps", "error", err)
	}
	// The port first: a taken one should not leave half a folder behind.
	listener, err := listen(cfg)
	if err != nil {
		return err
	}
	defer listener.Close()
	gateways, err := listenGRPC(cfg)
	if err != nil {
		return err
	}
	if gateways != nil {
		defer gateways.Close()
	}
	if err := free(cfg.NATSListen); err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return fmt.Errorf("serve: data folder: %w", err)
	}
	b, err := startBroker(ctx, cfg)
	if err != nil {
		return err
	}
	defer b.stop()
	ledger, err := open(ctx, cfg, b)
	if err != nil {
		return err
	}
	defer ledger.close()
	if err := ledger.envelop(ctx, cfg, b); err != nil {
		return err
	}
	if err := b.furnish(ctx, ledger.Ledger, ledger.positions.Ledger, folderOf(cfg.Data, cfg.InstallationKey)); err != nil {
		return err
	}
	if err := b.retain(ctx, cfg.AccessRetention); err != nil {
		return err
	}
	parts, err := assemble(ctx, cfg, ledger)
	if err != nil {
		return err
	}
	parts.addresses = strings.TrimSpace(reach(cfg, listener) + " " + b.address())
	if err := parts.admitGateways(cfg, gateways); err != nil {
		return errors.Join(err, parts.close())
	}
	return parts.serve(ctx, cfg, listener)
}

func startBroker(ctx context.Context, cfg Config) (broker, error) {
	if cfg.Cluster.URL != "" {
		return useCluster(cfg)
	}
	return startEmbedded(ctx, cfg)
}

// opened is the ledger, and where its positions belong.
type opened struct {
	// Ledger is for what is asked and appended. views reads the streams, on a
	// connection of its own: a replay does not delay answers.
	*jetstream.Ledger
	views     *jetstream.Ledger
	positions events.Positions
	// name is the one that uses are recorded under.
	name events.VerifierID
	// keys are the installation's own.
	keys *seals.Keys
	// envelopes are what provider keys are kept in; nil without a key-encryption key.
	envelopes *seals.Envelopes
	// services are the connections to key management services.
	services []io.Closer
	// conns are closed when all else has stopped.
	conns []*nats.Conn
}

// connected reports whether a broker is there.
func (o opened) connected() bool {
	for _, c := range o.conns {
		if !c.IsConnected() {
			return false
		}
	}
	return true
}

func (o opened) close() {
	for _, s := range o.services {
		_ = s.Close() // nothing is on its way any more
	}
	for _, c := range o.conns {
		c.Close()
	}
}

// open checks the ledger of a folder that has one. In a folder that has none it
// begins the ledger of an embedded broker, and joins that of a cluster.
func open(ctx context.Context, cfg Config, b broker) (opened, error) {
	o := opened{}
	err := o.open(ctx, cfg, b)
	if err != nil {
		o.close()
		return opened{}, err
	}
	return o, nil
}

func (o *opened) open(ctx context.Context, cfg Config, b broker) error {
	f := folderOf(cfg.Data, cfg.InstallationKey)
	var err error
	if o.name, err = f.verifierID(); err != nil {
		return err
	}
	for _, purpose := range []string{"answers", "views"} {
		conn, err := b.connect(ctx, fmt.Sprintf("keyledger %s %s", o.name, purpose))
		if err != nil {
			return err
		}
		o.conns = append(o.conns, conn)
	}
	id, seen, err := f.begun()
	if err != nil {
		return err
	}
	began := false
	if !seen {
		if id, began, err = b.arrive(ctx, o.conns[0], f); err != nil {
			return err
		}
	}
	if o.Ledger, err = newLedger(o.conns[0], id, b.replicas(), cfg.Logger); err != nil {
		return err
	}
	if o.views, err = newLedger(o.conns[1], id, b.replicas(), cfg.Logger); err != nil {
		return err
	}
	if err := b.ask(ctx, func() error { return o.check(ctx, f, id) }); err != nil {
		return err
	}
	if began && cfg.Began != nil {
		cfg.Began(f.path(OwnerFile))
	}
	return keep(f.path(ledgerFile), []byte(id.String()+"\n"))
}

// check is made at every start, before anything else: the streams are there and
// as they must be, hold the folder's ledger, and its keys open.
func (o *opened) check(ctx context.Context, f folder, id events.LedgerID) error {
	if err := o.Check(ctx); err != nil {
		return err
	}
	found, _, err := jetstream.Identify(ctx, o.conns[0])
	if err != nil {
		return err
	}
	if found != id {
		return fmt.Errorf("%w: the folder is of ledger %s", ErrForeignLedger, id)
	}
	state, err := commands.Installation(ctx, o.Ledger)
	if err != nil {
		return err
	}
	o.positions = events.Positions{Ledger: id, Epoch: state.Epoch}
	o.keys, err = f.unseal(ctx, o.Ledger, id, state)
	return err
}
