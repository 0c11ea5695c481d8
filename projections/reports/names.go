package reports

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// KeyName is the name of a key that acted, and whose it is: a key of the
// installation acts in every organization.
type KeyName struct {
	Org  events.OrgID
	Text events.Text
}

// names bounds how many names of actors are remembered while a report is read.
const names = 4096

// nameOf returns the name of an actor's key, none of other actors.
func (v *reading) nameOf(ctx context.Context, actor events.Actor) (KeyName, error) {
	if actor.Type != events.ActorKey {
		return KeyName{}, nil
	}
	if name, ok := v.names[actor]; ok {
		return KeyName{actor.Org, name}, nil
	}
	var t sqlview.Text
	err := v.tx.QueryRowContext(ctx, `SELECT name, name_sealed FROM main.key WHERE org = ? AND id = ?`, string(actor.Org), actor.Key.String()).
		Scan(&t.Clear, &t.Sealed)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return KeyName{}, fmt.Errorf("reports: name of an actor: %w", err)
	}
	name, err := t.Text()
	if err != nil {
		return KeyName{}, err
	}
	if len(v.names) == names {
		clear(v.names)
	}
	v.names[actor] = name
	return KeyName{actor.Org, name}, nil
}
