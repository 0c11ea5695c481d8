package api

import (
	"bytes"
	"errors"
	"io"
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/domain/keystring"
)

// mediaTypes are those of a body that is read. A merge patch is JSON too, and
// telling them apart would only keep people out.
var mediaTypes = []string{gate.TypeJSON, gate.TypePatch}

// readBody reads a JSON body of bounded size and refuses any other.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, refuse(errTooLarge, "", "the body may be %d bytes long", limit)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, refuse(errTooLarge, "", "the body may be %d bytes long", limit)
	case err != nil:
		return nil, refuse(errRequest, "", "the body broke off")
	case len(body) == 0:
		return nil, nil
	}
	return body, checkMediaType(r)
}

func checkMediaType(r *http.Request) error {
	return gate.CheckMediaType(r.Header.Get("Content-Type"), r.Header.Get("Content-Encoding"))
}

// decode reads a body strictly: one JSON object, every member known, none
// twice, in the right case, with nothing behind it. A key anywhere in it is
// refused first: people paste them anywhere.
func decode(body []byte, into any) error {
	if err := walk(body); err != nil {
		return err
	}
	if err := json.Unmarshal(body, into, json.RejectUnknownMembers(true)); err != nil {
		return bodyFault(err)
	}
	return nil
}

// walk reads every token of a body, so that what does not parse and what holds
// a key are told apart from what only has the wrong shape.
func walk(body []byte) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return refuse(errRequest, "", "the body must be a JSON object; it is empty")
	}
	// A key that stands in what is no JSON is a key all the same.
	_, _, secret := keystring.Find(body)
	dec := jsontext.NewDecoder(bytes.NewReader(body))
	if dec.PeekKind() != '{' && !secret {
		return refuse(errRequest, "", "the body must be a JSON object")
	}
	for {
		tok, err := dec.ReadToken()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if secret {
				return secretIn("body")
			}
			return bodyFault(err)
		}
		if tok.Kind() == '"' && keystring.Contains(tok.String()) {
			return secretIn(gate.FieldOf(dec.StackPointer()))
		}
		if dec.StackDepth() > MaxDepth {
			return refuse(errRequest, "", "the body nests deeper than %d", MaxDepth)
		}
		if dec.StackDepth() == 0 {
			// One value, and nothing behind it.
			if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) && !secret {
				return refuse(errRequest, "", "the body must be one JSON object with nothing behind it")
			}
			break
		}
	}
	if secret {
		return secretIn("body")
	}
	return nil
}

func secretIn(field string) error { return gate.SecretIn(field) }

func bodyFault(err error) error { return gate.BodyFault(err) }
