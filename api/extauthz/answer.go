package extauthz

import (
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

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
	option := w.begin(message2)
	header := w.begin(message1)
	w.text(message1, name)
	w.text(message2, value)
	w.end(header)
	w.varint(varint3, overwrite)
	w.end(option)
}

// field writes a field of a Struct whose value is a text.
func (w *writer) field(name, value string) {
	at, v := w.beginField(name)
	w.text(message3, value)
	w.endField(at, v)
}

func (w *writer) fieldTrue(name string) {
	at, v := w.beginField(name)
	w.varint(varint4, 1)
	w.endField(at, v)
}

func (w *writer) fieldNumber(name string, n float64) {
	at, v := w.beginField(name)
	w.b = append(w.b, fixed2)
	bits := math.Float64bits(n)
	for range 8 {
		w.b = append(w.b, byte(bits))
		bits >>= 8
	}
	w.endField(at, v)
}

func (w *writer) fieldList(name string, list []string) {
	at, v := w.beginField(name)
	l := w.begin(message6)
	for _, text := range list {
		value := w.begin(message1)
		w.text(message3, text)
		w.end(value)
	}
	w.end(l)
	w.endField(at, v)
}

func (w *writer) beginField(name string) (at, value int) {
	at = w.begin(message1)
	w.text(message1, name)
	return at, w.begin(message2)
}

func (w *writer) endField(at, value int) {
	w.end(value)
	w.end(at)
}

// told is what is answered: a verdict, or a refusal to ask for one.
type told struct {
	d         *verify.Decision
	refusal   *refusal
	position  string
	requestID string
	// claimed are the client's own headers of our names.
	claimed []string
}

// Names of headers. What an answer does not set of these is removed.
const (
	headerCode         = ours + "code"
	headerPosition     = ours + "position"
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
	if t.refusal != nil {
		w.writeDenied(t)
	} else {
		w.writeAllowed(t)
	}
	w.writeMetadata(t)
}

func (w *writer) writeAllowed(t *told) {
	w.text(message1, "")
	ok := w.begin(message3)
	unset := w.writeVerdict(t)
	d := t.d
	w.header(headerPermissions, grantsOf(d.Permissions))
	w.header(headerScopeChecked, strconv.FormatBool(d.ScopeChecked))
	if d.Profile != nil && !d.Profile.Gone {
		w.header(headerProfile, string(d.Profile.ID))
	} else {
		w.text(message5, headerProfile)
	}
	if unset {
		w.text(message5, headerPermission)
	}
	w.text(message5, headerWorkspace)
	for _, name := range t.claimed {
		if !known(name) {
			w.text(message5, name)
		}
	}
	w.end(ok)
}

// known reports whether a header is set, or removed, whatever the client sent.
func known(name string) bool {
	switch strings.ToLower(name) {
	case headerCode, headerPosition, headerKeyID, headerOrganization, headerPermission,
		headerPermissions, headerScopeChecked, headerProfile, headerWorkspace:
		return true
	}
	return false
}

// writeVerdict writes the headers that allowed and denied requests get, and reports
// whether there was no permission to tell.
func (w *writer) writeVerdict(t *told) (unset bool) {
	d := t.d
	w.header(headerCode, d.Code.String())
	w.header(headerPosition, t.position)
	if !d.Key.IsZero() {
		w.header(headerKeyID, d.Key.String())
		w.header(headerOrganization, string(d.Org))
	}
	if !validName(d.Permission) {
		return true
	}
	w.header(headerPermission, d.Permission)
	return false
}

func (w *writer) writeDenied(t *told) {
	r := t.refusal
	status := w.begin(message1)
	w.varint(varint1, uint64(r.grpc()))
	w.text(message2, r.code)
	w.end(status)
	denied := w.begin(message2)
	http := w.begin(message1)
	w.varint(varint1, uint64(r.status))
	w.end(http)
	if t.d != nil {
		w.writeVerdict(t)
	}
	if r.challenge != "" {
		w.header("www-authenticate", r.challenge)
	}
	if r.status == 503 {
		w.header("retry-after", retryAfter)
	}
	w.header("cache-control", "no-store")
	w.header("content-type", "application/problem+json")
	body := w.begin(message3)
	w.b = r.appendProblem(w.b, t.requestID)
	w.end(body)
	w.end(denied)
}

// writeMetadata tells the verdict to the filters that come after, as
// keyledger: {…} in the namespace of the filter that asked.
func (w *writer) writeMetadata(t *told) {
	metadata := w.begin(message4)
	at, v := w.beginField("keyledger")
	fields := w.begin(message5)
	w.field("request_id", t.requestID)
	if d := t.d; d != nil {
		w.field("code", d.Code.String())
		w.field("position", t.position)
		w.fieldNumber("staleness", seconds(d.Staleness))
		if d.Stale {
			w.fieldTrue("stale")
		}
		w.writeKey(d)
	} else {
		w.field("code", t.refusal.code)
	}
	w.end(fields)
	w.endField(at, v)
	w.end(metadata)
}

func (w *writer) writeKey(d *verify.Decision) {
	if d.Key.IsZero() {
		return
	}
	w.field("key_id", d.Key.String())
	w.field("organization", string(d.Org))
	if d.Kind == events.KindManagement {
		w.field("kind", string(d.Kind))
	}
	if d.Profile != nil && !d.Profile.Gone {
		w.field("profile", string(d.Profile.ID))
	}
	if validName(d.Permission) {
		w.field("permission", d.Permission)
	}
	if d.Permissions.Level != "" {
		w.field("level", string(d.Permissions.Level))
		if len(d.Permissions.Grants) > 0 && grantsOf(d.Permissions) != string(d.Permissions.Level) {
			w.fieldList("grants", d.Permissions.Grants)
		}
	}
	if d.ScopeChecked {
		w.fieldTrue("scope_checked")
	}
	if !d.ExpiresAt.IsZero() {
		w.field("expires_at", d.ExpiresAt.Std().Format(time.RFC3339Nano))
	}
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

// grantsOf names the level, or the grants of a restricted key when they are not too
// many to tell.
func grantsOf(p events.Permissions) string {
	if p.Level != events.LevelRestricted {
		return string(p.Level)
	}
	text := strings.Join(p.Grants, ",")
	if len(text) > maxGrants {
		return string(p.Level)
	}
	return text
}

// grpc is the code that says the same as an HTTP status.
func (r *refusal) grpc() codes.Code {
	switch r.status {
	case 401:
		return codes.Unauthenticated
	case 403:
		return codes.PermissionDenied
	case 429:
		return codes.ResourceExhausted
	case 503:
		return codes.Unavailable
	case 400:
		return codes.InvalidArgument
	default:
		return codes.Internal
	}
}
