package usage

import (
	"cmp"
	"context"
	"slices"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// How long the minutes of denials are kept, by the stream's own time. Most are of
// clients that knock now and then, and many keys may have such: those with fewer
// than events.DefaultDenialsPerMinute go after lateBy. What is stored later than
// that after its use is not counted, so that a count is final by then, and the file
// holds the same however the blocks were sliced.
const (
	lateBy = 60 * minute
	kept   = 24 * 60 * minute
)

// denial reports whether a verdict says that the key does not give what was asked
// for. One that says that there is no verdict says nothing of the key.
func denial(code events.Code) bool {
	switch code {
	case events.CodeExpired, events.CodeInactive, events.CodeRevoked, events.CodeInsufficientPermissions, events.CodeOutOfScope:
		return true
	default:
		return false
	}
}

// minuteName is a minute of a key.
type minuteName struct {
	keyName
	from events.Time
}

// denied is what some blocks add to a minute.
type denied struct {
	count    int64
	position events.Position
}

// deny counts a use that was denied, unless it comes too late.
func (c *changes) deny(name keyName, u *uses.Use, at events.Time, r uses.Message) {
	if !denial(u.Code) {
		return
	}
	from := wholeMinute(at)
	if from < c.clock-lateBy {
		return
	}
	d := c.denied[minuteName{name, from}]
	d.count++
	d.position = r.Position
	c.denied[minuteName{name, from}] = d
}

func (c *changes) writeDenials(tx *sqlview.Tx, _ *known) error {
	names := make([]minuteName, 0, len(c.denied))
	for name := range c.denied {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b minuteName) int {
		return cmp.Or(cmp.Compare(a.from, b.from), inOrder(a.keyName, b.keyName))
	})
	for _, name := range names {
		d := c.denied[name]
		if _, err := tx.Exec(`INSERT INTO denials AS d VALUES (?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET count = d.count + excluded.count, position = excluded.position`,
			int64(name.from), string(name.org), name.key.String(), d.count, int64(d.position)); err != nil {
			return err
		}
	}
	c.news = c.news || len(names) > 0
	return c.writeClock(tx)
}

// writeClock moves the stream's time on, and forgets what is too old by it.
func (c *changes) writeClock(tx *sqlview.Tx) error {
	if c.clock == c.clockWas {
		return nil
	}
	if _, err := tx.Exec(`INSERT INTO clock VALUES (1, ?) ON CONFLICT DO UPDATE SET at = excluded.at`, int64(c.clock)); err != nil {
		return err
	}
	if _, err := tx.Exec(`DELETE FROM denials WHERE minute < ?`, int64(c.clock-kept)); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM denials WHERE minute >= ? AND minute < ? AND count < ?`,
		int64(c.clockWas-lateBy), int64(c.clock-lateBy), events.DefaultDenialsPerMinute)
	return err
}

// Denials are how many uses of a key were denied within a minute.
type Denials struct {
	Org events.OrgID
	Key events.KeyID
	// From is the beginning of the minute.
	From  events.Time
	Count int
	// Position is that of the last block that told of one.
	Position events.Position
}

// Denials returns the minutes of keys in which uses were denied more than once, as
// far as that came to be known after a position up to another, and those that begin
// at an instant or later, in order, at no more than limit positions. next is where
// to go on, through when that was all. A minute is returned again when its count
// has grown. They are kept for a day, and those with fewer denials than
// [events.DefaultDenialsPerMinute] for an hour.
func (v *View) Denials(ctx context.Context, after, through events.Position, since events.Time, limit int) (list []Denials, next events.Position, err error) {
	list, err = sqlview.All(ctx, v.db, scanDenials, `SELECT org, key, minute, count, position
		FROM denials WHERE count >= 2 AND minute >= ?3 AND position IN (
			SELECT DISTINCT position FROM denials WHERE count >= 2 AND position > ?1 AND position <= ?2 AND minute >= ?3 ORDER BY position LIMIT ?4)
		ORDER BY position, minute, org, key`, int64(after), int64(through), int64(since), limit)
	return list, goOn(list, func(d Denials) events.Position { return d.Position }, through, limit), err
}

func scanDenials(row sqlview.Scanner) (Denials, error) {
	var d Denials
	var key string
	err := row.Scan(&d.Org, &key, &d.From, &d.Count, &d.Position)
	if err != nil {
		return d, err
	}
	d.Key, err = events.ParseKeyID(key)
	return d, err
}
