package sidecar

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/events"
)

// Who dribbles is told that it took too long, and cut off; who says nothing is cut
// off.
//
// Breaking it: without ReadTimeout nothing ends.
func TestSlowClients(t *testing.T) {
	s, err := New(Config{
		Verifier: valid{}, Positions: func() events.Positions { return events.Positions{Ledger: events.LedgerID{9}, Epoch: 1} },
		Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.http.ReadTimeout != readTimeout || s.http.WriteTimeout != writeTimeout || s.http.IdleTimeout != idleTimeout {
		t.Errorf("the timeouts are not those of limits.go: %v, %v, %v", s.http.ReadTimeout, s.http.WriteTimeout, s.http.IdleTimeout)
	}
	s.http.ReadTimeout, s.http.IdleTimeout = 100*time.Millisecond, 100*time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	for name, tt := range map[string]struct {
		begun string
		// statuses are those of the answers before the connection ends.
		statuses []int
	}{
		"in the headers":    {"POST /v1/verify HTTP/1.1\r\nHost: x\r\n", []int{408}},
		"in the body":       {"POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{", []int{408}},
		"before a body":     {"POST /v1/verify HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n", []int{100, 408}},
		"in a chunk":        {"POST /v1/verify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{", []int{408}},
		"after an answer":   {"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", []int{200}},
		"in a second":       {"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /", []int{200, 408}},
		"before it says so": {"", nil},
	} {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, tt.begun); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		for _, want := range tt.statuses {
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			if res.StatusCode != want {
				t.Errorf("%s: %d, want %d", name, res.StatusCode, want)
			}
		}
		if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 && tt.begun != "" {
			t.Errorf("%s: %q, %v", name, rest, err)
		}
		conn.Close()
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
