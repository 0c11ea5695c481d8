package continuity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/keyledger/keyledger/events"
)

// tick checks a tick, takes from it what it proves, and reports whether it agrees.
func (v *View) tick(ctx context.Context, f *events.Recorded, t events.Tick) bool {
	was := v.ticks
	if f.Meta.Revision == was.revision+1 {
		v.ticks.revision++
	}
	if err := v.place(f, t, was); err != nil {
		return v.judged(ctx, f, err)
	}
	then, known := v.chains.at(t.Through)
	if !known {
		// Nobody is wrong: it was overtaken by more than is remembered.
		v.log.WarnContext(ctx, "tick is too old to be checked", "position", uint64(f.Position), "through", uint64(t.Through))
		return false
	}
	told, err := v.compare(t, &then)
	old := events.TimeOf(time.Now().Add(-recent)) > f.Stored
	if (!old || err != nil || len(told) > 0) && !v.signed(t) {
		err = fmt.Errorf("%w: nobody who may has signed it", ErrRefused)
	}
	if !errors.Is(err, ErrRefused) {
		for _, s := range told {
			of := v.scopes[s.Scope]
			of.told, of.at = s, f.Position
		}
	}
	if !v.judged(ctx, f, err) {
		return false
	}
	v.ticks.accepted = f.Position
	if v.label != "" {
		if v.scopes[v.label].at == 0 || len(told) == 0 && len(t.Scopes) == events.MaxTickScopes {
			return true // it says nothing of this reader
		}
		v.proven = proof(f, t, &then)
	}
	v.ticks.stored, v.doubt = f.Stored, false
	return true
}

// proof is the time up to which a tick shows a narrowed reader that he holds
// everything: its own, if it counts all that stands before it; else, since of what
// came in between nothing is told, that of the last fact which it counts and he
// knows.
func proof(f *events.Recorded, t events.Tick, then *past) events.Time {
	if t.Through+1 == f.Position {
		return f.Stored
	}
	return then.stored
}

// place holds a tick to where it stands. An old one that was appended again is
// not the next revision; one that was put into a new envelope does not count the
// tick before it.
func (v *View) place(f *events.Recorded, t events.Tick, was ticks) error {
	var wrong string
	switch {
	case f.Meta.Revision != was.revision+1:
		wrong = fmt.Sprintf("it has revision %d, and %d comes next", f.Meta.Revision, was.revision+1)
	case t.Through >= f.Position:
		wrong = "it counts what comes after it"
	case t.Through < was.accepted:
		wrong = "it does not count the tick before it"
	case len(t.Scopes) > events.MaxTickScopes:
		wrong = "it tells of too many scopes"
	default:
		return nil
	}
	return fmt.Errorf("%w: %s", ErrRefused, wrong)
}

// compare holds a tick against what was read. It returns what the tick tells of
// scopes that the reader knows.
func (v *View) compare(t events.Tick, then *past) ([]events.TickScope, error) {
	if v.label != "" {
		return v.compareOwn(t, then)
	}
	if t.Digest != then.ledger.digest {
		return nil, fmt.Errorf("%w: the ledger's digest through %d is another", ErrDisagrees, t.Through)
	}
	for _, s := range t.Scopes {
		of := v.scopes[s.Scope]
		if of == nil {
			return nil, fmt.Errorf("%w: it tells of a scope that nobody has", ErrDisagrees)
		}
		if err := then.agrees(s, of.orgs); err != nil {
			return nil, err
		}
	}
	return t.Scopes, nil
}

// compareOwn holds what a tick says of the reader's own scope, or said the last
// time, against what he has read.
func (v *View) compareOwn(t events.Tick, then *past) ([]events.TickScope, error) {
	for _, s := range t.Scopes {
		if s.Scope == v.label {
			return []events.TickScope{s}, then.agrees(s, v.own)
		}
	}
	own := v.scopes[v.label]
	if own.at == 0 || len(t.Scopes) == events.MaxTickScopes {
		return nil, nil // nothing was told yet, or not all
	}
	return nil, then.agrees(own.told, v.own)
}

// agrees compares what is told of a scope with what there was.
func (p *past) agrees(told events.TickScope, orgs []events.OrgID) error {
	count, digest := p.scope(orgs)
	switch {
	case count != told.Count:
		return fmt.Errorf("%w: %d facts were counted of a scope of %d organizations, and %d were read", ErrDisagrees, told.Count, len(orgs), count)
	case digest != told.Digest:
		return fmt.Errorf("%w: %d facts were read of a scope of %d organizations, and not the same ones", ErrDisagrees, count, len(orgs))
	}
	return nil
}

// signed reports whether somebody who may has signed a tick.
func (v *View) signed(t events.Tick) bool {
	if strings.Contains(t.Signature, "\n") {
		return false
	}
	text := t.Text(v.ledger)
	n, err := note.Open([]byte(text+"\n"+t.Signature+"\n"), note.VerifierList(v.signers...))
	return err == nil && n.Text == text
}

// judged notes what became of a tick, and reports whether it agrees.
func (v *View) judged(ctx context.Context, f *events.Recorded, err error) bool {
	if v.err = err; err == nil {
		return true
	}
	v.faults++
	v.doubt = v.doubt || errors.Is(err, ErrDisagrees)
	v.log.LogAttrs(ctx, slog.LevelError, "tick is not agreed with", slog.Uint64("position", uint64(f.Position)), slog.Any("error", err))
	return false
}
