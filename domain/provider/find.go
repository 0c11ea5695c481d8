package provider

import (
	"bytes"
	"strings"
	"unsafe"
)

// shape is what keys look like within other text: what they begin with, and how
// many characters follow at the least.
type shape struct {
	prefix string
	body   int
	// plain bodies have letters and digits alone in that many characters, where '-'
	// and '_' would make keys of words that are joined by them.
	plain bool
	// glued prefixes say enough to be found at the end of a word too; of the others
	// many words are the end of (task-, disk-).
	glued bool
}

// shapes are what is a key beyond doubt. Mistral, Cohere and Azure give out keys
// that are letters and digits and nothing else: those cannot be told from an id.
// What begins with what another begins with stands after it.
var shapes = [...]shape{
	{"sk-ant-", 40, false, true},
	{"sk-proj-", 40, false, true},
	{"sk-svcacct-", 40, false, true},
	{"sk-admin-", 40, false, true},
	{"sk-or-v1-", 40, false, true},
	{"sk-", 32, true, false},
	{"AIza", 35, false, false},
	{"AQ.", 40, false, false},
	{"gsk_", 40, true, false},
	{"xai-", 40, true, false},
	{"hf_", 30, true, false},
	{"pplx-", 40, true, false},
	{"r8_", 30, true, false},
	{"csk-", 40, true, false},
	{"nvapi-", 40, false, true},
	{"tgp_v1_", 40, false, true},
	{"github_pat_", 60, false, true},
	{"ghp_", 36, true, false},
}

// shortestKey is the least that a prefix and its body have together.
const shortestKey = len("hf_") + 30

// Find returns where the first key of a well-known provider stands in a text, as
// text[start:end], so that one that was pasted into another field can be refused.
// It takes linear time and allocates nothing.
func Find(text []byte) (start, end int, ok bool) {
	for start = 0; start+shortestKey <= len(text); start++ {
		if !mayBegin(text[start], text[start+1]) {
			continue
		}
		if n := keyAt(text, start); n > 0 {
			return start, start + n, true
		}
	}
	return 0, 0, false
}

// Contains reports whether a text has a key of a well-known provider in it.
func Contains(text string) bool {
	_, _, ok := Find(unsafe.Slice(unsafe.StringData(text), len(text)))
	return ok
}

// Redact returns the text with every key of a well-known provider in it cut down to
// what it begins with, for logs and errors: not even its last four characters are
// everybody's. A text without any comes back as it is.
func Redact(text string) string {
	b := unsafe.Slice(unsafe.StringData(text), len(text))
	var out strings.Builder
	done := 0
	for {
		start, end, ok := Find(b[done:])
		if !ok {
			break
		}
		key := text[done+start : done+end]
		out.WriteString(text[done : done+start])
		for _, s := range shapes {
			if strings.HasPrefix(key, s.prefix) {
				out.WriteString(s.prefix)
				break
			}
		}
		out.WriteString("…")
		done += end
	}
	if done == 0 {
		return text
	}
	out.WriteString(text[done:])
	return out.String()
}

// keyAt returns how long the key is that begins at a position, or 0. Of what is none
// it looks at no more than a key's least length: that keeps Find linear.
func keyAt(text []byte, at int) int {
	for _, s := range shapes {
		rest, ok := bytes.CutPrefix(text[at:], unsafe.Slice(unsafe.StringData(s.prefix), len(s.prefix)))
		if !ok || len(rest) < s.body || !s.glued && at > 0 && (isAlnum(text[at-1]) || text[at-1] == '-') {
			continue
		}
		if !isBody(rest[:s.body], s.plain) {
			continue
		}
		n := s.body
		for n < len(rest) && (isAlnum(rest[n]) || rest[n] == '-' || rest[n] == '_') {
			n++
		}
		return len(s.prefix) + n
	}
	return 0
}

// mayBegin reports whether a key may begin with two characters: hardly any place of
// a text does, and every request's texts are looked through.
func mayBegin(first, second byte) bool {
	switch first {
	case 's':
		return second == 'k'
	case 'A':
		return second == 'I' || second == 'Q'
	case 'g':
		return second == 's' || second == 'i' || second == 'h'
	case 'h':
		return second == 'f'
	case 'p':
		return second == 'p'
	case 'r':
		return second == '8'
	case 'x':
		return second == 'a'
	case 'c':
		return second == 's'
	case 'n':
		return second == 'v'
	case 't':
		return second == 'g'
	default:
		return false
	}
}

// isBody reports whether characters are those of a key: letters and digits, both,
// and unless it is plain '-' and '_'.
func isBody(b []byte, plain bool) bool {
	var letters, digits bool
	for _, c := range b {
		switch {
		case '0' <= c && c <= '9':
			digits = true
		case isAlnum(c):
			letters = true
		case plain || c != '-' && c != '_':
			return false
		}
	}
	return letters && digits
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
