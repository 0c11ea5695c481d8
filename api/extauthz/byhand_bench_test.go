package extauthz

import (
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
)

// BenchmarkByHand reads a question and writes an answer by hand, and beside that with
// the generated types.
func BenchmarkByHand(b *testing.B) {
	message, err := proto.Marshal(&authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Id: "7", Method: "GET", Path: "/interviews/7?page=2", Host: "api.example.com", Size: -1, Headers: map[string]string{
				":authority": "api.example.com", ":method": "GET", ":path": "/interviews/7?page=2", ":scheme": "https",
				"accept": "*/*", "accept-encoding": "gzip, deflate, br", "accept-language": "en-GB,en;q=0.9",
				"authorization": "Bearer kl_live_x", "user-agent": "Mozilla/5.0 (X11; Linux x86_64)",
				"x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "https", "x-request-id": "7e4f3c52-5d4b-4b8e-9a83-2f9a3f6f2b11",
			},
		}},
		ContextExtensions: map[string]string{"permission": "interview:read", "workspace": "hiring"},
	}})
	if err != nil {
		b.Fatal(err)
	}
	told := told{
		d: &verify.Decision{
			Code: events.CodeValid, Key: events.KeyID{1}, Org: "acme", Kind: events.KindAPI, Permission: "interview:read", ScopeChecked: true,
			Permissions: events.Permissions{Level: events.LevelRestricted, Grants: []string{"interview:read", "interview:start"}},
		},
		position: "p0123456789abcdefghjkmnpqrst", requestID: "7e4f3c52-5d4b-4b8e-9a83-2f9a3f6f2b11",
	}
	b.Run("question", func(b *testing.B) {
		var a asked
		b.ReportAllocs()
		for b.Loop() {
			a.forget()
			if !a.fast(message) {
				b.Fatal("left to the generated types")
			}
		}
	})
	b.Run("question/generated", func(b *testing.B) {
		var a asked
		b.ReportAllocs()
		for b.Loop() {
			a.forget()
			if err := a.slow(message); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("answer", func(b *testing.B) {
		w := writer{make([]byte, 0, answerBytes)}
		b.ReportAllocs()
		for b.Loop() {
			w.b = w.b[:0]
			w.write(&told)
		}
	})
	b.Run("answer/generated", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := proto.Marshal(intended(&told)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
