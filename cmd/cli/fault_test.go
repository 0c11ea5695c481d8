package cli

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

// How long a server asks to wait is said where nothing else helps, in whole seconds.
func TestWait(t *testing.T) {
	a := newApp(Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard, LookupEnv: func(string) (string, bool) { return "", false }})
	for _, c := range []struct {
		code string
		wait time.Duration
		hint string
	}{
		{"rate_limited", 1500 * time.Millisecond, "The server asks to wait 2 seconds."},
		{"unavailable", time.Second, "The server asks to wait 1 second."},
		{"unavailable", 0, ""},
		{"in_use", time.Second, "The server asks to wait 1 second."},
		{"plan_required", time.Second, "An owner of the installation raises the plan: keyledger orgs update ORG --plan growth."},
	} {
		problem := &client.Problem{Problem: wire.Problem{Code: c.code, Status: 429, Detail: "no"}, RetryAfter: c.wait}
		if f := a.explain(a.root, fmt.Errorf("call: %w", problem)); f.hint != c.hint {
			t.Errorf("%s, %v: hint %q, want %q", c.code, c.wait, f.hint, c.hint)
		}
	}
}
