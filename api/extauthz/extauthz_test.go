package extauthz_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/extauthz"
	"github.com/keyledger/keyledger/api/wire"
)

// world is a server with both doors for gateways.
type world struct {
	*apitest.Server
	t      testing.TB
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
		if h.GetAppendAction() == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
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
}

// A client cannot bring along what only this package says: whatever of its headers
// begins with our name is overwritten or goes, in both forms that Envoy sends.
func TestClaimedHeadersNeverPass(t *testing.T) {
	w := start(t)
	w.furnish("acme")
	secret := w.key("acme", `{"permissions":{"level":"all"},"scope":{"all_workspaces":true}}`)
	for _, raw := range []bool{false, true} {
		for _, permission := range []string{"interview:read", ""} {
			q := question{method: "GET", path: "/interviews/7", raw: raw, headers: map[string]string{
				"authorization": "Bearer " + secret.Secret, "accept": "text/html",
				"x-keyledger-code": "VALID", "x-keyledger-key-id": "mine", "x-keyledger-organization": "other", "x-keyledger-permission": "interview:start",
				"x-keyledger-permissions": "all", "x-keyledger-profile": "generous", "x-keyledger-scope-checked": "true", "x-keyledger-stale": "false",
				"x-keyledger-workspace": "payroll", "x-keyledger-anything": "else", "x-keyledger-": "",
			}}
			if permission != "" {
				q.extensions = map[string]string{"permission": permission}
			}
			r := w.ask(q)
			got := upstream(r, q.headers)
			for name, value := range got {
				if strings.HasPrefix(name, "x-keyledger-") && value == q.headers[name] && name != "x-keyledger-code" && name != "x-keyledger-permissions" {
					t.Errorf("%s: %s passes (raw %v)", name, value, raw)
				}
			}
			want := map[string]string{
				"x-keyledger-key-id": secret.Key.ID, "x-keyledger-organization": "acme", "x-keyledger-permission": "interview:read",
				"x-keyledger-permissions": "all", "x-keyledger-scope-checked": "false", "x-keyledger-code": "VALID", "accept": "text/html",
			}
			for name, value := range want {
				if got[name] != value {
					t.Errorf("%s is %q upstream, not %q", name, got[name], value)
				}
			}
			for _, name := range []string{"x-keyledger-workspace", "x-keyledger-anything", "x-keyledger-", "x-keyledger-profile", "x-keyledger-stale"} {
				if _, there := got[name]; there {
					t.Errorf("%s passes (raw %v)", name, raw)
				}
			}
		}
	}
}

// The client's headers ask for nothing, and what the gateway is told to ask is asked.
func TestOnlyTheGatewayAsks(t *testing.T) {
	w := start(t)
	w.furnish("acme")
	reader := w.key("acme", `{"permissions":["interview:read"],"scope":{"workspaces":["hiring"]}}`).Secret
	for name, tt := range map[string]struct {
		headers, extensions map[string]string
		method, path, code  string
	}{
		"the route":                       {nil, nil, "GET", "/interviews/7", "VALID"},
		"a route it may not take":         {nil, nil, "POST", "/interviews", "INSUFFICIENT_PERMISSIONS"},
		"a claimed permission":            {map[string]string{"x-keyledger-permission": "interview:read"}, nil, "POST", "/interviews", "INSUFFICIENT_PERMISSIONS"},
		"a claimed method and path":       {map[string]string{"x-forwarded-method": "GET", "x-forwarded-uri": "/interviews/7"}, nil, "POST", "/interviews", "INSUFFICIENT_PERMISSIONS"},
		"a claimed permission beside one": {map[string]string{"x-keyledger-permission": "interview:read"}, map[string]string{"permission": "interview:start"}, "GET", "/interviews/7", "INSUFFICIENT_PERMISSIONS"},
		"a claimed workspace":             {map[string]string{"x-keyledger-workspace": "hiring"}, map[string]string{"workspace": "payroll"}, "GET", "/interviews/7", "OUT_OF_SCOPE"},
		"a workspace":                     {nil, map[string]string{"workspace": "hiring"}, "GET", "/interviews/7", "VALID"},
		"no method":                       {nil, nil, "", "/interviews/7", "INSUFFICIENT_PERMISSIONS"},
		"no path":                         {nil, nil, "GET", "", "INSUFFICIENT_PERMISSIONS"},
		"a path that climbs":              {nil, nil, "GET", "/interviews/../secret", "INSUFFICIENT_PERMISSIONS"},
		"a path that may be another":      {nil, nil, "GET", "/interviews%2f7", "INSUFFICIENT_PERMISSIONS"},
	} {
		headers := map[string]string{"authorization": "Bearer " + reader}
		maps.Copy(headers, tt.headers)
		r := w.ask(question{method: tt.method, path: tt.path, headers: headers, extensions: tt.extensions})
		if got := field(r, "code").GetStringValue(); got != tt.code || (r.GetOkResponse() != nil) != (tt.code == "VALID") {
			t.Errorf("%s: %s, want %s", name, got, tt.code)
		}
	}
	// An extension that is misspelt is not taken for none.
	r := w.ask(question{method: "GET", path: "/interviews/7", headers: map[string]string{"authorization": "Bearer " + reader}, extensions: map[string]string{"permision": "interview:start"}})
	if status, _ := denied(r); status != 400 || r.GetOkResponse() != nil {
		t.Errorf("a misspelt extension: %d", status)
	}
}

func field(r *authv3.CheckResponse, name string) *structpb.Value {
	return r.GetDynamicMetadata().GetFields()["keyledger"].GetStructValue().GetFields()[name]
}

// Two keys are no key: HTTP joins what came twice, and nobody has that.
func TestTwoKeys(t *testing.T) {
	w := start(t)
	w.furnish("acme")
	secret := w.key("acme", `{"permissions":{"level":"all"},"scope":{"all_workspaces":true}}`).Secret
	q := question{method: "GET", path: "/interviews/7", raw: true, headers: map[string]string{"authorization": "Bearer " + secret}}
	r := q.request()
	h := r.Attributes.Request.Http
	h.HeaderMap.Headers = append(h.HeaderMap.Headers, &corev3.HeaderValue{Key: "authorization", RawValue: []byte("Bearer other")})
	both := question{method: "GET", path: "/interviews/7", headers: q.headers}.request()
	both.Attributes.Request.Http.HeaderMap = &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: "authorization", Value: "Bearer other"}}}
	for _, r := range []*authv3.CheckRequest{r, both} {
		got, err := w.client.Check(t.Context(), r)
		if err != nil || got.GetDeniedResponse().GetStatus().GetCode() != 401 {
			t.Errorf("%v, %v", got, err)
		}
	}
	// X-Api-Key stands in where Authorization speaks of something else.
	for header, value := range map[string]string{"authorization": "Basic eDp5", "accept": "*/*"} {
		r := w.ask(question{method: "GET", path: "/interviews/7", headers: map[string]string{header: value, "x-api-key": secret}})
		if r.GetOkResponse() == nil {
			t.Errorf("beside %s: %v", header, r)
		}
	}
}

// A revocation that was answered denies the next question.
func TestRevokedAtOnce(t *testing.T) {
	w := start(t)
	w.furnish("acme")
	created := w.key("acme", `{"permissions":{"level":"all"},"scope":{"all_workspaces":true}}`)
	q := question{method: "GET", path: "/interviews/7", headers: map[string]string{"authorization": "Bearer " + created.Secret}}
	if r := w.ask(q); r.GetOkResponse() == nil || field(r, "key_id").GetStringValue() != created.Key.ID || field(r, "organization").GetStringValue() != "acme" {
		t.Fatalf("before: %v", r)
	}
	w.Must(200, w.Owner, "DELETE", "/v1/organizations/acme/keys/"+created.Key.ID, "")
	r := w.ask(q)
	status, headers := denied(r)
	if status != 401 || headers["x-keyledger-code"] != "REVOKED" || field(r, "code").GetStringValue() != "REVOKED" || !strings.Contains(headers["www-authenticate"], "invalid_token") {
		t.Errorf("after: %v", r)
	}
}

// The key is in nothing that is answered, recorded or logged, wherever it stood.
func TestNothingRepeatsTheKey(t *testing.T) {
	w := start(t)
	w.furnish("acme")
	secret := w.key("acme", `{"permissions":{"level":"all"},"scope":{"all_workspaces":true}}`).Secret
	for _, key := range []string{secret, secret[:len(secret)-1] + "x"} {
		r := w.ask(question{
			method: "GET", path: "/interviews/" + key + "?k=" + key,
			headers:    map[string]string{"authorization": "Bearer " + key, "x-request-id": key, "user-agent": key},
			extensions: map[string]string{"permission": key, "workspace": key},
		})
		if text := prototext.Format(r); strings.Contains(text, key) {
			t.Errorf("answered: %s", text)
		}
	}
	if strings.Contains(w.Log.String(), secret) {
		t.Error("logged")
	}
}

// Every verdict on a key is a recorded use, with what the gateway says of the request.
func TestUsesAreRecorded(t *testing.T) {
	w := start(t, func(c *extauthz.Config) { c.RecordClientIP = true })
	w.furnish("acme")
	created := w.key("acme", `{"permissions":{"level":"all"},"scope":{"all_workspaces":true}}`)
	w.ask(question{method: "GET", path: "/interviews/7?page=2", headers: map[string]string{
		"authorization": "Bearer " + created.Secret, "x-request-id": "r-1", "user-agent": "curl",
	}})
	var page struct{ Items []wire.Use }
	for deadline := time.Now().Add(20 * time.Second); len(page.Items) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no use is recorded")
		}
		body := w.Must(200, w.Owner, "GET", "/v1/organizations/acme/keys/"+created.Key.ID+"/uses", "").Body
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			t.Fatal(err)
		}
	}
	u := page.Items[0]
	if u.Code != "VALID" || u.Permission != "interview:read" || u.RequestID != "r-1" || u.Method != "GET" || u.Path != "/interviews/7" || u.ClientIP != "192.0.2.7" || u.UserAgent != "curl" {
		t.Errorf("%+v", u)
	}
}
