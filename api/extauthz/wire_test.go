package extauthz

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// read is all that is read of a question, in a form to compare.
type read struct {
	Secret, RequestID, UserAgent, ID, Method, Path, Source string
	Permission, Workspace                                  string
	Stray                                                  bool
	Claimed                                                []string
}

func readOf(a *asked) read {
	claimed := slices.Clone(a.claimed)
	slices.Sort(claimed)
	return read{
		Secret: a.secret(), RequestID: a.requestID.value(), UserAgent: a.userAgent.value(), ID: a.id, Method: a.method, Path: a.path,
		Source: a.source, Permission: a.permission.question(), Workspace: a.workspace.question(), Stray: a.stray, Claimed: slices.Compact(claimed),
	}
}

// agree fails when the two ways of reading a message differ. It returns whether the
// fast one took it.
func agree(t interface {
	Helper()
	Fatalf(string, ...any)
}, message []byte,
) bool {
	t.Helper()
	var fast, slow asked
	took := fast.fast(message)
	err := slow.slow(message)
	if !took || err != nil {
		return took
	}
	if diff := cmp.Diff(readOf(&slow), readOf(&fast)); diff != "" {
		t.Fatalf("the two readings differ (-generated +by hand):\n%s\nof %x", diff, message)
	}
	return true
}

// drawn draws a question, with what Envoy says in it and what it never does.
func drawn(t *rapid.T) *authv3.CheckRequest {
	text := rapid.OneOf(rapid.SampledFrom([]string{"", "a", "GET", "/interviews/7?x=1", "Bearer kl_live_x", "bearer  y ", "Basic z"}), rapid.String(), rapid.StringOfN(rapid.Rune(), 100, 300, -1))
	name := rapid.OneOf(rapid.SampledFrom([]string{"authorization", "Authorization", "x-api-key", "x-request-id", "user-agent", "x-keyledger-code", "X-Keyledger-Evil", "x-keyledger-", "x-keyledge", ":path", "permission", "workspace"}), rapid.String())
	texts := rapid.MapOfN(name, text, 0, 6)
	r := &authv3.CheckRequest{}
	if rapid.Bool().Draw(t, "no attributes") && rapid.Bool().Draw(t, "really") {
		return r
	}
	address := func(label string) *authv3.AttributeContext_Peer {
		p := &authv3.AttributeContext_Peer{Service: text.Draw(t, label), Labels: texts.Draw(t, label), Certificate: text.Draw(t, label)}
		switch rapid.IntRange(0, 4).Draw(t, label) {
		case 0:
			p.Address = &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: text.Draw(t, label), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: rapid.Uint32().Draw(t, label)},
			}}}
		case 1:
			p.Address = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: text.Draw(t, label)}}}
		case 2:
			p.Address = &corev3.Address{Address: &corev3.Address_EnvoyInternalAddress{EnvoyInternalAddress: &corev3.EnvoyInternalAddress{EndpointId: text.Draw(t, label)}}}
		case 3:
			p.Address = &corev3.Address{}
		}
		return p
	}
	http := &authv3.AttributeContext_HttpRequest{
		Id: text.Draw(t, "id"), Method: text.Draw(t, "method"), Path: text.Draw(t, "path"), Headers: texts.Draw(t, "headers"),
		Host: text.Draw(t, "host"), Scheme: "https", Size: rapid.Int64().Draw(t, "size"), Protocol: "HTTP/2", Body: text.Draw(t, "body"),
		RawBody: rapid.SliceOf(rapid.Byte()).Draw(t, "raw body"),
	}
	if rapid.Bool().Draw(t, "raw headers") {
		http.HeaderMap = &corev3.HeaderMap{}
		for range rapid.IntRange(0, 5).Draw(t, "how many") {
			h := &corev3.HeaderValue{Key: name.Draw(t, "name")}
			if rapid.Bool().Draw(t, "raw") {
				h.RawValue = rapid.SliceOf(rapid.Byte()).Draw(t, "raw value")
			}
			if rapid.Bool().Draw(t, "text") {
				h.Value = text.Draw(t, "value")
			}
			http.HeaderMap.Headers = append(http.HeaderMap.Headers, h)
		}
	}
	r.Attributes = &authv3.AttributeContext{
		Source: address("source"), Destination: address("destination"), ContextExtensions: texts.Draw(t, "extensions"),
		Request:    &authv3.AttributeContext_Request{Time: timestamppb.Now(), Http: http},
		TlsSession: &authv3.AttributeContext_TLSSession{Sni: text.Draw(t, "sni")},
	}
	return r
}

// Whatever a gateway asks, reading it by hand and with the generated types comes to
// the same question; also when it sends it in pieces, which protobuf allows.
func TestReadsWhatTheGeneratedTypesRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var message []byte
		for range rapid.IntRange(1, 3).Draw(t, "pieces") {
			piece, err := proto.Marshal(drawn(t))
			if err != nil {
				t.Fatal(err)
			}
			message = append(message, piece...)
		}
		if !agree(t, message) {
			t.Fatalf("left to the generated types: %x", message)
		}
	})
}

// No message whatever is read in two ways, and none breaks the reader.
func FuzzQuestion(f *testing.F) {
	for _, r := range []*authv3.CheckRequest{
		{},
		{Attributes: &authv3.AttributeContext{
			Source: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: "192.0.2.1"}}}},
			Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
				Id: "7", Method: "GET", Path: "/a?b", Size: -1, Headers: map[string]string{"authorization": "Bearer x", "x-keyledger-code": "VALID"},
				HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: "x-api-key", RawValue: []byte{0xff}}}},
			}},
			ContextExtensions: map[string]string{"permission": "a:b", "workspace": "c"},
		}},
	} {
		message, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(message)
		f.Add(append(message, message...))
	}
	f.Add([]byte{0x0a, 0x80, 0x00})
	f.Add([]byte{0x0b, 0x0c})
	f.Fuzz(func(t *testing.T, message []byte) { agree(t, message) })
}

// What the reader by hand does not take, and what nobody may.
func TestOddQuestions(t *testing.T) {
	for name, tt := range map[string]struct {
		message string
		fast    bool
		good    bool
	}{
		"empty":                        {"", true, true},
		"a group":                      {"\x13\x14", false, true},
		"a number for a message":       {"\x08\x01", false, true},
		"an unknown field":             {"\x7a\x01a", true, true},
		"a length beyond its end":      {"\x0a\x05a", false, false},
		"a length that never ends":     {"\x0a" + strings.Repeat("\xff", 12), false, false},
		"a field without a number":     {"\x02\x00", false, false},
		"a method that is not UTF-8":   {"\x0a\x07\x22\x05\x12\x03\x12\x01\xff", false, false},
		"a message cut within a field": {"\x0a\x04\x22\x05\x12\x03", false, false},
	} {
		var fast, slow asked
		if took := fast.fast([]byte(tt.message)); took != tt.fast {
			t.Errorf("%s: by hand %v", name, took)
		}
		if err := slow.slow([]byte(tt.message)); (err == nil) != tt.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Lengths of one to three bytes are written as they are read.
func TestLengths(t *testing.T) {
	for _, n := range []int{0, 1, 126, 127, 128, 129, 16382, 16383, 16384, 16385, 1 << 21} {
		var w writer
		w.text(message1, strings.Repeat("x", n))
		f, rest, ok := next(w.b)
		if !ok || len(rest) != 0 || len(f.bytes) != n {
			t.Errorf("%d: %v, %d bytes, %d left", n, ok, len(f.bytes), len(rest))
		}
	}
	var w writer
	w.varint(varint1, math.MaxUint64)
	if _, rest, ok := next(w.b); !ok || len(rest) != 0 {
		t.Error("the largest number")
	}
}
