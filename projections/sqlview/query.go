package sqlview

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/events"
)

// Scanner is a row of a result.
type Scanner interface{ Scan(dest ...any) error }

// All scans every row of a query.
func All[T any](ctx context.Context, db *DB, scan func(Scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := db.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("sqlview: query %s: %w", db.Name(), err)
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("sqlview: read a row of %s: %w", db.Name(), err)
		}
		all = append(all, v)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("sqlview: query %s: %w", db.Name(), err)
	}
	return all, nil
}

// Where gathers the conditions of a query and what they are bound to. Nothing
// that a caller gave ever becomes part of the query's text.
type Where struct {
	conditions []string
	args       []any
}

// Bind keeps a value and returns the parameter that stands for it.
func (w *Where) Bind(v any) string {
	w.args = append(w.args, v)
	return "?" + strconv.Itoa(len(w.args))
}

// And adds a condition.
func (w *Where) And(condition string) { w.conditions = append(w.conditions, condition) }

// AndBind adds a condition that ends with a value.
func (w *Where) AndBind(condition string, v any) { w.And(condition + w.Bind(v)) }

// AndContains wants a text in one of some columns; ASCII letters match in
// either case.
func (w *Where) AndContains(text string, columns ...string) {
	p := w.Bind("%" + strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(text) + "%")
	found := make([]string, len(columns))
	for i, column := range columns {
		found[i] = column + ` LIKE ` + p + ` ESCAPE '\'`
	}
	w.And(`(` + strings.Join(found, ` OR `) + `)`)
}

// Args are the values, in the order of their parameters.
func (w *Where) Args() []any { return w.args }

// String is the clause, empty without a condition.
func (w *Where) String() string {
	if len(w.conditions) == 0 {
		return ""
	}
	return `WHERE ` + strings.Join(w.conditions, ` AND `)
}

// Sealed returns what stands in the second column of a text, beside the clear
// one: the seal as JSON, or nothing.
func Sealed(t events.Text) string {
	if t.Sealed.IsZero() {
		return ""
	}
	// Three strings that came out of JSON cannot fail to go back.
	b, _ := json.Marshal(t.Sealed)
	return string(b)
}

// Text is the two columns of a text, to be scanned into.
type Text struct{ Clear, Sealed string }

// Text returns the text of the columns.
func (c Text) Text() (events.Text, error) {
	if c.Sealed == "" {
		return events.ClearText(c.Clear), nil
	}
	var t events.Text
	if err := json.Unmarshal([]byte(c.Sealed), &t.Sealed); err != nil {
		return t, fmt.Errorf("sqlview: read a sealed text: %w", err)
	}
	return t, nil
}
