package api

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/events"
)

//go:embed page.html
var pageTemplate string

// section is one tag of the page.
type section struct {
	Name, Text string
	Operations []operationRow
}

type operationRow struct {
	*huma.Operation
	Example string
	Fields  []fieldRow
	Errors  []string
}

type fieldRow struct {
	Name, Type, Text string
	Required         bool
}

// page writes the document as one page that asks for nothing else.
func (d *document) page() ([]byte, error) {
	t, err := template.New("page").Parse(pageTemplate)
	if err != nil {
		return nil, fmt.Errorf("api: page: %w", err)
	}
	var out bytes.Buffer
	err = t.Execute(&out, struct {
		Title, Version string
		Paragraphs     []string
		Sections       []section
		Problems       []problemRow
	}{
		d.api.Info.Title, d.api.Info.Version, strings.Split(strings.ReplaceAll(d.api.Info.Description, "`", ""), "\n\n"),
		d.sections(), problemRows(),
	})
	if err != nil {
		return nil, fmt.Errorf("api: page: %w", err)
	}
	return out.Bytes(), nil
}

// problemRow explains a code.
type problemRow struct {
	Code, Text string
	Status     int
}

func problemRows() []problemRow {
	var out []problemRow
	for _, k := range kinds {
		if k.Help != "" {
			out = append(out, problemRow{k.Code, k.Help, k.Status})
		}
	}
	for _, code := range events.Codes {
		d := gate.Denied(code)
		if code != events.CodeValid && !slices.ContainsFunc(out, func(p problemRow) bool { return p.Code == d.Code }) {
			out = append(out, problemRow{d.Code, "The verdict " + code.String() + " of /v1/authorize: " + d.Detail + ".", d.Status})
		}
	}
	slices.SortFunc(out, func(a, b problemRow) int { return strings.Compare(a.Code, b.Code) })
	return out
}

func (d *document) sections() []section {
	var out []section
	for _, tag := range d.api.Tags {
		s := section{Name: tag.Name, Text: tag.Description}
		for _, path := range sortedKeys(d.api.Paths) {
			item := d.api.Paths[path]
			for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
				if op != nil && op.Tags[0] == tag.Name {
					s.Operations = append(s.Operations, d.row(op))
				}
			}
		}
		out = append(out, s)
	}
	return out
}

func (d *document) row(op *huma.Operation) operationRow {
	row := operationRow{Operation: op}
	if op.RequestBody != nil {
		content := op.RequestBody.Content[mediaTypes[0]]
		if content == nil {
			content = op.RequestBody.Content[gate.TypeForm]
		}
		if example, ok := content.Example.(interface{ MarshalJSON() ([]byte, error) }); ok {
			if text, err := example.MarshalJSON(); err == nil {
				row.Example = string(text)
			}
		}
		row.Fields = d.fields(content.Schema)
	}
	for _, status := range sortedKeys(op.Responses) {
		if status >= "400" {
			row.Errors = append(row.Errors, status+" "+strings.ReplaceAll(op.Responses[status].Description, "`", ""))
		}
	}
	return row
}

func (d *document) fields(s *huma.Schema) []fieldRow {
	if s.Ref != "" {
		s = d.api.Components.Schemas.SchemaFromRef(s.Ref)
	}
	var out []fieldRow
	for _, name := range sortedKeys(s.Properties) {
		p := s.Properties[name]
		out = append(out, fieldRow{Name: name, Type: typeText(p), Text: p.Description, Required: slices.Contains(s.Required, name)})
	}
	return out
}

// typeText says in a word what a schema takes.
func typeText(s *huma.Schema) string {
	switch {
	case s.Ref != "":
		return s.Ref[strings.LastIndex(s.Ref, "/")+1:]
	case len(s.OneOf) > 0:
		parts := make([]string, len(s.OneOf))
		for i, p := range s.OneOf {
			parts[i] = typeText(p)
		}
		return strings.Join(parts, " or ")
	case s.Type == huma.TypeArray:
		return "list of " + typeText(s.Items)
	case s.Nullable:
		return s.Type + " or null"
	default:
		return s.Type
	}
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
