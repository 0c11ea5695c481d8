package gate

import (
	"errors"
	"fmt"
	"mime"
	"reflect"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/api/wire"
)

// The media types of a body that is read. A merge patch is JSON too, and telling
// them apart would only keep people out.
const (
	TypeJSON  = "application/json"
	TypePatch = "application/merge-patch+json"
	TypeForm  = "application/x-www-form-urlencoded"
)

// CheckMediaType refuses a body that is not JSON, by its headers.
func CheckMediaType(contentType, encoding string) error {
	if contentType == TypeJSON && encoding == "" {
		return nil
	}
	if t, ok := mediaTypeOf(contentType, encoding); !ok || t != TypeJSON && t != TypePatch {
		return Refuse(ErrMediaType, "Content-Type", "the body must be %s or %s, in UTF-8 and not compressed", TypeJSON, TypePatch)
	}
	return nil
}

// mediaTypeOf is the type of a body that is in UTF-8 and not compressed.
func mediaTypeOf(contentType, encoding string) (string, bool) {
	t, params, err := mime.ParseMediaType(contentType)
	if err != nil || params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8") || encoding != "" {
		return "", false
	}
	return t, true
}

// BodyFault tells what is wrong with a body, and repeats nothing of it but the
// names of members that the API itself knows.
func BodyFault(err error) error {
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) {
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return Refuse(ErrRequest, FieldOf(syntactic.JSONPointer), "the member stands twice")
		}
		return Refuse(ErrRequest, "", "the body is no valid JSON at byte %d", syntactic.ByteOffset)
	}
	var semantic *json.SemanticError
	if !errors.As(err, &semantic) {
		return Refuse(ErrRequest, "", "the body cannot be read")
	}
	// The innermost error is the one that knows what was expected.
	inner := semantic
	for errors.As(inner.Err, &semantic) {
		inner = semantic
	}
	field := FieldOf(inner.JSONPointer)
	if errors.Is(inner.Err, json.ErrUnknownName) {
		return Refuse(ErrRequest, field, "there is no such member; names are matched exactly, in lower case")
	}
	return Refuse(ErrRequest, field, "%s", expected(inner.GoType))
}

// FieldOf writes a JSON pointer as people write fields: permissions[0].name.
// Names that the API does not know are written only if they are plain words.
func FieldOf(pointer jsontext.Pointer) string {
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

// FieldName is a parameter's name as a problem shows it.
func FieldName(name string) string {
	if !plainWord(name) {
		return "query"
	}
	return name
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
