package api

import (
	"net/http"

	"github.com/keyledger/keyledger/api/gate"
)

// livez says that the process answers, and nothing else: whoever restarts it on
// this must not do so because the broker is away.
func livez(w http.ResponseWriter, _ *http.Request) {
	trackOf(w).quiet = true
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}

// Failing is what a check of [Config.Checks] returns when there is more to say
// than everybody may read.
type Failing = gate.Failing

// readyz says whether verdicts and reads can be given, and else why not. It is
// open: subjects and positions stay in the log.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	trackOf(w).quiet = true
	body, ready := s.checks.AppendHealth(r.Context(), nil)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !ready {
		w.Header().Set("Retry-After", gate.RetryAfter)
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(body)
}
