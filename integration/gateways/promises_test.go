package gateways

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// promises are what every gateway keeps while keyledger answers. Some are kept by the
// program alone, and say nothing of what stands in for it.
var promises = []struct {
	name    string
	program bool
	shown   func(*testing.T, *world, *gateway)
}{
	{"allowed", false, allowed},
	{"denied", false, denied},
	{"fixed question", false, fixedQuestion},
	{"spoofed question", false, spoofedQuestion},
	{"spoofed identity", false, spoofedIdentity},
	{"dropped identity", true, droppedIdentity},
	{"paths", true, paths},
	{"hosts", true, hosts},
	{"framing", true, framing},
	{"connections", false, connections},
	{"revoked", false, revoked},
}

// What a key may do arrives, with who it was, and without the key.
func allowed(t *testing.T, w *world, g *gateway) {
	for _, c := range []struct {
		by holder
		request
	}{
		{w.reader, get(w.reader)},
		{w.reader, get(w.reader).with("HEAD", "/api/v1/interviews/7")},
		{w.reader, request{method: "GET", target: "/api/v1/interviews/7?a=1&b=%2f..%2f", headers: []string{"X-Api-Key: " + w.reader.secret}}},
		{w.everything, request{method: "POST", target: "/api/v1/interviews/start", body: strings.Repeat("candidate ", 30_000), headers: []string{"Authorization: Bearer " + w.everything.secret}}},
		{w.everything, get(w.everything).with("GET", "/api/v1/interviews/a%20b")},
	} {
		res, saw := w.send(t, g, c.request)
		if res.status != 200 || len(saw) != 1 {
			t.Fatalf("%s %s: %s, and %d arrived", c.method, c.target, res, len(saw))
		}
		a := saw[0]
		if a.method != c.method || a.target != c.target || a.host != site || a.body != c.body {
			t.Errorf("%s %s arrived as %s %s for %s, with %d bytes of %d", c.method, c.target, a.method, a.target, a.host, len(a.body), len(c.body))
		}
		told(t, a, c.by)
	}
	res, saw := w.send(t, g, get(w.reader))
	if res.status != 200 || len(saw) != 1 || saw[0].header.Get("X-Keyledger-Profile") != "fast" || saw[0].header.Get("X-Keyledger-Permission") != "interview:read" {
		t.Errorf("the application is not told all of the verdict: %s, %v", res, saw)
	}
}

// told expects that the application was told who asks, and not with which key.
func told(t *testing.T, a arrival, by holder) {
	t.Helper()
	for name, want := range map[string]string{"X-Keyledger-Key-Id": by.id, "X-Keyledger-Organization": organization, "X-Keyledger-Code": "VALID"} {
		if got := a.header.Values(name); !slices.Equal(got, []string{want}) {
			t.Errorf("the application is told %q as %s, want %s", got, name, want)
		}
	}
	for name, values := range a.header {
		if strings.Contains(strings.Join(values, ","), by.secret) {
			t.Errorf("the application is given the key, in %s", name)
		}
	}
}

// refused expects a status, and that nothing arrived.
func (w *world) refused(t *testing.T, g *gateway, what string, r request, want ...int) response {
	t.Helper()
	res, saw := w.send(t, g, r)
	if !slices.Contains(want, res.status) || len(saw) != 0 {
		t.Errorf("%s: %s, and %d arrived; want %d", what, res, len(saw), want)
	}
	return res
}

// What a key may not do does not arrive.
func denied(t *testing.T, w *world, g *gateway) {
	unknown := holder{secret: "kl_live_" + strings.Repeat("x", 43)}
	for _, c := range []struct {
		what string
		request
		want int
		code string
	}{
		{"no key", request{method: "GET", target: "/api/v1/interviews/7"}, 401, ""},
		{"an empty key", request{method: "GET", target: "/api/v1/interviews/7", headers: []string{"Authorization: Bearer "}}, 401, ""},
		{"no key of ours", get(unknown), 401, "MALFORMED"},
		{"a key that is switched off", get(w.inactive), 401, "INACTIVE"},
		{"no permission", get(w.reader).with("POST", "/api/v1/interviews/start"), 403, "INSUFFICIENT_PERMISSIONS"},
		{"no route", get(w.everything).with("GET", "/api/v1/secrets"), 403, "INSUFFICIENT_PERMISSIONS"},
		{"another method", get(w.reader).with("DELETE", "/api/v1/interviews/7"), 403, "INSUFFICIENT_PERMISSIONS"},
		{"a management key", get(w.manager), 403, "INSUFFICIENT_PERMISSIONS"},
	} {
		res := w.refused(t, g, c.what, c.request, c.want)
		if challenge := res.header.Get("Www-Authenticate"); c.want == 401 && !strings.HasPrefix(challenge, "Bearer ") {
			t.Errorf("%s: the challenge is %q", c.what, challenge)
		}
		if code := res.header.Get("X-Keyledger-Code"); code != c.code {
			t.Errorf("%s: the code is %q, want %q", c.what, code, c.code)
		}
	}
}

// The gateway may fix the permission and the workspace by itself.
func fixedQuestion(t *testing.T, w *world, g *gateway) {
	if res, saw := w.send(t, g, get(w.reporter).with("GET", "/reports/7?x=1")); res.status != 200 || len(saw) != 1 {
		t.Errorf("the reporter: %s, and %d arrived", res, len(saw))
	} else {
		told(t, saw[0], w.reporter)
		if a := saw[0]; a.target != "/reports/7?x=1" || a.header.Get("X-Keyledger-Scope-Checked") != "true" {
			t.Errorf("it arrived as %+v", a)
		}
	}
	w.refused(t, g, "another permission", get(w.reader).with("GET", "/reports/7"), 403)
	w.refused(t, g, "another workspace", get(w.outsider).with("GET", "/reports/7"), 403)
	w.refused(t, g, "no key", request{method: "GET", target: "/reports/7"}, 401)
}

// What is asked is not the client's to say, in no header and in no query.
func spoofedQuestion(t *testing.T, w *world, g *gateway) {
	for _, spoof := range [][]string{
		{"X-Keyledger-Permission: interview:read"},
		{"X-Keyledger-Workspace: hiring"},
		{"X_Keyledger_Permission: interview:read"},
		{"X-Forwarded-Method: GET", "X-Forwarded-Uri: /api/v1/interviews/7"},
		{"X-Original-Method: GET", "X-Original-Uri: /api/v1/interviews/7", "X-Original-URL: /api/v1/interviews/7"},
		{"X-Forwarded-Uri: /api/v1/interviews/7", "X-Original-Uri: /api/v1/interviews/7", "X-HTTP-Method-Override: GET"},
		{"Connection: X-Forwarded-Uri, X-Forwarded-Method, X-Keyledger-Permission", "X-Keyledger-Permission: interview:read"},
	} {
		w.refused(t, g, fmt.Sprint("POST with ", spoof), get(w.reader, spoof...).with("POST", "/api/v1/interviews/start"), 403)
		w.refused(t, g, fmt.Sprint("a report with ", spoof), get(w.outsider, spoof...).with("GET", "/reports/7"), 403)
		w.refused(t, g, fmt.Sprint("no key, with ", spoof), request{method: "GET", target: "/api/v1/interviews/7", headers: spoof}, 401)
	}
	for _, query := range []string{"permission=interview:read", "permission=interview%3Aread&workspace=hiring", "deny=403&permission=interview:read", "x=1?permission=interview:read"} {
		w.refused(t, g, "POST with ?"+query, get(w.reader).with("POST", "/api/v1/interviews/start?"+query), 403)
		w.refused(t, g, "a report with ?"+query, get(w.reader).with("GET", "/reports/7?"+query), 403)
	}
	// Nor do they get in the way of what is allowed.
	for _, spoof := range []string{"X-Keyledger-Permission: no:such", "X-Forwarded-Uri: /nowhere", "X-Original-Method: DELETE"} {
		if res, saw := w.send(t, g, get(w.reader, spoof)); res.status != 200 || len(saw) != 1 {
			t.Errorf("with %s: %s, and %d arrived", spoof, res, len(saw))
		}
	}
}

// forged is who a client says that it is.
const forged = "forged"

// The application is told who asks by keyledger alone.
func spoofedIdentity(t *testing.T, w *world, g *gateway) {
	var spoof []string
	for _, name := range []string{
		"X-Keyledger-Key-Id", "X-Keyledger-Organization", "X-Keyledger-Profile", "X-Keyledger-Permission", "X-Keyledger-Permissions",
		"X-Keyledger-Scope-Checked", "X-Keyledger-Position", "X-Keyledger-Code", "X-Keyledger-Workspace",
		"x-keyledger-key-id", "X-KEYLEDGER-ORGANIZATION", "X_Keyledger_Key_Id", "X_KEYLEDGER-ORGANIZATION", "X-Keyledger_Profile",
		"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Forwarded", "X-Original-Uri",
	} {
		spoof = append(spoof, name+": "+forged)
	}
	if !g.standIn {
		spoof = append(spoof, "X.Keyledger.Key.Id: "+forged, "X-Keyledger.Organization: "+forged)
	}
	for _, by := range []holder{w.reader, w.everything} {
		res, saw := w.send(t, g, get(by, spoof...))
		if res.status != 200 || len(saw) != 1 {
			t.Fatalf("%s, and %d arrived", res, len(saw))
		}
		told(t, saw[0], by)
		for name, values := range saw[0].header {
			if strings.Contains(strings.Join(values, ","), forged) {
				t.Errorf("the application is told %q as %s", values, name)
			}
		}
	}
	for _, text := range []string{"X-Keyledger-Key-Id : " + forged, " X-Keyledger-Key-Id: " + forged, "X-Case: 1\r\n X-Keyledger-Key-Id: " + forged, "X-A: 1\rX-Keyledger-Key-Id: " + forged, "X-A: 1\nX-Keyledger-Key-Id: " + forged, "X-Keyledger-Key-Id\x00: " + forged, "X-Keyledger-Key-Id\t: " + forged} {
		name := w.next()
		res, err := dial(t, g.address).exchange("GET", get(w.reader, text).wire(name))
		for _, a := range w.application.saw(name) {
			told(t, a, w.reader)
			if slices.Contains(a.header.Values("X-Keyledger-Key-Id"), forged) {
				t.Errorf("%q: %s, %v; it arrived as %v", text, res, err, a.header)
			}
		}
	}
}

// What the client names in Connection does not take away what the application is
// told.
func droppedIdentity(t *testing.T, w *world, g *gateway) {
	for _, connection := range []string{"close, X-Keyledger-Key-Id, X-Keyledger-Organization, X-Keyledger-Code", "X-Keyledger-Key-Id", "Upgrade, X-Keyledger-Key-Id", "keep-alive, Authorization, X-Api-Key"} {
		for _, more := range [][]string{nil, {"Upgrade: websocket"}, {"Connection: X-Keyledger-Organization"}} {
			res, saw := w.send(t, g, get(w.reader, append(more, "Connection: "+connection)...))
			switch {
			case len(saw) == 1 && res.status == 200:
				told(t, saw[0], w.reader)
			case len(saw) != 0 || res.status < 400:
				t.Errorf("Connection: %s: %s, and %d arrived", connection, res, len(saw))
			}
		}
	}
}
