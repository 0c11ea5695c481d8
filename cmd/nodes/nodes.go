// Package nodes connects programs to the nodes of a broker, and keeps them connected:
// a node that goes is replaced by another, a cluster that goes is tried until it is
// back.
package nodes

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/keyledger/keyledger/cmd/access"
)

var (
	// ErrNone says that no node answered.
	ErrNone = errors.New("nodes: no broker answers")

	// ErrRefused says that the nodes do not take the credentials.
	ErrRefused = errors.New("nodes: the broker refuses the credentials")

	// ErrUntrusted says that nobody trusted signed a node's certificate.
	ErrUntrusted = errors.New("nodes: the broker's certificate is not trusted")
)

const (
	// connectTimeout is for one node.
	connectTimeout = 2 * time.Second
	// heartbeat is how often a node is asked whether it is there. One that stands
	// still keeps its connections open, and only its silence tells: after two
	// missed answers, in as long as an election takes, another node is tried.
	heartbeat = 3 * time.Second
	missed    = 2
	// tryAgain is the pause between two attempts.
	tryAgain = 250 * time.Millisecond
)

// Config says which nodes, and as whom.
type Config struct {
	// URL is the nodes' addresses, separated by commas.
	URL string
	// Creds is the file with the credentials: a NATS user's JWT and its seed.
	Creds string
	// CA is the file with the authorities that the nodes' certificates are checked
	// by, in PEM. With it, TLS is insisted on.
	CA string
}

// Validate reports every fault at once, by the flags that they come from.
func (c Config) Validate() error {
	var faults []error
	for text := range strings.SplitSeq(c.URL, ",") {
		if _, err := access.Node(text); err != nil {
			faults = append(faults, errors.New("nodes: --nats takes addresses such as nats://10.0.0.1:4222, separated by commas"))
			break
		}
	}
	for _, f := range []struct{ flag, file string }{{"--nats-creds", c.Creds}, {"--nats-ca", c.CA}} {
		if f.file == "" {
			continue
		}
		content, err := os.ReadFile(f.file)
		if err != nil {
			faults = append(faults, fmt.Errorf("nodes: %s: %w", f.flag, err))
			continue
		}
		if f.flag == "--nats-creds" {
			if _, err := nkeys.ParseDecoratedUserNKey(content); err != nil {
				faults = append(faults, fmt.Errorf("nodes: %s: there are no credentials in %s", f.flag, f.file))
			}
		} else if !x509.NewCertPool().AppendCertsFromPEM(content) {
			faults = append(faults, fmt.Errorf("nodes: %s: there are no certificates in %s", f.flag, f.file))
		}
	}
	return errors.Join(faults...)
}

// Shown is the address without what may stand in it to log in with.
func (c Config) Shown() string {
	list := strings.Split(c.URL, ",")
	for i, text := range list {
		u, err := access.Node(text)
		switch {
		case err != nil:
			list[i] = "?"
		case u.User != nil:
			u.User = url.User("xxxxx")
			list[i] = u.String()
		}
	}
	return strings.Join(list, ",")
}

// Connect connects, and waits up to patience for nodes that do not answer yet; the
// error is [ErrNone] then.
func (c Config) Connect(ctx context.Context, name string, patience time.Duration, log *slog.Logger, more ...nats.Option) (*nats.Conn, error) {
	options := append(c.options(name, log), more...)
	for deadline := time.Now().Add(patience); ; {
		conn, err := nats.Connect(c.URL, options...)
		var untrusted *tls.CertificateVerificationError
		switch {
		case err == nil:
			return conn, nil
		case errors.As(err, &untrusted):
			return nil, fmt.Errorf("%w: %s: %w", ErrUntrusted, c.Shown(), untrusted.Err)
		case refusal(err):
			return nil, fmt.Errorf("%w: %s: %w", ErrRefused, c.Shown(), err)
		case time.Now().After(deadline):
			return nil, fmt.Errorf("%w at %s: %w", ErrNone, c.Shown(), err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(tryAgain):
		}
	}
}

// Await returns a connection that is made when a node answers, be it ever.
func (c Config) Await(name string, log *slog.Logger, more ...nats.Option) (*nats.Conn, error) {
	conn, err := nats.Connect(c.URL, append(append(c.options(name, log), nats.RetryOnFailedConnect(true)), more...)...)
	if err != nil {
		return nil, fmt.Errorf("%w at %s: %w", ErrNone, c.Shown(), err)
	}
	return conn, nil
}

// Refused is [ErrRefused] while a connection that is not there is refused by the nodes
// for its credentials. No handler of the client is told of that.
func (c Config) Refused(conn *nats.Conn) error {
	if err := conn.LastError(); refusal(err) && !conn.IsConnected() {
		return fmt.Errorf("%w: %s: %w", ErrRefused, c.Shown(), err)
	}
	return nil
}

// refusal reports whether a node refuses the credentials.
func refusal(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) ||
		errors.Is(err, nats.ErrAuthRevoked) || errors.Is(err, nats.ErrAccountAuthExpired)
}

func (c Config) options(name string, log *slog.Logger) []nats.Option {
	log = log.With("connection", name)
	options := []nats.Option{
		nats.Name(name), nats.Timeout(connectTimeout), nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(),
		nats.PingInterval(heartbeat), nats.MaxPingsOutstanding(missed),
		// What cannot be sent now is refused now: sent later, it would be a
		// surprise.
		nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			// There is none when it was closed here.
			if err != nil {
				log.Warn("the broker is gone", "error", err)
			}
		}),
		nats.ReconnectHandler(func(conn *nats.Conn) { log.Info("the broker is back", "node", conn.ConnectedUrlRedacted()) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			log.Error("broker connection", "error", err, "subject", subject)
		}),
	}
	if c.Creds != "" {
		options = append(options, nats.UserCredentials(c.Creds))
	}
	if c.CA != "" {
		options = append(options, nats.RootCAs(c.CA))
	}
	return options
}
