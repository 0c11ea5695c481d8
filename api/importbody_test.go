package api

import (
	"strings"
	"testing"

	"github.com/keyledger/keyledger/events"
)

// A body of very many keys is refused without room for each of them.
func TestKeysBeyondTheLimitAreNotKept(t *testing.T) {
	const many = 1 << 20
	text := []byte(`{"keys":[` + strings.Repeat("0,", many) + `0]}`)
	allocations := testing.AllocsPerRun(1, func() {
		body, err := readImport(text)
		if err != nil || len(body.Keys) != events.MaxImport+1 {
			t.Errorf("%d keys, %v", len(body.Keys), err)
		}
	})
	if allocations > 4*events.MaxImport {
		t.Errorf("%v allocations for %d keys", allocations, many)
	}
}

func TestKeysOfAnImportAreAList(t *testing.T) {
	for text, want := range map[string]int{
		`{"keys":[]}`: 0, `{"keys":null}`: 0, `{"reason":"none"}`: 0, `{"keys":[{"a":[1,2]}, "b",3 ]}`: 3,
	} {
		if body, err := readImport([]byte(text)); err != nil || len(body.Keys) != want {
			t.Errorf("%s: %d keys, %v", text, len(body.Keys), err)
		}
	}
	for _, text := range []string{`{"keys":{}}`, `{"keys":7}`, `{"keys":[1`, `{"keys":[1,]}`, `{"keys":[],"more":1}`, `{"keys":[]}x`} {
		if body, err := readImport([]byte(text)); err == nil {
			t.Errorf("%s: %d keys", text, len(body.Keys))
		}
	}
}
