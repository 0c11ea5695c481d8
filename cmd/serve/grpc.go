package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/keyledger/keyledger/api/extauthz"
	addresses "github.com/keyledger/keyledger/api/listen"
)

// gateways is the door that gateways ask at over gRPC. Its zero value is shut.
type gateways struct {
	listener net.Listener
	server   *extauthz.Server
	// done is closed when it has ended.
	done chan struct{}
}

// socketMode lets the group of the server in at a unix socket: gateways mostly run as
// a user of their own.
const socketMode = 0o660

// listenGRPC takes the address of gRPC, if there is one. TLS is the server's own to
// speak: gRPC checks what was agreed on.
func listenGRPC(cfg Config) (net.Listener, error) {
	if cfg.GRPCListen == "" {
		return nil, nil
	}
	l, err := addresses.Open(cfg.GRPCListen, socketMode)
	if err != nil {
		return nil, portFault(err, "--grpc-listen", cfg.GRPCListen, "127.0.0.1:9002")
	}
	return l, nil
}

// admitGateways makes what answers on the listener; without one nothing does. The mode
// of a unix socket says who may come in, and nobody can listen to it: it takes no TLS.
func (p *parts) admitGateways(cfg Config, listener net.Listener) error {
	if listener == nil {
		return nil
	}
	scheme := "grpc+" + addresses.Unix
	var secure *tls.Config
	if listener.Addr().Network() != "unix" {
		var err error
		if secure, err = cfg.tls("h2"); err != nil {
			return err
		}
		scheme = "grpc://"
		if secure != nil {
			scheme = "grpcs://"
		}
	}
	server, err := extauthz.New(extauthz.Config{
		Gate: p.front.Gate(), Ready: func() bool { return !p.verifier.Stale() },
		RecordClientIP: cfg.RecordClientIP, TLS: secure, Logger: cfg.Logger,
	})
	if err != nil {
		return err
	}
	p.gateways = gateways{listener: listener, server: server, done: make(chan struct{})}
	p.addresses += " " + scheme + listener.Addr().String()
	return nil
}

// serve answers until stop, and tells why if it ends before.
func (g *gateways) serve(ended chan<- error) {
	if g.server == nil {
		return
	}
	go func() {
		defer close(g.done)
		if err := g.server.Serve(g.listener); err != nil {
			ended <- err
		}
	}()
}

// stop answers what was asked until the context ends.
func (g *gateways) stop(ctx context.Context) {
	if g.server == nil {
		return
	}
	g.server.Stop(ctx)
	<-g.done
}

// validateGRPC reports the faults of the address.
func (c Config) validateGRPC() []error {
	if c.GRPCListen == "" {
		return nil
	}
	if path, ok := strings.CutPrefix(c.GRPCListen, addresses.Unix); ok {
		if path == "" {
			return []error{errors.New("serve: --grpc-listen unix: needs the path of a socket")}
		}
		return nil
	}
	host, _, err := net.SplitHostPort(c.GRPCListen)
	switch {
	case err != nil:
		return []error{fmt.Errorf("serve: --grpc-listen must be host:port or unix:PATH: %w", err)}
	case c.TLSCert == "" && !c.InsecureHTTP && !loopback(host):
		return []error{fmt.Errorf("%w: --grpc-listen %s needs --tls-cert and --tls-key, or --insecure-http where something else keeps the wire safe", ErrInsecure, c.GRPCListen)}
	}
	return nil
}
