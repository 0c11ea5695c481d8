package usage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/sqlview"
)

const day = 24 * hour

// Dropped says what retention has dropped.
type Dropped struct {
	// Orgs are the organizations that it dropped single uses of.
	Orgs map[events.OrgID]DroppedUses
	// Through is the position up to which the stream of uses has no blocks any more.
	Through events.Position
}

// DroppedUses are single uses of an organization that are not told any more, nor
// counted by minute.
type DroppedUses struct {
	// Before and Through say which: those that happened before, in blocks up to the
	// position.
	Before  events.Time
	Through events.Position
	// Days count all of them. They make up for blocks that were never read here, so
	// a view that has missed none can do without.
	Days []events.UsesDay
}

// Drop forgets what retention has dropped, in one transaction. Counts by hour and
// day, last uses, sources and findings stay. It may be called beside Apply, before
// it, and again.
//
// What it dropped and this view has never read, because it was rebuilt since, is
// known from its counts: they stand in the first hour of their day, for the
// organization and no single key.
func (v *View) Drop(ctx context.Context, d Dropped) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.load(ctx); err != nil {
		return err
	}
	err := v.db.Update(ctx, v.at, v.at, func(tx *sqlview.Tx) error {
		for _, org := range slices.Sorted(maps.Keys(d.Orgs)) {
			if err := v.drop(tx, org, d.Orgs[org]); err != nil {
				return err
			}
		}
		return dropThrough(tx, d.Through)
	})
	// The rows of keys have changed under what is remembered of them.
	v.seen = nil
	if err != nil {
		return fmt.Errorf("usage: drop: %w", err)
	}
	return nil
}

// droppedSQL notes what was dropped: of an organization, or of the stream.
const droppedSQL = `INSERT INTO dropped AS d VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET
	before = max(d.before, excluded.before), through = max(d.through, excluded.through)`

// loadDropped reads what was dropped of organizations.
func loadDropped(ctx context.Context, tx *sql.Tx) (map[events.OrgID]DroppedUses, error) {
	rows, err := tx.QueryContext(ctx, `SELECT org, before, through FROM dropped WHERE org <> ''`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	dropped := make(map[events.OrgID]DroppedUses)
	for rows.Next() {
		var org events.OrgID
		var d DroppedUses
		if err := rows.Scan(&org, &d.Before, &d.Through); err != nil {
			return nil, err
		}
		dropped[org] = d
	}
	return dropped, rows.Err()
}

// holds reports whether a use is among what was dropped.
func (d DroppedUses) holds(at events.Time, position events.Position) bool {
	return at < d.Before && position <= d.Through
}

// addOrg gives an organization a number.
func (m *known) addOrg(tx *sqlview.Tx, org events.OrgID) (int64, error) {
	no := int64(len(m.orgs)) + 1
	m.orgs[org] = no
	_, err := tx.Exec(`INSERT INTO orgs VALUES (?, ?, 0)`, no, string(org))
	return no, err
}

func (v *View) drop(tx *sqlview.Tx, org events.OrgID, d DroppedUses) error {
	no, ok := v.known.orgs[org]
	if !ok {
		var err error
		if no, err = v.known.addOrg(tx, org); err != nil {
			return err
		}
	}
	// The minute that it lies in stays; its uses are told from then on.
	whole := int64(d.Before / minute)
	for _, change := range []struct {
		query string
		args  []any
	}{
		{`UPDATE orgs SET dropped_before = max(dropped_before, ?) WHERE no = ?`, []any{int64(d.Before), no}},
		{droppedSQL, []any{string(org), int64(d.Before), int64(d.Through)}},
		{`DELETE FROM org_blocks WHERE no = ? AND minute < ?`, []any{no, whole}},
		{`DELETE FROM org_minutes WHERE no = ? AND minute < ?`, []any{no, whole}},
		{`DELETE FROM key_blocks WHERE no IN (SELECT no FROM last_used WHERE org = ?) AND minute < ?`, []any{string(org), whole}},
		{`UPDATE last_used SET bits = 0, count = 0 WHERE org = ? AND minute < ? AND count > 0`, []any{string(org), whole}},
	} {
		if _, err := tx.Exec(change.query, change.args...); err != nil {
			return err
		}
	}
	for _, d := range d.Days {
		code, ok := events.ParseCode(d.Code)
		if !ok {
			continue
		}
		// What was counted here before is part of it.
		first := int64(d.Day / hour)
		if _, err := tx.Exec(`INSERT INTO org_hours AS c
			SELECT ?1, ?2, ?3, ?4 - had FROM (SELECT ifnull(sum(count), 0) AS had FROM org_hours WHERE no = ?1 AND hour >= ?2 AND hour < ?2 + 24 AND code = ?3)
			WHERE had < ?4 ON CONFLICT DO UPDATE SET count = c.count + excluded.count`, no, first, int(code), int64(min(d.Uses, math.MaxInt64))); err != nil {
			return err
		}
	}
	return nil
}

// dropThrough forgets blocks. What named them is dropped with the organizations'
// minutes, or passed over when they are not found.
func dropThrough(tx *sqlview.Tx, through events.Position) error {
	if through == 0 {
		return nil
	}
	if _, err := tx.Exec(droppedSQL, "", 0, int64(through)); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM blocks WHERE position <= ?`, int64(through))
	return err
}

// DroppedBefore is the time before which an organization's single uses are not told
// any more, 0 when all are.
func (v *View) DroppedBefore(ctx context.Context, org events.OrgID) (events.Time, error) {
	found, err := sqlview.All(ctx, v.db, func(row sqlview.Scanner) (at events.Time, err error) { return at, row.Scan(&at) },
		`SELECT dropped_before FROM orgs WHERE org = ?`, string(org))
	if err != nil || len(found) == 0 {
		return 0, err
	}
	return found[0], nil
}

// DroppedThrough is the position up to which the stream has dropped its blocks, as
// far as the view was told.
func (v *View) DroppedThrough(ctx context.Context) (events.Position, error) {
	var at events.Position
	err := v.db.QueryRow(ctx, `SELECT ifnull(max(through), 0) FROM dropped WHERE org = ''`).Scan(&at)
	if err != nil {
		return 0, fmt.Errorf("usage: dropped blocks: %w", err)
	}
	return at, nil
}

// Kept is an organization that has uses here, and what was dropped of them.
type Kept struct {
	Org events.OrgID
	// Before and Through are zero when nothing was.
	Before  events.Time
	Through events.Position
	// Oldest is the minute of the oldest use that there is detail of, 0 when there
	// is none. It may lie before Before: of uses that came since.
	Oldest events.Time
}

// Kept lists the organizations that have uses here.
func (v *View) Kept(ctx context.Context) ([]Kept, error) {
	list, err := sqlview.All(ctx, v.db, func(row sqlview.Scanner) (Kept, error) {
		var k Kept
		err := row.Scan(&k.Org, &k.Before, &k.Through, &k.Oldest)
		k.Oldest *= minute
		return k, err
	}, `SELECT org, ifnull(before, 0), ifnull(through, 0), ifnull((SELECT min(minute) FROM org_blocks AS b WHERE b.no = orgs.no), 0)
		FROM orgs LEFT JOIN dropped USING (org) ORDER BY org`)
	if err != nil {
		return nil, fmt.Errorf("usage: organizations: %w", err)
	}
	return list, nil
}

// DaysBefore counts an organization's uses of the days before a midnight, by day and
// verdict, all that were ever known, and returns the position up to which they are
// counted.
func (v *View) DaysBefore(ctx context.Context, org events.OrgID, before events.Time) (days []events.UsesDay, through events.Position, err error) {
	err = v.db.Snapshot(ctx, func(tx *sql.Tx) error {
		if through, err = sqlview.PositionIn(ctx, tx, "main"); err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, `SELECT hour / 24, code, sum(count) FROM org_hours
			WHERE no = (SELECT no FROM orgs WHERE org = ?) AND hour < ? GROUP BY 1, 2 ORDER BY 1, 2`, string(org), int64(before/hour))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var d events.UsesDay
			var code events.Code
			if err := rows.Scan(&d.Day, &code, &d.Uses); err != nil {
				return err
			}
			d.Day, d.Code = d.Day*day, code.String()
			days = append(days, d)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, 0, fmt.Errorf("usage: days: %w", err)
	}
	return days, through, nil
}

// Past are the first blocks of the stream, none of which holds a use that is told
// any more.
type Past struct {
	// Through is the position of the last one, 0 when there is none, and Stored when
	// it was stored.
	Through events.Position
	Stored  events.Time
	// Days count their uses, each once.
	Days []events.UsesDay
}

// pastBlock is one of them.
type pastBlock struct {
	position events.Position
	fresh    uint64
}

// PastThrough returns the position of the last of them, 0 when there is none. The
// stream begins with first.
func (v *View) PastThrough(ctx context.Context, first events.Position, limit int) (events.Position, error) {
	list, err := v.past(ctx, first, limit)
	if err != nil || len(list) == 0 {
		return 0, err
	}
	return list[len(list)-1].position, nil
}

func (v *View) past(ctx context.Context, first events.Position, limit int) ([]pastBlock, error) {
	list, err := sqlview.All(ctx, v.db, func(row sqlview.Scanner) (pastBlock, error) {
		var b pastBlock
		return b, row.Scan(&b.position, &b.fresh)
	}, `SELECT position, fresh FROM blocks WHERE position >= ?1 AND position < ifnull((
			SELECT position FROM blocks JOIN orgs AS o ON o.no = blocks.org LEFT JOIN dropped AS d ON d.org = o.org
			WHERE position >= ?1 AND (to_at >= ifnull(d.before, 0) OR position > d.through) ORDER BY position LIMIT 1), ?2)
		ORDER BY position LIMIT ?3`, int64(first), int64(math.MaxInt64), limit)
	if err != nil {
		return nil, fmt.Errorf("usage: past blocks: %w", err)
	}
	return list, nil
}

// Past reads those blocks, and no more of them than a limit.
func (v *View) Past(ctx context.Context, first events.Position, limit int) (Past, error) {
	var p Past
	if v.blocks == nil {
		return p, errNoBlocks
	}
	list, err := v.past(ctx, first, limit)
	if err != nil {
		return p, err
	}
	dec, err := uses.NewDecoder()
	if err != nil {
		return p, fmt.Errorf("usage: past blocks: %w", err)
	}
	counts := make(map[events.UsesDay]uint64)
	for _, b := range list {
		m, err := v.cfg.Blocks.UsesAt(ctx, b.position)
		if errors.Is(err, events.ErrInvalidPosition) {
			continue // somebody has dropped it
		}
		if err != nil {
			return Past{}, fmt.Errorf("usage: past blocks: %w", err)
		}
		block, err := dec.Decode(m.Subject, m.Body)
		if err != nil {
			return Past{}, fmt.Errorf("%w: block of uses %d: %w", events.ErrCorrupt, b.position, err)
		}
		for i := range block.Uses {
			if u := &block.Uses[i]; block.First+uint64(i) >= b.fresh {
				at := noLater(u.At, m.Stored)
				counts[events.UsesDay{Day: at - at%day, Code: u.Code.String()}]++
			}
		}
		p.Through, p.Stored = b.position, m.Stored
	}
	for d, n := range counts {
		d.Uses = n
		p.Days = append(p.Days, d)
	}
	return p, nil
}

// Whole reports whether the view has read every block up to a position.
func (v *View) Whole(ctx context.Context, through events.Position) (bool, error) {
	at, err := v.Position(ctx)
	if err != nil || at < through {
		return false, err
	}
	var missed bool
	err = v.db.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM beginning) OR EXISTS (SELECT 1 FROM findings WHERE kind = ?)`, string(FindingGap)).Scan(&missed)
	if err != nil {
		return false, fmt.Errorf("usage: whole: %w", err)
	}
	return !missed, nil
}
