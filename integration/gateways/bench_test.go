package gateways

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What being judged costs: requests through each gateway on 32 connections that are
// kept, to the application without asking, and asking the sidecar.
//
//	go test -run '^$' -bench Gateways -benchtime 3s -count 3 ./integration/gateways
func BenchmarkGateways(b *testing.B) {
	w := newWorld(b)
	application := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, greeting) }))
	defer application.Close()
	behind := strings.TrimPrefix(application.URL, "http://")
	text := get(w.reader).wire("bench")
	b.Run("application", func(b *testing.B) { load(b, behind, text) })
	for _, name := range []string{"nginx", "haproxy", "caddy"} {
		tcp, socket := programs[name].start(b, w.judges["sidecar"], behind), programs[name].start(b, w.judges["sidecar by socket"], behind)
		b.Run(name+"/plain", func(b *testing.B) { load(b, tcp.plain, text) })
		b.Run(name+"/tcp", func(b *testing.B) { load(b, tcp.address, text) })
		b.Run(name+"/socket", func(b *testing.B) { load(b, socket.address, text) })
	}
}

// load sends one request again and again, on connections that are kept for as long
// as the gateway keeps them.
func load(b *testing.B, address, text string) {
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		c, err := connect(address)
		for err == nil && pb.Next() {
			var res response
			if res, err = c.exchange("GET", text); err != nil {
				// Gateways end a connection after some hundred requests.
				_ = c.conn.Close()
				if c, err = connect(address); err == nil {
					res, err = c.exchange("GET", text)
				}
			}
			if err == nil && (res.status != 200 || res.body != greeting) {
				b.Errorf("the answer is %s", res)
				return
			}
		}
		if err != nil {
			b.Error(err)
			return
		}
		_ = c.conn.Close()
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}
