package api

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/verify"
)

// endpoint is one route: the handler and its part of the OpenAPI document are
// both made from it.
type endpoint struct {
	method, path string
	id, tag      string
	summary      string
	// description says what summary does not; who says who may.
	description string
	who         string

	// takes is a value of the type of the request's body, nil for none. With
	// bare, an empty body is as good as {}.
	takes any
	bare  bool
	// form says that the body is a form and not JSON.
	form bool
	// maxBody bounds that body; MaxBodyBytes unless set.
	maxBody int64
	// example is a request's body.
	example any
	query   []parameter
	// change says that events are appended: dry_run, Idempotency-Key and
	// Keyledger-Reason and Keyledger-Ticket are taken. match says that If-Match is.
	change, match bool
	// answers is a value of the type of the answer's body, under status.
	answers any
	status  int
	// also are the other types that an answer may be of.
	also []string
	// only are the types of an answer whose lines are of the type of answers.
	only []string
	// codes are the problems beside those that every endpoint may answer.
	codes []string

	// handle does it. It is nil for what is served by hand; raw then is.
	handle func(context.Context, *call) (reply, error)
	raw    http.Handler
	// reads says that an answer tells something of the audit log, and how it is
	// recorded who was given it.
	reads access.Kind
	// open says that no management key is asked for.
	open bool
	// any says that the endpoint takes every method; the document shows one.
	any bool
}

// parameter is a query parameter or header.
type parameter struct {
	name, description string
	// of is a value of its type.
	of      any
	example any
	// most is how often it may be given, once unless set. Its type is a list then.
	most int
}

// call is one request on its way.
type call struct {
	w         http.ResponseWriter
	r         *http.Request
	requestID string
	principal commands.Principal
	endpoint  *endpoint
	body      []byte
	// still judges the key of the request again.
	still func() error
}

// reply is what a handler answers.
type reply struct {
	status   int
	body     any
	revision events.Revision
	location string
	replayed bool
	// lags says that this server has not applied what it answers.
	lags bool
	// flow is an answer that is sent while it is made, in the place of body.
	flow *flowing
}

// serve carries a request through what all endpoints have in common.
func (s *Server) serve(e *endpoint) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t := trackOf(w)
		c := &call{w: w, r: r, requestID: t.requestID, endpoint: e}
		ctx, cancel := context.WithTimeout(r.Context(), commandTimeout)
		defer cancel()
		out, err := s.respond(ctx, c)
		s.accessed(c, err)
		if err != nil {
			t.fail(writeProblem(w, err, c.requestID), err)
			return
		}
		if out.flow != nil {
			cancel()
			s.pour(c, out.flow)
			return
		}
		s.write(c, out)
	})
}

func (s *Server) respond(ctx context.Context, c *call) (reply, error) {
	if err := c.refuseSecrets(); err != nil {
		return reply{}, err
	}
	var err error
	if c.principal, err = s.authenticate(ctx, c.r, c.requestID); err != nil {
		return reply{}, err
	}
	trackOf(c.w).actor = c.principal.Actor
	if err := c.checkQuery(); err != nil {
		return reply{}, err
	}
	if c.body, err = readBody(c.w, c.r, c.endpoint.bound()); err != nil {
		return reply{}, err
	}
	if c.endpoint.takes == nil && len(c.body) > 0 {
		return reply{}, refuse(errRequest, "", "this request takes no body")
	}
	// A body takes as long as the caller likes, and the key may have ended since.
	c.still = func() error { return s.stillAdmits(c.r, c.principal) }
	if err := c.still(); err != nil {
		return reply{}, err
	}
	return c.endpoint.handle(ctx, c)
}

// stillAdmits judges the key of a request again: what it was let in for must hold
// when it acts.
func (s *Server) stillAdmits(r *http.Request, was commands.Principal) error {
	var d verify.Decision
	if err := s.readmit(r, &d); err != nil {
		return err
	}
	if d.Key != was.Actor.Key || d.Org != was.Org || d.Role != was.Role ||
		d.Scope.AllWorkspaces != was.Scope.AllWorkspaces || !slices.Equal(d.Scope.Workspaces, was.Scope.Workspaces) {
		return unauthenticated(gate.Realm+`, error="invalid_token"`, "the key's role or scope has changed while the request was under way; nothing was done, send it again")
	}
	return nil
}

// write sends what was answered. Nothing of it may be kept by a proxy.
func (s *Server) write(c *call, out reply) {
	if out.status == 0 {
		out.status = c.endpoint.status
	}
	body, err := json.Marshal(out.body, json.Deterministic(true))
	if err != nil {
		trackOf(c.w).fail(writeProblem(c.w, errors.Join(errInternal, err), c.requestID), err)
		return
	}
	h := c.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	if out.revision != 0 {
		h.Set("ETag", etag(out.revision))
	}
	if out.location != "" {
		h.Set("Location", out.location)
	}
	if out.replayed {
		h.Set("Idempotency-Replayed", "true")
	}
	if out.lags {
		h.Set("Keyledger-Applied", "false")
	}
	c.w.WriteHeader(out.status)
	// The client may have gone; there is nobody to tell.
	_, _ = c.w.Write(body)
}

// refuseSecrets finds keys where none belongs, in the path, the query and the
// headers that are recorded. Bodies are walked when they are read.
func (c *call) refuseSecrets() error {
	if keystring.Contains(c.r.URL.Path) {
		return secretIn("path")
	}
	for _, name := range []string{"Idempotency-Key", "Keyledger-Reason", "Keyledger-Ticket", "If-Match"} {
		if keystring.Contains(c.r.Header.Get(name)) {
			return secretIn(name)
		}
	}
	if len(c.r.URL.RawQuery) > MaxQueryBytes {
		return refuse(errRequest, "", "the query may be %d bytes long", MaxQueryBytes)
	}
	for name, values := range c.r.URL.Query() {
		if keystring.Contains(name) {
			return secretIn("query")
		}
		for _, v := range values {
			if keystring.Contains(v) {
				return secretIn(gate.FieldName(name))
			}
		}
	}
	return nil
}

// checkQuery refuses parameters that the endpoint does not take: a mistyped
// filter must not silently show everything.
func (c *call) checkQuery() error {
	if c.r.URL.RawQuery == "" {
		return nil
	}
	query := c.r.URL.Query()
	for name, values := range query {
		switch most := c.endpoint.most(name); {
		case most == 0:
			return refuse(errRequest, gate.FieldName(name), "there is no such parameter here")
		case most == 1 && len(values) > 1:
			return refuse(errRequest, gate.FieldName(name), "is given %d times", len(values))
		case len(values) > most:
			return refuse(errRequest, gate.FieldName(name), "is given %d times, at most %d are allowed", len(values), most)
		}
	}
	return nil
}

// bound is how long a body may be.
func (e *endpoint) bound() int64 {
	if e.maxBody != 0 {
		return e.maxBody
	}
	return MaxBodyBytes
}

// most is how often a parameter may be given, 0 when there is none of the name.
func (e *endpoint) most(name string) int {
	if name == "dry_run" && e.change {
		return 1
	}
	for _, p := range e.query {
		if p.name == name {
			return max(p.most, 1)
		}
	}
	return 0
}

// query returns a parameter's text, empty when it is left out.
func (c *call) query(name string) string { return c.r.URL.Query().Get(name) }

// flag reads a parameter that is true or false.
func (c *call) flag(name string) (bool, error) {
	switch c.query(name) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, refuse(errRequest, name, "must be true or false")
	}
}

// limit reads the length of a page.
func (c *call) limit() (int, error) {
	text := c.query("limit")
	if text == "" {
		return DefaultPage, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > MaxPage {
		return 0, refuse(errRequest, "limit", "must be 1 to %d", MaxPage)
	}
	return n, nil
}

// read decodes the body into the type that the endpoint takes.
func read[T any](c *call) (T, error) {
	var v T
	body := c.body
	if len(body) == 0 && c.endpoint.bare {
		body = []byte("{}")
	}
	if reflect.TypeOf(c.endpoint.takes) != reflect.TypeFor[T]() {
		return v, errInternal
	}
	return v, decode(body, &v)
}

// org reads the organization of the path. What is no id is not there.
func (c *call) org() (events.OrgID, error) {
	org, err := events.ParseOrgID(c.r.PathValue("org"))
	if err != nil {
		return "", missing("organization")
	}
	return org, nil
}

// look reads the organization of the path for a caller who wants to see what is
// in it.
func (c *call) look() (events.OrgID, error) {
	org, err := c.org()
	switch {
	case err != nil:
		return "", err
	case !c.principal.Reaches(org):
		return "", missing("organization")
	case !c.principal.MayLook(org):
		return "", domain.Refuse(domain.ErrForbidden, "", "role %s may not look; this needs role owner, admin, member or auditor", c.principal.Role)
	}
	return org, nil
}

func missing(what string) error {
	return domain.Refuse(domain.ErrNotFound, "", "there is no such %s, or none that this key may see", what)
}

// wish begins what is handed to a command. The reason of the body counts before
// that of the header.
func (c *call) wish(reason string) (commands.Wish, error) {
	dryRun, err := c.flag("dry_run")
	if err != nil {
		return commands.Wish{}, err
	}
	if reason == "" {
		reason = c.r.Header.Get("Keyledger-Reason")
	}
	w := commands.Wish{
		Principal: c.principal, Reason: reason, Ticket: c.r.Header.Get("Keyledger-Ticket"), RequestID: c.requestID, DryRun: dryRun,
		IdempotencyKey: c.r.Header.Get("Idempotency-Key"),
		// The path tells whose change it is, the query how far it goes.
		Route: c.r.Method + " " + c.r.URL.Path, Body: c.body,
		Still: c.still,
	}
	if force := c.query("force"); force != "" {
		w.Route += "?force=" + force
	}
	if c.endpoint.match {
		w.IfMatch, err = ifMatch(c.r.Header.Values("If-Match"))
	}
	return w, err
}

// wished reads the body of a change, and begins the wish with the reason in it.
func wished[T any](c *call, reason func(T) string) (T, commands.Wish, error) {
	body, err := read[T](c)
	if err != nil {
		return body, commands.Wish{}, err
	}
	w, err := c.wish(reason(body))
	return body, w, err
}

func etag(r events.Revision) string { return `"` + strconv.FormatUint(uint64(r), 10) + `"` }

// ifMatch reads the revision that a change is made on; 0 is any. A tag that was
// made weak (by a proxy that compresses) counts like the strong one: it names a
// revision, and not bytes. A tag that was never ours matches nothing.
func ifMatch(headers []string) (events.Revision, error) {
	text := strings.TrimSpace(strings.Join(headers, ","))
	if text == "" || text == "*" {
		return 0, nil
	}
	if strings.Contains(text, ",") {
		return 0, refuse(errRequest, "If-Match", "takes one entity tag")
	}
	digits, ok := strings.CutPrefix(strings.TrimPrefix(text, "W/"), `"`)
	digits, closed := strings.CutSuffix(digits, `"`)
	if !ok || !closed {
		return 0, refuse(errRequest, "If-Match", `must be an entity tag such as "3", with its quotes`)
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || n == 0 {
		return 0, domain.Refuse(domain.ErrStale, "If-Match", "is no revision of this object; read it again")
	}
	return events.Revision(n), nil
}
