package index

import (
	"encoding/binary"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/section"
)

// Load returns the index that was saved. It is as if it had applied the facts
// itself, up to the position that it was saved for. What was never saved is
// [section.ErrDamaged]; whether it is the index of this ledger, and what became of
// it on the way, is for others to tell.
//
// The index has room for the keys that are read, whatever the configuration says.
func Load(c Config, r *section.Reader) (*Index, error) {
	position := events.Position(r.Uint())
	keys := r.Count(keyLeast)
	c.Keys = max(c.Keys, keys)
	x, err := New(c)
	if err != nil {
		return nil, err
	}
	l := &loader{x: x, r: r}
	l.loadOrgs()
	l.loadGrants()
	l.loadFlags(x.early)
	l.loadFlags(x.unreachable)
	l.loadGraces()
	l.loadKeys(keys)
	if err := r.Err(); err != nil {
		return nil, err
	}
	x.applied.Store(uint64(position))
	return x, nil
}

// loader makes an index that nobody else knows yet.
type loader struct {
	x    *Index
	r    *section.Reader
	orgs []*organization
	// grants are their ids, by number.
	grants []uint32
	// touched is of no meaning.
	touched uint64
}

func text[T ~string | ~[]byte](l *loader) T { return section.ReadText[T](l.r, section.MaxText) }

// How many bytes each of a list has at least.
const (
	orgLeast   = 9
	nameLeast  = 3
	ownLeast   = 3
	textLeast  = 1
	grantLeast = 8
	refLeast   = 1 + idBytes + 1
)

func (l *loader) loadOrgs() {
	for n := l.r.Count(orgLeast); n > 0 && l.r.Err() == nil; n-- {
		id := text[events.OrgID](l)
		if l.x.orgs[id] != nil {
			l.r.Fail("an organization comes twice")
			return
		}
		o := l.x.organization(id)
		l.orgs = append(l.orgs, o)
		standing := uint32(l.r.Byte())
		if standing&^(standingExists|standingEnded) != 0 {
			l.r.Fail("an organization stands as none does")
		}
		o.stand(standing)
		o.clear.Store(l.r.Bool())
		o.revision, o.catalogRevision = events.Revision(l.r.Uint()), events.Revision(l.r.Uint())
		o.shortLong = int64(l.r.Int(1 << 40))
		l.x.shortLong.Add(o.shortLong)
		l.loadCatalog(o)
		l.loadWorkspaces(o)
		l.loadProfiles(o)
	}
}

func (l *loader) loadCatalog(o *organization) {
	entries := make([]events.CatalogPermission, 0, l.r.Count(nameLeast))
	for range cap(entries) {
		p := events.CatalogPermission{Name: text[string](l), Access: text[events.Access](l)}
		for n := l.r.Count(textLeast); n > 0 && l.r.Err() == nil; n-- {
			p.Routes = append(p.Routes, text[string](l))
		}
		entries = append(entries, p)
		if l.r.Err() != nil {
			return
		}
	}
	if len(entries) > 0 && !o.replaceCatalog(entries) {
		l.r.Fail("the routes of a catalog make no table")
	}
}

func (l *loader) loadWorkspaces(o *organization) {
	exist := map[events.WorkspaceID]bool{}
	for n := l.r.Count(ownLeast); n > 0 && l.r.Err() == nil; n-- {
		id := text[events.WorkspaceID](l)
		o.workspaces[id] = events.Revision(l.r.Uint())
		if l.r.Bool() {
			exist[id] = true
		}
	}
	o.change(func(v *view) { v.workspaces = overlay[events.WorkspaceID, bool]{base: exist} })
}

func (l *loader) loadProfiles(o *organization) {
	exist := map[events.ProfileID]*Profile{}
	for n := l.r.Count(ownLeast); n > 0 && l.r.Err() == nil; n-- {
		id := text[events.ProfileID](l)
		o.profiles[id] = events.Revision(l.r.Uint())
		if !l.r.Bool() {
			continue
		}
		p := &Profile{ID: id, Name: events.Text{Clear: text[string](l)}}
		p.Name.Sealed = events.Sealed{Subject: text[string](l), Key: text[string](l), Box: text[string](l)}
		p.Settings = text[events.Document](l)
		exist[id] = p
	}
	o.change(func(v *view) { v.profiles = overlay[events.ProfileID, *Profile]{base: exist} })
}

// org reads which organization is meant.
func (l *loader) org() *organization {
	n := l.r.Uint()
	if l.r.Err() != nil || n >= uint64(len(l.orgs)) {
		l.r.Fail("no such organization")
		return nil
	}
	return l.orgs[n]
}

func (l *loader) loadGrants() {
	for n := l.r.Count(grantLeast); n > 0; n-- {
		g := grant{org: l.org()}
		g.kind, g.role, g.profile = text[events.KeyKind](l), text[events.Role](l), text[events.ProfileID](l)
		g.permissions.Level = text[events.Level](l)
		for n := l.r.Count(textLeast); n > 0 && l.r.Err() == nil; n-- {
			g.permissions.Grants = append(g.permissions.Grants, text[string](l))
		}
		g.scope.AllWorkspaces = l.r.Bool()
		for n := l.r.Count(textLeast); n > 0 && l.r.Err() == nil; n-- {
			g.scope.Workspaces = append(g.scope.Workspaces, text[events.WorkspaceID](l))
		}
		if l.r.Err() != nil {
			return
		}
		id, ok := l.x.grants.intern(&g)
		if !ok || l.x.grants.refs[id] > 1 {
			l.r.Fail("a grant comes twice, or there are too many")
			return
		}
		l.grants = append(l.grants, id)
	}
}

func (l *loader) ref() ref {
	var k ref
	if o := l.org(); o != nil {
		k.org = o.index
	}
	l.r.Raw(k.id[:])
	return k
}

// loadFlags reads keys that have no slot. All that is kept of them is whether they
// ended.
func (l *loader) loadFlags(into map[ref]uint64) {
	for n := l.r.Count(refLeast); n > 0 && l.r.Err() == nil; n-- {
		k := l.ref()
		flags := uint64(l.r.Byte()) << flagShift
		if flags&^(flagRevoked|flagExpired|flagDisabled) != 0 {
			l.r.Fail("a key has flags that there are not")
		}
		into[k] = flags
	}
}

func (l *loader) loadGraces() {
	for n := l.r.Count(refLeast + 1); n > 0 && l.r.Err() == nil; n-- {
		k := l.ref()
		l.x.graces[k] = grace{expires: uint32(l.r.Int(1<<32 - 1)), ends: uint32(l.r.Int(1<<32 - 1))}
	}
}

// loadKeys inserts keys, several at a time. Each has its place at random in tables
// that are larger than any cache: the places of several are read first, side by side,
// so that it need not be waited for each of them.
func (l *loader) loadKeys(n int) {
	var room [atOnce]loadedKey
	for left := n; left > 0; {
		some := room[:min(left, atOnce)]
		if !l.parseKeys(some) {
			l.r.Fail("a key makes no sense")
			return
		}
		l.touch(some)
		for i := range some {
			if !l.insert(&some[i]) {
				l.r.Fail("a key comes twice")
				return
			}
		}
		left -= len(some)
	}
	l.x.keys.Store(int64(n))
	for _, id := range l.grants {
		// That of the reading itself goes.
		if l.x.grants.refs[id]--; l.x.grants.refs[id] == 0 {
			l.r.Fail("a grant is nobody's")
		}
	}
}

// atOnce is more than a processor reads from memory side by side.
const atOnce = 32

// loadedKey is a key that was read.
type loadedKey struct {
	digest              digest
	id                  events.KeyID
	hash, org, revision uint32
	state               uint64
}

func (l *loader) parseKeys(into []loadedKey) bool {
	b := l.r.Peek(len(into) * keyMost)
	read := 0
	for i := range into {
		n := l.parseKey(b[read:], &into[i])
		if n == 0 {
			return false
		}
		read += n
	}
	l.r.Skip(read)
	return l.r.Err() == nil
}

// parseKey returns how many bytes a key has, 0 if it is none.
func (l *loader) parseKey(b []byte, k *loadedKey) int {
	if len(b) < keyLeast {
		return 0
	}
	for i := range k.digest {
		k.digest[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	at := digestBytes
	k.id = events.KeyID(b[at : at+idBytes])
	at += idBytes
	flags := uint64(b[at]) << flagShift
	if flags&flagTaken == 0 || flags&^(flagTaken|flagRevoked|flagExpired|flagDisabled) != 0 {
		return 0
	}
	expires := binary.LittleEndian.Uint32(b[at+1:])
	at += 5
	revision, size := binary.Uvarint(b[at:])
	if size <= 0 || revision>>32 != 0 {
		return 0
	}
	at += size
	number, size := binary.Uvarint(b[at:])
	if size <= 0 || number >= uint64(len(l.grants)) {
		return 0
	}
	grant := l.grants[number]
	l.x.grants.refs[grant]++
	k.org, k.revision = l.x.grants.get(grant).org.index, uint32(revision)
	k.state = flags | uint64(grant)<<grantShift | uint64(expires)
	k.hash = l.x.table.hash(&k.digest)
	return at + size
}

// touch reads the places of keys.
func (l *loader) touch(keys []loadedKey) {
	for i := range keys {
		k := &keys[i]
		slots := l.x.table.shards[k.hash>>homeBits].Load().slots
		l.touched += slots[home(k.hash, len(slots))].state()
		shard, tag := l.x.ids.place(k.org, k.id)
		entries := l.x.ids.shards[shard]
		l.touched += entries[tagHome(tag, len(entries))]
	}
}

// insert reports whether the key was not there yet.
func (l *loader) insert(k *loadedKey) bool {
	if s, _, _ := l.x.table.find(&k.digest, k.hash); s != nil {
		return false
	}
	l.x.ids.insert(k.org, k.id, k.hash)
	l.x.table.insert(&k.digest, k.hash, k.org, k.revision, k.id, k.state)
	return true
}
