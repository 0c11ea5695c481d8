package index

import (
	"slices"

	"github.com/keyledger/keyledger/events"
)

// Hit is what the index knew of one key at one instant. Its zero value is no
// key: closed, expired, without permissions, and nowhere.
type Hit struct {
	slot      *slot // of which only the key id is read, which never changes
	state     uint64
	grant     *grant
	effective *effective
	view      *view
	names     *overlay[string, uint32]
	standing  uint32
}

// Lookup finds the key with a digest (see [DigestOf]) and writes what is known
// of it to hit; false when there is none, and hit then holds nothing of use.
//
// What it writes was true at one instant during the call, of the key and of its
// organization. The state of the key is one word that is read first, and
// everything it leads to is taken as good only if, afterwards, the same word,
// under it the same grant, and the same rows of the shard are still there:
//
//   - Rows are published once. If those of the shard are still the same, they
//     were all along, and the slot was the one the writer wrote to.
//   - A grant is a fresh object each time, is stored under one id once, and its
//     address is not used again while we hold it. If it is still under its id,
//     it was all along, however often ids went round before and after.
//   - So at the instant at which the word was read again, the key's state named
//     that id, and that id that grant.
//   - What belongs to the organization is read before that and is still there
//     after it, and each piece is a fresh object too, or never goes back. So it
//     was there at that instant.
//
// An organization's view is published before what its grants amount to by it.
// In between a key is still judged by the catalog, routes, profile and listed
// workspaces that its grant holds, all of one view. Only a key for all
// workspaces looks its workspace up in the view itself. That may be ahead of the
// grant by facts of which the grant holds nothing, as are all about workspaces
// then, and by the last of another kind, which left the workspaces as they were.
//
// A changed word alone would not show this: a key may leave its grant and come
// back to the same id with another one under it (the ABA problem), and with a
// third one in between. Trying again means that the writer has made progress;
// it is never waited for.
func (x *Index) Lookup(value *events.DigestValue, hit *Hit) bool {
	d := wordsOf(value)
	hash := x.table.hash(&d)
	for {
		s, state, rows := x.table.find(&d, hash)
		if s == nil {
			return false
		}
		id := grantOf(state)
		g := x.grants.get(id)
		if g == nil {
			continue
		}
		hit.slot, hit.state, hit.grant = s, state, g
		hit.standing, hit.view, hit.effective = g.org.standing.Load(), g.org.view.Load(), g.effective.Load()
		hit.names = x.names.published.Load()
		if x.holds(s, state, g, hash, rows) && hit.current() {
			return true
		}
	}
}

// Taken tells which key a digest is known of, if it is of any.
func (x *Index) Taken(d events.Digest) (events.OrgID, events.KeyID, bool) {
	value, hit := DigestOf(d), Hit{}
	if !x.Lookup(&value, &hit) {
		return "", events.KeyID{}, false
	}
	return hit.Org(), hit.Key(), true
}

// holds reports whether everything a state led to is still as it was read.
func (x *Index) holds(s *slot, state uint64, g *grant, hash uint32, r *rows) bool {
	return s.state() == state && x.grants.get(grantOf(state)) == g && x.table.current(hash, r)
}

// current reports whether what belongs to the organization is still as it was
// read. To be asked after holds.
func (h *Hit) current() bool {
	org := h.grant.org
	return org.standing.Load() == h.standing && org.view.Load() == h.view && h.grant.effective.Load() == h.effective
}

// Key returns the key's id.
func (h *Hit) Key() events.KeyID {
	if h.slot == nil {
		return events.KeyID{}
	}
	return h.slot.key()
}

// Org returns the key's organization.
func (h *Hit) Org() events.OrgID {
	if h.grant == nil {
		return ""
	}
	return h.grant.org.id
}

// Kind returns what kind of key it is.
func (h *Hit) Kind() events.KeyKind {
	if h.grant == nil {
		return ""
	}
	return h.grant.kind
}

// Role returns the role of a management key.
func (h *Hit) Role() events.Role {
	if h.grant == nil {
		return ""
	}
	return h.grant.role
}

// Permissions returns what the key was granted, before the catalog. It is
// shared: nobody may write to its list.
func (h *Hit) Permissions() events.Permissions {
	if h.grant == nil {
		return events.Permissions{}
	}
	return h.grant.permissions
}

// Scope returns where the key was said to be of use, workspaces that have gone
// included. It is shared: nobody may write to its list.
func (h *Hit) Scope() events.Scope {
	if h.grant == nil {
		return events.Scope{}
	}
	return h.grant.scope
}

// Profile returns the key's profile, nil when it has none. When the profile has
// been deleted, it says so and has no settings.
func (h *Hit) Profile() *Profile {
	if h.effective == nil {
		return nil
	}
	return h.effective.profile
}

// ExpiresAt returns when the key expires or its grace ends, whichever is first;
// zero for never.
func (h *Hit) ExpiresAt() events.Time { return events.Time(expiryOf(h.state)) * 1_000_000 }

// Revoked reports whether the key, or its whole organization, has ended.
func (h *Hit) Revoked() bool {
	return h.state&flagRevoked != 0 || h.standing&standingEnded != 0
}

// Closed reports whether a fact that may bear on the key could not be applied,
// or whether its organization is not known.
func (h *Hit) Closed() bool {
	return h.state&flagClosed != 0 || h.standing&(standingExists|standingClosed) != standingExists
}

// Expired reports whether the key has expired at now, or was recorded to have.
func (h *Hit) Expired(now events.Time) bool {
	at := expiryOf(h.state)
	return h.state&flagExpired != 0 || h.grant == nil || at != 0 && now.Seconds() >= at
}

// Disabled reports whether the key is switched off.
func (h *Hit) Disabled() bool { return h.state&flagDisabled != 0 }

// Allows reports whether the key may use a permission of its catalog, and
// nothing else.
func (h *Hit) Allows(name string) bool {
	return h.effective != nil && h.effective.permissions.has(h.names.get(name))
}

// AllowsAll reports whether the key may use every permission that its catalog has
// of a resource, which is named resource:*, and whether there is one at all.
func (h *Hit) AllowsAll(resource string) bool {
	return h.effective != nil && h.effective.resources != nil && h.effective.resources.has(h.names.get(resource))
}

// Somewhere reports whether there is any workspace that the key may be used
// in. A key for all workspaces may, even before there is one.
func (h *Hit) Somewhere() bool { return h.effective != nil && h.effective.somewhere }

// Covers reports whether a workspace exists and the key may be used in it.
func (h *Hit) Covers(w events.WorkspaceID) bool {
	switch {
	case h.grant == nil:
		return false
	case h.grant.scope.AllWorkspaces:
		return h.view.workspaces.get(w)
	default:
		_, ok := slices.BinarySearch(h.effective.workspaces, w)
		return ok
	}
}

// Route finds the permission that a request needs by the routes of the key's
// catalog. The path is as it was forwarded, still escaped and without its
// query. routed is false when the catalog has no routes; with routes and no
// match the name is empty, and the request is to be denied.
func (h *Hit) Route(method, path string) (name string, routed bool) {
	if h.effective == nil {
		return "", true
	}
	if !h.effective.routed {
		return "", false
	}
	found, _ := h.effective.router.Match(method, path)
	return string(found), true
}

// Organization is what the index knows of an organization.
type Organization struct {
	ID events.OrgID
	// Ended says that it was deleted, and all its keys with it.
	Ended bool
	// Closed says that all its keys are, over a fact that could not be applied.
	Closed bool
}

// Organization returns an organization that was created, whatever became of it
// since.
func (x *Index) Organization(id events.OrgID) (Organization, bool) {
	o := x.directory.Load().get(id)
	if o == nil {
		return Organization{}, false
	}
	standing := o.standing.Load()
	return Organization{
		ID: o.id, Ended: standing&standingEnded != 0, Closed: standing&standingClosed != 0,
	}, standing&standingExists != 0
}

// Sealing reports whether an organization has texts sealed that may name a person.
// Of one that is not known, or not understood, it does.
func (x *Index) Sealing(id events.OrgID) bool {
	o := x.directory.Load().get(id)
	return o == nil || !o.clear.Load() || o.standing.Load()&(standingExists|standingClosed) != standingExists
}
