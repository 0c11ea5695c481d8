// Package sidecar puts a verifier together and runs it next to an application: it
// follows the ledger by a credential of its own, and answers over HTTP, unix sockets
// and gRPC.
//
// It stops in this order: the doors take no more questions and answer those they
// have; the uses are stored, the end of the run is noted and announced, and a
// snapshot is saved; the connection to the broker closes.
package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/note"

	"github.com/keyledger/keyledger/cmd/nodes"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
)

// Config is what a sidecar is run with. The comments are the manual of the flags.
type Config struct {
	// Nodes is the broker, and the credential that the ledger is read by.
	Nodes nodes.Config
	// Listen is where HTTP is served: host:port or unix:PATH, one or more. Port 0
	// takes any.
	Listen []string
	// GRPCListen is where gateways ask over gRPC, as Envoy does; none or more.
	GRPCListen []string
	// SocketMode is the mode of unix sockets: who may connect may ask, and be told
	// what a key may do.
	SocketMode fs.FileMode
	// TLSCert and TLSKey are the files of the certificate and its key, in PEM, for
	// everything that listens on a port. Sockets speak in clear.
	TLSCert, TLSKey string
	// InsecureHTTP allows to listen beyond loopback without TLS, and to ask a Server
	// beyond it over http.
	InsecureHTTP bool

	// Organizations are those that the credential must be narrowed to. Empty: what
	// it shows is what there is.
	Organizations []events.OrgID
	// LogKeys are the installation's verifier keys (C2SP vkey): only what they signed
	// counts. Empty: those that the ledger itself names.
	LogKeys []string
	// MaxStaleness is how old the proof may be that no event is missing. The
	// credential's own bound counts where it is smaller.
	MaxStaleness time.Duration
	// MaxWait bounds how long a question waits for its at_least.
	MaxWait time.Duration
	// WhenStale is what becomes of questions past MaxStaleness.
	WhenStale verify.WhenStale
	// Server is the URL of the server that is asked about keys that are not known
	// here while stale, and about all with WhenStale Ask. Empty: nobody is asked.
	Server string
	// ServerKeyFile is the file with a management key of the role verifier, ServerCA
	// that with the authorities that the server's certificate is checked by.
	ServerKeyFile, ServerCA string

	// Uses says whether a verdict is given before or after its use is stored.
	Uses verify.Durability
	// UsesBuffer is how many uses are held at most that are not stored yet; 0 is the
	// default.
	UsesBuffer int
	// RecordClientIP records the addresses that keys are used from. They are
	// personal data.
	RecordClientIP bool

	// SnapshotDir is the folder for snapshots of the index. Empty: none are kept.
	SnapshotDir string
	// SnapshotEvery is how often one is saved; 0 is never but at the end.
	SnapshotEvery time.Duration
	// OfflineStartMaxAge lets verdicts be given from a snapshot while no broker
	// answers, until its last event is older than this. 0 is never.
	OfflineStartMaxAge time.Duration
	// StartJitter bounds the random wait before a snapshot is fetched from the broker.
	StartJitter time.Duration

	// Out gets the one line that says `ready`.
	Out io.Writer
	// Ready is called with the addresses of that line.
	Ready func(addresses []string)
	// Logger takes what operators should know.
	Logger *slog.Logger
	// Version is the program's.
	Version string
}

// ErrInsecure and ErrClear say that keys would travel in clear.
var (
	ErrInsecure = errors.New("sidecar: listening beyond loopback without TLS")
	ErrClear    = errors.New("sidecar: asking a server beyond loopback without TLS")
)

// ErrUnstored says that a sidecar stopped before everything was stored that it had
// recorded.
var ErrUnstored = errors.New("sidecar: stopped before everything was stored")

// longestWait is longer than gateways and callers wait for an answer. A stop waits for
// those who ask, too.
const longestWait = time.Minute

// Validate reports every fault at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(bad bool, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf("sidecar: "+format, args...))
		}
	}
	fault(c.Nodes.URL == "", "--nats is needed: where the broker takes verifiers in")
	fault(c.Nodes.Creds == "", "--nats-creds is needed: the file that keyledger nats-auth verifier wrote")
	if c.Nodes.URL != "" {
		if err := c.Nodes.Validate(); err != nil {
			faults = append(faults, err)
		}
	}
	fault(len(c.Listen) == 0, "--listen is needed")
	fault((c.TLSCert == "") != (c.TLSKey == ""), "--tls-cert and --tls-key go together")
	for _, l := range []struct {
		flag      string
		addresses []string
	}{{"--listen", c.Listen}, {"--grpc-listen", c.GRPCListen}} {
		for _, address := range l.addresses {
			if err := c.validateAddress(l.flag, address); err != nil {
				faults = append(faults, err)
			}
		}
	}
	fault(c.SocketMode&^0o777 != 0 || c.SocketMode&0o600 != 0o600, "--socket-mode must be such as 0660: the owner at least reads and writes")
	fault(c.MaxStaleness < events.MinStaleness || c.MaxStaleness > events.MaxStaleness, "--max-staleness must lie within %s and %s", events.MinStaleness, events.MaxStaleness)
	fault(c.MaxWait <= 0 || c.MaxWait > longestWait, "--max-wait must be more than 0, and %s at most", longestWait)
	fault(c.WhenStale == verify.Ask && c.Server == "", "--when-stale ask needs --server")
	fault(c.Server != "" && c.ServerKeyFile == "", "--server needs --server-key-file")
	fault(c.Server == "" && (c.ServerKeyFile != "" || c.ServerCA != ""), "--server-key-file and --server-ca go with --server")
	fault(c.UsesBuffer < 0 || c.UsesBuffer > recording.MaxMaxBuffered, "--uses-buffer must be between 1 and %d", recording.MaxMaxBuffered)
	fault(c.SnapshotEvery < 0 || c.StartJitter < 0 || c.OfflineStartMaxAge < 0, "--snapshot-every, --start-jitter and --offline-start-max-age cannot be negative")
	fault(c.OfflineStartMaxAge > verify.MaxOfflineStart, "--offline-start-max-age is %s at most: no receipt counts with a verifier that was not heard of for longer", verify.MaxOfflineStart)
	fault(c.OfflineStartMaxAge > 0 && c.SnapshotDir == "", "--offline-start-max-age needs --snapshot-dir")
	fault(c.OfflineStartMaxAge > 0 && c.Uses == verify.Durable, "--offline-start-max-age needs --uses buffered: without a broker no use can be stored before its verdict is given")
	faults = append(faults, c.validateServer())
	for _, key := range c.LogKeys {
		_, err := note.NewVerifier(strings.TrimSpace(key))
		fault(err != nil, "--log-vkey must be the content of log.vkey, such as keyledger/…+75a2b89d+A…; what was given is none: %v", err)
	}
	fault(c.Logger == nil, "Logger is needed")
	return errors.Join(faults...)
}

// validateServer looks at the address of the server that is asked. It may hold a
// password: no error repeats it.
func (c Config) validateServer() error {
	if c.Server == "" {
		return nil
	}
	server, err := url.Parse(c.Server)
	switch {
	case err != nil || server.Host == "" || server.Scheme != "https" && server.Scheme != "http":
		return errors.New("sidecar: --server must be a URL such as https://keyledger.example.com")
	case server.User != nil || server.RawQuery != "" || server.Fragment != "":
		return errors.New("sidecar: --server must be an address alone, without a user, a query or a fragment")
	case server.Scheme == "http" && !c.InsecureHTTP && !loopback(server.Hostname()):
		return fmt.Errorf("%w: --server must be https, or --insecure-http be given where something else keeps the wire safe", ErrClear)
	}
	return nil
}

func (c Config) validateAddress(flag, address string) error {
	if path, unix := strings.CutPrefix(address, unixPrefix); unix {
		if path == "" {
			return fmt.Errorf("sidecar: %s unix: needs a path, such as unix:/run/keyledger/sidecar.sock", flag)
		}
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	switch {
	case err != nil:
		return fmt.Errorf("sidecar: %s must be host:port or unix:PATH: %w", flag, err)
	case c.TLSCert == "" && !c.InsecureHTTP && !loopback(host):
		return fmt.Errorf("%w: %s %s needs --tls-cert and --tls-key, or --insecure-http where something else keeps the wire safe", ErrInsecure, flag, address)
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

// How long the parts of a stop may take.
const (
	drainQuestions = 20 * time.Second
	drainUses      = 20 * time.Second
)

// glance is how often it is looked whether a start has failed for good.
const glance = 20 * time.Millisecond

// Run answers until the context ends, and returns nil then. A broker that is away,
// now or later, does not end it: verdicts and readiness say so. What can only be
// mended by a person does: a port that is taken, a credential that is refused.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	options, err := cfg.options()
	if err != nil {
		return err
	}
	// The ports first: nobody should be told of a verifier that cannot be asked.
	at, err := cfg.listen()
	if err != nil {
		return err
	}
	defer at.close()
	conn, err := cfg.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	client, err := verify.Open(ctx, conn, options...)
	if err != nil {
		return fmt.Errorf("sidecar: %w", err)
	}
	beside, enough := context.WithCancel(context.WithoutCancel(ctx))
	var keeping sync.WaitGroup
	keeping.Go(func() { lean(beside, client.Ready()) })
	defer func() {
		enough()
		keeping.Wait()
	}()
	s := &sidecar{cfg: cfg, client: client, at: at, conn: conn, registry: prometheus.NewRegistry()}
	err = s.open()
	if err == nil {
		err = s.answer(ctx)
	}
	return errors.Join(err, s.end(context.WithoutCancel(ctx)))
}

// end has everything stored, for as long as that may take.
func (s *sidecar) end(ctx context.Context) error {
	if st := s.client.Status(); st.Opened && !st.Connected {
		s.cfg.Logger.Warn("the broker is away: it is waited for, so that uses are stored", "uses", st.Uses.Backlog, "most", drainUses)
	}
	drain, cancel := context.WithTimeout(ctx, drainUses)
	defer cancel()
	err := s.client.Close(drain)
	return unstored(err, s.client.Status().Uses.Backlog)
}

// unstored says in plain words what was left undone at the end. That the time was up
// is why, and must not look as if somebody had interrupted it.
func unstored(err error, lost uint64) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, recording.ErrUnstored):
		return fmt.Errorf("%w: uses that the broker did not take within %s are lost: %d; the record of uses will show that this run has no end", ErrUnstored, drainUses, lost)
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: no use is lost, but the broker did not take within %s that this run has ended; the record of uses will show it as one without an end", ErrUnstored, drainUses)
	}
	return fmt.Errorf("sidecar: %w", err)
}

// connect connects to the broker. Without one that answers, the connection is made
// when one does.
func (c Config) connect(ctx context.Context) (*nats.Conn, error) {
	const name = "keyledger sidecar"
	conn, err := c.Nodes.Connect(ctx, name, 0, c.Logger)
	if !errors.Is(err, nodes.ErrNone) {
		return conn, err
	}
	c.Logger.Warn("no broker answers: verdicts are STALE until one does", "broker", c.Nodes.Shown(), "error", err)
	return c.Nodes.Await(name, c.Logger)
}

// options are what a verifier is opened with.
func (c Config) options() ([]verify.Option, error) {
	options := []verify.Option{
		verify.AtOnce(), verify.Program(presence.Sidecar, c.Version), verify.Logger(c.Logger),
		verify.MaxStaleness(c.MaxStaleness), verify.MaxWait(c.MaxWait), verify.WhileStale(c.WhenStale),
		verify.Uses(c.Uses), verify.MaxBuffered(c.UsesBuffer),
		verify.SnapshotFolder(c.SnapshotDir), verify.SnapshotEvery(c.SnapshotEvery),
		verify.OfflineStart(c.OfflineStartMaxAge), verify.StartJitter(c.StartJitter),
	}
	if len(c.Organizations) > 0 {
		options = append(options, verify.Organizations(c.Organizations...))
	}
	if len(c.LogKeys) > 0 {
		options = append(options, verify.LogKeys(c.LogKeys...))
	} else {
		c.Logger.Info("no --log-vkey is given: whoever stands between the ledger and this program can make it believe anything")
	}
	if c.Server == "" {
		return options, nil
	}
	server, err := c.server()
	if err != nil {
		return nil, err
	}
	return append(options, verify.Server(server)), nil
}

// sidecar is one that runs.
type sidecar struct {
	cfg      Config
	client   *verify.Client
	at       *listeners
	conn     *nats.Conn
	registry *prometheus.Registry
	doors    doors
}

// answer answers until the context ends, or something ends that should not.
func (s *sidecar) answer(ctx context.Context) error {
	var running sync.WaitGroup
	ended := make(chan error, len(s.at.http)+len(s.at.grpc)+1)
	s.serve(&running, ended)
	watch, stop := context.WithCancel(ctx)
	defer stop()
	running.Go(func() {
		if err := s.watch(watch); err != nil {
			ended <- err
		}
	})
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		s.cfg.Logger.Info("stopping: open questions are answered first")
	}
	stop()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainQuestions)
	defer cancel()
	s.doors.stop(drain)
	running.Wait()
	return err
}

// watch says when verdicts can be given, or why they never will be.
func (s *sidecar) watch(ctx context.Context) error {
	look := time.NewTicker(glance)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.client.Ready():
			s.announce()
			return nil
		case <-look.C:
			st := s.client.Status()
			refused := s.cfg.Nodes.Refused(s.conn)
			switch {
			case st.Offline:
				s.cfg.Logger.Warn("verdicts come from a snapshot: no bound on accepting a revoked key holds until the broker answers", "position", st.Applied)
				s.announce()
				return nil
			case st.Failed:
				return fmt.Errorf("sidecar: %w", st.Err)
			case !st.Opened && refused != nil:
				// Of one that was taken once it is waited until it is taken again.
				return fmt.Errorf("sidecar: %w", refused)
			}
		}
	}
}

// announce says that verdicts are given, and where.
func (s *sidecar) announce() {
	addresses := s.addresses()
	if s.cfg.Ready != nil {
		s.cfg.Ready(addresses)
	}
	if s.cfg.Out != nil {
		fmt.Fprintf(s.cfg.Out, "ready %s\n", strings.Join(addresses, " "))
	}
}
