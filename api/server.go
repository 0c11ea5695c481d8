package api

import (
	"context"
	"fmt"
	"html/template"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
)

// Server answers HTTP. Its handler may be served by any number of listeners.
type Server struct {
	cfg      Config
	metrics  *metrics
	gate     *gate.Gate
	buffers  *gate.BufferPool
	batches  *gate.BufferPool
	checks   *gate.Checks
	streamed *endpoint
	handler  http.Handler
	// answered is the highest position that this server has answered a change
	// with; reads wait for it.
	answered atomic.Uint64
	// audience are the streams of events; they end with streaming.
	audience   *audience
	streaming  context.Context
	endStreams context.CancelCauseFunc
	// openers is what is known of opening sealed texts.
	openers openers
	// pasts holds a place for each list of the past that is being made, and looking
	// one for each organization's keys that have one made.
	pasts   chan struct{}
	looking *seats
	// waiting are those who wait for receipts.
	waiting *seats
	// sent are the whole reports that are on their way.
	sent *seats
	// sheets are the parts of a report's page.
	sheets *template.Template
	// tests bounds those of provider keys, and sources notes where these are
	// resolved from.
	tests   *pace
	sources *sources
}

// New returns a server.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.Streams = cfg.Streams.withDefaults()
	s := &Server{
		cfg: cfg, buffers: gate.NewBufferPool(2<<10, MaxVerifyBytes), batches: gate.NewBufferPool(32<<10, MaxVerifyBatchBytes),
		audience: newAudience(cfg.Audit, cfg.WaitForAudit), checks: gate.NewChecks(cfg.Checks, cfg.Logger), sent: newSeats(maxReportsOfOrg, "reports are being sent"),
		looking: newSeats(maxPastsOfOrg, "such lists are being made"), waiting: newSeats(maxWaitsOfOrg, "receipts are being waited for"),
	}
	s.pasts = make(chan struct{}, maxPasts)
	s.tests = newPace(testsBurst, testsEvery, testsAtOnce, maxTests)
	s.sources = newSources(s.noteSource, cfg.Logger)
	s.streaming, s.endStreams = context.WithCancelCause(context.Background())
	var err error
	if s.metrics, err = newMetrics(cfg.Metrics); err != nil {
		return nil, fmt.Errorf("api: register metrics: %w", err)
	}
	if s.gate, err = gate.New(gate.Config{
		Verifier: cfg.Verifier, Positions: func() events.Positions { return cfg.Positions }, Metrics: s.metrics.verdicts,
		Effective: s.effective, RecordClientIP: cfg.RecordClientIP,
	}); err != nil {
		return nil, err
	}
	if s.sheets, err = parseReportPage(); err != nil {
		return nil, err
	}
	s.handler = s.tracked(s.route(s.endpoints()))
	return s, nil
}

// Gate returns what gives verdicts here, for doors that are not HTTP.
func (s *Server) Gate() *gate.Gate { return s.gate }

// Close waits until the context ends for what goes on after requests were answered. No
// request may be under way or come any more.
func (s *Server) Close(ctx context.Context) { s.sources.close(ctx) }

// Handler returns what serves all of it.
func (s *Server) Handler() http.Handler { return s.handler }

// endpoints are all that the OpenAPI document describes.
func (s *Server) endpoints() []endpoint {
	events := s.eventsEndpoint()
	s.streamed = &events
	return slices.Concat(
		s.organizationEndpoints(), s.workspaceEndpoints(), s.permissionEndpoints(), s.profileEndpoints(), s.keyEndpoints(), s.providerEndpoints(), s.auditEndpoints(), s.usesEndpoints(),
		[]endpoint{s.accessEndpoint(), s.reportEndpoint(), s.exportEndpoint(), s.importEndpoint(), s.verifyEndpoint(), s.verifyBatchEndpoint(), s.authorizeEndpoint(), s.whoamiEndpoint(), s.revokeSelfEndpoint(), s.introspectEndpoint(), s.revokeTokenEndpoint(), s.verifiersEndpoint(), s.receiptEndpoint(), events}, s.plainEndpoints(),
	)
}

// route registers the endpoints. Each path also gets a handler for all other
// methods, which says what the path does take.
func (s *Server) route(endpoints []endpoint) http.Handler {
	mux := http.NewServeMux()
	allowed := map[string][]string{}
	for i := range endpoints {
		e := &endpoints[i]
		handler := e.raw
		if handler == nil {
			handler = s.serve(e)
		}
		if e.any {
			mux.Handle(e.path, handler)
			continue
		}
		mux.Handle(e.method+" "+e.path, handler)
		allowed[e.path] = append(allowed[e.path], e.method)
	}
	// Written when it is first asked for, which it mostly never is.
	document := sync.OnceValues(func() (*document, error) { return describe(endpoints, s.cfg.Version, overview) })
	served := map[string]http.Handler{
		"/openapi.json": static("application/json", "", func() ([]byte, error) {
			d, err := document()
			if err != nil {
				return nil, err
			}
			return d.json, nil
		}),
		"/docs": static("text/html; charset=utf-8", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'", sync.OnceValues(func() ([]byte, error) {
			d, err := document()
			if err != nil {
				return nil, err
			}
			return d.page()
		})),
	}
	for path, handler := range served {
		mux.Handle("GET "+path, handler)
		allowed[path] = []string{"GET"}
	}
	for path, methods := range allowed {
		patterns := []string{path}
		if shadows(path, allowed) {
			patterns = without(methods, path)
		}
		for _, pattern := range patterns {
			mux.HandleFunc(pattern, notAllowed(methods))
		}
	}
	mux.HandleFunc("/v1/", notFound)
	mux.HandleFunc("/", notFound)
	if s.cfg.Console != nil {
		mux.Handle("GET /{$}", s.cfg.Console)
	}
	return guarded(mux)
}

// shadows reports whether a path stands where another has a parameter. The router
// then takes no handler for every method of it, which neither of the two would be
// more special than.
func shadows(path string, others map[string][]string) bool {
	last := strings.LastIndexByte(path, '/')
	for other := range others {
		if i := strings.LastIndexByte(other, '/'); other != path && other[:i] == path[:last] && strings.HasPrefix(other[i:], "/{") {
			return true
		}
	}
	return false
}

// without are the patterns of all methods that a path does not take.
func without(taken []string, path string) []string {
	var out []string
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		if !slices.Contains(taken, method) {
			out = append(out, method+" "+path)
		}
	}
	return out
}

// guarded answers what no router should see: a key in the path, which a
// redirect or a console's page might repeat, and paths that would be redirected
// to their clean form, which a gateway in front may read in another way.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t := trackOf(w)
		switch {
		case keystring.Contains(r.URL.Path):
			err := secretIn("path")
			t.fail(writeProblem(w, err, t.requestID), err)
		case !clean(r.URL.Path):
			notFound(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func clean(p string) bool {
	return strings.HasPrefix(p, "/") && (path.Clean(p) == p || path.Clean(p)+"/" == p)
}

func notFound(w http.ResponseWriter, _ *http.Request) {
	t := trackOf(w)
	err := missing("path")
	t.fail(writeProblem(w, err, t.requestID), err)
}

func notAllowed(methods []string) http.HandlerFunc {
	if slices.Contains(methods, "GET") {
		methods = append(methods, "HEAD")
	}
	slices.Sort(methods)
	allow := []string{strings.Join(methods, ", ")}
	return func(w http.ResponseWriter, _ *http.Request) {
		t := trackOf(w)
		err := &refusal{Err: errMethod, Detail: "this path takes " + allow[0], Headers: http.Header{"Allow": allow}}
		t.fail(writeProblem(w, err, t.requestID), err)
	}
}

// static serves what is the same for as long as the process lives.
func static(contentType, policy string, written func() ([]byte, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		body, err := written()
		if err != nil {
			t := trackOf(w)
			t.fail(writeProblem(w, err, t.requestID), err)
			return
		}
		w.Header().Set("Content-Type", contentType)
		if policy != "" {
			w.Header().Set("Content-Security-Policy", policy)
		}
		// The client may have gone; there is nobody to tell.
		_, _ = w.Write(body)
	})
}

// plainEndpoints are those that operators and their tools ask.
func (s *Server) plainEndpoints() []endpoint {
	const tag = "Operation"
	return []endpoint{
		{
			method: "GET", path: "/livez", id: "livez", tag: tag, summary: "Does the process answer?", who: "Anybody.", open: true,
			status: 200, raw: http.HandlerFunc(livez),
		},
		{
			method: "GET", path: "/readyz", id: "readyz", tag: tag, summary: "Can verdicts and reads be given?",
			description: "503 until the ledger is replayed, and whenever a part fails; the answer then names the checks that fail, each with a short reason. What it is about, the server's log tells.", who: "Anybody.", open: true,
			answers: wire.Health{}, status: 200, raw: http.HandlerFunc(s.readyz),
		},
		{
			method: "GET", path: "/metrics", id: "metrics", tag: tag, summary: "Metrics for Prometheus", who: "Anybody. No label holds a key's id.", open: true,
			status: 200, raw: metricsHandler(s.cfg.Metrics),
		},
	}
}
