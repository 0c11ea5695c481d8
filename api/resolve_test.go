package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// Whoever cannot be told whose key to use is told to use none; all else is answered
// as everywhere.
func TestUnresolved(t *testing.T) {
	for _, err := range []error{events.ErrUnavailable, fmt.Errorf("broker: %w", events.ErrConflict), commands.ErrNotOpened} {
		p := problemOf(unresolved(err), "")
		if p.Status != 503 || p.Code != "unavailable" || !strings.Contains(p.Detail, "use none") || !errors.Is(unresolved(err), err) {
			t.Errorf("%v: %+v", err, p)
		}
	}
	for _, err := range []error{commands.ErrNoKEK, domain.ErrForbidden, domain.ErrNotFound} {
		if got := unresolved(err); !errors.Is(got, err) || strings.Contains(problemOf(got, "").Detail, "use none") {
			t.Errorf("%v: %v", err, got)
		}
	}
}
