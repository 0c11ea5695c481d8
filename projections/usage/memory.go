package usage

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/keyledger/keyledger/events"
)

// maxKnown bounds what is remembered of keys, so that those in use are not looked
// up for every slice: keys, and their sources and permissions, at some 250 bytes
// each, and up to 512 more for a source that stands sealed.
const maxKnown = 1 << 18

// known is what is remembered of the file, so that it need not be read. It holds
// nothing that is not in the file.
type known struct {
	// keys are some of them, size how much they take.
	keys map[keyName]*keyMemory
	size int
	// lastKey is the last number that a key got.
	lastKey int64
	// orgs and places are all numbers of organizations, and the first positions of
	// all boots.
	orgs   map[events.OrgID]int64
	places map[bootName]events.Position
	// served are those of the table that were met since the file was opened.
	served map[servedName]struct{}
	// names are those of queries that were met.
	names map[string][]string
}

// keyMemory is what the file holds of a key.
type keyMemory struct {
	// no is its number, 0 for a key that is not in the file.
	no          int64
	at, seenAt  events.Time
	head        head
	sources     sources
	permissions []permissionUse
}

// permissionUse is a permission and the hour of its last use.
type permissionUse struct {
	name string
	hour int64
}

func (k *keyMemory) size() int { return 1 + len(k.sources) + len(k.permissions) }

func newKnown() *known {
	return &known{
		keys: make(map[keyName]*keyMemory), orgs: make(map[events.OrgID]int64),
		places: make(map[bootName]events.Position), served: make(map[servedName]struct{}), names: make(map[string][]string),
	}
}

// load reads the numbers that were given.
func (m *known) load(ctx context.Context, tx *sql.Tx) error {
	if err := tx.QueryRowContext(ctx, `SELECT last FROM numbers`).Scan(&m.lastKey); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	rows, err := tx.QueryContext(ctx, `SELECT no, org FROM orgs`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var no int64
		var org events.OrgID
		if err := rows.Scan(&no, &org); err != nil {
			return err
		}
		m.orgs[org] = no
	}
	return rows.Err()
}

// shrink forgets some of what is remembered, whichever, when that is too much.
func (m *known) shrink() {
	if m.size <= maxKnown {
		return
	}
	for name, k := range m.keys {
		if m.size <= maxKnown/2 {
			return
		}
		m.size -= k.size()
		delete(m.keys, name)
	}
}

// recall reads what the file holds of keys that are not remembered.
func (v *View) recall(ctx context.Context, c *changes) error {
	missing := make(map[events.OrgID][]events.KeyID)
	for _, k := range c.met {
		if _, ok := v.known.keys[k.name]; !ok {
			missing[k.name.org] = append(missing[k.name.org], k.name.key)
			v.known.keys[k.name] = &keyMemory{head: head{span: span{code: events.CodeValid}}}
			v.known.size++
		}
	}
	for org, keys := range missing {
		list, err := json.Marshal(keys)
		if err != nil {
			return err
		}
		err = v.db.Snapshot(ctx, func(tx *sql.Tx) error { return v.known.read(ctx, tx, org, string(list)) })
		if err != nil {
			return err
		}
	}
	return nil
}

const wanted = ` FROM json_each(?) AS wanted CROSS JOIN last_used AS l ON l.org = ? AND l.key = wanted.value`

func (m *known) read(ctx context.Context, tx *sql.Tx, org events.OrgID, keys string) error {
	byNumber := make(map[int64]*keyMemory)
	each := func(query string, row func(scan func(...any) error) error) error {
		rows, err := tx.QueryContext(ctx, query, keys, string(org))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := row(rows.Scan); err != nil {
				return err
			}
		}
		return rows.Err()
	}
	err := each(`SELECT l.key, no, ifnull(at, 0), seen_at, hour_count, minute, segment, bits, count, from_us, to_us`+wanted,
		func(scan func(...any) error) error {
			var text string
			var k keyMemory
			h := head{span: span{code: events.CodeValid}}
			var bits int64
			err := scan(&text, &k.no, &k.at, &k.seenAt, &h.hourCount, &h.minute, &h.segment, &bits, &h.count, &h.from, &h.to)
			if err != nil {
				return err
			}
			key, err := events.ParseKeyID(text)
			if err != nil {
				return err
			}
			h.bits = uint64(bits)
			h.from, h.to = h.from+events.Time(h.minute)*minute, h.to+events.Time(h.minute)*minute
			k.head = h
			*m.keys[keyName{org, key}] = k
			byNumber[k.no] = m.keys[keyName{org, key}]
			return nil
		})
	if err != nil || len(byNumber) == 0 {
		return err
	}
	err = each(`SELECT l.no, s.kind, s.source, s.last_at`+wanted+` CROSS JOIN source AS s ON s.org = l.org AND s.key = l.key`,
		func(scan func(...any) error) error {
			var no int64
			var s knownSource
			if err := scan(&no, &s.kind, &s.source, &s.last); err != nil {
				return err
			}
			k := byNumber[no]
			k.sources = append(k.sources, s)
			m.size++
			return nil
		})
	if err != nil {
		return err
	}
	return each(`SELECT l.no, p.permission, p.hour`+wanted+` CROSS JOIN key_permission AS p ON p.no = l.no`,
		func(scan func(...any) error) error {
			var no int64
			var p permissionUse
			if err := scan(&no, &p.name, &p.hour); err != nil {
				return err
			}
			k := byNumber[no]
			k.permissions = append(k.permissions, p)
			m.size++
			return nil
		})
}
