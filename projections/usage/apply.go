package usage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// Apply applies blocks of the stream of uses, in its order: all of them in one
// transaction, or none. What was applied before is passed over. What is no block
// of this ledger is a finding. An error that wraps [ErrBlock] names a position out
// of order; the view then stands before the first of these blocks, for good.
func (v *View) Apply(ctx context.Context, blocks []uses.Message) error {
	if err := v.load(ctx); err != nil {
		return err
	}
	for len(blocks) > 0 && blocks[0].Position <= v.at {
		blocks = blocks[1:]
	}
	if len(blocks) == 0 {
		return nil
	}
	c, err := v.read(blocks)
	last := blocks[len(blocks)-1].Position
	if err == nil {
		err = v.recall(ctx, c)
	}
	if err == nil {
		err = v.db.Update(ctx, v.at, last, func(tx *sqlview.Tx) error { return c.write(tx, v.memory) })
	}
	if err != nil {
		// What was counted in memory is not in the file.
		v.seen = nil
		return err
	}
	v.at, v.clock = last, c.clock
	v.memory.shrink()
	if c.news {
		v.news.Store(uint64(last))
	}
	return nil
}

// changes are what some blocks change.
type changes struct {
	seen     *uses.Continuity
	trimmed  bool
	keys     map[keyName]*keyUse
	sources  map[sourceName]*sourceUse
	met      []*sourceUse // the same, in order
	denied   map[minuteName]denied
	findings []Finding
	boots    map[bootName]events.Position // with the position met first
	series   map[seriesName]struct{}
	// clock is the minute until which blocks were stored, clockWas what it was
	// before these.
	clock, clockWas events.Time
	// news says that somebody may want to be told.
	news bool
}

// keyUse is what some blocks tell of a key.
type keyUse struct {
	LastUse
	recent *sourceUse
}

type keyName struct {
	org events.OrgID
	key events.KeyID
}

type bootName struct {
	verifier events.VerifierID
	boot     uses.BootID
}

type seriesName struct {
	bootName
	org events.OrgID
}

// read gathers what the blocks change, so that a key which is used a thousand
// times is written once.
func (v *View) read(blocks []uses.Message) (*changes, error) {
	c := &changes{
		seen: v.seen, clock: v.clock, clockWas: v.clock, keys: make(map[keyName]*keyUse),
		sources: make(map[sourceName]*sourceUse), denied: make(map[minuteName]denied),
		boots: make(map[bootName]events.Position), series: make(map[seriesName]struct{}),
	}
	at := v.at
	said := v.cfg.Logger == nil
	for _, r := range blocks {
		switch {
		case r.Position <= at:
			return nil, fmt.Errorf("%w: position %d comes after %d", ErrBlock, r.Position, at)
		case at == 0 && r.Position > 1:
			c.trimmed, v.seen.Trimmed = true, true
		case r.Position > at+1:
			c.findings = append(c.findings, Finding{Position: r.Position, Finding: uses.Finding{
				Kind: FindingGap, Org: events.System, First: uint64(at + 1), Last: uint64(r.Position - 1),
			}})
		}
		at = r.Position
		c.clock = max(c.clock, wholeMinute(r.Stored))
		b, err := v.dec.Decode(r.Subject, r.Body)
		if err == nil && b.Ledger != v.cfg.Of.Ledger {
			err = errors.New("block of another ledger")
		}
		if err != nil {
			if !said { // one line, however many somebody sends
				said = true
				v.cfg.Logger.Warn("no block of uses", "position", r.Position, "subject", r.Subject, "error", err)
			}
			c.findings = append(c.findings, unreadable(r))
			continue
		}
		c.add(r, b)
	}
	return c, nil
}

// unreadable is the finding of what is no block of this ledger. Whose it is says
// the subject, which the broker holds everybody to.
func unreadable(r uses.Message) Finding {
	f := Finding{Position: r.Position, Finding: uses.Finding{Kind: FindingUnreadable, Org: events.System, From: r.Stored, To: r.Stored}}
	words := strings.Split(r.Subject, ".")
	if len(words) != 4 {
		return f
	}
	if org, err := events.ParseOrgID(words[2]); err == nil {
		f.Org = org
	}
	if verifier, err := events.ParseVerifierID(words[3]); err == nil {
		f.Verifier = verifier
	}
	return f
}

func (c *changes) add(r uses.Message, b uses.Block) {
	boot := bootName{b.Verifier, b.Boot}
	if _, ok := c.boots[boot]; !ok {
		c.boots[boot] = r.Position
	}
	c.series[seriesName{boot, b.Org}] = struct{}{}
	fresh, findings := c.seen.Add(b.Header)
	for _, f := range findings {
		c.findings = append(c.findings, Finding{Position: r.Position, Finding: f})
	}
	// A block that comes again moves nothing: the latest time wins, a source is as
	// well known as before, and only what is new is counted.
	for i := range b.Uses {
		u := &b.Uses[i]
		name := keyName{b.Org, u.Key}
		l := c.keys[name]
		if l == nil {
			l = &keyUse{LastUse: LastUse{Key: u.Key}}
			c.keys[name] = l
		}
		l.add(u, r.Stored)
		c.source(name, &l.recent, u, b.Verifier, r)
		if fresh != 0 && b.First+uint64(i) >= fresh {
			c.deny(name, u, r)
		}
	}
}

// add moves what is known of a key to a later use. No use happened after it was
// stored, whatever the verifier's clock said: one that runs ahead must not make
// a key look used for years to come.
func (l *LastUse) add(u *uses.Use, stored events.Time) {
	at := noLater(u.At, stored)
	if at >= l.SeenAt {
		l.SeenAt, l.SeenCode = at, u.Code
	}
	if u.Code == events.CodeValid && at >= l.At {
		l.At, l.Permission, l.Workspace = at, u.Permission, u.Workspace
	}
}

func (c *changes) write(tx *sqlview.Tx, m *memory) error {
	if c.trimmed {
		if _, err := tx.Exec(`INSERT INTO beginning VALUES (1)`); err != nil {
			return err
		}
	}
	if err := c.writeKeys(tx); err != nil {
		return err
	}
	if err := c.writeSources(tx, m); err != nil {
		return err
	}
	if err := c.writeDenials(tx); err != nil {
		return err
	}
	n := 0
	for i, f := range c.findings {
		if n++; i == 0 || c.findings[i-1].Position != f.Position {
			n = 1
		}
		_, err := tx.Exec(`INSERT INTO findings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			int64(f.Position), n, string(f.Kind), string(f.Verifier), bootText(f.Boot), string(f.Org),
			int64(f.First), int64(f.Last), int64(f.Count), int64(f.From), int64(f.To))
		if err != nil {
			return err
		}
	}
	for name, place := range c.boots {
		if err := c.writeBoot(tx, name, place); err != nil {
			return err
		}
	}
	return nil
}

func (c *changes) writeKeys(tx *sqlview.Tx) error {
	// In the order of the table: neighbours share pages.
	names := make([]keyName, 0, len(c.keys))
	for name := range c.keys {
		names = append(names, name)
	}
	slices.SortFunc(names, inOrder)
	for _, name := range names {
		l := c.keys[name]
		_, err := tx.Exec(`INSERT INTO last_used AS l VALUES (?, ?, nullif(?, 0), ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET
			permission = iif(excluded.at >= ifnull(l.at, 0), excluded.permission, l.permission),
			workspace  = iif(excluded.at >= ifnull(l.at, 0), excluded.workspace, l.workspace),
			at         = iif(excluded.at >= ifnull(l.at, 0), excluded.at, l.at),
			seen_code  = iif(excluded.seen_at >= l.seen_at, excluded.seen_code, l.seen_code),
			seen_at    = max(excluded.seen_at, l.seen_at)`,
			string(name.org), name.key.String(), int64(l.At), l.Permission, l.Workspace, int64(l.SeenAt), int(l.SeenCode))
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *changes) writeBoot(tx *sqlview.Tx, name bootName, place events.Position) error {
	b, _ := c.seen.Boot(name.verifier, name.boot)
	verifier, boot := string(name.verifier), name.boot.String()
	_, err := tx.Exec(`INSERT INTO boots VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET marked = excluded.marked, bound = excluded.bound, seen = excluded.seen, ended = excluded.ended`,
		verifier, boot, int64(place), b.Marked, int64(b.Bound), int64(b.Began), int64(b.Seen), b.Ended)
	if err != nil || b.Ended {
		if err == nil {
			_, err = tx.Exec(`DELETE FROM series WHERE verifier = ? AND boot = ?`, verifier, boot)
		}
		return err
	}
	for org, s := range b.Series {
		if _, ok := c.series[seriesName{name, org}]; !ok {
			continue
		}
		_, err := tx.Exec(`INSERT INTO series VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET last = excluded.last, at = excluded.at, ended = excluded.ended, "end" = excluded."end"`,
			verifier, boot, string(org), int64(s.Last), int64(s.At), s.Ended, int64(s.End))
		if err != nil {
			return err
		}
	}
	return nil
}

// bootText is empty for no boot.
func bootText(id uses.BootID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

// load reads how far the boots have come, unless it is known.
func (v *View) load(ctx context.Context) error {
	if v.seen != nil {
		return nil
	}
	seen := &uses.Continuity{}
	var at int64
	var clock events.Time
	err := v.db.Snapshot(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT position, EXISTS (SELECT 1 FROM beginning WHERE trimmed) FROM view`).Scan(&at, &seen.Trimmed)
		if err != nil {
			return err
		}
		if clock, err = loadClock(ctx, tx); err != nil {
			return err
		}
		series, err := loadSeries(ctx, tx)
		if err != nil {
			return err
		}
		return loadBoots(ctx, tx, func(b uses.Boot) {
			if b.Series = series[bootName{b.Verifier, b.ID}]; b.Series == nil {
				b.Series = make(map[events.OrgID]uses.Series)
			}
			seen.Restore(b)
		})
	})
	if err != nil {
		return fmt.Errorf("usage: load: %w", err)
	}
	v.seen, v.at, v.clock, v.memory = seen, events.Position(at), clock, newMemory()
	return nil
}

func loadSeries(ctx context.Context, tx *sql.Tx) (map[bootName]map[events.OrgID]uses.Series, error) {
	all := make(map[bootName]map[events.OrgID]uses.Series)
	rows, err := tx.QueryContext(ctx, `SELECT verifier, boot, org, last, at, ended, "end" FROM series`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var verifier, boot, org string
		var s uses.Series
		if err := rows.Scan(&verifier, &boot, &org, &s.Last, &s.At, &s.Ended, &s.End); err != nil {
			return nil, err
		}
		id, err := uuid.Parse(boot)
		if err != nil {
			return nil, err
		}
		name := bootName{events.VerifierID(verifier), uses.BootID(id)}
		if all[name] == nil {
			all[name] = make(map[events.OrgID]uses.Series)
		}
		all[name][events.OrgID(org)] = s
	}
	return all, rows.Err()
}

func loadBoots(ctx context.Context, tx *sql.Tx, each func(uses.Boot)) error {
	rows, err := tx.QueryContext(ctx, `SELECT verifier, boot, marked, bound, began, seen, ended FROM boots ORDER BY place`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var boot string
		var b uses.Boot
		if err := rows.Scan(&b.Verifier, &boot, &b.Marked, &b.Bound, &b.Began, &b.Seen, &b.Ended); err != nil {
			return err
		}
		id, err := uuid.Parse(boot)
		if err != nil {
			return err
		}
		b.ID = uses.BootID(id)
		each(b)
	}
	return rows.Err()
}
