package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// configuring is the condition on events that bear on all keys of their
// organization: all but those of one key, the guards of its limit, of which there
// is one for each new key, and the tests of its provider keys, of which there may be
// one every minute. One of a kind yet unknown may bear on anything.
const configuring = `aggregate <> '` + string(events.AggregateKey) + `' AND kind <> '` + string(events.KindQuotaChanged) +
	`' AND kind <> '` + string(events.KindProviderKeyTested) + `' AND (aggregate <> '` + string(events.AggregateRevoked) + `' OR id = '` + events.RevokedAll + `')`

// schemaAsOf finds those events among however many there are of keys.
const schemaAsOf = `CREATE INDEX event_configuring ON event (org, position) WHERE ` + configuring + `;
`

// Bearing are the events up to a position that bear on what keys of an
// organization were: all of those keys', and all of the organization's
// configuration; the oldest first. They are read while they are ranged over, for
// as long as ctx lasts, and one of the log's readers is taken until then.
func (l *Log) Bearing(ctx context.Context, org events.OrgID, keys []events.KeyID, until events.Position) iter.Seq2[events.Recorded, error] {
	const columns = `SELECT position, stored, aggregate, id, body FROM event `
	const query = columns + `INDEXED BY event_configuring WHERE org = ?1 AND position <= ?3 AND ` + configuring + `
		UNION ALL ` + columns + `INDEXED BY event_subject WHERE org = ?1 AND id IN (SELECT value FROM json_each(?2))
			AND aggregate IN ('` + string(events.AggregateKey) + `', '` + string(events.AggregateRevoked) + `') AND position <= ?3
		ORDER BY position`
	return func(yield func(events.Recorded, error) bool) {
		ids, err := json.Marshal(keys)
		if err != nil {
			yield(events.Recorded{}, fmt.Errorf("audit: %w", err))
			return
		}
		rows, err := l.db.Query(ctx, query, string(org), string(ids), int64(until))
		if err != nil {
			yield(events.Recorded{}, fmt.Errorf("audit: %w", err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			r, err := scanRecorded(rows, org)
			if err != nil {
				yield(events.Recorded{}, fmt.Errorf("audit: %w", err))
				return
			}
			if !yield(r, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(events.Recorded{}, fmt.Errorf("audit: %w", err))
		}
	}
}

func scanRecorded(row sqlview.Scanner, org events.OrgID) (events.Recorded, error) {
	r := events.Recorded{Subject: events.Subject{Org: org}}
	if err := row.Scan(&r.Position, &r.Stored, &r.Subject.Aggregate, &r.Subject.ID, &r.Raw); err != nil {
		return r, err
	}
	var err error
	r.Meta, r.Event, err = events.Decode(r.Subject, r.Raw)
	return r, err
}

// CreatedKey is a key and the position of its creation.
type CreatedKey struct {
	ID       events.KeyID
	Position events.Position
}

// Created lists the keys of an organization that were created after a position
// and up to another, the oldest first, at most so many.
func (l *Log) Created(ctx context.Context, org events.OrgID, after, until events.Position, most int) ([]CreatedKey, error) {
	found, err := sqlview.All(ctx, l.db, scanCreated, `SELECT id, position FROM event
		WHERE org = ? AND name = 'key.created' AND position > ? AND position <= ? ORDER BY position LIMIT ?`,
		string(org), int64(after), int64(until), most)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return found, nil
}

func scanCreated(row sqlview.Scanner) (k CreatedKey, err error) {
	var id string
	if err := row.Scan(&id, &k.Position); err != nil {
		return k, err
	}
	k.ID, err = events.ParseKeyID(id)
	return k, err
}

// Clock returns when a position was stored, by the broker's clock: the time of
// the last change up to it, and 0 when there was none yet. Like [Log.At] it takes
// what was stored while that clock was back for stored when it had been ahead.
func (l *Log) Clock(ctx context.Context, pos events.Position) (events.Time, error) {
	var t events.Time
	err := l.db.QueryRow(ctx, `SELECT clock FROM event WHERE position <= ? ORDER BY position DESC LIMIT 1`, int64(pos)).Scan(&t)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("audit: %w", err)
	}
	return t, nil
}

// Whole returns the position of the last of the events that were appended as one
// with that at a position; of what was appended alone that is its own.
func (l *Log) Whole(ctx context.Context, pos events.Position) (events.Position, error) {
	e, found, err := l.Event(ctx, pos)
	if err != nil || !found {
		return pos, err
	}
	meta, _, err := e.Decode()
	if err != nil {
		return pos, fmt.Errorf("audit: %w", err)
	}
	return pos + events.Position(meta.BatchSize-meta.BatchIndex), nil
}

// Event returns the event at a position, and whether there is one.
func (l *Log) Event(ctx context.Context, pos events.Position) (Event, bool, error) {
	found, err := sqlview.All(ctx, l.db, scan, columns+`WHERE position = ?`, int64(pos))
	if err != nil {
		return Event{}, false, fmt.Errorf("audit: %w", err)
	}
	if len(found) == 0 {
		return Event{}, false, nil
	}
	return found[0], true, nil
}
