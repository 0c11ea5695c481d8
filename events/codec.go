package events

import (
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// envelope is the CloudEvents document. The order of its members is the order
// on the wire. Extensions follow CloudEvents' naming: lower case, no separators.
type envelope struct {
	SpecVersion     string         `json:"specversion"`
	ID              EventID        `json:"id"`
	Source          string         `json:"source"`
	Type            string         `json:"type"`
	Subject         string         `json:"subject"`
	Time            Time           `json:"time"`
	DataContentType string         `json:"datacontenttype"`
	RecordedTime    Time           `json:"recordedtime"`
	Revision        Revision       `json:"revision"`
	Bears           bool           `json:"bearsonverdict"`
	Actor           Actor          `json:"actor"`
	Role            Role           `json:"actorrole,omitzero"`
	Scope           string         `json:"actorscope,omitzero"`
	Reason          string         `json:"reason,omitzero"`
	SealedReason    string         `json:"sealedreason,omitzero"`
	RequestID       string         `json:"requestid,omitzero"`
	Command         CommandID      `json:"commandid"`
	Digest          CommandDigest  `json:"commanddigest,omitzero"`
	Causation       EventID        `json:"causationid,omitzero"`
	ConfigPosition  uint64         `json:"configposition,omitzero,string"`
	BatchIndex      int            `json:"batchindex,omitzero"`
	BatchSize       int            `json:"batchsize,omitzero"`
	Data            jsontext.Value `json:"data"`
}

const (
	specVersion  = "1.0"
	contentType  = "application/json"
	sourcePrefix = "urn:keyledger:"
)

var (
	encodeOptions = json.JoinOptions(json.Deterministic(true), jsontext.EscapeForHTML(false))
	decodeOptions = json.JoinOptions(json.RejectUnknownMembers(true))
)

// Encode writes the body that is stored for a fact under its subject.
func Encode(subject Subject, event Event, meta Meta) ([]byte, error) {
	info, ok := kinds[event.Kind()]
	if !ok {
		return nil, fmt.Errorf("events: kind %q is not one to be written", event.Kind())
	}
	if info.aggregate != subject.Aggregate {
		return nil, fmt.Errorf("events: kind %q does not belong on aggregate %q", event.Kind(), subject.Aggregate)
	}
	data, err := json.Marshal(event, encodeOptions)
	if err != nil {
		return nil, fmt.Errorf("events: encode %s: %w", event.Kind(), err)
	}
	env := envelope{
		SpecVersion: specVersion, ID: meta.ID, Source: sourcePrefix + meta.Ledger.String(),
		Type: event.Kind().Type(), Subject: subject.String(), Time: meta.Time,
		DataContentType: contentType, RecordedTime: meta.RecordedTime, Revision: meta.Revision,
		Bears: info.bears, Actor: meta.Actor, Role: meta.Role, Scope: meta.Scope,
		Reason: meta.Reason.Clear, RequestID: meta.RequestID, Command: meta.Command,
		Digest: meta.Digest, Causation: meta.Causation, ConfigPosition: uint64(meta.ConfigPosition),
		BatchIndex: meta.BatchIndex, BatchSize: meta.BatchSize, Data: data,
	}
	if !meta.Reason.Sealed.IsZero() {
		env.Reason = ""
		sealed, err := json.Marshal(meta.Reason.Sealed)
		if err != nil {
			return nil, fmt.Errorf("events: encode sealed reason: %w", err)
		}
		env.SealedReason = string(sealed)
	}
	body, err := json.Marshal(env, encodeOptions)
	if err != nil {
		return nil, fmt.Errorf("events: encode %s: %w", event.Kind(), err)
	}
	if len(body) > MaxFactBytes {
		return nil, fmt.Errorf("%w: a fact of %d bytes, at most %d are possible", ErrTooLarge, len(body), MaxFactBytes)
	}
	return body, nil
}

// Decode reads a stored body that was found under a subject. It never fails to
// return something to act on: a body that is no fact comes back as [Malformed]
// together with an error that wraps [ErrMalformed]; a fact of a kind this
// program does not know comes back as [Unknown] and no error.
func Decode(subject Subject, body []byte) (Meta, Event, error) {
	return codec{}.decode(subject, body)
}

// Upcaster turns the data of an old kind into that of the kind which took its
// place. It sees stored bytes and must keep working for ever.
type Upcaster struct {
	To   Kind
	Data func(Document) (Document, error)
}

// upcasters are applied one after another until a current kind is reached.
// There are none yet: every kind is in its first version.
var upcasters = map[Kind]Upcaster{}

// codec is Decode with the tables it reads; tests put others in their place.
type codec struct {
	upcasters map[Kind]Upcaster
}

func (c codec) decode(subject Subject, body []byte) (Meta, Event, error) {
	bad := func(meta Meta, format string, args ...any) (Meta, Event, error) {
		err := fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
		return meta, Malformed{Reason: err.Error()}, err
	}
	if len(body) > MaxFactBytes {
		return bad(Meta{}, "body of %d bytes", len(body))
	}
	var env envelope
	// Unknown extensions are refused like unknown members: nothing that a later
	// version says about a fact may be read around.
	if err := json.Unmarshal(body, &env, decodeOptions); err != nil {
		return bad(Meta{}, "envelope: %s", reason(err))
	}
	meta, err := env.meta()
	if err != nil {
		return bad(meta, "envelope: %s", reason(err))
	}
	if env.Subject != subject.String() {
		return bad(meta, "fact belongs to subject %q", env.Subject)
	}
	name, ok := strings.CutPrefix(env.Type, TypePrefix)
	if !ok || env.SpecVersion != specVersion || env.DataContentType != contentType {
		return bad(meta, "envelope is not one of this ledger")
	}
	kind, data := Kind(name), env.Data
	table := c.upcasters
	if table == nil {
		table = upcasters
	}
	for {
		up, ok := table[kind]
		if !ok {
			break
		}
		if data, err = up.Data(data); err != nil {
			return bad(meta, "%s: upcast: %s", kind, reason(err))
		}
		kind = up.To
	}
	info, known := kinds[kind]
	if !known {
		return meta, Unknown{Name: Kind(name), Bears: env.Bears, Data: data}, nil
	}
	if info.aggregate != subject.Aggregate {
		return bad(meta, "%s on aggregate %q", kind, subject.Aggregate)
	}
	if env.Bears != info.bears {
		return bad(meta, "%s says of itself that it bears on verdicts: %t", kind, env.Bears)
	}
	event, err := info.decode(data)
	if err != nil {
		return bad(meta, "%s: %s", kind, reason(err))
	}
	return meta, event, nil
}

func (e *envelope) meta() (Meta, error) {
	m := Meta{
		ID: e.ID, Time: e.Time, RecordedTime: e.RecordedTime, Revision: e.Revision,
		Actor: e.Actor, Role: e.Role, Scope: e.Scope, Reason: ClearText(e.Reason),
		RequestID: e.RequestID, Command: e.Command, Digest: e.Digest, Causation: e.Causation,
		ConfigPosition: Position(e.ConfigPosition), BatchIndex: e.BatchIndex, BatchSize: e.BatchSize,
	}
	if e.SealedReason != "" {
		if e.Reason != "" {
			return m, errors.New("reason stands in clear and sealed")
		}
		m.Reason = Text{}
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
	switch {
	case e.Revision == 0:
		return m, errors.New("no revision")
	case e.ID.IsZero() || e.Command.IsZero() || e.Time.IsZero() || e.RecordedTime.IsZero():
		return m, errors.New("no id, command id or time")
	case e.BatchIndex < 0 || e.BatchIndex > e.BatchSize || e.BatchSize > MaxBatch || (e.BatchIndex == 0) != (e.BatchSize == 0) || e.BatchSize == 1:
		return m, errors.New("impossible place in a batch")
	}
	return m, nil
}

func decodeAs[E Event](data Document) (Event, error) {
	var e E
	if err := json.Unmarshal(data, &e, decodeOptions); err != nil {
		return nil, err
	}
	return e, nil
}

// reason shortens an error to what may be shown: values of stored bodies are
// left out, since a foreign body may hold anything.
func reason(err error) string {
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		if semantic.Err != nil {
			return fmt.Sprintf("at %q: %s", semantic.JSONPointer, semantic.Err)
		}
		return fmt.Sprintf("at %q: unfit JSON %v", semantic.JSONPointer, semantic.JSONKind)
	}
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) {
		return fmt.Sprintf("invalid JSON at byte %d", syntactic.ByteOffset)
	}
	return err.Error()
}
