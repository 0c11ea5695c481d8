package cli

import "github.com/spf13/cobra"

func (a *app) auditCommand() *cobra.Command {
	c := a.under("audit", "The audit log: who did what, when, from what to what, and why",
		"Every change and every use is on record. The audit log answers about them; it never changes any.",
		a.auditLogCommand(), a.auditUsesCommand(), a.auditAccessCommand(), a.auditReportCommand(), a.auditExportCommand(), a.auditAsOfCommand(), a.auditEraseCommand())
	a.linked(c)
	a.about(c)
	return c
}
