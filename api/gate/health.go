package gate

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/keystring"
)

// Failing is what a check returns when there is more to say than everybody may
// read.
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

// Checks asks by name why a process is not ready: each check returns nil when its
// part is. Anybody may ask. The reason of a [*Failing] is shown and nothing of
// another error; the log takes all of it, once for each change.
type Checks struct {
	all map[string]func() error
	log *slog.Logger

	mu   sync.Mutex
	last map[string]string
}

// NewChecks returns what asks the checks.
func NewChecks(all map[string]func() error, log *slog.Logger) *Checks {
	return &Checks{all: all, log: log, last: map[string]string{}}
}

// Ask returns the public reasons of the checks that fail, by name.
func (c *Checks) Ask(ctx context.Context) map[string]string {
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
func (c *Checks) note(ctx context.Context, name string, err error) {
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

// AppendHealth writes the answer of /readyz, and reports whether all is well.
func (c *Checks) AppendHealth(ctx context.Context, b []byte) ([]byte, bool) {
	failing := c.Ask(ctx)
	health := wire.Health{Ready: len(failing) == 0, Checks: failing}
	body, err := json.Marshal(health, json.Deterministic(true))
	if err != nil {
		return append(b, `{"ready":false}`...), false
	}
	return append(b, body...), health.Ready
}
