package cli

import (
	"context"
	"fmt"
	"io"
	"maps"

	"github.com/go-json-experiment/json"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/events"
)

// maxImportRequest keeps requests below what the server takes, also where keys
// have much metadata.
const maxImportRequest = 6 << 20

// importReport is what became of a file.
type importReport struct {
	DryRun   bool           `json:"dry_run,omitzero"`
	Items    []reportedItem `json:"items"`
	Imported int            `json:"imported"`
	Existing int            `json:"existing"`
	Refused  int            `json:"refused"`
}

// reportedItem is what became of the key in one line.
type reportedItem struct {
	Line    int                 `json:"line"`
	Result  string              `json:"result"`
	KeyID   string              `json:"key_id,omitzero"`
	Problem *wire.ImportProblem `json:"problem,omitempty"`
}

func (a *app) keysImportCommand() *cobra.Command {
	var (
		k      keySettings
		alg    string
		reason string
		ticket string
		dryRun bool
	)
	c := &cobra.Command{
		Use: "import FILE", Short: "Bring keys over from another system, by their digests", Args: takes("FILE"),
		Long: `Import keys of another system, so that nobody has to be given a new one. The
file (- for standard input) holds their digests and never the keys themselves:

  JSON lines, or a JSON array, of keys as POST …/keys/import takes them
  a CSV whose first line names its columns: digest, and any of alg, name,
    prefix, last_four, permissions, workspaces, profile, expires_at, expires_in,
    created_at, external_id, status, metadata.NAME; lists have spaces in between

A digest is sha256 of the whole key, or prefix_short_long, in hex or base64. The
flags say what a line leaves out. What is there already is left as it is, so a
file can be imported again after a fault. Each line that is refused is named, and
the exit code is then 1; the other lines are imported.`,
		Example: `  keyledger keys import old-keys.csv --permissions interview:read \
    --workspaces all --dry-run
  export-keys | keyledger keys import - --alg prefix_short_long`,
	}
	f := c.Flags()
	f.StringVar(&alg, "alg", "sha256", "`algorithm` of digests: sha256 or prefix_short_long")
	f.StringSliceVar(&k.permissions, "permissions", nil, "all, read_only, or a `list` such as interview:start,report:*")
	f.StringSliceVar(&k.workspaces, "workspaces", nil, "all, or a `list` of workspaces")
	f.StringVar(&k.profile, "profile", "", "`id` of the profile to attach")
	f.StringVar(&k.expiresIn, "expires-in", "", "`period` from now until they expire: 30d, 6mo, 1y or never")
	f.StringArrayVar(&k.metadata, "metadata", nil, "`key=value` to keep with them, once for each")
	f.StringVar(&reason, "reason", "", "`text` that says why, for the audit log")
	f.StringVar(&ticket, "ticket", "", "`name` of the ticket that asks for it, for the audit log")
	f.BoolVar(&dryRun, "dry-run", false, "say what would become of each key, and import none")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		rows, err := a.importFile(args[0])
		if err != nil {
			return err
		}
		if err := k.complete(f, alg, rows); err != nil {
			return err
		}
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		report := importReport{DryRun: dryRun, Items: make([]reportedItem, len(rows))}
		err = a.importRows(cmd.Context(), s, org, reason, ticket, rows, &report)
		return a.imported(report, err)
	}
	return c
}

// complete fills in what rows leave out.
func (k *keySettings) complete(f *pflag.FlagSet, alg string, rows []importRow) error {
	permissions, err := k.grant(f)
	if err != nil {
		return err
	}
	scope, err := k.scope(f)
	if err != nil {
		return err
	}
	metadata, err := pairs("metadata", k.metadata)
	if err != nil {
		return err
	}
	for i := range rows {
		r := &rows[i].key
		if r.Digest.Alg == "" {
			r.Digest.Alg = alg
		}
		if r.Permissions == nil {
			r.Permissions = permissions
		}
		if r.Scope == nil {
			r.Scope = scope
		}
		if r.Profile == "" {
			r.Profile = k.profile
		}
		if r.ExpiresAt == nil && r.ExpiresIn == "" {
			r.ExpiresIn = k.expiresIn
		}
		if len(metadata) > 0 {
			all := maps.Clone(metadata)
			maps.Copy(all, r.Metadata)
			r.Metadata = all
		}
		// What a key may do and where is never guessed.
		switch {
		case rows[i].fault != "":
		case r.Permissions == nil:
			rows[i].fault = "permissions: are needed, here or by --permissions"
		case r.Scope == nil:
			rows[i].fault = "workspaces: are needed, here or by --workspaces"
		}
	}
	return nil
}

// importRows sends rows, as many at once as a request takes. The report holds what
// became of those that were sent before a fault.
func (a *app) importRows(ctx context.Context, s *session, org, reason, ticket string, rows []importRow, report *importReport) error {
	bar := a.progress(len(rows))
	// The bar is for who looks on: what it cannot draw changes nothing.
	defer func() { _ = bar.Finish() }()
	var waiting []int
	body := wire.ImportKeys{Reason: reason}
	size := 0
	send := func() error {
		if len(waiting) == 0 {
			return nil
		}
		items, err := sendImport(ctx, s, org, body, report.DryRun, client.Ticket(ticket))
		if err != nil {
			return err
		}
		for n, item := range items {
			if n < len(waiting) {
				report.tell(waiting[n], rows[waiting[n]].line, item)
			}
		}
		_ = bar.Add(len(waiting))
		waiting, body.Keys, size = waiting[:0], body.Keys[:0], 0
		return nil
	}
	for i, r := range rows {
		if r.fault != "" {
			report.tell(i, r.line, wire.ImportItem{Result: wire.ResultRefused, Problem: &wire.ImportProblem{Code: "invalid_value", Detail: r.fault}})
			_ = bar.Add(1)
			continue
		}
		text, err := json.Marshal(r.key)
		if err != nil {
			return err
		}
		if len(waiting) == events.MaxImport || size+len(text) > maxImportRequest {
			if err := send(); err != nil {
				return err
			}
		}
		waiting, body.Keys, size = append(waiting, i), append(body.Keys, r.key), size+len(text)+1
	}
	return send()
}

func sendImport(ctx context.Context, s *session, org string, body wire.ImportKeys, dryRun bool, o ...client.Option) ([]wire.ImportItem, error) {
	if dryRun {
		var dry wire.DryRun
		_, err := s.ImportKeys(ctx, org, body, append(o, client.DryRun(&dry))...)
		return dry.Items, err
	}
	done, err := s.ImportKeys(ctx, org, body, o...)
	return done.Items, err
}

// progress shows how far it is to somebody at a terminal.
func (a *app) progress(total int) *progressbar.ProgressBar {
	var to io.Writer = io.Discard
	if a.out.errTerminal {
		to = a.env.Stderr
	}
	return progressbar.NewOptions(total, progressbar.OptionSetWriter(to), progressbar.OptionSetDescription("Importing"),
		progressbar.OptionShowCount(), progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(30), progressbar.OptionFullWidth())
}

func (r *importReport) tell(i, line int, item wire.ImportItem) {
	switch item.Result {
	case wire.ResultImported:
		r.Imported++
	case wire.ResultExists:
		r.Existing++
	default:
		r.Refused++
	}
	r.Items[i] = reportedItem{Line: line, Result: item.Result, KeyID: item.KeyID, Problem: item.Problem}
}

// imported prints what became of a file, also of one that a fault cut short.
func (a *app) imported(r importReport, fault error) error {
	done := r.Items[:0]
	for _, item := range r.Items {
		if item.Result != "" {
			done = append(done, item)
		}
	}
	total := len(r.Items)
	r.Items = done
	if err := a.showImport(r); err != nil {
		return err
	}
	switch {
	case fault != nil:
		fmt.Fprintf(a.env.Stderr, "%d of %d lines were done before the fault below; import the file again, what is there is left as it is.\n", len(done), total)
		return fault
	case r.Refused > 0:
		return hinted(fmt.Errorf("%d of %s refused", r.Refused, plural(total, "key")),
			"Mend those lines and import the file again: what is there is left as it is.")
	default:
		return nil
	}
}

func (a *app) showImport(r importReport) error {
	if a.out.format == formatJSON {
		return a.out.json(r)
	}
	for _, item := range r.Items {
		if p := item.Problem; p != nil {
			at := ""
			if p.Field != "" {
				at = plain(p.Field) + ": "
			}
			fmt.Fprintf(a.env.Stderr, "line %d: %s%s (%s)\n", item.Line, at, plain(p.Detail), plain(p.Code))
		} else if a.out.format == formatID && !r.DryRun {
			if err := a.out.say("%s", item.KeyID); err != nil {
				return err
			}
		}
	}
	if a.out.format == formatID {
		return nil
	}
	verb := "Imported"
	if r.DryRun {
		verb = "Nothing was changed. It would import"
	}
	return a.out.say("%s %s; %d there already, %d refused.", verb, plural(r.Imported, "key"), r.Existing, r.Refused)
}
