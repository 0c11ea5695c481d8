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

func keyText(id events.KeyID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
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
