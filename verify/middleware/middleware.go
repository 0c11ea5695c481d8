// Package middleware lets requests of net/http through by the verdict on their key,
// and has handlers know whose request it is:
//
//	guard, err := middleware.New(middleware.Config{Verifier: client})
//	…
//	http.ListenAndServe(address, guard.Authenticate(mux))
//
// and in a handler
//
//	d, _ := verify.FromContext(r.Context())
//
// Whatever is denied is answered here, by a problem document (RFC 9457) and a
// challenge (RFC 6750) that repeat nothing of the request: 401 for a key that is
// good for nothing, 403 for one that may not do this, 503 when there is no verdict.
package middleware

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
)

// Verifier gives verdicts: a [verify.Client], or a [verify.Verifier].
type Verifier interface {
	Verify(ctx context.Context, q *verify.Question) verify.Decision
}

// DefaultRealm is what challenges name.
const DefaultRealm = "keyledger"

// retryAfter is in seconds: what makes a verifier fresh comes within some.
const retryAfter = "2"

// Config says what is asked of a request.
type Config struct {
	// Verifier gives the verdicts. Required.
	Verifier Verifier
	// Permission returns what the request needs. Where it is nil, or returns "", the
	// permission is found by the request's method and path in the routes of the
	// key's own catalog: a catalog with routes then denies what none of them
	// matches, and one without any asks for no permission.
	Permission func(*http.Request) string
	// Question changes what is asked, at the end: a workspace, a kind, a context, a
	// permission. Optional.
	Question func(*http.Request, *verify.Question)
	// ClientIP returns the address that is recorded with the use, which only the
	// application can know: whoever stands in front of it may be a proxy. Nil
	// records none.
	ClientIP func(*http.Request) string
	// Denied answers a request that is denied, in place of this package. It is
	// given the zero Decision where no key came. Optional.
	Denied func(http.ResponseWriter, *http.Request, *verify.Decision)
	// Realm is named in challenges. "" is [DefaultRealm].
	Realm string
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	if c.Verifier == nil {
		faults = append(faults, errors.New("middleware: no verifier"))
	}
	if strings.ContainsFunc(c.Realm, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
		faults = append(faults, errors.New("middleware: Realm would need quoting"))
	}
	return errors.Join(faults...)
}

// Guard lets requests through.
type Guard struct{ config Config }

// New returns a guard.
func New(c Config) (*Guard, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Realm == "" {
		c.Realm = DefaultRealm
	}
	return &Guard{c}, nil
}

// Authenticate lets a request through to next when its key may do what the request
// needs, with the verdict in its context: see [verify.FromContext].
func (g *Guard) Authenticate(next http.Handler) http.Handler {
	return g.guard(next, g.config.Permission)
}

// Require is Authenticate for one permission, or a query of several, whatever the
// configuration says of the request.
func (g *Guard) Require(permission string, next http.Handler) http.Handler {
	return g.guard(next, func(*http.Request) string { return permission })
}

func (g *Guard) guard(next http.Handler, needs func(*http.Request) string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := g.question(r, needs)
		if q.Secret == "" {
			g.deny(w, r, &verify.Decision{})
			return
		}
		d := g.config.Verifier.Verify(r.Context(), &q)
		if !d.Valid() {
			g.deny(w, r, &d)
			return
		}
		next.ServeHTTP(w, r.WithContext(verify.NewContext(r.Context(), &d)))
	})
}

// question is what is asked of a request.
func (g *Guard) question(r *http.Request, needs func(*http.Request) string) verify.Question {
	q := verify.Question{Secret: Key(r), Context: recording.Context{
		RequestID: keystring.Redact(r.Header.Get("X-Request-Id")), Method: r.Method,
		Path: keystring.Redact(r.URL.EscapedPath()), UserAgent: keystring.Redact(r.UserAgent()),
	}}
	if needs != nil {
		q.Permission = needs(r)
	}
	if q.Permission == "" {
		q.Method, q.Path = r.Method, r.URL.EscapedPath()
	}
	if g.config.ClientIP != nil {
		q.Context.ClientIP = g.config.ClientIP(r)
		q.From = q.Context.ClientIP
	}
	if g.config.Question != nil {
		g.config.Question(r, &q)
	}
	return q
}

// Key is the key that a request carries: as Authorization: Bearer, else as
// X-Api-Key. A key in a URL is none: URLs end up in logs.
func Key(r *http.Request) string {
	const scheme = "bearer "
	if a := r.Header.Get("Authorization"); len(a) > len(scheme) && strings.EqualFold(a[:len(scheme)], scheme) {
		return strings.TrimSpace(a[len(scheme):])
	}
	return r.Header.Get("X-Api-Key")
}

// problem is a problem document.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
}

// deny answers a request that is denied.
func (g *Guard) deny(w http.ResponseWriter, r *http.Request, d *verify.Decision) {
	if g.config.Denied != nil {
		g.config.Denied(w, r, d)
		return
	}
	denial := verify.Denial{
		Status: http.StatusUnauthorized, Code: "unauthenticated", Title: "Unauthenticated",
		Detail: "send a key as Authorization: Bearer <key> or as X-Api-Key",
	}
	challenge := `Bearer realm="` + g.config.Realm + `"`
	if d.Code != 0 {
		denial = d.Denial()
		challenge = denial.Challenge(g.config.Realm, d.Permission)
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "application/problem+json")
	if challenge != "" {
		h.Set("WWW-Authenticate", challenge)
	}
	if denial.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", retryAfter)
	}
	w.WriteHeader(denial.Status)
	// The client may have gone; there is nobody to tell.
	_ = json.MarshalWrite(w, problem{"urn:keyledger:" + denial.Code, denial.Title, denial.Status, denial.Detail, denial.Code})
}
