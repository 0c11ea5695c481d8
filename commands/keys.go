package commands

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/quota"
	"github.com/keyledger/keyledger/events"
)

// DefaultPrefix begins keys where neither the wish nor the organization names a
// prefix, ManagementPrefix those that manage this ledger.
const (
	DefaultPrefix    = "kl_live"
	ManagementPrefix = keystring.ManagementPrefix
)

// maxChain bounds how many successors a cascading revocation follows.
const maxChain = events.MaxBatch - 1

// Key is a key as its own facts tell it, with who and when.
type Key struct {
	key.State
	Org              events.OrgID
	Revision         events.Revision
	Position         events.Position
	CreatedBy        events.Actor
	RevokedAt        events.Time
	RevokedBy        events.Actor
	RevocationReason events.Text
	// NoticedAt is when the key's end was set, or notice of it was last given.
	NoticedAt events.Time
}

// apply folds a fact of either of the key's subjects.
func (k Key) apply(f events.Recorded) Key {
	if f.Subject.Aggregate != events.AggregateKey && f.Subject.Aggregate != events.AggregateRevoked {
		return k
	}
	end := k.EndsAt()
	k.State = key.Evolve(k.State, f.Event)
	if k.EndsAt() != end {
		k.NoticedAt = f.Meta.Time
	}
	k.Org = f.Subject.Org
	k.Position = max(k.Position, f.Position)
	k.Revision++
	switch f.Event.(type) {
	case events.KeyCreated:
		k.CreatedBy = f.Meta.Actor
	case events.KeyExpiring:
		k.NoticedAt = f.Meta.Time
	case events.KeyRevoked:
		k.RevokedAt, k.RevokedBy, k.RevocationReason = f.Meta.Time, f.Meta.Actor, f.Meta.Reason
	}
	return k
}

// loadedKey is a key with the histories of its two subjects.
type loadedKey struct {
	Key
	own, revoked history
}

func (s *Service) loadKey(ctx context.Context, org events.OrgID, id events.KeyID) (loadedKey, error) {
	own, err := s.cfg.Log.Load(ctx, events.KeySubject(org, id), 0)
	if err != nil {
		return loadedKey{}, err
	}
	return s.loadRevoked(ctx, org, id, loadedKey{own: own})
}

// loadRevoked adds the history of a key's revocation, and folds both.
func (s *Service) loadRevoked(ctx context.Context, org events.OrgID, id events.KeyID, k loadedKey) (loadedKey, error) {
	var err error
	if k.revoked, err = s.cfg.Log.Load(ctx, events.RevokedSubject(org, id), 0); err != nil {
		return k, err
	}
	for _, h := range []history{k.own, k.revoked} {
		for _, f := range h {
			k.Key = k.apply(f)
		}
	}
	return k, nil
}

// loadToRevoke is loadKey for a key that is to end. That can be done also to one
// whose own history has a hole, of which no more is known than that it is there.
func (s *Service) loadToRevoke(ctx context.Context, org events.OrgID, id events.KeyID) (loadedKey, error) {
	k, err := s.loadKey(ctx, org, id)
	if !errors.Is(err, events.ErrCorrupt) {
		return k, err
	}
	k, _, err = s.loadRevocation(ctx, org, id)
	return k, err
}

// loadRevocation loads of a key that it is there, and its revocation. It returns
// the position of its last own fact, too.
func (s *Service) loadRevocation(ctx context.Context, org events.OrgID, id events.KeyID) (loadedKey, events.Position, error) {
	last, there, err := s.cfg.Log.Latest(ctx, events.KeySubject(org, id))
	if err != nil {
		return loadedKey{}, 0, err
	}
	var k loadedKey
	k.Doubtful = there
	k, err = s.loadRevoked(ctx, org, id, k)
	return k, last.Position, err
}

// Key reads a key from its own facts, as they are now.
func (s *Service) Key(ctx context.Context, org events.OrgID, id events.KeyID) (Key, error) {
	var k loadedKey
	err := s.confirmed(ctx, "", func() (err error) {
		if k, err = s.loadKey(ctx, org, id); err == nil && !k.Exists {
			err = notFound("key")
		}
		return err
	})
	return k.Key, err
}

func (k loadedKey) attempt(org events.OrgID, o order) (attempt, error) {
	a := attempt{
		histories: map[events.Subject]history{
			events.KeySubject(org, k.ID): k.own, events.RevokedSubject(org, k.ID): k.revoked,
		},
		revision: k.Revision, position: k.Position,
	}
	for _, h := range []history{k.own, k.revoked} {
		done, err := h.own(o)
		if err != nil {
			return a, err
		}
		a.done = append(a.done, done...)
	}
	return a, nil
}

// KeyOutcome tells what a wish did to a key.
type KeyOutcome struct {
	Outcome
	// Key is the key after it.
	Key Key
	// Previous is the key that was rotated, after it.
	Previous Key
	// Secret is the new key's; a replayed outcome has none.
	Secret keystring.Secret
}

// CreateKey is the wish for a new key. Prefix is empty for the organization's.
type CreateKey struct {
	key.Create
	Prefix string
}

// CreateKey begins a key. Its secret is in the outcome and nowhere else.
func (s *Service) CreateKey(ctx context.Context, w Wish, org events.OrgID, c CreateKey) (KeyOutcome, error) {
	if err := w.Principal.authorizeKeys(org); err != nil {
		return KeyOutcome{}, err
	}
	if err := s.requireOrg(ctx, org); err != nil {
		return KeyOutcome{}, err
	}
	if err := w.Principal.authorizeGrant(c.Kind, c.Role, c.Scope); err != nil {
		return KeyOutcome{}, err
	}
	o, err := s.order(w, string(org))
	if err != nil {
		return KeyOutcome{}, err
	}
	o.under = org
	id, err := o.newKeyID()
	if err != nil {
		return KeyOutcome{}, err
	}
	secret, err := s.issue(org, id, c.Kind, c.Prefix, &c.Issued)
	if err != nil {
		return KeyOutcome{}, err
	}
	out, err := s.settleLimited(ctx, org, c.Kind, o, s.create(w, org, id, o, c))
	if err != nil {
		return KeyOutcome{}, err
	}
	return s.created(ctx, org, id, s.answer(ctx, o, out), secret)
}

// create is one attempt to begin a key.
func (s *Service) create(w Wish, org events.OrgID, id events.KeyID, o order, c CreateKey) func(context.Context) (attempt, error) {
	first := true
	return func(ctx context.Context) (attempt, error) {
		k := loadedKey{Key: Key{Org: org}}
		// A random id is new; a derived one may have met its outcome before.
		if w.IdempotencyKey != "" || !first {
			var err error
			if k, err = s.loadKey(ctx, org, id); err != nil {
				return attempt{}, err
			}
		}
		first = false
		k.ID = id
		a, err := k.attempt(org, o)
		if err != nil || len(a.done) > 0 {
			return a, err
		}
		c.Now = o.now
		c.Config, a.config = s.cfg.Configuration.Of(org)
		facts, err := key.Decide(k.State, c.Create)
		if err != nil {
			return a, err
		}
		a.facts = []placed{{subject: events.KeySubject(org, id), event: facts[0]}}
		if limit := c.Config.Organization.Limits.MaxActiveKeys; limit > 0 && facts[0].(events.KeyCreated).KeyKind == events.KindAPI {
			return a, s.guard(ctx, w, org, o.now, &a, func(ended []events.KeyID) quota.Command {
				return quota.Take{Key: id, Limit: limit, Ended: ended}
			})
		}
		return a, nil
	}
}

// created builds the answer to a wish that begins a key. A repeated wish gets
// the key as it is by now, and no secret; neither does a dry run, whose key
// there is not.
func (s *Service) created(ctx context.Context, org events.OrgID, id events.KeyID, out Outcome, secret keystring.Secret) (KeyOutcome, error) {
	if out.Replayed {
		k, err := s.Key(ctx, org, id)
		// It may be this very call's: stored, and answered with a conflict, as may
		// be while two brokers lead. Nobody else will ever know the secret.
		if out.Replayed = secret.IsZero() || k.Digest.Value != events.DigestValue(keystring.Digest(secret.Reveal())); out.Replayed {
			secret = keystring.Secret{}
		}
		return KeyOutcome{Outcome: out, Key: k, Secret: secret}, err
	}
	k := Key{Org: org}
	for _, f := range out.Facts {
		if f.Subject == events.KeySubject(org, id) {
			k = k.apply(f)
		}
	}
	if k.Position == 0 {
		secret = keystring.Secret{}
	}
	return KeyOutcome{Outcome: out, Key: k, Secret: secret}, nil
}

// issue draws the secret of a new key.
func (s *Service) issue(org events.OrgID, id events.KeyID, kind events.KeyKind, prefix string, issued *key.Issued) (keystring.Secret, error) {
	if prefix == "" {
		prefix = DefaultPrefix
		if own, _ := s.cfg.Configuration.standing(org); kind == events.KindManagement {
			prefix = ManagementPrefix
		} else if p := own.Policy.DefaultPrefix; p != "" {
			prefix = p
		}
	}
	secret, digest, err := draw(prefix)
	if err != nil {
		return secret, err
	}
	*issued = key.Issued{ID: id, Prefix: prefix, LastFour: keystring.LastFour(secret.Reveal()), Digest: digest}
	return secret, nil
}

// settleLimited queues what would only collide, which is what needs the guard
// of a limit. The queue moves on before the answer waits for the index.
func (s *Service) settleLimited(ctx context.Context, org events.OrgID, kind events.KeyKind, o order, decide func(context.Context) (attempt, error)) (Outcome, error) {
	own, _ := s.cfg.Configuration.standing(org)
	if own.Limits.MaxActiveKeys != 0 && kind != events.KindManagement {
		leave, err := s.lanes.enter(ctx, org)
		if err != nil {
			return Outcome{}, err
		}
		defer leave()
	}
	return s.settle(ctx, o, decide)
}

// loadQuota reads the guard. Each of its facts holds the whole of it, so that
// the last is enough.
func (s *Service) loadQuota(ctx context.Context, org events.OrgID) (quota.State, history, error) {
	last, found, err := s.cfg.Log.Latest(ctx, events.QuotaSubject(org))
	if err != nil || !found {
		return quota.State{}, nil, err
	}
	if _, ok := last.Event.(events.QuotaChanged); !ok {
		return quota.State{}, nil, domain.Refuse(domain.ErrConflict, "",
			"a fact at %s is not understood by this version; update the server", last.Subject.Aggregate)
	}
	return quota.Evolve(quota.State{}, last.Event), history{last}, nil
}

// guard adds the quota's next fact to an attempt. When the guard is full it
// releases the holders that have ended, and asks again.
//
// A fact of the guard covers every key that was born up to its config position.
// Keys that are born after that outside it (a limit was being set, and whoever
// made them did not know of it yet) are seen by whoever follows the ledger, and
// taken in by the next fact: nobody takes a place before they are.
func (s *Service) guard(ctx context.Context, w Wish, org events.OrgID, now events.Time, a *attempt, command func(ended []events.KeyID) quota.Command) error {
	state, h, err := s.loadQuota(ctx, org)
	if err != nil {
		return err
	}
	if len(h) == 0 || s.cfg.Configuration.unguarded(org) > h[0].Meta.ConfigPosition {
		if state, err = s.gather(ctx, org, state); err != nil {
			return err
		}
	}
	facts, err := quota.Decide(state, command(nil))
	if err != nil {
		ended, endedErr := s.ended(ctx, org, now, state.Holders)
		if endedErr != nil {
			return endedErr
		}
		if facts, err = quota.Decide(state, command(ended)); err != nil {
			return w.Principal.discreet(err)
		}
	}
	subject := events.QuotaSubject(org)
	a.histories[subject] = h
	for _, e := range facts {
		a.facts = append(a.facts, placed{subject: subject, event: e})
	}
	return nil
}

// gather adds the keys that live and have no place in the guard. Whoever among
// them has ended meanwhile is released like every other holder.
func (s *Service) gather(ctx context.Context, org events.OrgID, state quota.State) (quota.State, error) {
	if s.cfg.Configuration.unguarded(org) == 0 {
		return state, nil
	}
	live, err := s.cfg.Holders(ctx, org)
	if err != nil {
		return state, fmt.Errorf("%w: who holds a place under the limit cannot be told: %w", events.ErrUnavailable, err)
	}
	has := make(map[events.KeyID]bool, len(state.Holders))
	for _, id := range state.Holders {
		has[id] = true
	}
	state.Holders = slices.Clone(state.Holders)
	for _, id := range live {
		if !has[id] {
			state.Holders = append(state.Holders, id)
		}
	}
	return state, nil
}

// ended returns the holders that have ended, each judged by its own facts. The
// view of holders only says where to look. Of whom it still lists the revocation
// alone is asked for: whoever revokes a key to make room must find the room, and
// a view may lag.
func (s *Service) ended(ctx context.Context, org events.OrgID, now events.Time, holders []events.KeyID) ([]events.KeyID, error) {
	live, err := s.cfg.Holders(ctx, org)
	if err != nil {
		s.cfg.Logger.WarnContext(ctx, "holders are looked up one by one", "error", err)
		live = nil
	}
	listed := make(map[events.KeyID]bool, len(live))
	for _, id := range live {
		listed[id] = true
	}
	var out []events.KeyID
	for _, id := range holders {
		over, err := s.over(ctx, org, id, now, listed[id])
		if err != nil {
			return nil, err
		}
		if over {
			out = append(out, id)
		}
	}
	return out, nil
}

// over reports whether a holder has ended.
func (s *Service) over(ctx context.Context, org events.OrgID, id events.KeyID, now events.Time, listed bool) (bool, error) {
	if listed {
		_, revoked, err := s.cfg.Log.Latest(ctx, events.RevokedSubject(org, id))
		return revoked, err
	}
	k, err := s.loadKey(ctx, org, id)
	return err == nil && !k.HoldsPlace(now), err
}

// UpdateKey changes a key. It holds from the next verdict on.
func (s *Service) UpdateKey(ctx context.Context, w Wish, org events.OrgID, id events.KeyID, c key.Update) (KeyOutcome, error) {
	if err := w.Principal.authorizeKeys(org); err != nil {
		return KeyOutcome{}, err
	}
	c.Insist = w.insists()
	o, err := s.order(w, events.KeySubject(org, id).String())
	if err != nil {
		return KeyOutcome{}, err
	}
	o.under = org
	var k loadedKey
	out, err := s.run(ctx, o, func(ctx context.Context) (attempt, error) {
		if k, err = s.loadKey(ctx, org, id); err != nil {
			return attempt{}, err
		}
		if err := s.authorizeLoaded(w, k); err != nil {
			return attempt{}, err
		}
		if c.Scope.Set && !w.Principal.Covers(c.Scope.Value) {
			return attempt{}, w.Principal.authorizeGrant(k.Kind, k.Role, c.Scope.Value)
		}
		if c.Status.Value == events.StatusInactive && s.self(w, org, id) {
			return attempt{}, forbidden("a management key cannot switch itself off; use another")
		}
		a, err := k.attempt(org, o)
		if err != nil || len(a.done) > 0 {
			return a, err
		}
		state, err := s.inClear(ctx, org, k.State)
		if err != nil {
			return a, err
		}
		// As of now, and not of when the wish came: what has ended meanwhile is not
		// brought back.
		c.Now = events.TimeOf(s.cfg.Now())
		c.Config, a.config = s.cfg.Configuration.Of(org)
		facts, err := key.Decide(state, c)
		for _, e := range facts {
			a.facts = append(a.facts, placed{subject: events.KeySubject(org, id), event: e})
		}
		return a, err
	})
	if err != nil {
		return KeyOutcome{}, err
	}
	return KeyOutcome{Outcome: out, Key: k.after(out)}, nil
}

// after is the key with what was appended.
func (k loadedKey) after(out Outcome) Key {
	next := k.Key
	if out.Replayed {
		return next
	}
	for _, f := range out.Facts {
		if id, ok := f.Subject.Key(); ok && id == k.ID {
			next = next.apply(f)
		}
	}
	return next
}

func (s *Service) self(w Wish, org events.OrgID, id events.KeyID) bool {
	return w.Principal.Org == org && w.Principal.Actor.Key == id
}

// authorizeLoaded checks the key that was found. What the principal may not see
// is not there. A key whose very beginning is not understood is anybody's: only
// who may touch every key may touch it.
func (s *Service) authorizeLoaded(w Wish, k loadedKey) error {
	switch {
	case !k.Exists && !k.Doubtful:
		return notFound("key")
	case !k.Exists:
		return w.Principal.authorizeKey(events.KindManagement, events.RoleOwner, events.Scope{AllWorkspaces: true})
	}
	return w.Principal.authorizeKey(k.Kind, k.Role, k.Scope)
}

// RotateKey is the wish for a successor.
type RotateKey struct {
	Grace  time.Duration
	Expiry key.Expiry
}

// RotateKey gives a key a successor. Both live until the grace ends.
func (s *Service) RotateKey(ctx context.Context, w Wish, org events.OrgID, id events.KeyID, c RotateKey) (KeyOutcome, error) {
	if err := w.Principal.authorizeKeys(org); err != nil {
		return KeyOutcome{}, err
	}
	o, err := s.order(w, events.KeySubject(org, id).String())
	if err != nil {
		return KeyOutcome{}, err
	}
	o.under = org
	successor, err := o.newKeyID()
	if err != nil {
		return KeyOutcome{}, err
	}
	var (
		k      loadedKey
		secret keystring.Secret
	)
	out, err := s.settleLimited(ctx, org, events.KindAPI, o, func(ctx context.Context) (attempt, error) {
		if k, err = s.loadKey(ctx, org, id); err != nil {
			return attempt{}, err
		}
		if err := s.authorizeLoaded(w, k); err != nil {
			return attempt{}, err
		}
		// The successor's secret goes to the caller.
		if err := w.Principal.authorizeGrant(k.Kind, k.Role, k.Scope); err != nil {
			return attempt{}, err
		}
		a, err := k.attempt(org, o)
		if err != nil || len(a.done) > 0 {
			return a, err
		}
		state, err := s.inClear(ctx, org, k.State)
		if err != nil {
			return a, err
		}
		command := key.Rotate{Now: o.now, Grace: c.Grace, Expiry: c.Expiry}
		command.Config, a.config = s.cfg.Configuration.Of(org)
		prefix := k.Prefix
		if keystring.ValidPrefix(prefix) != nil {
			prefix = "" // an imported key's, which is none of ours
		}
		if secret, err = s.issue(org, successor, k.Kind, prefix, &command.Issued); err != nil {
			return a, err
		}
		facts, err := key.Decide(state, command)
		if err != nil {
			return a, err
		}
		a.facts = []placed{
			{subject: events.KeySubject(org, id), event: facts[0]},
			// No successor is born after its predecessor's revocation.
			{subject: events.KeySubject(org, successor), event: facts[1], expect: events.Expect(events.RevokedSubject(org, id), 0)},
		}
		for _, e := range facts[2:] {
			a.facts = append(a.facts, placed{subject: events.KeySubject(org, successor), event: e})
		}
		if limit := command.Config.Organization.Limits.MaxActiveKeys; limit > 0 && k.HoldsPlace(o.now) {
			return a, s.guard(ctx, w, org, o.now, &a, func(ended []events.KeyID) quota.Command {
				return quota.Replace{Old: id, New: successor, Limit: limit, Ended: ended}
			})
		}
		return a, nil
	})
	if err != nil {
		return KeyOutcome{}, err
	}
	answer, err := s.created(ctx, org, successor, s.answer(ctx, o, out), secret)
	if err != nil {
		return KeyOutcome{}, err
	}
	answer.Previous = k.after(out)
	return answer, nil
}

// RevokeKey ends a key for ever. With cascade its successors end with it.
func (s *Service) RevokeKey(ctx context.Context, w Wish, org events.OrgID, id events.KeyID, cascade bool) (KeyOutcome, error) {
	if err := w.Principal.authorizeKeys(org); err != nil {
		return KeyOutcome{}, err
	}
	o, err := s.order(w, events.RevokedSubject(org, id).String())
	if err != nil {
		return KeyOutcome{}, err
	}
	var k loadedKey
	decide := func(ctx context.Context) (attempt, error) {
		if k, err = s.loadToRevoke(ctx, org, id); err != nil {
			return attempt{}, err
		}
		k.ID = id
		if err := s.authorizeLoaded(w, k); err != nil {
			return attempt{}, err
		}
		if s.self(w, org, id) {
			return attempt{}, forbidden("a management key cannot revoke itself, so that nobody is locked out; use another")
		}
		a, err := k.attempt(org, o)
		if err != nil || len(a.done) > 0 {
			return a, err
		}
		a.absorbing = true
		a.config = s.cfg.Configuration.position()
		if err := revoke(&a, org, k); err != nil || !cascade {
			return a, err
		}
		return a, s.cascade(ctx, w, org, k, &a)
	}
	out, err := s.settle(ctx, o, decide)
	if err != nil {
		return KeyOutcome{}, err
	}
	answer := KeyOutcome{Outcome: out, Key: k.after(out)}
	if cascade && !w.DryRun {
		if err := s.cascadeOn(ctx, w, org, o, k, &answer.Outcome); err != nil {
			return KeyOutcome{}, err
		}
	}
	answer.Outcome = s.answer(ctx, o, answer.Outcome)
	return answer, nil
}

// cascadeOn revokes the successors that were born while a cascade was decided,
// until there are none: behind a revoked key no more are born. It runs after a
// replayed cascade too, which may have been cut off here.
func (s *Service) cascadeOn(ctx context.Context, w Wish, org events.OrgID, o order, k loadedKey, out *Outcome) error {
	for n := 1; ; n++ {
		next := o
		next.command = events.CommandID(uuid.NewSHA1(uuid.UUID(o.command), []byte("cascade "+strconv.Itoa(n))))
		more, err := s.settle(ctx, next, func(ctx context.Context) (attempt, error) {
			a := attempt{histories: map[events.Subject]history{}, absorbing: true}
			a.config = s.cfg.Configuration.position()
			again, err := s.loadToRevoke(ctx, org, k.ID)
			if err != nil {
				return a, err
			}
			return a, s.cascade(ctx, w, org, again, &a)
		})
		if err != nil {
			return fmt.Errorf("the key is revoked, its successors may not be; try again: %w", err)
		}
		if len(more.Facts) == 0 {
			return nil
		}
		out.Facts = append(out.Facts[:len(out.Facts):len(out.Facts)], more.Facts...)
		out.Position = max(out.Position, more.Position)
	}
}

func revoke(a *attempt, org events.OrgID, k loadedKey) error {
	facts, err := key.Decide(k.State, key.Revoke{})
	subject := events.RevokedSubject(org, k.ID)
	a.histories[subject], a.histories[events.KeySubject(org, k.ID)] = k.revoked, k.own
	for _, e := range facts {
		a.facts = append(a.facts, placed{subject: subject, event: e})
	}
	return err
}

// cascade follows a key's successors. They are revoked in one batch, which
// holds nothing but revocations: whoever reads only those reads all of it.
func (s *Service) cascade(ctx context.Context, w Wish, org events.OrgID, k loadedKey, a *attempt) error {
	for n := 0; !k.RotatedTo.IsZero(); n++ {
		if n == maxChain {
			return domain.Refuse(domain.ErrConflict, "cascade", "the key has more than %d successors; revoke a later one with cascade first", maxChain)
		}
		next, err := s.loadToRevoke(ctx, org, k.RotatedTo)
		if err != nil {
			return err
		}
		next.ID = k.RotatedTo
		if err := s.authorizeLoaded(w, next); err != nil {
			return err
		}
		if s.self(w, org, next.ID) {
			return forbidden("cascade would revoke the management key of this request; use another")
		}
		if err := revoke(a, org, next); err != nil {
			return err
		}
		k = next
	}
	return nil
}
