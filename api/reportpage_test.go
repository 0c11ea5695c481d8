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
