package usage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// Unit is a length of time that uses are counted by.
type Unit string

// The units. Hours and days are kept for ever, minutes as long as single uses.
const (
	ByMinute Unit = "minute"
	ByHour   Unit = "hour"
	ByDay    Unit = "day"
)

// Count is how many uses of a unit of time had a verdict.
type Count struct {
	// At is the beginning, in UTC.
	At    events.Time
	Code  events.Code
	Count uint64
}

// CountFilter says which counts are wanted.
type CountFilter struct {
	Org events.OrgID
	// Key wants those of one key, of all unless set.
	Key  events.KeyID
	Unit Unit
	// From and To want those of units that begin in between, To excluded. One
	// that From lies in is counted as a whole.
	From, To events.Time
	// Code wants those of a verdict.
	Code events.Code
	sqlview.Page
}

// countsOf are the rows that counts are summed from, by unit, for an organization
// and for a key. Their first parameter is its number. What stands in a key's own row
// is among them.
var countsOf = map[Unit][2]struct {
	rows   string
	length events.Time
}{
	ByMinute: {
		{`SELECT minute AS at, code, count FROM org_minutes WHERE no = ?1`, minute},
		{`SELECT minute AS at, code, count FROM key_blocks WHERE no = ?1
			UNION ALL SELECT minute, 1, count FROM last_used WHERE org = ?2 AND key = ?3 AND count > 0`, minute},
	},
	ByHour: {
		{`SELECT hour AS at, code, count FROM org_hours WHERE no = ?1`, hour},
		{`SELECT hour AS at, code, count FROM key_hours WHERE no = ?1
			UNION ALL SELECT minute / 60, 1, hour_count FROM last_used WHERE org = ?2 AND key = ?3 AND hour_count > 0`, hour},
	},
}

// Counts tells how many uses there were in each minute, hour or day and with each
// verdict, the oldest first, and the cursor of the next page.
func (v *View) Counts(ctx context.Context, f CountFilter) ([]Count, string, error) {
	list := sqlview.ListOf("uses by", string(f.Unit), string(f.Org), f.Key.String(), fmt.Sprint(int64(f.From), int64(f.To)), f.Code.String())
	var after place
	if f.Cursor != "" {
		var err error
		if after, err = placeOf(list, f.Cursor); err != nil {
			return nil, "", err
		}
	}
	of := 0
	query, column := `SELECT no FROM orgs WHERE org = ?`, []any{string(f.Org)}
	if !f.Key.IsZero() {
		of, query, column = 1, `SELECT no FROM last_used WHERE org = ? AND key = ?`, []any{string(f.Org), f.Key.String()}
	}
	var no int64
	err := v.db.QueryRow(ctx, query, column...).Scan(&no)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("usage: counts: %w", err)
	}
	counts, err := v.counts(ctx, f, of, no, after)
	if err != nil {
		return nil, "", fmt.Errorf("usage: counts: %w", err)
	}
	if n := f.Rows(); len(counts) > n {
		last := counts[n-1]
		return counts[:n], place{at: last.At, n: uint64(last.Code)}.cursor(list), nil
	}
	return counts, "", nil
}

func (v *View) counts(ctx context.Context, f CountFilter, of int, no int64, after place) ([]Count, error) {
	unit, days := f.Unit, int64(1)
	if unit == ByDay {
		unit, days = ByHour, 24
	}
	rows, ok := countsOf[unit]
	if !ok {
		return nil, fmt.Errorf("unit %q", f.Unit)
	}
	source := rows[of]
	var w sqlview.Where
	w.Bind(no)
	w.Bind(string(f.Org))
	w.Bind(f.Key.String())
	per := w.Bind(days)
	whole := source.length * events.Time(days)
	begin := max(f.From, after.at)
	w.AndBind(`at >= `, int64(begin/whole)*days)
	if f.To != 0 {
		w.AndBind(`at < `, int64((f.To+whole-1)/whole)*days)
	}
	if f.Code != events.CodeNone {
		w.AndBind(`code = `, int(f.Code))
	}
	having := ``
	if f.Cursor != "" {
		at := w.Bind(int64(after.at / whole))
		having = ` HAVING (at / ` + per + `, code) > (` + at + `, ` + w.Bind(int64(after.n)) + `)`
	}
	limit := w.Bind(f.Rows() + 1)
	return sqlview.All(ctx, v.db, func(row sqlview.Scanner) (Count, error) {
		var c Count
		err := row.Scan(&c.At, &c.Code, &c.Count)
		c.At *= whole
		return c, err
	}, `SELECT at / `+per+`, code, sum(count) FROM (`+source.rows+`) `+w.String()+
		` GROUP BY at / `+per+`, code`+having+` ORDER BY 1, 2 LIMIT `+limit, w.Args()...)
}

// Sources returns from where a key was used, those met first in front.
func (v *View) Sources(ctx context.Context, org events.OrgID, key events.KeyID) ([]Source, error) {
	list, err := sqlview.All(ctx, v.db, scanSource, `SELECT org, key, kind, source, first_at, last_at, first_verifier, first_code, position
		FROM source WHERE org = ? AND key = ? ORDER BY position, first_at, kind, source`, string(org), key.String())
	if err != nil {
		return nil, fmt.Errorf("usage: sources: %w", err)
	}
	return list, nil
}
