package usage

import (
	"cmp"
	"slices"
	"strings"

	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// writeOrgs numbers the organizations and counts their uses.
func (c *changes) writeOrgs(tx *sqlview.Tx, m *known) error {
	var out rows
	minutes := make(map[row]int64)
	for _, o := range c.metOrgs {
		no, ok := m.orgs[o.org]
		if !ok {
			no = int64(len(m.orgs)) + 1
			m.orgs[o.org] = no
			if _, err := tx.Exec(`INSERT INTO orgs VALUES (?, ?, 0)`, no, string(o.org)); err != nil {
				return err
			}
		}
		for i := range o.spans {
			s := &o.spans[i]
			out.addSpan(no, s)
			out.addHour(no, s.minute/60, s.code, s.count)
			minutes[row{no, s.minute, s.code}] += s.count
		}
	}
	if err := out.writeSpans(tx, orgSpansSQL); err != nil {
		return err
	}
	if err := writeCounts(tx, orgHoursSQL, out.hours); err != nil {
		return err
	}
	return writeCounts(tx, orgMinutesSQL, minutes)
}

// writeKeys writes the row of each key, and what its new place pushes out of it.
func (c *changes) writeKeys(tx *sqlview.Tx, m *known) error {
	type metKey struct {
		*keyUse
		known *keyMemory
		no    int64
	}
	met, before := make([]metKey, len(c.met)), m.lastKey
	for i, k := range c.met {
		met[i] = metKey{k, m.keys[k.name], m.keys[k.name].no}
		if met[i].no == 0 {
			m.lastKey++
			met[i].no = m.lastKey
		}
	}
	if m.lastKey != before {
		if _, err := tx.Exec(`INSERT INTO numbers VALUES (1, ?) ON CONFLICT DO UPDATE SET last = excluded.last`, m.lastKey); err != nil {
			return err
		}
	}
	// In the order of the table: neighbours share pages.
	slices.SortFunc(met, func(a, b metKey) int { return cmp.Compare(a.no, b.no) })
	var out rows
	for _, k := range met {
		known := k.known
		fresh := known.no == 0
		known.no = k.no
		for i := range k.spans {
			known.head.add(known.no, &k.spans[i], &out)
		}
		if err := k.write(tx, known, fresh); err != nil {
			return err
		}
	}
	if err := out.writeSpans(tx, keySpansSQL); err != nil {
		return err
	}
	return writeCounts(tx, keyHoursSQL, out.hours)
}

// The row of a key changes by what is new of it. Statements without numbers bind
// their parameters faster.
const (
	usedSQL = `UPDATE last_used SET at = ?, permission = ?, workspace = ?, seen_at = ?, seen_code = ?, ` + headSQL
	seenSQL = `UPDATE last_used SET seen_at = ?, seen_code = ?, ` + headSQL
	lateSQL = `UPDATE last_used SET ` + headSQL
	headSQL = `hour_count = ?, minute = ?, segment = ?, bits = ?, count = ?, from_us = ?, to_us = ? WHERE no = ?`
)

func (k *keyUse) write(tx *sqlview.Tx, known *keyMemory, fresh bool) error {
	h := &known.head
	from, to := h.us()
	used, seen := k.At != 0 && k.At >= known.at, k.SeenAt >= known.seenAt
	if used {
		known.at = k.At
	}
	if seen {
		known.seenAt = k.SeenAt
	}
	switch {
	case fresh:
		_, err := tx.Exec(`INSERT INTO last_used VALUES (?, ?, nullif(?, 0), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			string(k.name.org), k.name.key.String(), int64(k.At), k.Permission, k.Workspace, int64(k.SeenAt), int64(k.SeenCode),
			known.no, h.hourCount, h.minute, h.segment, int64(h.bits), h.count, from, to)
		return err
	case used && seen:
		_, err := tx.Exec(usedSQL, int64(k.At), k.Permission, k.Workspace, int64(k.SeenAt), int64(k.SeenCode),
			h.hourCount, h.minute, h.segment, int64(h.bits), h.count, from, to, known.no)
		return err
	case used:
		if _, err := tx.Exec(`UPDATE last_used SET at = ?, permission = ?, workspace = ? WHERE no = ?`,
			int64(k.At), k.Permission, k.Workspace, known.no); err != nil {
			return err
		}
	case seen:
		_, err := tx.Exec(seenSQL, int64(k.SeenAt), int64(k.SeenCode),
			h.hourCount, h.minute, h.segment, int64(h.bits), h.count, from, to, known.no)
		return err
	}
	_, err := tx.Exec(lateSQL, h.hourCount, h.minute, h.segment, int64(h.bits), h.count, from, to, known.no)
	return err
}

// maxPermissions bounds the permissions that are kept of a key. A catalog has at
// most half as many at a time; only a query can name one that is in none.
const maxPermissions = 2 * events.MaxCatalogPermissions

// maxNames bounds how many queries are remembered by their names.
const maxNames = 4096

// writePermissions writes when a key's permissions were last used, by the hour, so
// that a key in use does not write them again and again.
func (c *changes) writePermissions(tx *sqlview.Tx, m *known) error {
	for _, k := range c.met {
		known := m.keys[k.name]
		for _, p := range k.permissions {
			at := int64(p.at / hour)
			for _, name := range m.namesOf(p.text) {
				if err := known.use(tx, m, name, at); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (k *keyMemory) use(tx *sqlview.Tx, m *known, name string, at int64) error {
	i := slices.IndexFunc(k.permissions, func(p permissionUse) bool { return p.name == name })
	switch {
	case i >= 0 && k.permissions[i].hour >= at, i < 0 && len(k.permissions) >= maxPermissions:
		return nil
	case i >= 0:
		k.permissions[i].hour = at
	default:
		k.permissions = append(k.permissions, permissionUse{name, at})
		m.size++
	}
	_, err := tx.Exec(`INSERT INTO key_permission VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET hour = excluded.hour`, k.no, name, at)
	return err
}

// namesOf are the permissions that a text asks for, which is one or a query.
func (m *known) namesOf(text string) []string {
	names, ok := m.names[text]
	if ok {
		return names
	}
	if len(m.names) >= maxNames {
		clear(m.names)
	}
	text = strings.Clone(text) // of its block's memory otherwise
	names = namesOf(text)
	m.names[text] = names
	return names
}

func namesOf(text string) []string {
	if !permission.MayBeQuery(text) {
		return []string{text}
	}
	query, err := permission.ParseQuery(text)
	if err != nil {
		return []string{text}
	}
	var names []string
	for name := range query.Names() {
		if !slices.Contains(names, string(name)) {
			names = append(names, string(name))
		}
	}
	return names
}

// refusalName names uses of a key that were not VALID, by where they came from.
type refusalName struct {
	keyName
	day  int64
	code events.Code
	from *sourceUse
}

func (c *changes) refuse(name keyName, code events.Code, at events.Time, from *sourceUse) {
	c.refused[refusalName{name, int64(at / (24 * hour)), code, from}]++
}

// writeRefusals counts what was refused. Sources that are not kept for want of
// room are one together, and so are uses that do not tell where they came from.
func (c *changes) writeRefusals(tx *sqlview.Tx, m *known) error {
	type refusal struct {
		no, day      int64
		code         events.Code
		kind, source string
	}
	counts := make(map[refusal]int64)
	for name, count := range c.refused {
		k := m.keys[name.keyName]
		r := refusal{no: k.no, day: name.day, code: name.code}
		if f := name.from; f != nil && k.sources.find(f.kind, f.source) >= 0 {
			r.kind, r.source = string(f.kind), f.source
		}
		counts[r] += count
	}
	list := make([]refusal, 0, len(counts))
	for r := range counts {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b refusal) int {
		return cmp.Or(cmp.Compare(a.no, b.no), cmp.Compare(a.day, b.day), cmp.Compare(a.code, b.code), strings.Compare(a.kind, b.kind), strings.Compare(a.source, b.source))
	})
	for _, r := range list {
		if _, err := tx.Exec(`INSERT INTO key_denied AS d VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = d.count + excluded.count`,
			r.no, r.day, int(r.code), r.kind, r.source, counts[r]); err != nil {
			return err
		}
	}
	return nil
}
