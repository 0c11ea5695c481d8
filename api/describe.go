package api

import (
	"bytes"
	stdjson "encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/api/wire"
)

const overview = `keyledger issues API keys, judges them, and keeps every change of them for ever.

Management takes a management key as ` + "`Authorization: Bearer`" + `. Bodies are JSON, read strictly: unknown members, members given twice, and names in another case are refused. Times are RFC 3339 in UTC. A position is an opaque text.

Errors are problem details (RFC 9457) with a ` + "`code`" + ` that never changes its meaning. Every answer carries ` + "`X-Request-Id`" + `. A change takes ` + "`Idempotency-Key`" + ` (repeat it as it was until it is answered) and ` + "`dry_run=true`" + ` (shows the events and appends none). Objects carry an ` + "`ETag`" + `; a change takes it as ` + "`If-Match`" + `.`

const sidecarOverview = `The part of keyledger's API that a sidecar offers next to an application: verdicts, with the same bodies as the server's, and without a management key. Whoever reaches its address may ask.

Errors are problem details (RFC 9457) with a ` + "`code`" + ` that never changes its meaning; their types lead to a page of the server. Every answer carries ` + "`X-Request-Id`" + `. A sidecar changes nothing: POST /oauth2/revoke is answered 501.`

// SidecarDocument is the OpenAPI document of a sidecar.
func SidecarDocument(version string) ([]byte, error) {
	s := &Server{cfg: Config{Metrics: prometheus.NewRegistry()}}
	offered := slices.Concat([]endpoint{s.verifyEndpoint(), s.verifyBatchEndpoint(), s.authorizeEndpoint(), s.whoamiEndpoint(), s.introspectEndpoint()}, s.plainEndpoints())
	for i := range offered {
		if e := &offered[i]; e.id != "whoami" && !e.open {
			e.open, e.who = true, "Whoever reaches the sidecar."
		}
	}
	d, err := describe(offered, version, sidecarOverview)
	if err != nil {
		return nil, err
	}
	return d.json, nil
}

// document is the OpenAPI document, as it is served and as its page is made of.
type document struct {
	api  *huma.OpenAPI
	json []byte
}

// documentSchema shows free JSON objects as such.
type documentSchema struct{}

func (documentSchema) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}
}

// grantSchema shows both forms that a key's permissions are wished in.
type grantSchema struct{}

func (grantSchema) Schema(r huma.Registry) *huma.Schema {
	return &huma.Schema{OneOf: []*huma.Schema{
		r.Schema(reflect.TypeFor[wire.Grant](), true, ""),
		{Type: huma.TypeArray, Items: &huma.Schema{Type: huma.TypeString}},
	}}
}

func newRegistry() huma.Registry {
	r := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	for t, as := range map[reflect.Type]reflect.Type{
		reflect.TypeFor[jsontext.Value]():                    reflect.TypeFor[documentSchema](),
		reflect.TypeFor[wire.GrantWish]():                    reflect.TypeFor[grantSchema](),
		reflect.TypeFor[wire.Optional[wire.GrantWish]]():     reflect.TypeFor[grantSchema](),
		reflect.TypeFor[wire.Optional[wire.Scope]]():         reflect.TypeFor[wire.Scope](),
		reflect.TypeFor[wire.Optional[string]]():             reflect.TypeFor[*string](),
		reflect.TypeFor[wire.Optional[int]]():                reflect.TypeFor[*int](),
		reflect.TypeFor[wire.Optional[bool]]():               reflect.TypeFor[*bool](),
		reflect.TypeFor[wire.Optional[[]string]]():           reflect.TypeFor[[]string](),
		reflect.TypeFor[wire.Optional[time.Time]]():          reflect.TypeFor[*time.Time](),
		reflect.TypeFor[wire.Optional[wire.UpdateLimits]]():  reflect.TypeFor[wire.UpdateLimits](),
		reflect.TypeFor[wire.Optional[wire.UpdatePolicy]]():  reflect.TypeFor[wire.UpdatePolicy](),
		reflect.TypeFor[wire.Optional[wire.UpdateSignals]](): reflect.TypeFor[wire.UpdateSignals](),
		reflect.TypeFor[wire.Optional[map[string]*string]](): reflect.TypeFor[map[string]*string](),
	} {
		r.RegisterTypeAlias(t, as)
	}
	return r
}

// describe makes the document of the endpoints.
func describe(endpoints []endpoint, version, overview string) (*document, error) {
	if version == "" {
		version = "development"
	}
	registry := newRegistry()
	api := &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{
			Title: "keyledger", Version: version, Description: overview,
			License: &huma.License{Name: "Apache License 2.0", Identifier: "Apache-2.0"},
		},
		Servers: []*huma.Server{{URL: "/"}},
		Components: &huma.Components{
			Schemas: registry,
			SecuritySchemes: map[string]*huma.SecurityScheme{"key": {
				Type: "http", Scheme: "bearer", Description: "A management key, or for whoami and authorize a key of any kind.",
			}},
		},
		Paths: map[string]*huma.PathItem{},
	}
	for _, tag := range []struct{ name, text string }{
		{"Organizations", "Tenants, with their plan, limits and policy."},
		{"Workspaces", "Projects inside an organization that keys may be confined to."},
		{"Permissions", "What keys of an organization can be allowed."},
		{"Profiles", "Settings that come back with verdicts."},
		{"Keys", "API keys: created, changed, rotated, revoked."},
		{"Provider keys", "Customers' own keys of AI providers: kept encrypted, tested, and handed to the platform that calls the provider."},
		{"Audit", "What was changed, by whom, from what to what and why; and how keys were used."},
		{"Verification", "Verdicts on keys."},
		{"Events", "What happened, as it happens."},
		{"Operation", "For those who run the server."},
	} {
		api.Tags = append(api.Tags, &huma.Tag{Name: tag.name, Description: tag.text})
	}
	problem := registry.Schema(reflect.TypeFor[wire.Problem](), true, "")
	for i := range endpoints {
		op, err := endpoints[i].operation(registry, problem)
		if err != nil {
			return nil, err
		}
		api.AddOperation(op)
	}
	for _, schema := range registry.Map() {
		settle(schema)
	}
	body, err := api.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("api: write the OpenAPI document: %w", err)
	}
	return &document{api: api, json: body}, nil
}

// settle says of lists that they are never null: ours are empty instead.
func settle(s *huma.Schema) {
	if s == nil {
		return
	}
	if s.Type == huma.TypeArray {
		s.Nullable = false
	}
	settle(s.Items)
	for _, p := range s.Properties {
		settle(p)
	}
	for _, p := range s.OneOf {
		settle(p)
	}
	if more, ok := s.AdditionalProperties.(*huma.Schema); ok {
		settle(more)
	}
}

func (e *endpoint) operation(registry huma.Registry, problem *huma.Schema) (*huma.Operation, error) {
	op := &huma.Operation{
		Method: e.method, Path: e.path, OperationID: e.id, Summary: e.summary, Tags: []string{e.tag},
		Description: strings.TrimSpace(e.description + "\n\nWho may: " + e.who), Parameters: e.parameters(registry),
		Responses: map[string]*huma.Response{},
	}
	// An open operation says so: an empty requirement is one that all meet.
	op.Security = []map[string][]string{{}}
	if !e.open {
		op.Security[0]["key"] = []string{}
	}
	if e.takes != nil {
		example, err := raw(e.example)
		if err != nil {
			return nil, fmt.Errorf("api: example of %s: %w", e.id, err)
		}
		content := &huma.MediaType{Schema: registry.Schema(reflect.TypeOf(e.takes), true, ""), Example: example}
		op.RequestBody = &huma.RequestBody{Required: !e.bare, Content: map[string]*huma.MediaType{mediaTypes[0]: content}}
		if e.form {
			op.RequestBody.Content = map[string]*huma.MediaType{gate.TypeForm: content}
		}
		if e.method == http.MethodPatch {
			op.RequestBody.Content[mediaTypes[1]] = content
		}
	}
	e.answersTo(op, registry)
	e.problemsOf(op, problem)
	return op, nil
}

func (e *endpoint) parameters(registry huma.Registry) []*huma.Param {
	var out []*huma.Param
	for part := range strings.SplitSeq(e.path, "/") {
		name, ok := strings.CutPrefix(part, "{")
		if !ok {
			continue
		}
		name = strings.TrimSuffix(name, "}")
		p := pathParameters[name]
		out = append(out, &huma.Param{
			Name: name, In: "path", Required: true, Description: p.description, Example: p.example,
			Schema: &huma.Schema{Type: huma.TypeString},
		})
	}
	for _, p := range e.query {
		schema := registry.Schema(reflect.TypeOf(p.of), true, "")
		if p.most > 1 {
			settle(schema)
			schema.MaxItems = &p.most
		}
		out = append(out, &huma.Param{Name: p.name, In: "query", Description: p.description, Example: p.example, Schema: schema})
	}
	header := func(name, description string, example any) {
		out = append(out, &huma.Param{
			Name: name, In: "header", Description: description, Example: example, Schema: &huma.Schema{Type: huma.TypeString},
		})
	}
	if e.change {
		out = append(out, &huma.Param{
			Name: "dry_run", In: "query", Description: "true shows the events that would be appended, and appends none.", Schema: &huma.Schema{Type: huma.TypeBoolean},
		})
		header("Idempotency-Key", "At most 255 bytes, such as a UUID. A repetition with the same key, path and body does nothing again and is answered with what the first did.", "0f6a0c4e-6f0b-4f6f-9a35-0b6a7d1f2c11")
		header("Keyledger-Reason", "Why, for the audit log, where the body has no reason.", "offboarding")
		header("Keyledger-Ticket", "What asked for it elsewhere, for the audit log: a ticket, a change, an incident. At most 128 bytes.", "SEC-42")
	}
	if e.match {
		header("If-Match", "The ETag that the change was decided on; 412 when there is a newer one.", `"3"`)
	}
	if !e.open {
		header("X-Request-Id", "Your id of the request, for the audit log and the logs; one is made when it is left out.", "req-8f14e45f")
	}
	return out
}

// pathParameters are the parameters of all paths.
var pathParameters = map[string]parameter{
	"org":       {description: "Id of the organization.", example: "acme"},
	"workspace": {description: "Id of the workspace.", example: "support"},
	"profile":   {description: "Id of the profile.", example: "gold"},
	"provider":  {description: "Id of the provider, which is that of the organization's key for it.", example: "openai"},
	"report":    {description: "Name of the report.", example: "access-review"},
	"key":       {description: "Id of the key.", example: "0197ab6e-98f1-7c3a-8f0e-2f3a4b5c6d7e"},
}

func (e *endpoint) answersTo(op *huma.Operation, registry huma.Registry) {
	text := func(s string) *huma.Header {
		return &huma.Header{Description: s, Schema: &huma.Schema{Type: huma.TypeString}}
	}
	good := &huma.Response{Description: http.StatusText(e.status), Headers: map[string]*huma.Header{"X-Request-Id": text("The id of the request.")}}
	op.Responses[strconv.Itoa(e.status)] = good
	if e.answers == nil {
		good.Content = map[string]*huma.MediaType{}
		switch e.id {
		case "stream-events":
			good.Content["text/event-stream"] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
		case "livez", "metrics":
			good.Content["text/plain"] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
		case "revoke-token":
			good.Description = "Nothing; what would be appended, for dry_run=true"
			good.Content[mediaTypes[0]] = &huma.MediaType{Schema: registry.Schema(reflect.TypeFor[wire.DryRun](), true, "")}
		}
		return
	}
	schema := registry.Schema(reflect.TypeOf(e.answers), true, "")
	if e.change {
		good.Headers["Idempotency-Replayed"] = text("true when an earlier request with this Idempotency-Key did it.")
		good.Headers["Keyledger-Applied"] = text("false when the change is recorded and this server has not applied it yet: its own verdicts may still rest on what was before. Left out otherwise. A change that takes something away is then answered with recorded_not_applied instead, unless the answer carries a secret.")
		dry := registry.Schema(reflect.TypeFor[wire.DryRun](), true, "")
		if e.status == http.StatusOK {
			schema = &huma.Schema{OneOf: []*huma.Schema{schema, dry}}
		} else {
			good.Headers["Location"] = text("Where the object is.")
			op.Responses["200"] = &huma.Response{
				Description: "What would be appended, for dry_run=true", Content: map[string]*huma.MediaType{mediaTypes[0]: {Schema: dry}},
			}
		}
	}
	if e.match || e.method == http.MethodGet && strings.HasSuffix(e.path, "}") {
		good.Headers["ETag"] = text("The revision, for If-Match.")
	}
	good.Content = map[string]*huma.MediaType{mediaTypes[0]: {Schema: schema}}
	if len(e.only) > 0 {
		good.Content = map[string]*huma.MediaType{}
	}
	for _, lines := range e.only {
		good.Content[lines] = &huma.MediaType{Schema: schema}
	}
	for _, also := range e.also {
		good.Content[also] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
	}
}

// problemsOf lists what can go wrong, by status.
func (e *endpoint) problemsOf(op *huma.Operation, problem *huma.Schema) {
	byStatus := map[int][]gate.Kind{}
	for _, code := range e.allCodes() {
		for _, k := range kinds {
			if k.Code == code {
				byStatus[k.Status] = append(byStatus[k.Status], k)
				break
			}
		}
	}
	for status, list := range byStatus {
		var text []string
		for _, k := range list {
			text = append(text, "`"+k.Code+"`")
		}
		example := wire.Problem{
			Type: gate.ProblemType(list[0].Code), Title: list[0].Title, Status: status, Code: list[0].Code, RequestID: "req-8f14e45f",
		}
		op.Responses[strconv.Itoa(status)] = &huma.Response{
			Description: http.StatusText(status) + ": " + strings.Join(text, ", "),
			Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: problem, Example: example}},
		}
	}
	if e.id == "readyz" {
		op.Responses["503"] = &huma.Response{Description: "Not ready: the answer names the checks that fail", Content: op.Responses["200"].Content}
	}
	if e.id == "authorize" {
		for status, text := range map[string]string{
			"401": "Unauthorized: `unauthenticated`, `key_malformed`, `key_not_found`, `key_revoked`, `key_expired`, `key_inactive`",
			"403": "Forbidden: `insufficient_permissions`, `out_of_scope`", "503": "Service Unavailable: `stale`, `unavailable`",
		} {
			op.Responses[status] = &huma.Response{Description: text, Content: map[string]*huma.MediaType{"application/problem+json": {Schema: problem}}}
		}
	}
}

// allCodes are the endpoint's own codes and those that follow from what it takes.
func (e *endpoint) allCodes() []string {
	if strings.HasPrefix(e.path, "/v1/") || e.form {
		codes := append([]string{"invalid_request", "secret_in_field", "internal"}, e.codes...)
		if !e.open {
			codes = append(codes, "unauthenticated", "forbidden", "unavailable")
		}
		if strings.Contains(e.path, "{") {
			codes = append(codes, "not_found")
		}
		if e.takes != nil {
			codes = append(codes, "body_too_large", "unsupported_media_type")
		}
		if e.change {
			codes = append(codes, "idempotency_key_reused", "conflict", "outcome_unknown", "invalid_value", "recorded_not_applied")
		}
		if e.match {
			codes = append(codes, "stale_revision")
		}
		slices.Sort(codes)
		return slices.Compact(codes)
	}
	return []string{"internal"}
}

// raw writes an example by our own encoder, which knows our types.
func raw(v any) (stdjson.RawMessage, error) {
	b, err := json.Marshal(v, json.Deterministic(true))
	return stdjson.RawMessage(bytes.TrimSpace(b)), err
}
