package extauthz_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/extauthz"
	"github.com/keyledger/keyledger/api/wire"
)

// world is a server with both doors for gateways.
type world struct {
	*apitest.Server
	t      *testing.T
	client authv3.AuthorizationClient
	conn   *grpc.ClientConn
	door   *extauthz.Server
}

func start(t *testing.T, change ...func(*extauthz.Config)) *world {
	t.Helper()
	s := apitest.Start(t)
	cfg := extauthz.Config{Gate: s.API.Gate(), Logger: slog.New(slog.NewJSONHandler(s.Log, nil))}
	for _, f := range change {
		f(&cfg)
	}
	door, err := extauthz.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- door.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		door.Stop(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return &world{s, t, authv3.NewAuthorizationClient(conn), conn, door}
}

// furnish begins an organization with routes and a workspace.
func (w *world) furnish(org string) {
	w.t.Helper()
	w.Must(201, w.Owner, "POST", "/v1/organizations", `{"id":"`+org+`","name":"`+org+`"}`)
	w.Must(201, w.Owner, "POST", "/v1/organizations/"+org+"/workspaces", `{"id":"hiring","name":"Hiring"}`)
	w.Must(200, w.Owner, "PUT", "/v1/organizations/"+org+"/permissions",
		`{"permissions":[{"name":"interview:read","access":"read","routes":["GET /interviews/{id}"]},{"name":"interview:start","access":"write","routes":["POST /interviews"]}]}`)
	w.Must(201, w.Owner, "POST", "/v1/organizations/"+org+"/profiles", `{"id":"strict","name":"Strict","settings":{"a":1}}`)
}

func (w *world) key(org, body string) wire.Created {
	w.t.Helper()
	var out wire.Created
	if err := json.Unmarshal([]byte(w.Must(201, w.Owner, "POST", "/v1/organizations/"+org+"/keys", body).Body), &out); err != nil {
		w.t.Fatal(err)
	}
	return out
}

// question is what Envoy asks about a request.
type question struct {
	method, path string
	headers      map[string]string
	extensions   map[string]string
	raw          bool
}

func (q question) request() *authv3.CheckRequest {
	h := &authv3.AttributeContext_HttpRequest{Id: "7", Method: q.method, Path: q.path, Host: "api.example", Protocol: "HTTP/1.1", Size: -1}
	if q.raw {
		h.HeaderMap = &corev3.HeaderMap{}
		for name, value := range q.headers {
			h.HeaderMap.Headers = append(h.HeaderMap.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
		}
	} else {
		h.Headers = q.headers
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
			SocketAddress: &corev3.SocketAddress{Address: "192.0.2.7", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 4711}},
		}}},
		Request: &authv3.AttributeContext_Request{Http: h}, ContextExtensions: q.extensions,
	}}
}

func (w *world) ask(q question) *authv3.CheckResponse {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	r, err := w.client.Check(ctx, q.request())
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// upstream is what a request looks like once Envoy has done what it was told: it sets
// headers first, and removes then.
func upstream(r *authv3.CheckResponse, headers map[string]string) map[string]string {
	out := maps.Clone(headers)
	if out == nil {
		out = map[string]string{}
	}
	for _, h := range r.GetOkResponse().GetHeaders() {
		if h.GetAppend() == nil && h.GetAppendAction() == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			out[h.Header.Key] = h.Header.Value
		}
	}
	for _, name := range r.GetOkResponse().GetHeadersToRemove() {
		delete(out, name)
	}
	return out
}

func denied(r *authv3.CheckResponse) (int, map[string]string) {
	d := r.GetDeniedResponse()
	out := map[string]string{}
	for _, h := range d.GetHeaders() {
		out[h.Header.Key] = h.Header.Value
	}
	return int(d.GetStatus().GetCode()), out
}

// Both doors say the same: what /v1/authorize answers to a question that a gateway
// fixes in the URL, this one answers to the same in the context extensions.
func TestTheSameVerdictsAsAuthorize(t *testing.T) {
	w := start(t)
	w.furnish("acme")
	w.Must(201, w.Owner, "POST", "/v1/organizations", `{"id":"plain","name":"Plain"}`)
	full := w.key("acme", `{"permissions":{"level":"all"},"scope":{"all_workspaces":true},"profile":"strict"}`).Secret
	reader := w.key("acme", `{"permissions":["interview:read"],"scope":{"workspaces":["hiring"]}}`).Secret
	plain := w.key("plain", `{"permissions":{"level":"all"},"scope":{"all_workspaces":true}}`).Secret
	off := w.key("acme", `{"permissions":{"level":"all"},"scope":{"all_workspaces":true}}`)
	w.Must(200, w.Owner, "PATCH", "/v1/organizations/acme/keys/"+off.Key.ID, `{"status":"INACTIVE"}`)
	gone := w.key("acme", `{"permissions":{"level":"all"},"scope":{"all_workspaces":true}}`)
	w.Must(200, w.Owner, "DELETE", "/v1/organizations/acme/keys/"+gone.Key.ID, "")
	management := w.key("acme", `{"kind":"management","role":"member","scope":{"all_workspaces":true}}`).Secret

	extensions := []map[string]string{
		nil,
		{"permission": "interview:read"},
		{"permission": "interview:start", "workspace": "hiring"},
		{"permission": "interview:read AND interview:start"},
		{"permission": "nothing:such"},
		{"permission": "a b c"},
		{"permission": ""},
		{"workspace": "hiring"},
		{"workspace": "payroll"},
		{"workspace": ""},
	}
	requests := []question{
		{method: "GET", path: "/interviews/7?page=2"},
		{method: "POST", path: "/interviews"},
		{method: "DELETE", path: "/interviews/7"},
		{method: "GET", path: "/interviews/%2e%2e/7"},
		{method: "GET", path: "//interviews/7"},
	}
	for name, secret := range map[string]string{
		"all": full, "restricted": reader, "no catalog": plain, "inactive": off.Secret, "revoked": gone.Secret,
		"management": management, "unknown": "kl_live_unknown", "malformed": "x", "none": "",
	} {
		for _, asked := range extensions {
			for _, r := range requests {
				for _, raw := range []bool{false, true} {
					r.extensions, r.raw = asked, raw
					w.compare(name, secret, r)
				}
			}
		}
	}
}

// compare asks both doors.
func (w *world) compare(name, secret string, q question) {
	w.t.Helper()
	query := ""
	for _, e := range slices.Sorted(maps.Keys(q.extensions)) {
		query += "&" + e + "=" + strings.ReplaceAll(q.extensions[e], " ", "%20")
	}
	id := fmt.Sprintf("%x", []byte(name))
	headers := []string{"X-Forwarded-Method", q.method, "X-Forwarded-Uri", q.path, "X-Request-Id", id}
	want := w.Do(secret, "GET", "/v1/authorize?"+strings.TrimPrefix(query, "&"), "", headers...)
	q.headers = map[string]string{"x-request-id": id}
	if secret != "" {
		q.headers["authorization"] = "bearer " + secret
	}
	r := w.ask(q)
	where := fmt.Sprintf("%s, %s %s %v", name, q.method, q.path, q.extensions)
	if (r.GetStatus().GetCode() == int32(codes.OK)) != (want.Status == 200) {
		w.t.Fatalf("%s: status %v, and %d by HTTP", where, r.GetStatus(), want.Status)
	}
	status, got := denied(r)
	if want.Status == 200 {
		status, got = 200, upstream(r, nil)
	} else if body := r.GetDeniedResponse().GetBody(); body != want.Body {
		w.t.Errorf("%s: %s\nand by HTTP: %s", where, body, want.Body)
	}
	if status != want.Status {
		w.t.Errorf("%s: %d, and %d by HTTP", where, status, want.Status)
	}
	for _, h := range [...]string{
		"x-keyledger-code", "x-keyledger-position", "x-keyledger-key-id", "x-keyledger-organization", "x-keyledger-permission",
		"x-keyledger-permissions", "x-keyledger-scope-checked", "x-keyledger-profile", "www-authenticate", "content-type",
	} {
		if by := want.Header.Get(h); got[h] != by {
			w.t.Errorf("%s: %s %q, and %q by HTTP", where, h, got[h], by)
		}
	}
	if code := r.GetDynamicMetadata().GetFields()["keyledger"].GetStructValue().GetFields()["code"].GetStringValue(); secret != "" && code != want.Header.Get("X-Keyledger-Code") {
		w.t.Errorf("%s: the metadata say %s", where, code)
	}
	_ = http.StatusOK
}
