package sidecar

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/api/extauthz"
	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/api/listen"
	door "github.com/keyledger/keyledger/api/sidecar"
)

// unixPrefix begins the address of a unix socket.
const unixPrefix = "unix:"

// listeners are where questions come in.
type listeners struct {
	http, grpc []net.Listener
	// secure are the certificates of those on a port; nil for none.
	secure []tls.Certificate
}

// tls is what whoever comes in at a port has to speak, nil for nothing.
func (l *listeners) tls(protocol string) *tls.Config {
	if l.secure == nil {
		return nil
	}
	return &tls.Config{Certificates: l.secure, MinVersion: tls.VersionTLS12, NextProtos: []string{protocol}}
}

func onSocket(l net.Listener) bool { return l.Addr().Network() == "unix" }

// listen takes all addresses, or none.
func (c Config) listen() (*listeners, error) {
	l := &listeners{}
	if c.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
		if err != nil {
			return nil, fmt.Errorf("sidecar: --tls-cert and --tls-key: %w", err)
		}
		l.secure = []tls.Certificate{cert}
	}
	for _, to := range []struct {
		flag, other string
		addresses   []string
		into        *[]net.Listener
	}{
		{"--listen", "127.0.0.1:8082", c.Listen, &l.http},
		{"--grpc-listen", "127.0.0.1:9003", c.GRPCListen, &l.grpc},
	} {
		for _, address := range to.addresses {
			opened, err := listen.Open(address, c.SocketMode)
			switch {
			case errors.Is(err, syscall.EADDRINUSE):
				err = fmt.Errorf("sidecar: %s is taken by another program; choose another address with %s, such as %s %s", address, to.flag, to.flag, to.other)
			case err != nil:
				err = fmt.Errorf("sidecar: %s %s: %w", to.flag, address, err)
			}
			if err != nil {
				l.close()
				return nil, err
			}
			*to.into = append(*to.into, opened)
		}
	}
	return l, nil
}

// close closes what no door has closed.
func (l *listeners) close() {
	for _, list := range [][]net.Listener{l.http, l.grpc} {
		for _, listener := range list {
			_ = listener.Close()
		}
	}
}

// doors are what answers on the listeners.
type doors struct {
	http *door.Server
	// grpc speaks TLS, where there is any, and local does not.
	grpc, local *extauthz.Server
}

// open makes the doors. Nothing is answered yet.
func (s *sidecar) open() error {
	if err := s.register(); err != nil {
		return err
	}
	document, err := api.SidecarDocument(s.cfg.Version)
	if err != nil {
		return err
	}
	s.doors.http, err = door.New(door.Config{
		Verifier: s.client, Positions: s.client.Positions, Effective: s.client.Effective, Checks: s.checks(), Metrics: s.registry, Logger: s.cfg.Logger,
		Document: document, ServerURL: s.cfg.Server, RecordClientIP: s.cfg.RecordClientIP,
	})
	if err != nil {
		return err
	}
	metrics, err := gate.NewMetrics(s.registry)
	if err != nil {
		return err
	}
	judge, err := gate.New(gate.Config{
		Verifier: s.client, Positions: s.client.Positions, Metrics: metrics, RecordClientIP: s.cfg.RecordClientIP,
	})
	if err != nil {
		return err
	}
	gateways := func(secure *tls.Config) (*extauthz.Server, error) {
		return extauthz.New(extauthz.Config{
			Gate: judge, Ready: func() bool { return len(s.client.Status().Failing()) == 0 },
			RecordClientIP: s.cfg.RecordClientIP, TLS: secure, Logger: s.cfg.Logger,
		})
	}
	if s.doors.grpc, err = gateways(s.at.tls("h2")); err != nil {
		return err
	}
	s.doors.local, err = gateways(nil)
	return err
}

// serve answers on all listeners, each in a goroutine of the group, and tells why one
// ended that was not stopped.
func (s *sidecar) serve(answering *sync.WaitGroup, ended chan<- error) {
	serve := func(l net.Listener, f func(net.Listener) error) {
		answering.Go(func() {
			if err := f(l); err != nil {
				ended <- err
			}
		})
	}
	for _, l := range s.at.http {
		if secure := s.at.tls("http/1.1"); secure != nil && !onSocket(l) {
			l = tls.NewListener(l, secure)
		}
		serve(l, s.doors.http.Serve)
	}
	for _, l := range s.at.grpc {
		if onSocket(l) {
			serve(l, s.doors.local.Serve)
		} else {
			serve(l, s.doors.grpc.Serve)
		}
	}
}

// stop answers what was asked until the context ends, and cuts off what is left.
func (d *doors) stop(ctx context.Context) {
	var stopping sync.WaitGroup
	stopping.Go(func() { _ = d.http.Shutdown(ctx) })
	stopping.Go(func() { d.grpc.Stop(ctx) })
	stopping.Go(func() { d.local.Stop(ctx) })
	stopping.Wait()
}

// addresses are where questions come in, as the line `ready` tells them.
func (s *sidecar) addresses() []string {
	var out []string
	for _, of := range []struct {
		listeners           []net.Listener
		clear, secure, unix string
	}{
		{s.at.http, "http://", "https://", unixPrefix},
		{s.at.grpc, "grpc://", "grpcs://", "grpc+" + unixPrefix},
	} {
		for _, l := range of.listeners {
			scheme := of.clear
			switch {
			case onSocket(l):
				scheme = of.unix
			case s.at.secure != nil:
				scheme = of.secure
			}
			out = append(out, scheme+l.Addr().String())
		}
	}
	return out
}
