// Package datakeys sees to it that the data keys of provider keys are as the ledger
// says: those of secrets that were replaced or removed, or whose organization has
// ended, are destroyed; those that no fact ever named are destroyed when nobody can
// be about to name them; and the others are wrapped with the key-encryption key that
// wraps today.
//
// Whoever replaces or removes a secret destroys its data key before he is answered,
// and may die between the fact and that. So every server runs a [Keeper]. It begins
// with the ledger's first fact at every start, and looks through all data keys there
// are then, and every hour: the last server that was there finishes what others
// began. They need no leader among themselves, since a data key is destroyed once,
// and is wrapped anew without a moment in which it does not open.
package datakeys

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/relay"
)

const (
	// DefaultEvery is how often all data keys are looked through.
	DefaultEvery = time.Hour

	// unnamed is for how long this keeper must have seen that no fact names a data
	// key before it is destroyed. It is measured by a clock that is never set: to
	// destroy is for ever, and a command that has drawn one is done within a minute.
	unnamed = time.Hour

	// tidyAfter is how long it is remembered in the store which data keys were
	// destroyed: longer than anybody could be wrapping one anew.
	tidyAfter = 24 * time.Hour

	// jitter is the longest random wait before something new is destroyed, so that
	// mostly whoever recorded it has done it.
	jitter = time.Second

	// patience bounds one try, and the wait for this keeper to have heard of what the
	// ledger holds; look is how often that is looked at.
	patience = 10 * time.Second
	look     = 10 * time.Millisecond

	// rest is the wait after each data key that was wrapped anew: whoever resolves
	// asks the same broker and the same key-encryption key.
	rest = 5 * time.Millisecond

	// firstBackoff is the wait after something failed, longestPending the longest after
	// what has died could not be destroyed, and longestBackoff that after not all could
	// be looked through.
	firstBackoff, longestPending, longestBackoff = 250 * time.Millisecond, 15 * time.Second, 5 * time.Minute
)

// errBehind says that this keeper has not heard of all that the ledger holds.
var errBehind = errors.New("datakeys: this server is behind the ledger")

// Envelopes hold the data keys.
type Envelopes interface {
	// All lists the data keys that are not destroyed.
	All(ctx context.Context) ([]seals.DataKey, error)
	// Rewrap wraps one with the key that wraps today, and reports whether it had to.
	// One that is destroyed stays so.
	Rewrap(ctx context.Context, id events.DataKeyID) (bool, error)
	// Destroy destroys one for good, and reports whether it was there.
	Destroy(ctx context.Context, id events.DataKeyID) (bool, error)
	// Forget drops what this process remembers of what one opens.
	Forget(id events.DataKeyID)
	// Tidy removes what is remembered in the store of those that were destroyed
	// before a time.
	Tidy(ctx context.Context, before events.Time) (int, error)
}

// Config says what a keeper works with. All of it but Every is required.
type Config struct {
	// Envelopes hold the data keys.
	Envelopes Envelopes
	// Destroy destroys those of an organization's data keys for a provider that the
	// ledger itself says are dead, and none other, and reports whether any was there.
	Destroy func(ctx context.Context, org events.OrgID, provider events.ProviderID, ids []events.DataKeyID) (bool, error)
	// Ready is closed once this keeper has heard of all that the ledger held at the
	// start.
	Ready <-chan struct{}
	// Last is the ledger's last position, as its leader has it.
	Last func(context.Context) (events.Position, error)
	// Every is how often all data keys are looked through. 0 is [DefaultEvery].
	Every time.Duration
	// Logger takes what operators should know.
	Logger *slog.Logger
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	for what, missing := range map[string]bool{
		"Envelopes": c.Envelopes == nil, "Destroy": c.Destroy == nil, "Ready": c.Ready == nil, "Last": c.Last == nil, "Logger": c.Logger == nil,
	} {
		if missing {
			faults = append(faults, errors.New("datakeys: no "+what))
		}
	}
	if c.Every < 0 {
		faults = append(faults, errors.New("datakeys: Every is negative"))
	}
	return errors.Join(faults...)
}

// Stats tell how a keeper is doing.
type Stats struct {
	// Current and Old are how many data keys there were when they were last looked
	// through: wrapped with the key that wraps today, and with another.
	Current, Old uint64
	// Pending are dead ones that may still be there. Destroyed were destroyed by this
	// keeper, Orphans of them were named by no fact, Rewrapped were wrapped anew, and
	// Failed tries failed.
	Pending, Destroyed, Orphans, Rewrapped, Failed uint64
}

// Keeper keeps data keys as the ledger says. It is a [projections.View] of the
// ledger, and remembers nothing after a crash: some 100 bytes for each secret that
// was ever given.
type Keeper struct {
	cfg  Config
	news chan struct{}

	mu   sync.Mutex
	at   events.Position
	orgs map[events.OrgID]*organization
	// named are all data keys that facts name.
	named map[events.DataKeyID]owner
	// pending are those that died since all were looked through.
	pending map[events.DataKeyID]owner
	// blind says that there are facts about provider keys that this program does not
	// understand, and which may name data keys.
	blind bool

	// unnamed is Run's own: since when it knows of data keys that no fact names.
	unnamed map[events.DataKeyID]time.Time

	current, old, destroyed, orphans, rewrapped, failed atomic.Uint64
}

// organization is whose data keys they are.
type organization struct {
	id    events.OrgID
	ended bool
	live  map[events.ProviderID]events.DataKeyID
}

// owner is whose a data key is.
type owner struct {
	org      *organization
	provider events.ProviderID
}

// New returns a keeper. It does nothing before Run.
func New(cfg Config) (*Keeper, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Every == 0 {
		cfg.Every = DefaultEvery
	}
	return &Keeper{
		cfg: cfg, news: make(chan struct{}, 1), orgs: map[events.OrgID]*organization{}, named: map[events.DataKeyID]owner{},
		pending: map[events.DataKeyID]owner{}, unnamed: map[events.DataKeyID]time.Time{},
	}, nil
}

// Name names the view.
func (k *Keeper) Name() string { return "data keys" }

// Position returns the last position applied.
func (k *Keeper) Position(context.Context) (events.Position, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.at, nil
}

// Apply takes in which data keys are named and which are dead. It destroys nothing
// itself: that takes the broker.
func (k *Keeper) Apply(_ context.Context, facts []events.Recorded) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, f := range facts {
		k.apply(f)
	}
	k.at = facts[len(facts)-1].Position
	if len(k.pending) > 0 {
		k.wake()
	}
	return nil
}

func (k *Keeper) apply(f events.Recorded) {
	switch e := f.Event.(type) {
	case events.ProviderKeyAdded:
		k.name(f.Subject, e.Sealed.DataKey)
	case events.ProviderKeyReplaced:
		k.name(f.Subject, e.Sealed.DataKey)
	case events.ProviderKeyRemoved:
		k.name(f.Subject, events.DataKeyID{})
	case events.OrganizationDeleted:
		o := k.organization(f.Subject.Org)
		o.ended = true
		for provider, id := range o.live {
			k.bury(id, owner{o, provider})
		}
	case events.Unknown, events.Malformed:
		if f.Subject.Aggregate == events.AggregateProviderKey && !k.blind {
			k.blind = true
			k.cfg.Logger.Warn("data keys that no fact names are left alone: there are facts about provider keys that this version does not understand",
				"position", f.Position)
		}
	}
}

func (k *Keeper) organization(id events.OrgID) *organization {
	o := k.orgs[id]
	if o == nil {
		o = &organization{id: id, live: map[events.ProviderID]events.DataKeyID{}}
		k.orgs[id] = o
	}
	return o
}

// name puts a data key in the place of the one that an organization had for a
// provider; the zero one is none.
func (k *Keeper) name(at events.Subject, id events.DataKeyID) {
	of := owner{k.organization(at.Org), events.ProviderID(at.ID)}
	before := of.org.live[of.provider]
	delete(of.org.live, of.provider)
	if !before.IsZero() && before != id {
		k.bury(before, of)
	}
	if id.IsZero() {
		return
	}
	k.named[id], of.org.live[of.provider] = of, id
	if of.org.ended {
		k.bury(id, of)
	}
}

// bury takes a data key for dead. What was dead before this keeper was ready is found
// when all are looked through.
func (k *Keeper) bury(id events.DataKeyID, of owner) {
	k.cfg.Envelopes.Forget(id)
	select {
	case <-k.cfg.Ready:
		k.pending[id] = of
	default:
	}
}

func (k *Keeper) wake() {
	select {
	case k.news <- struct{}{}:
	default: // it is awake already
	}
}

// Run keeps data keys until the context ends.
func (k *Keeper) Run(ctx context.Context) {
	select {
	case <-k.cfg.Ready:
	case <-ctx.Done():
		return
	}
	next, again, backoff := time.Now(), firstBackoff, firstBackoff
	for relay.Pause(ctx, rand.N(jitter)) {
		// What has died goes first, and whether or not the others can be looked through.
		err := k.destroyPending(ctx)
		if !time.Now().Before(next) {
			if failed := k.lookThrough(ctx); failed == nil {
				next, again = time.Now().Add(k.cfg.Every+rand.N(k.cfg.Every/16+1)), firstBackoff
			} else {
				k.tell(ctx, failed, again)
				next, again = time.Now().Add(again), min(2*again, longestBackoff)
			}
		}
		if err == nil {
			backoff = firstBackoff
			k.await(ctx, time.Until(next))
			continue
		}
		k.tell(ctx, err, backoff)
		relay.Pause(ctx, backoff)
		backoff = min(2*backoff, longestPending)
	}
}

// tell tells of a failure.
func (k *Keeper) tell(ctx context.Context, err error, again time.Duration) {
	if ctx.Err() != nil {
		return
	}
	k.failed.Add(1)
	k.cfg.Logger.WarnContext(ctx, "data keys of provider keys are not all as they should be; it is tried again", "error", err, "again_in", again)
}

// await waits, or until there is news.
func (k *Keeper) await(ctx context.Context, wait time.Duration) {
	t := time.NewTimer(max(wait, 0))
	defer t.Stop()
	select {
	case <-k.news:
	case <-t.C:
	case <-ctx.Done():
	}
}

// destroyPending destroys what has died lately. One that fails keeps none of the
// others.
func (k *Keeper) destroyPending(ctx context.Context) error {
	k.mu.Lock()
	pending := maps.Clone(k.pending)
	k.mu.Unlock()
	var faults []error
	for id, of := range pending {
		if err := k.destroy(ctx, id, of); err != nil {
			faults = append(faults, err)
			if relay.Outage(err) {
				break
			}
		}
	}
	return errors.Join(faults...)
}

// destroy destroys a data key that is dead, and is done with it.
func (k *Keeper) destroy(ctx context.Context, id events.DataKeyID, of owner) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	done, err := k.cfg.Destroy(ctx, of.org.id, of.provider, []events.DataKeyID{id})
	if err != nil {
		return err
	}
	if done {
		k.destroyed.Add(1)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.pending, id)
	return nil
}

// lookThrough looks through all data keys there are: the dead are destroyed, and then
// those that nobody named, and the others are wrapped as they should be.
func (k *Keeper) lookThrough(ctx context.Context) error {
	held, err := k.cfg.Envelopes.All(ctx)
	if err != nil {
		return err
	}
	// Whatever a data key that is held was drawn for stands in the ledger by now, or
	// is still to be written.
	if err := k.hear(ctx); err != nil {
		return err
	}
	dead, live, lost := k.sort(held)
	var faults []error
	for id, of := range dead {
		faults = append(faults, k.destroy(ctx, id, of))
	}
	faults = append(faults, k.destroyLost(ctx, lost), k.rewrap(ctx, live))
	if _, err := k.cfg.Envelopes.Tidy(ctx, events.TimeOf(time.Now().Add(-tidyAfter))); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// hear waits until this keeper has heard of all that the ledger holds now.
func (k *Keeper) hear(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	last, err := k.cfg.Last(ctx)
	if err != nil {
		return err
	}
	for {
		at, err := k.Position(ctx)
		if err != nil || at >= last {
			return err
		}
		if !relay.Pause(ctx, look) {
			return errBehind
		}
	}
}

// sort tells data keys apart: those that are dead, those that are in use, and those
// that no fact names.
func (k *Keeper) sort(held []seals.DataKey) (dead map[events.DataKeyID]owner, live, lost []seals.DataKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	dead = map[events.DataKeyID]owner{}
	for _, d := range held {
		of, named := k.named[d.ID]
		switch {
		case !named && k.blind:
			live = append(live, d)
		case !named:
			lost = append(lost, d)
		case of.org.ended || of.org.live[of.provider] != d.ID:
			dead[d.ID] = of
		default:
			live = append(live, d)
		}
	}
	return dead, live, lost
}

// destroyLost destroys the data keys that no fact has named for long enough.
func (k *Keeper) destroyLost(ctx context.Context, lost []seals.DataKey) error {
	now, since := time.Now(), map[events.DataKeyID]time.Time{}
	var faults []error
	for _, d := range lost {
		first, known := k.unnamed[d.ID]
		if !known {
			first = now
		}
		if now.Sub(first) < unnamed {
			since[d.ID] = first
			continue
		}
		done, err := k.cfg.Envelopes.Destroy(ctx, d.ID)
		if err != nil {
			since[d.ID] = first
			faults = append(faults, err)
		} else if done {
			k.destroyed.Add(1)
			k.orphans.Add(1)
		}
	}
	k.unnamed = since
	return errors.Join(faults...)
}

// rewrap wraps what is not wrapped with the key that wraps today. One that fails
// keeps none of the others, but where nobody can be asked.
func (k *Keeper) rewrap(ctx context.Context, live []seals.DataKey) error {
	var faults []error
	old := slices.DeleteFunc(slices.Clone(live), func(d seals.DataKey) bool { return d.Current })
	left := uint64(len(old))
	k.count(len(live), left)
	for _, d := range old {
		changed, err := k.cfg.Envelopes.Rewrap(ctx, d.ID)
		if err != nil {
			faults = append(faults, err)
			if relay.Outage(err) {
				break
			}
			continue
		}
		if changed {
			k.rewrapped.Add(1)
		}
		left--
		k.count(len(live), left)
		relay.Pause(ctx, rest)
	}
	return errors.Join(faults...)
}

func (k *Keeper) count(all int, old uint64) {
	k.old.Store(old)
	k.current.Store(uint64(all) - old)
}

// Stats tells how the keeper is doing.
func (k *Keeper) Stats() Stats {
	k.mu.Lock()
	pending := uint64(len(k.pending))
	k.mu.Unlock()
	return Stats{
		Current: k.current.Load(), Old: k.old.Load(), Pending: pending,
		Destroyed: k.destroyed.Load(), Orphans: k.orphans.Load(), Rewrapped: k.rewrapped.Load(), Failed: k.failed.Load(),
	}
}
