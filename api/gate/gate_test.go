package gate

import (
	"context"
	"math"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/index"
	"github.com/keyledger/keyledger/verify"
)

// saying is a verifier that has said what it says.
type saying verify.Decision

func (saying) Check(*verify.Question) error { return nil }

func (s saying) Verify(context.Context, *verify.Question) verify.Decision { return verify.Decision(s) }

// full is a decision with everything that one can have.
func full(t testing.TB) verify.Decision {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return verify.Decision{
		Code: events.CodeValid, Key: events.KeyID(id), Org: "acme", Kind: events.KindAPI,
		Profile:     &index.Profile{ID: "gold", Name: events.Text{Clear: "G\"ö\x01ld"}, Settings: events.Document(`{"rate":5}`)},
		Permissions: events.Permissions{Level: events.LevelRestricted, Grants: []string{"interview:read", "report:*"}},
		Scope:       events.Scope{Workspaces: []events.WorkspaceID{"hiring", "support"}},
		ExpiresAt:   events.TimeOf(time.Date(2027, 2, 3, 4, 5, 6, 0, time.UTC)), Permission: "interview:read",
		ScopeChecked: true, Position: 7, Staleness: 1500 * time.Millisecond,
	}
}

// set collects headers.
type set map[string]string

func (s set) Set(name, value string) { s[name] = value }

// Nobody passes with a code that denies, nor with one that is to come, whichever way
// a door asks.
//
// Breaking it: with 200 in the place of 503 where nothing else is known.
func TestEveryCodeButValidDenies(t *testing.T) {
	for code := range events.Code(40) {
		for _, fold := range []bool{false, true} {
			d := full(t)
			d.Code = code
			g, h := testGate(t, Config{Verifier: saying(d)}), set{}
			status, p := g.Reply(&d, fold, "req-1", h)
			if (status == 200) != (code == events.CodeValid) || (p == nil) != (status == 200) || h["X-Keyledger-Code"] != code.String() {
				t.Fatalf("%s: %d %v", code, status, h)
			}
			if p == nil {
				continue
			}
			if p.Status != status || fold && status != 401 && status != 403 || (h["Www-Authenticate"] == "") != (Denied(code).Status == 503) || (h["Retry-After"] == "") != (status != 503) {
				t.Errorf("%s: %+v %v", code, p, h)
			}
		}
		d := full(t)
		d.Code = code
		g := testGate(t, Config{Verifier: saying(d)})
		body, err := g.Introspect(t.Context(), &verify.Question{}, nil)
		switch code {
		case events.CodeValid:
			if err != nil || !strings.HasPrefix(string(body), `{"active":true,`) {
				t.Errorf("%s: %s, %v", code, body, err)
			}
		case events.CodeStale, events.CodeUnavailable:
			if p := Problems().Problem(err, ""); p.Status != 503 || len(body) != 0 {
				t.Errorf("%s: %s, %v", code, body, err)
			}
		default:
			if err != nil || string(body) != Inactive {
				t.Errorf("%s: %s, %v", code, body, err)
			}
		}
	}
}

// What is written by hand is what the document describes, and nothing else.
func TestWrittenByHand(t *testing.T) {
	d := full(t)
	plain := d
	plain.Profile, plain.ExpiresAt, plain.Scope, plain.Permissions = nil, 0, events.Scope{AllWorkspaces: true}, events.Permissions{Level: events.LevelAll}
	odd := d
	odd.Stale, odd.Asked, odd.Staleness, odd.Kind, odd.Role = true, true, math.MaxInt64, events.KindManagement, events.RoleVerifier
	for name, d := range map[string]verify.Decision{"full": d, "plain": plain, "odd": odd, "nothing": {Code: events.CodeNotFound}} {
		g := testGate(t, Config{Verifier: saying(d), Effective: func(org events.OrgID, p events.Permissions) []string { return []string{"a:b", "a:c"} }})
		var v wire.Verdict
		if err := json.Unmarshal(g.AppendVerdict(nil, &d), &v, json.RejectUnknownMembers(true)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if v.Valid != d.Valid() || v.Code != d.Code.String() || v.Stale != d.Stale || v.Asked != d.Asked || (v.Profile == nil) != (d.Profile == nil) || (v.ExpiresAt == "") != d.ExpiresAt.IsZero() {
			t.Errorf("%s: %+v", name, v)
		}
		if !d.Valid() {
			continue
		}
		body, err := g.Introspect(t.Context(), &verify.Question{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var i wire.Introspection
		if err := json.Unmarshal(body, &i, json.RejectUnknownMembers(true)); err != nil {
			t.Errorf("%s: %s: %v", name, body, err)
		}
		if !i.Active || i.Sub != d.Key.String() || i.Keyledger.KeyID != i.Sub || *i.Scope != "a:b a:c" || (i.Exp == 0) != d.ExpiresAt.IsZero() {
			t.Errorf("%s: %s", name, body)
		}
	}
	// Without a catalog only what a key lists is known to be its scope.
	for scope, d := range map[string]verify.Decision{`"scope":"interview:read report:*"`: d, `"client_id"`: plain} {
		body, err := testGate(t, Config{Verifier: saying(d)}).Introspect(t.Context(), &verify.Question{}, nil)
		if err != nil || !strings.HasPrefix(string(body), `{"active":true,`+scope) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// Doors that share a registry share the histogram.
func TestMetricsAreShared(t *testing.T) {
	r := prometheus.NewRegistry()
	for range 2 {
		if _, err := NewMetrics(r); err != nil {
			t.Fatal(err)
		}
	}
	other := prometheus.NewRegistry()
	other.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "keyledger_verify_duration_seconds", Help: "Time a verdict took, by its code and the path it was asked on."}))
	if _, err := NewMetrics(other); err == nil {
		t.Error("a metric of another kind was taken")
	}
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := New(Config{}); err == nil || strings.Count(err.Error(), "is needed") != 3 {
		t.Errorf("%v", err)
	}
}

// FuzzForm holds the form to what RFC 6749 says of parameters, and its refusals to
// telling nothing.
func FuzzForm(f *testing.F) {
	secret, err := keystring.New("kl_live", [24]byte{7})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{"token=x", "token=" + secret.Reveal(), "token=x&token=y", "token=%zz", "a;b=c", "token=x&permission=", "token=x&permission=" + secret.Reveal(), secret.Reveal() + "=1&" + secret.Reveal() + "=2"} {
		f.Add(TypeForm, []byte(seed))
	}
	f.Add("application/x-www-form-urlencoded; charset=UTF-8", []byte("token=x"))
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		form, err := ReadForm(kind, "", body)
		if err != nil {
			if p := Problems().Problem(err, ""); p.Status != 400 && p.Status != 415 || keystring.Contains(p.Detail+p.Field) {
				t.Fatalf("%+v", p)
			}
			return
		}
		values, err := url.ParseQuery(string(body))
		if err != nil || len(values["token"]) != 1 || form.Token != values["token"][0] || form.Token == "" {
			t.Fatalf("%q is read as %+v", body, form)
		}
		if len(values["permission"]) > 1 || values.Has("permission") != (form.Permission != "") || keystring.Contains(form.Permission+" "+form.Workspace) {
			t.Fatalf("%q is read as %+v", body, form)
		}
	})
}

// FuzzAsks sends anything as what a gateway says. A question never has less in it
// than was asked: what stands there is judged, and what disagrees is what nobody has.
func FuzzAsks(f *testing.F) {
	f.Add("permission=a:b", "a:b", "hiring", "GET", "/a?b", "192.0.2.1, 192.0.2.2")
	f.Add("permission=&workspace=x&deny=403", "", "", "", "", "")
	f.Fuzz(func(t *testing.T, query, permission, workspace, method, path, from string) {
		g := testGate(t, Config{Verifier: saying{}, RecordClientIP: true})
		r := &Request{APIKey: "x", Method: "POST", Query: query, Permission: []string{permission}, Workspace: []string{workspace}, ForwardedMethod: []string{method}, ForwardedURI: []string{path}, ForwardedFor: []string{from}}
		q, _, err := g.Asks(r)
		if err != nil {
			if p := Problems().Problem(err, ""); p.Status != 400 || keystring.Contains(p.Detail+p.Field) {
				t.Fatalf("%+v", p)
			}
			return
		}
		asked, _ := url.ParseQuery(query)
		if q.Permission == "" || q.Workspace == "" {
			t.Fatalf("%+v asks for nothing", r)
		}
		if asked.Has("permission") && asked.Get("permission") != permission && (q.Permission == permission || q.Permission == asked.Get("permission")) {
			t.Fatalf("%+v asks for %q", r, q.Permission)
		}
		if c := q.Context; keystring.Contains(c.Method+"\n"+c.Path+"\n"+c.ClientIP) || strings.Contains(c.Path, "?") || c.ClientIP != "" && AddressIn(c.ClientIP) != c.ClientIP {
			t.Fatalf("%+v is recorded", c)
		}
	})
}
