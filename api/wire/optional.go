package wire

import (
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Optional is a member of a merge patch (RFC 7396): left out, null, or a value.
// Its zero value is left out.
type Optional[T any] struct {
	Set   bool
	Null  bool
	Value T
}

// Some returns a member with a value.
func Some[T any](v T) Optional[T] { return Optional[T]{Set: true, Value: v} }

// Null returns a member that clears.
func Null[T any]() Optional[T] { return Optional[T]{Set: true, Null: true} }

// IsZero reports whether the member is left out.
func (o Optional[T]) IsZero() bool { return !o.Set }

// MarshalJSONTo writes null or the value.
func (o Optional[T]) MarshalJSONTo(enc *jsontext.Encoder) error {
	if o.Null || !o.Set {
		return enc.WriteToken(jsontext.Null)
	}
	return json.MarshalEncode(enc, o.Value)
}

// UnmarshalJSONFrom reads what MarshalJSONTo writes.
func (o *Optional[T]) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	*o = Optional[T]{Set: true}
	if dec.PeekKind() == 'n' {
		o.Null = true
		_, err := dec.ReadToken()
		return err
	}
	return json.UnmarshalDecode(dec, &o.Value)
}

// GrantWish is what a key shall be allowed: a level with its grants, or a list
// of grants, which is short for level restricted.
type GrantWish Grant

// MarshalJSONTo writes the long form.
func (g GrantWish) MarshalJSONTo(enc *jsontext.Encoder) error {
	return json.MarshalEncode(enc, Grant(g))
}

// UnmarshalJSONFrom reads both forms. Grants without a level are restricted.
func (g *GrantWish) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	*g = GrantWish{}
	if dec.PeekKind() == '[' {
		g.Level = "restricted"
		return json.UnmarshalDecode(dec, &g.Grants)
	}
	if err := json.UnmarshalDecode(dec, (*Grant)(g)); err != nil {
		return err
	}
	if g.Level == "" && len(g.Grants) > 0 {
		g.Level = "restricted"
	}
	return nil
}
