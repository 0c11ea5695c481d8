package api

import (
	"net/http"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/keystring"
)

// livez says that the process answers, and nothing else: whoever restarts it on
// this must not do so because the broker is away.
func livez(w http.ResponseWriter, _ *http.Request) {
	trackOf(w).quiet = true
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}

// readyz says whether verdicts and reads can be given, and else why not.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	trackOf(w).quiet = true
	health := wire.Health{Ready: true}
	for name, check := range s.cfg.Checks {
		if err := check(); err != nil {
			if health.Checks == nil {
				health.Checks = map[string]string{}
			}
			health.Ready, health.Checks[name] = false, keystring.Redact(err.Error())
		}
	}
	body, err := json.Marshal(health, json.Deterministic(true))
	if err != nil {
		body = []byte(`{"ready":false}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !health.Ready {
		w.Header().Set("Retry-After", retryAfter)
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(body)
}
