package commands

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/seals"
)

// Bounds of the loop. Conflicts are rare beside the quota's, which are queued;
// whoever loses this often is told so and may try again. It takes a second or
// two: on three busy nodes two who edit one key can lose a dozen times in a row.
const (
	maxAttempts  = 40
	firstBackoff = time.Millisecond
	maxBackoff   = 50 * time.Millisecond
)

// MaxIdempotencyKey bounds an idempotency key: it is hashed, never stored, and
// a UUID is what most callers send.
const MaxIdempotencyKey = 255

// ErrIdempotencyKeyReused says that the same idempotency key came with another wish.
var ErrIdempotencyKeyReused = fmt.Errorf("%w: idempotency key reused", domain.ErrInvalid)

// Wish is what every command comes with.
type Wish struct {
	Principal Principal
	// Reason is why, in the caller's words.
	Reason string
	// Ticket names what asked for it elsewhere: a ticket, a change, an incident.
	Ticket string
	// RequestID is the caller's id of the request.
	RequestID string
	// IdempotencyKey makes a repetition of the same Route and Body meet its
	// first outcome. Without one every wish is a new one.
	IdempotencyKey string
	Route          string
	Body           []byte
	// IfMatch is the revision that the caller decided on; 0 is any.
	IfMatch events.Revision
	// DryRun decides and appends nothing.
	DryRun bool
	// Still reports why the principal may not go on, if it may not: its key may
	// have ended since the wish came. It is asked right before every append, so
	// it must be quick and must not wait. Nil is always.
	Still func() error
}

// insists reports whether the wish must be recorded though it changes nothing:
// only what is recorded can be met by its repetition, which would otherwise act,
// later, on a state that the first time never saw.
func (w Wish) insists() bool { return w.IdempotencyKey != "" }

// still asks whether the principal is what it was.
func (w Wish) still() error {
	if w.Still == nil {
		return nil
	}
	return w.Still()
}

// Outcome tells what a wish did.
type Outcome struct {
	// Facts are what was appended, or would be in a dry run (then without
	// positions, and without the guard of a limit). None says that nothing had to
	// change.
	Facts []events.Recorded
	// Position is that of the last fact of the aggregate.
	Position events.Position
	// Replayed says that an earlier request with the same idempotency key did it.
	Replayed bool
	// Applied says that this server's own verdicts rest on it. What is recorded
	// and not applied holds all the same, elsewhere and here as soon as it can.
	Applied bool
}

// Narrows reports whether it may have taken something away from a key, which a
// caller takes for done when it is answered. Where nothing had to change that may
// have been so before, and not be applied yet.
func (o Outcome) Narrows() bool {
	for _, f := range o.Facts {
		switch f.Event.(type) {
		case events.OrganizationCreated, events.OrganizationRenamed, events.OrganizationPlanChanged, events.OrganizationLimitsChanged,
			events.OrganizationPolicyChanged, events.QuotaChanged, events.WorkspaceCreated, events.WorkspaceRenamed,
			events.ProfileCreated, events.ProfileRenamed, events.KeyCreated, events.KeyRenamed, events.KeyMetadataChanged, events.KeyEnabled,
			events.KeyRotationDue, events.KeyNewSource, events.KeyDenialsSpike,
			events.ProviderKeyAdded, events.ProviderKeyReplaced, events.ProviderKeyRenamed, events.ProviderKeyTested, events.ProviderKeyRemoved,
			events.ProviderKeyNewSource, events.ProviderKeyResolvesSpike, events.ProviderKeyFailing:
		default:
			return true
		}
	}
	return len(o.Facts) == 0
}

// Config is what a Service works with.
type Config struct {
	// Log is the ledger.
	Log Log
	// Ledger is its id, as its first fact says.
	Ledger events.LedgerID
	// Configuration is followed by the caller.
	Configuration *Configuration
	// Holders lists who holds a place under an organization's limit, as of the
	// ledger's end when it is called or later. It is asked when a limit is set,
	// and when keys were born outside it.
	Holders func(ctx context.Context, org events.OrgID) ([]events.KeyID, error)
	// Taken tells which key a digest is known of, if it is of any, as far as this
	// server knows. It is asked what an import should not repeat; without it, and
	// where it lags, two keys of different organizations may have one digest, and
	// verdicts honour the first. Optional.
	Taken func(events.Digest) (events.OrgID, events.KeyID, bool)
	// Await returns when this server's own index and configuration have applied
	// a position, so that an answered change decides the very next verdict here.
	Await func(ctx context.Context, pos events.Position) error
	// Label returns what stands for some parts to everybody who has not the
	// installation's key: seals.Keys.Label. Without it NoteSource and NoteSpike fail.
	// Optional.
	Label func(parts ...string) ([32]byte, error)
	// Subjects seals texts of organizations that want them sealed, and erases data
	// subjects. Without it nothing that would have to be sealed is appended, and
	// nothing erased. Optional.
	Subjects *seals.Subjects
	// Envelopes encrypts providers' secrets. Without it they are neither taken nor
	// opened: [ErrNoKEK]. Optional.
	Envelopes *seals.Envelopes
	// UsesRetention is how long the installation keeps single uses at most. No
	// organization's policy may ask for longer. Never unless set.
	UsesRetention events.Period
	// Now is the clock; time.Now unless set.
	Now func() time.Time
	// Logger takes what operators should know.
	Logger *slog.Logger
}

// Validate reports everything that is missing.
func (c Config) Validate() error {
	var errs []error
	for what, missing := range map[string]bool{
		"Log": c.Log == nil, "Ledger": c.Ledger.IsZero(), "Configuration": c.Configuration == nil,
		"Holders": c.Holders == nil, "Await": c.Await == nil, "Logger": c.Logger == nil,
	} {
		if missing {
			errs = append(errs, fmt.Errorf("commands: config: %s is needed", what))
		}
	}
	return errors.Join(errs...)
}

// Service carries wishes out. It is safe for concurrent use, and any number of
// them run side by side on one ledger.
type Service struct {
	cfg      Config
	lanes    lanes
	together *together
	// ends are what of keys' ends is recorded together. They have a line of their
	// own: nobody's wish waits for them. So have the revocations that follow from
	// an organization's end, which go out with none but each other.
	ends, revocations *together
	// folded are provider keys, up to where they were read.
	folded foldedKeys
}

// New returns a service.
func New(cfg Config) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{cfg: cfg, together: newTogether(cfg.Log), ends: newTogether(cfg.Log), revocations: newTogether(cfg.Log)}, nil
}

// order is a wish on its way: what stays the same over all attempts.
type order struct {
	wish    Wish
	target  string
	command events.CommandID
	digest  events.CommandDigest
	now     events.Time
	// under is the organization whose followed configuration bears on what is
	// decided, if one's does.
	under events.OrgID
}

// order makes a wish ready. The target is what it is about: the organization for
// a new key, else the subject it changes.
func (s *Service) order(w Wish, target string) (order, error) {
	o := order{wish: w, target: target, now: events.TimeOf(s.cfg.Now())}
	if err := domain.CheckText("reason", w.Reason, events.MaxReasonLength); err != nil {
		return o, err
	}
	if err := domain.CheckText("ticket", w.Ticket, events.MaxTicketLength); err != nil {
		return o, err
	}
	if err := domain.CheckText("request id", w.RequestID, events.MaxRequestIDLength); err != nil {
		return o, err
	}
	if w.IdempotencyKey == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return o, fmt.Errorf("commands: draw a command id: %w", err)
		}
		o.command = events.CommandID(id)
		return o, nil
	}
	if len(w.IdempotencyKey) > MaxIdempotencyKey {
		return o, domain.Refuse(domain.ErrInvalid, "Idempotency-Key", "is %d bytes long, at most %d are allowed", len(w.IdempotencyKey), MaxIdempotencyKey)
	}
	o.command = events.CommandID(o.derive("command"))
	mac := hmac.New(sha256.New, []byte(w.IdempotencyKey))
	mac.Write(w.Body)
	o.digest = events.CommandDigest(mac.Sum(nil))
	return o, nil
}

// derive makes an id of the actor with its organization, the route, the target
// and the idempotency key, so that no one's wish can be taken for another's, nor
// one about this organization for one about that. It is a UUID of version 8.
func (o order) derive(label string) [16]byte {
	h := sha256.New()
	for _, part := range []string{label, string(o.wish.Principal.Org), o.wish.Principal.Actor.String(), o.wish.Route, o.target, o.wish.IdempotencyKey} {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	var id [16]byte
	copy(id[:], h.Sum(nil))
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}

// newKeyID returns the id for a key that the wish creates.
func (o order) newKeyID() (events.KeyID, error) {
	if o.wish.IdempotencyKey != "" {
		return events.KeyID(o.derive("key")), nil
	}
	id, err := uuid.NewV7()
	return events.KeyID(id), err
}

// history is the facts of one subject, loaded.
type history []events.Recorded

func (h history) last() events.Position {
	if len(h) == 0 {
		return 0
	}
	return h[len(h)-1].Position
}

func (h history) revision() events.Revision {
	if len(h) == 0 {
		return 0
	}
	return h[len(h)-1].Meta.Revision
}

// own returns the facts of this very wish.
func (h history) own(o order) ([]events.Recorded, error) {
	var out []events.Recorded
	for _, f := range h {
		if f.Meta.Command != o.command {
			continue
		}
		if f.Meta.Digest != o.digest {
			return nil, errReused()
		}
		out = append(out, f)
	}
	return out, nil
}

func errReused() error {
	return domain.Refuse(ErrIdempotencyKeyReused, "Idempotency-Key", "was used with another request body; use a new key for a new request")
}

// placed is a fact and where it belongs.
type placed struct {
	subject events.Subject
	event   events.Event
	// expect is a second expectation, on a subject that the fact is not on.
	expect events.Expectation
}

// attempt is one turn of the loop: it loads, folds and decides. It returns the
// facts to append with the histories of their subjects, or own facts when the
// wish was fulfilled before.
type attempt struct {
	facts     []placed
	histories map[events.Subject]history
	// cause is the fact that the wish follows from, where it is this program's own.
	cause events.EventID
	// done are the facts of this wish that are recorded already.
	done []events.Recorded
	// revision and position are the aggregate's, for If-Match and the answer.
	revision events.Revision
	position events.Position
	config   events.Position
	// command takes the place of the wish's own where the wish comes in parts.
	command events.CommandID
	// absorbing says that If-Match does not apply: nothing blocks a revocation.
	absorbing bool
}

// run carries a wish out and waits until this server's own index has applied it.
func (s *Service) run(ctx context.Context, o order, decide func(context.Context) (attempt, error)) (Outcome, error) {
	out, err := s.settle(ctx, o, decide)
	if err != nil {
		return Outcome{}, err
	}
	return s.answer(ctx, o, out), nil
}

// settle is the one loop.
func (s *Service) settle(ctx context.Context, o order, decide func(context.Context) (attempt, error)) (Outcome, error) {
	backoff := firstBackoff
	met := false // a conflict
	for n := 1; ; n++ {
		facts, out, err := s.once(ctx, o, decide)
		if err == nil && len(facts) > 0 {
			var stored []events.Recorded
			if stored, err = s.append(ctx, o.wish, facts); err == nil {
				return Outcome{Facts: stored, Position: history(stored).last()}, nil
			}
			met = met || errors.Is(err, events.ErrConflict)
		} else if met && errors.Is(err, events.ErrUnavailable) {
			// What met the conflict was to be looked for, and may be this very
			// wish: stored before, or now, where two brokers both lead for a moment.
			return Outcome{}, errUnexplored()
		}
		switch {
		case !errors.Is(err, events.ErrConflict):
			return out, err
		case n == maxAttempts:
			return Outcome{}, fmt.Errorf("%w: gave up after %d attempts, nothing was changed", events.ErrUnavailable, n)
		}
		if err := sleep(ctx, backoff); err != nil {
			if met {
				return Outcome{}, errUnexplored()
			}
			return Outcome{}, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// errUnexplored says that it is not known what met a conflict.
func errUnexplored() error {
	return fmt.Errorf("%w: the conflict could not be looked into", events.ErrOutcomeUnknown)
}

// once decides, and returns what is to be appended, or the outcome where nothing
// is. What only says that nothing happens leaves here confirmed: nobody else
// vouches for it, while what is appended goes through the quorum.
func (s *Service) once(ctx context.Context, o order, decide func(context.Context) (attempt, error)) ([]events.Entry, Outcome, error) {
	from := s.basis(o.under)
	a, err := decide(ctx)
	switch {
	case err != nil:
	case len(a.done) > 0:
		return nil, Outcome{Facts: a.done, Position: max(a.position, history(a.done).last()), Replayed: true}, nil
	case o.wish.IfMatch != 0 && o.wish.IfMatch != a.revision && !a.absorbing:
		err = domain.Refuse(domain.ErrStale, "If-Match", "names revision %d, the current one is %d; read it again", o.wish.IfMatch, a.revision)
	}
	if err != nil || len(a.facts) == 0 {
		return nil, Outcome{Position: a.position}, s.confirm(ctx, from, err)
	}
	entries, err := s.entries(o, a)
	if err == nil && o.wish.DryRun {
		return nil, Outcome{Facts: preview(entries), Position: a.position}, nil
	}
	if err == nil {
		err = s.seal(ctx, a, entries)
	}
	return entries, Outcome{}, err
}

// basis is what a refusal rests on: what was read since an instant, and, unless
// there is no such organization, its configuration as of a position or later.
type basis struct {
	began time.Time
	under events.OrgID
	at    events.Position
}

func (s *Service) basis(under events.OrgID) basis {
	return basis{began: time.Now(), under: under, at: s.cfg.Configuration.position()}
}

// confirm returns a refusal, or nil, that rests on the ledger, when nothing that
// was stored before now could have made it another; else why not. What was read is
// confirmed by the ledger. The configuration is followed, by each server at its own
// pace: whoever was answered by one and asks the next must not be refused for what
// that one has not heard of yet. So it is waited for, up to where the ledger ends,
// and what it has brought about the organization has it decided again.
func (s *Service) confirm(ctx context.Context, from basis, refusal error) error {
	for _, other := range []error{events.ErrUnavailable, events.ErrOutcomeUnknown, events.ErrConflict, events.ErrCorrupt} {
		if errors.Is(refusal, other) {
			return refusal
		}
	}
	if ofRequest(refusal) {
		return refusal
	}
	end, err := s.cfg.Log.Confirm(ctx, from.began)
	if err != nil {
		return err
	}
	if from.under == "" || from.at >= end {
		return refusal
	}
	if err := s.cfg.Configuration.reach(ctx, end); err != nil {
		return err
	}
	if s.cfg.Configuration.changed(from.under) > from.at {
		return fmt.Errorf("%w: the organization's configuration has changed", events.ErrConflict)
	}
	return refusal
}

// ofRequest reports whether a refusal rests on the request alone: then it stands
// whatever the ledger holds.
func ofRequest(refusal error) bool {
	if !errors.Is(refusal, domain.ErrInvalid) {
		return false
	}
	for _, other := range []error{
		domain.ErrUnknownPermission, domain.ErrUnknownWorkspace, domain.ErrUnknownProfile, domain.ErrLifetimeTooLong, domain.ErrPolicy,
	} {
		if errors.Is(refusal, other) {
			return false
		}
	}
	return true
}

// confirmed looks at the ledger, or at an organization's followed configuration,
// until there is nothing to refuse or the refusal is confirmed.
func (s *Service) confirmed(ctx context.Context, under events.OrgID, look func() error) error {
	for n := 1; ; n++ {
		from := s.basis(under)
		err := look()
		if err == nil {
			return nil
		}
		switch err = s.confirm(ctx, from, err); {
		case !errors.Is(err, events.ErrConflict):
			return err
		case n == maxAttempts:
			return fmt.Errorf("%w: %w", events.ErrUnavailable, err)
		}
	}
}

// append stores what one wish decided. A new key alone goes out with others that
// wait, and so does the end of one; whatever else there is goes by itself, a
// revocation above all.
func (s *Service) append(ctx context.Context, w Wish, entries []events.Entry) ([]events.Recorded, error) {
	if len(entries) == 1 {
		switch entries[0].Event.(type) {
		case events.KeyCreated:
			return s.together.append(ctx, entries[0], w.still)
		case events.KeyExpired, events.KeyExpiring, events.KeyRotationDue, events.KeyNewSource, events.KeyDenialsSpike,
			events.ProviderKeyNewSource, events.ProviderKeyResolvesSpike, events.ProviderKeyFailing:
			return s.ends.append(ctx, entries[0], w.still)
		case events.KeyRevoked:
			if !entries[0].Meta.Causation.IsZero() {
				return s.revocations.append(ctx, entries[0], w.still)
			}
		default:
		}
	}
	if err := w.still(); err != nil {
		return nil, err
	}
	return s.cfg.Log.Append(ctx, entries)
}

// answer waits until this server's own index has applied what is answered. A
// wait that fails does not take back what is recorded; it is logged, and the
// outcome says so.
func (s *Service) answer(ctx context.Context, o order, out Outcome) Outcome {
	if o.wish.DryRun {
		return out
	}
	err := s.cfg.Await(ctx, out.Position)
	if out.Applied = err == nil; !out.Applied {
		s.cfg.Logger.WarnContext(ctx, "own index lags behind an answered change", "position", uint64(out.Position), "error", err)
	}
	return out
}

// entries gives each fact its envelope, revision and expectation.
func (s *Service) entries(o order, a attempt) ([]events.Entry, error) {
	if a.command != (events.CommandID{}) {
		o.command = a.command
	}
	revisions := map[events.Subject]events.Revision{}
	out := make([]events.Entry, 0, len(a.facts))
	for _, f := range a.facts {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, fmt.Errorf("commands: draw an event id: %w", err)
		}
		h := a.histories[f.subject]
		if _, seen := revisions[f.subject]; !seen {
			revisions[f.subject] = h.revision()
			if f.expect.Subject.IsZero() {
				f.expect = events.Expect(f.subject, h.last())
			}
		}
		revisions[f.subject]++
		meta := events.Meta{
			ID: events.EventID(id), Ledger: s.cfg.Ledger, Time: o.now, Revision: revisions[f.subject],
			Actor: o.wish.Principal.Actor, Role: o.wish.Principal.Role, Scope: o.wish.Principal.scopeText(),
			Reason: events.ClearText(o.wish.Reason), Ticket: o.wish.Ticket, RequestID: o.wish.RequestID,
			Command: o.command, Digest: o.digest, Causation: a.cause, ConfigPosition: a.config,
		}
		if err := refuseSecret(f.subject, f.event, meta); err != nil {
			return nil, err
		}
		out = append(out, events.Entry{Subject: f.subject, Event: f.event, Meta: meta, Expect: f.expect})
	}
	return out, nil
}

// refuseSecret is the last door before the ledger: whatever field a key was
// pasted into, of ours or of a provider, it would stay there for ever.
func refuseSecret(subject events.Subject, event events.Event, meta events.Meta) error {
	meta.RecordedTime = meta.Time
	// What is encrypted may look like anything.
	switch e := event.(type) {
	case events.ProviderKeyAdded:
		e.Sealed.Secret, e.Sealed.LastFour = "(sealed)", ""
		event = e
	case events.ProviderKeyReplaced:
		e.Sealed.Secret, e.Sealed.LastFour = "(sealed)", ""
		event = e
	default:
	}
	body, err := events.Encode(subject, event, meta)
	if err != nil {
		return err
	}
	if _, _, found := keystring.Find(body); found {
		return domain.Refuse(domain.ErrSecretInField, "", "a field holds what looks like an API key; a secret belongs in no field of this request")
	}
	if _, _, found := provider.Find(body); found {
		return domain.Refuse(domain.ErrSecretInField, "", "a field holds what looks like a key of an AI provider; it belongs in the secret of a provider key alone")
	}
	return nil
}

// preview is what a dry run tells. The guard of a limit is left out: it lists the
// keys of the whole organization, also to who sees a part of them.
func preview(entries []events.Entry) []events.Recorded {
	out := make([]events.Recorded, 0, len(entries))
	for _, e := range entries {
		if e.Subject.Aggregate == events.AggregateQuota {
			continue
		}
		out = append(out, events.Recorded{Subject: e.Subject, Meta: e.Meta, Event: e.Event})
	}
	return out
}

// sleep waits for a random part of d: those who collided must not meet again.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(mathrand.N(d) + d/8)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// lanes queue the commands of an organization that would only collide.
type lanes struct {
	mu   sync.Mutex
	busy map[events.OrgID]*lane
}

type lane struct {
	turn    chan struct{}
	waiting int
}

// enter waits for the organization's turn and returns what ends it.
func (l *lanes) enter(ctx context.Context, org events.OrgID) (func(), error) {
	l.mu.Lock()
	if l.busy == nil {
		l.busy = map[events.OrgID]*lane{}
	}
	ln := l.busy[org]
	if ln == nil {
		ln = &lane{turn: make(chan struct{}, 1)}
		l.busy[org] = ln
	}
	ln.waiting++
	l.mu.Unlock()

	leave := func() {
		l.mu.Lock()
		if ln.waiting--; ln.waiting == 0 {
			delete(l.busy, org)
		}
		l.mu.Unlock()
	}
	select {
	case ln.turn <- struct{}{}:
		return func() { <-ln.turn; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, fmt.Errorf("%w: %w", events.ErrUnavailable, ctx.Err())
	}
}

// draw fills in a new key's secret.
func draw(prefix string) (keystring.Secret, events.Digest, error) {
	var random [24]byte
	if _, err := rand.Read(random[:]); err != nil {
		return keystring.Secret{}, events.Digest{}, fmt.Errorf("commands: draw a secret: %w", err)
	}
	secret, err := keystring.New(prefix, random)
	if err != nil {
		return keystring.Secret{}, events.Digest{}, domain.Refuse(domain.ErrInvalid, "prefix", "must be 1 to 15 characters of a-z, 0-9 and '_', beginning with a letter or digit and not ending with '_'")
	}
	return secret, events.Digest{Alg: events.SHA256, Value: events.DigestValue(keystring.Digest(secret.Reveal()))}, nil
}
