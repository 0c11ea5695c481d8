package events

import (
	"bytes"
	"math"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// A replay reads millions of facts, nearly all of them exactly as Encode writes
// them. The scanner reads that one spelling in a single pass. It refuses no
// fact: whatever it does not expect, byte for byte, goes to the thorough path
// (parseEnvelope, parseData), which alone tells right from wrong. A fuzz test
// holds both to the same answers.

// scanEnvelope reads an envelope, or reports that it is not spelled as
// appendEnvelope does, or of a kind that is not current.
func scanEnvelope(subject Subject, body []byte, h *header) bool {
	s, m := scanner{b: body}, &h.meta
	s.lit(`{"specversion":"` + specVersion + `","id":"`)
	s.uuid((*[16]byte)(&m.ID))
	s.lit(`,"source":"` + sourcePrefix)
	s.uuid((*[16]byte)(&m.Ledger))
	s.lit(`,"type":"` + TypePrefix)
	kind := s.plain()
	s.lit(`,"subject":"`)
	s.subject(subject)
	s.lit(`,"time":"`)
	m.Time = s.time()
	s.lit(`,"datacontenttype":"` + contentType + `","recordedtime":"`)
	m.RecordedTime = s.time()
	s.lit(`,"revision":`)
	m.Revision = Revision(s.uint())
	s.lit(`,"bearsonverdict":`)
	if h.bears = s.has(`true`); !h.bears {
		s.lit(`false`)
	}
	s.lit(`,"actor":"`)
	s.check(m.Actor.UnmarshalText(s.plain()) == nil)
	m.Role = Role(s.member(`,"actorrole":"`))
	m.Scope = s.member(`,"actorscope":"`)
	m.Reason.Clear = s.member(`,"reason":"`)
	if m.Reason.Clear == "" && s.has(`,"sealedreason":"`) {
		inner := scanner{b: []byte(s.text())}
		m.Reason.Sealed = inner.sealed()
		s.check(inner.done())
	}
	m.Ticket = s.member(`,"ticket":"`)
	m.RequestID = s.member(`,"requestid":"`)
	s.lit(`,"commandid":"`)
	s.uuid((*[16]byte)(&m.Command))
	if s.has(`,"commanddigest":"`) {
		s.digest((*[32]byte)(&m.Digest))
		s.check(!m.Digest.IsZero())
	}
	if s.has(`,"causationid":"`) {
		s.uuid((*[16]byte)(&m.Causation))
		s.check(!m.Causation.IsZero())
	}
	if s.has(`,"configposition":"`) {
		m.ConfigPosition = Position(s.uint())
		s.lit(`"`)
		s.check(m.ConfigPosition != 0)
	}
	if s.has(`,"batchindex":`) {
		m.BatchIndex = int(s.uint())
		s.lit(`,"batchsize":`)
		m.BatchSize = int(s.uint())
		s.check(m.BatchIndex != 0)
	}
	s.lit(`,"data":`)
	info, known := kinds[Kind(kind)]
	if s.bad || !known || m.check() != nil || body[len(body)-1] != '}' {
		// The fields filled so far are of no use to anyone.
		*h = header{}
		return false
	}
	h.kind, h.data = info.kind, body[s.i:len(body)-1]
	return true
}

// scanData reads the data of the kinds that make up nearly all of a ledger. It
// returns nil for every other kind and spelling.
func scanData(kind Kind, data Document) Event {
	s := scanner{b: data}
	switch kind {
	case KindKeyCreated:
		if e := s.keyCreated(); s.done() {
			return e
		}
	case KindQuotaChanged:
		if e := s.quotaChanged(); s.done() {
			return e
		}
	case KindTick:
		if e := s.tick(); s.done() {
			return e
		}
	case KindKeyRevoked:
		if s.lit(`{}`); s.done() {
			return KeyRevoked{}
		}
	default:
	}
	return nil
}

func (s *scanner) keyCreated() (e KeyCreated) {
	s.lit(`{"id":"`)
	s.uuid((*[16]byte)(&e.ID))
	s.lit(`,"kind":"`)
	e.KeyKind = KeyKind(s.text())
	e.Role = Role(s.member(`,"role":"`))
	if s.has(`,"name":`) {
		e.Name = s.value()
		s.check(!e.Name.IsZero())
	}
	s.lit(`,"prefix":"`)
	e.Prefix = s.text()
	s.lit(`,"last_four":"`)
	e.LastFour = s.text()
	s.lit(`,"digest":{"alg":"`)
	e.Digest.Alg = DigestAlg(s.text())
	e.Digest.PepperID = s.member(`,"pepper_id":"`)
	s.lit(`,"value":"`)
	s.digest((*[32]byte)(&e.Digest.Value))
	s.lit(`}`)
	if s.has(`,"permissions":{"level":"`) {
		e.Permissions.Level = Level(s.text())
		if s.has(`,"grants":["`) {
			e.Permissions.Grants = scanList[string](s)
		}
		s.lit(`}`)
		s.check(!e.Permissions.IsZero())
	}
	s.lit(`,"scope":{`)
	if s.has(`"all_workspaces":true`) {
		e.Scope.AllWorkspaces = true
		s.check(s.has(`,`) || s.next() == '}')
	}
	if s.has(`"workspaces":["`) {
		e.Scope.Workspaces = scanList[WorkspaceID](s)
	}
	s.lit(`}`)
	e.Profile = ProfileID(s.member(`,"profile":"`))
	s.lit(`,"created_at":"`)
	e.CreatedAt = s.time()
	if s.has(`,"expires_at":"`) {
		e.ExpiresAt = s.time()
	}
	if s.has(`,"metadata":{"`) {
		e.Metadata = s.metadata()
	}
	if s.has(`,"external_id":`) {
		e.ExternalID = s.value()
		s.check(!e.ExternalID.IsZero())
	}
	if s.has(`,"rotated_from":"`) {
		s.uuid((*[16]byte)(&e.RotatedFrom))
		s.check(!e.RotatedFrom.IsZero())
	}
	e.Imported = s.has(`,"imported":true`)
	e.DataSubject = DataSubject(s.member(`,"data_subject":"`))
	s.lit(`}`)
	return e
}

func (s *scanner) quotaChanged() (e QuotaChanged) {
	s.lit(`{"limit":`)
	e.Limit = int(s.uint())
	s.lit(`,"holders":[`)
	if s.has(`"`) {
		e.Holders = make([]KeyID, 0, (len(s.b)-s.i)/len(`"00000000-0000-0000-0000-000000000000"`))
		for more := true; more; more = s.has(`,"`) {
			var id KeyID
			s.uuid((*[16]byte)(&id))
			e.Holders = append(e.Holders, id)
		}
	}
	s.lit(`]}`)
	return e
}

func (s *scanner) tick() (e Tick) {
	s.lit(`{"at":"`)
	e.At = s.time()
	s.lit(`,"through":`)
	e.Through = Position(s.uint())
	s.lit(`,"digest":"`)
	s.digest((*[32]byte)(&e.Digest))
	if s.has(`,"scopes":[`) {
		for more := true; more; more = s.has(`,`) {
			var of TickScope
			s.lit(`{"scope":"`)
			of.Scope = ScopeLabel(s.text())
			s.lit(`,"count":`)
			of.Count = s.uint()
			s.lit(`,"digest":"`)
			s.digest((*[32]byte)(&of.Digest))
			s.lit(`}`)
			e.Scopes = append(e.Scopes, of)
		}
		s.lit(`]`)
	}
	s.lit(`,"signature":"`)
	e.Signature = s.text()
	s.lit(`}`)
	return e
}

// scanner walks over bytes. After anything unexpected it is bad, stands at the
// end, and finds nothing more. Its methods for strings begin after the opening
// quote, which stands in the literal before, and take the closing one.
type scanner struct {
	b   []byte
	i   int
	bad bool
}

func (s *scanner) check(ok bool) {
	if !ok {
		s.bad, s.i = true, len(s.b)
	}
}

func (s *scanner) done() bool { return !s.bad && s.i == len(s.b) }

func (s *scanner) next() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) has(text string) bool {
	if len(s.b)-s.i < len(text) || string(s.b[s.i:s.i+len(text)]) != text {
		return false
	}
	s.i += len(text)
	return true
}

func (s *scanner) lit(text string) { s.check(s.has(text)) }

// take returns the next n bytes and a closing quote behind them, or nothing.
func (s *scanner) take(n int) []byte {
	if s.check(len(s.b)-s.i > n); s.bad {
		return nil
	}
	b := s.b[s.i : s.i+n]
	s.i += n
	s.lit(`"`)
	return b
}

func (s *scanner) uuid(id *[16]byte) {
	v, err := parseUUID[[16]byte]("", s.take(36))
	s.check(err == nil)
	*id = v
}

func (s *scanner) digest(d *[32]byte) { s.check(unhex(d[:], s.take(2*len(d)))) }

func (s *scanner) time() Time {
	t, ok := parseTime(s.take(len(timeLayout)))
	s.check(ok)
	return t
}

// uint reads an integer of CloudEvents' range without a sign; what is larger
// takes the thorough path.
func (s *scanner) uint() (n uint64) {
	from := s.i
	for c := s.next(); c >= '0' && c <= '9' && n <= math.MaxInt32; c = s.next() {
		n = n*10 + uint64(c-'0')
		s.i++
	}
	s.check(s.i > from && n <= math.MaxInt32 && (s.b[from] != '0' || s.i == from+1))
	return n
}

func (s *scanner) subject(want Subject) {
	digits := partitionDigits(want.Org)
	s.lit(`ledger.`)
	s.check(len(s.b)-s.i > len(digits) && [4]byte(s.b[s.i:]) == digits)
	s.i = min(s.i+len(digits), len(s.b))
	s.lit(`.`)
	s.lit(string(want.Org))
	s.lit(`.`)
	s.lit(string(want.Aggregate))
	s.lit(`.`)
	s.lit(want.ID)
	s.lit(`"`)
}

// plain returns a string that holds printable ASCII and no escape.
func (s *scanner) plain() []byte {
	from := s.i
	for i, c := range s.b[from:] {
		if c == '"' {
			s.i += i + 1
			return s.b[from : from+i]
		}
		if c < ' ' || c >= utf8.RuneSelf || c == '\\' {
			break
		}
	}
	s.check(false)
	return nil
}

func (s *scanner) text() string {
	rest := s.b[s.i:]
	n := bytes.IndexByte(rest, '"')
	if s.check(n >= 0); s.bad {
		return ""
	}
	for _, c := range rest[:n] {
		if c < ' ' || c >= utf8.RuneSelf || c == '\\' {
			return s.quoted()
		}
	}
	s.i += n + 1
	return string(rest[:n])
}

// quoted reads a string that may hold anything, as long as it is quoted the way
// a writer would.
func (s *scanner) quoted() string {
	end := s.i
	for end < len(s.b) && s.b[end] != '"' {
		if s.b[end] == '\\' {
			end++
		}
		end++
	}
	if s.check(end < len(s.b)); s.bad {
		return ""
	}
	literal := s.b[s.i-1 : end+1]
	text, err := jsontext.AppendUnquote(nil, literal)
	again, err2 := jsontext.AppendQuote(nil, text)
	if s.check(err == nil && err2 == nil && bytes.Equal(again, literal)); s.bad {
		return ""
	}
	s.i = end + 1
	return string(text)
}

// member reads an optional string, which is never written when it is empty.
func (s *scanner) member(name string) (text string) {
	if s.has(name) {
		text = s.text()
		s.check(text != "")
	}
	return text
}

// value reads a [Text], in clear or sealed, from before its first quote.
func (s *scanner) value() (t Text) {
	if s.has(`"`) {
		t.Clear = s.text()
		return t
	}
	s.lit(`{"sealed":`)
	t.Sealed = s.sealed()
	s.lit(`}`)
	return t
}

func (s *scanner) sealed() (v Sealed) {
	s.lit(`{"subject":"`)
	v.Subject = s.text()
	s.lit(`,"key":"`)
	v.Key = s.text()
	s.lit(`,"box":"`)
	v.Box = s.text()
	s.lit(`}`)
	s.check(!v.IsZero())
	return v
}

// metadata reads names in the order that a writer gives them; for names beyond
// plain ASCII that order is another, and they take the thorough path.
func (s *scanner) metadata() Metadata {
	m, last := Metadata{}, ""
	for more := true; more; more = s.has(`,"`) {
		name := string(s.plain())
		s.check(len(m) == 0 || name > last)
		s.lit(`:`)
		m[name], last = s.value(), name
	}
	s.lit(`}`)
	return m
}

// scanList reads a list of strings that is not empty, from its first string on.
func scanList[T ~string](s *scanner) []T {
	var buf [16]T
	list := buf[:0]
	for more := true; more; more = s.has(`,"`) {
		list = append(list, T(s.text()))
	}
	s.lit(`]`)
	return append([]T(nil), list...)
}
