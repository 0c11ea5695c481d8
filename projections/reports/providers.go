package reports

import (
	"context"
	"fmt"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/access"
	"github.com/keyledger/keyledger/projections/catalog"
)

// providerKeys reads the organization's provider keys, of which there are few.
func (v *reading) providerKeys(ctx context.Context, after events.Position) error {
	if !v.q.Within.AllWorkspaces {
		return nil
	}
	list, err := catalog.ConnectedProviders(ctx, v.tx, v.q.Org)
	if err != nil {
		return err
	}
	for _, k := range list {
		if k.Place() <= after {
			continue
		}
		if v.bound.full() {
			v.stop(after)
			return nil
		}
		row, err := v.providerKeyRow(ctx, &k)
		if err == nil {
			err = v.each(row)
		}
		if err != nil {
			return err
		}
		after = k.Place()
		v.bound.count(1)
	}
	return nil
}

func (v *reading) providerKeyRow(ctx context.Context, k *catalog.ProviderKey) (Row, error) {
	createdByName, err := v.nameOf(ctx, k.CreatedBy)
	if err != nil {
		return nil, err
	}
	var resolved events.Time
	if v.of.strangers {
		if err := v.tx.QueryRowContext(ctx, access.LastResolvedSQL, string(k.Org), string(k.Provider)).Scan(&resolved); err != nil {
			return nil, fmt.Errorf("reports: when a provider key was handed out: %w", err)
		}
	}
	t := k.LastTest
	return Row{
		string(k.Provider), k.Name, string(k.State), int64(k.Version), k.BaseURL, k.CreatedAt, k.CreatedBy.String(), createdByName, k.ReplacedAt,
		daysBetween(k.SecretSince(), v.q.Now), t.At, string(t.Result), int64(t.Version), t.MissingModels, resolved,
	}, nil
}
