package gateways

import (
	"strings"
	"testing"
)

// keepsPromises shows what every gateway does.
func keepsPromises(t *testing.T, w *world, g *gateway) {
	t.Run("allowed", func(t *testing.T) { allowed(t, w, g) })
	t.Run("denied", func(t *testing.T) { denied(t, w, g) })
	t.Run("revoked", func(t *testing.T) { revoked(t, w, g) })
}

// What a key may do arrives, with who it was, and without the key.
func allowed(t *testing.T, w *world, g *gateway) {
	for _, c := range []struct {
		by holder
		request
	}{
		{w.reader, get(w.reader)},
		{w.reader, request{method: "GET", target: "/api/v1/interviews/7?a=1&permission=no:such", headers: []string{"X-Api-Key: " + w.reader.secret}}},
		{w.everything, request{method: "POST", target: "/api/v1/interviews/start", body: `{"candidate":7}`, headers: []string{"Authorization: Bearer " + w.everything.secret, "Content-Type: application/json"}}},
	} {
		res, saw := w.send(t, g, c.request)
		if res.status != 200 || len(saw) != 1 {
			t.Fatalf("%s %s: %s, and %d arrived", c.method, c.target, res, len(saw))
		}
		a := saw[0]
		if a.method != c.method || a.target != c.target || a.host != site || a.body != c.body {
			t.Errorf("%+v arrived as %+v", c.request, a)
		}
		if a.header.Get("X-Keyledger-Organization") != organization || a.header.Get("X-Keyledger-Key-Id") != c.by.id {
			t.Errorf("the application is not told who it is: %v", a.header)
		}
		for name, values := range a.header {
			if strings.Contains(strings.Join(values, ","), c.by.secret) {
				t.Errorf("the application is given the key, in %s", name)
			}
		}
	}
}

// What a key may not do does not arrive.
func denied(t *testing.T, w *world, g *gateway) {
	unknown := holder{secret: "kl_live_" + strings.Repeat("x", 43)}
	for name, c := range map[string]struct {
		request
		want      int
		challenge string
	}{
		"no key":             {request{method: "GET", target: "/api/v1/interviews/7"}, 401, "Bearer"},
		"an unknown key":     {get(unknown), 401, "Bearer"},
		"no permission":      {get(w.reader).with("POST", "/api/v1/interviews/start"), 403, ""},
		"no route":           {get(w.everything).with("GET", "/api/v1/secrets"), 403, ""},
		"a management key":   {get(w.manager), 403, ""},
		"another method":     {get(w.reader).with("DELETE", "/api/v1/interviews/7"), 403, ""},
		"the question's URL": {get(w.everything).with("GET", "/_keyledger"), 404, ""},
	} {
		res, saw := w.send(t, g, c.request)
		if res.status != c.want || len(saw) != 0 {
			t.Errorf("%s: %s, and %d arrived; want %d", name, res, len(saw), c.want)
		}
		if !strings.HasPrefix(res.header.Get("Www-Authenticate"), c.challenge) {
			t.Errorf("%s: the challenge is %q", name, res.header.Get("Www-Authenticate"))
		}
	}
}

// A revoked key is refused, on a connection too that was let pass before.
func revoked(t *testing.T, w *world, g *gateway) {
	h := w.key(t, obj{"permissions": []string{"interview:read"}})
	c := dial(t, g.address)
	if res, saw := w.sendOn(t, c, get(h)); res.status != 200 || len(saw) != 1 {
		t.Fatalf("before: %s", res)
	}
	w.revoke(t, h)
	if res, saw := w.sendOn(t, c, get(h)); res.status != 401 || len(saw) != 0 {
		t.Fatalf("after: %s, and %d arrived", res, len(saw))
	}
}
