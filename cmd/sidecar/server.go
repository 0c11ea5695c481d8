package sidecar

import (
	"crypto/x509"
	"fmt"
	"os"
	"strings"

	"github.com/keyledger/keyledger/verify"
)

// server is the server that is asked. The key is in no error.
func (c Config) server() (verify.ServerConfig, error) {
	out := verify.ServerConfig{URL: c.Server, Insecure: c.InsecureHTTP}
	key, err := os.ReadFile(c.ServerKeyFile)
	if err != nil {
		return out, fmt.Errorf("sidecar: --server-key-file: %w", err)
	}
	if out.Key = strings.TrimSpace(string(key)); out.Key == "" {
		return out, fmt.Errorf("sidecar: --server-key-file: there is no key in %s", c.ServerKeyFile)
	}
	if c.ServerCA == "" {
		return out, nil
	}
	authorities, err := os.ReadFile(c.ServerCA)
	if err != nil {
		return out, fmt.Errorf("sidecar: --server-ca: %w", err)
	}
	out.Roots = x509.NewCertPool()
	if !out.Roots.AppendCertsFromPEM(authorities) {
		return out, fmt.Errorf("sidecar: --server-ca: there are no certificates in %s", c.ServerCA)
	}
	return out, nil
}
