package index

import (
	"crypto/sha256"

	"github.com/keyledger/keyledger/events"
)

// The state of a key: flags in the upper 8 bits, then 24 of the grant's id,
// then the second it expires in, 0 for never.
const (
	flagTaken uint64 = 1 << (56 + iota)
	flagRevoked
	flagClosed
	flagExpired
	flagDisabled

	grantShift = 32
	grantMask  = uint64(grantLimit-1) << grantShift
	expiryMask = uint64(1<<32 - 1)
)

func grantOf(state uint64) uint32  { return uint32(state & grantMask >> grantShift) }
func expiryOf(state uint64) uint32 { return uint32(state & expiryMask) }

// DigestOf returns the value that a key's digest is found under: of a bare hash
// the hash itself, of any other the hash of all that tells it apart. So nobody
// can import the hash of a secret as an HMAC, or under another pepper, and be
// taken for a key that was made that way.
func DigestOf(d events.Digest) events.DigestValue {
	if d.Alg == events.SHA256 && d.PepperID == "" {
		return d.Value
	}
	h := sha256.New()
	for _, s := range []string{"keyledger index", string(d.Alg), d.PepperID} {
		h.Write([]byte{byte(len(s) >> 8), byte(len(s))})
		h.Write([]byte(s))
	}
	h.Write(d.Value[:])
	return events.DigestValue(h.Sum(nil))
}

// seconds is an instant as slots keep it. One that is set is never 0.
func seconds(t events.Time) uint32 {
	if t.IsZero() {
		return 0
	}
	return max(1, t.Seconds())
}

// sooner returns the first of two instants of which 0 is never.
func sooner(a, b uint32) uint32 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

func (x *Index) applyRevoked(org *organization, r *events.Recorded) {
	if r.Subject.ID == events.RevokedAll {
		switch e := r.Event.(type) {
		case events.OrganizationDeleted:
			org.stand(standingEnded)
		case events.Malformed:
			x.closeOrganization(org, r, TroubleMalformed)
		case events.Unknown:
			if e.Bears {
				x.closeOrganization(org, r, TroubleUnknown)
			}
		default:
			x.closeOrganization(org, r, TroubleMisplaced)
		}
		return
	}
	id, ok := r.Subject.Key()
	if !ok {
		x.report(r, TroubleSubject, ClosedNothing)
		return
	}
	k := ref{org.index, id}
	switch e := r.Event.(type) {
	case events.KeyRevoked:
		// Unconditional, and so without a look at the revision: two revocations
		// that race both say 1, and one that comes late says no less.
		x.flag(k, flagRevoked)
		delete(x.graces, k)
	case events.Malformed:
		x.closeKey(k, r, TroubleMalformed)
	case events.Unknown:
		if e.Bears {
			x.closeKey(k, r, TroubleUnknown)
		}
	default:
		x.closeKey(k, r, TroubleMisplaced)
	}
}

// flag sets flags on a key, or keeps them for when it is created.
func (x *Index) flag(k ref, flags uint64) {
	if s := x.ids.find(x.table, k.org, k.id); s != nil {
		s.setState(s.state() | flags)
		return
	}
	if _, ok := x.unreachable[k]; !ok {
		x.early[k] |= flags
	}
}

func (x *Index) closeKey(k ref, r *events.Recorded, t Trouble) {
	x.report(r, t, ClosedKey)
	x.flag(k, flagClosed)
}

func (x *Index) applyKey(org *organization, r *events.Recorded) {
	id, ok := r.Subject.Key()
	if !ok {
		x.report(r, TroubleSubject, ClosedNothing)
		return
	}
	k := ref{org.index, id}
	if _, ok := r.Event.(events.Malformed); ok {
		x.closeKey(k, r, TroubleMalformed)
		return
	}
	s := x.ids.find(x.table, k.org, k.id)
	if s == nil {
		x.applyFirst(org, k, r)
		return
	}
	have := events.Revision(s.revision())
	switch rev := r.Meta.Revision; {
	case rev <= have:
		x.report(r, TroubleReplayed, ClosedNothing)
	case s.state()&flagClosed != 0:
		// It was told when it was closed. Only a revocation still counts.
	case rev > have+1:
		x.closeKey(k, r, TroubleGap)
	default:
		s.setRevision(uint32(rev))
		x.evolve(org, k, s, r)
	}
}

// applyFirst applies a fact about a key that has no slot.
func (x *Index) applyFirst(org *organization, k ref, r *events.Recorded) {
	if _, ok := x.unreachable[k]; ok {
		return
	}
	e, ok := r.Event.(events.KeyCreated)
	if !ok {
		if x.early[k]&flagClosed == 0 {
			x.closeKey(k, r, TroubleGap)
		}
		return
	}
	if e.ID != k.id {
		x.closeKey(k, r, TroubleMisplaced)
		return
	}
	if r.Meta.Revision != 1 {
		x.closeKey(k, r, TroubleGap)
	}
	value := DigestOf(e.Digest)
	d := wordsOf(&value)
	hash := x.table.hash(&d)
	if s, _, _ := x.table.find(&d, hash); s != nil {
		// A digest belongs to its first position. That is no fault of the
		// ledger: people import the same keys twice.
		x.unreachable[k] = struct{}{}
		delete(x.early, k)
		return
	}
	want := grant{org: org, kind: e.KeyKind, role: e.Role, permissions: e.Permissions, scope: e.Scope, profile: e.Profile}
	grantID, ok := x.grants.intern(&want)
	if !ok {
		x.report(r, TroubleFull, ClosedKey)
		x.unreachable[k] = struct{}{}
		delete(x.early, k)
		return
	}
	state := flagTaken | x.early[k] | uint64(grantID)<<grantShift | uint64(seconds(e.ExpiresAt))
	delete(x.early, k)
	x.ids.insert(k.org, k.id, hash)
	x.table.insert(&d, hash, k.org, uint32(r.Meta.Revision), k.id, state)
	x.keys.Add(1)
}

// evolve applies the next fact of a key.
func (x *Index) evolve(org *organization, k ref, s *slot, r *events.Recorded) {
	state := s.state()
	switch e := r.Event.(type) {
	case events.KeyRenamed, events.KeyMetadataChanged:
	case events.KeyPermissionsChanged:
		x.regrant(k, s, r, func(g *grant) { g.permissions = e.Permissions })
	case events.KeyScopeChanged:
		x.regrant(k, s, r, func(g *grant) { g.scope = e.Scope })
	case events.KeyProfileChanged:
		x.regrant(k, s, r, func(g *grant) { g.profile = e.Profile })
	case events.KeyDisabled:
		s.setState(state | flagDisabled)
	case events.KeyEnabled:
		s.setState(state &^ flagDisabled)
	case events.KeyExpiryChanged:
		x.setEnds(k, s, func(g *grace) { g.expires = seconds(e.ExpiresAt) })
	case events.KeyRotated:
		x.setEnds(k, s, func(g *grace) { g.ends = seconds(e.GraceEndsAt) })
	case events.KeyGraceChanged:
		x.setEnds(k, s, func(g *grace) { g.ends = seconds(e.GraceEndsAt) })
	case events.KeyExpired:
		s.setState(state | flagExpired)
		delete(x.graces, k)
	case events.Unknown:
		if e.Bears {
			x.closeKey(k, r, TroubleUnknown)
		}
	default:
		x.closeKey(k, r, TroubleMisplaced)
	}
}

// regrant moves a key to a changed grant.
func (x *Index) regrant(k ref, s *slot, r *events.Recorded, change func(*grant)) {
	state := s.state()
	old := grantOf(state)
	from := x.grants.get(old)
	want := grant{
		org: from.org, kind: from.kind, role: from.role,
		permissions: from.permissions, scope: from.scope, profile: from.profile,
	}
	change(&want)
	id, ok := x.grants.intern(&want)
	if !ok {
		x.closeKey(k, r, TroubleFull)
		return
	}
	s.setState(state&^grantMask | uint64(id)<<grantShift)
	// Released after no slot names it any more: see Lookup.
	x.grants.release(old)
}

// setEnds changes when a key expires or its grace ends. Both are only kept of
// keys that were rotated; all others have an expiry alone.
func (x *Index) setEnds(k ref, s *slot, change func(*grace)) {
	state := s.state()
	g, ok := x.graces[k]
	if !ok {
		g.expires = expiryOf(state)
	}
	change(&g)
	if g.ends != 0 && state&(flagRevoked|flagExpired) == 0 {
		x.graces[k] = g
	} else {
		delete(x.graces, k)
	}
	s.setState(state&^expiryMask | uint64(sooner(g.expires, g.ends)))
}
