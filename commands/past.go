package commands

import "github.com/keyledger/keyledger/events"

// After returns the key as it is after a fact of either of its subjects; a fact of
// anything else leaves it as it was. Whoever looks back folds a key's facts with it
// from the zero value on, in the order of their positions, as commands do before
// they decide.
func (k Key) After(f events.Recorded) Key { return k.apply(f) }
