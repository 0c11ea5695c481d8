package catalog

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// Due is a key whose end asks for a fact: notice of it, or the record of it.
type Due struct {
	Org events.OrgID
	Key events.KeyID
	// EndsAt is the key's end.
	EndsAt events.Time
	// At is when the fact was due.
	At events.Time

	created events.Position
}

// Ended reports whether the key's time has come, so that it is to be recorded;
// before that, notice is to be given.
func (d Due) Ended(now events.Time) bool { return d.EndsAt.Passed(now) }

// These run along the index key_due.
const (
	dueQuery = `SELECT org, id, ends_at, due_at, created_position FROM key
	WHERE due_at <> 0 AND due_at <= ?1 AND due_at >= ?2 AND (due_at > ?2 OR created_position > ?3)
	ORDER BY due_at, created_position LIMIT ?4`
	nextQuery    = `SELECT min(due_at) FROM key WHERE due_at <> 0`
	overdueQuery = `SELECT count(*) FROM (SELECT 1 FROM key WHERE due_at <> 0 AND due_at <= ? LIMIT ?)`
)

// Due lists keys of every organization for which a fact is due at an instant
// and not recorded, from the longest due on. It goes on after the last one of
// the list before; the zero Due is the beginning.
func (c *Catalog) Due(ctx context.Context, now events.Time, after Due, limit int) ([]Due, error) {
	return sqlview.All(ctx, c.db, scanDue, dueQuery, int64(now), int64(after.At), int64(after.created), limit)
}

func scanDue(row sqlview.Scanner) (Due, error) {
	var d Due
	var id string
	if err := row.Scan(&d.Org, &id, &d.EndsAt, &d.At, &d.created); err != nil {
		return d, err
	}
	var err error
	d.Key, err = events.ParseKeyID(id)
	return d, err
}

// Next returns when the next fact is or was due, 0 when none will be.
func (c *Catalog) Next(ctx context.Context) (events.Time, error) {
	var at sql.NullInt64
	err := c.db.QueryRow(ctx, nextQuery).Scan(&at)
	if err != nil {
		return 0, fmt.Errorf("catalog: %w", err)
	}
	return events.Time(at.Int64), nil
}

// Overdue counts the keys for which a fact is due at an instant and not
// recorded, up to a bound.
func (c *Catalog) Overdue(ctx context.Context, now events.Time, bound int) (int, error) {
	n := 0
	err := c.db.QueryRow(ctx, overdueQuery, int64(now), bound).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("catalog: %w", err)
	}
	return n, nil
}

const (
	// dueOfOrg finds the keys of an organization for which anything will be due,
	// along the index of those that are not revoked.
	dueOfOrg = `org = ? AND revoked = 0 AND due_at <> 0`

	// endsSQL is Key.EndsAt.
	endsSQL = `CASE WHEN grace_ends_at <> 0 AND (expires_at = 0 OR grace_ends_at < expires_at) THEN grace_ends_at ELSE expires_at END`

	// dueSQL is when a key's next fact is due: of the notices that come after
	// what is known of the end the first, else the end itself. What has ended
	// otherwise has nothing to come.
	dueSQL = `CASE WHEN revoked OR expired_at <> 0 OR ends_at = 0
			OR EXISTS (SELECT 1 FROM revocation e WHERE e.org = key.org AND e.id = '` + events.RevokedAll + `') THEN 0
		ELSE coalesce((SELECT min(m.at) FROM (
			SELECT unixepoch(key.ends_at / 1000000, 'unixepoch', n.before, 'floor') * 1000000 AS at FROM notice n WHERE n.org = key.org) m
			WHERE m.at > key.noticed_at), ends_at) END`
)

// due works out anew when something is due of the fact's key.
func (a *applier) due() error {
	_, err := a.tx.Exec(`UPDATE key SET due_at = `+dueSQL+` WHERE org = ? AND id = ?`, a.org, a.id)
	return err
}

// moved works out anew when the fact's key ends.
func (a *applier) moved() error {
	n, err := a.tx.Exec(`UPDATE key SET ends_at = `+endsSQL+`, noticed_at = ? WHERE org = ? AND id = ? AND ends_at <> `+endsSQL, a.time, a.org, a.id)
	if err != nil || n == 0 {
		return err
	}
	return a.due()
}

// notices takes over how long ahead an organization wants notice of its keys'
// ends. What is due of each of them is worked out anew if that has changed.
func (a *applier) notices(periods []events.Period) error {
	var list []string
	for _, p := range periods {
		if before := modifier(p); before != "" {
			list = append(list, before)
		}
	}
	slices.Sort(list)
	list = slices.Compact(list)
	had := ""
	if _, err := a.tx.QueryRow(`SELECT coalesce(group_concat(before), '') FROM (SELECT before FROM notice WHERE org = ? ORDER BY before)`,
		[]any{a.org}, &had); err != nil {
		return err
	}
	if had == strings.Join(list, ",") {
		return nil
	}
	if _, err := a.tx.Exec(`DELETE FROM notice WHERE org = ?`, a.org); err != nil {
		return err
	}
	for _, before := range list {
		if _, err := a.tx.Exec(`INSERT INTO notice (org, before) VALUES (?, ?)`, a.org, before); err != nil {
			return err
		}
	}
	_, err := a.tx.Exec(`UPDATE key SET due_at = `+dueSQL+` WHERE `+dueOfOrg, a.org)
	return err
}

// modifier is a period before a date as SQLite writes it, nothing for what is
// no period. A year is 12 months there too.
func modifier(p events.Period) string {
	for _, unit := range [...]struct{ suffix, modifier string }{{"mo", " months"}, {"d", " days"}, {"y", " years"}} {
		if n, ok := strings.CutSuffix(string(p), unit.suffix); ok && n != "" && strings.Trim(n, "0123456789") == "" {
			return "-" + n + unit.modifier
		}
	}
	return ""
}
