package wire

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Report is a page of a report.
type Report struct {
	Report       string           `json:"report" example:"access-review"`
	Title        string           `json:"title" example:"Access review"`
	Organization string           `json:"organization"`
	GeneratedAt  time.Time        `json:"generated_at" doc:"When it was asked for: ages and statuses are of then."`
	Position     string           `json:"position" doc:"How much of the ledger it is made of."`
	UsesPosition string           `json:"uses_position,omitzero" doc:"How much of the stream of uses it is made of. Left out where it is made of none."`
	Parameters   ReportParameters `json:"parameters" doc:"What it was asked with."`
	Columns      []string         `json:"columns" doc:"The names of the members of a row, in the order of the columns."`
	Rows         []map[string]any `json:"rows" doc:"A page may have fewer rows than were asked for, and even none, with more to come."`
	NextCursor   string           `json:"next_cursor,omitzero" doc:"Ask with cursor= for the next page; left out on the last."`
}

// ReportParameters are what a report was asked with.
type ReportParameters struct {
	Days *int       `json:"days,omitempty"`
	From *time.Time `json:"from,omitempty"`
	To   *time.Time `json:"to,omitempty" doc:"Left out for up to now."`
}

// ExportedEvent is a line of an export.
type ExportedEvent struct {
	Position string         `json:"position"`
	StoredAt time.Time      `json:"stored_at" doc:"When it was stored, by the broker's clock."`
	Type     string         `json:"type" example:"key.created" doc:"Without its version."`
	Event    jsontext.Value `json:"event,omitzero" doc:"The CloudEvents document as it is stored, byte for byte."`
}
