package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/batch"
)

// refuseEach is refuse for facts that stand alone.
func (b *bench) refuseEach(t *testing.T, want error, entries ...events.Entry) {
	t.Helper()
	before := b.last(t)
	facts, err := b.Ledger.AppendEach(b.ctx, entries)
	if !errors.Is(err, want) || facts != nil {
		t.Fatalf("append each: %v, %v, want %v", facts, err, want)
	}
	if after := b.last(t); after != before {
		t.Fatalf("a refused append moved the ledger from %d to %d", before, after)
	}
}

func each(t *testing.T, b *bench) {
	b.append(t, b.workspace("before"))
	const n = 300
	wishes := make([]events.Entry, n)
	for i := range wishes {
		wishes[i] = expecting(b.workspace(events.WorkspaceID(fmt.Sprintf("w%d", i))), 0)
	}
	facts, err := b.Ledger.AppendEach(b.ctx, wishes)
	if err != nil || len(facts) != n {
		t.Fatalf("%d facts, %v", len(facts), err)
	}
	var read []events.Recorded
	for _, slice := range b.follow(t, 1, n+1) {
		read = append(read, slice...)
	}
	for i, f := range facts {
		if f.Position != events.Position(i+2) || f.Meta.BatchIndex != 0 || f.Meta.BatchSize != 0 || !f.Last() {
			t.Fatalf("fact %d stands at %d as %d of %d", i, f.Position, f.Meta.BatchIndex, f.Meta.BatchSize)
		}
		same(t, f, read[i])
	}
	one, err := b.Ledger.AppendEach(b.ctx, []events.Entry{b.workspace("alone")})
	if err != nil || len(one) != 1 || one[0].Position != n+2 {
		t.Fatalf("%v, %v", one, err)
	}
	// Revocations are single facts too, and may stand among others.
	id := newKey()
	revoked := b.entry(events.RevokedSubject(org, id), events.KeyRevoked{}, 1)
	if _, err := b.Ledger.AppendEach(b.ctx, []events.Entry{b.workspace("beside"), revoked}); err != nil {
		t.Fatal(err)
	}
}

func eachRefused(t *testing.T, b *bench) {
	taken := b.workspace("taken")
	b.append(t, taken)
	fresh := func() events.Entry { return expecting(b.workspace("fresh"), 0) }
	b.refuseEach(t, events.ErrConflict, fresh(), expecting(b.workspace("taken"), 0))
	again := b.workspace("again")
	again.Meta.Command = taken.Meta.Command
	b.refuseEach(t, events.ErrConflict, fresh(), again)

	command := b.workspace("other")
	first := fresh()
	command.Meta.Command = first.Meta.Command
	b.refuseEach(t, batch.ErrInvalid, first, command)
	b.refuseEach(t, batch.ErrInvalid, fresh(), b.rename("fresh", 2))
	foreign := b.workspace("other")
	foreign.Subject = events.WorkspaceSubject("beta", "other")
	b.refuseEach(t, batch.ErrInvalid, fresh(), foreign)
	elsewhere := b.workspace("other")
	elsewhere.Expect = events.Expect(taken.Subject, 1)
	b.refuseEach(t, batch.ErrInvalid, fresh(), elsewhere)
	b.refuseEach(t, batch.ErrInvalid)
	b.refuseEach(t, events.ErrTooLarge, make([]events.Entry, events.MaxBatch+1)...)
	// What was refused with others can be appended by itself.
	b.append(t, fresh())
}

func latest(t *testing.T, b *bench) {
	subject := events.WorkspaceSubject(org, "a")
	if _, found, err := b.Ledger.Latest(b.ctx, subject); found || err != nil {
		t.Fatalf("the last of nothing: %t, %v", found, err)
	}
	if _, _, err := b.Ledger.Latest(b.ctx, events.Subject{Org: org, Aggregate: events.AggregateWorkspace, ID: "*"}); err == nil {
		t.Fatal("a wildcard was taken for a subject")
	}
	b.append(t, b.workspace("a"))
	b.append(t, b.workspace("b"))
	b.append(t, b.rename("a", 2), b.rename("b", 2))
	got, found, err := b.Ledger.Latest(b.ctx, subject)
	if err != nil || !found {
		t.Fatalf("%t, %v", found, err)
	}
	all := b.load(t, subject, 0)
	if want := all[len(all)-1]; !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, want %+v", got, want)
	}
}

// confirmedRead confirms what many read at once while others write. A ledger may
// ask for it to be read again, and then confirms it. What it says of its end no
// answered write stands behind.
func confirmedRead(t *testing.T, b *bench) {
	const readers, times = 8, 5
	subject := events.WorkspaceSubject(org, "a")
	var answered atomic.Uint64
	answered.Store(uint64(b.append(t, b.workspace("a"))[0].Position))
	together(readers+1, func(i int) {
		for n := range times {
			if i == readers {
				stored, err := b.Ledger.Append(b.ctx, []events.Entry{b.rename("a", events.Revision(n+2))})
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				answered.Store(uint64(stored[0].Position))
				continue
			}
			for {
				began, least := time.Now(), events.Position(answered.Load())
				last, found, err := b.Ledger.Latest(b.ctx, subject)
				var end events.Position
				if err == nil {
					end, err = b.Ledger.Confirm(b.ctx, began)
				}
				if errors.Is(err, events.ErrConflict) {
					continue
				}
				if err != nil || !found {
					t.Errorf("confirm: %v", err)
				}
				if end < least || end < last.Position {
					t.Errorf("it ends at %d: position %d was answered, %d read", end, least, last.Position)
				}
				break
			}
		}
	})
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	if end, err := b.Ledger.Confirm(b.ctx, time.Now()); !errors.Is(err, events.ErrConflict) && (err != nil || end != b.last(t)) {
		t.Errorf("at rest: %d of %d, %v", end, b.last(t), err)
	}
	if _, err := b.Ledger.Confirm(ctx, time.Now()); !errors.Is(err, events.ErrUnavailable) {
		t.Errorf("confirm without patience: %v", err)
	}
}
