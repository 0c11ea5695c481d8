package keystring

import (
	"bytes"
	"strings"
)

// Find returns where the first well-formed key stands in a text, as
// text[start:end], so that a key pasted into another field can be refused. It
// needs no word boundary on either side: of letters before the separator as
// many count as prefix as can. It takes linear time and allocates nothing.
func Find(text []byte) (start, end int, ok bool) {
	for p := 0; ; p++ {
		sep, run := nextShape(text, p)
		if sep < 0 {
			return 0, 0, false
		}
		if run >= bodyLen && checkBody(text[sep+1:sep+1+bodyLen]) == nil {
			return prefixStart(text, sep), sep + 1 + bodyLen, true
		}
		p = sep + run
	}
}

// Contains reports whether a text has a well-formed key in it.
func Contains(text string) bool {
	_, _, ok := Find(bytesOf(text))
	return ok
}

// Redact returns the text with every key in it masked, for logs and errors.
// What only has the form of a key is masked too, with all base62 characters
// that follow its separator: a key with a typo is still most of a key. A text
// without any comes back as it is.
func Redact(text string) string {
	b := bytesOf(text)
	var out strings.Builder
	done := 0
	for p := 0; ; p++ {
		sep, run := nextShape(b, p)
		if sep < 0 {
			break
		}
		end := sep + 1 + run
		if checkBody(b[sep+1:sep+1+bodyLen]) == nil {
			end = sep + 1 + bodyLen
		}
		out.WriteString(text[done : sep+1])
		out.WriteString(ellipsis)
		out.WriteString(text[end-4 : end])
		done, p = end, end-1
	}
	if done == 0 {
		return text
	}
	out.WriteString(text[done:])
	return out.String()
}

// nextShape finds, from a position on, the first separator that has the end of
// a prefix before it and at least bodyLen base62 characters after it, and
// returns how many follow; -1 when there is none. A run of characters is walked
// once, from the one separator before it: that is what keeps the search linear.
func nextShape(text []byte, from int) (sep, run int) {
	for sep = max(from, 1); sep+bodyLen < len(text); sep += run + 1 {
		i := bytes.IndexByte(text[sep:len(text)-bodyLen], '_')
		if i < 0 {
			break
		}
		sep += i
		run = digitRun(text[sep+1:])
		if run >= bodyLen && isPrefixEnd(text[sep-1]) {
			return sep, run
		}
	}
	return -1, 0
}

// prefixStart returns where the longest prefix that ends before sep starts.
// text[sep-1] may end a prefix, so there is one.
func prefixStart(text []byte, sep int) int {
	start := sep
	for start > 0 && sep-start < MaxPrefixLen && isPrefixByte(text[start-1]) {
		start--
	}
	for text[start] == '_' {
		start++
	}
	return start
}

// digitRun counts the base62 characters that b starts with.
func digitRun(b []byte) int {
	for i, c := range b {
		if digits[c] == notDigit {
			return i
		}
	}
	return len(b)
}
