package index

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/section"
)

var (
	// ErrFreezing says that a picture of the index is being taken already.
	ErrFreezing = errors.New("index: a picture is being taken already")

	// ErrChanged says that a picture does not hold what it was begun with, which
	// is a fault of this program.
	ErrChanged = errors.New("index: the picture is not what it was begun with")
)

// Frozen is the index as it was at one position, to be saved while it goes on.
type Frozen struct {
	index    *Index
	position events.Position
	picture  *picture
	orgs     []frozenOrg
	// grants lie under their ids, nil where there is none; refs is how many keys
	// have each.
	grants             []*grant
	refs               []uint32
	early, unreachable map[ref]uint64
	graces             map[ref]grace
	// holds are the organizations that are saved, nil for all.
	holds map[uint32]bool
}

// frozenOrg is an organization as it was. Its view never changes.
type frozenOrg struct {
	id                        events.OrgID
	standing                  uint32
	clear                     bool
	revision, catalogRevision events.Revision
	shortLong                 int64
	view                      *view
	workspaces                map[events.WorkspaceID]events.Revision
	profiles                  map[events.ProfileID]events.Revision
}

// Freeze begins a picture of the index at the position applied. It waits for a
// running Apply, and is done in about the time in which one applies as many facts
// as there are organizations and different grants; the keys themselves are taken
// while the index goes on. The caller saves it, or not, and then has to release it.
// Of an index that could not apply every fact there is none: what is loaded from it
// would not say so. See [Index.Err].
func (x *Index) Freeze() (*Frozen, error) {
	x.writing.Lock()
	defer x.writing.Unlock()
	if err := x.Err(); err != nil {
		return nil, err
	}
	if len(x.foretold) > 0 {
		return nil, ErrForetold
	}
	if x.table.picture != nil {
		return nil, ErrFreezing
	}
	f := &Frozen{
		index: x, position: x.Applied(), orgs: make([]frozenOrg, len(x.orgs)),
		grants: make([]*grant, x.grants.next), refs: slices.Clone(x.grants.refs),
		early: maps.Clone(x.early), unreachable: maps.Clone(x.unreachable), graces: maps.Clone(x.graces),
	}
	for _, o := range x.orgs {
		f.orgs[o.index] = frozenOrg{
			id: o.id, standing: o.standing.Load(), clear: o.clear.Load(), revision: o.revision, catalogRevision: o.catalogRevision,
			shortLong: o.shortLong, view: o.view.Load(), workspaces: maps.Clone(o.workspaces), profiles: maps.Clone(o.profiles),
		}
	}
	for id := range f.grants {
		f.grants[id] = x.grants.get(uint32(id))
	}
	f.picture = x.table.freeze()
	x.table.picture = f.picture
	return f, nil
}

// Position returns the position that the picture is of.
func (f *Frozen) Position() events.Position { return f.position }

// Release ends the picture. It waits for a running Apply.
func (f *Frozen) Release() {
	f.index.writing.Lock()
	defer f.index.writing.Unlock()
	if f.index.table.picture == f.picture {
		f.index.table.picture = nil
	}
}

// Save writes the picture, once: of the whole index, or of what a reader sees who is
// narrowed to organizations. Position is the one that the reader begins at.
func (f *Frozen) Save(w *section.Writer, position events.Position, only []events.OrgID) error {
	f.narrow(only)
	keys := f.count()
	w.Uint(uint64(position))
	w.Uint(keys)
	numbers := f.saveOrgs(w)
	grants := f.saveGrants(w, numbers)
	f.saveFlags(w, f.early, numbers)
	f.saveFlags(w, f.unreachable, numbers)
	f.saveGraces(w, numbers)
	saved := uint64(0)
	err := f.picture.each(func(slots []slot) error {
		for i := range slots {
			if s := &slots[i]; s[wordState] != 0 && f.has(uint32(s[wordOwner]>>32)) {
				saveKey(w, s, grants[grantOf(s[wordState])])
				saved++
			}
		}
		return w.Err()
	})
	if err == nil && saved != keys {
		err = fmt.Errorf("%w: %d keys instead of %d", ErrChanged, saved, keys)
	}
	return err
}

// narrow notes which organizations are saved.
func (f *Frozen) narrow(only []events.OrgID) {
	f.holds = nil
	if only == nil {
		return
	}
	f.holds = map[uint32]bool{}
	for i := range f.orgs {
		if slices.Contains(only, f.orgs[i].id) {
			f.holds[uint32(i)] = true
		}
	}
}

func (f *Frozen) has(org uint32) bool { return f.holds == nil || f.holds[org] }

// count is how many keys are saved.
func (f *Frozen) count() (keys uint64) {
	for id, g := range f.grants {
		if g != nil && f.has(g.org.index) {
			keys += uint64(f.refs[id])
		}
	}
	return keys
}

// saveOrgs writes organizations, and returns the numbers that they have there.
func (f *Frozen) saveOrgs(w *section.Writer) map[uint32]uint64 {
	numbers := map[uint32]uint64{}
	for i := range f.orgs {
		if f.has(uint32(i)) {
			numbers[uint32(i)] = uint64(len(numbers))
		}
	}
	w.Uint(uint64(len(numbers)))
	for i := range f.orgs {
		if f.has(uint32(i)) {
			f.orgs[i].save(w)
		}
	}
	return numbers
}

func (o *frozenOrg) save(w *section.Writer) {
	section.Text(w, o.id)
	w.Byte(byte(o.standing))
	w.Bool(o.clear)
	w.Uint(uint64(o.revision))
	w.Uint(uint64(o.catalogRevision))
	w.Uint(uint64(o.shortLong))
	w.Uint(uint64(len(o.view.catalog.source)))
	for _, p := range o.view.catalog.source {
		section.Text(w, p.Name)
		section.Text(w, p.Access)
		w.Uint(uint64(len(p.Routes)))
		for _, route := range p.Routes {
			section.Text(w, route)
		}
	}
	w.Uint(uint64(len(o.workspaces)))
	for _, id := range slices.Sorted(maps.Keys(o.workspaces)) {
		section.Text(w, id)
		w.Uint(uint64(o.workspaces[id]))
		w.Bool(o.view.workspaces.get(id))
	}
	w.Uint(uint64(len(o.profiles)))
	for _, id := range slices.Sorted(maps.Keys(o.profiles)) {
		section.Text(w, id)
		w.Uint(uint64(o.profiles[id]))
		p := o.view.profiles.get(id)
		if w.Bool(p != nil); p != nil {
			section.Text(w, p.Name.Clear)
			section.Text(w, p.Name.Sealed.Subject)
			section.Text(w, p.Name.Sealed.Key)
			section.Text(w, p.Name.Sealed.Box)
			section.Text(w, p.Settings)
		}
	}
}

// saveGrants writes grants, and returns the numbers that they have there, by id.
func (f *Frozen) saveGrants(w *section.Writer, orgs map[uint32]uint64) []uint32 {
	numbers := make([]uint32, len(f.grants))
	n := uint32(0)
	for id, g := range f.grants {
		if g != nil && f.has(g.org.index) {
			numbers[id] = n
			n++
		}
	}
	w.Uint(uint64(n))
	for _, g := range f.grants {
		if g == nil || !f.has(g.org.index) {
			continue
		}
		w.Uint(orgs[g.org.index])
		section.Text(w, g.kind)
		section.Text(w, g.role)
		section.Text(w, g.profile)
		section.Text(w, g.permissions.Level)
		w.Uint(uint64(len(g.permissions.Grants)))
		for _, s := range g.permissions.Grants {
			section.Text(w, s)
		}
		w.Bool(g.scope.AllWorkspaces)
		w.Uint(uint64(len(g.scope.Workspaces)))
		for _, id := range g.scope.Workspaces {
			section.Text(w, id)
		}
	}
	return numbers
}

// sorted are the keys of a map that are saved, in an order of their own.
func sorted[V any](f *Frozen, of map[ref]V) []ref {
	var refs []ref
	for k := range of {
		if f.has(k.org) {
			refs = append(refs, k)
		}
	}
	slices.SortFunc(refs, func(a, b ref) int {
		return cmp.Or(cmp.Compare(a.org, b.org), slices.Compare(a.id[:], b.id[:]))
	})
	return refs
}

func (f *Frozen) saveFlags(w *section.Writer, of map[ref]uint64, orgs map[uint32]uint64) {
	refs := sorted(f, of)
	w.Uint(uint64(len(refs)))
	for _, k := range refs {
		w.Uint(orgs[k.org])
		w.Raw(k.id[:])
		w.Byte(byte(of[k] >> flagShift))
	}
}

func (f *Frozen) saveGraces(w *section.Writer, orgs map[uint32]uint64) {
	refs := sorted(f, f.graces)
	w.Uint(uint64(len(refs)))
	for _, k := range refs {
		w.Uint(orgs[k.org])
		w.Raw(k.id[:])
		w.Uint(uint64(f.graces[k].expires))
		w.Uint(uint64(f.graces[k].ends))
	}
}

// A key is saved as its digest, its id, its flags, the second it expires in, its
// revision and its grant's number: 54 bytes, for most.
const (
	digestBytes = 32
	idBytes     = 16
	keyLeast    = digestBytes + idBytes + 1 + 4 + 1 + 1
	keyMost     = digestBytes + idBytes + 1 + 4 + 2*binary.MaxVarintLen32
)

func saveKey(w *section.Writer, s *slot, grant uint32) {
	var room [keyMost]byte
	b := room[:0]
	for _, word := range []uint64{s[0], s[1], s[2], s[3], s[wordKey], s[wordKey+1]} {
		b = binary.LittleEndian.AppendUint64(b, word)
	}
	state := s[wordState]
	b = append(b, byte(state>>flagShift))
	b = binary.LittleEndian.AppendUint32(b, expiryOf(state))
	b = binary.AppendUvarint(b, s[wordOwner]&(1<<32-1))
	w.Raw(binary.AppendUvarint(b, uint64(grant)))
}
