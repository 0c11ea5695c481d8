package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/projections/audit"
)

const linesType = "application/x-ndjson"

// exportColumns are the columns of an export in CSV.
var exportColumns = [...]string{
	"position", "stored_at", "recorded_at", "claimed_at", "organization", "type", "aggregate", "id", "revision", "actor", "role", "scope", "reason",
	"ticket", "request_id", "command_id", "causation_id", "config_position", "changes",
}

func (s *Server) exportEndpoint() endpoint {
	return endpoint{
		method: "GET", path: "/v1/organizations/{org}/audit/export", id: "export-audit-events", tag: "Audit", summary: "Export the changes",
		description: "Every change, the oldest first, as it is stored: as jsonl one document a line with its position and the CloudEvents document byte for byte, as csv a row each. Texts that are sealed stay sealed, whoever asks. It stands at the position of the header Keyledger-Position; an answer that breaks is cut off visibly.",
		who:         "Role owner, admin or auditor, not limited to workspaces.",
		query: []parameter{
			{name: "format", description: "jsonl or csv; jsonl unless given.", of: "", example: formatLines},
			{name: "from", description: "Changes stored at this time or later; an RFC 3339 time.", of: "", example: "2026-10-01T00:00:00Z"},
			{name: "to", description: "Changes stored before this time.", of: "", example: "2026-11-01T00:00:00Z"},
			{name: "after", description: "Changes after this position, to go on with an earlier export; 0 is the beginning.", of: ""},
			{name: "all", description: "true for those of every organization; of _system alone.", of: false},
		},
		answers: wire.ExportedEvent{}, only: []string{linesType, "text/csv"}, status: 200, codes: []string{"invalid_position", "invalid_value"},
		reads: access.AuditExported, handle: s.export,
	}
}

func (s *Server) export(ctx context.Context, c *call) (reply, error) {
	f, err := s.exported(ctx, c)
	if err != nil {
		return reply{}, err
	}
	out := &flowing{header: map[string]string{"Keyledger-Position": s.position(f.Until)}}
	name := "changes-" + string(f.Org) + "-" + time.Now().UTC().Format("20060102")
	switch c.query("format") {
	case "", formatLines:
		out.contentType, out.filename = linesType, name+".jsonl"
		out.send = func(ctx context.Context, to *flow) error { return s.exportLines(ctx, f, to) }
	case formatCSV:
		out.contentType, out.filename = csvType, name+".csv"
		out.send = func(ctx context.Context, to *flow) error { return s.exportCSV(ctx, f, to) }
	default:
		return reply{}, refuse(errRequest, "format", "must be jsonl or csv")
	}
	return reply{flow: out}, nil
}

// exported reads what is to be exported.
func (s *Server) exported(ctx context.Context, c *call) (f audit.Filter, err error) {
	if f.Org, err = c.look(); err != nil {
		return f, err
	}
	switch p := c.principal; {
	case p.Role == events.RoleMember:
		return f, domain.Refuse(domain.ErrForbidden, "", "role %s may not export; this needs role owner, admin or auditor", p.Role)
	case !p.Scope.AllWorkspaces:
		return f, domain.Refuse(domain.ErrForbidden, "", "an export is of a whole organization; the key's scope is limited to workspaces")
	}
	if f.AllOrganizations, err = c.flag("all"); err != nil {
		return f, err
	}
	if f.AllOrganizations && f.Org != events.System {
		return f, refuse(errRequest, "all", "is of the organization %s alone", events.System)
	}
	if f.From, f.To, err = c.times(); err != nil {
		return f, err
	}
	if f.To != 0 && f.From >= f.To {
		return f, domain.Refuse(domain.ErrInvalid, "from", "must lie before to")
	}
	s.settle(ctx)
	s.settleAudit(ctx)
	if err := s.wasOrganization(ctx, f.Org); err != nil {
		return f, err
	}
	if text := c.query("after"); text != "" && text != "0" {
		if f.After, err = s.cfg.Positions.Parse(events.StreamLedger, text); err != nil {
			return f, refuse(err, "after", "%s", gate.PlainDetail(err, kindOf(err)))
		}
		if err := s.reached(ctx, f.After, "after"); err != nil {
			return f, err
		}
	}
	f.Until, err = s.cfg.Audit.Position(ctx)
	f.OldestFirst, f.Limit = true, MaxPage
	return f, err
}

// eachEvent reads what a filter wants, page by page: the log only grows, so that
// what lies up to a position is the same whenever it is read.
func (s *Server) eachEvent(ctx context.Context, f audit.Filter, each func(audit.Event) error) error {
	for {
		page, next, err := s.cfg.Audit.Events(ctx, f)
		if err != nil {
			return err
		}
		for i := range page {
			if err := each(page[i]); err != nil {
				return err
			}
		}
		if next == "" {
			return nil
		}
		f.Cursor = next
	}
}

func (s *Server) exportLines(ctx context.Context, f audit.Filter, to io.Writer) error {
	w := bufio.NewWriterSize(to, streamChunk)
	err := s.eachEvent(ctx, f, func(e audit.Event) error {
		head, err := json.Marshal(wire.ExportedEvent{Position: s.position(e.Position), StoredAt: e.Stored.Std(), Type: e.Kind.Name()})
		if err != nil {
			return errors.Join(errInternal, err)
		}
		// The document itself goes as it is: it is what was hashed. Line breaks
		// between its members, which ours have none of, would make two lines of it.
		body := e.Raw
		if bytes.ContainsAny(body, "\r\n") {
			compact := jsontext.Value(bytes.Clone(body))
			if err := compact.Compact(); err != nil {
				return errors.Join(errInternal, err)
			}
			body = compact
		}
		_, _ = w.Write(head[:len(head)-1])
		_, _ = w.WriteString(`,"event":`)
		_, _ = w.Write(body)
		_, err = w.WriteString("}\n")
		return err
	})
	if err != nil {
		return err
	}
	return w.Flush()
}

func (s *Server) exportCSV(ctx context.Context, f audit.Filter, to io.Writer) error {
	head := "changes organization=" + string(f.Org) + " generated_at=" + time.Now().UTC().Format(time.RFC3339) + " position=" + s.position(f.Until)
	sheet, err := newCSV(to, "export", head, exportColumns[:])
	if err != nil {
		return err
	}
	// Shown to nobody in particular, what is sealed stays so.
	changes := s.changes(ctx, commands.Principal{}, false)
	err = s.eachEvent(ctx, f, func(e audit.Event) error {
		c := changes.show(e)
		return sheet.row([]any{
			c.Position, &c.StoredAt, &c.RecordedAt, &c.ClaimedAt, c.Organization, c.Type, c.Aggregate, c.ID, c.Revision, c.Actor, c.Role, c.Scope,
			c.Reason, c.Ticket, c.RequestID, c.CommandID, c.CausationID, c.ConfigPosition, c.Changes,
		})
	})
	if err != nil {
		return err
	}
	return sheet.end()
}
