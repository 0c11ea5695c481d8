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

// A cell that says nothing has no line, and a number says something when it is 0, but
// for the version of a test that never was.
func TestPageCells(t *testing.T) {
	for _, c := range []struct {
		line pageLine
		cell any
		want string
	}{
		{pageLine{"last_test_version", "of version"}, int64(0), ""},
		{pageLine{"last_test_version", "of version"}, int64(2), "2"},
		{pageLine{"age_days", ""}, int64(0), "0"},
		{pageLine{"last_test_result", ""}, "", ""},
	} {
		got := ""
		for _, l := range appendCell(nil, c.line, c.cell) {
			got += l.Text
		}
		if got != c.want {
			t.Errorf("%s %v: %q, want %q", c.line.column, c.cell, got, c.want)
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
