package ledgertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/batch"
)

func load(t *testing.T, b *bench) {
	subject := events.WorkspaceSubject(org, "a")
	if facts := b.load(t, subject, 0); len(facts) != 0 {
		t.Fatalf("%d facts on an empty subject", len(facts))
	}
	b.append(t, b.workspace("a"))
	b.append(t, b.workspace("b"))
	b.append(t, b.rename("a", 2), b.rename("b", 2), b.rename("a", 3))
	for after, want := range map[events.Position][]events.Position{
		0: {1, 3, 5}, 1: {3, 5}, 2: {3, 5}, 3: {5}, 5: nil, 99: nil,
	} {
		facts := b.load(t, subject, after)
		if len(facts) != len(want) {
			t.Fatalf("%d facts after %d, want %d", len(facts), after, len(want))
		}
		for i, r := range facts {
			if r.Position != want[i] || r.Subject != subject || r.Stored.IsZero() {
				t.Fatalf("fact %d after %d stands at %d on %s", i, after, r.Position, r.Subject)
			}
		}
	}
	if _, err := b.Ledger.Load(b.ctx, events.Subject{Org: org, Aggregate: events.AggregateWorkspace, ID: "*"}, 0); err == nil {
		t.Fatal("a wildcard was read as a subject")
	}
}

// lengthen appends a long history of one subject, with facts of another between.
func (b *bench) lengthen(t *testing.T, id, other events.WorkspaceID, revisions int) []events.Recorded {
	t.Helper()
	entries := []events.Entry{b.workspace(id), b.workspace(other)}
	for r := 2; r <= revisions; r++ {
		entries = append(entries, b.rename(id, events.Revision(r)), b.rename(other, events.Revision(r)))
	}
	return b.append(t, entries...)
}

func loadLong(t *testing.T, b *bench) {
	const revisions = 60
	subject := events.WorkspaceSubject(org, "a")
	all := b.lengthen(t, "a", "b", revisions)
	for i, r := range b.load(t, subject, 0) {
		same(t, r, all[2*i])
	}
	if facts := b.load(t, subject, 40); len(facts) != revisions-20 || facts[0].Position != 41 {
		t.Fatalf("%d facts after 40", len(facts))
	}
	// Whoever has an answer to an append sees it in the next load.
	for r := events.Revision(revisions + 1); r <= revisions+10; r++ {
		tip := b.append(t, b.rename("a", r))[0]
		facts := b.load(t, subject, 0)
		if len(facts) != int(r) || facts[r-1].Position != tip.Position {
			t.Fatalf("%d facts after revision %d", len(facts), r)
		}
	}
}

func loadLongDoubtful(t *testing.T, b *bench) {
	all := b.lengthen(t, "a", "b", 60)
	subject := events.WorkspaceSubject(org, "a")
	b.Plant(t, subject.String(), []byte("no fact at all"))
	b.append(t, b.rename("a", 61), b.rename("a", 62))
	facts := b.load(t, subject, 0)
	if _, bad := facts[60].Event.(events.Malformed); !bad || len(facts) != 63 {
		t.Fatalf("%d facts, of which the 61st is %T", len(facts), facts[60].Event)
	}
	// An old fact again, at the end and in the middle of a history.
	b.Plant(t, subject.String(), all[40].Raw)
	for range 2 {
		if _, err := b.Ledger.Load(b.ctx, subject, 0); !errors.Is(err, events.ErrCorrupt) {
			t.Fatalf("load: %v", err)
		}
		b.append(t, b.rename("a", 63))
	}
}

func loadDoubtful(t *testing.T, b *bench) {
	subject := events.WorkspaceSubject(org, "a")
	created := b.append(t, b.workspace("a"))[0]
	b.append(t, b.rename("a", 2))
	// An old fact appended again changes nothing: it is found out.
	b.Plant(t, subject.String(), created.Raw)
	for _, after := range []events.Position{0, 1} {
		if _, err := b.Ledger.Load(b.ctx, subject, after); !errors.Is(err, events.ErrCorrupt) {
			t.Fatalf("load after %d: %v", after, err)
		}
	}
	// A history that begins in its middle, likewise.
	b.append(t, b.rename("late", 2))
	if _, err := b.Ledger.Load(b.ctx, events.WorkspaceSubject(org, "late"), 0); !errors.Is(err, events.ErrCorrupt) {
		t.Fatalf("load: %v", err)
	}
}

func followFrom(t *testing.T, b *bench) {
	var all []events.Recorded
	for i := range 4 {
		all = append(all, b.append(t, b.workspace(events.WorkspaceID(fmt.Sprintf("w%d", i))))...)
	}
	all = append(all, b.append(t, b.workspace("x"), b.workspace("y"), b.workspace("z"))...)
	last := events.Position(len(all))
	for after := range last {
		want := after
		for _, slice := range b.follow(t, after, last) {
			for _, r := range slice {
				want++
				same(t, r, all[want-1])
				if r.Position != want || r.Stored.IsZero() {
					t.Fatalf("after %d: position %d, want %d", after, r.Position, want)
				}
			}
		}
		if want != last {
			t.Fatalf("after %d it ended at %d", after, want)
		}
	}
}

func followRacing(t *testing.T, b *bench) {
	const writers, each = 16, 6
	total := events.Position(0)
	for i := range writers * each {
		total += events.Position(sizeOf(i))
	}
	var writing sync.WaitGroup
	writing.Go(func() {
		together(writers, func(w int) {
			for i := range each {
				entries := make([]events.Entry, sizeOf(w*each+i))
				for k := range entries {
					entries[k] = expecting(b.workspace(events.WorkspaceID(fmt.Sprintf("w-%d-%d-%d", w, i, k))), 0)
				}
				if _, err := b.Ledger.Append(b.ctx, entries); err != nil {
					t.Errorf("append: %v", err)
				}
			}
		})
	})
	var following sync.WaitGroup
	for range 3 {
		following.Go(func() {
			seen := events.Position(0)
			err := b.Ledger.Follow(b.ctx, 0, func(slice []events.Recorded) error {
				if first, last := slice[0].Meta.BatchIndex, slice[len(slice)-1]; first > 1 || !last.Last() {
					return fmt.Errorf("a slice from part %d to part %d of %d", first, last.Meta.BatchIndex, last.Meta.BatchSize)
				}
				for _, r := range slice {
					if seen++; r.Position != seen {
						return fmt.Errorf("position %d, want %d", r.Position, seen)
					}
				}
				if seen == total {
					return errEnough
				}
				return nil
			})
			if !errors.Is(err, errEnough) {
				t.Errorf("follow: %v at position %d of %d", err, seen, total)
			}
		})
	}
	writing.Wait()
	following.Wait()
}

// sizeOf spreads single facts and batches over the writers.
func sizeOf(i int) int { return []int{1, 1, 2, 1, 5}[i%5] }

func followLargest(t *testing.T, b *bench) {
	b.append(t, b.workspace("before"))
	entries := make([]events.Entry, events.MaxBatch)
	for i := range entries {
		entries[i] = expecting(b.workspace(events.WorkspaceID(fmt.Sprintf("w%d", i))), 0)
	}
	b.append(t, entries...)
	b.append(t, b.workspace("after"))
	last := events.Position(len(entries) + 2)
	found := false
	for _, slice := range b.follow(t, 0, last) {
		if len(slice) > batch.Slice && slice[0].Meta.BatchIndex > 1 {
			t.Fatalf("a slice of %d begins with part %d", len(slice), slice[0].Meta.BatchIndex)
		}
		for i, r := range slice {
			if r.Meta.BatchIndex == 1 && len(slice)-i >= events.MaxBatch {
				found = true
			}
		}
	}
	if !found {
		t.Fatal("the batch was split")
	}
}

func followEnds(t *testing.T, b *bench) {
	b.append(t, b.workspace("a"))
	ctx, cancel := context.WithCancel(b.ctx)
	err := b.Ledger.Follow(ctx, 0, func([]events.Recorded) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("follow: %v", err)
	}
	// What apply says is returned, even if it sounds like the ledger's own.
	err = b.Ledger.Follow(b.ctx, 0, func([]events.Recorded) error { return events.ErrUnavailable })
	if !errors.Is(err, events.ErrUnavailable) {
		t.Fatalf("follow: %v", err)
	}
}

func followBeyond(t *testing.T, b *bench) {
	b.append(t, b.workspace("a"))
	if facts := b.corrupt(t, 2); len(facts) != 0 {
		t.Fatalf("%d facts of a ledger that was cut", len(facts))
	}
}

func heldBack(t *testing.T, b *bench) {
	b.append(t, b.workspace("before"))
	parts := []events.Entry{b.workspace("x"), b.workspace("y"), b.workspace("z")}
	b.Plant(t, parts[0].Subject.String(), body(t, parts[0], 1, 3))
	b.Plant(t, parts[1].Subject.String(), body(t, parts[1], 2, 3))
	var got []int
	err := b.Ledger.Follow(b.ctx, 0, func(slice []events.Recorded) error {
		got = append(got, len(slice))
		if len(got) == 1 {
			// The rest comes only now.
			b.Plant(t, parts[2].Subject.String(), body(t, parts[2], 3, 3))
			return nil
		}
		return errEnough
	})
	if !errors.Is(err, errEnough) || len(got) != 2 || got[0] != 1 || got[1] != 3 {
		t.Fatalf("follow: %v, slices of %v", err, got)
	}
}

func torn(t *testing.T, b *bench) {
	b.append(t, b.workspace("before"))
	part := b.workspace("x")
	b.Plant(t, part.Subject.String(), body(t, part, 1, 2))
	b.append(t, b.workspace("after"))
	if facts := b.corrupt(t, 0); len(facts) > 1 {
		t.Fatalf("%d facts were handed over, want the one before", len(facts))
	}
	last := b.workspace("y")
	b.Plant(t, last.Subject.String(), body(t, last, 2, 2))
	b.corrupt(t, 2)
}

func unknownKind(t *testing.T, b *bench) {
	e := b.workspace("a")
	raw := bytes.Replace(body(t, e, 0, 0), []byte("keyledger.workspace.created.v1"), []byte("keyledger.workspace.painted.v7"), 1)
	b.Plant(t, e.Subject.String(), raw)
	b.append(t, b.rename("a", 2))
	check := func(r events.Recorded) {
		t.Helper()
		u, ok := r.Event.(events.Unknown)
		if !ok || u.Name != "workspace.painted.v7" || !u.Bears || !bytes.Equal(r.Raw, raw) || r.Meta.Revision != 1 {
			t.Fatalf("got %+v", r.Event)
		}
	}
	check(b.load(t, e.Subject, 0)[0])
	check(b.follow(t, 0, 1)[0][0])
	at, err := b.Ledger.At(b.ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	check(at)
}

func foreignBody(t *testing.T, b *bench) {
	e := b.append(t, b.workspace("a"))[0]
	foreign := events.WorkspaceSubject(org, "b")
	b.Plant(t, foreign.String(), e.Raw)
	b.Plant(t, foreign.String(), []byte("no fact at all"))
	b.Plant(t, foreign.String(), nil)
	facts := b.load(t, foreign, 0)
	if len(facts) != 3 {
		t.Fatalf("%d facts, want 3", len(facts))
	}
	for _, slice := range b.follow(t, 1, 4) {
		facts = append(facts, slice...)
	}
	for _, r := range facts {
		if m, ok := r.Event.(events.Malformed); !ok || m.Reason == "" || r.Subject != foreign {
			t.Fatalf("position %d: %T on %s", r.Position, r.Event, r.Subject)
		}
	}
}

func foreignSubject(t *testing.T, b *bench) {
	e := b.workspace("a")
	raw := body(t, e, 0, 0)
	b.Plant(t, "ledger.1023.acme.workspace.a", raw)
	b.Plant(t, "ledger.nonsense", raw)
	for _, slice := range b.follow(t, 0, 2) {
		for _, r := range slice {
			if _, ok := r.Event.(events.Malformed); !ok || !r.Subject.IsZero() || !bytes.Equal(r.Raw, raw) {
				t.Fatalf("position %d: %T on %s", r.Position, r.Event, r.Subject)
			}
		}
	}
}

// foreignLedger plants facts that are good in every respect but one: they were
// made for another ledger, such as a rehearsal of this one.
func foreignLedger(t *testing.T, b *bench) {
	other := events.LedgerID{15: 1}
	rename := b.rename("a", 2)
	begun := b.entry(events.InstallationSubject(), events.InstallationCreated{Ledger: other, Epoch: 1}, 1)
	b.append(t, b.workspace("a"))
	for _, e := range []events.Entry{rename, begun} {
		e.Meta.Ledger = other
		b.Plant(t, e.Subject.String(), body(t, e, 0, 0))
	}
	check := func(how string, r events.Recorded, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		if m, ok := r.Event.(events.Malformed); !ok || m.Reason == "" || r.Subject.IsZero() || len(r.Raw) == 0 {
			t.Fatalf("%s: %T at position %d", how, r.Event, r.Position)
		}
	}
	for pos, subject := range map[events.Position]events.Subject{2: rename.Subject, 3: begun.Subject} {
		loaded := b.load(t, subject, 0)
		check("load", loaded[len(loaded)-1], nil)
		after := b.load(t, subject, pos-1)
		check("load after", after[0], nil)
		latest, _, err := b.Ledger.Latest(b.ctx, subject)
		check("latest", latest, err)
		at, err := b.Ledger.At(b.ctx, pos)
		check("at", at, err)
	}
	for _, slice := range b.follow(t, 1, 3) {
		for _, r := range slice {
			check("follow", r, nil)
		}
	}
}

func block(i int) events.UsesMessage {
	return events.UsesMessage{
		Subject: events.UsesSubject(org, "v1"), ID: fmt.Sprintf("v1-boot-%d", i), Body: []byte(fmt.Sprintf("block %d", i)),
	}
}

func blocks(from, to int) []events.UsesMessage {
	var out []events.UsesMessage
	for i := from; i < to; i++ {
		out = append(out, block(i))
	}
	return out
}

func (b *bench) publish(t *testing.T, blocks []events.UsesMessage) {
	t.Helper()
	if err := b.Ledger.PublishUses(b.ctx, blocks); err != nil {
		t.Fatalf("publish: %v", err)
	}
}

// uses checks that blocks 0 to n stand at positions 1 to n+1 and nothing else.
func (b *bench) uses(t *testing.T, n int) {
	t.Helper()
	if last, err := b.Ledger.LastUses(b.ctx); err != nil || last != events.Position(n) {
		t.Fatalf("last block at %d, want %d: %v", last, n, err)
	}
	seen := 0
	err := b.Ledger.FollowUses(b.ctx, 0, func(blocks []events.UsesMessage) error {
		for _, m := range blocks {
			want := block(seen)
			if seen++; m.Position != events.Position(seen) || m.Subject != want.Subject || !bytes.Equal(m.Body, want.Body) || m.Stored.IsZero() {
				return fmt.Errorf("position %d holds %q", m.Position, m.Body)
			}
		}
		if seen == n {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("follow: %v", err)
	}
	for _, pos := range []int{1, (n + 1) / 2, n} {
		m, err := b.Ledger.UsesAt(b.ctx, events.Position(pos))
		want := block(pos - 1)
		if err != nil || m.Position != events.Position(pos) || m.Subject != want.Subject || !bytes.Equal(m.Body, want.Body) || m.Stored.IsZero() {
			t.Errorf("block %d is %q at %d, %v", pos, m.Body, m.Position, err)
		}
	}
	for _, pos := range []int{0, n + 1} {
		if m, err := b.Ledger.UsesAt(b.ctx, events.Position(pos)); !errors.Is(err, events.ErrInvalidPosition) {
			t.Errorf("block %d is %q, %v", pos, m.Body, err)
		}
	}
}

func usesOrder(t *testing.T, b *bench) {
	b.publish(t, nil)
	b.publish(t, blocks(0, 1))
	b.publish(t, blocks(1, 4))
	b.publish(t, blocks(4, 40))
	b.publish(t, blocks(40, 40+events.MaxBatch+5))
	b.uses(t, 45+events.MaxBatch)
	if last := b.last(t); last != 0 {
		t.Fatalf("uses were stored as facts, up to %d", last)
	}
}

func usesOnce(t *testing.T, b *bench) {
	b.publish(t, blocks(0, 1))
	b.publish(t, blocks(0, 1))
	b.publish(t, blocks(1, 9))
	// Wholly repeated, and in part.
	b.publish(t, blocks(1, 9))
	b.publish(t, blocks(5, 20))
	b.uses(t, 20)
}

// usesDropped: what is dropped is gone, everything behind it stays, and positions go
// on.
func usesDropped(t *testing.T, b *bench) {
	first := func(want events.Position) {
		t.Helper()
		if first, err := b.Ledger.FirstUses(b.ctx); err != nil || first != want {
			t.Fatalf("it begins with %d instead of %d, %v", first, want, err)
		}
	}
	first(1)
	if err := b.Ledger.DropUses(b.ctx, 1); !errors.Is(err, events.ErrInvalidPosition) {
		t.Errorf("what is not there was dropped: %v", err)
	}
	b.publish(t, blocks(0, 9))
	for _, through := range []events.Position{0, 3, 3, 1, 9, 4} {
		if err := b.Ledger.DropUses(b.ctx, through); err != nil {
			t.Fatal(err)
		}
		if through == 3 {
			first(4)
		}
	}
	first(10)
	if err := b.Ledger.DropUses(b.ctx, 10); !errors.Is(err, events.ErrInvalidPosition) {
		t.Errorf("what is not there was dropped: %v", err)
	}
	b.publish(t, blocks(9, 12))
	if last, err := b.Ledger.LastUses(b.ctx); err != nil || last != 12 {
		t.Fatalf("it ends at %d, %v", last, err)
	}
	if err := b.Ledger.DropUses(b.ctx, 10); err != nil {
		t.Fatal(err)
	}
	for _, pos := range []events.Position{1, 9, 10} {
		if m, err := b.Ledger.UsesAt(b.ctx, pos); !errors.Is(err, events.ErrInvalidPosition) {
			t.Errorf("block %d is %q, %v", pos, m.Body, err)
		}
	}
	var seen []events.Position
	err := b.Ledger.FollowUses(b.ctx, 2, func(blocks []events.UsesMessage) error {
		for _, m := range blocks {
			if want := block(int(m.Position) - 1); !bytes.Equal(m.Body, want.Body) {
				t.Errorf("position %d holds %q", m.Position, m.Body)
			}
			seen = append(seen, m.Position)
		}
		if len(seen) >= 2 {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) || !slices.Equal(seen, []events.Position{11, 12}) {
		t.Errorf("what is left is %v, %v", seen, err)
	}
}

func usesRefused(t *testing.T, b *bench) {
	for _, change := range []func(*events.UsesMessage){
		func(m *events.UsesMessage) { m.ID = "" },
		func(m *events.UsesMessage) { m.ID = "a\r\nNats-Rollup: all" },
		func(m *events.UsesMessage) { m.Subject = "ledger.0001.acme.workspace.a" },
		func(m *events.UsesMessage) { m.Subject = strings.Replace(m.Subject, "v1", ">", 1) },
	} {
		m := block(0)
		change(&m)
		if err := b.Ledger.PublishUses(b.ctx, []events.UsesMessage{m}); !errors.Is(err, batch.ErrInvalid) {
			t.Fatalf("publish: %v", err)
		}
	}
	m := block(0)
	m.Body = make([]byte, events.MaxFactBytes+1)
	if err := b.Ledger.PublishUses(b.ctx, []events.UsesMessage{m}); !errors.Is(err, events.ErrTooLarge) {
		t.Fatalf("publish: %v", err)
	}
}
