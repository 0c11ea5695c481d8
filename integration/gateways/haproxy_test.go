package gateways

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/events/clustertest"
)

// haproxyMore is what a test adds to the configuration.
const haproxyMore = `
frontend plain
    bind %s
    default_backend application
`

// haproxy starts HAProxy before an application, asking at an address or unix:PATH.
func haproxy(t testing.TB, ask, application string) *gateway {
	t.Helper()
	return haproxyWith(t, ask, application)
}

// brokenHAProxy is one whose code fails at the moment it should ask: HAProxy goes on
// after that as if it had not been there.
func brokenHAProxy(t testing.TB, ask, application string) *gateway {
	t.Helper()
	return haproxyWith(t, ask, application, put{"local answer = ask(txn)", `error("it is broken")`})
}

func haproxyWith(t testing.TB, ask, application string, more ...put) *gateway {
	t.Helper()
	addresses := clustertest.FreeAddresses(t, 2)
	g := &gateway{address: addresses[0], plain: addresses[1], stale: 503, down: []int{503}}
	if path, ok := strings.CutPrefix(ask, "unix:"); ok {
		ask = "unix@" + path
	} else {
		ask = "ipv4@" + ask
	}
	more = append(more, put{"ipv4@127.0.0.1:8081", ask}, put{"127.0.0.1:3000", application}, put{"bind :80", "bind " + g.address}, put{"/etc/haproxy", "."})
	dir := configure(t, "haproxy", more...)
	plain := filepath.Join(dir, "plain.cfg")
	if err := os.WriteFile(plain, fmt.Appendf(nil, haproxyMore, g.plain), 0o600); err != nil {
		t.Fatal(err)
	}
	launch(t, g.address, "haproxy", "-C", dir, "-db", "-f", filepath.Join(dir, "haproxy.cfg"), "-f", plain)
	return g
}
