package usage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
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
	v.mu.Lock()
	defer v.mu.Unlock()
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
		err = v.db.Update(ctx, v.at, last, func(tx *sqlview.Tx) error { return c.write(tx, v.known) })
	}
	if err != nil {
		// What was counted in memory is not in the file.
		v.seen = nil
		return err
	}
	v.at, v.clock = last, c.clock
	v.known.shrink()
	if c.news {
		v.news.Store(uint64(last))
	}
	return nil
}

// changes are what some blocks change.
type changes struct {
	seen     *uses.Continuity
	trimmed  bool
	orgs     map[events.OrgID]*orgUse
	met      []*keyUse // those of all organizations, in the order in which they were met
	metOrgs  []*orgUse
	sources  map[sourceName]*sourceUse
	places   []*sourceUse // the same, in order
	denied   map[minuteName]denied
	refused  map[refusalName]int64
	blocks   []block
	findings []Finding
	boots    map[bootName]events.Position // with the position of its first block
	series   map[seriesName]struct{}
	// dropped is what retention has dropped before it was read here.
	dropped map[events.OrgID]DroppedUses
	// clock is the minute until which blocks were stored, clockWas what it was
	// before these.
	clock, clockWas events.Time
	// news says that somebody may want to be told.
	news bool
}

// orgUse is what some blocks tell of an organization.
type orgUse struct {
	org   events.OrgID
	keys  map[events.KeyID]*keyUse
	spans spans
}

// keyUse is what some blocks tell of a key.
type keyUse struct {
	LastUse
	name        keyName
	recent      *sourceUse
	spans       spans
	permissions []permissionText
}

// permissionText is a permission or query that VALID uses asked for, and when last.
type permissionText struct {
	text string
	at   events.Time
}

// block is a row of the table of blocks.
type block struct {
	org               events.OrgID
	boot              bootName
	position          events.Position
	first, last, came uint64
	from, to, stored  events.Time
}

type keyName struct {
	org events.OrgID
	key events.KeyID
}

type bootName struct {
	verifier events.VerifierID
	boot     uses.BootID
}

// servedName is a verifier and an organization that it recorded uses of.
type servedName struct {
	verifier events.VerifierID
	org      events.OrgID
}

type seriesName struct {
	bootName
	org events.OrgID
}

// read gathers what the blocks change, so that a key which is used a thousand
// times is written once.
func (v *View) read(blocks []uses.Message) (*changes, error) {
	c := &changes{
		seen: v.seen, clock: v.clock, clockWas: v.clock, orgs: make(map[events.OrgID]*orgUse),
		sources: make(map[sourceName]*sourceUse), denied: make(map[minuteName]denied), refused: make(map[refusalName]int64),
		boots: make(map[bootName]events.Position), series: make(map[seriesName]struct{}), dropped: v.dropped,
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
	if len(b.Uses) == 0 {
		return
	}
	o := c.orgs[b.Org]
	if o == nil {
		o = &orgUse{org: b.Org, keys: make(map[events.KeyID]*keyUse)}
		c.orgs[b.Org] = o
		c.metOrgs = append(c.metOrgs, o)
	}
	if fresh != 0 {
		c.blocks = append(c.blocks, block{
			org: b.Org, boot: boot, position: r.Position, first: b.First, last: b.Last, came: fresh,
			from: noLater(b.From, r.Stored), to: noLater(b.To, r.Stored), stored: r.Stored,
		})
	}
	// A block that comes again moves nothing: the latest time wins, a source is as
	// well known as before, and only what is new is counted.
	dropped := c.dropped[b.Org]
	for i := range b.Uses {
		u := &b.Uses[i]
		k := o.keys[u.Key]
		if k == nil {
			k = &keyUse{LastUse: LastUse{Key: u.Key}, name: keyName{b.Org, u.Key}}
			o.keys[u.Key] = k
			c.met = append(c.met, k)
		}
		at := noLater(u.At, r.Stored)
		k.add(u, at)
		s := c.source(k, u, at, b.Verifier, r)
		if fresh != 0 && b.First+uint64(i) >= fresh {
			// What was dropped is counted by what says so.
			if !dropped.holds(at, r.Position) {
				o.spans.add(at, u.Code, r.Position)
			}
			k.spans.add(at, u.Code, r.Position)
			if u.Code != events.CodeValid {
				c.deny(k.name, u, at, r)
				c.refuse(k.name, u.Code, at, s)
			}
		}
	}
}

// add moves what is known of a key to a later use. No use happened after it was
// stored, whatever the verifier's clock said: one that runs ahead must not make
// a key look used for years to come.
func (k *keyUse) add(u *uses.Use, at events.Time) {
	if at >= k.SeenAt {
		k.SeenAt, k.SeenCode = at, u.Code
	}
	if u.Code != events.CodeValid {
		return
	}
	if at >= k.At {
		k.At, k.Permission, k.Workspace = at, u.Permission, u.Workspace
	}
	if u.Permission == "" {
		return
	}
	for i := range k.permissions {
		if p := &k.permissions[i]; p.text == u.Permission {
			p.at = max(p.at, at)
			return
		}
	}
	k.permissions = append(k.permissions, permissionText{u.Permission, at})
}

func (c *changes) write(tx *sqlview.Tx, m *known) error {
	if c.trimmed {
		if _, err := tx.Exec(`INSERT INTO beginning VALUES (1)`); err != nil {
			return err
		}
	}
	for _, write := range []func(*sqlview.Tx, *known) error{
		c.writeOrgs, c.writeKeys, c.writeSources, c.writePermissions, c.writeRefusals, c.writeDenials, c.writeFindings, c.writeBoots, c.writeServed, c.writeBlocks,
	} {
		if err := write(tx, m); err != nil {
			return err
		}
	}
	return nil
}

func (c *changes) writeFindings(tx *sqlview.Tx, _ *known) error {
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
	return nil
}

func (c *changes) writeBoots(tx *sqlview.Tx, m *known) error {
	for name, place := range c.boots {
		if _, ok := m.places[name]; !ok {
			m.places[name] = place
		}
		if err := c.writeBoot(tx, name, place); err != nil {
			return err
		}
	}
	return nil
}

func (c *changes) writeServed(tx *sqlview.Tx, m *known) error {
	for of := range c.series {
		name := servedName{of.verifier, of.org}
		if _, ok := m.served[name]; ok || of.org == events.System {
			continue
		}
		if _, err := tx.Exec(`INSERT INTO served VALUES (?, ?) ON CONFLICT DO NOTHING`, string(name.org), string(name.verifier)); err != nil {
			return err
		}
		m.served[name] = struct{}{}
	}
	return nil
}

func (c *changes) writeBlocks(tx *sqlview.Tx, m *known) error {
	for i := range c.blocks {
		b := &c.blocks[i]
		if _, err := tx.Exec(`INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`, int64(b.position), m.orgs[b.org], int64(m.places[b.boot]),
			int64(b.first), int64(b.last-b.first+1), int64(b.came), int64(b.from), int64(b.to), int64(b.stored)); err != nil {
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
	seen, k := &uses.Continuity{}, newKnown()
	var at int64
	var clock events.Time
	var dropped map[events.OrgID]DroppedUses
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
		if err := k.load(ctx, tx); err != nil {
			return err
		}
		if dropped, err = loadDropped(ctx, tx); err != nil {
			return err
		}
		return loadBoots(ctx, tx, func(b uses.Boot, place events.Position) {
			k.places[bootName{b.Verifier, b.ID}] = place
			if b.Series = series[bootName{b.Verifier, b.ID}]; b.Series == nil {
				b.Series = make(map[events.OrgID]uses.Series)
			}
			seen.Restore(b)
		})
	})
	if err != nil {
		return fmt.Errorf("usage: load: %w", err)
	}
	v.seen, v.at, v.clock, v.known, v.dropped = seen, events.Position(at), clock, k, dropped
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

func loadBoots(ctx context.Context, tx *sql.Tx, each func(uses.Boot, events.Position)) error {
	rows, err := tx.QueryContext(ctx, `SELECT verifier, boot, place, marked, bound, began, seen, ended FROM boots ORDER BY place`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var boot string
		var b uses.Boot
		var place events.Position
		if err := rows.Scan(&b.Verifier, &boot, &place, &b.Marked, &b.Bound, &b.Began, &b.Seen, &b.Ended); err != nil {
			return err
		}
		id, err := uuid.Parse(boot)
		if err != nil {
			return err
		}
		b.ID = uses.BootID(id)
		each(b, place)
	}
	return rows.Err()
}
