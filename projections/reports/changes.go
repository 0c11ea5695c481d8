package reports

import (
	"context"
	"fmt"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/audit"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// changes reads what was changed, from the audit log itself.
func (v *reading) changes(ctx context.Context, after events.Position) error {
	f := v.q.filter()
	f.After, f.Until = after, v.head.Position
	if v.q.Report == ManagementChanges {
		return v.management(ctx, f)
	}
	f.Limit = min(sqlview.MaxLimit, v.bound.most())
	for {
		page, next, err := v.of.audit.Events(ctx, f)
		if err != nil {
			return err
		}
		for i := range page {
			if v.bound.full() {
				v.stop(f.After)
				return nil
			}
			if err := v.each(Row{page[i]}); err != nil {
				return err
			}
			f.After = page[i].Position
			v.bound.count(1)
		}
		if next == "" {
			return nil
		}
	}
}

// filter wants the events of the question that its asker may see.
func (q Question) filter() audit.Filter {
	f := audit.Filter{Org: q.Org, OldestFirst: true}
	f.From, f.To = q.Period()
	if !q.Within.AllWorkspaces {
		// Not nil: who sees no workspace sees nothing.
		f.Within = append([]events.WorkspaceID{}, q.Within.Workspaces...)
	}
	return f
}

// management reads what was changed of management keys: where such events stand, and
// each of them from the audit log.
func (v *reading) management(ctx context.Context, f audit.Filter) error {
	for {
		list, err := v.managementEvents(ctx, f.After, f.Until)
		if err != nil || len(list) == 0 {
			return err
		}
		var ids []events.KeyID
		for _, e := range list {
			ids = append(ids, e.key)
		}
		found, err := catalog.Some(ctx, v.tx, v.q.Org, ids, v.q.Now)
		if err != nil {
			return err
		}
		keys := make(map[events.KeyID]catalog.Key, len(found))
		for _, k := range found {
			keys[k.ID] = k
		}
		for _, e := range list {
			if v.bound.full() {
				v.stop(f.After)
				return nil
			}
			one := f
			one.After, one.Until, one.Limit = e.position-1, e.position, 1
			page, _, err := v.of.audit.Events(ctx, one)
			if err != nil {
				return err
			}
			for i := range page {
				if err := v.each(Row{page[i], keys[e.key]}); err != nil {
					return err
				}
			}
			f.After = e.position
			v.bound.count(len(page))
		}
	}
}

// managementEvent is where an event of a management key stands.
type managementEvent struct {
	position events.Position
	key      events.KeyID
}

func (v *reading) managementEvents(ctx context.Context, after, until events.Position) ([]managementEvent, error) {
	rows, err := v.tx.QueryContext(ctx, `SELECT e.position, k.id FROM main.key k CROSS JOIN audit.event e
		ON e.org = k.org AND e.id = k.id AND e.aggregate IN ('`+string(events.AggregateKey)+`', '`+string(events.AggregateRevoked)+`')
		WHERE k.org = ?1 AND k.kind = '`+string(events.KindManagement)+`' AND e.position > ?2 AND e.position <= ?3
		ORDER BY e.position LIMIT ?4`, string(v.q.Org), int64(after), int64(until), v.bound.most())
	if err != nil {
		return nil, fmt.Errorf("reports: events of management keys: %w", err)
	}
	defer rows.Close()
	var out []managementEvent
	for rows.Next() {
		var e managementEvent
		var key string
		if err := rows.Scan(&e.position, &key); err != nil {
			return nil, fmt.Errorf("reports: events of management keys: %w", err)
		}
		if e.key, err = events.ParseKeyID(key); err != nil {
			return nil, fmt.Errorf("reports: events of management keys: %w", err)
		}
		out = append(out, e)
	}
	return out, rows.Err()
}
