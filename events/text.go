package events

import (
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Text is a text that may name a person or a place: the name of a key, a
// reason, a value of metadata. In a fact it stands in clear as a JSON string,
// or sealed as an object, where the organization asks for it. Destroying the
// key that sealed it erases the text and leaves every proof standing.
type Text struct {
	Clear  string
	Sealed Sealed
}

// Sealed is an encrypted text. The key that opens it is kept outside the ledger.
type Sealed struct {
	// Subject is the pseudonym of the data subject whose erasure destroys it.
	Subject string `json:"subject"`
	// Key names the wrapped key.
	Key string `json:"key"`
	// Box is the ciphertext, in base64.
	Box string `json:"box"`
}

// IsZero reports whether nothing is sealed.
func (s Sealed) IsZero() bool { return s == Sealed{} }

// ClearText returns a text in clear.
func ClearText(s string) Text { return Text{Clear: s} }

// IsZero reports whether there is no text, in clear or sealed.
func (t Text) IsZero() bool { return t == Text{} }

// String returns the text in clear, or a mark in the place of a sealed one.
func (t Text) String() string {
	if !t.Sealed.IsZero() {
		return "(sealed)"
	}
	return t.Clear
}

// MarshalJSONTo writes a string, or {"sealed":{…}}.
func (t Text) MarshalJSONTo(enc *jsontext.Encoder) error {
	if t.Sealed.IsZero() {
		return enc.WriteToken(jsontext.String(t.Clear))
	}
	return json.MarshalEncode(enc, struct {
		Sealed Sealed `json:"sealed"`
	}{t.Sealed})
}

// UnmarshalJSONFrom reads what MarshalJSONTo writes.
func (t *Text) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	*t = Text{}
	switch kind := dec.PeekKind(); kind {
	case '"':
		return json.UnmarshalDecode(dec, &t.Clear)
	case '{':
		var v struct {
			Sealed Sealed `json:"sealed"`
		}
		if err := json.UnmarshalDecode(dec, &v); err != nil {
			return err
		}
		if v.Sealed.IsZero() {
			return fmt.Errorf("%w: empty seal", ErrMalformed)
		}
		t.Sealed = v.Sealed
		return nil
	default:
		return fmt.Errorf("%w: text is neither a string nor sealed", ErrMalformed)
	}
}

// Metadata is what callers attach to a key for themselves.
type Metadata map[string]Text

// Document is a JSON object kept as it was given, in compact form.
type Document = jsontext.Value
