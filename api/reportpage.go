package api

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/api/wire"
)

//go:embed report.html
var reportTemplate string

// pagePolicy lets a page have its style and nothing else.
const pagePolicy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"

// pageRows bounds a page to print: 10,000 rows are some hundred sheets, and about
// what a browser still lays out.
const pageRows = 10_000

// errPageFull ends a page that has as many rows as it may.
var errPageFull = errors.New("api: page is full")

// pageFact is a line above the table.
type pageFact struct{ Name, Value string }

// pageCell is a cell of the page.
type pageCell struct {
	Class, Text string
	Changes     []string
}

// parseReportPage parses the page.
func parseReportPage() (*template.Template, error) {
	t, err := template.New("report").Parse(reportTemplate)
	if err != nil {
		return nil, fmt.Errorf("api: report's page: %w", err)
	}
	return t, nil
}

// reportPage writes a report as a page to print, which asks for nothing else.
func (s *Server) reportPage(ctx context.Context, a asking, to io.Writer) error {
	count := 0
	var line []pageCell
	_, err := s.rows(ctx, a, nil, func(h wire.Report) error {
		return s.sheets.ExecuteTemplate(to, "head", a.pageHead(h))
	}, func(cells []any) error {
		if count == pageRows {
			return errPageFull
		}
		count++
		line = line[:0]
		for i, c := range cells {
			line = append(line, pageCellOf(a.definition.Columns[i], c))
		}
		return s.sheets.ExecuteTemplate(to, "row", line)
	})
	full := errors.Is(err, errPageFull)
	if err != nil && !full {
		return err
	}
	end := "1 row. This is all of it."
	switch {
	case full:
		end = fmt.Sprintf("These are the first %d rows. There are more: as CSV the report comes whole.", pageRows)
	case count != 1:
		end = fmt.Sprintf("%d rows. This is all of it.", count)
	}
	return s.sheets.ExecuteTemplate(to, "foot", end)
}

func (a *asking) pageHead(h wire.Report) any {
	facts := []pageFact{
		{"Organization", h.Organization},
		{"Made", pageTime(h.GeneratedAt)},
		{"Position", h.Position},
		{"Position of uses", h.UsesPosition},
	}
	if h.Parameters.Days != nil {
		facts = append(facts, pageFact{"Days", fmt.Sprint(*h.Parameters.Days)})
	}
	if h.Parameters.From != nil {
		facts = append(facts, pageFact{"From", pageTime(*h.Parameters.From)})
	}
	if h.Parameters.To != nil {
		facts = append(facts, pageFact{"To", pageTime(*h.Parameters.To)})
	}
	columns := make([]string, len(h.Columns))
	for i, c := range h.Columns {
		columns[i] = strings.ReplaceAll(c, "_", " ")
	}
	return struct {
		Title, Organization, About, Not string
		Facts                           []pageFact
		Columns                         []string
	}{
		h.Title, h.Organization, a.definition.About, a.definition.Not,
		slices.DeleteFunc(facts, func(f pageFact) bool { return f.Value == "" }), columns,
	}
}

func pageTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// pageCellOf shows a cell. An id is set in a narrow column, and times are cut to
// the second.
func pageCellOf(column string, v any) pageCell {
	switch v := v.(type) {
	case int64:
		return pageCell{Class: "n", Text: cellText(v)}
	case *time.Time:
		if v == nil {
			return pageCell{}
		}
		return pageCell{Class: "at", Text: v.UTC().Format("2006-01-02 15:04:05")}
	case []wire.FieldChange:
		lines := make([]string, len(v))
		for i, c := range v {
			lines[i] = fmt.Sprintf("%s: %s → %s", c.Field, changeText(c.Before), changeText(c.After))
		}
		return pageCell{Changes: lines}
	case bool:
		if !v {
			return pageCell{}
		}
		return pageCell{Text: "yes"}
	}
	c := pageCell{Text: cellText(v)}
	if column == "key_id" || column == "id" || column == "rotated_from" || column == "rotated_to" {
		c.Class = "id"
	}
	return c
}

// changeText shows what a field was or is: a text as it is, and anything else as its
// JSON.
func changeText(v any) string {
	raw, ok := v.(jsontext.Value)
	if !ok {
		if v == nil {
			return "none"
		}
		return cellText(v)
	}
	switch raw.Kind() {
	case 'n':
		return "none"
	case '"':
		var text string
		if json.Unmarshal(raw, &text) == nil {
			return text
		}
	}
	return string(raw)
}
