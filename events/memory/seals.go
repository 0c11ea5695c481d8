package memory

import (
	"context"
	"fmt"

	"github.com/keyledger/keyledger/events"
)

// Sealed returns what lies under a name among the seals, and whether anything does.
func (l *Ledger) Sealed(ctx context.Context, name string) ([]byte, bool, error) {
	if err := ctx.Err(); err != nil {
		return nil, false, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	body, there := l.seals[name]
	return body, there, nil
}

// Seal stores under a name that nothing lies under.
func (l *Ledger) Seal(ctx context.Context, name string, body []byte) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, there := l.seals[name]; there {
		return fmt.Errorf("%w: a seal lies there", events.ErrConflict)
	}
	l.seals[name] = append([]byte(nil), body...)
	return nil
}

// Destroy removes what lies under a name, if that is what is meant.
func (l *Ledger) Destroy(ctx context.Context, name string, meant func(body []byte) bool) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	body, there := l.seals[name]
	if !there || !meant(body) {
		return false, nil
	}
	delete(l.seals, name)
	return true, nil
}
