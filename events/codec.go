package events

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

var (
	encodeOptions = json.JoinOptions(json.Deterministic(true), jsontext.EscapeForHTML(false))
	decodeOptions = json.JoinOptions(json.RejectUnknownMembers(true))
)

// Encode writes the body that is stored for a fact under its subject: compact
// JSON, members in the order of their structs, what is not set left out. It
// refuses whatever Decode would.
//
// A list or map that is nil and one that is empty are the same: left out where
// it is optional, `[]` or `{}` where it is required (the holders of a quota, the
// permissions of a catalog, the metadata of a change), and nil when read again.
func Encode(subject Subject, event Event, meta Meta) ([]byte, error) {
	kind := event.Kind()
	info, ok := kinds[kind]
	if !ok {
		return nil, fmt.Errorf("events: kind %q is not one to be written", kind)
	}
	if info.aggregate != subject.Aggregate {
		return nil, fmt.Errorf("events: kind %q does not belong on aggregate %q", kind, subject.Aggregate)
	}
	if err := errors.Join(subject.check(), meta.check(), fits(subject, &meta, event), whole(event)); err != nil {
		return nil, fmt.Errorf("events: encode %s: %w", kind, err)
	}
	data, err := json.Marshal(event, encodeOptions)
	if err != nil {
		return nil, fmt.Errorf("events: encode %s: %s", kind, reason(err))
	}
	h := header{meta: meta, kind: kind, bears: info.bears, data: data}
	body, err := appendEnvelope(make([]byte, 0, 1024+len(data)), subject, &h)
	if err != nil {
		return nil, fmt.Errorf("events: encode %s: %s", kind, reason(err))
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
//
// It takes any spelling that JSON allows (spaces, escapes, order) of what Encode
// could have written, and nothing else: no unknown, repeated, missing or null
// member. No error repeats what the body says, since that may be anything.
func Decode(subject Subject, body []byte) (Meta, Event, error) {
	return codec{}.decode(subject, body)
}

// Upcaster turns the data of an old kind into that of the kind which took its
// place. It sees stored bytes and must keep working for ever. The new kind
// stands on the same aggregate and bears on verdicts exactly if the old one did.
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
	// thorough leaves the short cut of scan.go out, which must change nothing.
	thorough bool
}

func (c codec) decode(subject Subject, body []byte) (Meta, Event, error) {
	h, event, err := c.read(subject, body)
	if err != nil {
		// Whatever it was made of, the text names no value of the body.
		err = fmt.Errorf("%w: %s", ErrMalformed, reason(err))
		return h.meta, Malformed{Reason: err.Error()}, err
	}
	return h.meta, event, nil
}

func (c codec) read(subject Subject, body []byte) (header, Event, error) {
	if len(body) > MaxFactBytes {
		return header{}, nil, fmt.Errorf("body of %d bytes", len(body))
	}
	if err := subject.check(); err != nil {
		return header{}, nil, err
	}
	var h header
	if c.thorough || !scanEnvelope(subject, body, &h) {
		var err error
		if h, err = parseEnvelope(subject, body); err != nil {
			return h, nil, err
		}
	}
	kind, data, err := c.upcast(h.kind, h.data)
	if err != nil {
		return h, nil, fmt.Errorf("upcast: %w", err)
	}
	info, known := kinds[kind]
	if !known {
		if !data.IsValid() {
			return h, nil, errors.New("invalid JSON")
		}
		return h, Unknown{Name: h.kind, Bears: h.bears, Data: data}, nil
	}
	if info.aggregate != subject.Aggregate {
		return h, nil, fmt.Errorf("%s on aggregate %q", kind, subject.Aggregate)
	}
	if h.bears != info.bears {
		return h, nil, fmt.Errorf("%s says of itself that it bears on verdicts: %t", kind, h.bears)
	}
	var event Event
	if !c.thorough {
		event = scanData(kind, data)
	}
	if event == nil {
		if event, err = parseData(info, data); err != nil {
			return h, nil, err
		}
	}
	if err := fits(subject, &h.meta, event); err != nil {
		return h, nil, err
	}
	return h, event, whole(event)
}

func (c codec) upcast(kind Kind, data Document) (Kind, Document, error) {
	table := c.upcasters
	if table == nil {
		table = upcasters
	}
	for {
		up, ok := table[kind]
		if !ok {
			return kind, data, nil
		}
		next, err := up.Data(data)
		if err != nil {
			return kind, nil, err
		}
		kind, data = up.To, next
	}
}

// parseData reads a fact's data in whatever spelling JSON allows.
func parseData(info kindInfo, data Document) (Event, error) {
	event, err := info.decode(data)
	if err != nil {
		return nil, err
	}
	again, err := json.Marshal(event, encodeOptions)
	if err != nil {
		return nil, err
	}
	if !sameJSON(again, data) {
		return nil, errSpelling
	}
	return event, nil
}

func decodeAs[E Event](data Document) (Event, error) {
	var e E
	if err := json.Unmarshal(data, &e, decodeOptions); err != nil {
		return nil, err
	}
	return withoutEmpty(e), nil
}

// withoutEmpty makes the required lists and maps of a fact nil when they are
// empty, so that one meaning has one value.
func withoutEmpty(e Event) Event {
	switch e := e.(type) {
	case QuotaChanged:
		if len(e.Holders) == 0 {
			e.Holders = nil
			return e
		}
	case CatalogReplaced:
		if len(e.Permissions) == 0 {
			e.Permissions = nil
			return e
		}
	case ProviderKeyTested:
		if len(e.MissingModels) == 0 {
			e.MissingModels = nil
			return e
		}
	case KeyMetadataChanged:
		if len(e.Metadata) == 0 {
			e.Metadata = nil
			return e
		}
	default:
	}
	return e
}

// fits holds a fact to its place: what it says of itself is what its subject
// says, and a document is an object.
func fits(s Subject, m *Meta, e Event) error {
	ok := true
	switch e := e.(type) {
	case InstallationCreated:
		ok = e.Ledger == m.Ledger
	case CredentialIssued:
		ok = string(e.Name) == s.ID
	case OrganizationCreated:
		ok = string(e.ID) == s.ID
	case OrganizationDeleted:
		ok = s.ID == RevokedAll
	case WorkspaceCreated:
		ok = string(e.ID) == s.ID
	case ProfileCreated:
		if ok = string(e.ID) == s.ID; ok && e.Settings.Kind() != '{' {
			return fmt.Errorf("%w: settings are no object", ErrMalformed)
		}
	case ProfileSettingsChanged:
		if e.Settings.Kind() != '{' {
			return fmt.Errorf("%w: settings are no object", ErrMalformed)
		}
	case ProviderKeyAdded:
		ok = string(e.Provider) == s.ID
	case KeyCreated:
		id, isKey := s.Key()
		ok = isKey && e.ID == id
	case KeyRevoked:
		ok = s.ID != RevokedAll
	case UsesDropped:
		ok = e.Through != 0 && (s.ID == RetentionStream || e.Blocks == 0)
	default:
	}
	if !ok {
		return fmt.Errorf("%w: fact is about something else than its subject", ErrMalformed)
	}
	return nil
}

// whole refuses a fact that leaves open what it must say. To whoever reads it, a
// grace that ends at time zero never ends, and a key without a level of
// permissions is one that somebody forgot to restrict.
func whole(e Event) error {
	var at Time
	switch e := e.(type) {
	case KeyCreated:
		switch at = e.CreatedAt; {
		case e.KeyKind == KindAPI && e.Permissions.Level == "":
			return fmt.Errorf("%w: key has no level of permissions", ErrMalformed)
		case e.KeyKind == KindManagement && !e.Permissions.IsZero():
			return fmt.Errorf("%w: management key has permissions beside its role", ErrMalformed)
		}
	case KeyPermissionsChanged:
		if e.Permissions.Level == "" {
			return fmt.Errorf("%w: key has no level of permissions", ErrMalformed)
		}
		return nil
	case KeyRotated:
		at = e.GraceEndsAt
	case KeyGraceChanged:
		at = e.GraceEndsAt
	case KeyExpiring:
		at = e.ExpiresAt
	case KeyRotationDue:
		at = e.DueAt
	case KeyNewSource:
		at = e.At
	case KeyDenialsSpike:
		at = e.From
	case KeyExpired:
		at = e.ExpiredAt
	case UsesDropped:
		at = e.Before
	case ProviderKeyAdded:
		return openable(e.Version, e.Sealed)
	case ProviderKeyReplaced:
		return openable(e.Version, e.Sealed)
	case ProviderKeyTested:
		at = e.At
	case ProviderKeyNewSource:
		at = e.At
	case ProviderKeyResolvesSpike:
		at = e.From
	case ProviderKeyFailing:
		at = e.Since
	case Tick:
		at = e.At
	default:
		return nil
	}
	if at.IsZero() {
		return fmt.Errorf("%w: fact does not say when", ErrMalformed)
	}
	return nil
}

// openable refuses a secret that nobody could say which key opens.
func openable(version uint64, s SealedSecret) error {
	if version == 0 || s.DataKey.IsZero() || s.Secret == "" {
		return fmt.Errorf("%w: provider key has no version, or no secret", ErrMalformed)
	}
	return nil
}

// sameJSON reports whether two texts say the same in JSON, however they spell it.
func sameJSON(a, b Document) bool {
	if bytes.Equal(a, b) {
		return true
	}
	a, b = a.Clone(), b.Clone()
	return a.Canonicalize() == nil && b.Canonicalize() == nil && bytes.Equal(a, b)
}

// reason shortens an error to what may be shown. Names and values of stored
// bodies are left out, since a foreign body may hold anything: of the JSON
// package's errors only their place remains.
func reason(err error) string {
	var semantic *json.SemanticError
	var syntactic *jsontext.SyntacticError
	switch {
	case errors.As(err, &syntactic):
		return fmt.Sprintf("invalid JSON at byte %d", syntactic.ByteOffset)
	case errors.As(err, &semantic) && errors.Is(err, json.ErrUnknownName):
		return fmt.Sprintf("unknown member at byte %d", semantic.ByteOffset)
	case errors.As(err, &semantic) && (errors.Is(err, ErrMalformed) || errors.Is(err, ErrInvalidID)):
		return fmt.Sprintf("at byte %d: %s", semantic.ByteOffset, semantic.Err)
	case errors.As(err, &semantic):
		return fmt.Sprintf("unfit %v at byte %d", semantic.JSONKind, semantic.ByteOffset)
	default:
		return err.Error()
	}
}
