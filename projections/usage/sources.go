package usage

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"strings"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// MaxSources bounds the sources that are kept of a key: the first by each of the
// two kinds, those that may be told of, and as many again that were seen while
// nobody wanted to be told, or of a key that had ended. What comes beyond is not
// kept: whoever goes on to use a key from somewhere else each time has shown by
// then what there was to tell, and shall not fill the file.
const MaxSources = 2 + 2*events.MaxNewSources

// minute is the unit of the clock here.
const minute = events.Time(60_000_000)

func wholeMinute(t events.Time) events.Time { return t - t%minute }

// sourceOf is where a use came from: the client's address where it is recorded,
// else the program that it says it is. A text that was left out tells nothing.
func sourceOf(u *uses.Use) (events.SourceKind, string) {
	switch {
	case u.ClientIP != "" && u.ClientIP != uses.SealedNone:
		return events.SourceClientIP, u.ClientIP
	case u.UserAgent != "" && u.UserAgent != uses.SealedNone:
		return events.SourceUserAgent, u.UserAgent
	default:
		return "", ""
	}
}

// sources are what the file holds of a key's.
type sources []knownSource

type knownSource struct {
	kind   events.SourceKind
	source string
	last   events.Time
}

func (k sources) find(kind events.SourceKind, source string) int {
	return slices.IndexFunc(k, func(s knownSource) bool { return s.source == source && s.kind == kind })
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

// source notes where a use came from, nil when it tells nothing of that.
func (c *changes) source(k *keyUse, u *uses.Use, at events.Time, verifier events.VerifierID, r uses.Message) *sourceUse {
	kind, source := sourceOf(u)
	if kind == "" {
		return nil
	}
	// Most often it is where the key's last use came from.
	s := k.recent
	if s == nil || s.source != source || s.kind != kind {
		full := sourceName{k.name, kind, source}
		if s = c.sources[full]; s == nil {
			s = &sourceUse{sourceName: full, at: at, verifier: verifier, code: u.Code, position: r.Position}
			c.sources[full] = s
			c.places = append(c.places, s)
		}
		k.recent = s
	}
	s.last = max(s.last, wholeMinute(at))
	return s
}

// noLater is when a use happened: not after it was stored, whatever the verifier's
// clock said.
func noLater(at, stored events.Time) events.Time {
	if stored != 0 {
		return min(at, stored)
	}
	return at
}

// writeSources writes what is new of sources: those that were never met before, in
// the order in which they were met, as long as there is room for them, and of
// others the minute of the last use. The file then holds the same however the
// blocks were sliced.
func (c *changes) writeSources(tx *sqlview.Tx, m *known) error {
	for _, s := range c.places {
		of := m.keys[s.keyName]
		k := of.sources
		i := k.find(s.kind, s.source)
		switch {
		case i < 0 && len(k) >= MaxSources:
		case i < 0:
			news := s.tells() && slices.ContainsFunc(k, func(o knownSource) bool { return o.kind == s.kind })
			if _, err := tx.Exec(`INSERT INTO source VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, string(s.org), s.key.String(), string(s.kind), s.source,
				int64(s.at), int64(s.last), string(s.verifier), int(s.code), int64(s.position), news); err != nil {
				return err
			}
			c.news = c.news || news
			of.sources = append(k, knownSource{s.kind, s.source, s.last})
			m.size++
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
