package apitest

import (
	"context"
	"testing"

	"github.com/keyledger/keyledger/projections/audit"
	"github.com/keyledger/keyledger/projections/reports"
)

// openReports opens reports over the files of views that are open.
func openReports(ctx context.Context, t testing.TB, file func(view string) string, audits *audit.Log) *reports.Reports {
	t.Helper()
	r, err := reports.Open(ctx, reports.Config{
		CatalogPath: file("catalog"), UsagePath: file("usage"), AuditPath: file("audit"), AccessPath: file("access"), Audit: audits,
	})
	must(t, err)
	return r
}
