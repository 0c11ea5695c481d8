package commands

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/configuration"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/quota"
	"github.com/keyledger/keyledger/events"
)

// loadsAtOnce bounds how many keys of an import are looked up at once: each is a
// question to the leader, and most of its time is the way there.
const loadsAtOnce = 16

// ImportKey is one key of another system.
type ImportKey struct {
	key.Create
	// Unreadable is why there is no such wish, where whoever read it could not.
	Unreadable error
}

// Imported is what became of one key of an import. Its zero value is none.
type Imported struct {
	// ID is the key's, which its organization and digest make: it is the same
	// however often it is imported. It is zero where the digest is another key's.
	ID events.KeyID
	// Exists says that it was there before this wish.
	Exists bool
	// Err is why it is not there.
	Err error
}

// ImportOutcome is the outcome for each key, in the order of the wish.
type ImportOutcome struct {
	Outcome
	Keys []Imported
}

// ImportKeys begins keys of another system, of which only the digests are known.
// What is wrong with one of them is told there and does not touch the others.
//
// A key's id is derived from its organization and digest, so that importing it
// again finds it, whoever did so, and whatever became of the answer: no two
// servers make two of it. Under an idempotency key those that the same wish made
// are told as imported again, and those that it found as found.
// Other keys under the same idempotency key are another wish: each key is told
// from the others by itself.
//
// As many as go into one batch are stored as one. When that ends without an
// outcome the error says so, and to repeat the wish finishes it.
func (s *Service) ImportKeys(ctx context.Context, w Wish, org events.OrgID, keys []ImportKey) (ImportOutcome, error) {
	if err := w.Principal.authorizeKeys(org); err != nil {
		return ImportOutcome{}, err
	}
	if err := s.requireOrg(ctx, org); err != nil {
		return ImportOutcome{}, err
	}
	if len(keys) == 0 || len(keys) > events.MaxImport {
		return ImportOutcome{}, domain.Refuse(domain.ErrInvalid, "keys", "holds %d keys; 1 to %d can be imported at once", len(keys), events.MaxImport)
	}
	o, err := s.order(w, string(org))
	if err != nil {
		return ImportOutcome{}, err
	}
	o.under = org
	run := s.newImport(w, org, o, keys)
	if err := run.all(ctx); err != nil {
		return ImportOutcome{}, err
	}
	run.out.Replayed = len(run.out.Facts) == 0 && run.own
	run.out.Outcome = s.answer(ctx, o, run.out.Outcome)
	return run.out, nil
}

// imports is one import on its way.
type imports struct {
	*Service
	wish  Wish
	org   events.OrgID
	order order
	keys  []ImportKey
	// commands are those under which any of the wish's facts may stand.
	commands map[events.CommandID]bool
	// known says of a key that this server knows it: it is looked up first.
	known []bool
	// pending are the indices of those that have no outcome yet.
	pending []int
	out     ImportOutcome
	// own says that an earlier request with the same idempotency key made some.
	own bool
}

func (s *Service) newImport(w Wish, org events.OrgID, o order, keys []ImportKey) *imports {
	run := &imports{
		Service: s, wish: w, org: org, order: o, keys: keys,
		commands: make(map[events.CommandID]bool, len(keys)), known: make([]bool, len(keys)),
		out: ImportOutcome{Keys: make([]Imported, len(keys))},
	}
	first := make(map[events.Digest]int, len(keys))
	for i := range keys {
		k := &keys[i]
		if k.Unreadable == nil {
			k.Kind, k.Imported = events.KindAPI, true
			k.Issued.ID = s.importedID(org, k.Issued.Digest)
		}
		known, err := run.admit(i, first)
		if run.known[i] = known; err != nil {
			run.out.Keys[i].Err = err
			continue
		}
		run.commands[run.command(k.Issued.ID)] = true
		run.pending = append(run.pending, i)
	}
	return run
}

// importedID is the id of an imported key: a UUID of version 8, as RFC 9562 has
// it for such.
func (s *Service) importedID(org events.OrgID, d events.Digest) events.KeyID {
	h := sha256.New()
	for _, part := range []string{"keyledger imported key", string(s.cfg.Ledger[:]), string(org), string(d.Alg), string(d.Value[:])} {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	var id events.KeyID
	copy(id[:], h.Sum(nil))
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}

// command is the id under which a batch is stored that begins with a key: another
// for each, since no key is stored twice, and the same when it is told again.
func (run *imports) command(id events.KeyID) events.CommandID {
	return events.CommandID(uuid.NewSHA1(uuid.UUID(run.order.command), append([]byte("import "), id[:]...)))
}

// admit refuses what can be refused without looking at the ledger, and reports
// whether this server knows the key already.
func (run *imports) admit(i int, first map[events.Digest]int) (known bool, err error) {
	k := &run.keys[i]
	if k.Unreadable != nil {
		return false, k.Unreadable
	}
	if n, twice := first[k.Issued.Digest]; twice {
		return false, domain.Refuse(domain.ErrDigestTaken, "digest", "stands in this request before, at index %d", n)
	}
	first[k.Issued.Digest] = i
	if err := run.wish.Principal.authorizeGrant(k.Kind, k.Role, k.Scope); err != nil {
		return false, err
	}
	if run.cfg.Taken == nil {
		return false, nil
	}
	org, id, taken := run.cfg.Taken(k.Issued.Digest)
	if taken && (org != run.org || id != k.Issued.ID) {
		return false, errTaken()
	}
	return taken, nil
}

// errTaken tells nothing of the other key: it may be another organization's.
func errTaken() error {
	return domain.Refuse(domain.ErrDigestTaken, "digest", "is that of another key")
}

// all settles one batch after another until every key has its outcome.
func (run *imports) all(ctx context.Context) error {
	for len(run.pending) > 0 {
		var r round
		attempts := 0
		out, err := run.settleLimited(ctx, run.org, events.KindAPI, run.order, func(ctx context.Context) (attempt, error) {
			attempts++
			r = round{imports: run, search: attempts > 1 || run.wish.DryRun}
			return r.decide(ctx)
		})
		switch {
		case err != nil && len(run.out.Facts) > 0 && !run.wish.DryRun:
			return fmt.Errorf("%w: some of the keys are imported: %w", events.ErrOutcomeUnknown, err)
		case err != nil:
			return err
		}
		for i, outcome := range r.outcomes {
			run.out.Keys[i] = outcome
		}
		run.own = run.own || r.own
		run.out.Facts = append(run.out.Facts, out.Facts...)
		run.out.Position = max(run.out.Position, out.Position)
		run.pending = r.rest
	}
	return nil
}

// round is one attempt at as many keys as go into a batch.
type round struct {
	*imports
	// search says to look every key up before it is begun. Whoever does not must
	// be ready for a conflict.
	search   bool
	outcomes map[int]Imported
	// rest are those that are left for the next batch.
	rest []int
	own  bool
	a    attempt
}

func (r *round) decide(ctx context.Context) (attempt, error) {
	from := r.basis(r.org)
	// Of an organization that ended meanwhile nobody makes keys.
	if err := r.refuseOrg(r.org); err != nil {
		return attempt{}, err
	}
	r.outcomes = make(map[int]Imported, len(r.pending))
	r.a = attempt{histories: map[events.Subject]history{}}
	var config configuration.State
	config, r.a.config = r.cfg.Configuration.Of(r.org)
	limit := config.Organization.Limits.MaxActiveKeys
	// Under a limit nobody who has a place may be refused one.
	r.search = r.search || limit > 0
	fresh, err := r.missing(ctx)
	if err != nil {
		return r.a, err
	}
	chosen := r.choose(config, fresh, limit > 0)
	if len(chosen) > 0 {
		r.a.command = r.command(r.keys[chosen[0]].Issued.ID)
	}
	if len(chosen) > 0 && limit > 0 {
		if err := r.limit(ctx, chosen, limit); err != nil {
			return r.a, err
		}
	}
	if len(r.a.facts) > 0 && r.tells(chosen) {
		// What is told of the others no append vouches for.
		err = r.confirm(ctx, from, nil)
	}
	return r.a, err
}

// tells reports whether an outcome rests on the ledger, and not on what is begun.
func (r *round) tells(chosen []int) bool {
	begun := make(map[int]bool, len(chosen))
	for _, i := range chosen {
		begun[i] = true
	}
	for i, outcome := range r.outcomes {
		if !begun[i] && !ofRequest(outcome.Err) || outcome.Err != nil && begun[i] {
			return true
		}
	}
	return false
}

// missing returns which of the pending keys are to be begun. The others are there.
func (r *round) missing(ctx context.Context) ([]int, error) {
	var look, fresh []int
	for _, i := range r.pending {
		if r.search || r.known[i] {
			look = append(look, i)
		}
	}
	found, err := r.look(ctx, look)
	if err != nil {
		return nil, err
	}
	for _, i := range r.pending {
		h, ok := found[i]
		if !ok {
			fresh = append(fresh, i)
			continue
		}
		if r.outcomes[i], err = r.there(i, h); err != nil {
			return nil, err
		}
		r.a.position = max(r.a.position, h.last())
	}
	return fresh, nil
}

// unreadable stands for the history of a key that is there and has a hole.
var unreadable = history{{Event: events.Malformed{}}}

// look loads keys, several at once, and returns the histories of those that are
// there.
func (r *round) look(ctx context.Context, indices []int) (map[int]history, error) {
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		found = map[int]history{}
		fault error
	)
	for n := range min(loadsAtOnce, len(indices)) {
		all.Go(func() {
			for j := n; j < len(indices); j += loadsAtOnce {
				i := indices[j]
				h, err := r.cfg.Log.Load(ctx, events.KeySubject(r.org, r.keys[i].Issued.ID), 0)
				if errors.Is(err, events.ErrCorrupt) {
					h, err = unreadable, nil
				}
				mu.Lock()
				if len(h) > 0 {
					found[i] = h
				}
				if fault = errors.Join(fault, err); fault != nil {
					mu.Unlock()
					return
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return found, fault
}

// there is the outcome for a key that was found.
func (r *round) there(i int, h history) (Imported, error) {
	id := r.keys[i].Issued.ID
	k := Key{Org: r.org}
	for _, f := range h {
		k = k.apply(f)
		if _, created := f.Event.(events.KeyCreated); !created || !r.commands[f.Meta.Command] {
			continue
		}
		if f.Meta.Digest != r.order.digest {
			return Imported{}, errReused()
		}
		// This very wish's, told before or stored with an answer that got lost.
		r.own = true
		return Imported{ID: id}, nil
	}
	scope := k.Scope
	if !k.Exists {
		// Nobody knows where it may be used.
		scope = events.Scope{AllWorkspaces: true}
	}
	if !r.wish.Principal.Covers(scope) {
		return Imported{Err: errTaken()}, nil
	}
	return Imported{ID: id, Exists: true}, nil
}

// choose decides on the keys that are to be begun, as many as go into one batch,
// and returns those that can be.
func (r *round) choose(config configuration.State, fresh []int, limited bool) []int {
	room := events.MaxBatch
	if limited {
		room--
	}
	var chosen []int
	for n, i := range fresh {
		facts, err := r.begin(config, i)
		if err != nil {
			r.outcomes[i] = Imported{Err: err}
			continue
		}
		if len(r.a.facts)+len(facts) > room && !r.wish.DryRun {
			r.rest = fresh[n:]
			return chosen
		}
		r.a.facts = append(r.a.facts, facts...)
		r.outcomes[i] = Imported{ID: r.keys[i].Issued.ID}
		chosen = append(chosen, i)
	}
	return chosen
}

// begin decides on one key, and refuses what the ledger would.
func (r *round) begin(config configuration.State, i int) ([]placed, error) {
	create := r.keys[i].Create
	create.Now, create.Config = r.order.now, config
	facts, err := key.Decide(key.State{}, create)
	if err != nil {
		return nil, err
	}
	alone := attempt{config: r.a.config}
	for _, e := range facts {
		alone.facts = append(alone.facts, placed{subject: events.KeySubject(r.org, create.Issued.ID), event: e})
	}
	// What holds a secret, or is too long, is refused by itself here, and would
	// have all of them refused in the batch.
	_, err = r.entries(r.order, alone)
	return alone.facts, err
}

// limit takes places under the limit for as many as there are, in their order.
// The others are refused.
func (r *round) limit(ctx context.Context, chosen []int, limit int) error {
	ids := make([]events.KeyID, len(chosen))
	for n, i := range chosen {
		ids[n] = r.keys[i].Issued.ID
	}
	asked := 0
	err := r.guard(ctx, r.wish, r.org, r.order.now, &r.a, func(ended []events.KeyID) quota.Command {
		asked++
		return quota.Admit{Keys: ids, Limit: limit, Ended: ended, Partly: asked > 1}
	})
	full := domain.Refuse(domain.ErrKeyLimitReached, "", "the organization has as many active keys as it may, %d; revoke some, or raise limits.max_active_keys", limit)
	switch {
	case errors.Is(err, domain.ErrKeyLimitReached):
		full, r.a.facts, ids = err, nil, nil
	case err != nil:
		return err
	default:
		ids = r.admitted(ids)
	}
	has := make(map[events.KeyID]bool, len(ids))
	for _, id := range ids {
		has[id] = true
	}
	facts := r.a.facts[:0]
	for _, f := range r.a.facts {
		if id, isKey := f.subject.Key(); !isKey || has[id] {
			facts = append(facts, f)
		}
	}
	r.a.facts = facts
	for _, i := range chosen {
		if !has[r.keys[i].Issued.ID] {
			r.outcomes[i] = Imported{Err: r.wish.Principal.discreet(full)}
		}
	}
	return nil
}

// admitted returns those of the keys that the guard's next fact gives a place.
func (r *round) admitted(ids []events.KeyID) []events.KeyID {
	state := quota.Evolve(quota.State{}, r.a.facts[len(r.a.facts)-1].event)
	var out []events.KeyID
	for _, id := range ids {
		if state.Holds(id) {
			out = append(out, id)
		}
	}
	return out
}
