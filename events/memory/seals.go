package memory

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/keyledger/keyledger/events"
)

// seal is what lies under a name.
type seal struct {
	body   []byte
	order  uint64
	stored events.Time
}

// Sealed returns what lies under a name among the seals, and whether anything does.
func (l *Ledger) Sealed(ctx context.Context, name string) ([]byte, bool, error) {
	if err := ctx.Err(); err != nil {
		return nil, false, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s, there := l.seals[name]
	return s.body, there, nil
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
	l.sealed++
	l.seals[name] = seal{body: append([]byte(nil), body...), order: l.sealed, stored: events.TimeOf(time.Now())}
	return nil
}

// Destroy removes what lies under a name, if that is what is meant.
func (l *Ledger) Destroy(ctx context.Context, name string, meant func(body []byte) bool) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s, there := l.seals[name]
	if !there || !meant(s.body) {
		return false, nil
	}
	delete(l.seals, name)
	return true, nil
}

// EachSeal hands over what lies under the names that begin with a prefix and a dot, in
// the order in which they were stored.
func (l *Ledger) EachSeal(ctx context.Context, prefix string, take func(name string, body []byte, stored events.Time) error) error {
	for after := uint64(0); ; {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%w: %w", events.ErrUnavailable, err)
		}
		name, s, there := l.nextSeal(prefix, after)
		if !there {
			return nil
		}
		if err := take(name, s.body, s.stored); err != nil {
			return err
		}
		after = s.order
	}
}

// nextSeal returns the first that was stored after another.
func (l *Ledger) nextSeal(prefix string, after uint64) (name string, next seal, there bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, s := range l.seals {
		if strings.HasPrefix(n, prefix+".") && s.order > after && (!there || s.order < next.order) {
			name, next, there = n, s, true
		}
	}
	return name, next, there
}
