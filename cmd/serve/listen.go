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
	if cfg.TLSCert == "" {
		return l, nil
	}
	cert, err := tls.LoadX509KeyPair(cfg.TLSCert, cfg.TLSKey)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("serve: --tls-cert and --tls-key: %w", err), l.Close())
	}
	return tls.NewListener(l, &tls.Config{
		Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
	}), nil
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
