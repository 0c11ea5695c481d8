package sidecar

import (
	"bytes"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/common/expfmt"
	"github.com/valyala/fasthttp"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/verify/recording"
)

// route is one path.
type route struct {
	path string
	// methods are those that it takes, none for all; allow is what Allow says.
	methods []string
	allow   string
	// limit bounds the body.
	limit int
	// oauth says that problems are told in OAuth's words too.
	oauth  bool
	handle func(*request) error
}

func (r *route) takes(method string) bool {
	return len(r.methods) == 0 || slices.Contains(r.methods, method)
}

// label names a route in metrics and in the log.
func (r *route) label() string {
	if r == nil {
		return "(none)"
	}
	return r.path
}

func (s *Server) routesOf() map[string]*route {
	get, post := []string{"GET", "HEAD"}, []string{"POST"}
	out := map[string]*route{}
	for _, r := range []*route{
		{path: "/v1/verify", methods: post, limit: gate.MaxVerifyBytes, handle: (*request).verify},
		{path: "/v1/verify/batch", methods: post, limit: gate.MaxVerifyBatchBytes, handle: (*request).verifyBatch},
		{path: "/v1/authorize", limit: gate.MaxVerifyBatchBytes, handle: (*request).authorize},
		{path: "/v1/whoami", methods: get, limit: gate.MaxVerifyBytes, handle: (*request).whoami},
		{path: "/oauth2/introspect", methods: post, limit: gate.MaxFormBytes, oauth: true, handle: (*request).introspect},
		{path: "/oauth2/revoke", methods: post, limit: gate.MaxFormBytes, oauth: true, handle: (*request).revoke},
		{path: "/livez", methods: get, limit: gate.MaxVerifyBytes, handle: (*request).livez},
		{path: "/readyz", methods: get, limit: gate.MaxVerifyBytes, handle: (*request).readyz},
		{path: "/metrics", methods: get, limit: gate.MaxVerifyBytes, handle: (*request).showMetrics},
		{path: "/openapi.json", methods: get, limit: gate.MaxVerifyBytes, handle: (*request).document},
	} {
		r.allow = strings.Join(r.methods, ", ")
		out[r.path] = r
	}
	return out
}

// bound says how long a body may be before it is read.
func (s *Server) bound(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
	uri, _, _ := bytes.Cut(h.RequestURI(), []byte{'?'})
	if r := s.routes[string(uri)]; r != nil {
		return fasthttp.RequestConfig{MaxRequestBodySize: r.limit}
	}
	return fasthttp.RequestConfig{MaxRequestBodySize: gate.MaxVerifyBytes}
}

// locate finds the route of a URL, by its bytes as they came: what another program
// might read as another path is none of ours.
func (r *request) locate(uri string) error {
	r.path, r.query, _ = strings.Cut(uri, "?")
	if r.route = r.s.routes[r.path]; r.route != nil {
		return nil
	}
	u, err := url.ParseRequestURI(uri)
	if err != nil {
		r.ctx.SetConnectionClose()
		return gate.Refuse(gate.ErrRequest, "", "the URL cannot be read")
	}
	switch {
	case keystring.Contains(u.Path):
		return gate.SecretIn("path")
	case !strings.HasPrefix(u.Path, "/") || path.Clean(u.Path) != u.Path && path.Clean(u.Path)+"/" != u.Path:
		return errNoPath
	}
	// One that is escaped, or comes with its host, as it may to a proxy.
	if !strings.Contains(strings.ToLower(u.EscapedPath()), "%2f") {
		r.route, r.query = r.s.routes[u.Path], u.RawQuery
	}
	if r.route == nil {
		return errNoPath
	}
	return nil
}

var errNoPath = domain.Refuse(domain.ErrNotFound, "", "there is no such path, or none that this key may see")

// ask reads the body into the buffer that it lies in.
func (r *request) ask() error {
	if r.query != "" {
		return gate.Refuse(gate.ErrRequest, "", "%s", gate.NoParameters)
	}
	r.out.In = r.ctx.Request.Body()
	if r.route.oauth {
		return nil
	}
	return gate.CheckMediaType(r.head.contentType, r.head.contentEncoding)
}

func (r *request) verify() error {
	if err := r.ask(); err != nil {
		return err
	}
	if err := r.s.gate.ReadOne(&r.out); err != nil {
		return err
	}
	r.s.gate.AnswerOne(r.s.ctx, &r.out)
	r.json(r.out.Out)
	return nil
}

func (r *request) verifyBatch() error {
	if err := r.ask(); err != nil {
		return err
	}
	if err := r.s.gate.ReadBatch(&r.out); err != nil {
		return err
	}
	if err := r.s.gate.AnswerBatch(r.s.ctx, &r.out); err != nil {
		return err
	}
	r.json(r.out.Out)
	return nil
}

func (r *request) authorize() error {
	h := &r.head
	r.asks = gate.Request{
		RequestID: text(r.id), Method: text(r.ctx.Request.Header.Method()), UserAgent: h.userAgent, Query: r.query,
		Authorization: h.authorization, APIKey: h.apiKey, Permission: h.permission, Workspace: h.workspace,
		ForwardedMethod: h.forwardedMethod, OriginalMethod: h.originalMethod, ForwardedURI: h.forwardedURI, OriginalURI: h.originalURI,
		ForwardedFor: h.forwardedFor, RealIP: h.realIP,
	}
	q, fold, err := r.s.gate.Asks(&r.asks)
	if err != nil {
		return err
	}
	r.out.Questions = append(r.out.Questions[:0], q)
	d := r.s.gate.Judge(r.s.ctx, gate.DoorAuthorize, &r.out.Questions[0])
	status, problem := r.s.gate.Reply(&d, fold, text(r.id), canonical{&r.ctx.Response.Header})
	if problem != nil {
		r.problem(problem)
	}
	r.ctx.SetStatusCode(status)
	return nil
}

// useOf is what is recorded of a request about the caller's own key, or about one
// in a form.
func (r *request) useOf() recording.Context {
	return recording.Context{
		RequestID: text(r.id), Method: text(r.ctx.Request.Header.Method()), Path: r.route.path, UserAgent: keystring.Redact(r.head.userAgent),
	}
}

func (r *request) whoami() error {
	if err := gate.RefuseQuery(r.query); err != nil {
		return err
	}
	secret := gate.Bearer(r.head.authorization)
	if secret == "" {
		return gate.NoKey()
	}
	d, _ := r.s.gate.Own(r.s.ctx, secret, r.useOf())
	who, err := r.s.gate.Whoami(&d)
	if err != nil {
		return err
	}
	body, err := json.Marshal(who, json.Deterministic(true))
	if err != nil {
		return gate.ErrInternal
	}
	r.json(body)
	return nil
}

func (r *request) introspect() error {
	if err := r.ask(); err != nil {
		return err
	}
	form, err := gate.ReadForm(r.head.contentType, r.head.contentEncoding, r.out.In)
	if err != nil {
		return err
	}
	q, err := r.s.gate.Question(form, r.useOf())
	if err != nil {
		return err
	}
	if r.out.Out, err = r.s.gate.Introspect(r.s.ctx, &q, r.out.Out[:0]); err != nil {
		return err
	}
	r.json(r.out.Out)
	return nil
}

// revoke says where keys are revoked: nothing is changed here.
func (r *request) revoke() error {
	where := "send it to the server"
	if r.s.cfg.ServerURL != "" {
		where += " at " + r.s.cfg.ServerURL
	}
	return gate.Refuse(errElsewhere, "", "a sidecar reads the ledger and changes nothing; %s", where)
}

func (r *request) livez() error {
	r.ctx.SetContentType("text/plain; charset=utf-8")
	r.ctx.SetBodyString("ok\n")
	return nil
}

func (r *request) readyz() error {
	var ready bool
	r.out.Out, ready = r.s.checks.AppendHealth(r.s.ctx, r.out.Out[:0])
	r.json(r.out.Out)
	if !ready {
		r.ctx.Response.Header.Set("Retry-After", gate.RetryAfter)
		r.ctx.SetStatusCode(fasthttp.StatusServiceUnavailable)
	}
	return nil
}

func (r *request) showMetrics() error {
	// What could be gathered is shown, as a scrape of the server shows it.
	families, err := r.s.cfg.Metrics.Gather()
	if err != nil && len(families) == 0 {
		return gate.ErrInternal
	}
	format := expfmt.NewFormat(expfmt.TypeTextPlain)
	var out bytes.Buffer
	enc := expfmt.NewEncoder(&out, format)
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			return gate.ErrInternal
		}
	}
	r.ctx.SetContentType(string(format))
	r.ctx.SetBody(out.Bytes())
	return nil
}

func (r *request) document() error {
	if len(r.s.cfg.Document) == 0 {
		return errNoPath
	}
	r.ctx.SetContentType(gate.TypeJSON)
	r.ctx.SetBody(r.s.cfg.Document)
	return nil
}
