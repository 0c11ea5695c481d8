package access

import (
	"context"
	"fmt"

	"github.com/keyledger/keyledger/events"
)

// Since returns the position behind which all records of a time or later stand that
// this view tells of, for whoever counts them on; the view's own where there are none.
// A record is of its whole minute.
func (v *View) Since(ctx context.Context, at events.Time) (events.Position, error) {
	var after events.Position
	err := v.db.QueryRow(ctx, `SELECT coalesce((SELECT min(position) - 1 FROM access WHERE minute > ?), (SELECT position FROM view))`, int64(at)-60_000_000).Scan(&after)
	if err != nil {
		return 0, fmt.Errorf("access: %w", err)
	}
	return after, nil
}
