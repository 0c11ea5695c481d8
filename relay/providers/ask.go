package providers

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/relay/egress"
)

// question is one test, under way.
type question struct {
	doer    Doer
	dialect dialect
	base    string
	secret  string
	need    []string
}

// ask sends the documented call, and the rest of the list when the models that are
// needed were not on its first page.
func (q question) ask(ctx context.Context) Outcome {
	first := call{method: q.dialect.method, path: q.dialect.path}
	if len(q.need) > 0 {
		first = call{method: http.MethodGet, path: q.dialect.list}
	}
	missing := q.need
	next := first
	for range maxPages {
		a, err := q.send(ctx, next)
		if err != nil {
			return unreached(ctx, err)
		}
		l, out := a.read()
		if out.Reason == NotFound && q.dialect.probe != "" {
			return q.askUnlisted(ctx, out)
		}
		if out.Result != "" {
			return out
		}
		missing = slices.DeleteFunc(slices.Clone(missing), func(need string) bool { return q.reaches(l, need) })
		if next.cursor = l.next; next.cursor == "" || len(missing) == 0 || q.dialect.cursor == "" {
			break
		}
	}
	works := Outcome{Result: events.ProviderWorks, Status: http.StatusOK}
	if q.dialect.probe != "" && q.listsToAnybody(ctx, first) {
		refused, proven := q.prove(ctx)
		switch {
		case refused.Result != "":
			return refused
		case !proven:
			works.Reason = Unproven
		}
	}
	if len(missing) > 0 {
		return Outcome{Result: events.ProviderMissingModels, Status: http.StatusOK, MissingModels: missing}
	}
	return works
}

// askUnlisted asks a server that has no list of models, as some who imitate OpenAI
// have none. What it said of the list stands when it knows nothing else either: then
// the base URL is wrong.
func (q question) askUnlisted(ctx context.Context, said Outcome) Outcome {
	refused, proven := q.prove(ctx)
	switch {
	case refused.Result != "":
		return refused
	case !proven:
		return said
	case len(q.need) > 0:
		return Outcome{Result: events.ProviderWorks, Status: said.Status, Reason: Unlisted}
	default:
		return Outcome{Result: events.ProviderWorks, Status: said.Status}
	}
}

func (q question) reaches(l listing, need string) bool {
	return slices.ContainsFunc(l.models, func(have string) bool {
		return have == need || q.dialect.same != nil && q.dialect.same(need, have)
	})
}

// listsToAnybody asks once more, without the key. What does not answer that is no
// reason to doubt what it answered before.
func (q question) listsToAnybody(ctx context.Context, c call) bool {
	c.keyless = true
	a, err := q.send(ctx, c)
	if err != nil {
		return false
	}
	_, out := a.read()
	return out.Result == ""
}

// prove asks for a completion of nothing, which costs nothing: a server that wants a
// key looks at it before it finds that the request says nothing. The key is refused,
// or it is proven by the same request being refused without it.
func (q question) prove(ctx context.Context) (refused Outcome, proven bool) {
	c := call{method: http.MethodPost, path: q.dialect.probe, body: "{}"}
	a, err := q.send(ctx, c)
	if err != nil || a.status < 400 || a.status >= 500 {
		return Outcome{}, false
	}
	if out := a.classify(); out.Result != events.ProviderUnreachable {
		out.Status = a.status
		return out, false
	}
	if a.status != http.StatusBadRequest && a.status != http.StatusUnprocessableEntity {
		return Outcome{}, false
	}
	c.keyless = true
	a, err = q.send(ctx, c)
	return Outcome{}, err == nil && (a.status == http.StatusUnauthorized || a.status == http.StatusForbidden)
}

// call is one request.
type call struct {
	method, path string
	// cursor is where a list goes on.
	cursor string
	body   string
	// keyless leaves the key out, to see whether it is looked at.
	keyless bool
}

// answer is what came back, as far as it is read.
type answer struct {
	status     int
	html       bool
	body       []byte
	retryAfter time.Duration
}

// send sends one request and reads the answer whole. Its errors are never shown:
// those of http.Client hold the address.
func (q question) send(ctx context.Context, c call) (answer, error) {
	query := url.Values{}
	for k, v := range q.dialect.query {
		query[k] = v
	}
	if c.path == q.dialect.list && q.dialect.size != "" {
		// One is enough to see whether the key works.
		size := 1
		if len(q.need) > 0 {
			size = 1000
		}
		query.Set(q.dialect.size, strconv.Itoa(size))
		if c.cursor != "" {
			query.Set(q.dialect.cursor, c.cursor)
		}
	}
	address := q.base + c.path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, c.method, address, strings.NewReader(c.body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "keyledger")
	if c.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if !c.keyless {
		q.dialect.authorize(req.Header, q.secret)
	}
	resp, err := q.doer.Do(req)
	if err != nil {
		return answer{}, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	// The body was read or is given up: there is nothing to lose.
	_ = resp.Body.Close()
	if err != nil {
		return answer{}, err
	}
	if len(body) > MaxBody {
		return answer{}, errTooLarge
	}
	return answer{status: resp.StatusCode, body: body, retryAfter: retryAfter(resp.Header), html: isPage(resp.Header, body)}, nil
}

// isPage reports whether an answer is a page for people. Who calls JSON a page says
// no less for it.
func isPage(h http.Header, body []byte) bool {
	return (strings.Contains(h.Get("Content-Type"), "html") || bytes.HasPrefix(bytes.TrimSpace(body), []byte("<"))) && !json.Valid(body)
}

var errTooLarge = errors.New("providers: the answer is too large")

// retryAfter reads when a provider wants to be asked again (RFC 9110, section
// 10.2.3), in seconds: a date would be by another clock than ours.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get("Retry-After"), 10, 31)
	if err != nil {
		return 0
	}
	return min(time.Duration(n)*time.Second, maxRetryAfter)
}

// listing is what a key reaches.
type listing struct {
	models []string
	// next is where the list goes on.
	next string
}

// read reads an answer: a list, or an outcome that says why it is none.
func (a answer) read() (listing, Outcome) {
	if a.status == http.StatusOK {
		if l, ok := readListing(a.body); ok {
			return l, Outcome{}
		}
	}
	out := a.classify()
	out.Status = a.status
	return listing{}, out
}

// model is one entry of a list: providers name it by id or name, and some have
// other names for it.
type model struct {
	ID      string   `json:"id"`
	Name    string   `json:"name"`
	Aliases []string `json:"aliases"`
}

// readListing reads the list of any provider: {"data": […]} of OpenAI and those
// who follow it, {"models": […]} of Google and Cohere, and a list alone. Cohere
// answers {"valid": true} where it is asked for the key alone.
func readListing(body []byte) (listing, bool) {
	var page struct {
		Data    json.RawMessage `json:"data"`
		Models  json.RawMessage `json:"models"`
		Valid   bool            `json:"valid"`
		Error   json.RawMessage `json:"error"`
		HasMore bool            `json:"has_more"`
		LastID  string          `json:"last_id"`
		// Google's and Cohere's.
		NextPageToken string `json:"nextPageToken"`
		NextToken     string `json:"next_page_token"`
	}
	list := json.RawMessage(body)
	if !bytes.HasPrefix(bytes.TrimSpace(body), []byte("[")) {
		if err := lenient(json.Unmarshal(body, &page)); err != nil || len(page.Error) > 0 && string(page.Error) != "null" {
			return listing{}, false
		}
		switch {
		case len(page.Data) > 0:
			list = page.Data
		case len(page.Models) > 0:
			list = page.Models
		default:
			return listing{}, page.Valid
		}
	}
	var models []model
	if err := lenient(json.Unmarshal(list, &models)); err != nil {
		return listing{}, false
	}
	var l listing
	for _, m := range models {
		for _, name := range append([]string{m.ID, m.Name}, m.Aliases...) {
			if name != "" {
				l.models = append(l.models, name)
			}
		}
	}
	switch {
	case page.NextPageToken != "":
		l.next = page.NextPageToken
	case page.NextToken != "":
		l.next = page.NextToken
	case page.HasMore:
		l.next = page.LastID
	}
	return l, true
}

// lenient forgives members of another type than expected: everything else was
// read, and a provider may number what others name. A list that is none is told
// by its own unmarshalling.
func lenient(err error) error {
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) && mismatch.Field != "" {
		return nil
	}
	return err
}

// unreached says why there was no answer. What [egress.Client] says is known from
// it; what any other client says, as far as its errors tell.
func unreached(ctx context.Context, err error) Outcome {
	out := Outcome{Result: events.ProviderUnreachable, Reason: Refused}
	switch {
	case errors.Is(err, egress.ErrForbidden):
		out.Reason = ForbiddenAddress
	case errors.Is(err, egress.ErrRedirect):
		out.Reason = Redirect
	case errors.Is(err, egress.ErrTooLarge), errors.Is(err, errTooLarge):
		out.Reason = Unintelligible
	case errors.Is(err, egress.ErrTimeout), errors.Is(err, context.DeadlineExceeded), ctx.Err() != nil, isTimeout(err):
		out.Reason = Timeout
	case errors.Is(err, egress.ErrName), isName(err):
		out.Reason = UnknownName
	case errors.Is(err, egress.ErrTLS), isTLS(err):
		out.Reason = InsecureTLS
	}
	return out
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

func isName(err error) bool {
	var e *net.DNSError
	return errors.As(err, &e)
}

func isTLS(err error) bool {
	var (
		certificate *tls.CertificateVerificationError
		record      tls.RecordHeaderError
		alert       tls.AlertError
	)
	return errors.As(err, &certificate) || errors.As(err, &record) || errors.As(err, &alert)
}
