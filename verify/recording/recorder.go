// Package recording keeps the uses of keys that a verifier answers for, and
// has them stored in blocks every few milliseconds, so that recording a use
// costs the verdict some tens of nanoseconds and no use is lost unseen.
//
// A [Recorder] begins its boot with a mark that is stored before the first
// verdict may be given, numbers the uses of every organization from 1, and ends
// with marks that say how far the numbers went. What it holds and has not had
// stored is bounded: when the bound is reached, [Recorder.Record] waits for a
// bounded time and then refuses, and the verifier answers UNAVAILABLE. It never
// drops a use. A process that dies takes what it held along, and leaves a boot
// without an end mark, with the bound in its boot mark, as the finding.
//
// Config.Durable chooses between two modes. Buffered, the verdict is answered before
// its use is on disk; durable, after: all that wait while blocks are being stored are
// stored together next, so that many callers cost little more than one.
package recording

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
)

// The defaults of a [Config].
const (
	// DefaultMaxBuffered is some 60 ms of a million verdicts a second, and
	// 25 MiB of memory once they are used.
	DefaultMaxBuffered = 1 << 16
	// DefaultFlushEvery gathers blocks worth compressing and loses little.
	DefaultFlushEvery = 5 * time.Millisecond
	// DefaultMaxWait is about what a caller waits for a verdict at all; the
	// broker elects a new leader in some seconds, which is too long to hold on.
	DefaultMaxWait = 250 * time.Millisecond
	// DefaultDurableMaxWait leaves a disk that is slow for a moment its time.
	DefaultDurableMaxWait = time.Second
)

// MaxMaxBuffered bounds what a crash may lose and how much memory it takes.
const MaxMaxBuffered = 1 << 24

var (
	// ErrUnstored says that a recorder was closed before all it had taken was
	// stored.
	ErrUnstored = errors.New("recording: uses are not stored")

	// ErrState says that a recorder was started twice, or after its end.
	ErrState = errors.New("recording: recorder was started before")
)

// Sink stores blocks.
type Sink interface {
	// PublishUses stores all messages, in their order, and returns nil when
	// they are durable. After an error some of them may be stored: the same
	// messages, with the same ids and bytes, are then published again, and one
	// that is stored already is not stored a second time. It returns soon after
	// its context ends. It is never called twice at a time, and keeps nothing
	// of what it was given.
	PublishUses(ctx context.Context, messages []uses.Message) error
}

// Context is what the caller of a verification adds.
type Context = uses.Context

// Use is one verification with its verdict.
type Use struct {
	At events.Time
	// Org and Key are of the key that was used, and must be ids.
	Org        events.OrgID
	Key        events.KeyID
	Code       events.Code
	Permission string
	Workspace  string
	Context    Context
}

// Config says for whom a recorder records, and where to.
type Config struct {
	// Ledger is the installation's. Required.
	Ledger events.LedgerID
	// Verifier is this verifier's name. No two that run at a time may share
	// one. Required.
	Verifier events.VerifierID
	// Sink stores the blocks. Required.
	Sink Sink
	// MaxBuffered is how many uses may be held that are not yet stored: at most
	// that many are missing after a crash. Uses with long texts fill the buffer
	// earlier: there is room for 128 bytes of text a use on average.
	// 0 is [DefaultMaxBuffered].
	MaxBuffered int
	// FlushEvery is how long uses are gathered before they are stored. A longer
	// time makes larger blocks, of fewer bytes a use: some 130 for one use
	// alone, 13 for 256 of an organization, 9 for 4,096. 0 is
	// [DefaultFlushEvery].
	FlushEvery time.Duration
	// MaxWait is how long Record waits for room in a full buffer, and when Durable for
	// the use to be stored. 0 is [DefaultMaxWait], or [DefaultDurableMaxWait].
	MaxWait time.Duration
	// Durable has Record return when the use is stored, not before. A crash then loses
	// no use of a verdict that was given, which the boot mark says; a use that was not
	// stored in time may be stored later all the same, of a verdict that was not given.
	// FlushEvery does not matter.
	Durable bool
	// Sealer seals texts for the organizations that want it. Without one texts
	// are recorded as they are: a verifier of keys of organizations that have
	// their texts sealed must have one, if only [Withhold].
	Sealer Sealer
	// Logger takes failures of the sink. Nothing is logged without one.
	Logger *slog.Logger
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("recording: "+format, args...))
	}
	if c.Ledger.IsZero() {
		fault("no ledger")
	}
	if _, err := events.ParseVerifierID(string(c.Verifier)); err != nil {
		fault("verifier: %w", err)
	}
	if c.Sink == nil {
		fault("no sink")
	}
	if c.MaxBuffered < 0 || c.MaxBuffered > MaxMaxBuffered {
		fault("MaxBuffered is %d, at most %d are possible", c.MaxBuffered, MaxMaxBuffered)
	}
	if c.FlushEvery < 0 {
		fault("FlushEvery is negative")
	}
	if c.MaxWait < 0 {
		fault("MaxWait is negative")
	}
	return errors.Join(faults...)
}

// bound is how many uses of verdicts that were given a crash may lose.
func (c Config) bound() int {
	if c.Durable {
		return 0
	}
	return c.MaxBuffered
}

func (c Config) withDefaults() Config {
	if c.MaxBuffered == 0 {
		c.MaxBuffered = DefaultMaxBuffered
	}
	if c.FlushEvery == 0 {
		c.FlushEvery = DefaultFlushEvery
	}
	if c.MaxWait == 0 {
		c.MaxWait = DefaultMaxWait
		if c.Durable {
			c.MaxWait = DefaultDurableMaxWait
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Recorder records uses. Its methods may be called by many goroutines.
type Recorder struct {
	cfg  Config
	boot uses.BootID

	// Record takes a buffer from the pool, which is one that its processor
	// used before, and puts it back. The pool forgets; buffers does not.
	buffers []*buffer
	pool    sync.Pool
	spread  atomic.Uint32
	open    atomic.Bool
	free    freeChunks

	wake  chan struct{} // a buffer that was empty holds something
	hurry chan struct{} // half the room is taken
	stop  chan struct{} // closed when the recorder closes
	done  chan struct{} // closed when its goroutine has ended

	marked  chan struct{} // closed when the boot mark is stored
	through through
	waiters waiters

	refused, flushed, blocks, failures atomic.Uint64

	life    sync.Mutex // guards the following, and serializes Start and Close
	started bool
	closed  bool
	cancel  context.CancelFunc

	// The rest belongs to the goroutine, and to whoever knows that it ended or has
	// not begun.
	flusher flusher
	// group takes uses now, underWay waits until its own are stored.
	group, underWay *group
}

// New returns a recorder, with a new boot. It records nothing before Start.
func New(cfg Config) (*Recorder, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	boot, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("recording: boot: %w", err)
	}
	enc, err := uses.NewEncoder()
	if err != nil {
		return nil, fmt.Errorf("recording: %w", err)
	}
	r := &Recorder{
		cfg: cfg, boot: uses.BootID(boot),
		wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1),
		stop: make(chan struct{}), done: make(chan struct{}), marked: make(chan struct{}),
		flusher: flusher{enc: enc, series: make(map[events.OrgID]*series)},
	}
	n := runtime.GOMAXPROCS(0)
	chunks := r.free.fill(cfg.MaxBuffered, n)
	r.buffers = make([]*buffer, n)
	r.nextGroup()
	for i := range r.buffers {
		r.buffers[i] = &buffer{index: i, full: make([]*chunk, 0, chunks), group: r.group}
	}
	return r, nil
}

// Boot is the name of this run of the verifier.
func (r *Recorder) Boot() uses.BootID { return r.boot }

// Bound is how many uses of verdicts that were given a crash may lose, as the boot mark
// says: what a [BootMark] of this run takes.
func (r *Recorder) Bound() int { return r.cfg.bound() }

// Record takes a use, from any goroutine and without allocating, and reports
// whether it did. It keeps nothing that u points to, and cuts texts at the
// limits of package uses. False means that the verdict must not be given: the
// buffer remained full for MaxWait, or the use was not stored by then and
// Config.Durable asks for that, or ctx ended; or the recorder is not running, Org is
// no id, or the use comes too late ([Recorder.Late]).
func (r *Recorder) Record(ctx context.Context, u *Use) bool {
	b := r.acquire()
	res := r.add(b, u)
	group := b.group
	b.mu.Unlock()
	r.pool.Put(b)
	switch res {
	case added:
	case addedFirst:
		signal(r.wake)
	case full:
		res, group = r.wait(ctx, u)
	case closed, invalid, late:
	}
	if res == late {
		return false
	}
	if res != added && res != addedFirst || r.cfg.Durable && !r.await(ctx, group) {
		r.refused.Add(1)
		return false
	}
	return true
}

// acquire returns a locked buffer: the one that this processor used last,
// unless another is at it, or the pool has forgotten it.
func (r *Recorder) acquire() *buffer {
	b, _ := r.pool.Get().(*buffer)
	if b == nil {
		b = r.buffers[int(r.spread.Add(1))%len(r.buffers)]
	}
	if b.mu.TryLock() {
		return b
	}
	for i := 1; i < len(r.buffers); i++ {
		if other := r.buffers[(b.index+i)%len(r.buffers)]; other.mu.TryLock() {
			return other
		}
	}
	b.mu.Lock()
	return b
}

// wait waits for room, up to MaxWait, and returns what came of it, with the group that
// the use was added to.
func (r *Recorder) wait(ctx context.Context, u *Use) (result, *group) {
	// Nothing is said to be stored up to a time that this use may lie before.
	r.through.held.Add(1)
	defer r.through.held.Add(-1)
	signal(r.hurry)
	signal(r.wake)
	timer := time.NewTimer(r.cfg.MaxWait)
	defer timer.Stop()
	for {
		freed := r.free.watch()
		if res, group := r.addAnywhere(u); res != full {
			return res, group
		}
		select {
		case <-freed:
		case <-timer.C:
			return full, nil
		case <-ctx.Done():
			return full, nil
		}
	}
}

// addAnywhere looks for room in every buffer, and returns the group of the one that
// took the use.
func (r *Recorder) addAnywhere(u *Use) (result, *group) {
	for _, b := range r.buffers {
		b.mu.Lock()
		res, group := r.add(b, u), b.group
		b.mu.Unlock()
		switch res {
		case full:
		case addedFirst:
			signal(r.wake)
			return added, group
		case added:
			return added, group
		default:
			return res, nil
		}
	}
	return full, nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Start stores the boot mark and opens the recorder. It tries until the mark is
// stored or ctx ends, and may then be called again.
func (r *Recorder) Start(ctx context.Context) error {
	r.life.Lock()
	defer r.life.Unlock()
	mark, err := r.mark()
	if err != nil {
		return err
	}
	if err := r.publish(ctx, []uses.Message{mark}); err != nil {
		return fmt.Errorf("recording: boot mark is not stored: %w", err)
	}
	r.begun()
	r.launch(ctx, nil)
	return nil
}

// StartLater opens the recorder at once, and has the boot mark stored before
// anything else as soon as the sink takes it: for a verifier that starts while its
// broker is away. Until [Recorder.Marked], no stored mark would tell of uses that a
// crash loses; who wants them seen keeps the boot's name and has its [BootMark]
// stored by the next boot, with its [Recorder.Bound].
func (r *Recorder) StartLater(ctx context.Context) error {
	r.life.Lock()
	defer r.life.Unlock()
	mark, err := r.mark()
	if err != nil {
		return err
	}
	r.through.storing.Store(true)
	r.launch(ctx, &mark)
	return nil
}

// Marked returns a channel that is closed when the boot mark is stored.
func (r *Recorder) Marked() <-chan struct{} { return r.marked }

// begun tells that the boot mark is stored.
func (r *Recorder) begun() {
	r.through.storing.Store(false)
	close(r.marked)
}

// mark is the boot mark of a recorder that may start.
func (r *Recorder) mark() (uses.Message, error) {
	if r.started || r.closed {
		return uses.Message{}, ErrState
	}
	return bootMark(r.flusher.enc, r.cfg.Ledger, r.cfg.Verifier, r.boot, r.cfg.bound())
}

// launch opens the recorder. Its goroutine outlives ctx: Close ends it.
func (r *Recorder) launch(ctx context.Context, mark *uses.Message) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.started, r.cancel = true, cancel
	r.open.Store(true)
	go r.run(run, mark)
}

// BootMark is the mark of a boot that may have ended before its mark was stored: what
// is lost of it is then seen. The bound is how many uses may be missing, which is what
// MaxBuffered was. A mark that is stored already is not stored again.
func BootMark(ledger events.LedgerID, verifier events.VerifierID, boot uses.BootID, bound int) (uses.Message, error) {
	enc, err := uses.NewEncoder()
	if err != nil {
		return uses.Message{}, fmt.Errorf("recording: %w", err)
	}
	return bootMark(enc, ledger, verifier, boot, bound)
}

func bootMark(enc *uses.Encoder, ledger events.LedgerID, verifier events.VerifierID, boot uses.BootID, bound int) (uses.Message, error) {
	m, err := enc.Mark(uses.Header{
		Kind: uses.KindBoot, Ledger: ledger, Org: events.System, Verifier: verifier, Boot: boot,
		From: bootTime(boot), Bound: uint64(bound),
	})
	if err != nil {
		return uses.Message{}, fmt.Errorf("recording: boot mark: %w", err)
	}
	return m, nil
}

// bootTime is the time in a UUIDv7, so that a mark which is published again by
// a later Start has the same bytes.
func bootTime(id uses.BootID) events.Time {
	var ms int64
	for _, b := range id[:6] {
		ms = ms<<8 | int64(b)
	}
	return events.Time(ms * 1000)
}

// Close refuses further uses, stores those that were taken and then the end
// marks. When ctx ends before, it gives up, and the error wraps [ErrUnstored]
// and says how many uses are not stored.
func (r *Recorder) Close(ctx context.Context) error {
	r.life.Lock()
	defer r.life.Unlock()
	if !r.started {
		r.closed = true
		return nil
	}
	if !r.closed {
		r.closed = true
		r.open.Store(false)
		close(r.stop)
		giveUp := context.AfterFunc(ctx, r.cancel)
		<-r.done
		giveUp()
		r.cancel()
	}
	return r.result()
}

// result says after the end what was left undone.
func (r *Recorder) result() error {
	s, err := r.Stats(), r.flusher.err
	switch {
	case s.Backlog > 0:
		return fmt.Errorf("%w: %d of %d: %w", ErrUnstored, s.Backlog, s.Recorded, err)
	case err != nil:
		return fmt.Errorf("recording: all uses are stored, the end marks are not: %w", err)
	}
	return nil
}

// Stats are a recorder's counts since its start.
type Stats struct {
	// Recorded is how many uses were taken, Flushed how many of them are
	// stored, in how many Blocks, and Backlog how many are not yet.
	Recorded, Flushed, Blocks, Backlog uint64
	// Refused is how many uses were not taken, but for those that came too late.
	Refused uint64
	// Failures is how often the sink failed.
	Failures uint64
}

// Stats counts, for metrics.
func (r *Recorder) Stats() Stats {
	// Flushed first: what is flushed in between must not exceed Recorded.
	s := Stats{Flushed: r.flushed.Load(), Blocks: r.blocks.Load(), Refused: r.refused.Load(), Failures: r.failures.Load()}
	for _, b := range r.buffers {
		b.mu.Lock()
		s.Recorded += b.recorded
		b.mu.Unlock()
	}
	s.Backlog = s.Recorded - s.Flushed
	return s
}
