package products

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// service is the interview platform's own API. It knows nothing of keys: before it
// does anything, it asks a server about the request as it came.
type service struct {
	t   *testing.T
	url string
}

// newService starts one that asks a server. Each endpoint says which permission
// opens it; inside, if there is one, is called by a request that was let in.
func newService(t *testing.T, authority *server, inside func()) service {
	t.Helper()
	mux := http.NewServeMux()
	for _, p := range catalog["permissions"].([]obj) {
		for _, route := range p["routes"].([]string) {
			mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) {
				if inside != nil {
					inside()
				}
				_, _ = io.WriteString(w, p["name"].(string))
			})
		}
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ask, err := http.NewRequestWithContext(r.Context(), r.Method, authority.url+"/v1/authorize", nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		ask.Header.Set("X-Forwarded-Method", r.Method)
		ask.Header.Set("X-Forwarded-Uri", r.URL.RequestURI())
		for _, name := range []string{"Authorization", "X-Api-Key"} {
			if v := r.Header.Get(name); v != "" {
				ask.Header.Set(name, v)
			}
		}
		verdict, err := http.DefaultClient.Do(ask)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		verdict.Body.Close()
		if verdict.StatusCode != http.StatusOK {
			w.Header().Set("WWW-Authenticate", verdict.Header.Get("WWW-Authenticate"))
			http.Error(w, verdict.Header.Get("X-Keyledger-Code"), verdict.StatusCode)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return service{t: t, url: s.URL}
}

// request asks the service for something with a key, and returns the status and
// what it said.
func (s service) request(secret, method, path string) (int, string, error) {
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, nil)
	if err != nil {
		return 0, "", err
	}
	if secret != "" {
		req.Header.Set("Authorization", "Bearer "+secret)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, strings.TrimSpace(string(body)), err
}

// answers expects a status of the service, and what it says.
func (s service) answers(status int, said, secret, method, path string) {
	s.t.Helper()
	got, text, err := s.request(secret, method, path)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	if got != status || text != said {
		s.t.Errorf("%s %s: %d %s, want %d %s", method, path, got, text, status, said)
	}
}
