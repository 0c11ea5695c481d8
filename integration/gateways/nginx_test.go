package gateways

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/keyledger/keyledger/events/clustertest"
)

// nginxMain is what an installed nginx has around the included file. The workers
// keep the test's user, whose folders they look into.
const nginxMain = `%s
worker_processes 2;
pid %s/nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    include %s/keyledger.conf;
    server {
        listen %s;
        location / {
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_pass http://application;
        }
    }
}
`

// nginx starts nginx before an application, asking at an address or unix:PATH.
func nginx(t testing.TB, ask, application string) *gateway {
	t.Helper()
	addresses := clustertest.FreeAddresses(t, 2)
	g := &gateway{address: addresses[0], plain: addresses[1], stale: 403, down: []int{500}}
	dir := configure(t, "nginx", put{"127.0.0.1:8081", ask}, put{"127.0.0.1:3000", application}, put{"listen 80", "listen " + g.address}, put{"listen      80", "listen " + g.address})
	user := ""
	if os.Getuid() == 0 {
		user = "user root;"
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxMain, user, dir, dir, g.plain), 0o600); err != nil {
		t.Fatal(err)
	}
	launch(t, g.address, "nginx", "-p", dir, "-c", conf, "-e", "stderr", "-g", "daemon off;")
	return g
}
