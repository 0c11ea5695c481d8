package index

import (
	"crypto/sha256"

	"github.com/keyledger/keyledger/events"
)

// The state of a key: flags in the upper 8 bits, then 24 of the grant's id,
// then the second it expires in, 0 for never.
const (
	flagTaken uint64 = 1 << (flagShift + iota)
	flagRevoked
	flagClosed
	flagExpired
	flagDisabled

	flagShift  = 56
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
	var room [128]byte
	text := room[:0]
	for _, s := range []string{"keyledger index", string(d.Alg), d.PepperID} {
		text = append(text, byte(len(s)>>8), byte(len(s)))
		text = append(text, s...)
	}
	return sha256.Sum256(append(text, d.Value[:]...))
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
			if org.standing.Load()&standingEnded != 0 && !x.wasForetold(r.Subject) {
				x.report(r, TroubleReplayed, ClosedNothing)
			}
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
		// Unconditional, and so without a look at the revision. But a key ends
		// once: its revocation is appended expecting nothing before it.
		if x.flag(k, flagRevoked)&flagRevoked != 0 && !x.wasForetold(r.Subject) {
			x.report(r, TroubleReplayed, ClosedNothing)
		}
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

// flag sets flags on a key, or keeps them for when it is created. It returns
// the state before.
func (x *Index) flag(k ref, flags uint64) uint64 {
	if s := x.ids.find(x.table, k.org, k.id); s != nil {
		state := s.state()
		s.setState(state | flags)
		return state
	}
	kept := x.early
	if _, ok := x.unreachable[k]; ok {
		kept = x.unreachable
	}
	state := kept[k]
	kept[k] = state | flags
	return state
}

func (x *Index) closeKey(k ref, r *events.Recorded, t Trouble) {
	x.report(r, t, ClosedKey)
	x.flag(k, flagClosed)
}

// change is what facts of one key amount to that were appended as one. It is
// published as one: a verdict between them would be about a key that never was,
// such as one whose permissions are the next ones already while its scope is not
// yet.
type change struct {
	key ref
	// slot is nil as long as the key has none. It is born when it gets one by
	// this change, and lost when it never will.
	slot       *slot
	born, lost bool
	digest     digest
	hash       uint32
	// alg is how the digest of one that is born was made.
	alg events.DigestAlg
	// state is the key's after the change, except for its grant.
	state    uint64
	revision events.Revision
	// want is its grant after the change, regranted the last fact that changed
	// it, nil if none did.
	want      grant
	regranted *events.Recorded
}

// applyKey applies facts of one key that were appended as one.
func (x *Index) applyKey(org *organization, facts []events.Recorded) {
	id, ok := facts[0].Subject.Key()
	if !ok {
		for i := range facts {
			x.report(whole(&facts[i]), TroubleSubject, ClosedNothing)
		}
		return
	}
	c := change{key: ref{org.index, id}}
	if c.slot = x.ids.find(x.table, org.index, id); c.slot != nil {
		c.state, c.revision = c.slot.state(), events.Revision(c.slot.revision())
	} else if c.state, c.lost = x.unreachable[c.key]; !c.lost {
		c.state = x.early[c.key]
	}
	for i := range facts {
		x.step(org, &c, whole(&facts[i]))
	}
	x.publish(&c)
}

// step adds a fact to a change.
func (x *Index) step(org *organization, c *change, r *events.Recorded) {
	if _, ok := r.Event.(events.Malformed); ok {
		x.close(c, r, TroubleMalformed)
		return
	}
	switch rev := r.Meta.Revision; {
	case c.lost:
	case c.slot == nil && !c.born:
		x.begin(org, c, r)
	case rev <= c.revision:
		x.report(r, TroubleReplayed, ClosedNothing)
	case c.state&flagClosed != 0:
		// It was told when it was closed. Only a revocation still counts.
	case rev > c.revision+1:
		x.close(c, r, TroubleGap)
	default:
		c.revision = rev
		x.evolve(c, r)
	}
}

func (x *Index) close(c *change, r *events.Recorded, t Trouble) {
	x.report(r, t, ClosedKey)
	c.state |= flagClosed
}

// begin adds the first fact about a key that has no slot.
func (x *Index) begin(org *organization, c *change, r *events.Recorded) {
	e, ok := r.Event.(events.KeyCreated)
	switch {
	case !ok:
		if c.state&flagClosed == 0 {
			x.close(c, r, TroubleGap)
		}
		return
	case e.ID != c.key.id:
		x.close(c, r, TroubleMisplaced)
		return
	case r.Meta.Revision != 1:
		x.close(c, r, TroubleGap)
	}
	value := DigestOf(e.Digest)
	c.digest = wordsOf(&value)
	c.hash = x.table.hash(&c.digest)
	if s, _, _ := x.table.find(&c.digest, c.hash); s != nil {
		// A digest belongs to its first position. That is no fault of the
		// ledger: people import the same keys twice.
		c.lost = true
		return
	}
	c.born, c.alg, c.revision, c.regranted = true, e.Digest.Alg, r.Meta.Revision, r
	c.want = grant{org: org, kind: e.KeyKind, role: e.Role, permissions: e.Permissions, scope: e.Scope, profile: e.Profile}
	c.state |= flagTaken | uint64(seconds(e.ExpiresAt))
}

// evolve adds the next fact of a key.
func (x *Index) evolve(c *change, r *events.Recorded) {
	switch e := r.Event.(type) {
	case events.KeyRenamed, events.KeyMetadataChanged, events.KeyExpiring, events.KeyRotationDue,
		events.KeyNewSource, events.KeyDenialsSpike:
	case events.KeyPermissionsChanged:
		x.regrant(c, r).permissions = e.Permissions
	case events.KeyScopeChanged:
		x.regrant(c, r).scope = e.Scope
	case events.KeyProfileChanged:
		x.regrant(c, r).profile = e.Profile
	case events.KeyDisabled:
		c.state |= flagDisabled
	case events.KeyEnabled:
		c.state &^= flagDisabled
	case events.KeyExpiryChanged:
		x.setEnds(c, func(g *grace) { g.expires = seconds(e.ExpiresAt) })
	case events.KeyRotated:
		x.setEnds(c, func(g *grace) { g.ends = seconds(e.GraceEndsAt) })
	case events.KeyGraceChanged:
		x.setEnds(c, func(g *grace) { g.ends = seconds(e.GraceEndsAt) })
	case events.KeyExpired:
		c.state |= flagExpired
		delete(x.graces, c.key)
	case events.Unknown:
		if e.Bears {
			x.close(c, r, TroubleUnknown)
		}
	default:
		x.close(c, r, TroubleMisplaced)
	}
}

// regrant returns the grant to be changed by a fact.
func (x *Index) regrant(c *change, r *events.Recorded) *grant {
	if c.regranted == nil {
		from := x.grants.get(grantOf(c.state))
		c.want.org, c.want.kind, c.want.role = from.org, from.kind, from.role
		c.want.permissions, c.want.scope, c.want.profile = from.permissions, from.scope, from.profile
	}
	c.regranted = r
	return &c.want
}

// publish shows a change to readers, for whom its state is one word.
func (x *Index) publish(c *change) {
	old, regranted := grantOf(c.state), false
	if c.regranted != nil {
		id, ok := x.grants.intern(&c.want)
		switch {
		case ok:
			regranted = true
			c.state = c.state&^grantMask | uint64(id)<<grantShift
		case c.born:
			x.report(c.regranted, TroubleFull, ClosedKey)
			c.born, c.lost = false, true
		default:
			x.close(c, c.regranted, TroubleFull)
		}
	}
	switch {
	case c.slot != nil:
		c.slot.setRevision(uint32(c.revision))
		c.slot.setState(c.state)
		if regranted {
			// Released after no slot names it any more: see Lookup.
			x.grants.release(old)
		}
	case c.born:
		delete(x.early, c.key)
		x.ids.insert(c.key.org, c.key.id, c.hash)
		if c.alg == events.PrefixShortLong {
			x.shortLong.Add(1)
			c.want.org.shortLong++
		}
		x.table.insert(&c.digest, c.hash, c.key.org, uint32(c.revision), c.key.id, c.state)
		x.keys.Add(1)
	case c.lost:
		delete(x.early, c.key)
		x.unreachable[c.key] = c.state
	case c.state != 0:
		x.early[c.key] = c.state
	}
}

// setEnds changes when a key expires or its grace ends. Both are only kept of
// keys that were rotated; all others have an expiry alone.
func (x *Index) setEnds(c *change, change func(*grace)) {
	g, ok := x.graces[c.key]
	if !ok {
		g.expires = expiryOf(c.state)
	}
	change(&g)
	if g.ends != 0 && c.state&(flagRevoked|flagExpired) == 0 {
		x.graces[c.key] = g
	} else {
		delete(x.graces, c.key)
	}
	c.state = c.state&^expiryMask | uint64(sooner(g.expires, g.ends))
}
