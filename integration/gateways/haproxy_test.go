package gateways

import (
	"path/filepath"
	"strings"
	"testing"
)

// haproxy starts HAProxy before an application, asking at an address or unix:PATH.
func haproxy(t *testing.T, ask, application string) *gateway {
	t.Helper()
	g := &gateway{address: freeAddress(t), stale: 503, down: []int{503}}
	if path, ok := strings.CutPrefix(ask, "unix:"); ok {
		ask = "unix@" + path
	} else {
		ask = "ipv4@" + ask
	}
	dir := configure(t, "haproxy", put{"ipv4@127.0.0.1:8081", ask}, put{"127.0.0.1:3000", application}, put{"bind :80", "bind " + g.address}, put{"/etc/haproxy", "."})
	launch(t, g.address, "haproxy", "-C", dir, "-db", "-f", filepath.Join(dir, "haproxy.cfg"))
	return g
}
