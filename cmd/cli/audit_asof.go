package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

// asOf are the flags of a question to the past.
type asOf struct {
	key, at, permission, workspace string
	page                           *page
}

func (a *app) auditAsOfCommand() *cobra.Command {
	var q asOf
	c := &cobra.Command{
		Use: "as-of", Short: "Show a key as it was, what it could do then, and who could", Args: takes(),
		Long: `Show a key as it was at a time or a position, and the event that made it so. With
--permission or --workspace also the verdict that it would have been given, by
the code that gives verdicts now, and the event that made that so.

Without --key: which keys could do it then.

The exit code is 3 when the verdict that was asked for is not VALID, or when no
key could.`,
		Example: `  keyledger audit as-of --org acme --key $KEY --at 2026-11-01T12:00:00Z
  keyledger audit as-of --org acme --key $KEY --at $POSITION \
    --permission interview:start --workspace hiring
  keyledger audit as-of --org acme --at 2026-11-01 --permission interview:start`,
		Annotations: map[string]string{showsRecords: ""},
	}
	f := c.Flags()
	f.StringVar(&q.key, "key", "", "`id` of the key (default: all that could)")
	f.StringVar(&q.at, "at", "", "`when`: 2026-11-01T12:00:00Z, 2026-11-01 (its beginning), or a position")
	f.StringVar(&q.permission, "permission", "", "`permission` or query of permissions that is asked about")
	f.StringVar(&q.workspace, "workspace", "", "`workspace` that is asked about")
	q.page = pageFlags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		for _, name := range []string{"key", "at", "permission", "workspace"} {
			// A variable that was never set must not ask another question.
			if f := cmd.Flags().Lookup(name); f.Changed && f.Value.String() == "" {
				return usage("--"+name+" is empty", "")
			}
		}
		if q.at == "" {
			return usage("--at says as of when; it is needed", "")
		}
		if err := askable(q.permission); err != nil {
			return err
		}
		var err error
		if q.at, err = momentText(q.at); err != nil {
			return err
		}
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		if q.key == "" {
			return a.whoCould(cmd, s, org, q)
		}
		return a.keyAsOf(cmd, s, org, q)
	}
	return c
}

// momentText is a time or a position as the API takes it.
func momentText(text string) (string, error) {
	if text[0] < '0' || text[0] > '9' {
		// No time begins so; the server knows its positions.
		return text, nil
	}
	t, err := instant("at", text)
	if err != nil {
		return "", usage("--at is an instant such as 2026-11-01T12:00:00Z, a day such as 2026-11-01, or a position that an answer showed", "")
	}
	return t.Format(time.RFC3339Nano), nil
}

func (a *app) keyAsOf(cmd *cobra.Command, s *session, org string, q asOf) error {
	k, err := s.KeyAsOf(cmd.Context(), org, q.key, client.AsOf{At: q.at, Permission: q.permission, Workspace: q.workspace})
	if err != nil {
		return err
	}
	fields := a.keyThenFields(k)
	if a.out.format == formatCSV {
		err = a.out.csv([]string{"member", "value"}, records(fields))
	} else {
		err = a.out.record(k, k.ID, fields)
	}
	if err == nil && k.Verdict != nil && !k.Verdict.Valid {
		return errNo
	}
	return err
}

// records are fields that say something.
func records(fields []field) (rows [][]string) {
	for _, f := range fields {
		if f.value != "" {
			rows = append(rows, []string{f.name, f.value})
		}
	}
	return rows
}

// keyThenFields shows a key as it was: times are told from there.
func (a *app) keyThenFields(k wire.Key) []field {
	then := time.Now()
	var fields []field
	if k.AsOf != nil {
		then = k.AsOf.Time
		fields = append(fields, field{"as of", at(then) + ", " + k.AsOf.Position})
	}
	if v := k.Verdict; v != nil {
		asked := wire.VerifyRequest{Permission: v.Permission, Workspace: v.Workspace}
		verdict := wire.Verdict{Code: v.Code}
		if k.Kind == "management" {
			verdict.Kind = k.Kind
		}
		why := because(verdict, asked)
		switch v.Code {
		case "NOT_FOUND":
			why = "no secret leads to it: its digest is that of a key which was there before"
		case "UNAVAILABLE":
			why = "an event that bears on it could not be understood"
		}
		fields = append(fields, field{"verdict", v.Code}, field{"on", askedText(*v)}, field{"because", why}, field{"by", madeSoText(v.MadeSoBy)})
	}
	for _, f := range a.keyFieldsAt(k, then, "") {
		switch {
		case f.name == "last used" && k.LastUsedAt == nil:
			continue // not known of then
		case f.name == "status":
			fields = append(fields, f, field{"made so by", madeSoText(k.MadeSoBy)})
		default:
			fields = append(fields, f)
		}
	}
	return fields
}

func askedText(v wire.PastVerdict) string {
	switch {
	case v.Permission == "":
		return "any use in " + v.Workspace
	case v.Workspace == "":
		return plain(v.Permission) + ", anywhere"
	default:
		return plain(v.Permission) + " in " + v.Workspace
	}
}

// madeSoText tells an event in one line.
func madeSoText(c *wire.Change) string {
	if c == nil {
		return ""
	}
	t := tellChange(*c)
	line := at(c.StoredAt) + ", " + t.on + ": " + t.what
	if moved := movedText(*c); moved != "" {
		line += " (" + moved + ")"
	}
	if c.Actor != "" {
		line += ", by " + t.who
	}
	if t.why != "" {
		line += ", because: " + t.why
	}
	return line + " [" + c.Position + "]"
}

func (a *app) whoCould(cmd *cobra.Command, s *session, org string, q asOf) error {
	var about wire.WhoCould
	found, err := collect(q.page, func(p client.Page) (wire.List[wire.Could], error) {
		got, err := s.WhoCould(cmd.Context(), org, client.CouldFilter{Permission: q.permission, Workspace: q.workspace, At: q.at, Page: p})
		about.Position, about.Time = got.Position, got.Time
		return wire.List[wire.Could]{Items: got.Items, NextCursor: got.NextCursor}, err
	})
	if err != nil {
		return err
	}
	about.Items, about.NextCursor = found.Items, found.NextCursor
	g := grid{
		head: []string{"ID", "NAME", "KEY", "MAY", "IN", "MADE SO BY"},
		none: "No key could, as of " + at(about.Time) + ".", whole: map[string]bool{"ID": true, "KEY": true},
		spare: []string{"MADE SO BY", "KEY", "IN"},
	}
	for _, k := range found.Items {
		g.add(k.KeyID, k.KeyID, deref(k.Name), k.Masked, grantText(k.Permissions), scopeText(k.Scope), k.MadeSoBy)
	}
	if a.out.format == formatCSV {
		err = a.out.csv(g.head, g.rows)
	} else {
		err = a.listed(about, about.NextCursor, g)
	}
	if err == nil && len(found.Items) == 0 {
		return errNo
	}
	return err
}
