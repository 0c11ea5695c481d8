package sidecar

import (
	"bytes"
	"unsafe"

	"github.com/keyledger/keyledger/api/gate"
)

// head is what the headers of a request say, as they came. Its texts lie in the
// connection's buffer, and are good until the request is answered.
type head struct {
	authorization, apiKey, contentType, contentEncoding, userAgent, requestID, expect string

	hosts, lengths, codings int
	chunked, closes         bool
	// seen says which of the single ones were there.
	seen single

	// The rest may come more than once, and what comes in several values that
	// differ is nobody's word.
	permission, workspace, forwardedMethod, originalMethod, forwardedURI, originalURI, forwardedFor, realIP []string
}

// reset forgets a request and keeps the room for the next.
func (h *head) reset() {
	lists := [...]*[]string{&h.permission, &h.workspace, &h.forwardedMethod, &h.originalMethod, &h.forwardedURI, &h.originalURI, &h.forwardedFor, &h.realIP}
	for _, l := range lists {
		clear(*l)
		*l = (*l)[:0]
	}
	*h = head{
		permission: h.permission, workspace: h.workspace, forwardedMethod: h.forwardedMethod, originalMethod: h.originalMethod,
		forwardedURI: h.forwardedURI, originalURI: h.originalURI, forwardedFor: h.forwardedFor, realIP: h.realIP,
	}
}

var errFraming = gate.Refuse(gate.ErrRequest, "", "the headers cannot be read in one way only")

// read reads the headers as they came, and refuses what someone else on the way may
// have read in another way: a line that is folded or does not end as lines end, a
// space where none belongs, a length beside a coding.
func (h *head) read(raw []byte, old bool) error {
	for len(raw) > 0 {
		end := bytes.IndexByte(raw, '\n')
		if end < 1 || raw[end-1] != '\r' {
			return errFraming
		}
		line := raw[:end-1]
		raw = raw[end+1:]
		if len(line) == 0 {
			break
		}
		colon := bytes.IndexByte(line, ':')
		if colon < 1 || !token(line[:colon]) {
			return errFraming
		}
		value, ok := trimmed(line[colon+1:])
		if !ok {
			return errFraming
		}
		h.take(line[:colon], value)
	}
	switch {
	case h.hosts > 1, h.hosts == 0 && !old:
		return gate.Refuse(gate.ErrRequest, "Host", "must be there once")
	case h.lengths > 1, h.codings > 1, h.codings == 1 && (!h.chunked || h.lengths > 0 || old):
		return errFraming
	case h.expect != "" && !foldEqual(h.expect, "100-continue"):
		return gate.Refuse(gate.ErrRequest, "Expect", "must be 100-continue")
	}
	return nil
}

// take notes a header that means something here.
func (h *head) take(name []byte, value string) {
	switch len(name) {
	case 4:
		if is(name, "host") {
			h.hosts++
		}
	case 6:
		if is(name, "expect") {
			h.first(&h.expect, value, singleExpect)
		}
	case 9:
		switch {
		case is(name, "x-api-key"):
			h.first(&h.apiKey, value, singleAPIKey)
		case is(name, "x-real-ip"):
			h.realIP = append(h.realIP, value)
		}
	case 10:
		switch {
		case is(name, "user-agent"):
			h.first(&h.userAgent, value, singleUserAgent)
		case is(name, "connection"):
			h.closes = h.closes || closes(value)
		}
	case 12:
		switch {
		case is(name, "content-type"):
			h.first(&h.contentType, value, singleContentType)
		case is(name, "x-request-id"):
			h.first(&h.requestID, value, singleRequestID)
		}
	case 13:
		if is(name, "authorization") {
			h.first(&h.authorization, value, singleAuthorization)
		}
	case 14:
		switch {
		case is(name, "content-length"):
			h.lengths++
		case is(name, "x-original-uri"):
			h.originalURI = append(h.originalURI, value)
		}
	default:
		h.takeLong(name, value)
	}
}

// takeLong notes those with longer names, most of which gateways send.
func (h *head) takeLong(name []byte, value string) {
	var list *[]string
	switch {
	case is(name, "x-forwarded-for"):
		list = &h.forwardedFor
	case is(name, "x-forwarded-uri"):
		list = &h.forwardedURI
	case is(name, "content-encoding"):
		h.first(&h.contentEncoding, value, singleContentEncoding)
		return
	case is(name, "x-original-method"):
		list = &h.originalMethod
	case is(name, "transfer-encoding"):
		h.codings++
		h.chunked = foldEqual(value, "chunked")
		return
	case is(name, "x-forwarded-method"):
		list = &h.forwardedMethod
	case is(name, "x-keyledger-workspace"):
		list = &h.workspace
	case is(name, "x-keyledger-permission"):
		list = &h.permission
	default:
		return
	}
	*list = append(*list, value)
}

// single is one of the headers of which the first value counts, as a bit.
type single uint8

const (
	singleAuthorization single = 1 << iota
	singleAPIKey
	singleContentType
	singleContentEncoding
	singleUserAgent
	singleRequestID
	singleExpect
)

// first keeps the first of several values, as the server does, even if that is
// empty.
func (h *head) first(into *string, value string, which single) {
	if h.seen&which == 0 {
		h.seen |= which
		*into = value
	}
}

// is compares a name with one in lower case.
func is(name []byte, lower string) bool { return foldEqual(text(name), lower) }

func foldEqual(s, lower string) bool {
	if len(s) != len(lower) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// closes reports whether a Connection header asks for the connection's end.
func closes(value string) bool {
	for value != "" {
		var one string
		one, value, _ = cut(value)
		if foldEqual(one, "close") {
			return true
		}
	}
	return false
}

// cut takes the first of a list that commas separate.
func cut(list string) (one, rest string, more bool) {
	for i := range len(list) {
		if list[i] == ',' {
			one, rest, more = list[:i], list[i+1:], true
			break
		}
	}
	if !more {
		one = list
	}
	one, _ = trimmed(bytesOf(one))
	return one, rest, more
}

// tokens are the bytes that a header's name may have (RFC 9110, 5.6.2).
var tokens = func() (t [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		t[c] = true
	}
	return t
}()

func token(name []byte) bool {
	for _, c := range name {
		if !tokens[c] {
			return false
		}
	}
	return true
}

// trimmed is a value without the white space around it. No control character may be
// within.
func trimmed(b []byte) (string, bool) {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return "", false
		}
	}
	return text(b), true
}

// text is a text that lies where the bytes do.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// bytesOf are the bytes of a text, which nobody may write to.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
