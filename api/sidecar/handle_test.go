package sidecar

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
)

// valid is a verifier to which every key is good for granted.
type valid struct{}

var granted = []string{"interview:read"}

func (valid) Check(*verify.Question) error { return nil }

func (valid) Verify(context.Context, *verify.Question) verify.Decision {
	return verify.Decision{
		Code: events.CodeValid, Key: events.KeyID{1}, Org: "acme", Kind: events.KindAPI, Position: 7, Permission: "interview:read",
		Permissions: events.Permissions{Level: events.LevelRestricted, Grants: granted}, Scope: events.Scope{AllWorkspaces: true},
	}
}

// handled returns what handles one request as if it had just been read.
func handled(t testing.TB, raw, body string) func() {
	t.Helper()
	s, err := New(Config{
		Verifier: valid{}, Positions: func() events.Positions { return events.Positions{Ledger: events.LedgerID{9}, Epoch: 1} },
		Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx := &fasthttp.RequestCtx{}
	raw = strings.ReplaceAll(raw, "\n", "\r\n") + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body))
	if err := ctx.Request.Header.Read(bufio.NewReader(strings.NewReader(raw))); err != nil {
		t.Fatal(err)
	}
	ctx.Request.SetBodyString(body)
	return func() {
		s.handle(ctx)
		if ctx.Response.StatusCode() != 200 {
			t.Fatalf("%s", ctx.Response.Body())
		}
		ctx.Response.Reset()
	}
}

var requests = map[string][2]string{
	"verify": {
		"POST /v1/verify HTTP/1.1\nHost: x\nUser-Agent: test\nContent-Type: application/json\nAccept: */*\n",
		`{"secret":"kl_live_x","permission":"interview:read","workspace":"hiring","context":{"request_id":"r-1","method":"GET","path":"/a","user_agent":"curl/8"}}`,
	},
	"batch":     {"POST /v1/verify/batch HTTP/1.1\nHost: x\nContent-Type: application/json\n", `{"requests":[{"secret":"x"},{"secret":"y"}]}`},
	"authorize": {"GET /v1/authorize HTTP/1.1\nHost: x\nAuthorization: Bearer kl_live_x\nX-Keyledger-Permission: interview:read\nX-Forwarded-For: 192.0.2.1\nX-Forwarded-Uri: /a?b\nX-Forwarded-Method: GET\n", ""},
}

// Nothing of a request is kept for the next.
func TestForgets(t *testing.T) {
	r := &request{s: &Server{}}
	r.head.authorization, r.head.apiKey, r.head.seen, r.id = "secret", "secret", 1, []byte("id")
	r.head.permission = append(r.head.permission, "secret")
	r.asks.APIKey = "secret"
	r.out.In, r.out.Questions = []byte("secret"), []verify.Question{{Secret: "secret"}}
	questions, permission := r.out.Questions, r.head.permission
	r.release()
	if questions[0].Secret != "" || permission[0] != "" || r.out.In != nil || len(r.out.Questions)+len(r.head.permission)+len(r.id) != 0 {
		t.Errorf("%q is kept", questions[0].Secret+permission[0])
	}
	if r.head.authorization+r.head.apiKey+r.asks.APIKey != "" || r.head.seen != 0 {
		t.Errorf("%+v is kept", r.head)
	}
}

// BenchmarkHandle is what the sidecar adds to fasthttp and to the verifier.
func BenchmarkHandle(b *testing.B) {
	for name, r := range requests {
		b.Run(name, func(b *testing.B) {
			handle := handled(b, r[0], r[1])
			b.ReportAllocs()
			for b.Loop() {
				handle()
			}
		})
	}
}
