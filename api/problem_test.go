package api

import (
	"strings"
	"testing"
)

// Every sentinel of the rooms below is in the table, and every code is
// explained once.
func TestProblemTable(t *testing.T) {
	explained, statuses := map[string]bool{}, map[string]int{}
	for _, k := range kinds {
		if got := kindOf(k.Err); got.Code != k.Code && got.Status >= 500 {
			t.Errorf("%v is answered as %s", k.Err, got.Code)
		}
		if s, ok := statuses[k.Code]; ok && s != k.Status {
			t.Errorf("%s is answered with %d and %d", k.Code, s, k.Status)
		}
		statuses[k.Code] = k.Status
		if k.Help != "" && explained[k.Code] {
			t.Errorf("%s is explained twice", k.Code)
		}
		explained[k.Code] = explained[k.Code] || k.Help != ""
		if strings.ToLower(k.Code) != k.Code || k.Title == "" {
			t.Errorf("%+v", k)
		}
	}
	for code, ok := range explained {
		if !ok {
			t.Errorf("%s is not explained", code)
		}
	}
}
