package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// Due is a key that asks for a fact.
type Due struct {
	Org events.OrgID
	Key events.KeyID
	// EndsAt is the key's end.
	EndsAt events.Time
	// At is when the fact was due.
	At events.Time

	// deleted says that the organization has ended, rotation that what is due at
	// At is the key's rotation.
	deleted, rotation bool
	created           events.Position
}

// Ask is the fact that a key asks for.
type Ask int

// What keys ask for.
const (
	// AskNotice is notice of the key's end.
	AskNotice Ask = iota
	// AskExpiry is the record that its time has come.
	AskExpiry
	// AskRotationDue is that it has reached the age at which it should be rotated.
	AskRotationDue
	// AskRevocation is its revocation, since its organization has ended.
	AskRevocation
)

// Ask tells which fact it is by now: of a key whose time has come nothing else is
// told, whatever was due before.
func (d Due) Ask(now events.Time) Ask {
	switch {
	case d.deleted:
		return AskRevocation
	case d.EndsAt.Passed(now):
		return AskExpiry
	case d.rotation:
		return AskRotationDue
	default:
		return AskNotice
	}
}

// These run along the index key_due.
const (
	dueQuery = `SELECT org, id, ends_at, due_at, ` + endedSQL + `, due_at = rotation_due_at AND rotation_due_at > rotation_told_at, created_position FROM key
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
	if err := row.Scan(&d.Org, &id, &d.EndsAt, &d.At, &d.deleted, &d.rotation, &d.created); err != nil {
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
	// unrevoked finds the keys of an organization along the index of those that are
	// not revoked, dueOfOrg those of them for which anything will be due.
	unrevoked = `org = ? AND revoked = 0`
	dueOfOrg  = unrevoked + ` AND due_at <> 0`

	// endOfOrg is the end of a key's organization, endedSQL whether there is one.
	endOfOrg = `FROM revocation e WHERE e.org = key.org AND e.id = '` + events.RevokedAll + `'`
	endedSQL = `EXISTS (SELECT 1 ` + endOfOrg + `)`

	// endsSQL is Key.EndsAt.
	endsSQL = `CASE WHEN grace_ends_at <> 0 AND (expires_at = 0 OR grace_ends_at < expires_at) THEN grace_ends_at ELSE expires_at END`

	// rotationSQL is when a key should be rotated: by its age, where its
	// organization wants that, if it was not and has not ended.
	rotationSQL = `CASE WHEN revoked OR expired_at <> 0 OR rotated_to <> '' OR ` + endedSQL + ` THEN 0
		ELSE coalesce((SELECT unixepoch(key.created_at / 1000000, 'unixepoch', rotate.after, 'floor') * 1000000
			FROM (SELECT coalesce((SELECT o.rotate_after FROM organization o WHERE o.org = key.org), '` + defaultRotateAfter + `') AS after) rotate
			WHERE rotate.after <> ''), 0) END`

	// dueSQL is when a key's next fact is due. Of one whose organization has ended
	// its revocation is, since then. Else it is the first of the notices that come
	// after what is known of the end, or the end itself, and the rotation if it was
	// not told. What has ended otherwise has nothing to come.
	dueSQL = `CASE WHEN revoked THEN 0 WHEN ` + endedSQL + ` THEN (SELECT e.revoked_at ` + endOfOrg + `) WHEN expired_at <> 0 THEN 0
		ELSE coalesce(nullif(min(
			CASE WHEN ends_at = 0 THEN ` + neverSQL + ` ELSE coalesce((SELECT min(m.at) FROM (
				SELECT unixepoch(key.ends_at / 1000000, 'unixepoch', n.before, 'floor') * 1000000 AS at FROM notice n WHERE n.org = key.org) m
				WHERE m.at > key.noticed_at), ends_at) END,
			CASE WHEN rotation_due_at > rotation_told_at THEN rotation_due_at ELSE ` + neverSQL + ` END), ` + neverSQL + `), 0) END`

	// neverSQL lies behind every instant.
	neverSQL = `9223372036854775807`

	// defaultRotateAfter is [events.DefaultRotationDueAfter] as a modifier.
	defaultRotateAfter = `+90 days`
)

// born works out when the fact's key, which is new, should be rotated, and when
// something is due of it.
func (a *applier) born() error {
	_, err := a.tx.Exec(`UPDATE key SET rotation_due_at = `+rotationSQL+` WHERE org = ? AND id = ?`, a.org, a.id)
	return errors.Join(err, a.due())
}

// due works out anew when something is due of the fact's key.
func (a *applier) due() error {
	_, err := a.tx.Exec(`UPDATE key SET due_at = `+dueSQL+` WHERE org = ? AND id = ?`, a.org, a.id)
	return err
}

// moved works out anew when the fact's key ends, and what is due of it.
func (a *applier) moved() error {
	_, err := a.tx.Exec(`UPDATE key SET ends_at = `+endsSQL+`, noticed_at = ? WHERE org = ? AND id = ? AND ends_at <> `+endsSQL, a.time, a.org, a.id)
	return errors.Join(err, a.due())
}

// policy takes over how long ahead an organization wants notice of its keys'
// ends, and at which age they should be rotated. What is due of each of them is
// worked out anew if that has changed.
func (a *applier) policy(p events.Policy) error {
	noticed, err := a.notices(p.ExpiryNotices)
	if err != nil {
		return err
	}
	aged, err := a.rotateAfter(p.RotateAfter())
	switch {
	case err != nil:
		return err
	case aged:
		_, err = a.tx.Exec(`UPDATE key SET due_at = `+dueSQL+` WHERE `+unrevoked, a.org)
	case noticed:
		_, err = a.tx.Exec(`UPDATE key SET due_at = `+dueSQL+` WHERE `+dueOfOrg, a.org)
	}
	return err
}

// notices reports whether the notices are others than before.
func (a *applier) notices(periods []events.Period) (changed bool, err error) {
	var list []string
	for _, p := range periods {
		if before := modifier("-", p); before != "" {
			list = append(list, before)
		}
	}
	slices.Sort(list)
	list = slices.Compact(list)
	had := ""
	if _, err := a.tx.QueryRow(`SELECT coalesce(group_concat(before), '') FROM (SELECT before FROM notice WHERE org = ? ORDER BY before)`,
		[]any{a.org}, &had); err != nil {
		return false, err
	}
	if had == strings.Join(list, ",") {
		return false, nil
	}
	if _, err := a.tx.Exec(`DELETE FROM notice WHERE org = ?`, a.org); err != nil {
		return false, err
	}
	for _, before := range list {
		if _, err := a.tx.Exec(`INSERT INTO notice (org, before) VALUES (?, ?)`, a.org, before); err != nil {
			return false, err
		}
	}
	return true, nil
}

// rotateAfter reports whether the age is another than before.
func (a *applier) rotateAfter(p events.Period) (changed bool, err error) {
	after := modifier("+", p)
	n, err := a.tx.Exec(`UPDATE organization SET rotate_after = ?1 WHERE org = ?2 AND rotate_after <> ?1`, after, a.org)
	if err != nil || n == 0 {
		return false, err
	}
	_, err = a.tx.Exec(`UPDATE key SET rotation_due_at = `+rotationSQL+` WHERE `+unrevoked, a.org)
	return true, err
}

// modifier is a period before a date, or after it, as SQLite writes it, nothing
// for what is no period. A year is 12 months there too.
func modifier(sign string, p events.Period) string {
	for _, unit := range [...]struct{ suffix, modifier string }{{"mo", " months"}, {"d", " days"}, {"y", " years"}} {
		if n, ok := strings.CutSuffix(string(p), unit.suffix); ok && n != "" && n[0] != '0' && strings.Trim(n, "0123456789") == "" {
			return sign + n + unit.modifier
		}
	}
	return ""
}
