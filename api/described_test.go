package api_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
)

// schema is what the tests read of a JSON schema.
type schema struct {
	Ref                  string             `json:"$ref"`
	Type                 any                `json:"type"`
	Properties           map[string]*schema `json:"properties"`
	Items                *schema            `json:"items"`
	OneOf                []*schema          `json:"oneOf"`
	AdditionalProperties any                `json:"additionalProperties"`
	Required             []string           `json:"required"`
	Enum                 []any              `json:"enum"`
	MaxLength            int                `json:"maxLength"`
	Description          string             `json:"description"`
}

type media struct {
	Schema  *schema `json:"schema"`
	Example any     `json:"example"`
}

type operation struct {
	Tags        []string `json:"tags"`
	OperationID string   `json:"operationId"`
	Summary     string   `json:"summary"`
	Description string   `json:"description"`
	Parameters  []struct {
		Name        string `json:"name"`
		In          string `json:"in"`
		Description string `json:"description"`
	} `json:"parameters"`
	RequestBody *struct {
		Content map[string]media `json:"content"`
	} `json:"requestBody"`
	Responses map[string]struct {
		Description string           `json:"description"`
		Content     map[string]media `json:"content"`
	} `json:"responses"`
	Security     []map[string]any `json:"security"`
	path, method string
}

type described struct {
	OpenAPI    string                           `json:"openapi"`
	Paths      map[string]map[string]*operation `json:"paths"`
	Components struct {
		Schemas         map[string]*schema `json:"schemas"`
		SecuritySchemes map[string]any     `json:"securitySchemes"`
	} `json:"components"`
}

// readDocument reads the document that a server serves.
func readDocument(t testing.TB, s *apitest.Server) (described, []*operation) {
	t.Helper()
	var d described
	if err := json.Unmarshal([]byte(s.Must(200, "", "GET", "/openapi.json", "").Body), &d); err != nil {
		t.Fatal(err)
	}
	var all []*operation
	for path, methods := range d.Paths {
		for method, op := range methods {
			op.path, op.method = path, strings.ToUpper(method)
			all = append(all, op)
		}
	}
	slices.SortFunc(all, func(a, b *operation) int { return strings.Compare(a.OperationID, b.OperationID) })
	if len(all) < 30 {
		t.Fatalf("only %d operations are described", len(all))
	}
	return d, all
}

func (d described) resolve(s *schema) *schema {
	if s.Ref != "" {
		return d.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
	}
	return s
}

func (op *operation) takes(name string) bool {
	return slices.ContainsFunc(op.Parameters, func(p struct {
		Name        string `json:"name"`
		In          string `json:"in"`
		Description string `json:"description"`
	},
	) bool {
		return p.Name == name
	})
}

func (op *operation) tag() string { return op.Tags[0] }

// open says that no management key is asked for.
func (op *operation) open() bool { return len(op.Security) > 0 && len(op.Security[0]) == 0 }

func (op *operation) change() bool { return op.takes("dry_run") }

// body is the example of an operation's request.
func (op *operation) body(t testing.TB) string {
	t.Helper()
	if op.RequestBody == nil {
		return ""
	}
	example := op.RequestBody.Content["application/json"].Example
	if op.OperationID == "add-provider-key" {
		// That of the example is connected, for the routes of a single one.
		example = map[string]any{"provider": "mistral", "secret": "EXAMPLE0123456789EXAMPLE01234567"}
	}
	b, err := json.Marshal(example)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// filled replaces the parameters of a path.
func filled(path, org, workspace, profile, key string) string {
	return strings.NewReplacer("{org}", org, "{workspace}", workspace, "{profile}", profile, "{key}", key, "{report}", "access-review", "{provider}", "openai").Replace(path)
}

func TestDocumentIsComplete(t *testing.T) {
	s := apitest.Start(t)
	d, all := readDocument(t, s)
	if d.OpenAPI != "3.1.0" || d.Components.SecuritySchemes["key"] == nil {
		t.Errorf("openapi %q, security schemes %v", d.OpenAPI, d.Components.SecuritySchemes)
	}
	for _, op := range all {
		name := op.OperationID
		if op.Summary == "" || !strings.Contains(op.Description, "Who may:") {
			t.Errorf("%s says neither what it does nor who may", name)
		}
		for _, p := range op.Parameters {
			if p.Description == "" {
				t.Errorf("%s: parameter %s is not described", name, p.Name)
			}
		}
		for status, r := range op.Responses {
			if r.Description == "" {
				t.Errorf("%s: answer %s is not described", name, status)
			}
			for kind, m := range r.Content {
				if m.Schema == nil {
					t.Errorf("%s: answer %s as %s has no schema", name, status, kind)
				}
				if m.Example != nil {
					d.conforms(t, name+" "+status, m.Schema, m.Example)
				}
			}
		}
		if (strings.HasPrefix(op.path, "/v1/") || strings.HasPrefix(op.path, "/oauth2/")) && len(op.Responses) < 4 {
			t.Errorf("%s names only %d answers", name, len(op.Responses))
		}
		if op.RequestBody == nil {
			continue
		}
		content := op.RequestBody.Content["application/json"]
		if strings.HasPrefix(op.path, "/oauth2/") {
			content = op.RequestBody.Content["application/x-www-form-urlencoded"]
		}
		if content.Example == nil {
			t.Errorf("%s: the body has no example", name)
			continue
		}
		d.conforms(t, name, content.Schema, content.Example)
	}
}

// conforms checks a value against as much of JSON schema as the document uses.
func (d described) conforms(t *testing.T, where string, s *schema, v any) {
	t.Helper()
	if s = d.resolve(s); s == nil {
		t.Errorf("%s: a reference leads nowhere", where)
		return
	}
	if len(s.OneOf) > 0 || s.Type == nil && s.Properties == nil {
		// One of several, or any value at all.
		return
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, v) {
		t.Errorf("%s: %v is none of %v", where, v, s.Enum)
	}
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			p := s.Properties[name]
			if p == nil {
				if s.AdditionalProperties == nil || s.AdditionalProperties == false {
					t.Errorf("%s: no member %s is described", where, name)
				}
				continue
			}
			d.conforms(t, where+"."+name, p, value)
		}
		for _, name := range s.Required {
			if _, ok := v[name]; !ok {
				t.Errorf("%s: the member %s is needed", where, name)
			}
		}
	case []any:
		for _, item := range v {
			d.conforms(t, where+"[]", s.Items, item)
		}
	case string:
		if !mayBe(s, "string") {
			t.Errorf("%s: a string is not %v", where, s.Type)
		}
		if s.MaxLength > 0 && len([]rune(v)) > s.MaxLength {
			t.Errorf("%s: %q is too long", where, v)
		}
	}
}

func mayBe(s *schema, kind string) bool {
	list, ok := s.Type.([]any)
	return s.Type == kind || ok && slices.Contains(list, any(kind))
}

// Answers are what the document says they are.
func TestAnswersConform(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	connect(s, "acme")
	created := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	d, all := readDocument(t, s)
	for _, op := range all {
		if op.OperationID == "stream-events" || op.OperationID == "metrics" || op.OperationID == "livez" || op.OperationID == "authorize" {
			continue
		}
		target, body := filled(op.path, "acme", "hiring", "gold", created.Key.ID), op.body(t)
		if op.change() {
			target += "?dry_run=true"
		}
		a := s.Do(s.Owner, op.method, target, body)
		want, ok := op.Responses[itoa(a.Status)]
		if !ok {
			t.Errorf("%s answers %d, which is not described: %s", op.OperationID, a.Status, a.Body)
			continue
		}
		content, ok := want.Content[a.Header.Get("Content-Type")]
		if !ok {
			t.Errorf("%s answers %s, which is not described", op.OperationID, a.Header.Get("Content-Type"))
			continue
		}
		text := a.Body
		if a.Header.Get("Content-Type") == "application/x-ndjson" {
			// Each line is a document.
			text, _, _ = strings.Cut(text, "\n")
		}
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		d.conforms(t, op.OperationID, content.Schema, v)
		if op.OperationID == "create-key" {
			a := s.Must(201, s.Owner, op.method, filled(op.path, "acme", "", "", ""), body)
			var v any
			if err := json.Unmarshal([]byte(a.Body), &v); err != nil {
				t.Fatal(err)
			}
			d.conforms(t, op.OperationID, op.Responses["201"].Content["application/json"].Schema, v)
		}
	}
	page := s.Must(200, "", "GET", "/docs", "")
	for _, op := range all {
		if !strings.Contains(page.Body, `id="`+op.OperationID+`"`) {
			t.Errorf("the page does not show %s", op.OperationID)
		}
	}
	for _, outside := range []string{"src=", "http://", "https://", "url(", "<script", "@import"} {
		if strings.Contains(page.Body, outside) {
			t.Errorf("the page asks for something else: %s", outside)
		}
	}
}
