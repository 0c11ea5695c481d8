package gateways

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/integration/natstest"
)

// caddyMain is what a test has around the Caddyfile: nothing outside its folder, and
// no way in but the one.
const caddyMain = `{
	admin off
	auto_https off
	persist_config off
	default_bind 127.0.0.1
	storage file_system %s
}
import %s/Caddyfile
http://%s {
	reverse_proxy %s
}
`

// caddy starts Caddy before an application, asking at an address or unix:PATH.
func caddy(t testing.TB, ask, application string) *gateway {
	t.Helper()
	addresses := clustertest.FreeAddresses(t, 2)
	g := &gateway{address: addresses[0], plain: addresses[1], stale: 503, down: []int{502, 504}}
	port := g.address[strings.LastIndexByte(g.address, ':'):]
	if path, ok := strings.CutPrefix(ask, "unix:"); ok {
		ask = "unix/" + path
	}
	dir := configure(t, "caddy", put{"127.0.0.1:8081", ask}, put{"127.0.0.1:3000", application}, put{"http:// {", "http://" + port + " {"}, put{"http://" + site, "http://" + site + port})
	conf := filepath.Join(dir, "main")
	if err := os.WriteFile(conf, fmt.Appendf(nil, caddyMain, dir, dir, g.plain[strings.LastIndexByte(g.plain, ':'):], application), 0o600); err != nil {
		t.Fatal(err)
	}
	launch(t, g.address, filepath.Join(natstest.Root(t), "bin", "caddy"), "run", "--config", conf, "--adapter", "caddyfile")
	return g
}
