package api

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// A cell that is shown is a string, a list of strings, an int64, a bool, a
// [*time.Time] that is nil for none, or a document that is shown as its JSON.

// cellText writes a cell as one line of text. Words of a list are set apart by a
// space: names of permissions and workspaces hold none.
func cellText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case []string:
		return strings.Join(v, " ")
	case int64:
		return strconv.FormatInt(v, 10)
	case bool:
		return strconv.FormatBool(v)
	case *time.Time:
		if v == nil {
			return ""
		}
		return v.UTC().Format(time.RFC3339Nano)
	default:
		body, err := json.Marshal(v, json.Deterministic(true))
		if err != nil {
			return ""
		}
		return string(body)
	}
}

// csvSheet writes rows as RFC 4180 has them, between two lines that begin with #:
// what it is and where it stands, and that it is whole.
type csvSheet struct {
	w    *csv.Writer
	to   io.Writer
	what string
	rows int
	line []string
}

// newCSV begins a sheet: what is one word for it, head the first line.
func newCSV(to io.Writer, what, head string, columns []string) (*csvSheet, error) {
	s := &csvSheet{w: csv.NewWriter(to), to: to, what: what}
	if _, err := fmt.Fprintf(to, "# keyledger %s %s\r\n", what, head); err != nil {
		return nil, err
	}
	s.w.UseCRLF = true
	return s, s.w.Write(columns)
}

func (s *csvSheet) row(cells []any) error {
	s.line = s.line[:0]
	for _, c := range cells {
		text := cellText(c)
		if _, number := c.(int64); !number {
			text = harmless(text)
		}
		s.line = append(s.line, text)
	}
	s.rows++
	if err := s.w.Write(s.line); err != nil {
		return err
	}
	if s.rows%csvFlush != 0 {
		return nil
	}
	s.w.Flush()
	return s.w.Error()
}

// csvFlush is after how many rows the writer's own buffer is emptied.
const csvFlush = 100

func (s *csvSheet) end() error {
	s.w.Flush()
	if err := s.w.Error(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(s.to, "# end of %s: %d rows\r\n", s.what, s.rows)
	return err
}

// formulas are the characters by which a spreadsheet takes a cell for a formula,
// in their full width too, and those that it may skip in front of one.
const formulas = "=+-@\t\r\n＝＋－＠"

// harmless makes a text one that no spreadsheet runs: what a stranger can put into
// a name must not become a formula on an auditor's machine. It then begins with an
// apostrophe, as OWASP advises.
func harmless(text string) string {
	begin := strings.TrimLeft(text, " \u00a0")
	if begin == "" {
		return text
	}
	for _, r := range formulas {
		if strings.HasPrefix(begin, string(r)) {
			return "'" + text
		}
	}
	// A line of a cell must not look like a line of the sheet.
	if strings.HasPrefix(text, "#") {
		return "'" + text
	}
	return text
}
