package continuity

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/section"
)

var (
	// ErrUnproven says that nothing shows yet that the reader holds everything, or
	// that it is in doubt.
	ErrUnproven = errors.New("continuity: it is not proven that nothing was kept from the reader")

	// ErrUnknownScope says that no verifier reads a scope.
	ErrUnknownScope = errors.New("continuity: no verifier has this scope")
)

// Scope is what a verifier reads that is narrowed to organizations.
type Scope struct {
	Label events.ScopeLabel
	// Organizations are sorted.
	Organizations []events.OrgID
	// Facts is how many facts there are of them, and Last is where the last of those
	// stands.
	Facts uint64
	Last  events.Position
}

// Frozen is a view as it was at one position, to be saved.
type Frozen struct {
	label        events.ScopeLabel
	position     events.Position
	proven       events.Time
	ledger       chain
	orgs         map[events.OrgID]chain
	scopes       map[events.ScopeLabel]scope
	allowed      map[events.CredentialName]time.Duration
	named        []string
	ticks        ticks
	installation events.Position
	epoch        uint32
}

// Freeze copies the view. Of one that nothing shows to be complete there is no copy.
func (v *View) Freeze() (*Frozen, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.doubt || v.err != nil || v.proven.IsZero() {
		return nil, errors.Join(ErrUnproven, v.err)
	}
	f := &Frozen{
		label: v.label, position: v.chains.through, proven: v.proven, ledger: v.chains.ledger,
		orgs: make(map[events.OrgID]chain, len(v.chains.orgs)), scopes: make(map[events.ScopeLabel]scope, len(v.scopes)),
		allowed: maps.Clone(v.allowed), named: slices.Clone(v.named), ticks: v.ticks, installation: v.installation, epoch: v.epoch,
	}
	for org, c := range v.chains.orgs {
		f.orgs[org] = *c
	}
	for label, s := range v.scopes {
		f.scopes[label] = *s
	}
	return f, nil
}

// Proven is the broker's time up to which the view was shown to hold everything.
func (f *Frozen) Proven() events.Time { return f.proven }

// Label is the scope that the view itself is narrowed to, empty for none.
func (f *Frozen) Label() events.ScopeLabel { return f.label }

// Position is the position that the view had applied.
func (f *Frozen) Position() events.Position { return f.position }

// Signers are the keys that the ledger names as those that sign for it.
func (f *Frozen) Signers() []string { return slices.Clone(f.named) }

// Facts is how many facts were counted of a scope, of everything for none.
func (f *Frozen) Facts(label events.ScopeLabel) uint64 {
	if label == "" {
		return f.ledger.count
	}
	return f.scope(label).Facts
}

func (f *Frozen) scope(label events.ScopeLabel) Scope {
	s := Scope{Label: label, Organizations: f.scopes[label].orgs}
	for _, org := range s.Organizations {
		s.Facts += f.orgs[org].count
		s.Last = max(s.Last, f.orgs[org].last)
	}
	return s
}

// Scopes are those of all verifiers that read a part of the ledger, by label.
func (f *Frozen) Scopes() []Scope {
	var out []Scope
	for _, label := range slices.Sorted(maps.Keys(f.scopes)) {
		if s := f.scopes[label]; s.verifies && !s.ended {
			out = append(out, f.scope(label))
		}
	}
	return out
}

// For returns where a reader of a scope begins who takes up what this view holds,
// and the organizations of that scope; empty is for who reads everything. A narrowed
// reader can only begin at a fact that he is shown himself, so that it is the last
// one of those. Between there and the view's own position there is nothing of his.
func (f *Frozen) For(label events.ScopeLabel) (events.Position, []events.OrgID, error) {
	if label == f.label {
		return f.position, f.scopes[label].orgs, nil
	}
	s, known := f.scopes[label]
	if f.label != "" || !known || s.ended {
		return 0, nil, ErrUnknownScope
	}
	position := max(f.ticks.position, f.installation)
	for _, org := range s.orgs {
		position = max(position, f.orgs[org].last)
	}
	return position, s.orgs, nil
}

// Save writes what a reader of a scope takes up.
func (f *Frozen) Save(w *section.Writer, label events.ScopeLabel) error {
	position, own, err := f.For(label)
	if err != nil {
		return err
	}
	w.Uint(uint64(position))
	w.Time(f.proven)
	w.Uint(uint64(f.installation))
	w.Uint(uint64(f.epoch))
	f.saveTicks(w)
	w.Uint(uint64(len(f.named)))
	for _, key := range f.named {
		section.Text(w, key)
	}
	orgs, scopes, allowed := maps.Clone(f.orgs), maps.Clone(f.scopes), maps.Clone(f.allowed)
	if label == "" {
		saveChain(w, f.ledger)
	} else {
		maps.DeleteFunc(orgs, func(org events.OrgID, _ chain) bool { return !slices.Contains(own, org) })
		maps.DeleteFunc(scopes, func(other events.ScopeLabel, _ scope) bool { return other != label })
		if f.label == "" {
			maps.DeleteFunc(allowed, func(name events.CredentialName, _ time.Duration) bool { return name != f.scopes[label].name })
		}
		saveChain(w, chain{})
	}
	w.Uint(uint64(len(orgs)))
	for _, org := range slices.Sorted(maps.Keys(orgs)) {
		section.Text(w, org)
		saveChain(w, orgs[org])
	}
	w.Uint(uint64(len(scopes)))
	for _, of := range slices.Sorted(maps.Keys(scopes)) {
		saveScope(w, of, scopes[of], label == "")
	}
	w.Uint(uint64(len(allowed)))
	for _, name := range slices.Sorted(maps.Keys(allowed)) {
		section.Text(w, name)
		w.Uint(uint64(allowed[name] / time.Second))
	}
	return nil
}

func (f *Frozen) saveTicks(w *section.Writer) {
	w.Uint(uint64(f.ticks.position))
	w.Uint(uint64(f.ticks.revision))
	w.Uint(uint64(f.ticks.accepted))
	w.Time(f.ticks.stored)
}

func saveChain(w *section.Writer, c chain) {
	w.Uint(c.count)
	w.Raw(c.digest[:])
	w.Uint(uint64(c.last))
}

// saveScope writes a scope. Whose it is matters to those who read everything.
func saveScope(w *section.Writer, label events.ScopeLabel, s scope, whole bool) {
	if !whole {
		s.name, s.verifies = "", false
	}
	section.Text(w, label)
	section.Text(w, s.name)
	w.Bool(s.verifies)
	w.Bool(s.ended)
	w.Uint(uint64(s.at))
	w.Uint(s.told.Count)
	w.Raw(s.told.Digest[:])
	w.Uint(uint64(len(s.orgs)))
	for _, org := range s.orgs {
		section.Text(w, org)
	}
}

// Load returns the view that was saved for a reader. It goes on from the position
// that it was saved for, and nothing is proven by it: that takes a fact, or a tick,
// that comes from the ledger. Ticks that were counted before it are too old for it.
func Load(c Config, r *section.Reader) (*View, error) {
	v, err := New(c)
	if err != nil {
		return nil, err
	}
	v.chains.through = events.Position(r.Uint())
	v.chains.dropped, v.chains.droppedAt = v.chains.through, r.Time()
	v.installation = events.Position(r.Uint())
	v.epoch = uint32(r.Int(1<<32 - 1))
	v.ticks = ticks{
		position: events.Position(r.Uint()), revision: events.Revision(r.Uint()), accepted: events.Position(r.Uint()), stored: r.Time(),
	}
	for n := r.Count(1); n > 0 && r.Err() == nil; n-- {
		key := section.ReadText[string](r, section.MaxText)
		if v.name(key); !v.pinned {
			v.signer(key)
		}
	}
	v.chains.ledger = loadChain(r)
	v.loadOrgs(r)
	v.loadScopes(r)
	for n := r.Count(2); n > 0 && r.Err() == nil; n-- {
		name := section.ReadText[events.CredentialName](r, section.MaxText)
		v.allowed[name] = time.Duration(r.Uint()) * time.Second
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	if err := v.consistent(); err != nil {
		return nil, err
	}
	return v, nil
}

// chainLeast is how many bytes a chain has at least.
const chainLeast = 1 + sha256.Size + 1

func loadChain(r *section.Reader) (c chain) {
	c.count = r.Uint()
	r.Raw(c.digest[:])
	c.last = events.Position(r.Uint())
	return c
}

func (v *View) loadOrgs(r *section.Reader) {
	for n := r.Count(1 + chainLeast); n > 0 && r.Err() == nil; n-- {
		org := section.ReadText[events.OrgID](r, section.MaxText)
		c := loadChain(r)
		v.chains.orgs[org] = &c
	}
}

func (v *View) loadScopes(r *section.Reader) {
	for n := r.Count(6 + sha256.Size); n > 0 && r.Err() == nil; n-- {
		label := section.ReadText[events.ScopeLabel](r, section.MaxText)
		s := &scope{name: section.ReadText[events.CredentialName](r, section.MaxText), verifies: r.Bool(), ended: r.Bool(), at: events.Position(r.Uint())}
		s.told = events.TickScope{Scope: label, Count: r.Uint()}
		r.Raw(s.told.Digest[:])
		for n := r.Count(1); n > 0 && r.Err() == nil; n-- {
			s.orgs = append(s.orgs, section.ReadText[events.OrgID](r, section.MaxText))
		}
		v.scopes[label] = s
	}
}

// consistent refuses what is no state of this reader.
func (v *View) consistent() error {
	at := v.chains.through
	ok := at > 0 && v.installation <= at && v.ticks.position <= at && v.ticks.accepted <= v.ticks.position
	for org, c := range v.chains.orgs {
		ok = ok && c.last <= at && c.count <= uint64(at) && (v.label == "" || slices.Contains(v.own, org))
	}
	for label, s := range v.scopes {
		ok = ok && s.at <= at && (v.label == "" || label == v.label && slices.Equal(s.orgs, v.own))
	}
	if v.label == "" {
		// Positions have no gap for who reads everything.
		ok = ok && v.chains.ledger.count == uint64(at) && v.chains.ledger.last == at
	}
	if !ok {
		return fmt.Errorf("%w: it is not what this reader has counted", section.ErrDamaged)
	}
	return nil
}
