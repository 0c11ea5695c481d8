package cli

import (
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// The formats of an answer.
const (
	formatTable  = "table"
	formatJSON   = "json"
	formatID     = "id"
	formatSecret = "secret" // of a command that makes a key
	formatCSV    = "csv"    // of a command that shows records
	formatHTML   = "html"   // of a report
	formatLines  = "jsonl"  // of an export
)

// What --output takes: the id alone, or of a key that is made its secret alone.
const (
	idFormats     = "table, json or id"
	secretFormats = "table, json or secret"
	recordFormats = "table, json, csv or id"
	pageFormats   = "table, json, csv, html or id"
	exportFormats = "jsonl or csv"
)

// showsSecret marks commands whose answer shows a new key.
const showsSecret = "keyledger/shows-secret"

// showsRecords marks commands whose answer is a table of records, which
// spreadsheets take as well.
const showsRecords = "keyledger/shows-records"

// showsPages marks commands whose answer is a report, which is printed as well, and
// showsExport those that write what is stored.
const (
	showsPages  = "keyledger/shows-pages"
	showsExport = "keyledger/shows-export"
)

// printer writes answers.
type printer struct {
	out io.Writer
	// terminal and errTerminal say whether somebody looks on.
	terminal, errTerminal bool
	colour                bool
	// width is the terminal's, 0 for lines as long as they come.
	width  int
	format string
	quiet  bool
}

func newPrinter(env Env) *printer {
	p := &printer{out: env.Stdout, format: formatTable}
	if fd, ok := terminalOf(env.Stdout); ok {
		p.terminal = true
		p.colour = env.getenv("NO_COLOR") == "" && env.getenv("TERM") != "dumb"
		if w, _, err := term.GetSize(fd); err == nil {
			p.width = w
		}
	}
	_, p.errTerminal = terminalOf(env.Stderr)
	return p
}

func terminalOf(stream any) (int, bool) {
	f, ok := stream.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	return int(f.Fd()), true
}

func (p *printer) flags(f *pflag.FlagSet) {
	f.StringVarP(&p.format, "output", "o", formatTable, "`format` of the answer: "+idFormats)
	f.BoolVarP(&p.quiet, "quiet", "q", false, "print ids alone, the same as -o id")
}

// choose checks the format that was asked for.
func (p *printer) choose(cmd *cobra.Command) error {
	f := cmd.Flags().Lookup("output")
	if f == nil {
		return nil
	}
	if p.quiet && !f.Changed {
		p.format = formatID
	}
	_, secret := cmd.Annotations[showsSecret]
	_, pages := cmd.Annotations[showsPages]
	if _, export := cmd.Annotations[showsExport]; export {
		return p.chooseExport(cmd, f.Changed)
	}
	switch p.format {
	case formatTable, formatJSON:
		return nil
	case formatID:
		if secret {
			return usage(fmt.Sprintf("-o id would lose the new key's secret, which %s shows this once", cmd.CommandPath()),
				"-o secret prints the secret alone, -o json both.")
		}
		return nil
	case formatSecret:
		if secret {
			return nil
		}
	case formatHTML:
		if pages {
			return nil
		}
	case formatCSV:
		if pages {
			return nil
		}
		if _, records := cmd.Annotations[showsRecords]; records {
			return nil
		}
	}
	return usage("--output is "+formatsOf(cmd), "")
}

// chooseExport is choose for what is no answer to read: unless another is asked
// for, it comes as it is stored.
func (p *printer) chooseExport(cmd *cobra.Command, asked bool) error {
	switch {
	case !asked && !p.quiet:
		p.format = formatLines
		return nil
	case p.format == formatLines, p.format == formatCSV:
		return nil
	default:
		return usage("--output is "+formatsOf(cmd), "")
	}
}

// formatsOf are the formats that a command can answer in.
func formatsOf(cmd *cobra.Command) string {
	if _, secret := cmd.Annotations[showsSecret]; secret {
		return secretFormats
	}
	if _, records := cmd.Annotations[showsRecords]; records {
		return recordFormats
	}
	if _, pages := cmd.Annotations[showsPages]; pages {
		return pageFormats
	}
	if _, export := cmd.Annotations[showsExport]; export {
		return exportFormats
	}
	return idFormats
}

// csv writes records under a head, as RFC 4180 has them. What a spreadsheet would
// take for a formula is written as a text. Records that follow others have no head.
func (p *printer) csv(head []string, rows [][]string) error {
	w := csv.NewWriter(p.out)
	if len(head) > 0 {
		if err := w.Write(head); err != nil {
			return err
		}
	}
	for _, row := range rows {
		if err := w.Write(noFormulas(row)); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}

// noFormulas puts an apostrophe before what begins like a formula.
func noFormulas(row []string) []string {
	out := slices.Clone(row)
	for i, c := range out {
		if c != "" && strings.ContainsRune("=+-@\t\r", rune(c[0])) {
			out[i] = "'" + c
		}
	}
	return out
}

// json writes a document as people like to read it.
func (p *printer) json(v any) error {
	body, err := json.Marshal(v, jsontext.WithIndent("  "), jsontext.EscapeForHTML(false), json.Deterministic(true))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.out, "%s\n", body)
	return err
}

// line writes a document on one line.
func (p *printer) line(v any) error {
	body, err := json.Marshal(v, jsontext.EscapeForHTML(false), json.Deterministic(true))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.out, "%s\n", body)
	return err
}

func (p *printer) say(format string, args ...any) error {
	_, err := fmt.Fprintf(p.out, format+"\n", args...)
	return err
}

// done tells that something happened, where there is no more to show.
func (p *printer) done(answer any, id, format string, args ...any) error {
	switch p.format {
	case formatJSON:
		return p.json(answer)
	case formatID:
		return p.say("%s", id)
	default:
		return p.say(format, args...)
	}
}

// grid is a table: a head, rows, the id of each row, and what to say when there
// is none.
type grid struct {
	head []string
	rows [][]string
	ids  []string
	none string
	// whole names the columns that are never cut short, folded those that go on
	// in a further line instead, spare those that are left out first where there
	// is no room.
	whole, folded map[string]bool
	spare         []string
}

func (g *grid) add(id string, cells ...string) {
	g.ids = append(g.ids, id)
	g.rows = append(g.rows, cells)
}

// list prints many things of a kind.
func (p *printer) list(answer any, g grid) error {
	switch p.format {
	case formatJSON:
		return p.json(answer)
	case formatID:
		for _, id := range g.ids {
			if err := p.say("%s", id); err != nil {
				return err
			}
		}
		return nil
	}
	if len(g.rows) == 0 {
		return p.say("%s", g.none)
	}
	return p.grid("", g)
}

// gap is what stands between two columns.
const gap = 2

// snip cuts what is too long for its column.
func snip(s string, width int) string { return text.Snip(s, width, "…") }

// fold breaks it into lines.
func fold(s string, width int) string { return text.WrapSoft(s, width) }

// grid draws a table without lines, and cuts the widest columns until it fits.
func (p *printer) grid(indent string, g grid) error {
	all := g.head
	g = p.thin(g, len(indent))
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", strings.Repeat(" ", gap)
	t.SetStyle(style)
	t.SuppressTrailingSpaces()
	t.AppendHeader(p.row(g.head, func(_ int, s string) string { return p.bold(s) }))
	for _, r := range g.rows {
		t.AppendRow(p.row(r, func(column int, s string) string {
			if painted[g.head[column]] {
				return p.status(s)
			}
			return s
		}))
	}
	var columns []table.ColumnConfig
	for i, w := range p.fit(g, len(indent)) {
		column := table.ColumnConfig{Number: i + 1, WidthMax: w, WidthMaxEnforcer: snip}
		if g.folded[g.head[i]] {
			column.WidthMaxEnforcer = fold
		}
		columns = append(columns, column)
	}
	t.SetColumnConfigs(columns)
	for line := range strings.SplitSeq(t.Render(), "\n") {
		if err := p.say("%s%s", indent, line); err != nil {
			return err
		}
	}
	if len(g.head) == len(all) {
		return nil
	}
	var gone []string
	for _, name := range all {
		if !slices.Contains(g.head, name) {
			gone = append(gone, strings.ToLower(name))
		}
	}
	return p.say("\n%s%s", indent, p.dim("No room for: "+strings.Join(gone, ", ")+"."))
}

func (p *printer) row(cells []string, paint func(int, string) string) table.Row {
	row := make(table.Row, 0, len(cells))
	for i, c := range cells {
		row = append(row, paint(i, cell(c)))
	}
	return row
}

// painted are the columns and fields that hold a status or a verdict.
var painted = map[string]bool{"STATUS": true, "status": true, "VERDICT": true, "verdict": true, "state": true, "result": true}

// narrowest is the least that a column is cut to, readable what it should have.
const narrowest, readable = 8, 12

// thin leaves out spare columns until the others have room to be read.
func (p *printer) thin(g grid, indent int) grid {
	for _, name := range g.spare {
		need := indent - gap
		for _, w := range g.widths() {
			need += min(w, readable) + gap
		}
		// What is never cut needs all of its width.
		for i, w := range g.widths() {
			if g.whole[g.head[i]] {
				need += max(0, w-readable)
			}
		}
		column := slices.Index(g.head, name)
		if p.width == 0 || need <= p.width {
			return g
		}
		if column >= 0 {
			g = g.without(column)
		}
	}
	return g
}

// widths are how wide each column wants to be.
func (g grid) widths() []int {
	var widths []int
	for _, r := range append([][]string{g.head}, g.rows...) {
		for i, c := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], text.StringWidthWithoutEscSequences(cell(c)))
		}
	}
	return widths
}

func (g grid) without(column int) grid {
	cut := func(r []string) []string { return slices.Delete(slices.Clone(r), column, column+1) }
	rows := make([][]string, len(g.rows))
	for i, r := range g.rows {
		rows[i] = cut(r)
	}
	g.head, g.rows = cut(g.head), rows
	return g
}

// fit returns how wide each column may be; nil when all may be as they are.
func (p *printer) fit(g grid, indent int) []int {
	if p.width == 0 {
		return nil
	}
	widths := g.widths()
	total := indent + gap*(len(widths)-1)
	for _, w := range widths {
		total += w
	}
	for ; total > p.width; total-- {
		widest := -1
		for i, w := range widths {
			if !g.whole[g.head[i]] && w > narrowest && (widest < 0 || w > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
	}
	return widths
}

// field is one line of a record.
type field struct{ name, value string }

// record prints one thing, a field a line. Fields without a value are left out.
func (p *printer) record(answer any, id string, fields []field) error {
	switch p.format {
	case formatJSON:
		return p.json(answer)
	case formatID:
		if id == "" {
			return nil
		}
		return p.say("%s", id)
	default:
		return p.fields("", fields)
	}
}

func (p *printer) fields(indent string, fields []field) error {
	longest := 0
	for _, f := range fields {
		if f.value != "" {
			longest = max(longest, len(f.name))
		}
	}
	for _, f := range fields {
		if f.value == "" {
			continue
		}
		value := plain(f.value)
		if room := p.width - len(indent) - longest - gap; p.width > 0 && room > narrowest {
			value = text.WrapSoft(value, room)
		}
		if painted[f.name] {
			first, rest, _ := strings.Cut(value, " ")
			value = strings.TrimSuffix(p.status(first)+" "+rest, " ")
		}
		name := f.name + strings.Repeat(" ", longest-len(f.name)+gap)
		hang := "\n" + indent + strings.Repeat(" ", longest+gap)
		lines := strings.Split(value, "\n")
		for i, l := range lines {
			lines[i] = strings.TrimRight(l, " ")
		}
		if err := p.say("%s%s%s", indent, p.dim(name), strings.Join(lines, hang)); err != nil {
			return err
		}
	}
	return nil
}

// plain takes out of a text what would let it move the terminal's cursor, but
// for the ends of its lines.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// cell makes a text fit to stand in a table.
func cell(s string) string { return strings.ReplaceAll(plain(s), "\n", " ") }

func (p *printer) paint(code, s string) string {
	if !p.colour || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p *printer) bold(s string) string { return p.paint("1", s) }
func (p *printer) dim(s string) string  { return p.paint("2", s) }
func (p *printer) good(s string) string { return p.paint("32", s) }
func (p *printer) bad(s string) string  { return p.paint("31", s) }
func (p *printer) warn(s string) string { return p.paint("33", s) }

// status colours the status of a key, the code of a verdict, or what a test came to.
func (p *printer) status(s string) string {
	switch s {
	case "ACTIVE", "VALID", "connected", "works":
		return p.good(s)
	case "INACTIVE", "EXPIRED", "STALE", "UNAVAILABLE", "untested", "suspended", "rate_limited", "unreachable":
		return p.warn(s)
	default:
		return p.bad(s)
	}
}

// at writes an instant.
func at(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// day writes the day of an instant.
func day(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateOnly)
}

// distance says how far an instant is from now: "in 90 days", "2 hours ago". A
// unit is used until the next larger one is not too coarse.
func distance(t, now time.Time) string {
	const day = 24 * time.Hour
	d, format := t.Sub(now), "in %s"
	if d < 0 {
		d, format = -d, "%s ago"
	}
	for _, u := range []struct {
		name     string
		unit, to time.Duration
	}{
		{"second", time.Second, 90 * time.Second},
		{"minute", time.Minute, 90 * time.Minute},
		{"hour", time.Hour, 36 * time.Hour},
		{"day", day, 120 * day},
		{"month", 30 * day, 700 * day},
	} {
		if d < u.to {
			return fmt.Sprintf(format, plural(int((d+u.unit/2)/u.unit), u.name))
		}
	}
	return fmt.Sprintf(format, plural(int(d/(365*day)), "year"))
}

func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
