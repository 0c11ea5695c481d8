package extauthz

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
)

// intended is the answer as the generated types have it.
func intended(t *told) *authv3.CheckResponse {
	set := func(name, value string) *corev3.HeaderValueOption {
		return &corev3.HeaderValueOption{
			Header: &corev3.HeaderValue{Key: name, Value: value}, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}
	}
	var headers []*corev3.HeaderValueOption
	fields := map[string]any{"request_id": t.requestID}
	if d := t.d; d != nil {
		headers = append(headers, set("x-keyledger-code", d.Code.String()), set("x-keyledger-position", t.position))
		fields["code"], fields["position"], fields["staleness"] = d.Code.String(), t.position, seconds(d.Staleness)
		if d.Stale {
			headers = append(headers, set("x-keyledger-stale", "true"))
			fields["stale"] = true
		}
		if d.Asked {
			headers = append(headers, set("x-keyledger-asked", "true"))
			fields["asked"] = true
		}
		if !d.Key.IsZero() {
			headers = append(headers, set("x-keyledger-key-id", d.Key.String()), set("x-keyledger-organization", string(d.Org)))
			intendKey(d, fields)
		}
		if validName(d.Permission) {
			headers = append(headers, set("x-keyledger-permission", d.Permission))
		}
	} else {
		fields["code"] = t.problem.Code
	}
	told, err := structpb.NewStruct(map[string]any{"keyledger": fields})
	if err != nil {
		panic(err)
	}
	out := &authv3.CheckResponse{DynamicMetadata: told}
	if t.problem == nil {
		out.Status = &status.Status{}
		out.HttpResponse = &authv3.CheckResponse_OkResponse{OkResponse: intendAllowed(t, headers, set)}
		return out
	}
	out.Status = &status.Status{Code: int32(codeOf(t.problem.Status)), Message: t.problem.Code}
	if t.challenge != "" {
		headers = append(headers, set("www-authenticate", t.challenge))
	}
	if t.problem.Status == 503 {
		headers = append(headers, set("retry-after", "2"))
	}
	headers = append(headers, set("cache-control", "no-store"), set("x-request-id", t.requestID), set("content-type", "application/problem+json"))
	out.HttpResponse = &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
		Status: &typev3.HttpStatus{Code: typev3.StatusCode(t.problem.Status)}, Headers: headers, Body: string(gate.AppendProblem(nil, *t.problem)),
	}}
	return out
}

func intendKey(d *verify.Decision, fields map[string]any) {
	fields["key_id"], fields["organization"] = d.Key.String(), string(d.Org)
	if d.Kind == events.KindManagement {
		fields["kind"] = "management"
	}
	if d.Profile != nil && !d.Profile.Gone {
		fields["profile"] = string(d.Profile.ID)
	}
	if validName(d.Permission) {
		fields["permission"] = d.Permission
	}
	if d.Permissions.Level != "" {
		fields["level"] = string(d.Permissions.Level)
	}
	if joined := strings.Join(d.Permissions.Grants, ","); joined != "" && len(joined) <= maxGrants {
		var list []any
		for _, g := range d.Permissions.Grants {
			list = append(list, g)
		}
		fields["grants"] = list
	}
	if d.ScopeChecked {
		fields["scope_checked"] = true
	}
	if !d.ExpiresAt.IsZero() {
		fields["expires_at"] = d.ExpiresAt.Std().Format(time.RFC3339Nano)
	}
}

func intendAllowed(t *told, headers []*corev3.HeaderValueOption, set func(string, string) *corev3.HeaderValueOption) *authv3.OkHttpResponse {
	d := t.d
	grants := string(d.Permissions.Level)
	if joined := strings.Join(d.Permissions.Grants, ","); d.Permissions.Level == events.LevelRestricted && len(joined) <= maxGrants {
		grants = joined
	}
	checked := "false"
	if d.ScopeChecked {
		checked = "true"
	}
	headers = append(headers, set("x-keyledger-permissions", grants), set("x-keyledger-scope-checked", checked))
	if d.Profile != nil && !d.Profile.Gone {
		headers = append(headers, set("x-keyledger-profile", string(d.Profile.ID)))
	}
	out := &authv3.OkHttpResponse{Headers: headers}
	isSet := func(name string) bool {
		return slices.ContainsFunc(headers, func(h *corev3.HeaderValueOption) bool { return strings.EqualFold(h.Header.Key, name) })
	}
	names := []string{"x-keyledger-stale", "x-keyledger-asked", "x-keyledger-key-id", "x-keyledger-organization", "x-keyledger-permission", "x-keyledger-profile", "x-keyledger-workspace"}
	for _, name := range names {
		if !isSet(name) {
			out.HeadersToRemove = append(out.HeadersToRemove, name)
		}
	}
	for _, name := range t.claimed {
		if !isSet(name) && !slices.Contains(names, strings.ToLower(name)) {
			out.HeadersToRemove = append(out.HeadersToRemove, name)
		}
	}
	return out
}

// decided draws a verdict.
func decided(t *rapid.T) *verify.Decision {
	permission := rapid.SampledFrom([]string{"", "interview:read", "a b", "interview:read AND x:y", "(empty)"})
	d := &verify.Decision{
		Code: rapid.SampledFrom(events.Codes[:]).Draw(t, "code"), Permission: permission.Draw(t, "permission"),
		Stale: rapid.Bool().Draw(t, "stale"), Asked: rapid.Bool().Draw(t, "asked"), ScopeChecked: rapid.Bool().Draw(t, "checked"),
		Staleness: time.Duration(rapid.Int64Min(0).Draw(t, "staleness")),
	}
	if rapid.Bool().Draw(t, "a key") {
		copy(d.Key[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		d.Org, d.Kind = events.OrgID(rapid.StringMatching(`[a-z0-9][a-z0-9-]{0,62}`).Draw(t, "org")), rapid.SampledFrom([]events.KeyKind{events.KindAPI, events.KindManagement}).Draw(t, "kind")
		d.Permissions.Level = rapid.SampledFrom([]events.Level{events.LevelAll, events.LevelReadOnly, events.LevelRestricted}).Draw(t, "level")
		if d.Permissions.Level == events.LevelRestricted {
			d.Permissions.Grants = rapid.SliceOfN(rapid.StringMatching(`[a-z]{1,30}:[a-z]{1,30}`), 0, 70).Draw(t, "grants")
		}
		if rapid.Bool().Draw(t, "expires") {
			d.ExpiresAt = events.Time(rapid.Int64Range(1, 4e15).Draw(t, "at"))
		}
		if rapid.Bool().Draw(t, "profile") {
			d.Profile = &verify.Profile{ID: "strict", Gone: rapid.Bool().Draw(t, "gone")}
		}
	}
	return d
}

// Whatever the verdict, what is written by hand is what the generated types would
// say, and nothing that they do not know.
func TestWritesWhatTheGeneratedTypesSay(t *testing.T) {
	authorize := newGate(t)
	rapid.Check(t, func(t *rapid.T) {
		told := &told{
			requestID: rapid.StringMatching(`[!#-~]{1,40}`).Draw(t, "request"), position: authorize.Position(0),
			claimed: rapid.SliceOf(rapid.SampledFrom([]string{"x-keyledger-code", "X-Keyledger-Profile", "x-keyledger-evil", "x-keyledger-", "x-keyledger-workspace"})).Draw(t, "claimed"),
		}
		if rapid.Bool().Draw(t, "a verdict") {
			told.d = decided(t)
			if !told.d.Valid() {
				told.deny()
			}
		} else {
			told.refuse(rapid.SampledFrom([]error{errNoKey, errStray, gate.ErrInternal}).Draw(t, "refusal"))
		}
		var w writer
		w.write(told)
		var got authv3.CheckResponse
		if err := proto.Unmarshal(w.b, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(intended(told), &got, protocmp.Transform()); diff != "" {
			t.Fatalf("-intended +written:\n%s", diff)
		}
		if body := got.GetDeniedResponse().GetBody(); body != "" && !json.Valid([]byte(body)) {
			t.Fatalf("no JSON: %s", body)
		}
		if told.d != nil {
			saysThoseOf(t, authorize, told, &got)
		}
		allowed := got.GetStatus().GetCode() == 0
		if allowed != (told.problem == nil) || allowed != (got.GetOkResponse() != nil) || allowed == (got.GetDeniedResponse() != nil) {
			t.Fatalf("lets pass %v what it should not, or the other way round", allowed)
		}
	})
}

// saysThoseOf fails when /v1/authorize would answer a verdict with another status,
// another body, or a header that is missing here or differs.
func saysThoseOf(t *rapid.T, authorize *gate.Gate, told *told, got *authv3.CheckResponse) {
	t.Helper()
	want := headers{}
	status, problem := authorize.Reply(told.d, false, told.requestID, want)
	here, body := got.GetOkResponse().GetHeaders(), ""
	if problem != nil {
		here, body = got.GetDeniedResponse().GetHeaders(), string(gate.AppendProblem(nil, *problem))
		if int(got.GetDeniedResponse().GetStatus().GetCode()) != status || got.GetDeniedResponse().GetBody() != body {
			t.Fatalf("%v, and %d %s by HTTP", got, status, body)
		}
	} else {
		// That is for what is between a gateway and this door.
		delete(want, "cache-control")
	}
	for _, h := range here {
		if by, ok := want[h.Header.Key]; ok && by != h.Header.Value {
			t.Fatalf("%s is %q, and %q by HTTP", h.Header.Key, h.Header.Value, by)
		}
		delete(want, h.Header.Key)
	}
	if len(want) > 0 {
		t.Fatalf("by HTTP there are %v, too", want)
	}
}

type headers map[string]string

func (h headers) Set(name, value string) { h[strings.ToLower(name)] = value }

// nobody gives no verdict.
type nobody struct{}

func (nobody) Check(*verify.Question) error { return nil }

func (nobody) Verify(context.Context, *verify.Question) verify.Decision { return verify.Decision{} }

func newGate(t *testing.T) *gate.Gate {
	t.Helper()
	metrics, err := gate.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	g, err := gate.New(gate.Config{Verifier: nobody{}, Positions: func() events.Positions { return events.Positions{Ledger: events.LedgerID{1}, Epoch: 1} }, Metrics: metrics})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// Reading a question and writing an answer leave nothing to clean up.
func TestNoAllocations(t *testing.T) {
	message, err := proto.Marshal(&authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Id: "7", Method: "GET", Path: "/a?b", Size: -1, Headers: map[string]string{"authorization": "Bearer x", "user-agent": "y", "accept": "*/*"},
		}},
		ContextExtensions: map[string]string{"permission": "a:b", "workspace": "c"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	d := verify.Decision{
		Code: events.CodeValid, Key: events.KeyID{1}, Org: "acme", Kind: events.KindAPI, Permission: "interview:read", ScopeChecked: true, ExpiresAt: 1,
		Profile: &verify.Profile{ID: "strict"}, Permissions: events.Permissions{Level: events.LevelRestricted, Grants: []string{"interview:read", "interview:start"}},
	}
	told := told{d: &d, position: "p0", requestID: "r"}
	var a asked
	w := writer{make([]byte, 0, answerBytes)}
	if n := testing.AllocsPerRun(100, func() {
		a.forget()
		if !a.fast(message) {
			t.Fatal("left to the generated types")
		}
		w.b = w.b[:0]
		w.write(&told)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
