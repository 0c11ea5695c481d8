package histories

import (
	"github.com/anishathalye/porcupine"

	"github.com/keyledger/keyledger/events"
)

// model makes a porcupine model of a step on a state that == compares.
func model[S comparable](begin S, step func(S, Wish, Answer) (bool, S)) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return begin },
		Step: func(s, in, out any) (bool, any) {
			ok, next := step(s.(S), in.(Wish), out.(Answer))
			return ok, next
		},
		DescribeOperation: describe,
	}
}

// register is a key as a register: what is granted, and whether it is of use.
type register struct {
	exists, disabled, revoked bool
	grant                     string
	// at is the position of the last fact on the key's own subject.
	at events.Position
}

// Key is the model of one key under creates, patches, revocations and questions.
func Key() porcupine.Model { return model(register{}, register.step) }

func (k register) step(w Wish, a Answer) (bool, register) {
	switch w.Act {
	case ActCreate:
		return !k.exists, register{exists: true, grant: w.Grant, at: a.Position}
	case ActPatch:
		return k.patch(w, a)
	case ActRevoke:
		ok := k.exists && (!a.Unchanged || k.revoked)
		k.revoked = true
		return ok, k
	case ActRead:
		return k.read(a), k
	default:
		return false, k
	}
}

func (k register) patch(w Wish, a Answer) (bool, register) {
	next := k
	if w.Grant != "" {
		next.grant = w.Grant
	}
	if w.Status != "" {
		next.disabled = w.Status == events.StatusInactive
	}
	switch {
	case a.Refused:
		return k.revoked, k
	case a.Unchanged:
		return !k.revoked && next == k, k
	default:
		next.at = a.Position
		return !k.revoked && k.at == a.After, next
	}
}

func (k register) read(a Answer) bool {
	switch a.Code {
	case events.CodeValid:
		return k.exists && !k.revoked && !k.disabled && k.grant == a.Grant
	case events.CodeInactive:
		return k.exists && !k.revoked && k.disabled && k.grant == a.Grant
	case events.CodeRevoked:
		// What was granted does not matter any more: an edit that met the
		// revocation on its way may have been recorded after it.
		return k.revoked
	case events.CodeNotFound:
		return !k.exists
	default:
		return false
	}
}

// held is how many keys hold a place, and the position of the last that took one.
type held struct {
	places int
	at     events.Position
}

// Limit is the model of an organization that may have so many keys: creates are
// refused when, and only when, as many hold a place. Each key is revoked once.
func Limit(places int) porcupine.Model {
	return model(held{}, func(h held, w Wish, a Answer) (bool, held) {
		switch {
		case w.Act == ActCreate && a.Refused:
			return h.places == places, h
		case w.Act == ActCreate:
			return h.places < places && h.at == a.After, held{h.places + 1, a.Position}
		case w.Act == ActRevoke:
			return h.places > 0, held{h.places - 1, h.at}
		default:
			return false, h
		}
	})
}

// rotation is a key that is rotated once and revoked.
type rotation struct{ rotated, revoked bool }

// Rotation is the model of rotation against revocation: nothing is rotated any
// more once it is revoked, and whoever is refused finds it so.
func Rotation() porcupine.Model {
	return model(rotation{}, func(r rotation, w Wish, a Answer) (bool, rotation) {
		switch {
		case w.Act == ActRotate && a.Refused:
			return r.revoked, r
		case w.Act == ActRotate:
			return !r.rotated && !r.revoked, rotation{true, r.revoked}
		case w.Act == ActRevoke:
			return true, rotation{r.rotated, true}
		default:
			return false, r
		}
	})
}

// End is the model of an organization's end: from then on no key of it is VALID,
// whenever it was created.
func End() porcupine.Model {
	return model(false, func(ended bool, w Wish, a Answer) (bool, bool) {
		switch w.Act {
		case ActEnd:
			return true, true
		case ActRead:
			return (a.Code == events.CodeRevoked) == ended, ended
		default:
			return false, ended
		}
	})
}

// connection is what an organization has of a provider: a secret, or none.
type connection struct {
	secret string
	// at is the position of the last fact.
	at events.Position
}

// Connection is the model of a provider key that is added, replaced, removed and
// resolved. A question that is answered with a secret finds just that one there; one
// that is answered with nothing, none.
func Connection() porcupine.Model {
	return model(connection{}, func(c connection, w Wish, a Answer) (bool, connection) {
		connected := c.secret != ""
		switch {
		case w.Act == ActRead:
			return c.secret == a.Grant, c
		case w.Act == ActCreate && a.Refused:
			return connected, c
		case w.Act == ActPatch && a.Refused, w.Act == ActRevoke && (a.Refused || a.Unchanged):
			return !connected, c
		case w.Act == ActCreate:
			return !connected && c.at == a.After, connection{w.Grant, a.Position}
		case w.Act == ActPatch:
			return connected && c.at == a.After, connection{w.Grant, a.Position}
		case w.Act == ActRevoke:
			return connected && c.at == a.After, connection{"", a.Position}
		default:
			return false, c
		}
	})
}
