package reports

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/projections/catalog"
)

// What a failed verification was about.
const (
	aboutKey     = "key"
	aboutUnknown = "unknown secret"
	aboutLogin   = "login"
)

// failures reads the verifications that were not VALID: those of keys, key by key,
// and then those that no key is known of. A page ends with all of a key.
func (v *reading) failures(ctx context.Context, after events.Position) error {
	strangers := v.of.strangers && v.q.Within.AllWorkspaces
	if after&strangerPlace == 0 {
		full, err := v.keyFailures(ctx, after)
		if err != nil || full {
			return err
		}
		after = strangerPlace
	}
	if !strangers {
		return nil
	}
	return v.strangers(ctx, after&^strangerPlace)
}

// strangerPlace marks the places behind the last key. No ledger is as long.
const strangerPlace = events.Position(1) << 62

// keyFailures goes along the keys that were ever seen, by their ids, and reports
// whether a page was full.
func (v *reading) keyFailures(ctx context.Context, after events.Position) (bool, error) {
	last, err := v.keyAt(ctx, after)
	if err != nil {
		return false, err
	}
	from, to := v.days()
	for {
		ids, err := v.denied(ctx, last, from, to)
		if err != nil || len(ids) == 0 {
			return false, err
		}
		last = ids[len(ids)-1].String()
		known, err := catalog.Some(ctx, v.tx, v.q.Org, ids, v.q.Now)
		if err != nil {
			return false, err
		}
		keys := make(map[events.KeyID]*catalog.Key, len(known))
		for i := range known {
			keys[known[i].ID] = &known[i]
		}
		rows, err := v.denials(ctx, ids, from, to)
		if err != nil {
			return false, err
		}
		for _, id := range ids {
			k := keys[id]
			// A verifier that was taken over can tell of keys that there are not.
			if k == nil || !k.Within(v.q.Within) {
				continue
			}
			if v.bound.full() {
				v.stop(after)
				return true, nil
			}
			for _, d := range rows[id] {
				row := Row{
					aboutKey, id.String(), k.Name, keystring.Masked(k.Prefix, k.LastFour), d.code.String(), d.kind,
					Source{v.q.Org, d.source},
					d.count, d.first, d.last,
				}
				if err := v.each(row); err != nil {
					return false, err
				}
			}
			after = k.Place()
			v.bound.count(len(rows[id]))
		}
	}
}

// days are the days of the question's period, the one in which it begins included.
func (v *reading) days() (from, to events.Time) {
	from, to = v.q.Period()
	if to == 0 {
		to = maxTime
	}
	return from - from%day, to
}

const maxTime = events.Time(1)<<62 - 1

// keyAt is the id of the key of a place, from which the keys after it follow.
func (v *reading) keyAt(ctx context.Context, place events.Position) (string, error) {
	var id string
	err := v.tx.QueryRowContext(ctx, `SELECT coalesce(max(id), '') FROM main.key WHERE created_position = ?`, int64(place)).Scan(&id)
	if err != nil {
		return "", fmt.Errorf("reports: %w", err)
	}
	return id, nil
}

// denied lists the next keys that were denied.
func (v *reading) denied(ctx context.Context, after string, from, to events.Time) ([]events.KeyID, error) {
	rows, err := v.tx.QueryContext(ctx, `SELECT l.key FROM usage.last_used l WHERE l.org = ?1 AND l.key > ?2
		AND EXISTS (SELECT 1 FROM usage.denied_source d WHERE d.org = l.org AND d.key = l.key AND d.day >= ?3 AND d.day < ?4)
		ORDER BY l.key LIMIT ?5`, string(v.q.Org), after, int64(from), int64(to), v.bound.most())
	if err != nil {
		return nil, fmt.Errorf("reports: keys that were denied: %w", err)
	}
	defer rows.Close()
	var ids []events.KeyID
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, fmt.Errorf("reports: keys that were denied: %w", err)
		}
		id, err := events.ParseKeyID(text)
		if err != nil {
			return nil, fmt.Errorf("reports: keys that were denied: %w", err)
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

// denial is how often a key was denied so.
type denial struct {
	code         events.Code
	kind, source string
	count        int64
	first, last  events.Time
}

func (v *reading) denials(ctx context.Context, ids []events.KeyID, from, to events.Time) (map[events.KeyID][]denial, error) {
	list, err := json.Marshal(ids)
	if err != nil {
		return nil, fmt.Errorf("reports: %w", err)
	}
	rows, err := v.tx.QueryContext(ctx, `SELECT key, code, kind, source, sum(count), min(day), max(day) FROM usage.denied_source
		WHERE org = ?1 AND key IN (SELECT value FROM json_each(?2)) AND day >= ?3 AND day < ?4
		GROUP BY key, code, kind, source ORDER BY key, code, kind, source`, string(v.q.Org), string(list), int64(from), int64(to))
	if err != nil {
		return nil, fmt.Errorf("reports: denials: %w", err)
	}
	defer rows.Close()
	out := make(map[events.KeyID][]denial, len(ids))
	for rows.Next() {
		var key string
		var d denial
		if err := rows.Scan(&key, &d.code, &d.kind, &d.source, &d.count, &d.first, &d.last); err != nil {
			return nil, fmt.Errorf("reports: denials: %w", err)
		}
		id, err := events.ParseKeyID(key)
		if err != nil {
			return nil, fmt.Errorf("reports: denials: %w", err)
		}
		out[id] = append(out[id], d)
	}
	return out, rows.Err()
}

// strangers reads the verifications and logins that no key is known of.
func (v *reading) strangers(ctx context.Context, after events.Position) error {
	from, to := v.q.Period()
	if to == 0 {
		to = maxTime
	}
	for {
		list, err := v.attempts(ctx, after, from, to)
		if err != nil || len(list) == 0 {
			return err
		}
		for _, a := range list {
			if v.bound.full() {
				v.stop(after | strangerPlace)
				return nil
			}
			row := Row{
				a.what, "", events.Text{}, "", a.code, a.kind, Source{events.System, a.source}, a.count, a.first, a.last,
			}
			if err := v.each(row); err != nil {
				return err
			}
			after = a.position
			v.bound.count(1)
		}
	}
}

// attempt is how often strangers tried within a minute.
type attempt struct {
	position                 events.Position
	what, code, kind, source string
	count                    int64
	first, last              events.Time
}

func (v *reading) attempts(ctx context.Context, after events.Position, from, to events.Time) ([]attempt, error) {
	rows, err := v.tx.QueryContext(ctx, `SELECT position, iif(kind = '`+string(access.LoginFailed)+`', '`+aboutLogin+`', '`+aboutUnknown+`'),
		code, source_kind, source, count, first_at, last_at FROM access.access INDEXED BY access_org
		WHERE org = ?1 AND position > ?2 AND minute >= ?3 AND minute < ?4
		AND (kind = '`+string(access.SecretUnknown)+`' OR kind = '`+string(access.LoginFailed)+`' AND actor = '') ORDER BY position LIMIT ?5`,
		string(v.q.Org), int64(after), int64(wholeMinute(from)), int64(to), v.bound.most())
	if err != nil {
		return nil, fmt.Errorf("reports: strangers: %w", err)
	}
	defer rows.Close()
	var out []attempt
	for rows.Next() {
		var a attempt
		if err := rows.Scan(&a.position, &a.what, &a.code, &a.kind, &a.source, &a.count, &a.first, &a.last); err != nil {
			return nil, fmt.Errorf("reports: strangers: %w", err)
		}
		out = append(out, a)
	}
	return out, rows.Err()
}

// wholeMinute is the beginning of a minute.
func wholeMinute(t events.Time) events.Time { return t - t%(60*1_000_000) }
