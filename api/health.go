package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api/gate"
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

// Failing is what a check of [Config.Checks] returns when there is more to say
// than everybody may read.
type Failing struct {
	// Reason is for everybody: it names no organization, no key and no fact.
	Reason string
	// Err goes to the log.
	Err error
}

func (f *Failing) Error() string {
	if f.Err == nil {
		return f.Reason
	}
	return f.Reason + ": " + f.Err.Error()
}

func (f *Failing) Unwrap() error { return f.Err }

// unsaid stands for the reasons that are not for everybody.
const unsaid = "fails; the server's log says why"

// checks asks the checks of readiness.
type checks struct {
	all map[string]func() error
	log *slog.Logger

	mu   sync.Mutex
	last map[string]string
}

func newChecks(all map[string]func() error, log *slog.Logger) *checks {
	return &checks{all: all, log: log, last: map[string]string{}}
}

// ask returns the public reasons of the checks that fail, by name.
func (c *checks) ask(ctx context.Context) map[string]string {
	var failing map[string]string
	for name, check := range c.all {
		err := check()
		c.note(ctx, name, err)
		if err == nil {
			continue
		}
		if failing == nil {
			failing = map[string]string{}
		}
		failing[name] = unsaid
		if f := (*Failing)(nil); errors.As(err, &f) {
			failing[name] = keystring.Redact(f.Reason)
		}
	}
	return failing
}

// note logs what is not shown, when it has changed since the check was last
// asked.
func (c *checks) note(ctx context.Context, name string, err error) {
	text := ""
	if f := (*Failing)(nil); err != nil && (!errors.As(err, &f) || f.Err != nil) {
		text = keystring.Redact(err.Error())
	}
	c.mu.Lock()
	before := c.last[name]
	c.last[name] = text
	c.mu.Unlock()
	switch {
	case text == before:
	case text == "":
		c.log.LogAttrs(ctx, slog.LevelInfo, "a check fails no more", slog.String("check", name))
	default:
		c.log.LogAttrs(ctx, slog.LevelWarn, "a check fails", slog.String("check", name), slog.String("error", text))
	}
}

// readyz says whether verdicts and reads can be given, and else why not. It is
// open: subjects and positions stay in the log.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	trackOf(w).quiet = true
	failing := s.checks.ask(r.Context())
	health := wire.Health{Ready: len(failing) == 0, Checks: failing}
	body, err := json.Marshal(health, json.Deterministic(true))
	if err != nil {
		body = []byte(`{"ready":false}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !health.Ready {
		w.Header().Set("Retry-After", gate.RetryAfter)
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(body)
}
