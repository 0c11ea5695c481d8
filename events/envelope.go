package events

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// envelope is the CloudEvents document. The order of its members is the order
// on the wire. Extensions follow CloudEvents' naming: lower case, no separators.
// [appendEnvelope] writes it by hand, [scanEnvelope] reads what that wrote.
type envelope struct {
	SpecVersion     string        `json:"specversion"`
	ID              EventID       `json:"id"`
	Source          string        `json:"source"`
	Type            string        `json:"type"`
	Subject         string        `json:"subject"`
	Time            Time          `json:"time"`
	DataContentType string        `json:"datacontenttype"`
	RecordedTime    Time          `json:"recordedtime"`
	Revision        Revision      `json:"revision"`
	Bears           bool          `json:"bearsonverdict"`
	Actor           Actor         `json:"actor"`
	Role            Role          `json:"actorrole,omitzero"`
	Scope           string        `json:"actorscope,omitzero"`
	Reason          string        `json:"reason,omitzero"`
	SealedReason    string        `json:"sealedreason,omitzero"`
	Ticket          string        `json:"ticket,omitzero"`
	RequestID       string        `json:"requestid,omitzero"`
	Command         CommandID     `json:"commandid"`
	Digest          CommandDigest `json:"commanddigest,omitzero"`
	Causation       EventID       `json:"causationid,omitzero"`
	ConfigPosition  uint64        `json:"configposition,omitzero,string"`
	BatchIndex      int           `json:"batchindex,omitzero"`
	BatchSize       int           `json:"batchsize,omitzero"`
	Data            Document      `json:"data"`
}

const (
	specVersion  = "1.0"
	contentType  = "application/json"
	sourcePrefix = "urn:keyledger:"
)

// header is what an envelope says, apart from its subject, which is checked
// against the one that the fact was found under.
type header struct {
	meta  Meta
	kind  Kind
	bears bool
	data  Document
}

// appendEnvelope writes a fact whose data is written already.
func appendEnvelope(dst []byte, subject Subject, h *header) ([]byte, error) {
	m := &h.meta
	w := writer{b: dst}
	w.raw(`{"specversion":"` + specVersion + `","id":"`).uuid(m.ID)
	w.raw(`","source":"` + sourcePrefix).uuid(m.Ledger)
	w.raw(`","type":`).quote(h.kind.Type())
	w.raw(`,"subject":`).quote(subject.String())
	w.raw(`,"time":"`).time(m.Time)
	w.raw(`","datacontenttype":"` + contentType + `","recordedtime":"`).time(m.RecordedTime)
	w.raw(`","revision":`).uint(uint64(m.Revision))
	w.raw(`,"bearsonverdict":`).raw(strconv.FormatBool(h.bears))
	w.raw(`,"actor":`).quote(m.Actor.String())
	w.member(`,"actorrole":`, string(m.Role))
	w.member(`,"actorscope":`, m.Scope)
	if m.Reason.Sealed.IsZero() {
		w.member(`,"reason":`, m.Reason.Clear)
	} else {
		// A CloudEvents attribute is no object: the seal is a text of JSON.
		sealed, err := json.Marshal(m.Reason.Sealed)
		if err != nil {
			return nil, err
		}
		w.member(`,"sealedreason":`, string(sealed))
	}
	w.member(`,"ticket":`, m.Ticket)
	w.member(`,"requestid":`, m.RequestID)
	w.raw(`,"commandid":"`).uuid(m.Command)
	w.raw(`"`)
	if !m.Digest.IsZero() {
		w.raw(`,"commanddigest":"`).hex(m.Digest[:])
		w.raw(`"`)
	}
	if !m.Causation.IsZero() {
		w.raw(`,"causationid":"`).uuid(m.Causation)
		w.raw(`"`)
	}
	if m.ConfigPosition != 0 {
		w.raw(`,"configposition":"`).uint(uint64(m.ConfigPosition))
		w.raw(`"`)
	}
	if m.BatchSize != 0 {
		w.raw(`,"batchindex":`).uint(uint64(m.BatchIndex))
		w.raw(`,"batchsize":`).uint(uint64(m.BatchSize))
	}
	w.raw(`,"data":`)
	return append(append(w.b, h.data...), '}'), w.err
}

// parseEnvelope reads an envelope in whatever spelling JSON allows. Unknown
// extensions are refused like unknown members: nothing that a later version
// says about a fact may be read around.
func parseEnvelope(subject Subject, body []byte) (header, error) {
	var env envelope
	if err := json.Unmarshal(body, &env, decodeOptions); err != nil {
		return header{}, err
	}
	h := header{bears: env.Bears, data: env.Data}
	var err error
	if h.meta, err = env.meta(); err != nil {
		return h, err
	}
	if env.Subject != subject.String() {
		return h, errors.New("fact belongs to another subject")
	}
	name, ok := strings.CutPrefix(env.Type, TypePrefix)
	if h.kind = Kind(name); !ok || !h.kind.wellFormed() || env.SpecVersion != specVersion || env.DataContentType != contentType {
		return h, errors.New("not an envelope of this ledger")
	}
	again, err := appendEnvelope(nil, subject, &h)
	if err != nil || !sameJSON(again, body) {
		return h, errSpelling
	}
	return h, nil
}

func (e *envelope) meta() (Meta, error) {
	m := Meta{
		ID: e.ID, Time: e.Time, RecordedTime: e.RecordedTime, Revision: e.Revision,
		Actor: e.Actor, Role: e.Role, Scope: e.Scope, Reason: ClearText(e.Reason),
		Ticket: e.Ticket, RequestID: e.RequestID, Command: e.Command, Digest: e.Digest, Causation: e.Causation,
		ConfigPosition: Position(e.ConfigPosition), BatchIndex: e.BatchIndex, BatchSize: e.BatchSize,
	}
	if e.SealedReason != "" {
		if e.Reason != "" {
			return m, errors.New("reason stands in clear and sealed")
		}
		if err := json.Unmarshal([]byte(e.SealedReason), &m.Reason.Sealed, decodeOptions); err != nil {
			return m, err
		}
	}
	ledger, ok := strings.CutPrefix(e.Source, sourcePrefix)
	if !ok {
		return m, errors.New("source is no ledger")
	}
	var err error
	if m.Ledger, err = ParseLedgerID(ledger); err != nil {
		return m, err
	}
	return m, m.check()
}

// errSpelling refuses what reads like a fact but says it in a way that this
// package never would: a member that must stand is missing, or one that says
// nothing (null, an empty list) stands where it is to be left out. A fact's
// bytes have one meaning, and a hole in them must not read as "no limit".
var errSpelling = fmt.Errorf("%w: a member is missing, or stands there to say nothing", ErrMalformed)

// writer appends JSON and remembers its first error.
type writer struct {
	b   []byte
	err error
}

func (w *writer) raw(s string) *writer {
	w.b = append(w.b, s...)
	return w
}

func (w *writer) quote(s string) {
	b, err := jsontext.AppendQuote(w.b, s)
	w.b = b
	w.fail(err)
}

// member writes an optional string, name and all.
func (w *writer) member(name, s string) {
	if s != "" {
		w.raw(name).quote(s)
	}
}

func (w *writer) uuid(id [16]byte) { w.b = appendUUID(w.b, id) }
func (w *writer) uint(n uint64)    { w.b = strconv.AppendUint(w.b, n, 10) }
func (w *writer) hex(b []byte)     { w.b = hex.AppendEncode(w.b, b) }

func (w *writer) time(t Time) {
	b, err := t.append(w.b)
	w.b = b
	w.fail(err)
}

func (w *writer) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}
