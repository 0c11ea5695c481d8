package usage

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// maxFollowed bounds how many blocks one page of Stored looks into.
const maxFollowed = 64

// Stored lists the uses that came to be known after a cursor, in the order in which
// they were stored, late ones too: what to follow them by. Without a cursor it lists
// none, and the cursor is where what comes begins; there always is one, so that it
// can be asked again. The filter's times, and its order, count for nothing.
func (v *View) Stored(ctx context.Context, f Filter) ([]Use, string, error) {
	if v.blocks == nil {
		return nil, "", errNoBlocks
	}
	name := sqlview.ListOf("stored", string(f.Org), f.Key.String(), f.Code.String(), f.Permission, f.Workspace)
	through, err := v.Position(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("usage: follow uses: %w", err)
	}
	at := place{position: through, n: math.MaxInt64}
	if f.Cursor == "" {
		return nil, at.cursor(name), nil
	}
	if at, err = placeOf(name, f.Cursor); err != nil {
		return nil, "", err
	}
	// What retention has dropped is told no more, wherever one goes on from.
	if f.From, err = v.DroppedBefore(ctx, f.Org); err != nil {
		return nil, "", fmt.Errorf("usage: follow uses: %w", err)
	}
	l := lister{v: v, f: f, sees: make(map[events.KeyID]bool)}
	list, err := l.stored(ctx, &at, through)
	if err != nil {
		return nil, "", fmt.Errorf("usage: follow uses: %w", err)
	}
	return list, at.cursor(name), nil
}

// stored moves a place on.
func (l *lister) stored(ctx context.Context, at *place, through events.Position) ([]Use, error) {
	// The block that the place is in may hold more.
	found, err := sqlview.All(ctx, l.v.db, func(row sqlview.Scanner) (closedBlock, error) {
		var b closedBlock
		err := row.Scan(&b.position, &b.came)
		return b, err
	}, `SELECT position, fresh FROM blocks JOIN orgs ON orgs.no = blocks.org
		WHERE orgs.org = ? AND position >= ? AND position <= ? ORDER BY position LIMIT ?`,
		string(l.f.Org), int64(at.position), int64(through), maxFollowed)
	if err != nil {
		return nil, err
	}
	end := place{position: through, n: math.MaxInt64}
	if len(found) == maxFollowed {
		end.position = found[len(found)-1].position
	}
	var list []Use
	for len(found) > 0 {
		n := min(len(found), together)
		blocks, _, err := l.v.blocks.get(ctx, found[:n])
		if err != nil {
			return nil, err
		}
		for i, b := range blocks {
			if b == nil {
				continue
			}
			ready, err := l.visible(ctx, l.all(b, found[i].came, *at))
			if err != nil {
				return nil, err
			}
			ready = slices.DeleteFunc(ready, func(u placed) bool { return u.At < l.f.From })
			for _, u := range ready {
				if len(list) == l.f.Rows() {
					return list, nil
				}
				list = append(list, u.Use)
				*at = place{position: u.position, n: u.n}
			}
		}
		found = found[n:]
	}
	if at.compare(end) < 0 {
		*at = end
	}
	return list, nil
}

// all are the uses of a block behind a place that are wanted.
func (l *lister) all(b *storedBlock, came uint64, after place) []placed {
	var ready []placed
	for i := came - min(came, b.First); i < uint64(len(b.Uses)); i++ {
		if p := (place{position: b.position, n: i}); p.compare(after) > 0 && l.f.wants(&b.Uses[i]) {
			ready = append(ready, placed{p, b.use(i)})
		}
	}
	return ready
}
