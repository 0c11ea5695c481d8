package cli

import (
	"slices"
	"testing"

	"github.com/keyledger/keyledger/projections/reports"
)

// TestReportTables holds every report's table to its columns.
func TestReportTables(t *testing.T) {
	for _, d := range reports.Definitions() {
		if len(reportTables[d.Name]) == 0 {
			t.Errorf("%s has no table", d.Name)
		}
		for _, c := range reportTables[d.Name] {
			if !slices.Contains(d.Columns, c) {
				t.Errorf("%s has no column %s", d.Name, c)
			}
		}
	}
}
