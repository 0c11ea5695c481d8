package verify

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/index"
	"github.com/keyledger/keyledger/verify/recording"
)

const (
	// DefaultMaxWait is how long a question about a position yet to come waits:
	// some hundred times what a fact takes to arrive, and short of what people
	// take for a hang.
	DefaultMaxWait = 2 * time.Second

	// DefaultMaxStaleness is three of the ticks that a quiet ledger is given.
	DefaultMaxStaleness = 30 * time.Second

	// MaxSecretBytes bounds what is hashed for anybody who asks. Imported keys
	// may be longer than ours, but all of a request's headers fit in this.
	MaxSecretBytes = 8 << 10

	// clockStep is the resolution of the verifier's clock. Reading the
	// system's costs half as much as hashing a key.
	clockStep = time.Millisecond

	// overdue is how late that clock may be before a verdict sets it itself. A
	// process that stood still, as one that was stopped does or one that got no
	// processor, must not go on by the time at which it stopped.
	overdue = 50 * clockStep

	// maxTries bounds how often a verdict is made anew that came too late to be
	// recorded.
	maxTries = 3
)

// Config says what a verifier works with.
type Config struct {
	// Index is the view that verdicts are made from. Required.
	Index *index.Index
	// Recorder takes the uses. Required: no verdict goes unrecorded.
	Recorder *recording.Recorder
	// Fresh returns the latest instant at which the index is known to have
	// held everything there was, such as [projections.Runner.Fresh]; the zero
	// time when it never was, or never will be again. It is an instant of this
	// machine's, as time.Now gives it, so that a clock that is set does not make
	// it younger. Required. It is never called twice at a time.
	Fresh func() time.Time
	// WaitFor returns nil once the index has applied a position, such as
	// [projections.Runner.WaitFor]. Required.
	WaitFor func(context.Context, events.Position) error
	// MaxWait bounds how long a question waits for its AtLeast. 0 is
	// [DefaultMaxWait].
	MaxWait time.Duration
	// MaxStaleness is how long ago Fresh may be before every verdict but
	// REVOKED is STALE. 0 is [DefaultMaxStaleness].
	MaxStaleness time.Duration
	// Missed is told of every verdict that a secret is no key. Nothing else is
	// recorded of them, and strangers can cause any number: it must return at once,
	// and keep none of the texts, which may lie in a buffer. Optional.
	Missed func(Miss)
	// ServeStale gives verdicts past MaxStaleness all the same, with
	// Decision.Stale set. No bound on honouring a revocation holds then.
	ServeStale bool
	// ServeStaleNow does so for as long as it reports true. It is called as Fresh
	// is. Optional.
	ServeStaleNow func(now time.Time) bool
	// Bound returns a bound that counts where it is smaller than MaxStaleness, 0
	// for none. It is called as Fresh is. Optional.
	Bound func() time.Duration
	// Ask is asked about what is not known well enough here: verdicts that would be
	// STALE, and keys that are not found while verdicts are served past
	// MaxStaleness. It replaces the decision and reports true, or leaves it. A
	// verdict that it gave is not recorded here. Optional.
	Ask func(ctx context.Context, q *Question, d *Decision) bool
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(bad bool, text string) {
		if bad {
			faults = append(faults, errors.New("verify: "+text))
		}
	}
	fault(c.Index == nil, "no index")
	fault(c.Recorder == nil, "no recorder")
	fault(c.Fresh == nil, "nothing tells how fresh the index is")
	fault(c.WaitFor == nil, "nothing waits for positions")
	fault(c.MaxWait < 0, "MaxWait is negative")
	fault(c.MaxStaleness < 0, "MaxStaleness is negative")
	return errors.Join(faults...)
}

// Verifier answers questions about keys. It is safe for concurrent use.
type Verifier struct {
	index    *index.Index
	recorder *recording.Recorder
	fresh    func() time.Time
	waitFor  func(context.Context, events.Position) error
	maxWait  time.Duration
	maxStale time.Duration
	serve    bool
	serveNow func(time.Time) bool
	bound    func() time.Duration
	ask      func(context.Context, *Question, *Decision) bool
	missed   func(Miss)
	queries  *queries

	// now, in microseconds, and stale, in nanoseconds, are kept by a goroutine of
	// the verifier's own. now is 0 once the verifier is closed. ticked is when that
	// was last done, in nanoseconds since began.
	now    atomic.Int64
	stale  atomic.Int64
	ticked atomic.Int64
	// limit is how stale the index may be, in nanoseconds, and serving says that
	// verdicts are given past it: both as of the last tick.
	limit   atomic.Int64
	serving atomic.Bool
	began   time.Time
	stop    context.CancelFunc
	ticker  sync.WaitGroup

	ticking sync.Mutex // guards closed, and serializes who sets the clock
	closed  bool

	unrecorded counters
}

// New returns a verifier that answers at once. Its clock runs until Close.
func New(c Config) (*Verifier, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	v := &Verifier{
		index: c.Index, recorder: c.Recorder, fresh: c.Fresh, waitFor: c.WaitFor,
		maxWait: c.MaxWait, maxStale: c.MaxStaleness, serve: c.ServeStale, missed: c.Missed,
		serveNow: c.ServeStaleNow, bound: c.Bound, ask: c.Ask, queries: newQueries(),
	}
	if v.maxWait == 0 {
		v.maxWait = DefaultMaxWait
	}
	if v.maxStale == 0 {
		v.maxStale = DefaultMaxStaleness
	}
	ctx, cancel := context.WithCancel(context.Background())
	v.stop, v.began = cancel, time.Now()
	v.tick()
	v.ticker.Go(func() {
		t := time.NewTicker(clockStep)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				v.tick()
			}
		}
	})
	return v, nil
}

// tick asks for the proof before it reads the clock, so that none seems to be of
// the future.
func (v *Verifier) tick() {
	v.ticking.Lock()
	defer v.ticking.Unlock()
	if v.closed {
		return
	}
	proven := v.fresh()
	now := time.Now()
	stale := time.Duration(math.MaxInt64)
	if !proven.IsZero() {
		stale = staleness(now.Sub(proven), now.Round(0).Sub(proven.Round(0)))
	}
	limit := v.maxStale
	if v.bound != nil {
		if bound := v.bound(); bound > 0 {
			limit = min(limit, bound)
		}
	}
	v.limit.Store(int64(limit))
	v.serving.Store(v.serve || v.serveNow != nil && v.serveNow(now))
	v.stale.Store(int64(stale))
	v.now.Store(now.UnixMicro())
	v.ticked.Store(int64(now.Sub(v.began)))
}

// clock returns the time and the staleness, of a moment ago at most: reading the
// monotonic clock costs half of what the time costs, and tells that the goroutine
// which keeps it got behind.
func (v *Verifier) clock() (events.Time, time.Duration) {
	if int64(time.Since(v.began))-v.ticked.Load() > int64(overdue) {
		v.tick()
	}
	return events.Time(v.now.Load()), time.Duration(v.stale.Load())
}

// staleness is how old a proof is, by the time that this machine has lived
// through since and by what its clock has told. Nobody can set the former back;
// only the latter goes on while a machine sleeps. The older counts, and a proof
// from the future proves nothing.
func staleness(lived, told time.Duration) time.Duration {
	if lived < 0 {
		return math.MaxInt64
	}
	return max(lived, told)
}

// Close stops the verifier's clock. Every later verdict is UNAVAILABLE. The
// recorder is its owner's to close, after this.
func (v *Verifier) Close() {
	v.stop()
	v.ticker.Wait()
	v.ticking.Lock()
	defer v.ticking.Unlock()
	v.closed = true
	v.now.Store(0)
}

// Question is what a verifier is asked.
type Question struct {
	// Secret is the whole key string.
	Secret string
	// Permission is what the key is to be used for; empty asks about none. It is
	// one permission, or a query such as
	//
	//	interview:read AND (interview:start OR report:*)
	//
	// (see [permission.Query]), of which resource:* asks for everything that the
	// catalog has of a resource, which must be something. What is neither is
	// allowed to nobody; [Verifier.Check] tells why.
	Permission string
	// Method and Path, where Permission is empty and Method is not, find the
	// permission by the routes of the key's own catalog. The path is still
	// escaped and without its query. A request that no route matches is denied;
	// a catalog without any routes asks for no permission.
	Method, Path string
	// Workspace is where the key is to be used; empty judges no scope.
	Workspace events.WorkspaceID
	// AtLeast is a position that must have been applied.
	AtLeast events.Position
	// Kind is the kind of key that is expected; empty is an API key. A key of
	// another kind has insufficient permissions, whatever it may do elsewhere.
	Kind events.KeyKind
	// Within is the one organization whose keys exist for the caller; empty is
	// all.
	Within events.OrgID
	// From is the address that the question is said to come from. It is told to
	// Config.Missed and recorded nowhere.
	From string
	// Context goes with the recorded use.
	Context recording.Context

	// query is Permission, if it is one and was checked.
	query *permission.Query
}

// String tells nothing: a question holds a secret.
func (q Question) String() string { return "verify.Question{…}" }

// GoString tells nothing either, under %#v.
func (q Question) GoString() string { return q.String() }

// LogValue tells nothing to a log.
func (q Question) LogValue() slog.Value { return slog.StringValue(q.String()) }

// Miss is a question about a secret that is no key.
type Miss struct {
	// Code is MALFORMED or NOT_FOUND.
	Code events.Code
	// Kind, Within and From are those of the question.
	Kind   events.KeyKind
	Within events.OrgID
	From   string
	// RequestID is that of its context.
	RequestID string
}

// Profile is a named settings document that comes back with verdicts.
type Profile = index.Profile

// Decision is the answer. Its zero value denies.
type Decision struct {
	Code events.Code
	// Everything of the key is empty when there is none, or none that exists
	// for the caller. It is told of denied keys too.
	Key  events.KeyID
	Org  events.OrgID
	Kind events.KeyKind
	Role events.Role
	// Profile is nil when the key has none. It is shared, like the lists of
	// Permissions and Scope: nobody may write to them.
	Profile     *Profile
	Permissions events.Permissions
	Scope       events.Scope
	// ExpiresAt is when the key expires or its grace ends; zero for never.
	ExpiresAt events.Time
	// Permission is the permission that was judged, as asked or as routed.
	Permission string
	// ScopeChecked says that a workspace was asked about and judged.
	ScopeChecked bool
	// Stale says that the verdict was given past MaxStaleness, by ServeStale.
	Stale bool
	// Asked says that the server gave the verdict, and has recorded the use.
	Asked bool
	// Position is how far the index had come: the verdict rests on every fact
	// up to there, and perhaps on some beyond.
	Position events.Position
	// Staleness is how long ago the index was last known to be complete.
	Staleness time.Duration
	// At is the verifier's time at which the key was judged, true to a
	// millisecond on a machine with a processor to spare.
	At events.Time
}

// Valid reports whether the key may do what was asked.
func (d *Decision) Valid() bool { return d.Code == events.CodeValid }

// Check returns nil when a question's Permission is understood. Otherwise it
// could only be a query and is none, and the error, which is a
// [*permission.QueryError], says where. Verify denies such a question and records
// it; who asks in good faith would rather know. A query that was checked is not
// looked up again when the same question is asked.
func (v *Verifier) Check(q *Question) error {
	return v.queries.check(q)
}

// Verify answers a question. It allocates nothing, but to parse a query that was
// not asked lately, and waits for nobody, except that it waits for the index when
// the question asks for a position yet to come, and for the recorder when its
// buffer is full or when it records durably; both for a bounded time.
//
// Of several reasons to deny, the first of this order is told: MALFORMED or
// NOT_FOUND, REVOKED, STALE, UNAVAILABLE, EXPIRED, INACTIVE,
// INSUFFICIENT_PERMISSIONS, OUT_OF_SCOPE. REVOKED comes before STALE because no
// later fact can change it; while the index is behind, a key that is not there
// is STALE too, since it may have been created since.
func (v *Verifier) Verify(ctx context.Context, q *Question) (d Decision) {
	d.Position = v.index.Applied()
	behind := false
	if q.AtLeast > d.Position {
		d.Position, behind = v.catchUp(ctx, q.AtLeast)
	}
	for try := 1; ; try++ {
		known := v.decide(q, &d, behind)
		if v.ask != nil && (d.Code == events.CodeStale || d.Stale && !known) {
			if answer := v.another(ctx, *q, d); answer.Asked {
				return answer
			}
		}
		if !known {
			v.unrecorded.add(d.Code)
			if v.missed != nil && (d.Code == events.CodeMalformed || d.Code == events.CodeNotFound) {
				v.missed(Miss{Code: d.Code, Kind: q.Kind, Within: q.Within, From: q.From, RequestID: q.Context.RequestID})
			}
			return d
		}
		use := recording.Use{
			At: d.At, Org: d.Org, Key: d.Key, Code: d.Code,
			Permission: d.Permission, Workspace: string(q.Workspace), Context: q.Context,
		}
		if v.recorder.Record(ctx, &use) {
			return d
		}
		if try == maxTries || !v.recorder.Late(d.At) {
			d.Code = events.CodeUnavailable
			v.unrecorded.add(d.Code)
			return d
		}
		// The process stood still since it judged, and has told meanwhile that all
		// uses of that time are stored.
		v.tick()
		d = Decision{Position: v.index.Applied()}
		behind = q.AtLeast > d.Position
	}
}

// another has somebody else answer. It takes copies, so that nobody's question comes to
// lie on the heap for it.
func (v *Verifier) another(ctx context.Context, q Question, d Decision) Decision {
	d.Asked = v.ask(ctx, &q, &d)
	return d
}

// Recheck judges a question anew, at once, and records nothing: for a request
// whose use is recorded already and that has waited for something since, such as
// its body. It does not wait for AtLeast.
func (v *Verifier) Recheck(q *Question) (d Decision) {
	d.Position = v.index.Applied()
	v.decide(q, &d, q.AtLeast > d.Position)
	return d
}

// decide makes the decision, and reports whether there is a key whose use it is.
func (v *Verifier) decide(q *Question, d *Decision, behind bool) bool {
	d.At, d.Staleness = v.clock()
	if d.At == 0 {
		d.Code = events.CodeUnavailable
		return false
	}
	stale := int64(d.Staleness) > v.limit.Load()
	d.Stale = stale && v.serving.Load()
	behind = behind || stale && !d.Stale

	var hit index.Hit
	if !v.find(q, &hit) {
		d.Code = missing(q.Secret, behind)
		return false
	}
	d.Key, d.Org, d.Kind, d.Role = hit.Key(), hit.Org(), hit.Kind(), hit.Role()
	d.Profile, d.Permissions, d.Scope, d.ExpiresAt = hit.Profile(), hit.Permissions(), hit.Scope(), hit.ExpiresAt()
	d.Code = judge(&hit, q, d, behind, v.queries)
	return true
}

// find looks a secret up. A key of an organization that does not exist for the
// caller is not found, and not recorded there either.
func (v *Verifier) find(q *Question, hit *index.Hit) bool {
	if len(q.Secret) > MaxSecretBytes {
		return false
	}
	digest := events.DigestValue(keystring.Digest(q.Secret))
	return (v.index.Lookup(&digest, hit) || v.index.ShortLong() && v.findLong(q.Secret, hit)) &&
		(q.Within == "" || q.Within == hit.Org())
}

// findLong looks a secret up by its long token: what follows the last of at
// least two underscores, in a form that keys of other systems have.
func (v *Verifier) findLong(secret string, hit *index.Hit) bool {
	first, last := strings.IndexByte(secret, '_'), strings.LastIndexByte(secret, '_')
	if first == last || last == len(secret)-1 {
		return false
	}
	digest := index.DigestOf(events.Digest{Alg: events.PrefixShortLong, Value: keystring.Digest(secret[last+1:])})
	return v.index.Lookup(&digest, hit)
}

// missing tells a typo from a key that is not there. Only now: imported keys
// have a form of their own, whatever prefix they wear.
func missing(secret string, behind bool) events.Code {
	switch {
	case behind:
		return events.CodeStale
	case !keystring.WellFormed(secret):
		return events.CodeMalformed
	default:
		return events.CodeNotFound
	}
}

// judge judges a key that was found, at the time of the decision.
func judge(hit *index.Hit, q *Question, d *Decision, behind bool, parsed *queries) events.Code {
	d.Permission = q.Permission
	routed := false
	if d.Permission == "" && q.Method != "" {
		d.Permission, routed = hit.Route(q.Method, q.Path)
	}
	kind := q.Kind
	if kind == "" {
		kind = events.KindAPI
	}
	switch {
	case hit.Revoked():
		return events.CodeRevoked
	case behind:
		return events.CodeStale
	case hit.Closed():
		return events.CodeUnavailable
	case hit.Expired(d.At):
		return events.CodeExpired
	case hit.Disabled():
		return events.CodeInactive
	case hit.Kind() != kind:
		return events.CodeInsufficientPermissions
	case (d.Permission != "" || routed) && !hit.Allows(d.Permission) && (routed || !holds(hit, q, parsed)):
		return events.CodeInsufficientPermissions
	}
	if q.Workspace != "" {
		d.ScopeChecked = true
		if !hit.Covers(q.Workspace) {
			return events.CodeOutOfScope
		}
	}
	if !hit.Somewhere() {
		return events.CodeOutOfScope
	}
	return events.CodeValid
}

// holds judges a Permission that is no name which the key is allowed. All of a
// query is judged by what the key and its catalog were at one instant.
func holds(hit *index.Hit, q *Question, parsed *queries) bool {
	if !permission.MayBeQuery(q.Permission) {
		return false
	}
	query := q.query
	if query == nil || query.Text() != q.Permission {
		var err error
		if query, err = parsed.get(q.Permission); err != nil {
			return false
		}
	}
	return query.Holds(func(g permission.Grant) bool {
		if strings.HasSuffix(string(g), ":*") {
			return hit.AllowsAll(string(g))
		}
		return hit.Allows(string(g))
	})
}

// catchUp waits for a position. It returns how far the index has come, and
// whether that is still short of it.
func (v *Verifier) catchUp(ctx context.Context, pos events.Position) (events.Position, bool) {
	ctx, cancel := context.WithTimeout(ctx, v.maxWait)
	defer cancel()
	// Why it did not come does not matter: it is the index that tells how far
	// it is.
	_ = v.waitFor(ctx, pos)
	applied := v.index.Applied()
	return applied, applied < pos
}

// Stale reports whether verdicts are STALE now: the index was not proven fresh
// for longer than MaxStaleness, or never, or it has stopped.
func (v *Verifier) Stale() bool {
	_, stale := v.clock()
	return int64(stale) > v.limit.Load()
}

// Staleness is how long ago the index was last known to be complete; the longest
// there is for never.
func (v *Verifier) Staleness() time.Duration { return time.Duration(v.stale.Load()) }

// Limit returns how stale the index may be before verdicts are STALE.
func (v *Verifier) Limit() time.Duration { return time.Duration(v.limit.Load()) }

// Serving reports whether verdicts are given past that now.
func (v *Verifier) Serving() bool { return v.serving.Load() }

// Position returns how far the verifier's index has come.
func (v *Verifier) Position() events.Position { return v.index.Applied() }

// Unrecorded returns how many verdicts of a code were given without a recorded
// use, since New: of secrets that match no key, of a verifier that was closed,
// and of a recorder that had no room.
func (v *Verifier) Unrecorded(c events.Code) uint64 { return v.unrecorded.sum(c) }
