package profile

import (
	"errors"
	"testing"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// RFC 7396, appendix A, as far as both sides are objects.
func TestMergePatch(t *testing.T) {
	for _, tt := range [][3]string{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"e":null}`, `{"a":1}`, `{"e":null,"a":1}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		{``, `{"a":1}`, `{"a":1}`},
	} {
		got, err := mergePatch([]byte(tt[0]), []byte(tt[1]))
		if err != nil || string(got) != tt[2] {
			t.Errorf("%s with %s: %s, %v, want %s", tt[0], tt[1], got, err, tt[2])
		}
	}
}

func TestAPatchIsMergedIntoWhatTheFactsTell(t *testing.T) {
	s := decide(t, State{}, Create{ID: "p", Name: events.ClearText("P"), Settings: events.Document(`{"a":1,"b":{"c":2,"d":3}}`)}, 1)
	patch := Update{Patch: domain.Some(events.Document(`{"b":{"c":null,"e":4}}`))}
	s = decide(t, s, patch, 1)
	if got := string(s.Settings); got != `{"a":1,"b":{"d":3,"e":4}}` {
		t.Fatal(got)
	}
	decide(t, s, patch, 0)
	s = decide(t, s, Update{Settings: domain.Some(events.Document("{}")), Patch: patch.Patch}, 1)
	if got := string(s.Settings); got != `{"b":{"e":4}}` {
		t.Fatal(got)
	}
	for _, bad := range []string{`[1]`, `"x"`, `{"a":1,"a":2}`, `{`} {
		if _, err := Decide(s, Update{Patch: domain.Some(events.Document(bad))}); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestInsistingGivesTheFactsThatWereAskedFor(t *testing.T) {
	s := decide(t, State{}, Create{ID: "p", Name: events.ClearText("P"), Settings: events.Document(`{"a":1}`)}, 1)
	decide(t, s, Update{Name: domain.Some(s.Name), Patch: domain.Some(events.Document(`{"a":1}`)), Insist: true}, 2)
	decide(t, s, Update{Insist: true}, 0)
}
