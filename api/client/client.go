// Package client calls a keyledger server: the typed Go client of its HTTP API.
//
//	c, err := client.New(client.Config{URL: "https://keys.example.com", Key: client.Secret(os.Getenv("KEYLEDGER_KEY"))})
//	…
//	created, err := c.CreateKey(ctx, "acme", wire.CreateKey{Name: "Zapier", …})
//	var p *client.Problem
//	if errors.As(err, &p) && p.Code == "key_limit_reached" { … }
//
// A change is sent with an Idempotency-Key of its own, and sent again with that
// same key when the connection breaks or the server says that it was not done or
// that it cannot tell. So an answer is the answer of the one change there was.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/keystring"
)

// Secret conceals a key: it prints as its masked form, and only Reveal tells it.
func Secret(key string) keystring.Secret { return keystring.Conceal(strings.TrimSpace(key)) }

// Bounds of what a client does by itself.
const (
	// DefaultTimeout is longer than a server takes to be sure of a change.
	DefaultTimeout = 30 * time.Second
	// DefaultRetries outlast the election of a new leader behind the server.
	DefaultRetries = 4

	firstBackoff = 200 * time.Millisecond
	maxBackoff   = 5 * time.Second
	// maxAnswer bounds what is read of an answer: a page of 200 keys with all
	// that they may hold.
	maxAnswer = 16 << 20
)

// ErrConfig says that a client cannot be made so.
var ErrConfig = errors.New("client: invalid configuration")

// Config says which server to call, and as whom.
type Config struct {
	// URL is the server's, such as http://127.0.0.1:8080. Required.
	URL string
	// Key is a management key. Without one only what is open can be called.
	Key keystring.Secret
	// HTTP carries the requests; a client with DefaultTimeout unless given.
	HTTP *http.Client
	// Retries is how often a request is sent again: 0 is DefaultRetries, a
	// negative number never.
	Retries int
	// UserAgent names the program.
	UserAgent string
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return fmt.Errorf("%w: URL must be http://host[:port] or https://host[:port]", ErrConfig)
	}
	return nil
}

// Client calls a server. It is safe for concurrent use.
type Client struct {
	base    string
	key     keystring.Secret
	http    *http.Client
	retries int
	agent   string
}

// New returns a client.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Client{base: strings.TrimRight(cfg.URL, "/"), key: cfg.Key, http: cfg.HTTP, retries: cfg.Retries, agent: cfg.UserAgent}
	if c.http == nil {
		c.http = &http.Client{
			Timeout: DefaultTimeout,
			// A redirect to another host would carry the question there.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	if c.retries == 0 {
		c.retries = DefaultRetries
	}
	return c, nil
}

// Problem is an error that the server answered.
type Problem struct {
	wire.Problem
	// RetryAfter is how long the server asks to wait, 0 when it does not say.
	RetryAfter time.Duration
}

func (p *Problem) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "client: %s (%d)", p.Code, p.Status)
	if p.Field != "" {
		b.WriteString(": " + p.Field)
	}
	if p.Detail != "" {
		b.WriteString(": " + p.Detail)
	}
	return b.String()
}

// Option shapes one change.
type Option func(*request)

// IdempotencyKey sends a change under a key of the caller's, who can then send
// it again after this process has ended.
func IdempotencyKey(key string) Option { return func(r *request) { r.set("Idempotency-Key", key) } }

// IfMatch makes a change only on the revision that an ETag names.
func IfMatch(etag string) Option { return func(r *request) { r.set("If-Match", etag) } }

// Reason says why, for the audit log.
func Reason(text string) Option { return func(r *request) { r.set("Keyledger-Reason", text) } }

// Ticket names what asked for it elsewhere: a ticket, a change, an incident.
func Ticket(name string) Option { return func(r *request) { r.set("Keyledger-Ticket", name) } }

// Raw asks for the stored documents of changes, too.
func Raw() Option { return func(r *request) { r.query.Set("raw", "true") } }

// Force asks to end a profile together with its use by keys.
func Force() Option { return func(r *request) { r.query.Set("force", "true") } }

// DryRun asks what a change would append, and fills in into. The change's own
// answer stays empty.
func DryRun(into *wire.DryRun) Option {
	return func(r *request) { r.query.Set("dry_run", "true"); r.dry = into }
}

// Meta tells of an answer what its body does not.
func Meta(into *Answered) Option { return func(r *request) { r.meta = into } }

// Answered is what stands in the headers of an answer.
type Answered struct {
	ETag      string
	Replayed  bool
	RequestID string
}

type request struct {
	method, path string
	query        url.Values
	header       http.Header
	body         any
	dry          *wire.DryRun
	meta         *Answered
}

func (r *request) set(name, value string) {
	if value != "" {
		r.header.Set(name, value)
	}
}

// segment writes an id into a path. What is no id of ours cannot leave its place.
func segment(id string) string {
	if id == "" || id == "." || id == ".." {
		return "-"
	}
	return url.PathEscape(id)
}

func path(parts ...string) string {
	var b strings.Builder
	b.WriteString("/v1")
	for i, p := range parts {
		b.WriteByte('/')
		if i%2 == 1 {
			p = segment(p)
		}
		b.WriteString(p)
	}
	return b.String()
}

// call sends a request and reads its answer, as often as it takes.
func call[T any](ctx context.Context, c *Client, method, path string, body any, options ...Option) (T, error) {
	var out T
	r := &request{method: method, path: path, query: url.Values{}, header: http.Header{}, body: body}
	if method != http.MethodGet && !strings.HasPrefix(path, "/v1/verify") {
		id, err := uuid.NewRandom()
		if err != nil {
			return out, fmt.Errorf("client: draw an idempotency key: %w", err)
		}
		r.header.Set("Idempotency-Key", id.String())
	}
	for _, o := range options {
		o(r)
	}
	var payload []byte
	if body != nil {
		var err error
		if payload, err = json.Marshal(body, json.Deterministic(true)); err != nil {
			return out, fmt.Errorf("client: write the request: %w", err)
		}
	}
	backoff := firstBackoff
	for n := 0; ; n++ {
		err := c.once(ctx, r, payload, &out)
		again, wait := retry(err)
		if !again || n >= c.retries || ctx.Err() != nil {
			return out, err
		}
		if wait == 0 {
			// Those who met once must not meet again.
			wait = backoff/2 + rand.N(backoff)
			backoff = min(2*backoff, maxBackoff)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return out, err
		case <-timer.C:
		}
	}
}

// retry tells whether a request may be sent again, and after which time the
// server asks for it. Everything may that was not done, and under its
// idempotency key also what perhaps was.
func retry(err error) (bool, time.Duration) {
	var p *Problem
	switch {
	case err == nil:
		return false, 0
	case errors.As(err, &p):
		return p.Status == http.StatusServiceUnavailable || p.Status == http.StatusGatewayTimeout, min(p.RetryAfter, maxBackoff)
	default:
		// A certificate that is refused, or a name that nobody knows, is the
		// same the next time.
		var (
			sent    *transportError
			refused *tls.CertificateVerificationError
			unknown *net.DNSError
		)
		if errors.As(err, &refused) || errors.As(err, &unknown) && unknown.IsNotFound {
			return false, 0
		}
		return errors.As(err, &sent), 0
	}
}

// transportError says that no answer came.
type transportError struct{ err error }

func (e *transportError) Error() string { return "client: no answer: " + e.err.Error() }
func (e *transportError) Unwrap() error { return e.err }

func (c *Client) once(ctx context.Context, r *request, payload []byte, out any) error {
	res, err := c.send(ctx, r, payload)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return &transportError{err}
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return problem(res, body)
	}
	if r.meta != nil {
		*r.meta = Answered{
			ETag: res.Header.Get("ETag"), Replayed: res.Header.Get("Idempotency-Replayed") == "true", RequestID: res.Header.Get("X-Request-Id"),
		}
	}
	if r.dry != nil {
		out = r.dry
	}
	// A later server may tell more than this client knows.
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("client: the answer of %s %s is not what was expected; is this a keyledger server?", r.method, r.path)
	}
	return nil
}

func (c *Client) send(ctx context.Context, r *request, payload []byte) (*http.Response, error) {
	target := c.base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, bytes.NewReader(payload))
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if payload == nil {
		req.Body, req.ContentLength = http.NoBody, 0
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, values := range r.header {
		req.Header[name] = values
	}
	if !c.key.IsZero() {
		req.Header.Set("Authorization", "Bearer "+c.key.Reveal())
	}
	if c.agent != "" {
		req.Header.Set("User-Agent", c.agent)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, &transportError{err}
	}
	return res, nil
}

// problem reads an error's body. What is no problem document comes from
// something in between, and is told by its status alone.
func problem(res *http.Response, body []byte) error {
	p := &Problem{}
	if json.Unmarshal(body, &p.Problem) != nil || p.Code == "" {
		p.Problem = wire.Problem{Code: "http_" + strconv.Itoa(res.StatusCode), Title: http.StatusText(res.StatusCode)}
	}
	p.Status = res.StatusCode
	if n, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && n > 0 {
		p.RetryAfter = time.Duration(n) * time.Second
	}
	return p
}
