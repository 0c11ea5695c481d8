package audit

import (
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// insertEvent takes the next revision of a subject and no other.
const insertEvent = `INSERT INTO event (position, stored, recorded, claimed, org, aggregate, id, revision, kind, name, actor, role, scope,
		reason, reason_sealed, ticket, request_id, command_id, causation_id, config_position, changes, workspaces, text, body, clock)
	SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24,
		max(?2, coalesce((SELECT clock FROM event ORDER BY position DESC LIMIT 1), 0))
	WHERE ?8 = 1 OR EXISTS (SELECT 1 FROM event WHERE org = ?5 AND id = ?7 AND aggregate = ?6 AND revision = ?8 - 1)
	ON CONFLICT DO NOTHING`

// apply applies a slice of facts. What they can be found by goes into the index
// at its end: that writes down what it has gathered before every other change.
func apply(tx *sqlview.Tx, facts []events.Recorded) error {
	texts := make([]string, len(facts))
	for i := range facts {
		var err error
		if texts[i], err = applyOne(tx, &facts[i]); err != nil {
			return projections.At(facts[i], err)
		}
	}
	for i, text := range texts {
		if text == "" {
			continue
		}
		if _, err := tx.Exec(`INSERT INTO search (rowid, text) VALUES (?, ?)`, int64(facts[i].Position), text); err != nil {
			return err
		}
	}
	return nil
}

// applyOne returns what the fact is indexed by, nothing for a tick.
func applyOne(tx *sqlview.Tx, f *events.Recorded) (string, error) {
	if e, ok := f.Event.(events.Malformed); ok {
		return "", fmt.Errorf("%w: %s", events.ErrMalformed, e.Reason)
	}
	if f.Event.Kind() == events.KindTick {
		return "", nil
	}
	s, err := look(tx, f)
	if err != nil {
		return "", err
	}
	was := scopeOf(s.doc)
	by, err := says(f.Event, s.doc)
	if err != nil {
		return "", fmt.Errorf("audit: read what %s says: %w", f.Event.Kind(), err)
	}
	changes := s.doc.apply(by)
	told, err := encodeChanges(changes)
	if err != nil {
		return "", fmt.Errorf("audit: write what %s changed: %w", f.Event.Kind(), err)
	}
	concerned := concerns(f, was, scopeOf(s.doc))
	text := textOf(f, changes)
	if err := insert(tx, f, told, concerned, text); err != nil {
		return "", err
	}
	return tags(f) + text, s.keep(tx, f, len(changes) > len(by.notes))
}

func insert(tx *sqlview.Tx, f *events.Recorded, changes string, workspaces []events.WorkspaceID, text string) error {
	kind, m := f.Event.Kind(), &f.Meta
	causation := ""
	if !m.Causation.IsZero() {
		causation = m.Causation.String()
	}
	listed := ""
	if len(workspaces) > 0 {
		b, err := json.Marshal(workspaces)
		if err != nil {
			return err
		}
		listed = string(b)
	}
	n, err := tx.Exec(insertEvent,
		int64(f.Position), int64(f.Stored), int64(m.RecordedTime), int64(m.Time), string(f.Subject.Org), string(f.Subject.Aggregate), f.Subject.ID,
		int64(m.Revision), string(kind), kind.Name(), m.Actor.String(), string(m.Role), m.Scope,
		m.Reason.Clear, sqlview.Sealed(m.Reason), m.Ticket, m.RequestID, m.Command.String(), causation, int64(m.ConfigPosition),
		changes, listed, text, string(f.Raw))
	if err == nil && n != 1 {
		err = fmt.Errorf("%w: %s of revision %d", ErrRevision, kind, m.Revision)
	}
	if err != nil {
		return err
	}
	for _, w := range workspaces {
		if _, err := tx.Exec(`INSERT INTO event_workspace VALUES (?, ?, ?)`, string(f.Subject.Org), string(w), int64(f.Position)); err != nil {
			return err
		}
	}
	return nil
}

// state is the document of what a fact is about, before and after it.
type state struct {
	doc document
	// first is the position of its first event, 0 when there is none yet.
	first int64
}

// about is the subject whose document an event belongs to, and which of its
// events that follows from: of what is replaced as a whole, the one before.
func about(f *events.Recorded) (subject events.Subject, revision events.Revision) {
	s := f.Subject
	switch s.Aggregate {
	case events.AggregateRevoked:
		if s.ID == events.RevokedAll {
			return events.OrganizationSubject(s.Org), 1
		}
		s.Aggregate = events.AggregateKey
		return s, 1
	case events.AggregateCatalog, events.AggregateQuota:
		return s, f.Meta.Revision - 1
	case events.AggregateSubject, events.AggregateRetention:
		return s, 0
	default:
		if f.Meta.Revision == 1 {
			return s, 0
		}
		return s, 1
	}
}

const selectState = `SELECT e.position, coalesce(s.doc, ''), CASE WHEN s.doc IS NULL THEN e.body ELSE '' END
	FROM event e LEFT JOIN state s ON s.first = e.position WHERE e.org = ? AND e.id = ? AND e.aggregate = ? AND e.revision = ?`

// look reads what a thing was before a fact.
func look(tx *sqlview.Tx, f *events.Recorded) (state, error) {
	var s state
	subject, revision := about(f)
	if revision == 0 {
		return s, s.begin(tx, f)
	}
	var doc, body string
	found, err := tx.QueryRow(selectState, []any{string(subject.Org), subject.ID, string(subject.Aggregate), int64(revision)}, &s.first, &doc, &body)
	switch {
	case err != nil || !found:
		return s, err
	case doc != "":
		s.doc, err = decodeDocument(doc)
	default:
		s.doc, err = documentOf(subject, []byte(body))
	}
	if err != nil {
		return s, fmt.Errorf("audit: read what %s was: %w", subject.Aggregate, err)
	}
	return s, nil
}

// begin is the state of what has no event yet. A key may have been revoked before
// it was born.
func (s *state) begin(tx *sqlview.Tx, f *events.Recorded) error {
	if f.Subject.Aggregate != events.AggregateKey {
		return nil
	}
	var pos int64
	revoked, err := tx.QueryRow(`SELECT position FROM event WHERE org = ? AND id = ? AND aggregate = '`+string(events.AggregateRevoked)+`' AND revision = 1`,
		[]any{string(f.Subject.Org), f.Subject.ID}, &pos)
	if revoked {
		s.first = int64(f.Position)
		s.doc = document{fieldStatus: []byte(`"` + events.StatusRevoked + `"`)}
	}
	return err
}

// documentOf is what a thing is by one event alone.
func documentOf(subject events.Subject, body []byte) (document, error) {
	_, event, err := events.Decode(subject, body)
	if err != nil {
		return nil, err
	}
	by, err := says(event, nil)
	if err != nil {
		return nil, err
	}
	var d document
	d.apply(by)
	if q, ok := event.(events.QuotaChanged); ok {
		if d[fieldHolders], err = json.Marshal(q.Holders); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// keep writes the document where the first event does not tell it, nor the one
// before.
func (s *state) keep(tx *sqlview.Tx, f *events.Recorded, changed bool) error {
	switch f.Subject.Aggregate {
	case events.AggregateCatalog, events.AggregateQuota:
		return nil
	default:
	}
	if s.first == 0 || !changed {
		return nil
	}
	text, err := s.doc.encode()
	if err != nil {
		return fmt.Errorf("audit: write what %s is: %w", f.Subject.Aggregate, err)
	}
	_, err = tx.Exec(`INSERT INTO state VALUES (?1, ?2) ON CONFLICT (first) DO UPDATE SET doc = ?2`, s.first, text)
	return err
}

// scopeOf are the workspaces that a key's document lists.
func scopeOf(d document) []events.WorkspaceID {
	var scope events.Scope
	if v := d[fieldScope]; len(v) == 0 || json.Unmarshal(v, &scope) != nil {
		return nil
	}
	return scope.Workspaces
}

// concerns are the workspaces that an event concerns: of a key, those its scope
// lists before and after.
func concerns(f *events.Recorded, before, after []events.WorkspaceID) []events.WorkspaceID {
	switch f.Subject.Aggregate {
	case events.AggregateWorkspace:
		return []events.WorkspaceID{events.WorkspaceID(f.Subject.ID)}
	case events.AggregateKey, events.AggregateRevoked:
		all := slices.Concat(before, after)
		slices.Sort(all)
		return slices.Compact(all)
	default:
		return nil
	}
}
