package extauthz

import (
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
)

// An answer is a CheckResponse, written by hand: these are the numbers of its fields,
// each with the wire type that it is written in.
//
//	CheckResponse       1 status, 2 denied_response, 3 ok_response, 4 dynamic_metadata
//	google.rpc.Status   1 code, 2 message
//	DeniedHttpResponse  1 status, 2 headers, 3 body
//	OkHttpResponse      2 headers, 5 headers_to_remove
//	HttpStatus          1 code
//	HeaderValueOption   1 header, 3 append_action
//	HeaderValue         1 key, 2 value
//	Struct              1 fields, each 1 key, 2 value
//	Value               2 number_value, 3 string_value, 4 bool_value, 5 struct_value, 6 list_value
//	ListValue           1 values
const (
	varint1  = 1 << 3
	varint3  = 3 << 3
	varint4  = 4 << 3
	fixed2   = 2<<3 | 1
	message1 = 1<<3 | 2
	message2 = 2<<3 | 2
	message3 = 3<<3 | 2
	message4 = 4<<3 | 2
	message5 = 5<<3 | 2
	message6 = 6<<3 | 2

	// overwrite is OVERWRITE_IF_EXISTS_OR_ADD: the client's own header goes.
	overwrite = 2
)

// writer appends a message.
type writer struct{ b []byte }

// begin begins a message or a text within a message. It returns what end needs.
func (w *writer) begin(tag byte) int {
	w.b = append(w.b, tag, 0)
	return len(w.b)
}

// end writes the length of what was begun, and makes room where that takes more
// than the one byte that most take.
func (w *writer) end(at int) {
	n := len(w.b) - at
	if n < 0x80 {
		w.b[at-1] = byte(n)
		return
	}
	more := 1
	for rest := n >> 14; rest > 0; rest >>= 7 {
		more++
	}
	for range more {
		w.b = append(w.b, 0)
	}
	copy(w.b[at+more:], w.b[at:at+n])
	for i := at - 1; i < at+more-1; i++ {
		w.b[i] = byte(n) | 0x80
		n >>= 7
	}
	w.b[at+more-1] = byte(n)
}

func (w *writer) varint(tag byte, n uint64) {
	w.b = append(w.b, tag)
	for ; n >= 0x80; n >>= 7 {
		w.b = append(w.b, byte(n)|0x80)
	}
	w.b = append(w.b, byte(n))
}

func (w *writer) text(tag byte, text string) {
	at := w.begin(tag)
	w.b = append(w.b, text...)
	w.end(at)
}

// header writes a HeaderValueOption.
func (w *writer) header(name, value string) {
	h := w.beginHeader(name)
	w.b = append(w.b, value...)
	w.endHeader(h)
}

// nested is where the messages begin that are not ended yet, from the outermost in.
type nested [3]int

// beginHeader begins a HeaderValueOption, up to its value.
func (w *writer) beginHeader(name string) (h nested) {
	h[0] = w.begin(message2)
	h[1] = w.begin(message1)
	w.text(message1, name)
	h[2] = w.begin(message2)
	return h
}

func (w *writer) endHeader(h nested) {
	w.end(h[2])
	w.end(h[1])
	w.varint(varint3, overwrite)
	w.end(h[0])
}

// field writes a field of a Struct whose value is a text.
func (w *writer) field(name, value string) {
	f := w.beginText(name)
	w.b = append(w.b, value...)
	w.endText(f)
}

// beginText begins such a field, up to the text.
func (w *writer) beginText(name string) nested {
	f := w.beginField(name)
	f[2] = w.begin(message3)
	return f
}

func (w *writer) endText(f nested) {
	w.end(f[2])
	w.endField(f)
}

func (w *writer) fieldTrue(name string) {
	f := w.beginField(name)
	w.varint(varint4, 1)
	w.endField(f)
}

func (w *writer) fieldNumber(name string, n float64) {
	f := w.beginField(name)
	w.b = append(w.b, fixed2)
	w.b = binary.LittleEndian.AppendUint64(w.b, math.Float64bits(n))
	w.endField(f)
}

func (w *writer) fieldList(name string, list []string) {
	f := w.beginField(name)
	f[2] = w.begin(message6)
	for _, text := range list {
		value := w.begin(message1)
		w.text(message3, text)
		w.end(value)
	}
	w.end(f[2])
	w.endField(f)
}

// beginField begins a field of a Struct, up to what is in its Value.
func (w *writer) beginField(name string) (f nested) {
	f[0] = w.begin(message1)
	w.text(message1, name)
	f[1] = w.begin(message2)
	return f
}

func (w *writer) endField(f nested) {
	w.end(f[1])
	w.end(f[0])
}

// told is what is answered: a verdict, or why none was asked for.
type told struct {
	d *verify.Decision
	// problem and challenge say why the request may not pass; problem is nil when it
	// may.
	problem   *wire.Problem
	challenge string
	position  string
	requestID string
	// claimed are the client's own headers of our names.
	claimed []string
}

// deny takes the denial that a verdict comes with.
func (t *told) deny() {
	denied := gate.Denied(t.d.Code)
	p := denied.Problem(false, t.requestID)
	t.problem, t.challenge = &p, denied.Challenge(t.d.Permission)
}

// refuse takes an error for what no verdict was asked for.
func (t *told) refuse(err error) {
	p := problems.Problem(err, t.requestID)
	t.d, t.problem, t.challenge = nil, &p, ""
	var r *gate.Refusal
	if errors.As(err, &r) {
		for _, challenge := range r.Headers["Www-Authenticate"] {
			t.challenge = challenge
		}
	}
}

// problems is what may be wrong with a request before a verdict is asked for.
var problems = gate.Problems()

// Names of headers. What an answer that lets pass does not set of these, it removes.
const (
	headerCode         = ours + "code"
	headerPosition     = ours + "position"
	headerStale        = ours + "stale"
	headerAsked        = ours + "asked"
	headerKeyID        = ours + "key-id"
	headerOrganization = ours + "organization"
	headerPermission   = ours + "permission"
	headerPermissions  = ours + "permissions"
	headerScopeChecked = ours + "scope-checked"
	headerProfile      = ours + "profile"
	headerWorkspace    = ours + "workspace"
)

// write appends the answer.
func (w *writer) write(t *told) {
	if t.problem != nil {
		w.writeDenied(t)
	} else {
		w.writeAllowed(t)
	}
	w.writeMetadata(t)
}

// writeAllowed writes what the upstream is to be told. A gateway sets headers first
// and removes then: no name may be in both.
func (w *writer) writeAllowed(t *told) {
	w.text(message1, "")
	ok := w.begin(message3)
	w.writeVerdict(t)
	d := t.d
	header := w.beginHeader(headerPermissions)
	w.b = appendGrants(w.b, d.Permissions)
	w.endHeader(header)
	w.header(headerScopeChecked, strconv.FormatBool(d.ScopeChecked))
	profile := profileOf(d)
	if profile != "" {
		w.header(headerProfile, profile)
	}
	for _, h := range [...]struct {
		name string
		set  bool
	}{
		{headerStale, d.Stale},
		{headerAsked, d.Asked},
		{headerKeyID, !d.Key.IsZero()},
		{headerOrganization, !d.Key.IsZero()},
		{headerPermission, validName(d.Permission)},
		{headerProfile, profile != ""},
		{headerWorkspace, false},
	} {
		if !h.set {
			w.text(message5, h.name)
		}
	}
	for _, name := range t.claimed {
		if !known(name) {
			w.text(message5, name)
		}
	}
	w.end(ok)
}

// known reports whether a header is set or removed whatever the client sent.
func known(name string) bool {
	switch strings.ToLower(name) {
	case headerCode, headerPosition, headerStale, headerAsked, headerKeyID, headerOrganization, headerPermission,
		headerPermissions, headerScopeChecked, headerProfile, headerWorkspace:
		return true
	}
	return false
}

// writeVerdict writes the headers that come with every verdict.
func (w *writer) writeVerdict(t *told) {
	d := t.d
	w.header(headerCode, d.Code.String())
	w.header(headerPosition, t.position)
	if d.Stale {
		w.header(headerStale, "true")
	}
	if d.Asked {
		w.header(headerAsked, "true")
	}
	if !d.Key.IsZero() {
		id := w.beginHeader(headerKeyID)
		w.b = d.Key.Append(w.b)
		w.endHeader(id)
		w.header(headerOrganization, string(d.Org))
	}
	if validName(d.Permission) {
		w.header(headerPermission, d.Permission)
	}
}

func (w *writer) writeDenied(t *told) {
	p := t.problem
	status := w.begin(message1)
	w.varint(varint1, uint64(codeOf(p.Status)))
	w.text(message2, p.Code)
	w.end(status)
	denied := w.begin(message2)
	http := w.begin(message1)
	w.varint(varint1, uint64(p.Status))
	w.end(http)
	if t.d != nil {
		w.writeVerdict(t)
	}
	if t.challenge != "" {
		w.header("www-authenticate", t.challenge)
	}
	if p.Status == 503 {
		w.header("retry-after", gate.RetryAfter)
	}
	w.header("cache-control", "no-store")
	w.header("x-request-id", t.requestID)
	w.header("content-type", "application/problem+json")
	body := w.begin(message3)
	w.b = gate.AppendProblem(w.b, *p)
	w.end(body)
	w.end(denied)
}

// writeMetadata tells the verdict to the filters that come after, as keyledger: {…}
// in the namespace of the filter that asked.
func (w *writer) writeMetadata(t *told) {
	metadata := w.begin(message4)
	keyledger := w.beginField("keyledger")
	fields := w.begin(message5)
	w.field("request_id", t.requestID)
	if d := t.d; d != nil {
		w.field("code", d.Code.String())
		w.field("position", t.position)
		w.fieldNumber("staleness", seconds(d.Staleness))
		if d.Stale {
			w.fieldTrue("stale")
		}
		if d.Asked {
			w.fieldTrue("asked")
		}
		if !d.Key.IsZero() {
			w.writeKey(d)
		}
	} else {
		w.field("code", t.problem.Code)
	}
	w.end(fields)
	w.endField(keyledger)
	w.end(metadata)
}

func (w *writer) writeKey(d *verify.Decision) {
	id := w.beginText("key_id")
	w.b = d.Key.Append(w.b)
	w.endText(id)
	w.field("organization", string(d.Org))
	if d.Kind == events.KindManagement {
		w.field("kind", string(d.Kind))
	}
	if profile := profileOf(d); profile != "" {
		w.field("profile", profile)
	}
	if validName(d.Permission) {
		w.field("permission", d.Permission)
	}
	if d.Permissions.Level != "" {
		w.field("level", string(d.Permissions.Level))
		if len(d.Permissions.Grants) > 0 && grantsBytes(d.Permissions) <= maxGrants {
			w.fieldList("grants", d.Permissions.Grants)
		}
	}
	if d.ScopeChecked {
		w.fieldTrue("scope_checked")
	}
	if !d.ExpiresAt.IsZero() {
		expires := w.beginText("expires_at")
		w.b = d.ExpiresAt.Std().AppendFormat(w.b, time.RFC3339Nano)
		w.endText(expires)
	}
}

func profileOf(d *verify.Decision) string {
	if d.Profile == nil || d.Profile.Gone {
		return ""
	}
	return string(d.Profile.ID)
}

// unknownStaleness stands for a staleness that is not known, a year.
const unknownStaleness = 365 * 24 * time.Hour

func seconds(d time.Duration) float64 {
	if d == math.MaxInt64 {
		d = unknownStaleness
	}
	return float64(d.Milliseconds()) / 1000
}

// validName reports whether a permission is of the catalog's grammar: only then may
// it stand in a header.
func validName(name string) bool {
	if name == "" {
		return false
	}
	_, err := permission.ParseName(name)
	return err == nil
}

// appendGrants names the level, or the grants of a restricted key when they are not
// too many to tell.
func appendGrants(b []byte, p events.Permissions) []byte {
	if p.Level != events.LevelRestricted || grantsBytes(p) > maxGrants {
		return append(b, p.Level...)
	}
	for i, g := range p.Grants {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, g...)
	}
	return b
}

// grantsBytes is how long a key's grants are, with commas in between.
func grantsBytes(p events.Permissions) int {
	n := max(len(p.Grants)-1, 0)
	for _, g := range p.Grants {
		n += len(g)
	}
	return n
}

// codeOf is the code of gRPC that says the same as an HTTP status.
func codeOf(status int) codes.Code {
	switch status {
	case 400:
		return codes.InvalidArgument
	case 401:
		return codes.Unauthenticated
	case 403:
		return codes.PermissionDenied
	case 503:
		return codes.Unavailable
	default:
		return codes.Internal
	}
}
