package gateways

import (
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/integration/program"
)

// What a gateway and an application may read differently does not arrive: not even
// for who may do everything, and not where the path would be one that he may take.
func paths(t *testing.T, w *world, g *gateway) {
	for _, target := range []string{
		"//api/v1/interviews/7", "/api/v1//interviews/7", "/api/v1/interviews/7/", "/api/v1/interviews//7",
		"/api/v1/interviews/./7", "/api/v1/x/../interviews/7", "/api/v1/interviews/7/..", "/api/v1/interviews/.",
		"/api/v1/interviews/%2e%2e/interviews/7", "/api/v1/interviews/.%2E/interviews/7", "/%2e/api/v1/interviews/7",
		"/api/v1/interviews%2f7", "/api/v1%2Finterviews/7", "/api/v1/interviews/..%2fsecrets", "/api/v1/interviews/..%5csecrets",
		`/api/v1/interviews/..\secrets`, `/api/v1/interviews\7`, "/api/v1/interviews/7;a=b", "/api/v1/interviews/..;/secrets",
		"/api/v1/interviews/%252e%252e", "/api/v1/interviews/a%252fb", "/api/v1/interviews/7%00", "/api/v1/interviews/7%0a",
		"/%61pi/v1/interviews/7", "/API/v1/interviews/7", "/api/v1/Interviews/7", "/api/v1/interviews/st%61rt",
		"/api/v1/interviews/7%", "/api/v1/interviews/7%zz", "/api/v1/interviews/7#/../start",
		"/reports/../api/v1/interviews/7", "/reports/..%2fapi/v1/interviews/7", "/reports/%2e%2e/api/v1/interviews/7", "/reports/..;/api/v1/interviews/7",
		"/api/v1/interviews/7/../../../../reports/7", "/api/v1/secrets/%2e%2e/%2e%2e/%2e%2e/reports/7", "/x//../reports/7", "/./reports/7", "//reports/7", `/x\..\reports\7`,
		"*", "api/v1/interviews/7", "http://evil.example.com/api/v1/interviews/7",
	} {
		name := w.next()
		r := get(w.everything).with("GET", target)
		res, err := dial(t, g.address).exchange(r.method, r.wire(name))
		if saw := w.application.saw(name); len(saw) != 0 || err == nil && res.status < 400 {
			t.Errorf("%s: %s, and %v arrived", target, res, saw)
		}
	}
	// A target with its host is the same request.
	for _, target := range []string{"http://" + site + "/api/v1/interviews/7?a=1", "http:///api/v1/interviews/7?a=1"} {
		if res, saw := w.send(t, g, get(w.reader).with("GET", target)); len(saw) == 1 {
			told(t, saw[0], w.reader)
			if a := saw[0]; !strings.HasSuffix(a.target, "/api/v1/interviews/7?a=1") || a.host != site {
				t.Errorf("%s arrived as %+v", target, a)
			}
		} else if res.status < 400 {
			t.Errorf("%s: %s, and %d arrived", target, res, len(saw))
		}
	}
	w.refused(t, g, "with its host, no permission", get(w.reader).with("POST", "http://"+site+"/api/v1/interviews/start"), 400, 403)
}

// A request for a host that the gateway does not serve reaches nothing: a gateway
// that answers it by itself would not have asked.
func hosts(t *testing.T, w *world, g *gateway) {
	for _, host := range []string{"evil.example.com", "localhost", "127.0.0.1", site + ".evil.example.com", "evil." + site, site + "@evil.example.com", site + ",evil.example.com", site + " evil.example.com", "evil.example.com:80@" + site} {
		r := get(w.everything)
		r.host = host
		w.refused(t, g, "Host: "+host, r, 400, 421)
	}
	for _, text := range []string{
		"GET /api/v1/interviews/7 HTTP/1.1\r\n%s\r\n",
		"GET /api/v1/interviews/7 HTTP/1.0\r\n%s\r\n",
		"GET /api/v1/interviews/7 HTTP/1.1\r\nHost: \r\n%s\r\n",
		"GET /api/v1/interviews/7 HTTP/1.1\r\nHost: " + site + "\r\nHost: evil.example.com\r\n%s\r\n",
		"GET /api/v1/interviews/7 HTTP/1.1\r\nHost: evil.example.com\r\nHost: " + site + "\r\n%s\r\n",
	} {
		name := w.next()
		res, err := dial(t, g.address).exchange("GET", strings.Replace(text, "%s", caseHeader+": "+name+"\r\nAuthorization: Bearer "+w.everything.secret+"\r\n", 1))
		if saw := w.application.saw(name); len(saw) != 0 || err == nil && res.status < 400 {
			t.Errorf("%q: %s, and %v arrived", text, res, saw)
		}
	}
	r := get(w.reader)
	r.host = strings.ToUpper(site)
	if res, saw := w.send(t, g, r); res.status != 200 || len(saw) != 1 {
		t.Errorf("in capitals: %s, and %d arrived", res, len(saw))
	}
}

// No request hides in the body of another: whatever the length is said to be, what
// was not judged does not arrive.
func framing(t *testing.T, w *world, g *gateway) {
	for _, head := range []string{
		"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
		"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
		"Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n",
		"Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n",
		"Transfer-Encoding:\x0bchunked\r\nContent-Length: 0\r\n\r\n",
		"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
		"Content-Length: +0\r\n\r\n", "Content-Length: 0x0\r\n\r\n", "Content-Length: -1\r\n\r\n", "Content-Length: 0,0\r\n\r\n",
		"Content-Length : 0\r\n\r\n",
		"Transfer-Encoding: chunked\r\n\r\n0;\n\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n-0\r\n\r\n",
		"Expect: 100-continue\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			hidden := w.next()
			smuggled := request{method: "POST", target: "/api/v1/interviews/start", headers: []string{"X-Keyledger-Key-Id: " + forged}}.wire(hidden)
			text := strings.TrimSuffix(get(w.everything).with("POST", "/api/v1/interviews/start").wire(w.next()), "\r\n") + head + smuggled
			c := dial(t, g.address)
			// What waits for more is given none.
			c.patience = time.Second
			_, err := c.exchange("POST", text)
			for err == nil {
				_, err = c.read("POST")
			}
			if saw := w.application.saw(hidden); len(saw) != 0 {
				t.Errorf("%q: %+v arrived", head, saw)
			}
		})
	}
}

// Each request is judged by itself, also on a connection that was let pass before,
// and in a row of requests that are sent without waiting.
func connections(t *testing.T, w *world, g *gateway) {
	allowed, nobody, other := get(w.reader), request{method: "GET", target: "/api/v1/interviews/7"}, get(w.reader).with("POST", "/api/v1/interviews/start")
	c := dial(t, g.address)
	for _, step := range []struct {
		request
		want int
	}{{allowed, 200}, {nobody, 401}, {allowed, 200}, {other, 403}, {nobody, 401}, {allowed, 200}} {
		name := w.next()
		res, err := c.exchange(step.method, step.wire(name))
		if err != nil {
			t.Fatalf("the connection was not kept: %v", err)
		}
		if arrived := len(w.application.saw(name)) == 1; res.status != step.want || arrived != (step.want == 200) {
			t.Errorf("%s %s: %s, arrived %v; want %d", step.method, step.target, res, arrived, step.want)
		}
	}
	c = dial(t, g.address)
	first, second, third := w.next(), w.next(), w.next()
	res, err := c.exchange("GET", allowed.wire(first)+nobody.wire(second)+allowed.wire(third))
	for i, want := range []int{200, 401, 200} {
		if i > 0 && err == nil {
			res, err = c.read("GET")
		}
		if err != nil || res.status != want || (want == 200) != (res.body == greeting) {
			t.Fatalf("in a row, number %d: %s, %v; want %d", i+1, res, err, want)
		}
	}
	for name, want := range map[string]int{first: 1, second: 0, third: 1} {
		if got := len(w.application.saw(name)); got != want {
			t.Errorf("in a row: %d arrived, want %d", got, want)
		}
	}
}

// A revoked key is refused, on a connection too that was let pass before.
func revoked(t *testing.T, w *world, g *gateway) {
	h := w.key(t, obj{"permissions": []string{"interview:read"}})
	c := dial(t, g.address)
	program.Until(t, "the key to be known", func() bool {
		res, saw := w.sendOn(t, c, get(h))
		return res.status == 200 && len(saw) == 1
	})
	w.revoke(t, h)
	program.Until(t, "the revocation to be known", func() bool {
		res, saw := w.sendOn(t, c, get(h))
		return res.status == 401 && len(saw) == 0
	})
	for range 20 {
		if res, saw := w.sendOn(t, c, get(h)); res.status != 401 || len(saw) != 0 || res.header.Get("X-Keyledger-Code") != "REVOKED" {
			t.Fatalf("after: %s, and %d arrived", res, len(saw))
		}
	}
}
