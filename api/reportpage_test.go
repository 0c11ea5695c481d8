package api

import (
	"slices"
	"testing"

	"github.com/keyledger/keyledger/projections/reports"
)

// TestPagesTellEverything holds every page to the columns of its report.
func TestPagesTellEverything(t *testing.T) {
	for _, d := range reports.Definitions() {
		var told []string
		for _, c := range pageColumns[d.Name] {
			for _, l := range c.lines {
				told = append(told, l.column)
			}
		}
		slices.Sort(told)
		if want := slices.Sorted(slices.Values(d.Columns)); !slices.Equal(told, want) {
			t.Errorf("the page of %s tells %v, the report has %v", d.Name, told, want)
		}
	}
}

func TestPageEnd(t *testing.T) {
	for want, got := range map[string]string{
		"0 rows. This is all of it.":     pageEnd(0, false),
		"1 row. This is all of it.":      pageEnd(1, false),
		"10000 rows. This is all of it.": pageEnd(pageRows, false),
		"These are the first 10000 rows. There are more: as CSV the report comes whole.": pageEnd(pageRows, true),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
