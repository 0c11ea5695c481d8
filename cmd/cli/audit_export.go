package cli

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/client"
)

func (a *app) auditExportCommand() *cobra.Command {
	var (
		q          client.ExportQuestion
		file       string
		from, till string
	)
	c := &cobra.Command{
		Use: "export", Short: "Export every change, as the ledger stores it", Args: takes(),
		Long: `Export every change, the oldest first: with -o jsonl, which it is unless said
otherwise, a line each with its position and the stored document byte for byte,
with -o csv a row each. What is sealed stays sealed.

It goes to standard output, or with --file to a file that is there once it is
whole. An export that breaks ends with an error. --after goes on behind the last
position of an earlier one.`,
		Example: `  keyledger audit export --file changes.jsonl
  keyledger audit export --from 2026-10-01 --to 2026-11-01 -o csv > october.csv`,
		Annotations: map[string]string{showsExport: ""},
	}
	f := c.Flags()
	f.StringVar(&file, "file", "", "write to this `file`, which only you may read")
	f.StringVar(&from, "from", "", "changes stored at this `time` or day, or later")
	f.StringVar(&till, "to", "", "changes stored before this `time` or day")
	f.StringVar(&q.After, "after", "", "changes after this `position`")
	f.BoolVar(&q.AllOrganizations, "all", false, "those of every organization, for who runs the installation")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if q.From, q.To, err = periodOf(from, till); err != nil {
			return err
		}
		q.Format = formatLines
		if a.out.format == formatCSV {
			q.Format = formatCSV
		}
		s, org, err := a.openExport(cmd, q.AllOrganizations)
		if err != nil {
			return err
		}
		bar := a.exporting()
		// The bar is for who looks on: what it cannot draw changes nothing.
		defer func() { _ = bar.Finish() }()
		return written(file, a.out.out, func(to io.Writer) error {
			return s.Export(cmd.Context(), org, q, io.MultiWriter(to, &lineCount{add: func(n int) { _ = bar.Add(n) }}))
		})
	}
	return c
}

// openExport opens a session about one organization, or about all of them.
func (a *app) openExport(cmd *cobra.Command, all bool) (*session, string, error) {
	if !all {
		return a.openOrg(cmd)
	}
	s, err := a.open(cmd)
	return s, "_system", err
}

// exporting draws how many lines have come, where somebody looks on: how many will
// come is not known.
func (a *app) exporting() *progressbar.ProgressBar {
	to := io.Discard
	if a.out.errTerminal && !a.out.terminal {
		to = a.env.Stderr
	}
	return progressbar.NewOptions(-1, progressbar.OptionSetWriter(to), progressbar.OptionSetDescription("Exporting"),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionClearOnFinish(), progressbar.OptionSpinnerType(14))
}

// lineCount counts the lines that pass.
type lineCount struct{ add func(int) }

func (l *lineCount) Write(p []byte) (int, error) {
	if n := bytes.Count(p, []byte{'\n'}); n > 0 {
		l.add(n)
	}
	return len(p), nil
}

// written has a file written, or without a name what stands in its place. A file is
// there whole or not at all.
func written(name string, instead io.Writer, write func(io.Writer) error) (err error) {
	if name == "" {
		return write(instead)
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err = errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
