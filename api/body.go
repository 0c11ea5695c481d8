package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/keystring"
)

// mediaTypes are those of a body that is read. A merge patch is JSON too, and
// telling them apart would only keep people out.
var mediaTypes = []string{"application/json", "application/merge-patch+json"}

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
	header, encoding := r.Header.Get("Content-Type"), r.Header.Get("Content-Encoding")
	if header == mediaTypes[0] && encoding == "" {
		return nil
	}
	t, params, err := mime.ParseMediaType(header)
	if err != nil || t != mediaTypes[0] && t != mediaTypes[1] ||
		params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8") || encoding != "" {
		return refuse(errMediaType, "Content-Type", "the body must be %s, in UTF-8 and not compressed", strings.Join(mediaTypes, " or "))
	}
	return nil
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
			return secretIn(fieldOf(dec.StackPointer()))
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

func secretIn(field string) error {
	if field == "" {
		field = "body"
	}
	return domain.Refuse(domain.ErrSecretInField, field, "holds what looks like an API key; a secret belongs in no field of this request. If it was sent by mistake, treat it as leaked and revoke it")
}

// bodyFault tells what is wrong with a body, and repeats nothing of it but the
// names of members that the API itself knows.
func bodyFault(err error) error {
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) {
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return refuse(errRequest, fieldOf(syntactic.JSONPointer), "the member stands twice")
		}
		return refuse(errRequest, "", "the body is no valid JSON at byte %d", syntactic.ByteOffset)
	}
	var semantic *json.SemanticError
	if !errors.As(err, &semantic) {
		return refuse(errRequest, "", "the body cannot be read")
	}
	// The innermost error is the one that knows what was expected.
	inner := semantic
	for errors.As(inner.Err, &semantic) {
		inner = semantic
	}
	field := fieldOf(inner.JSONPointer)
	if errors.Is(inner.Err, json.ErrUnknownName) {
		return refuse(errRequest, field, "there is no such member; names are matched exactly, in lower case")
	}
	return refuse(errRequest, field, "%s", expected(inner.GoType))
}

// fieldOf writes a JSON pointer as people write fields: permissions[0].name.
// Names that the API does not know are written only if they are plain words.
func fieldOf(pointer jsontext.Pointer) string {
	var out strings.Builder
	for token := range pointer.Tokens() {
		switch {
		case token != "" && strings.Trim(token, "0123456789") == "" && len(token) < 6:
			fmt.Fprintf(&out, "[%s]", token)
			continue
		case !plainWord(token):
			token = "(a name not shown)"
		}
		if out.Len() > 0 {
			out.WriteByte('.')
		}
		out.WriteString(token)
	}
	return out.String()
}

// plainWord reports whether a text reads like the name of a member. No secret
// of any system that is worth the name is made of a few letters.
func plainWord(s string) bool {
	if len(s) == 0 || len(s) > 24 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '_' {
			return false
		}
	}
	return true
}

// expected says in JSON's words what a Go type is read from.
func expected(t reflect.Type) string {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == nil:
		return "has a value of the wrong kind"
	case t == reflect.TypeFor[time.Time]():
		return "must be a time as RFC 3339 writes it, such as 2026-12-31T00:00:00Z"
	case t == reflect.TypeFor[wire.GrantWish]():
		return "must be an object with a level, or a list of permissions"
	}
	switch t.Kind() {
	case reflect.String:
		return "must be a string"
	case reflect.Bool:
		return "must be true or false"
	case reflect.Int, reflect.Int32, reflect.Int64:
		return "must be a whole number"
	case reflect.Slice, reflect.Array:
		return "must be a list"
	case reflect.Struct, reflect.Map:
		return "must be an object"
	default:
		return "has a value of the wrong kind"
	}
}
