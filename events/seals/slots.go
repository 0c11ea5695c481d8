package seals

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keyledger/keyledger/events"
)

// tombstone lies in a slot whose data key was destroyed. Nothing that is wrapped
// begins like it, since a ring's format is its first byte.
var tombstone = []byte("destroyed")

// lies is what lies in a slot.
type lies struct {
	slot   string
	body   []byte
	stored events.Time
}

// DataKey is a data key that lies in the store.
type DataKey struct {
	ID events.DataKeyID
	// Stored is when it was stored as it lies there now.
	Stored events.Time
	// Current says that it is wrapped, once, by the key that wraps today. Where a key
	// management service does not tell, nothing is current: what is dead can be found
	// without it.
	Current bool
}

// All lists the data keys that are not destroyed.
func (e *Envelopes) All(ctx context.Context) ([]DataKey, error) {
	var (
		found = map[events.DataKeyID][]lies{}
		order []events.DataKeyID
	)
	err := e.store.EachSeal(ctx, e.root(), func(name string, body []byte, stored events.Time) error {
		if id, slot, ok := e.parse(name); ok && !bytes.Equal(body, tombstone) {
			if found[id] == nil {
				order = append(order, id)
			}
			// One that was moved meanwhile is met twice.
			found[id] = append(slices.DeleteFunc(found[id], func(l lies) bool { return l.slot == slot }), lies{slot, body, stored})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var silent error
	out := make([]DataKey, 0, len(order))
	for _, id := range order {
		last, current := found[id][len(found[id])-1], false
		if silent == nil {
			current, silent = e.ring.Current(ctx, last.body)
		}
		out = append(out, DataKey{ID: id, Stored: last.stored, Current: current && silent == nil && len(found[id]) == 1})
	}
	return out, nil
}

// Check tells whether this server's key-encryption keys open the data keys there are,
// and looks no further than to the first that opens. Where there are some and none
// does it is [wrapping.ErrWrongKey], and [events.ErrUnavailable] if nobody could tell.
func (e *Envelopes) Check(ctx context.Context) error {
	errOpened := errors.New("seals: one opened")
	var last error
	err := e.store.EachSeal(ctx, e.root(), func(name string, body []byte, _ events.Time) error {
		id, slot, ok := e.parse(name)
		if !ok || bytes.Equal(body, tombstone) {
			return nil
		}
		plain, err := e.unwrap(ctx, id, []lies{{slot: slot, body: body}})
		if err == nil {
			clear(plain)
			return errOpened
		}
		last = err
		if errors.Is(err, events.ErrUnavailable) || e.ring.IsZero() {
			return err // the next will be no better
		}
		return nil
	})
	switch {
	case errors.Is(err, errOpened):
		return nil
	case err != nil:
		return err
	default:
		return last
	}
}

// Destroy destroys a data key for good, wherever it lies: its bytes are overwritten,
// and tombstones keep others from putting it back. It reports whether there was any
// to destroy. It can be repeated, and after every error has to be.
func (e *Envelopes) Destroy(ctx context.Context, id events.DataKeyID) (bool, error) {
	defer e.Forget(id)
	destroyed := false
	for _, slot := range slots {
		done, err := e.bury(ctx, e.slot(id, slot))
		destroyed = destroyed || done
		if err != nil {
			return destroyed, fmt.Errorf("seals: destroy data key %s: %w", id, err)
		}
	}
	return destroyed, nil
}

// bury empties a slot and closes it. Who wraps anew may fill it in between; a slot
// that is closed stays so.
func (e *Envelopes) bury(ctx context.Context, name string) (destroyed bool, err error) {
	for range maxSettle {
		body, there, err := e.store.Sealed(ctx, name)
		switch {
		case err != nil:
			return destroyed, err
		case there && bytes.Equal(body, tombstone):
			return destroyed, nil
		case there:
			done, err := e.store.Destroy(ctx, name, func(body []byte) bool { return !bytes.Equal(body, tombstone) })
			if err != nil {
				return destroyed, err
			}
			destroyed = destroyed || done
		}
		// Whatever became of it, the store has the word.
		err = e.store.Seal(ctx, name, tombstone)
		if err != nil && !errors.Is(err, events.ErrConflict) && !errors.Is(err, events.ErrOutcomeUnknown) {
			return destroyed, err
		}
		if err == nil {
			return destroyed, nil
		}
	}
	return destroyed, fmt.Errorf("%w: a slot is changed all the time", events.ErrUnavailable)
}

// Tidy removes the tombstones of data keys that were destroyed before a time, which
// must lie so far back that nobody who saw the data key can still be storing it.
func (e *Envelopes) Tidy(ctx context.Context, before events.Time) (removed int, err error) {
	var old []string
	err = e.store.EachSeal(ctx, e.root(), func(name string, body []byte, stored events.Time) error {
		if _, _, ok := e.parse(name); ok && bytes.Equal(body, tombstone) && stored < before {
			old = append(old, name)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, name := range old {
		done, err := e.store.Destroy(ctx, name, func(body []byte) bool { return bytes.Equal(body, tombstone) })
		if err != nil {
			return removed, err
		}
		if done {
			removed++
		}
	}
	return removed, nil
}

// Rewrap wraps a data key with the key that wraps today, and leaves nothing of how it
// was wrapped before. It reports whether it had to; one that is destroyed it leaves
// alone. Interrupted anywhere it leaves one that opens, and can be repeated.
//
// Of two slots that are filled the one that was stored last stays, and the other is
// destroyed only when that one has opened here. So also servers that disagree about
// which key wraps never destroy the last that opens.
func (e *Envelopes) Rewrap(ctx context.Context, id events.DataKeyID) (changed bool, err error) {
	for range maxSettle {
		lying, closed, err := e.look(ctx, id)
		if err != nil || len(lying) == 0 || closed {
			return changed, err
		}
		last := lying[len(lying)-1]
		plain, err := e.unwrap(ctx, id, []lies{last})
		if err != nil {
			return changed, err
		}
		if len(lying) == 1 {
			current, err := e.ring.Current(ctx, last.body)
			if err != nil || current {
				clear(plain)
				return changed, err
			}
			err = e.again(ctx, id, plain, last)
			clear(plain)
			if err != nil && !errors.Is(err, events.ErrConflict) {
				return changed, err
			}
			// What lies there now is looked at anew, and opened, before the one that
			// was there goes. It may be another server's, or a tombstone.
			continue
		}
		clear(plain)
		done, err := e.store.Destroy(ctx, e.slot(id, lying[0].slot), func(body []byte) bool { return bytes.Equal(body, lying[0].body) })
		if changed = changed || done; err != nil {
			return changed, err
		}
	}
	return changed, fmt.Errorf("%w: data key %s is changed all the time", events.ErrUnavailable, id)
}

// again wraps a data key anew and stores it in the slot that is free.
func (e *Envelopes) again(ctx context.Context, id events.DataKeyID, plain []byte, last lies) error {
	wrapped, err := e.ring.Wrap(ctx, plain, e.keyBinding(id))
	if err != nil {
		return err
	}
	free := slots[0]
	if last.slot == free {
		free = slots[1]
	}
	return e.put(ctx, e.slot(id, free), wrapped)
}

// look returns the slots in which a data key lies, in the order in which they were
// filled, and whether one is closed.
func (e *Envelopes) look(ctx context.Context, id events.DataKeyID) (lying []lies, closed bool, err error) {
	err = e.store.EachSeal(ctx, e.root()+"."+id.String(), func(name string, body []byte, stored events.Time) error {
		_, slot, ok := e.parse(name)
		switch {
		case !ok:
		case bytes.Equal(body, tombstone):
			closed = true
		default:
			// One that was moved to and fro meanwhile is met twice.
			lying = append(slices.DeleteFunc(lying, func(l lies) bool { return l.slot == slot }), lies{slot, body, stored})
		}
		return nil
	})
	return lying, closed, err
}

// put stores under a name that nothing lies under, whatever becomes of the answers.
func (e *Envelopes) put(ctx context.Context, name string, body []byte) error {
	var lost error
	for range maxSettle {
		if lost = e.store.Seal(ctx, name, body); lost == nil {
			return nil
		}
		if !errors.Is(lost, events.ErrConflict) && !errors.Is(lost, events.ErrOutcomeUnknown) {
			return lost
		}
		there, ok, err := e.store.Sealed(ctx, name)
		switch {
		case err != nil:
			return err
		case ok && bytes.Equal(there, body):
			return nil
		case ok:
			return events.ErrConflict
		}
	}
	return fmt.Errorf("%w: %w", events.ErrUnavailable, lost)
}
