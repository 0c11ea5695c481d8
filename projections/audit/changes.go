package audit

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Change is what became of one field. Texts that are sealed stay so in it.
type Change struct {
	Field string `json:"field"`
	// Before and After are JSON, null for none.
	Before jsontext.Value `json:"before"`
	After  jsontext.Value `json:"after"`
}

// Personal reports whether the field holds a text that people gave, which may be
// sealed.
func (c Change) Personal() bool {
	return c.Field == "name" || c.Field == "external_id" || strings.HasPrefix(c.Field, "metadata.")
}

var null = jsontext.Value("null")

// document is what a thing is, field by field.
type document map[string]jsontext.Value

// entry is a field that an event sets; without a value it takes it away.
type entry struct {
	field string
	value jsontext.Value
}

// delta is what an event says of the thing that it happened to.
type delta struct {
	// whole are prefixes of fields of which the event says all there are: those
	// that it does not set are gone.
	whole []string
	// sets are fields of the thing from now on.
	sets []entry
	// notes are told and are no part of what the thing is.
	notes []Change
}

// apply changes the document and returns what that came to.
func (d *document) apply(by delta) []Change {
	if *d == nil {
		*d = make(document, len(by.sets))
	}
	doc := *d
	changes := make([]Change, 0, len(by.sets)+len(by.notes))
	for _, e := range by.sets {
		before, was := doc[e.field]
		switch {
		case bytes.Equal(before, e.value):
			continue
		case e.value == nil:
			delete(doc, e.field)
			changes = append(changes, Change{e.field, before, null})
			continue
		case !was:
			before = null
		}
		doc[e.field] = e.value
		changes = append(changes, Change{e.field, before, e.value})
	}
	for _, prefix := range by.whole {
		changes = append(changes, doc.drop(prefix, by.sets)...)
	}
	return append(changes, by.notes...)
}

// drop takes away the fields of a prefix that are not set.
func (d document) drop(prefix string, set []entry) []Change {
	kept := make(map[string]bool, len(set))
	for _, e := range set {
		kept[e.field] = true
	}
	var gone []Change
	for _, field := range slices.Sorted(maps.Keys(d)) {
		if strings.HasPrefix(field, prefix) && !kept[field] {
			gone = append(gone, Change{field, d[field], null})
			delete(d, field)
		}
	}
	return gone
}

func (d document) encode() (string, error) {
	b, err := json.Marshal(map[string]jsontext.Value(d), json.Deterministic(true))
	return string(b), err
}

func decodeDocument(text string) (document, error) {
	var d map[string]jsontext.Value
	err := json.Unmarshal([]byte(text), &d)
	return d, err
}

// encodeChanges writes what the column holds. Every value is JSON already, and a
// field's name is quoted.
func encodeChanges(changes []Change) (string, error) {
	b := []byte{'['}
	var err error
	for i, c := range changes {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"field":`...)
		if b, err = jsontext.AppendQuote(b, c.Field); err != nil {
			return "", err
		}
		b = append(append(b, `,"before":`...), c.Before...)
		b = append(append(b, `,"after":`...), c.After...)
		b = append(b, '}')
	}
	return string(append(b, ']')), nil
}

func decodeChanges(text string) ([]Change, error) {
	if text == "[]" {
		return nil, nil
	}
	var changes []Change
	err := json.Unmarshal([]byte(text), &changes)
	return changes, err
}
