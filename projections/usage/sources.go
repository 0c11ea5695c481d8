package usage

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"slices"
	"strings"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// maxSources bounds the sources that are kept of a key: the first by each of the
// two kinds, those that may be told of, and as many again that were seen while
// nobody wanted to be told, or of a key that had ended. What comes beyond is not
// kept: whoever goes on to use a key from somewhere else each time has shown by
// then what there was to tell, and shall not fill the file.
const maxSources = 2 + 2*events.MaxNewSources

// maxKnown bounds the sources that are remembered over all keys, so that a key in
// use is not looked up for every slice: at most 128 bytes of a text and as much
// again around it make 32 MiB.
const maxKnown = 1 << 17

// minute is the unit of the clock here.
const minute = events.Time(60_000_000)

func wholeMinute(t events.Time) events.Time { return t - t%minute }

// sourceOf is where a use came from: the client's address where it is recorded,
// else the program that it says it is.
func sourceOf(u *uses.Use) (events.SourceKind, string) {
	switch {
	case u.ClientIP != "":
		return events.SourceClientIP, u.ClientIP
	case u.UserAgent != "":
		return events.SourceUserAgent, u.UserAgent
	default:
		return "", ""
	}
}

// known is what the file holds of a key's sources.
type known []knownSource

type knownSource struct {
	kind   events.SourceKind
	source string
	last   events.Time
}

func (k known) find(kind events.SourceKind, source string) int {
	return slices.IndexFunc(k, func(s knownSource) bool { return s.source == source && s.kind == kind })
}

// memory is what is remembered of the file, so that it need not be read. It holds
// nothing that is not in the file.
type memory struct {
	keys    map[keyName]known
	sources int
}

func newMemory() *memory { return &memory{keys: make(map[keyName]known)} }

func (m *memory) put(name keyName, k known) {
	m.sources += 1 + len(k) - len(m.keys[name])
	if _, had := m.keys[name]; had {
		m.sources--
	}
	m.keys[name] = k
}

// shrink forgets some of what is remembered, whichever, when that is too much.
func (m *memory) shrink() {
	if m.sources <= maxKnown {
		return
	}
	for name, k := range m.keys {
		if m.sources <= maxKnown/2 {
			return
		}
		m.sources -= 1 + len(k)
		delete(m.keys, name)
	}
}

// sourceName names a source of a key.
type sourceName struct {
	keyName
	kind   events.SourceKind
	source string
}

// sourceUse is what some blocks tell of a source: its first use in them, and when
// the last one was.
type sourceUse struct {
	sourceName
	at       events.Time
	last     events.Time
	verifier events.VerifierID
	code     events.Code
	position events.Position
}

// source notes where a use came from. recent is the key's last source, which most
// often it still is.
func (c *changes) source(name keyName, recent **sourceUse, u *uses.Use, verifier events.VerifierID, r uses.Message) {
	kind, source := sourceOf(u)
	if kind == "" {
		return
	}
	s := *recent
	if s == nil || s.source != source || s.kind != kind {
		full := sourceName{name, kind, source}
		if s = c.sources[full]; s == nil {
			s = &sourceUse{sourceName: full, at: noLater(u.At, r.Stored), verifier: verifier, code: u.Code, position: r.Position}
			c.sources[full] = s
			c.met = append(c.met, s)
		}
		*recent = s
	}
	s.last = max(s.last, wholeMinute(noLater(u.At, r.Stored)))
}

// noLater is when a use happened: not after it was stored, whatever the verifier's
// clock said.
func noLater(at, stored events.Time) events.Time {
	if stored != 0 {
		return min(at, stored)
	}
	return at
}

// recall reads what the file holds of the sources of keys that are not remembered.
func (v *View) recall(ctx context.Context, c *changes) error {
	missing := make(map[events.OrgID]map[events.KeyID]struct{})
	for _, s := range c.met {
		if _, ok := v.memory.keys[s.keyName]; ok {
			continue
		}
		if missing[s.org] == nil {
			missing[s.org] = make(map[events.KeyID]struct{})
		}
		missing[s.org][s.key] = struct{}{}
	}
	for org, keys := range missing {
		ids := make([]events.KeyID, 0, len(keys))
		for id := range keys {
			ids = append(ids, id)
		}
		found, err := v.sourcesOf(ctx, org, ids)
		if err != nil {
			return err
		}
		for _, id := range ids {
			v.memory.put(keyName{org, id}, found[id])
		}
	}
	return nil
}

func (v *View) sourcesOf(ctx context.Context, org events.OrgID, keys []events.KeyID) (map[events.KeyID]known, error) {
	list, err := json.Marshal(keys)
	if err != nil {
		return nil, err
	}
	rows, err := v.db.Query(ctx, `SELECT s.key, s.kind, s.source, s.last_at FROM json_each(?) AS wanted
		CROSS JOIN source AS s ON s.org = ? AND s.key = wanted.value`, string(list), string(org))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	found := make(map[events.KeyID]known)
	for rows.Next() {
		var text string
		var s knownSource
		if err := rows.Scan(&text, &s.kind, &s.source, &s.last); err != nil {
			return nil, err
		}
		key, err := events.ParseKeyID(text)
		if err != nil {
			return nil, err
		}
		found[key] = append(found[key], s)
	}
	return found, rows.Err()
}

// writeSources writes what is new of sources: those that were never met before, in
// the order in which they were met, as long as there is room for them, and of
// others the minute of the last use. The file then holds the same however the
// blocks were sliced.
func (c *changes) writeSources(tx *sqlview.Tx, m *memory) error {
	for _, s := range c.met {
		k := m.keys[s.keyName]
		i := k.find(s.kind, s.source)
		switch {
		case i < 0 && len(k) >= maxSources:
		case i < 0:
			news := s.tells() && slices.ContainsFunc(k, func(o knownSource) bool { return o.kind == s.kind })
			if _, err := tx.Exec(`INSERT INTO source VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, string(s.org), s.key.String(), string(s.kind), s.source,
				int64(s.at), int64(s.last), string(s.verifier), int(s.code), int64(s.position), news); err != nil {
				return err
			}
			c.news = c.news || news
			m.put(s.keyName, append(k, knownSource{s.kind, s.source, s.last}))
		case k[i].last < s.last:
			if _, err := tx.Exec(`UPDATE source SET last_at = ? WHERE org = ? AND key = ? AND kind = ? AND source = ?`,
				int64(s.last), string(s.org), s.key.String(), string(s.kind), s.source); err != nil {
				return err
			}
			k[i].last = s.last
		}
	}
	return nil
}

// tells reports whether the source is worth telling of: that of a key which had
// ended by then is not.
func (s *sourceUse) tells() bool {
	return s.code != events.CodeRevoked && s.code != events.CodeExpired
}

// Source is where a key was used from.
type Source struct {
	Org events.OrgID
	Key events.KeyID
	// Kind says what tells Source, which stands in clear.
	Kind   events.SourceKind
	Source string
	// FirstAt, FirstVerifier and FirstCode are those of the first use from there
	// that came to be known, at Position; LastAt is the minute of the last one.
	FirstAt, LastAt events.Time
	FirstVerifier   events.VerifierID
	FirstCode       events.Code
	Position        events.Position
}

// NewSources returns from where keys that had not ended were used that they were
// not used from before, by the same kind of source: what came to be known after a
// position up to another, and since an instant, in order, at no more than limit
// positions. next is where to go on, through when that was all.
func (v *View) NewSources(ctx context.Context, after, through events.Position, since events.Time, limit int) (list []Source, next events.Position, err error) {
	list, err = sqlview.All(ctx, v.db, scanSource, `SELECT org, key, kind, source, first_at, last_at, first_verifier, first_code, position
		FROM source WHERE news AND first_at >= ?3 AND position IN (
			SELECT DISTINCT position FROM source WHERE news AND position > ?1 AND position <= ?2 AND first_at >= ?3 ORDER BY position LIMIT ?4)
		ORDER BY position, first_at, key, kind, source`, int64(after), int64(through), int64(since), limit)
	return list, goOn(list, func(s Source) events.Position { return s.Position }, through, limit), err
}

func scanSource(row sqlview.Scanner) (Source, error) {
	var s Source
	var key string
	err := row.Scan(&s.Org, &key, &s.Kind, &s.Source, &s.FirstAt, &s.LastAt, &s.FirstVerifier, &s.FirstCode, &s.Position)
	if err != nil {
		return s, err
	}
	s.Key, err = events.ParseKeyID(key)
	return s, err
}

// goOn is the position after which the next page begins.
func goOn[T any](list []T, at func(T) events.Position, through events.Position, limit int) events.Position {
	positions := 0
	var last events.Position
	for _, row := range list {
		if p := at(row); p != last {
			positions, last = positions+1, p
		}
	}
	if positions < limit {
		return through
	}
	return last
}

// inOrder are keys in the order of the tables: neighbours share pages.
func inOrder(a, b keyName) int {
	return cmp.Or(strings.Compare(string(a.org), string(b.org)), slices.Compare(a.key[:], b.key[:]))
}

// loadClock reads how far the stream's time had come.
func loadClock(ctx context.Context, tx *sql.Tx) (events.Time, error) {
	var at events.Time
	err := tx.QueryRowContext(ctx, `SELECT ifnull(max(at), 0) FROM clock`).Scan(&at)
	return at, err
}
