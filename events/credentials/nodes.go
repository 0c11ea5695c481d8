package credentials

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

const (
	// ClusterConf is what the cluster block of a nats-server's conf includes.
	ClusterConf = "cluster.conf"
	// nodesSecret is what the nodes know each other by, apart from where they are.
	nodesSecret = "nodes.key"
	// nodesUser is the name that goes with it.
	nodesUser = "node"
)

// Nodes writes how the nodes of a cluster know each other: where each awaits the
// others (host:port), and a password that is drawn once. Whoever has it is a node,
// and sees everything that the cluster carries. Written again with other addresses
// it keeps the password, so that nodes can be added and moved one by one.
func (a *Authority) Nodes(addresses []string) error {
	var faults []error
	for _, address := range addresses {
		host, port, err := net.SplitHostPort(address)
		u, parsed := url.Parse("nats-route://" + address)
		if err != nil || parsed != nil || host == "" || port == "" || u.Host != address {
			faults = append(faults, fmt.Errorf("credentials: %q is not the host:port of a node", address))
		}
	}
	if len(addresses) == 0 {
		faults = append(faults, errors.New("credentials: a cluster has nodes"))
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	path := filepath.Join(a.dir, nodesSecret)
	err := once(path, func() ([]byte, error) {
		var b [32]byte
		_, err := rand.Read(b[:])
		return []byte(base64.RawURLEncoding.EncodeToString(b[:]) + "\n"), err
	})
	if err != nil {
		return err
	}
	secret, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("credentials: read what the nodes know each other by: %w", err)
	}
	password := strings.TrimSpace(string(secret))
	var b strings.Builder
	b.WriteString("# Made by `keyledger nats-auth operator`. Include it in the block \"cluster\".\n")
	fmt.Fprintf(&b, "authorization { user: %s, password: %q, timeout: 5 }\nroutes: [\n", nodesUser, password)
	for _, address := range addresses {
		route := url.URL{Scheme: "nats-route", User: url.UserPassword(nodesUser, password), Host: address}
		fmt.Fprintf(&b, "  %q\n", route.String())
	}
	b.WriteString("]\n")
	return replace(filepath.Join(a.dir, ClusterConf), []byte(b.String()))
}
