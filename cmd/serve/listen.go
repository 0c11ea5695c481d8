package serve

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
)

// listen takes the port, and names it together with the flag that moves it
// when somebody else has it.
func listen(cfg Config) (net.Listener, error) {
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, portFault(err, "--listen", cfg.Listen, "127.0.0.1:8081")
	}
	config, err := cfg.tls("h2", "http/1.1")
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if config == nil {
		return l, nil
	}
	return tls.NewListener(l, config), nil
}

// tls is what whoever comes in has to speak, nil for nothing.
func (c Config) tls(protocols ...string) (*tls.Config, error) {
	if c.TLSCert == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("serve: --tls-cert and --tls-key: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: protocols}, nil
}

// portFault names the flag that moves a port.
func portFault(err error, flag, address, other string) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("serve: %s is taken by another program; choose another address with %s, such as %s %s", address, flag, flag, other)
	}
	return fmt.Errorf("serve: %s %s: %w", flag, address, err)
}

// reach is the address that clients of this machine reach the listener at.
func reach(cfg Config, l net.Listener) string {
	scheme := "http"
	if cfg.TLSCert != "" {
		scheme = "https"
	}
	return scheme + "://" + l.Addr().String()
}
