package serve

import (
	"context"
	"path/filepath"

	"github.com/keyledger/keyledger/projections/reports"
)

// openReports opens the views' files once more, to be read together.
func (p *parts) openReports(ctx context.Context, cfg Config) error {
	file := func(name string) string { return filepath.Join(cfg.Data, name) }
	var err error
	p.reports, err = reports.Open(ctx, reports.Config{
		CatalogPath: file("catalog.db"), UsagePath: file("usage.db"), AuditPath: file("audit.db"), AccessPath: file("access.db"), Audit: p.audit,
	})
	return err
}
