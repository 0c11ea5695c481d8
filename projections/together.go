package projections

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keyledger/keyledger/events"
)

// Together returns a view that applies the same slices to several in-memory
// views, one after another. Those that begin further on (from a snapshot) get
// what they have not seen. It stops when one of them does: views that shall
// outlive each other take a runner each.
func Together(name string, views ...View) View {
	return &together{name: name, views: views, at: make([]events.Position, len(views))}
}

type together struct {
	name  string
	views []View
	at    []events.Position
}

func (t *together) Name() string { return t.name }

// Position is that of the view which is furthest behind.
func (t *together) Position(ctx context.Context) (events.Position, error) {
	if len(t.views) == 0 {
		return 0, errors.New("projections: together of no views")
	}
	var lowest events.Position
	for i, v := range t.views {
		pos, err := v.Position(ctx)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", v.Name(), err)
		}
		if t.at[i] = pos; i == 0 || pos < lowest {
			lowest = pos
		}
	}
	return lowest, nil
}

func (t *together) Apply(ctx context.Context, facts []events.Recorded) error {
	last := facts[len(facts)-1].Position
	for i, v := range t.views {
		if last <= t.at[i] {
			continue
		}
		// Of a source that is filtered, positions are missing.
		seen, _ := slices.BinarySearchFunc(facts, t.at[i]+1, func(f events.Recorded, at events.Position) int {
			return cmp.Compare(f.Position, at)
		})
		if err := v.Apply(ctx, facts[seen:]); err != nil {
			return fmt.Errorf("%s: %w", v.Name(), err)
		}
		t.at[i] = last
	}
	return nil
}
