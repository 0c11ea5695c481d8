package audit

import (
	"hash/fnv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/events"
)

// Texts are found by the three letters that each place of them begins with
// (trigrams), and those candidates are then compared. An index that knew whose
// text each is would still read the common words of everybody else's: so who and
// what an event is stands in the index, too, as three characters that nobody
// writes.

// MinQuery is how many characters a searched text has at least: shorter ones are
// in no index.
const MinQuery = 3

const (
	// wholeID is the longest id that is searched from any place in it: those of
	// callers are mostly shorter, and random ones would fill the index with
	// nothing that anybody looks for.
	wholeID = 24
	// tailID is how much of a longer one is: its end, by which people tell them
	// apart. Whole it is found as well.
	tailID = 12
	// maxGrams bounds the trigrams that are looked up; candidates are compared
	// with the whole text anyway.
	maxGrams = 24
)

// textOf is what an event can be found by, a text a line. What is sealed is in
// none.
func textOf(f *events.Recorded, changes []Change) string {
	var b strings.Builder
	line := func(s string) {
		if s != "" {
			b.WriteByte('\n')
			b.WriteString(s)
		}
	}
	m := &f.Meta
	line(m.Reason.Clear)
	line(m.Ticket)
	for _, c := range changes {
		if !c.Personal() {
			continue
		}
		line(unquoted(c.Before))
		line(unquoted(c.After))
	}
	line(findable(f.Subject.ID))
	line(findable(m.RequestID))
	if m.Actor.Type == events.ActorKey {
		line(findable(m.Actor.Key.String()))
	} else {
		line(m.Actor.String())
	}
	return b.String()
}

// unquoted is the text of a JSON string, nothing of any other value.
func unquoted(v jsontext.Value) string {
	if v.Kind() != '"' {
		return ""
	}
	b, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return ""
	}
	return string(b)
}

// findable is what of an id is searched.
func findable(id string) string {
	if len(id) <= wholeID {
		return id
	}
	return tail(id)
}

func tail(id string) string {
	for i := len(id) - tailID; i < len(id); i++ {
		if utf8.RuneStart(id[i]) {
			return id[i:]
		}
	}
	return ""
}

// tags are what an event is, as the index has it.
func tags(f *events.Recorded) string {
	return tag('o', string(f.Subject.Org)) + tag('k', f.Event.Kind().Name()) + tag('a', f.Meta.Actor.String())
}

// tag stands for a word in the index: three characters of those that are
// nobody's (U+E000 to U+F8FF). Two words may share them; candidates are compared.
func tag(kind byte, word string) string {
	const first, count = 0xE000, 0xF900 - 0xE000
	h := fnv.New64a()
	// A hash takes whatever it is given.
	_, _ = h.Write([]byte{kind, 0})
	_, _ = h.Write([]byte(word))
	n := h.Sum64()
	return string([]rune{first + rune(n%count), first + rune(n/count%count), first + rune(n/(count*count)%count)})
}

// grams wants all trigrams of a text, or enough of them.
func grams(text string) string {
	letters := []rune(text)
	n := len(letters) - MinQuery + 1
	step := max(1, (n+maxGrams-1)/maxGrams)
	var found []string
	for i := 0; i < n; i += step {
		found = append(found, quoted(string(letters[i:i+MinQuery])))
	}
	return strings.Join(found, " AND ")
}

func quoted(gram string) string { return `"` + strings.ReplaceAll(gram, `"`, `""`) + `"` }

// searched is the candidates for a text. Of an id that stands in the index by its
// end alone they are those with that end.
func searched(text string) string {
	if len(text) <= wholeID {
		return grams(text)
	}
	return "(" + grams(text) + ") OR (" + grams(tail(text)) + ")"
}
