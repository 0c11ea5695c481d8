package api

import (
	"errors"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
)

// buffers are what a verification reads and writes in, used again and again.
type buffers struct {
	in, out []byte
	asked   asked
	// batch and questions are of many at once.
	batch     []asked
	questions []verify.Question
}

// bufferPool keeps buffers that have not grown beyond a size: a profile of 16 KiB
// should not stay in memory for every processor.
type bufferPool struct {
	pool sync.Pool
	most int
}

func newBufferPool(size, most int) *bufferPool {
	return &bufferPool{sync.Pool{New: func() any { return &buffers{in: make([]byte, 0, size), out: make([]byte, 0, size)} }}, most}
}

func (p *bufferPool) get() *buffers { return p.pool.Get().(*buffers) }

func (p *bufferPool) put(b *buffers) {
	if cap(b.in) > p.most || cap(b.out) > p.most {
		return
	}
	// The texts of a question lie in the buffer, a secret among them.
	clear(b.in[:cap(b.in)])
	b.asked = asked{}
	clear(b.batch[:cap(b.batch)])
	clear(b.questions[:cap(b.questions)])
	b.batch, b.questions = b.batch[:0], b.questions[:0]
	p.pool.Put(b)
}

// verify answers POST /v1/verify.
func (s *Server) verify(w http.ResponseWriter, r *http.Request) {
	t := trackOf(w)
	b := s.buffers.get()
	defer s.buffers.put(b)
	if err := s.verdict(t, r, b); err != nil {
		t.fail(writeProblem(w, err, t.requestID), err)
		return
	}
	writeVerdict(t, b)
}

func writeVerdict(t *track, b *buffers) {
	t.quiet = true
	h := t.Header()
	h["Content-Type"] = jsonType
	h["Cache-Control"] = noStore
	t.WriteHeader(http.StatusOK)
	// The client may have gone; there is nobody to tell.
	_, _ = t.Write(b.out)
}

var (
	jsonType = []string{"application/json"}
	noStore  = []string{"no-store"}
)

func (s *Server) verdict(t *track, r *http.Request, b *buffers) error {
	var caller verify.Decision
	if err := s.admitVerifier(t, r, b, MaxVerifyBytes, &caller); err != nil {
		return err
	}
	if err := b.asked.read(b.in); err != nil {
		return err
	}
	q, err := s.question(&b.asked)
	if err != nil {
		return err
	}
	if err := s.readmit(r, &caller); err != nil {
		return err
	}
	if err := mayAsk(&caller, q.Workspace); err != nil {
		return err
	}
	q.Within = within(&caller)
	begin := time.Now()
	d := s.cfg.Verifier.Verify(r.Context(), &q)
	s.metrics.verdict(doorVerify, d.Code, time.Since(begin))
	if q.AtLeast != 0 {
		// It may have waited for that, and a caller may have gone meanwhile.
		if err := s.readmit(r, &caller); err != nil {
			return err
		}
	}
	b.out = s.appendVerdict(b.out[:0], &d)
	return nil
}

// admitVerifier lets a caller in who asks for verdicts, and reads the body.
func (s *Server) admitVerifier(t *track, r *http.Request, b *buffers, limit int, caller *verify.Decision) error {
	if r.URL.RawQuery != "" {
		return refuse(errRequest, "", "this request takes no parameters: a key in a URL ends up in logs")
	}
	if err := s.admit(r.Context(), r, t.requestID, caller); err != nil {
		return err
	}
	t.actor = events.Actor{Type: events.ActorKey, Org: caller.Org, Key: caller.Key}
	if err := readInto(b, r, limit); err != nil {
		return err
	}
	return checkMediaType(r)
}

// within is the one organization whose keys exist for a caller.
func within(caller *verify.Decision) events.OrgID {
	if caller.Org == events.System {
		return ""
	}
	return caller.Org
}

// mayAsk keeps a caller that is limited to workspaces within them: a verdict
// tells of a key what only those may know who see it.
func mayAsk(caller *verify.Decision, asked events.WorkspaceID) error {
	switch {
	case caller.Scope.AllWorkspaces || slices.Contains(caller.Scope.Workspaces, asked):
		return nil
	case asked == "":
		return domain.Refuse(domain.ErrForbidden, "workspace", "is needed: the management key is limited to workspaces, and asks about one of those")
	default:
		return domain.Refuse(domain.ErrForbidden, "workspace", "lies outside the workspaces that the management key is limited to")
	}
}

// readInto reads a body of bounded size into the buffer.
func readInto(b *buffers, r *http.Request, limit int) error {
	b.in = b.in[:0]
	for {
		if len(b.in) == cap(b.in) {
			b.in = append(b.in, 0)[:len(b.in)]
		}
		n, err := r.Body.Read(b.in[len(b.in):cap(b.in)])
		b.in = b.in[:len(b.in)+n]
		switch {
		case len(b.in) > limit:
			return refuse(errTooLarge, "", "the body may be %d bytes long", limit)
		case err == io.EOF:
			return nil
		case err != nil:
			return refuse(errRequest, "", "the body broke off")
		}
	}
}

// question makes the verifier's question of what was asked.
func (s *Server) question(a *asked) (verify.Question, error) {
	q := verify.Question{Secret: a.secret, Permission: a.permission, Workspace: events.WorkspaceID(a.workspace)}
	switch {
	case a.secret == "":
		return q, domain.Refuse(domain.ErrInvalid, "secret", "is needed: the key to be judged")
	case keystring.Contains(a.permission):
		return q, secretIn("permission")
	case keystring.Contains(a.workspace):
		return q, secretIn("workspace")
	case keystring.Contains(a.atLeast):
		return q, secretIn("at_least")
	}
	if err := s.cfg.Verifier.Check(&q); err != nil {
		return q, notAsked(err)
	}
	if a.atLeast != "" {
		pos, err := s.cfg.Positions.Parse(events.StreamLedger, a.atLeast)
		if err != nil {
			return q, err
		}
		q.AtLeast = pos
	}
	q.From = a.context.ClientIP
	q.Context = s.contextOf(a.context)
	return q, nil
}

// notAsked refuses a permission that is none.
func notAsked(err error) error {
	detail := "is no permission and no query of permissions"
	var fault *permission.QueryError
	if errors.As(err, &fault) {
		detail = "is no query such as interview:read AND (interview:start OR report:*); " + fault.Detail()
	}
	return domain.Refuse(domain.ErrInvalid, "permission", "%s", detail)
}

// contextOf is what is recorded of the context that a caller sent. A query
// may hold anything and is left out; keys elsewhere are masked, and never a
// reason to leave a use without a verdict.
func (s *Server) contextOf(c recording.Context) recording.Context {
	c.Path, _, _ = strings.Cut(c.Path, "?")
	c.RequestID, c.Method, c.Path = keystring.Redact(c.RequestID), keystring.Redact(c.Method), keystring.Redact(c.Path)
	c.UserAgent, c.ClientIP = keystring.Redact(c.UserAgent), keystring.Redact(c.ClientIP)
	if !s.cfg.RecordClientIP {
		c.ClientIP = ""
	}
	return c
}

// appendVerdict writes a verdict as [wire.Verdict] says.
func (s *Server) appendVerdict(b []byte, d *verify.Decision) []byte {
	b = append(b, `{"valid":`...)
	b = strconv.AppendBool(b, d.Valid())
	b = append(b, `,"code":"`...)
	b = append(b, d.Code.String()...)
	b = append(b, '"')
	if !d.Key.IsZero() {
		b = appendKeyOf(b, d)
	}
	b = append(b, `,"position":"`...)
	b = append(b, s.position(d.Position)...)
	b = append(b, `","staleness":`...)
	b = appendSeconds(b, d.Staleness)
	return append(b, '}')
}

func appendKeyOf(b []byte, d *verify.Decision) []byte {
	// Ids, levels and grants are of grammars that JSON need not escape.
	b = append(b, `,"key_id":"`...)
	b = appendKeyID(b, d.Key)
	b = append(b, `","organization":"`...)
	b = append(b, d.Org...)
	b = append(b, '"')
	if d.Kind == events.KindManagement {
		b = append(b, `,"kind":"management","role":"`...)
		b = append(b, d.Role...)
		b = append(b, '"')
	}
	if p := d.Profile; p != nil && !p.Gone {
		b = append(b, `,"profile":{"id":"`...)
		b = append(b, p.ID...)
		b = append(b, `","name":`...)
		b = appendQuoted(b, p.Name.String())
		b = append(b, `,"settings":`...)
		b = append(b, p.Settings...)
		b = append(b, '}')
	}
	if d.Permissions.Level != "" {
		b = append(b, `,"permissions":{"level":"`...)
		b = append(b, d.Permissions.Level...)
		b = append(b, '"')
		b = appendTexts(b, `,"grants":[`, d.Permissions.Grants)
		b = append(b, '}')
	}
	b = append(b, `,"scope":{`...)
	if d.Scope.AllWorkspaces {
		b = append(b, `"all_workspaces":true`...)
	} else {
		b = appendTexts(b, `"workspaces":[`, d.Scope.Workspaces)
	}
	b = append(b, '}')
	if !d.ExpiresAt.IsZero() {
		b = append(b, `,"expires_at":"`...)
		b = d.ExpiresAt.Std().AppendFormat(b, time.RFC3339Nano)
		b = append(b, '"')
	}
	b = append(b, `,"scope_checked":`...)
	return strconv.AppendBool(b, d.ScopeChecked)
}

func appendTexts[T ~string](b []byte, begin string, list []T) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(b, begin...)
	for i, v := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, v...)
		b = append(b, '"')
	}
	return append(b, ']')
}

func appendKeyID(b []byte, id events.KeyID) []byte {
	const digits = "0123456789abcdef"
	for i, c := range id {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			b = append(b, '-')
		}
		b = append(b, digits[c>>4], digits[c&15])
	}
	return b
}

// appendQuoted writes a JSON string; what is not UTF-8 becomes U+FFFD.
func appendQuoted(b []byte, text string) []byte {
	out, err := jsontext.AppendQuote(b, text)
	if err != nil && len(out) == 0 {
		return append(b, `""`...)
	}
	return out
}

// appendSeconds writes a duration as a decimal number of seconds, by the
// millisecond. One that was never known to be short is as long as can be said.
func appendSeconds(b []byte, d time.Duration) []byte {
	if d == math.MaxInt64 {
		d = maxStaleness
	}
	ms := d.Milliseconds()
	b = strconv.AppendInt(b, ms/1000, 10)
	if ms %= 1000; ms == 0 {
		return b
	}
	b = append(b, '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10))
	for b[len(b)-1] == '0' {
		b = b[:len(b)-1]
	}
	return b
}

// maxStaleness stands for a staleness that is not known, a year.
const maxStaleness = 365 * 24 * time.Hour

// asksQueries says what a permission that is asked for may be.
const asksQueries = "The permission may be a query such as interview:read AND (interview:start OR report:*): AND binds tighter than OR, and resource:* asks for everything that the catalog has of a resource, which must be something. A query has at most 512 bytes, 32 names and 8 parentheses within each other, and is recorded with the use as it was asked."

func (s *Server) verifyEndpoint() endpoint {
	return endpoint{
		method: "POST", path: "/v1/verify", id: "verify", tag: "Verification", summary: "Ask for the verdict on a key",
		description: "Always 200, with the verdict, whatever it is. A key of another organization than the caller's is NOT_FOUND. For MALFORMED and NOT_FOUND the answer holds valid, code, position and staleness alone. Give at_least the position of a change to be sure that the verdict rests on it. Leave out what is not asked: an empty permission, workspace or at_least is refused, so that a variable that was never set makes no yes. " + asksQueries,
		who:         "A management key of any role, of the organization or of the installation. One that is limited to workspaces must ask about a workspace among them; anything else is forbidden.",
		takes:       wire.VerifyRequest{}, answers: wire.Verdict{}, status: 200, codes: []string{"invalid_position", "invalid_value"},
		example: wire.VerifyRequest{Secret: "kl_live_…", Permission: "interview:start", Workspace: "support"},
		raw:     http.HandlerFunc(s.verify),
	}
}
