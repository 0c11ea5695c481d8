package gateways

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// The program is not to be had here. What stands in its place reads its
// configuration and does what its documentation says of the middlewares: it shows
// what keyledger makes of what Traefik sends, not how Traefik reads a request.

// traefikStatic is what docs/gateways/traefik/traefik.yml says.
type traefikStatic struct {
	EntryPoints map[string]struct{ Address string } `yaml:"entryPoints"`
	Providers   struct{ File struct{ Filename string } }
}

// traefikDynamic is what docs/gateways/traefik/dynamic.yml says.
type traefikDynamic struct {
	HTTP struct {
		Routers     map[string]traefikRouter
		Middlewares map[string]traefikMiddleware
		Services    map[string]struct {
			LoadBalancer struct{ Servers []struct{ URL string } } `yaml:"loadBalancer"`
		}
	}
}

type traefikRouter struct {
	Rule        string
	EntryPoints []string `yaml:"entryPoints"`
	Middlewares []string
	Service     string
}

type traefikMiddleware struct {
	ForwardAuth *traefikForwardAuth `yaml:"forwardAuth"`
	Headers     *struct {
		CustomRequestHeaders map[string]string `yaml:"customRequestHeaders"`
	}
}

type traefikForwardAuth struct {
	Address                  string
	TrustForwardHeader       bool     `yaml:"trustForwardHeader"`
	AuthRequestHeaders       []string `yaml:"authRequestHeaders"`
	AuthResponseHeadersRegex string   `yaml:"authResponseHeadersRegex"`
}

// traefik stands in for Traefik before an application, asking at an address.
func traefik(t testing.TB, ask, application string) *gateway {
	t.Helper()
	dir := configure(t, "traefik", put{"127.0.0.1:8081", ask}, put{"127.0.0.1:3000", application})
	var static traefikStatic
	var dynamic traefikDynamic
	for name, into := range map[string]any{"traefik.yml": &static, "dynamic.yml": &dynamic} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		strict := yaml.NewDecoder(bytes.NewReader(text))
		strict.KnownFields(true)
		if err := strict.Decode(into); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	for name, r := range dynamic.HTTP.Routers {
		for _, point := range r.EntryPoints {
			if static.EntryPoints[point].Address == "" {
				t.Fatalf("router %s: there is no entry point %s", name, point)
			}
		}
	}
	if filepath.Base(static.Providers.File.Filename) != "dynamic.yml" {
		t.Fatalf("traefik.yml reads %s", static.Providers.File.Filename)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { dynamic.serve(w, r) }))
	t.Cleanup(server.Close)
	return &gateway{address: server.Listener.Addr().String(), stale: 503, down: []int{500}, standIn: true, patient: true}
}

// traefikRule finds the matchers of a rule that are used here.
var traefikRule = regexp.MustCompile("(Host|PathPrefix)\\(`([^`]*)`\\)")

// route is the router with the longest rule that matches.
func (c *traefikDynamic) route(r *http.Request) (found traefikRouter, ok bool) {
	for _, router := range c.HTTP.Routers {
		matches := true
		for _, m := range traefikRule.FindAllStringSubmatch(router.Rule, -1) {
			if m[1] == "Host" {
				matches = matches && strings.EqualFold(r.Host, m[2])
			} else {
				matches = matches && strings.HasPrefix(r.URL.Path, m[2])
			}
		}
		if matches && len(router.Rule) > len(found.Rule) {
			found, ok = router, true
		}
	}
	return found, ok
}

func (c *traefikDynamic) serve(w http.ResponseWriter, r *http.Request) {
	router, ok := c.route(r)
	if !ok {
		http.NotFound(w, r)
		return
	}
	// An entry point believes nobody's forwarded headers.
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Forwarded-") || name == "X-Real-Ip" {
			r.Header.Del(name)
		}
	}
	for _, name := range router.Middlewares {
		m := c.HTTP.Middlewares[name]
		if m.ForwardAuth == nil && m.Headers == nil {
			http.Error(w, "there is no middleware "+name, http.StatusInternalServerError)
			return
		}
		if m.ForwardAuth != nil && !m.ForwardAuth.pass(w, r) {
			return
		}
		if m.Headers != nil {
			for header, value := range m.Headers.CustomRequestHeaders {
				if value == "" {
					r.Header.Del(header)
				} else {
					r.Header.Set(header, value)
				}
			}
		}
	}
	target, err := url.Parse(c.HTTP.Services[router.Service].LoadBalancer.Servers[0].URL)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(target)
		p.Out.Host = p.In.Host
		p.SetXForwarded()
	}}).ServeHTTP(w, r)
}

// pass asks, and puts the verdict's headers on the request or answers it.
func (f *traefikForwardAuth) pass(w http.ResponseWriter, r *http.Request) bool {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, f.Address, nil)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return false
	}
	for _, name := range f.AuthRequestHeaders {
		if values := r.Header.Values(name); len(values) > 0 {
			req.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	client, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil || f.TrustForwardHeader {
		w.WriteHeader(http.StatusInternalServerError)
		return false
	}
	for name, value := range map[string]string{"Method": r.Method, "Proto": "http", "Host": r.Host, "Uri": r.URL.RequestURI(), "For": client} {
		req.Header.Set("X-Forwarded-"+name, value)
	}
	asker := http.Client{Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := asker.Do(req)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return false
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		for name, values := range res.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(res.StatusCode)
		_, _ = io.Copy(w, res.Body)
		return false
	}
	ours := regexp.MustCompile(f.AuthResponseHeadersRegex)
	for name := range r.Header {
		if ours.MatchString(name) {
			r.Header.Del(name)
			delete(r.Header, name)
		}
	}
	for name, values := range res.Header {
		if ours.MatchString(name) {
			r.Header[name] = values
		}
	}
	return true
}
