package profile

import (
	"bytes"
	"errors"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
)

// mergePatch applies a merge patch to a document, as RFC 7396 says. Members
// keep their order, new ones come last.
func mergePatch(target, patch jsontext.Value) (jsontext.Value, error) {
	if patch.Kind() != jsontext.KindBeginObject {
		return patch, nil
	}
	changes, err := members(patch)
	if err != nil {
		return nil, err
	}
	var out []member
	if target.Kind() == jsontext.KindBeginObject {
		if out, err = members(target); err != nil {
			return nil, err
		}
	}
	for _, change := range changes {
		i := slices.IndexFunc(out, func(m member) bool { return m.name == change.name })
		if change.value.Kind() == jsontext.KindNull {
			if i >= 0 {
				out = slices.Delete(out, i, i+1)
			}
			continue
		}
		var old jsontext.Value
		if i >= 0 {
			old = out[i].value
		}
		merged, err := mergePatch(old, change.value)
		if err != nil {
			return nil, err
		}
		if i >= 0 {
			out[i].value = merged
		} else {
			out = append(out, member{change.name, merged})
		}
	}
	return written(out)
}

type member struct {
	name  string
	value jsontext.Value
}

func members(doc jsontext.Value) ([]member, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(doc))
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	var out []member
	for dec.PeekKind() != jsontext.KindEndObject {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, err
		}
		m := member{name: name.String()}
		value, err := dec.ReadValue()
		if err != nil {
			return nil, err
		}
		m.value = value.Clone()
		out = append(out, m)
	}
	return out, nil
}

func written(list []member) (jsontext.Value, error) {
	var buf bytes.Buffer
	enc := jsontext.NewEncoder(&buf)
	if err := enc.WriteToken(jsontext.BeginObject); err != nil {
		return nil, err
	}
	for _, m := range list {
		if err := errors.Join(enc.WriteToken(jsontext.String(m.name)), enc.WriteValue(m.value)); err != nil {
			return nil, err
		}
	}
	err := enc.WriteToken(jsontext.EndObject)
	return bytes.TrimSpace(buf.Bytes()), err
}
