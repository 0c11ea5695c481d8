package catalog

import (
	"cmp"
	"slices"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// Labelled is a member of metadata that a key has.
type Labelled struct{ Name, Value string }

// metadataSchema holds the members of keys' metadata that stand in clear, so that
// keys are found by them; created_position is the key's row. A list of keys with a
// member runs along it from the newest on.
const metadataSchema = `
CREATE TABLE metadata (
	org              TEXT NOT NULL,
	name             TEXT NOT NULL,
	value            TEXT NOT NULL,
	created_position INTEGER NOT NULL,
	PRIMARY KEY (org, name, value, created_position)
) STRICT, WITHOUT ROWID;
`

// fromLabelled makes a list run along the members of metadata of a name and value
// instead of along an organization's keys.
const fromLabelled = ` FROM metadata m CROSS JOIN key k ON k.created_position = m.created_position`

// labelled wants keys that have all of some members; the first is what the list
// runs along.
func labelled(w *sqlview.Where, f Filter, before int64) {
	for i, l := range f.Metadata {
		name, value := w.Bind(l.Name), w.Bind(l.Value)
		if i == 0 {
			w.AndBind(`m.org = `, string(f.Org))
			w.And(`m.name = ` + name + ` AND m.value = ` + value)
			w.AndBind(`m.created_position < `, before)
			continue
		}
		w.And(`EXISTS (SELECT 1 FROM metadata x WHERE x.org = m.org AND x.name = ` + name + ` AND x.value = ` + value +
			` AND x.created_position = k.created_position)`)
	}
}

// labels are the members of a filter in an order of their own: whoever asks for
// the same ones asks for the same list.
func (f Filter) labels() []Labelled {
	list := slices.Clone(f.Metadata)
	slices.SortFunc(list, func(a, b Labelled) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Value, b.Value)) })
	return slices.Compact(list)
}

// label finds a new key by its metadata.
func (a *applier) label(m events.Metadata) error {
	return a.labels(int64(a.fact.Position), nil, m)
}

// relabel changes the metadata of the fact's key, and by which it is found.
func (a *applier) relabel(m events.Metadata) error {
	text, err := encodeMetadata(m)
	if err != nil {
		return err
	}
	var column string
	var created int64
	found, err := a.tx.QueryRow(`SELECT metadata, created_position FROM key WHERE org = ? AND id = ?`, []any{a.org, a.id}, &column, &created)
	if err != nil {
		return err
	}
	if err := a.update("key", "metadata = ?,", text); err != nil || !found {
		return err
	}
	had, err := decodeMetadata(column)
	if err != nil {
		return err
	}
	return a.labels(created, had, m)
}

// labels brings the members of a key from what they were to what they are. What is
// sealed is not searched.
func (a *applier) labels(created int64, had, has events.Metadata) error {
	for name, text := range had {
		if has[name] != text && text.Clear != "" {
			if _, err := a.tx.Exec(`DELETE FROM metadata WHERE org = ? AND name = ? AND value = ? AND created_position = ?`,
				a.org, name, text.Clear, created); err != nil {
				return err
			}
		}
	}
	for name, text := range has {
		if had[name] != text && text.Clear != "" {
			if _, err := a.tx.Exec(`INSERT INTO metadata (org, name, value, created_position) VALUES (?, ?, ?, ?)`,
				a.org, name, text.Clear, created); err != nil {
				return err
			}
		}
	}
	return nil
}
