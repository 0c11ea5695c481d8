package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/batch"
)

func positions(t *testing.T, b *bench) {
	if last := b.last(t); last != 0 {
		t.Fatalf("an empty ledger ends at %d", last)
	}
	for i := range 3 {
		id := events.WorkspaceID(fmt.Sprintf("w%d", i))
		got := b.append(t, b.workspace(id))[0]
		if want := events.Position(i + 1); got.Position != want {
			t.Fatalf("position %d, want %d", got.Position, want)
		}
		if got.Meta.RecordedTime.IsZero() || got.Meta.BatchIndex != 0 || got.Meta.BatchSize != 0 {
			t.Fatalf("the ledger filled in %+v", got.Meta)
		}
		at, err := b.Ledger.At(b.ctx, got.Position)
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, at)
	}
	for _, pos := range []events.Position{0, 4} {
		if _, err := b.Ledger.At(b.ctx, pos); !errors.Is(err, events.ErrInvalidPosition) {
			t.Fatalf("at %d: %v", pos, err)
		}
	}
	if last := b.last(t); last != 3 {
		t.Fatalf("last is %d, want 3", last)
	}
}

// same compares facts in everything but the broker's time, which an append does
// not learn.
func same(t *testing.T, got, want events.Recorded) {
	t.Helper()
	got.Stored, want.Stored = 0, 0
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("facts differ:\n%+v\n%+v", got, want)
	}
}

func expectations(t *testing.T, b *bench) {
	b.append(t, expecting(b.workspace("a"), 0))
	b.refuse(t, events.ErrConflict, expecting(b.workspace("a"), 0))
	b.refuse(t, events.ErrConflict, expecting(b.rename("a", 2), 2))
	b.append(t, expecting(b.rename("a", 2), 1))
	b.refuse(t, events.ErrConflict, expecting(b.rename("a", 3), 1))
	// What others write does not matter.
	b.append(t, b.workspace("b"))
	b.append(t, expecting(b.rename("a", 3), 2))
	// On another subject than its own.
	other := events.WorkspaceSubject(org, "a")
	e := b.workspace("c")
	e.Expect = events.Expect(other, 2)
	b.refuse(t, events.ErrConflict, e)
	e.Expect = events.Expect(other, 4)
	b.append(t, e)
	e = b.workspace("d")
	e.Expect = events.Expect(events.WorkspaceSubject(org, "never-written"), 0)
	b.append(t, e)
	// Nothing expected, nothing checked.
	b.append(t, b.rename("a", 4))
}

func batches(t *testing.T, b *bench) {
	b.append(t, b.workspace("before"))
	e := b.workspace("a")
	again := b.rename("a", 2)
	again.Meta.Command = e.Meta.Command
	facts := b.append(t, expecting(e, 0), again, expecting(b.workspace("b"), 0))
	for i, r := range facts {
		if r.Position != events.Position(i+2) || r.Meta.BatchIndex != i+1 || r.Meta.BatchSize != 3 {
			t.Fatalf("fact %d: position %d, part %d of %d", i, r.Position, r.Meta.BatchIndex, r.Meta.BatchSize)
		}
		at, err := b.Ledger.At(b.ctx, r.Position)
		if err != nil {
			t.Fatal(err)
		}
		same(t, r, at)
	}
	if got := b.append(t, b.workspace("after"))[0].Position; got != 5 {
		t.Fatalf("after the batch comes %d", got)
	}
}

func batchConflict(t *testing.T, b *bench) {
	b.append(t, b.workspace("taken"))
	b.refuse(t, events.ErrConflict, expecting(b.workspace("a"), 0), expecting(b.workspace("taken"), 0), b.workspace("b"))
	e := b.workspace("a")
	e.Expect = events.Expect(events.WorkspaceSubject(org, "taken"), 0)
	b.refuse(t, events.ErrConflict, b.workspace("b"), e)
	// Several parts may ask the same of one subject.
	x, y := b.workspace("x"), b.workspace("y")
	x.Expect = events.Expect(events.WorkspaceSubject(org, "taken"), 1)
	y.Expect = x.Expect
	b.append(t, x, y)
	if facts := b.load(t, events.WorkspaceSubject(org, "a"), 0); len(facts) != 0 {
		t.Fatalf("%d facts of a refused batch", len(facts))
	}
}

func repeatedID(t *testing.T, b *bench) {
	e := b.workspace("a")
	b.append(t, e)
	b.refuse(t, events.ErrConflict, e)
	e.Expect = events.Expect(e.Subject, 0)
	b.refuse(t, events.ErrConflict, e)
	// The same wish, decided anew after others.
	again := b.rename("a", 2)
	again.Meta.Command = e.Meta.Command
	b.refuse(t, events.ErrConflict, expecting(again, 1))
	if facts := b.load(t, e.Subject, 0); len(facts) != 1 {
		t.Fatalf("%d facts of one wish", len(facts))
	}
}

func repeatedIDInBatch(t *testing.T, b *bench) {
	x, y := b.workspace("x"), b.workspace("y")
	b.append(t, x, y)
	b.refuse(t, events.ErrConflict, x, y)
	b.refuse(t, events.ErrConflict, x)
	// In other company, and in another place of it.
	b.refuse(t, events.ErrConflict, b.workspace("z"), y)
	z := b.workspace("z")
	b.append(t, z)
	b.refuse(t, events.ErrConflict, b.workspace("q"), z)
	if last := b.last(t); last != 3 {
		t.Fatalf("last is %d, want 3", last)
	}
}

func refused(t *testing.T, b *bench) {
	b.refuse(t, batch.ErrInvalid)
	foreign := b.workspace("a")
	foreign.Subject.Org = "globex"
	b.refuse(t, batch.ErrInvalid, b.workspace("a"), foreign)
	ledger := b.workspace("a")
	ledger.Meta.Ledger = events.LedgerID{1}
	b.refuse(t, batch.ErrInvalid, ledger)
	wild := b.workspace("a")
	wild.Subject.ID = "*"
	b.refuse(t, batch.ErrInvalid, wild)
	wild = b.workspace("a")
	wild.Expect = events.Expect(events.Subject{Org: org, Aggregate: events.AggregateWorkspace, ID: ">"}, 0)
	b.refuse(t, batch.ErrInvalid, wild)
	anonymous := b.workspace("a")
	anonymous.Meta.Command = events.CommandID{}
	b.refuse(t, batch.ErrInvalid, anonymous)
	// Only the first on a subject may expect something of it, and nobody
	// something of what another part writes.
	b.refuse(t, batch.ErrInvalid, b.workspace("a"), expecting(b.rename("a", 2), 1))
	e := b.workspace("b")
	e.Expect = events.Expect(events.WorkspaceSubject(org, "a"), 0)
	b.refuse(t, batch.ErrInvalid, b.workspace("a"), e)
	b.refuse(t, batch.ErrInvalid, e, b.workspace("a"))
	f := b.workspace("c")
	f.Expect = events.Expect(events.WorkspaceSubject(org, "a"), 7)
	b.refuse(t, batch.ErrInvalid, e, f)
	// Revocations go with revocations only.
	id := newKey()
	revoked := b.entry(events.RevokedSubject(org, id), events.KeyRevoked{}, 1)
	b.refuse(t, batch.ErrInvalid, b.key(id), revoked)
	b.append(t, revoked, b.entry(events.RevokedSubject(org, newKey()), events.KeyRevoked{}, 1))
}

func tooLarge(t *testing.T, b *bench) {
	e := b.workspace("a")
	e.Event = events.WorkspaceCreated{ID: "a", Name: events.ClearText(strings.Repeat("x", events.MaxFactBytes))}
	b.refuse(t, events.ErrTooLarge, e)
	b.refuse(t, events.ErrTooLarge, b.workspace("b"), e)
	many := make([]events.Entry, events.MaxBatch+1)
	for i := range many {
		many[i] = b.workspace(events.WorkspaceID(fmt.Sprintf("w%d", i)))
	}
	b.refuse(t, events.ErrTooLarge, many...)
}

func cancelled(t *testing.T, b *bench) {
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	if _, err := b.Ledger.Append(ctx, []events.Entry{b.workspace("a")}); !errors.Is(err, events.ErrUnavailable) {
		t.Fatalf("append: %v", err)
	}
	if last := b.last(t); last != 0 {
		t.Fatalf("last is %d, want 0", last)
	}
}

// together runs f n times at once and waits.
func together(n int, f func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { f(i) })
	}
	all.Wait()
}

func race(t *testing.T, b *bench) {
	const writers, rounds = 16, 8
	b.append(t, b.workspace("a"))
	subject := events.WorkspaceSubject(org, "a")
	var mu sync.Mutex
	stored := 0
	for range rounds {
		facts := b.load(t, subject, 0)
		tip := facts[len(facts)-1]
		wins := 0
		together(writers, func(int) {
			_, err := b.Ledger.Append(b.ctx, []events.Entry{expecting(b.rename("a", tip.Meta.Revision+1), tip.Position)})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				wins++
			case !errors.Is(err, events.ErrConflict):
				t.Errorf("append: %v", err)
			}
		})
		if wins != 1 {
			t.Fatalf("%d writers won", wins)
		}
		stored++
	}
	if facts := b.load(t, subject, 0); len(facts) != stored+1 {
		t.Fatalf("%d facts, want %d", len(facts), stored+1)
	}
}

func guard(t *testing.T, b *bench) {
	const writers, limit = 8, 6
	quota := events.QuotaSubject(org)
	create := func() error {
		for {
			facts, err := b.Ledger.Load(b.ctx, quota, 0)
			if err != nil {
				return err
			}
			held := events.QuotaChanged{Limit: limit}
			last, revision := events.Position(0), events.Revision(0)
			if n := len(facts); n > 0 {
				held = facts[n-1].Event.(events.QuotaChanged)
				last, revision = facts[n-1].Position, facts[n-1].Meta.Revision
			}
			if len(held.Holders) >= limit {
				return errEnough
			}
			id := newKey()
			// The holders of the last fact are shared with other readers.
			held.Holders = append(append([]events.KeyID(nil), held.Holders...), id)
			_, err = b.Ledger.Append(b.ctx, []events.Entry{
				expecting(b.key(id), 0), expecting(b.entry(quota, held, revision+1), last),
			})
			if !errors.Is(err, events.ErrConflict) {
				return err
			}
		}
	}
	together(writers, func(int) {
		for {
			if err := create(); err != nil {
				if !errors.Is(err, errEnough) {
					t.Errorf("create: %v", err)
				}
				return
			}
		}
	})
	if last := b.last(t); last != 2*limit {
		t.Fatalf("%d facts, want %d: a key and its guard each", last, 2*limit)
	}
}

// rotateRevoke races the rotation of a key, whose successor expects that the key
// was not revoked, with its unconditional revocation.
func rotateRevoke(t *testing.T, b *bench) {
	const rounds = 20
	for range rounds {
		old, next := newKey(), newKey()
		created := b.append(t, expecting(b.key(old), 0))[0].Position
		successor := b.key(next)
		successor.Expect = events.Expect(events.RevokedSubject(org, old), 0)
		rotation := []events.Entry{
			expecting(b.entry(events.KeySubject(org, old), events.KeyRotated{Successor: next, GraceEndsAt: b.meta(1).Time}, 2), created),
			successor,
		}
		revocation := []events.Entry{b.entry(events.RevokedSubject(org, old), events.KeyRevoked{}, 1)}
		var rotated, revoked []events.Recorded
		var rotateErr, revokeErr error
		together(2, func(i int) {
			if i == 0 {
				rotated, rotateErr = b.Ledger.Append(b.ctx, rotation)
			} else {
				revoked, revokeErr = b.Ledger.Append(b.ctx, revocation)
			}
		})
		if revokeErr != nil {
			t.Fatalf("the revocation did not win: %v", revokeErr)
		}
		if rotateErr == nil && rotated[1].Position > revoked[0].Position {
			t.Fatalf("a successor at %d after the revocation at %d", rotated[1].Position, revoked[0].Position)
		}
		if rotateErr != nil && !errors.Is(rotateErr, events.ErrConflict) {
			t.Fatalf("rotation: %v", rotateErr)
		}
	}
}
