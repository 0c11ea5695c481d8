package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

// followEvery is how often new uses are asked for.
const followEvery = time.Second

// usesQuestion is what audit uses is asked.
type usesQuestion struct {
	filter                    client.UseFilter
	from, to, counts          string
	ascending                 bool
	sources, findings, follow bool
	page                      *page
	// end is after how many uses a follower ends, 0 for never.
	end int
}

func (a *app) auditUsesCommand() *cobra.Command {
	var q usesQuestion
	c := &cobra.Command{
		Use: "uses", Short: "Show who used keys, when, from where, and with what answer", Args: takes(),
		Long: `Show every single use of a key, or of all keys of the organization, from the
newest on: when, with what verdict, what was asked for, by whom and from where.

--counts counts them instead, --sources shows where a key was used from, and
--findings whether any are missing: the exit code is then 3 when some are, or may
be. A run of a verifier that has no end yet is shown, and is no such finding while
none has followed it.

--follow shows them as they come to be known, until Ctrl-C.`,
		Example: `  keyledger audit uses --org acme --key $KEY
  keyledger audit uses --org acme --code EXPIRED --from 2026-11-01 -o csv
  keyledger audit uses --org acme --counts day --from 2026-11-01
  keyledger audit uses --org acme --key $KEY --sources
  keyledger audit uses --org acme --findings`,
		Annotations: map[string]string{showsRecords: ""},
	}
	f := c.Flags()
	f.StringVar(&q.filter.Key, "key", "", "`id` of the key (default: all)")
	f.StringVar(&q.from, "from", "", "only those from this `time` on: 2026-11-01 or 2026-11-01T12:00:00Z")
	f.StringVar(&q.to, "to", "", "only those before this `time`")
	f.StringVar(&q.filter.Code, "code", "", "only those with this `verdict`, such as EXPIRED")
	f.StringVar(&q.filter.Permission, "permission", "", "only those that asked for this `permission`")
	f.StringVar(&q.filter.Workspace, "workspace", "", "only those that asked for this `workspace`")
	f.BoolVar(&q.ascending, "oldest-first", false, "begin with the oldest")
	f.StringVar(&q.counts, "counts", "", "count them by `unit`: minute, hour or day")
	f.BoolVar(&q.sources, "sources", false, "show where the key was used from")
	f.BoolVar(&q.findings, "findings", false, "show whether uses are missing; exit 3 when some are")
	f.BoolVar(&q.follow, "follow", false, "show those that come from now on")
	q.page = pageFlags(c)
	c.MarkFlagsMutuallyExclusive("counts", "sources", "findings", "follow")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := q.read(cmd); err != nil {
			return err
		}
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		switch ctx := cmd.Context(); {
		case q.counts != "":
			return a.countUses(ctx, s, org, &q)
		case q.sources:
			return a.showSources(ctx, s, org, q.filter.Key)
		case q.findings:
			return a.showUsesFindings(ctx, s, org, q.page)
		case q.follow:
			return a.followUses(ctx, s, org, &q)
		default:
			return a.showUses(ctx, s, org, &q)
		}
	}
	return c
}

// usesFlags are the filters, and which of them each question takes.
var usesFlags = map[string][]string{
	"sources":  {"key"},
	"findings": {},
	"counts":   {"key", "from", "to", "code"},
	"follow":   {"key", "code", "permission", "workspace"},
}

// read checks the flags and what they say.
func (q *usesQuestion) read(cmd *cobra.Command) error {
	f := cmd.Flags()
	for _, name := range []string{"key", "from", "to", "code", "permission", "workspace", "counts"} {
		// A variable that was never set must not ask another question.
		if flag := f.Lookup(name); flag.Changed && flag.Value.String() == "" {
			return usage("--"+name+" is empty", "")
		}
	}
	for question, taken := range usesFlags {
		if !f.Changed(question) {
			continue
		}
		for _, name := range []string{"key", "from", "to", "code", "permission", "workspace", "oldest-first"} {
			if f.Changed(name) && !strings.Contains(" "+strings.Join(taken, " ")+" ", " "+name+" ") {
				return usage("--"+question+" does not take --"+name, "")
			}
		}
	}
	if q.sources && q.filter.Key == "" {
		return usage("--sources are those of one key", "Say which with --key.")
	}
	switch q.counts {
	case "", "minute", "hour", "day":
	default:
		return usage("--counts is minute, hour or day", "")
	}
	var err error
	if q.from != "" {
		if q.filter.From, err = instant("from", q.from); err != nil {
			return err
		}
	} else if q.counts == "minute" && q.filter.Key != "" {
		q.filter.From = time.Now().Add(-24 * time.Hour).Truncate(time.Minute).Add(time.Minute)
	}
	if q.to != "" {
		if q.filter.To, err = instant("to", q.to); err != nil {
			return err
		}
	}
	if f.Changed("limit") {
		q.end = q.page.limit
	}
	q.filter.Code = strings.ToUpper(q.filter.Code)
	if q.ascending {
		q.filter.Order = "asc"
	}
	return nil
}

// showRecords prints a list as a table or a document, or as records.
func (a *app) showRecords(document any, next string, g grid, head []string, rows [][]string) error {
	if a.out.format == formatCSV {
		if err := a.out.csv(head, rows); err != nil {
			return err
		}
		if next != "" {
			fmt.Fprintf(a.env.Stderr, "\nThere are more: --limit 0 shows all, --cursor %s goes on.\n", next)
		}
		return nil
	}
	return a.listed(document, next, g)
}

var useMembers = []string{
	"at", "key_id", "code", "permission", "workspace", "verifier", "boot", "number", "position", "stored_at",
	"request_id", "method", "path", "client_ip", "user_agent",
}

func useRecord(u wire.Use) []string {
	return []string{
		u.At.UTC().Format(time.RFC3339Nano), u.KeyID, u.Code, u.Permission, u.Workspace, u.Verifier, u.Boot, strconv.FormatUint(u.Number, 10),
		u.Position, u.StoredAt.UTC().Format(time.RFC3339Nano), u.RequestID, u.Method, u.Path, u.ClientIP, u.UserAgent,
	}
}

// asksOf says what a use asked for, and whence it came.
func asksOf(u wire.Use) (asked, from string) {
	asked = u.Permission
	if u.Workspace != "" {
		asked = strings.TrimSpace(asked + " in " + u.Workspace)
	}
	return asked, strings.TrimSpace(strings.Join([]string{u.ClientIP, u.UserAgent}, " "))
}

func (a *app) showUses(ctx context.Context, s *session, org string, q *usesQuestion) error {
	var kept wire.KeptList[wire.Use]
	list, err := collect(q.page, func(p client.Page) (_ wire.List[wire.Use], err error) {
		q.filter.Page = p
		kept, err = s.Uses(ctx, org, q.filter)
		return kept.List, err
	})
	if err != nil {
		return err
	}
	kept.List = list
	g := grid{
		head: []string{"WHEN (UTC)", "KEY", "VERDICT", "ASKED FOR", "REQUEST", "FROM", "BY"}, none: "No uses.",
		whole: map[string]bool{"WHEN (UTC)": true, "VERDICT": true}, folded: map[string]bool{"ASKED FOR": true}, spare: []string{"BY", "REQUEST"},
	}
	var rows [][]string
	for _, u := range list.Items {
		asked, from := asksOf(u)
		g.add(u.Position, u.At.UTC().Format("2006-01-02 15:04:05.000"), shortID(u.KeyID), u.Code, asked, strings.TrimSpace(u.Method+" "+u.Path), from, u.Verifier)
		rows = append(rows, useRecord(u))
	}
	a.tellDropped(kept.DroppedBefore, q.filter.From, "Single uses")
	return a.showRecords(kept, list.NextCursor, g, useMembers, rows)
}

// tellDropped says beside a table what was asked for and is not kept any more.
func (a *app) tellDropped(before *time.Time, from time.Time, what string) {
	if before == nil || !from.Before(*before) || a.out.format == formatJSON || a.out.format == formatID {
		return
	}
	fmt.Fprintf(a.env.Stderr, "%s before %s were dropped, as the organization keeps them no longer; they are counted by hour and day.\n", what, before.UTC().Format(time.DateTime))
}

// followUses prints uses on a line of their own as they come to be known.
func (a *app) followUses(ctx context.Context, s *session, org string, q *usesQuestion) error {
	q.filter.Order = "stored"
	q.filter.Page = client.Page{Limit: pageSize, Cursor: q.page.cursor}
	if a.out.format == formatCSV {
		if err := a.out.csv(useMembers, nil); err != nil {
			return err
		}
	}
	wait := time.NewTimer(0)
	defer wait.Stop()
	interrupted := a.interruptions()
	for shown, begun := 0, false; ; begun = true {
		select {
		case <-ctx.Done():
			return nil
		case <-wait.C:
		}
		wait.Reset(followEvery)
		list, err := s.Uses(ctx, org, q.filter)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil
		case err != nil && begun && passes(err):
			interrupted(err)
			continue
		case err != nil:
			return err
		}
		for _, u := range list.Items {
			if err := a.showUse(u); err != nil {
				return err
			}
			if shown++; shown == q.end {
				return nil
			}
		}
		q.filter.Cursor = list.NextCursor
		if len(list.Items) == pageSize {
			wait.Reset(0)
		}
	}
}

// passes reports whether what went wrong may be over the next time.
func passes(err error) bool {
	p, ours := problemOf(err)
	return !ours || p.Status >= 500 || p.Status == 429
}

func (a *app) showUse(u wire.Use) error {
	switch a.out.format {
	case formatJSON:
		return a.out.line(u)
	case formatID:
		return a.out.say("%s", u.Position)
	case formatCSV:
		return a.out.csv(nil, [][]string{useRecord(u)})
	}
	asked, from := asksOf(u)
	line := fmt.Sprintf("%s  %s  %s", u.At.UTC().Format("2006-01-02T15:04:05.000Z"), shortID(u.KeyID), a.out.status(u.Code))
	for _, more := range []string{asked, strings.TrimSpace(u.Method + " " + u.Path), from} {
		if more != "" {
			line += "  " + plain(more)
		}
	}
	return a.out.say("%s  %s", line, a.out.dim("by "+plain(u.Verifier)))
}

func (a *app) countUses(ctx context.Context, s *session, org string, q *usesQuestion) error {
	var kept wire.KeptList[wire.UseCount]
	list, err := collect(q.page, func(p client.Page) (_ wire.List[wire.UseCount], err error) {
		q.filter.Page = p
		kept, err = s.UseCounts(ctx, org, q.counts, q.filter)
		return kept.List, err
	})
	if err != nil {
		return err
	}
	kept.List = list
	if q.counts == "minute" {
		a.tellDropped(kept.DroppedBefore, q.filter.From, "Minutes")
	}
	layout := map[string]string{"minute": "2006-01-02 15:04", "hour": "2006-01-02 15:04", "day": time.DateOnly}[q.counts]
	g := grid{head: []string{strings.ToUpper(q.counts) + " (UTC)", "VERDICT", "USES"}, none: "No uses."}
	var rows [][]string
	for _, n := range list.Items {
		count := strconv.FormatUint(n.Count, 10)
		g.add(n.At.UTC().Format(time.RFC3339), n.At.UTC().Format(layout), n.Code, count)
		rows = append(rows, []string{n.At.UTC().Format(time.RFC3339), n.Unit, n.Code, count})
	}
	return a.showRecords(kept, list.NextCursor, g, []string{"at", "unit", "code", "count"}, rows)
}

func (a *app) showSources(ctx context.Context, s *session, org, key string) error {
	list, err := s.KeySources(ctx, org, key)
	if err != nil {
		return err
	}
	g := grid{head: []string{"FROM", "FIRST (UTC)", "VERDICT", "BY", "LAST (UTC)"}, none: "Where it was used from is not known.", whole: map[string]bool{"FROM": true}}
	var rows [][]string
	for _, u := range list.Items {
		g.add(u.Source, u.Source, u.FirstAt.UTC().Format(time.DateTime), u.FirstCode, u.FirstVerifier, u.LastAt.UTC().Format("2006-01-02 15:04"))
		rows = append(rows, []string{u.Kind, u.Source, u.FirstAt.UTC().Format(time.RFC3339Nano), u.LastAt.UTC().Format(time.RFC3339Nano), u.FirstVerifier, u.FirstCode})
	}
	return a.showRecords(list, "", g, []string{"kind", "source", "first_at", "last_at", "first_verifier", "first_code"}, rows)
}

func (a *app) showUsesFindings(ctx context.Context, s *session, org string, page *page) error {
	list, err := collect(page, func(p client.Page) (wire.List[wire.UsesFinding], error) { return s.UsesFindings(ctx, org, p) })
	if err != nil {
		return err
	}
	g := grid{
		head: []string{"KIND", "VERIFIER", "RUN", "ORGANIZATION", "FROM (UTC)", "TO (UTC)", "WHAT"}, none: "No uses are missing.",
		whole: map[string]bool{"KIND": true}, folded: map[string]bool{"WHAT": true}, spare: []string{"RUN"},
	}
	wrong := false
	var rows [][]string
	for _, f := range list.Items {
		wrong = wrong || !f.Explained && (f.Kind != "unended" || f.Superseded)
		g.add(f.Position, f.Kind, f.Verifier, shortID(f.Boot), f.Organization, when(f.From, time.DateTime), when(f.To, time.DateTime), f.Detail)
		number := func(n uint64) string { return strconv.FormatUint(n, 10) }
		rows = append(rows, []string{
			f.Kind, f.Verifier, f.Boot, f.Organization, number(f.First), number(f.Last), number(f.Count),
			when(f.From, time.RFC3339Nano), when(f.To, time.RFC3339Nano), f.Position, strconv.FormatBool(f.Superseded), strconv.FormatBool(f.Explained), f.Detail,
		})
	}
	head := []string{"kind", "verifier", "boot", "organization", "first", "last", "count", "from", "to", "position", "superseded", "explained", "detail"}
	if err := a.showRecords(list, list.NextCursor, g, head, rows); err != nil {
		return err
	}
	if wrong {
		return errNo
	}
	return nil
}

func when(t *time.Time, layout string) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(layout)
}
