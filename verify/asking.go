package verify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
)

// The defaults of a [ServerConfig].
const (
	// DefaultAskTimeout is what a caller who is used to microseconds still waits.
	DefaultAskTimeout = 500 * time.Millisecond
	// DefaultMaxAsking is as many questions as one server answers within that time
	// on any machine.
	DefaultMaxAsking = 64
)

const (
	// maxAnswer bounds the answer: a profile is 16 KiB at most, grants and
	// workspaces some more.
	maxAnswer = 256 << 10
	// failuresBeforeRest is how many questions in a row fail before the server is
	// left alone, for firstRest and twice as long each time up to lastRest.
	failuresBeforeRest = 3
	firstRest          = 250 * time.Millisecond
	lastRest           = 10 * time.Second
)

// ServerConfig says which server is asked, and how.
type ServerConfig struct {
	// URL is where the server answers, such as https://keyledger.example.com.
	// Required. It is https unless it is on this machine.
	URL string
	// Key is a management key of the role verifier: a secret. Required.
	Key string
	// Roots are the authorities that the server's certificate is checked against;
	// nil is the system's.
	Roots *x509.CertPool
	// Insecure lets keys travel in clear, to a server beyond this machine whose URL
	// is http.
	Insecure bool
	// Timeout bounds one question. 0 is [DefaultAskTimeout].
	Timeout time.Duration
	// MaxAsking is how many questions may be on their way at a time; more are not
	// asked. 0 is [DefaultMaxAsking].
	MaxAsking int
}

// String tells nothing: it holds a secret.
func (c ServerConfig) String() string { return "verify.ServerConfig{…}" }

// GoString tells nothing either, under %#v.
func (c ServerConfig) GoString() string { return c.String() }

// LogValue tells nothing to a log.
func (c ServerConfig) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Server has the server asked about keys that are not known here while the client is
// stale: they may have been created since. With [WhileStale] ([Ask]) it is asked about
// all. Its verdicts are never kept.
func Server(c ServerConfig) Option { return func(o *options) { o.server = newServer(c) } }

// server is the server that is asked. It is left alone while it does not answer.
type server struct {
	config ServerConfig
	base   *url.URL
	client *http.Client
	// slots are as many as may ask at a time.
	slots chan struct{}
	// stats of what was asked.
	asked, answered, failed atomic.Uint64

	// log hears of it, every so often, when nothing comes back.
	log *slog.Logger

	mu       sync.Mutex // guards the following
	told     time.Time
	failures int
	rest     time.Duration
	until    time.Time
}

func newServer(c ServerConfig) *server {
	if c.Timeout == 0 {
		c.Timeout = DefaultAskTimeout
	}
	if c.MaxAsking == 0 {
		c.MaxAsking = DefaultMaxAsking
	}
	s := &server{config: c, slots: make(chan struct{}, max(c.MaxAsking, 0)), log: slog.New(slog.DiscardHandler)}
	if base, err := url.Parse(c.URL); err == nil {
		s.base = base
	}
	s.client = &http.Client{
		Timeout: c.Timeout,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12},
			MaxIdleConnsPerHost: cap(s.slots), MaxIdleConns: cap(s.slots), IdleConnTimeout: time.Minute,
			ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10,
		},
		// A key is for this server, wherever it points to.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return s
}

// validate reports every fault at once, and none of a server that is not there.
func (s *server) validate() error {
	if s == nil {
		return nil
	}
	var faults []error
	fault := func(bad bool, text string) {
		if bad {
			faults = append(faults, errors.New("verify: Server: "+text))
		}
	}
	fault(s.base == nil || s.base.Host == "" || s.base.Scheme != "https" && s.base.Scheme != "http", "URL must be https://… or http://…")
	if s.base != nil {
		fault(s.base.User != nil || s.base.RawQuery != "" || s.base.Fragment != "", "URL must be an address alone")
		fault(s.base.Scheme == "http" && !s.config.Insecure && !onThisMachine(s.base.Hostname()), "URL is http and not on this machine: keys would travel in clear")
	}
	fault(s.config.Key == "" || strings.ContainsAny(s.config.Key, " \t\r\n"), "Key must be a management key")
	fault(s.config.Timeout < 0, "Timeout is negative")
	fault(s.config.MaxAsking < 0, "MaxAsking is negative")
	return errors.Join(faults...)
}

func onThisMachine(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// begin takes a slot, unless none is free or the server is left alone.
func (s *server) begin(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.until) {
		return false
	}
	select {
	case s.slots <- struct{}{}:
	default:
		return false
	}
	if s.failures >= failuresBeforeRest {
		// One asks whether it is back; the others go on without.
		s.until = now.Add(s.config.Timeout)
	}
	s.asked.Add(1)
	return true
}

// end gives the slot back, and notes what came of it.
func (s *server) end(ok bool) {
	<-s.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	if ok {
		s.answered.Add(1)
		s.failures, s.rest, s.until = 0, 0, time.Time{}
		return
	}
	s.failed.Add(1)
	if s.failures++; s.failures < failuresBeforeRest {
		return
	}
	s.rest = min(max(2*s.rest, firstRest), lastRest)
	s.until = time.Now().Add(s.rest/2 + rand.N(s.rest))
}

// ask has the server answer a question. It reports whether it did, with a verdict
// that is good for a client of these organizations; none means all.
func (s *server) ask(ctx context.Context, q *Question, d *Decision, positions events.Positions, orgs []events.OrgID) bool {
	if q.Kind != "" && q.Kind != events.KindAPI || len(q.Secret) > MaxSecretBytes || !s.begin(time.Now()) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	answer, err := s.put(ctx, q, positions)
	// Who was asked in vain because the caller has gone did not fail.
	gone := errors.Is(context.Cause(ctx), context.Canceled)
	s.end(err == nil || gone)
	if err != nil {
		if !gone {
			s.tell(ctx, err)
		}
		return false
	}
	if answer.Code == events.CodeStale || answer.Code == events.CodeUnavailable {
		return false
	}
	if answer.Org != "" && (q.Within != "" && answer.Org != q.Within || len(orgs) > 0 && !slices.Contains(orgs, answer.Org)) {
		answer = Decision{Code: events.CodeNotFound, Position: answer.Position, Staleness: answer.Staleness}
	}
	answer.Asked, answer.At = true, events.TimeOf(time.Now())
	*d = answer
	return true
}

// tell logs why nothing came back: a key that the server refuses looks like a server that
// is away to whoever counts only.
func (s *server) tell(ctx context.Context, err error) {
	s.mu.Lock()
	now := time.Now()
	due := now.Sub(s.told) >= lastRest
	if due {
		s.told = now
	}
	s.mu.Unlock()
	if due {
		s.log.WarnContext(ctx, "the server that is asked gives no verdict", "url", s.config.URL, "error", err)
	}
}

// question is the body of /v1/verify.
type question struct {
	Secret     string           `json:"secret"`
	Permission string           `json:"permission,omitzero"`
	Workspace  string           `json:"workspace,omitzero"`
	AtLeast    string           `json:"at_least,omitzero"`
	Context    *questionContext `json:"context,omitempty"`
}

type questionContext struct {
	RequestID string `json:"request_id,omitzero"`
	Method    string `json:"method,omitzero"`
	Path      string `json:"path,omitzero"`
	ClientIP  string `json:"client_ip,omitzero"`
	UserAgent string `json:"user_agent,omitzero"`
}

// errAnswer says nothing of what was sent or came back: a secret may be in it.
var errAnswer = errors.New("verify: the server has not answered the question")

// put puts a question to the server.
func (s *server) put(ctx context.Context, q *Question, positions events.Positions) (Decision, error) {
	if q.Permission == "" && q.Method != "" {
		return s.route(ctx, q, positions)
	}
	body := question{Secret: q.Secret, Permission: q.Permission, Workspace: string(q.Workspace)}
	if q.AtLeast > 0 {
		body.AtLeast = positions.Format(events.StreamLedger, q.AtLeast)
	}
	if c := q.Context; c.RequestID+c.Method+c.Path+c.ClientIP+c.UserAgent != "" {
		body.Context = &questionContext{c.RequestID, c.Method, c.Path, c.ClientIP, c.UserAgent}
	}
	text, err := json.Marshal(body, jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return Decision{}, errAnswer
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base.JoinPath("v1/verify").String(), bytes.NewReader(text))
	if err != nil {
		return Decision{}, errAnswer
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+s.config.Key)
	answer, err := s.client.Do(r)
	if err != nil {
		return Decision{}, fmt.Errorf("%w: %w", errAnswer, err)
	}
	defer answer.Body.Close()
	read, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	if err != nil || answer.StatusCode != http.StatusOK || len(read) > maxAnswer {
		return Decision{}, fmt.Errorf("%w: status %d", errAnswer, answer.StatusCode)
	}
	return readVerdict(read, q, positions)
}

// verdict is the answer of /v1/verify.
type verdict struct {
	Valid        bool           `json:"valid"`
	Code         string         `json:"code"`
	KeyID        events.KeyID   `json:"key_id"`
	Organization events.OrgID   `json:"organization"`
	Kind         events.KeyKind `json:"kind"`
	Role         events.Role    `json:"role"`
	Profile      *struct {
		ID       events.ProfileID `json:"id"`
		Name     string           `json:"name"`
		Settings jsontext.Value   `json:"settings"`
	} `json:"profile"`
	Permissions  events.Permissions `json:"permissions"`
	Scope        events.Scope       `json:"scope"`
	ExpiresAt    time.Time          `json:"expires_at"`
	ScopeChecked bool               `json:"scope_checked"`
	Position     string             `json:"position"`
	Staleness    float64            `json:"staleness"`
	Stale        bool               `json:"stale"`
}

// readVerdict makes a decision of an answer. Whatever it does not understand is no
// answer, and one that contradicts itself is none.
func readVerdict(body []byte, q *Question, positions events.Positions) (Decision, error) {
	var v verdict
	if err := json.Unmarshal(body, &v); err != nil {
		return Decision{}, errAnswer
	}
	code, known := events.ParseCode(v.Code)
	if v.Stale {
		// By whoever it was given, no bound holds for it: we have as good ourselves.
		return Decision{}, errAnswer
	}
	if !known || v.Valid != (code == events.CodeValid) || v.Valid && (v.KeyID.IsZero() || v.Organization == "" || v.Kind == events.KindManagement) {
		return Decision{}, errAnswer
	}
	d := Decision{
		Code: code, Key: v.KeyID, Org: v.Organization, Kind: v.Kind, Role: v.Role, Permissions: v.Permissions, Scope: v.Scope,
		ScopeChecked: v.ScopeChecked, Permission: q.Permission, Staleness: time.Duration(v.Staleness * float64(time.Second)),
	}
	if q.Workspace != "" && v.Valid && !v.ScopeChecked {
		return Decision{}, errAnswer
	}
	if !v.ExpiresAt.IsZero() {
		d.ExpiresAt = events.TimeOf(v.ExpiresAt)
	}
	if d.Kind == "" && !d.Key.IsZero() {
		d.Kind = events.KindAPI
	}
	if p := v.Profile; p != nil {
		d.Profile = &Profile{ID: p.ID, Name: events.ClearText(p.Name), Settings: events.Document(p.Settings)}
	}
	return d, d.placed(v.Position, q, positions)
}

// placed notes up to where the server has answered. A position of another ledger,
// or from before what was asked for, makes it no answer.
func (d *Decision) placed(text string, q *Question, positions events.Positions) error {
	pos, err := positions.Parse(events.StreamLedger, text)
	// Whoever has read nothing yet does not know the ledger's epoch.
	if positions.Epoch != 0 && err != nil || pos < q.AtLeast {
		return errAnswer
	}
	d.Position = pos
	return nil
}

// route asks by the door of gateways, which finds the permission by the catalog's
// routes. What comes back of a profile is its id.
func (s *server) route(ctx context.Context, q *Question, positions events.Positions) (Decision, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base.JoinPath("v1/authorize").String(), nil)
	if err != nil || strings.ContainsAny(q.Secret+q.Method+q.Path+string(q.Workspace), "\r\n\x00") || !keystring.WellFormed(q.Secret) && strings.ContainsFunc(q.Secret, unprintable) {
		return Decision{}, errAnswer
	}
	h := r.Header
	h.Set("X-Api-Key", q.Secret)
	// Both forms, so that a proxy which sets one of them is found out.
	h.Set("X-Forwarded-Method", q.Method)
	h.Set("X-Original-Method", q.Method)
	h.Set("X-Forwarded-Uri", q.Path)
	h.Set("X-Original-Uri", q.Path)
	if q.Workspace != "" {
		h.Set("X-Keyledger-Workspace", string(q.Workspace))
	}
	if q.Context.ClientIP != "" {
		h.Set("X-Forwarded-For", q.Context.ClientIP)
	}
	if q.Context.RequestID != "" {
		h.Set("X-Request-Id", q.Context.RequestID)
	}
	h.Set("User-Agent", q.Context.UserAgent)
	answer, err := s.client.Do(r)
	if err != nil {
		return Decision{}, fmt.Errorf("%w: %w", errAnswer, err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer))
	return readRouted(answer, q, positions)
}

func unprintable(c rune) bool { return c <= ' ' || c > '~' }

// readRouted makes a decision of what a gateway is told.
func readRouted(answer *http.Response, q *Question, positions events.Positions) (Decision, error) {
	h := answer.Header
	code, known := events.ParseCode(h.Get("X-Keyledger-Code"))
	if !known || h.Get("X-Keyledger-Stale") != "" || (code == events.CodeValid) != (answer.StatusCode == http.StatusOK) {
		return Decision{}, fmt.Errorf("%w: status %d", errAnswer, answer.StatusCode)
	}
	d := Decision{
		Code: code, Org: events.OrgID(h.Get("X-Keyledger-Organization")), Permission: h.Get("X-Keyledger-Permission"),
		ScopeChecked: h.Get("X-Keyledger-Scope-Checked") == "true",
	}
	if id := h.Get("X-Keyledger-Key-Id"); id != "" {
		var err error
		if d.Key, err = events.ParseKeyID(id); err != nil {
			return Decision{}, errAnswer
		}
		d.Kind = events.KindAPI
	}
	if code == events.CodeValid && (d.Key.IsZero() || d.Org == "" || q.Workspace != "" && !d.ScopeChecked) {
		return Decision{}, errAnswer
	}
	if id := h.Get("X-Keyledger-Profile"); id != "" {
		d.Profile = &Profile{ID: events.ProfileID(id)}
	}
	switch text := h.Get("X-Keyledger-Permissions"); text {
	case "":
	case string(events.LevelAll), string(events.LevelReadOnly), string(events.LevelRestricted):
		d.Permissions.Level = events.Level(text)
	default:
		d.Permissions = events.Permissions{Level: events.LevelRestricted, Grants: strings.Split(text, ",")}
	}
	return d, d.placed(h.Get("X-Keyledger-Position"), q, positions)
}
