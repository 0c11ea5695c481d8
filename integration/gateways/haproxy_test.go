package gateways

import (
	"path/filepath"
	"strings"
	"testing"
)

// haproxy starts HAProxy before an application, asking at an address or unix:PATH.
func haproxy(t *testing.T, ask, application string) *gateway {
	t.Helper()
	return haproxyWith(t, ask, application)
}

// brokenHAProxy is one whose code fails at the moment it should ask: HAProxy goes on
// after that as if it had not been there.
func brokenHAProxy(t *testing.T, ask, application string) *gateway {
	t.Helper()
	return haproxyWith(t, ask, application, put{"local answer = ask(txn)", `error("it is broken")`})
}

func haproxyWith(t *testing.T, ask, application string, more ...put) *gateway {
	t.Helper()
	g := &gateway{address: freeAddress(t), stale: 503, down: []int{503}}
	if path, ok := strings.CutPrefix(ask, "unix:"); ok {
		ask = "unix@" + path
	} else {
		ask = "ipv4@" + ask
	}
	more = append(more, put{"ipv4@127.0.0.1:8081", ask}, put{"127.0.0.1:3000", application}, put{"bind :80", "bind " + g.address}, put{"/etc/haproxy", "."})
	dir := configure(t, "haproxy", more...)
	launch(t, g.address, "haproxy", "-C", dir, "-db", "-f", filepath.Join(dir, "haproxy.cfg"))
	return g
}
