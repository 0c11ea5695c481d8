package serve

import (
	"context"
	"fmt"
	"net"

	"github.com/keyledger/keyledger/api/extauthz"
)

// gateways is the door that gateways ask at over gRPC. Its zero value is shut.
type gateways struct {
	listener net.Listener
	server   *extauthz.Server
	// done is closed when it has ended.
	done chan struct{}
}

// listenGRPC takes the address of gRPC, if there is one. TLS is the server's own to
// speak: gRPC checks what was agreed on.
func listenGRPC(cfg Config) (net.Listener, error) {
	if cfg.GRPCListen == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", cfg.GRPCListen)
	if err != nil {
		return nil, portFault(err, "--grpc-listen", cfg.GRPCListen, "127.0.0.1:9002")
	}
	return l, nil
}

// admitGateways makes what answers on the listener; without one nothing does.
func (p *parts) admitGateways(cfg Config, listener net.Listener) error {
	if listener == nil {
		return nil
	}
	secure, err := cfg.tls("h2")
	if err != nil {
		return err
	}
	server, err := extauthz.New(extauthz.Config{
		Gate: p.front.Gate(), Ready: func() bool { return !p.verifier.Stale() },
		RecordClientIP: cfg.RecordClientIP, TLS: secure, Logger: cfg.Logger,
	})
	if err != nil {
		return err
	}
	p.gateways = gateways{listener: listener, server: server, done: make(chan struct{})}
	scheme := "grpc://"
	if secure != nil {
		scheme = "grpcs://"
	}
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
	host, _, err := net.SplitHostPort(c.GRPCListen)
	switch {
	case err != nil:
		return []error{fmt.Errorf("serve: --grpc-listen must be host:port: %w", err)}
	case c.TLSCert == "" && !c.InsecureHTTP && !loopback(host):
		return []error{fmt.Errorf("%w: --grpc-listen %s needs --tls-cert and --tls-key, or --insecure-http where something else keeps the wire safe", ErrInsecure, c.GRPCListen)}
	}
	return nil
}
