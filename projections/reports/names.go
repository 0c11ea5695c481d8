package reports

import (
	"context"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/catalog"
)

// KeyName is the name of a key that acted, and whose and where it is: a key of the
// installation acts in every organization, and not everybody may see it.
type KeyName struct {
	Org   events.OrgID
	Scope events.Scope
	Text  events.Text
}

// names bounds how many names of actors are remembered while a report is read.
const names = 4096

// nameOf returns the name of an actor's key, none of other actors.
func (v *reading) nameOf(ctx context.Context, actor events.Actor) (KeyName, error) {
	if actor.Type != events.ActorKey {
		return KeyName{}, nil
	}
	if name, ok := v.names[actor]; ok {
		return name, nil
	}
	found, err := catalog.Some(ctx, v.tx, actor.Org, []events.KeyID{actor.Key}, v.q.Now)
	if err != nil {
		return KeyName{}, err
	}
	name := KeyName{Org: actor.Org}
	for _, k := range found {
		name.Scope, name.Text = k.Scope, k.Name
	}
	if len(v.names) == names {
		clear(v.names)
	}
	v.names[actor] = name
	return name, nil
}
