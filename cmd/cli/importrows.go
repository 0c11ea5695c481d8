package cli

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/keystring"
)

// maxImportFile bounds a file of keys: some hundred thousand of them.
const maxImportFile = 256 << 20

// importRow is a key as it stands in a file.
type importRow struct {
	// line is where it begins, from 1 on.
	line int
	key  wire.ImportKey
	// fault is why it cannot be sent. It repeats nothing of the row: that may hold
	// the key itself.
	fault string
}

// importColumns are those of a CSV, beside metadata.NAME.
var importColumns = []string{
	"digest", "alg", "name", "prefix", "last_four", "permissions", "workspaces", "profile",
	"expires_at", "expires_in", "created_at", "external_id", "data_subject", "status",
}

const metadataColumn = "metadata."

// importFile reads a file of keys, or standard input for "-".
func (a *app) importFile(path string) ([]importRow, error) {
	in, name := a.env.Stdin, "standard input"
	if path != "-" {
		name = path
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxImportFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxImportFile {
		return nil, fmt.Errorf("%s is longer than %d MiB; import it in parts", name, maxImportFile>>20)
	}
	rows, err := readImport(text)
	if err != nil {
		return nil, usage(fmt.Sprintf("%s %v", name, err), "keyledger keys import --help shows what it should look like.")
	}
	return rows, nil
}

// readImport reads keys in whichever form they come: JSON lines, a JSON array, or
// a CSV.
func readImport(text []byte) ([]importRow, error) {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	var rows []importRow
	var err error
	switch begin := bytes.TrimLeft(text, " \t\r\n"); {
	case len(begin) == 0:
		return nil, errors.New("is empty")
	case bytes.HasPrefix(begin, []byte("\xff\xfe")), bytes.HasPrefix(begin, []byte("\xfe\xff")):
		return nil, errors.New("is in UTF-16; save it as UTF-8")
	case begin[0] == '[':
		rows, err = readJSON(text, true)
	case begin[0] == '{' && linesOfJSON(begin):
		rows = readJSONLines(text)
	case begin[0] == '{':
		rows, err = readJSON(text, false)
	default:
		rows, err = readCSV(text)
	}
	if err == nil && len(rows) == 0 {
		err = errors.New("holds no keys")
	}
	return rows, err
}

// linesOfJSON tells one document a line from documents that take several.
func linesOfJSON(text []byte) bool {
	first, _, _ := bytes.Cut(text, []byte("\n"))
	return jsontext.Value(bytes.TrimSpace(first)).IsValid()
}

func readJSONLines(text []byte) []importRow {
	var rows []importRow
	line := 0
	for part := range bytes.Lines(text) {
		line++
		if part = bytes.TrimSpace(part); len(part) > 0 {
			rows = append(rows, jsonRow(line, part))
		}
	}
	return rows
}

func readJSON(text []byte, array bool) ([]importRow, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(text), jsontext.AllowDuplicateNames(true))
	var rows []importRow
	line, at := 1, int64(0)
	broken := func() error {
		return fmt.Errorf("is no valid JSON behind line %d", line+bytes.Count(text[at:min(dec.InputOffset(), int64(len(text)))], []byte("\n")))
	}
	if array {
		if _, err := dec.ReadToken(); err != nil {
			return nil, broken()
		}
	}
	for {
		switch dec.PeekKind() {
		case ']':
			if _, err := dec.ReadToken(); err != nil {
				return nil, broken()
			}
			if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
				return nil, errors.New("goes on behind the list of keys")
			}
			return rows, nil
		case 0:
			if _, err := dec.ReadToken(); !array && errors.Is(err, io.EOF) {
				return rows, nil
			}
			return nil, broken()
		default:
		}
		value, err := dec.ReadValue()
		if err != nil {
			return nil, broken()
		}
		begin := dec.InputOffset() - int64(len(value))
		line, at = line+bytes.Count(text[at:begin], []byte("\n")), begin
		rows = append(rows, jsonRow(line, value))
	}
}

// jsonRow reads one key as the API takes it.
func jsonRow(line int, value []byte) importRow {
	r := importRow{line: line}
	if r.fault = holdsKey(string(value)); r.fault != "" {
		return r
	}
	err := json.Unmarshal(value, &r.key, json.RejectUnknownMembers(true))
	var semantic *json.SemanticError
	switch {
	case err == nil:
		if r.key.Digest.Value == "" {
			r.fault = "digest: is needed"
		}
	case errors.As(err, &semantic) && semantic.JSONPointer != "":
		r.fault = plain(strings.ReplaceAll(strings.TrimPrefix(string(semantic.JSONPointer), "/"), "/", ".")) + ": is not what the API takes there"
	default:
		r.fault = "is no JSON object such as the API takes"
	}
	return r
}

// holdsKey finds a key that stands in the place of its digest, or anywhere else.
func holdsKey(text string) string {
	if keystring.Contains(text) {
		return "holds what looks like an API key itself: only its digest belongs here; it was not sent"
	}
	return ""
}

func readCSV(text []byte) ([]importRow, error) {
	r := csv.NewReader(bytes.NewReader(text))
	r.Comma, r.FieldsPerRecord, r.ReuseRecord = separator(text), -1, true
	head, err := r.Read()
	if err != nil {
		return nil, csvFault(err)
	}
	columns, err := csvHeader(head)
	if err != nil {
		return nil, err
	}
	var rows []importRow
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return nil, csvFault(err)
		}
		line, _ := r.FieldPos(0)
		if blank(record) {
			continue
		}
		rows = append(rows, csvRow(line, columns, record))
	}
}

func blank(record []string) bool {
	return !slices.ContainsFunc(record, func(s string) bool { return strings.TrimSpace(s) != "" })
}

// separator is what stands between columns: spreadsheets of some countries write
// semicolons.
func separator(text []byte) rune {
	first, _, _ := bytes.Cut(bytes.TrimLeft(text, "\r\n"), []byte("\n"))
	for _, c := range []rune{',', ';', '\t'} {
		if bytes.ContainsRune(first, c) {
			return c
		}
	}
	return ','
}

// csvFault tells where a CSV is none, and nothing of what stands there.
func csvFault(err error) error {
	var parse *csv.ParseError
	if errors.As(err, &parse) {
		return fmt.Errorf("is no valid CSV in line %d: %w", parse.Line, parse.Err)
	}
	return errors.New("is no valid CSV")
}

// csvHeader reads the names of columns. A file without them begins with a key,
// whose values are never repeated.
func csvHeader(head []string) ([]string, error) {
	columns := make([]string, len(head))
	for i, name := range head {
		name = strings.TrimSpace(name)
		lower := strings.ToLower(name)
		switch {
		case slices.Contains(importColumns, lower):
			columns[i] = lower
		case strings.HasPrefix(lower, metadataColumn) && len(name) > len(metadataColumn):
			columns[i] = metadataColumn + name[len(metadataColumn):]
		}
		if columns[i] != "" && slices.Index(columns, columns[i]) < i {
			return nil, fmt.Errorf("names a column twice: %s", plain(columns[i]))
		}
	}
	known := "it takes " + strings.Join(importColumns, ", ") + " and metadata.NAME"
	if !slices.Contains(columns, "digest") {
		return nil, fmt.Errorf("has no column digest: its first line must name the columns; %s", known)
	}
	if i := slices.Index(columns, ""); i >= 0 {
		name := fmt.Sprintf("column %d", i+1)
		if text := strings.TrimSpace(head[i]); text != "" && len(text) <= 32 && !keystring.Contains(text) {
			name += fmt.Sprintf(" (%s)", plain(text))
		}
		return nil, fmt.Errorf("has a column that means nothing here, %s; %s", name, known)
	}
	return columns, nil
}

func csvRow(line int, columns, record []string) importRow {
	r := importRow{line: line}
	if len(record) != len(columns) {
		r.fault = fmt.Sprintf("has %d columns, the first line names %d", len(record), len(columns))
		return r
	}
	for i, value := range record {
		if r.fault = holdsKey(value); r.fault != "" {
			return r
		}
		if value = strings.TrimSpace(value); value == "" {
			continue
		}
		if err := r.set(columns[i], value); err != nil {
			r.fault = columns[i] + ": " + err.Error()
			return r
		}
	}
	if r.key.Digest.Value == "" {
		r.fault = "digest: is needed"
	}
	return r
}

// set fills in one column.
func (r *importRow) set(column, value string) error {
	k := &r.key
	var err error
	switch column {
	case "digest":
		k.Digest.Value = value
	case "alg":
		k.Digest.Alg = value
	case "name":
		k.Name = value
	case "prefix":
		k.Prefix = value
	case "last_four":
		k.LastFour = value
	case "permissions":
		k.Permissions, err = importGrant(strings.Fields(value))
	case "workspaces":
		k.Scope = importScope(strings.Fields(value))
	case "profile":
		k.Profile = value
	case "expires_at", "created_at":
		t, timeErr := instant("", value)
		if timeErr != nil {
			return errors.New("must be an instant such as 2027-01-31T18:00:00Z, or a day such as 2027-01-31")
		}
		if column == "expires_at" {
			k.ExpiresAt = &t
		} else {
			k.CreatedAt = &t
		}
	case "expires_in":
		k.ExpiresIn = value
	case "external_id":
		k.ExternalID = value
	case "data_subject":
		k.DataSubject = value
	case "status":
		k.Status = strings.ToUpper(value)
	default:
		if k.Metadata == nil {
			k.Metadata = map[string]string{}
		}
		k.Metadata[strings.TrimPrefix(column, metadataColumn)] = value
	}
	return err
}

func importGrant(values []string) (*wire.GrantWish, error) {
	level, list, err := grants(values)
	if err != nil {
		return nil, errors.New("is all, read_only, or permissions with a space between them, such as interview:start report:*")
	}
	return &wire.GrantWish{Level: level, Grants: list}, nil
}

func importScope(values []string) *wire.Scope {
	if len(values) == 1 && values[0] == "all" {
		return &wire.Scope{AllWorkspaces: true}
	}
	return &wire.Scope{Workspaces: values}
}
