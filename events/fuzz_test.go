package events

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

// FuzzDecode reads any body under any subject. Both paths agree; what is refused
// is [Malformed] and its text repeats nothing of the body; what is accepted
// says, written again, the same.
func FuzzDecode(f *testing.F) {
	for _, fact := range facts() {
		f.Add(fact.subject.String(), golden(f, fact.name()))
	}
	files, err := filepath.Glob(goldens + "/un*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(KeySubject(acme, id[KeyID]("02")).String(), body)
	}
	f.Fuzz(func(t *testing.T, text string, body []byte) {
		subject, err := ParseSubject(text)
		if err != nil {
			subject = KeySubject(acme, id[KeyID]("02"))
		}
		decodeHolds(t, subject, body)
	})
}

// TestDecodeDamaged changes and drops every byte of every golden in turn. Members
// of the envelope that goldens have in common are damaged in one of them.
func TestDecodeDamaged(t *testing.T) {
	damaged := make(map[string]bool)
	for _, f := range facts() {
		body := golden(t, f.name())
		begin := 0
		for _, end := range memberEnds(t, body) {
			member := string(body[begin:end])
			if strings.HasPrefix(member, `,"data":`) {
				// What data means depends on the kind.
				member += string(f.event.Kind())
			}
			for i := begin; i < end && !damaged[member]; i++ {
				flipped := bytes.Clone(body)
				flipped[i] ^= 1
				decodeHolds(t, f.subject, flipped)
				decodeHolds(t, f.subject, slices.Delete(bytes.Clone(body), i, i+1))
			}
			damaged[member] = true
			begin = end
		}
	}
}

// memberEnds returns where the members of an object end, the last of them with the
// object itself.
func memberEnds(t *testing.T, body []byte) []int {
	t.Helper()
	d := jsontext.NewDecoder(bytes.NewReader(body))
	_, err := d.ReadToken()
	var ends []int
	for err == nil && d.PeekKind() != '}' {
		if _, err = d.ReadToken(); err == nil {
			err = d.SkipValue()
		}
		ends = append(ends, int(d.InputOffset()))
	}
	if err != nil || len(ends) == 0 {
		t.Fatal("no object", err)
	}
	ends[len(ends)-1] = len(body)
	return ends
}

// decodeHolds checks what is promised of decoding any body.
func decodeHolds(t *testing.T, subject Subject, body []byte) {
	t.Helper()
	before := bytes.Clone(body)
	meta, event, err := Decode(subject, body)
	meta2, event2, err2 := codec{thorough: true}.decode(subject, body)
	if !bytes.Equal(before, body) {
		t.Fatal("decoding changed the body")
	}
	if err == nil || err2 == nil {
		if err != nil || err2 != nil || meta != meta2 || !reflect.DeepEqual(event, event2) {
			t.Fatalf("the paths differ: %v, %v\n %v %v\n %v %v", err, err2, meta, event, meta2, event2)
		}
	}
	_, isMalformed := event.(Malformed)
	if isMalformed != (err != nil) || (err != nil && !malformed(event, err)) {
		t.Fatalf("got %T with %v", event, err)
	}
	if err != nil {
		if word := echo(err.Error(), body); word != "" {
			t.Fatalf("error repeats %q of the body: %v", word, err)
		}
		return
	}
	again, err := reencode(subject, meta, event)
	if err != nil {
		t.Fatalf("what was read cannot be written: %v", err)
	}
	if !sameJSON(again, body) {
		t.Fatalf("what was read is written as something else:\n %s\n %s", body, again)
	}
	meta3, event3, err := Decode(subject, again)
	if _, unknown := event.(Unknown); err != nil || meta != meta3 || !unknown && !reflect.DeepEqual(event, event3) {
		t.Fatalf("reading it again gives %v, %v, %v", meta3, event3, err)
	}
}

// reencode writes any fact that was read, unknown ones too.
func reencode(subject Subject, meta Meta, event Event) ([]byte, error) {
	u, ok := event.(Unknown)
	if !ok {
		return Encode(subject, event, meta)
	}
	return appendEnvelope(nil, subject, &header{meta: meta, kind: u.Name, bears: u.Bears, data: u.Data})
}

// echo returns a word of an error, as long as a key could be short, that stands
// in the body and in no error or name of this package.
func echo(text string, body []byte) string {
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(` :,"'()`, r) }) {
		if len(word) < 12 || !bytes.Contains(body, []byte(word)) {
			continue
		}
		if _, known := kinds[Kind(word)]; !known && !strings.Contains(ownWords, word) {
			return word
		}
	}
	return ""
}

// ownWords are the long words that this package's errors have of their own.
const ownWords = "aggregate workspace organization installation ErrMalformed character CloudEvents lower-case microseconds something impossible"

func FuzzSubject(f *testing.F) {
	for _, fact := range facts() {
		f.Add(fact.subject.String())
	}
	f.Add("ledger.0160.acme.future._thing")
	f.Add("ledger.0160.acme.key.>")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSubject(text)
		if err != nil {
			if !errors.Is(err, ErrMalformed) || !s.IsZero() {
				t.Fatalf("got %v, %v", s, err)
			}
			return
		}
		if s.String() != text {
			t.Fatalf("%q becomes %q", text, s)
		}
		if strings.ContainsAny(text, " *>\t\r\n\x00") || strings.Count(text, ".") != 4 {
			t.Fatalf("%q is no literal subject", text)
		}
		if key, ok := s.Key(); ok && s != KeySubject(s.Org, key) && s != RevokedSubject(s.Org, key) {
			t.Fatalf("%q is about another key", text)
		}
	})
}

func FuzzPosition(f *testing.F) {
	p := Positions{Ledger: id[LedgerID]("1d"), Epoch: 1}
	for _, pos := range []Position{0, 1, 127, 128, 1 << 32, 1<<64 - 1} {
		f.Add(byte(StreamLedger), p.Format(StreamLedger, pos))
		f.Add(byte(StreamUses), p.Format(StreamUses, pos))
	}
	f.Fuzz(func(t *testing.T, stream byte, text string) {
		pos, err := p.Parse(Stream(stream), text)
		if err != nil {
			if !errors.Is(err, ErrInvalidPosition) || pos != 0 {
				t.Fatalf("got %d, %v", pos, err)
			}
			return
		}
		if again := p.Format(Stream(stream), pos); again != text {
			t.Fatalf("%q becomes %q", text, again)
		}
	})
}

// FuzzText reads with the parsers that are written by hand; what they take has one
// text only.
func FuzzText(f *testing.F) {
	f.Add("2026-11-21T05:46:40.000001Z")
	f.Add("key/acme/0198c0de-0000-7000-8000-000000000002")
	f.Add("system/sweeper")
	f.Add("0198c0de-0000-7000-8000-000000000002")
	f.Add(DigestValue{1}.String())
	f.Fuzz(func(t *testing.T, text string) {
		var (
			at     Time
			actor  Actor
			key    KeyID
			digest DigestValue
		)
		for _, v := range []interface {
			UnmarshalText([]byte) error
			MarshalText() ([]byte, error)
		}{&at, &actor, &key, &digest} {
			if err := v.UnmarshalText([]byte(text)); err != nil {
				if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrInvalidID) {
					t.Fatal(err)
				}
				continue
			}
			if again, err := v.MarshalText(); err != nil || string(again) != text {
				t.Fatalf("%q becomes %q, %v", text, again, err)
			}
		}
	})
}
