package gateways

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// caseHeader names the request of a test, for the application to be asked about.
const caseHeader = "X-Case"

// greeting is what the application answers.
const greeting = "hello from the application"

// arrival is a request as the application saw it.
type arrival struct {
	method, target, host, body string
	header                     http.Header
}

// application is what stands behind the gateways. It answers everything, and
// remembers it.
type application struct {
	address string

	mu       sync.Mutex
	arrivals map[string][]arrival
}

func newApplication(t testing.TB) *application {
	t.Helper()
	a := &application{arrivals: make(map[string][]arrival)}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	a.address = server.Listener.Addr().String()
	return a
}

// ServeHTTP answers 200.
func (a *application) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "the body broke off", http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	name := r.Header.Get(caseHeader)
	a.arrivals[name] = append(a.arrivals[name], arrival{r.Method, r.RequestURI, r.Host, string(body), r.Header})
	_, _ = io.WriteString(w, greeting)
}

// saw returns what arrived of a case.
func (a *application) saw(name string) []arrival {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.arrivals[name]
}
