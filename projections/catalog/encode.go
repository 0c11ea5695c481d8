package catalog

import (
	"fmt"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/events"
)

// encode writes a value as the JSON it has in a fact, with sorted members: the
// same facts make the same bytes.
func encode(v any) (string, error) {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return "", fmt.Errorf("catalog: encode: %w", err)
	}
	return string(b), nil
}

func encode2(v, w any) (string, string, error) {
	a, err := encode(v)
	if err != nil {
		return "", "", err
	}
	b, err := encode(w)
	return a, b, err
}

// encodeList writes `[]` for none, the most frequent list, without encoding.
func encodeList[T ~string](list []T) (string, error) {
	if len(list) == 0 {
		return "[]", nil
	}
	return encode(list)
}

func encodeMetadata(m events.Metadata) (string, error) {
	if len(m) == 0 {
		return "{}", nil
	}
	return encode(m)
}

// sealed is the second column of a text, see schema.
func sealed(t events.Text) string {
	if t.Sealed.IsZero() {
		return ""
	}
	// Three strings that came out of JSON cannot fail to go back.
	b, _ := json.Marshal(t.Sealed)
	return string(b)
}

func keyText(id events.KeyID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

// textColumns are the two columns of a text, as they are scanned.
type textColumns struct{ clear, sealed string }

func (c textColumns) text() (events.Text, error) {
	if c.sealed == "" {
		return events.ClearText(c.clear), nil
	}
	var t events.Text
	return t, decode(c.sealed, &t.Sealed)
}

func decode(column string, into any) error {
	if err := json.Unmarshal([]byte(column), into); err != nil {
		return fmt.Errorf("catalog: decode a column: %w", err)
	}
	return nil
}

func decodeKeyID(column string) (events.KeyID, error) {
	if column == "" {
		return events.KeyID{}, nil
	}
	return events.ParseKeyID(column)
}

func decodeActor(column string) (events.Actor, error) {
	var a events.Actor
	if column == "" {
		return a, nil
	}
	return a, a.UnmarshalText([]byte(column))
}

func decodeList[T ~string](column string) ([]T, error) {
	if column == "[]" {
		return nil, nil
	}
	var list []T
	return list, decode(column, &list)
}

func decodeMetadata(column string) (events.Metadata, error) {
	if column == "{}" {
		return nil, nil
	}
	var m events.Metadata
	return m, decode(column, &m)
}
