package verify

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/presence"
)

// WhenStale says what becomes of questions while the client is not known to be
// fresh.
type WhenStale int

const (
	// Deny answers STALE. It is the default, and what the bound rests on.
	Deny WhenStale = iota
	// Serve gives the verdict that the index holds, with Decision.Stale set. A key
	// that was revoked meanwhile is accepted for as long as the client is cut off:
	// there is no bound.
	Serve
	// Ask asks the server, and answers STALE when that does not answer. It takes
	// [Server]. Every verdict then costs a request, and the server's bound holds.
	Ask
)

// Durability says when a verdict may be given.
type Durability int

const (
	// Buffered gives a verdict when its use is in the recorder's buffer. A process
	// that dies takes what it held along, which is then seen to be missing.
	Buffered Durability = iota
	// Durable gives a verdict when its use is stored.
	Durable
)

// The defaults of [Open].
const (
	// DefaultSnapshotEvery is how often a snapshot is saved into the folder: what
	// comes within some minutes is replayed in less than a second.
	DefaultSnapshotEvery = 10 * time.Minute
	// DefaultStartJitter spreads starts that need a snapshot of the broker: ten
	// thousand at once would be five thousand a second.
	DefaultStartJitter = 2 * time.Second
)

// MaxOfflineStart bounds [OfflineStart]: receipts count with what may answer offline for
// as long as announcements are kept.
const MaxOfflineStart = presence.Remembered

// Option changes what [Open] does by default.
type Option func(*options)

type options struct {
	name          events.VerifierID
	kind          presence.Kind
	version       string
	organizations []events.OrgID
	narrowed      bool
	keys          []string

	maxWait      time.Duration
	maxStaleness time.Duration
	whenStale    WhenStale
	server       *server

	durability  Durability
	maxBuffered int

	folder        string
	snapshotEvery time.Duration
	jitter        time.Duration
	offlineMax    time.Duration
	lease         time.Duration
	missed        func(Miss)
	atOnce        bool
	// few is how many events are replayed rather than that a snapshot is fetched.
	few uint64
	log *slog.Logger
}

func newOptions(opts []Option) *options {
	o := &options{
		kind: presence.SDK, version: moduleVersion(), maxWait: DefaultMaxWait, maxStaleness: DefaultMaxStaleness,
		snapshotEvery: DefaultSnapshotEvery, jitter: DefaultStartJitter, lease: presence.DefaultLease, few: fewEvents,
		log: slog.New(slog.DiscardHandler),
	}
	for _, opt := range opts {
		opt(o)
	}
	if o.server != nil && o.log != nil {
		o.server.log = o.log
	}
	return o
}

// module is the path that programs know this package's module by.
const module = "github.com/keyledger/keyledger"

// moduleVersion is the version of this package in the program that it runs in, empty
// where that is not known.
func moduleVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == module && len(m.Version) <= presence.MaxVersionLength {
			return m.Version
		}
	}
	return ""
}

// Name says under which credential's name the client reads and records. Without it
// the name is that in the credential which the connection was made with.
func Name(name string) Option { return func(o *options) { o.name = events.VerifierID(name) } }

// Organizations are those that the credential must be narrowed to: [Open] refuses
// one that shows more, or fewer. Without it every credential of a verifier will do.
func Organizations(orgs ...events.OrgID) Option {
	return func(o *options) { o.organizations, o.narrowed = slices.Sorted(slices.Values(orgs)), true }
}

// MaxStaleness is how long ago the client may have been shown to hold everything
// there was. Past it every verdict but REVOKED is STALE. It counts where it is
// smaller than the bound that the credential was issued with, and default is
// [DefaultMaxStaleness].
//
// Ticks come three times as often as the smallest bound that any credential was issued
// with, every 10 s if none is smaller than 30 s: one that is smaller here, and there
// is not, leaves the client stale most of the time while nothing happens.
func MaxStaleness(d time.Duration) Option { return func(o *options) { o.maxStaleness = d } }

// MaxWait bounds how long a question waits for its AtLeast; [DefaultMaxWait] by
// default.
func MaxWait(d time.Duration) Option { return func(o *options) { o.maxWait = d } }

// WhileStale says what becomes of questions past MaxStaleness.
func WhileStale(w WhenStale) Option { return func(o *options) { o.whenStale = w } }

// LogKeys are the verifier keys of the installation, as its server shows them at
// /log/vkey (C2SP signed-note): only what they signed counts. Without any the client
// trusts the keys that the ledger itself names, and so whoever stands between it
// and the ledger.
func LogKeys(vkeys ...string) Option { return func(o *options) { o.keys = vkeys } }

// Uses says when a verdict may be given; [Buffered] by default.
func Uses(d Durability) Option { return func(o *options) { o.durability = d } }

// MaxBuffered is how many uses are held at most that are not stored yet; 0 is the
// default of [recording.Config].
//
// [recording.Config]: https://pkg.go.dev/github.com/keyledger/keyledger/verify/recording#Config
func MaxBuffered(n int) Option { return func(o *options) { o.maxBuffered = n } }

// SnapshotFolder is where snapshots of the index are kept, so that the next start
// has less to replay, and where is noted how far was seen, so that an older one is
// refused. It is made if need be, mode 0700, and belongs to one client at a time.
func SnapshotFolder(dir string) Option { return func(o *options) { o.folder = dir } }

// SnapshotEvery is how often a snapshot is saved; 0 is never but at the end.
func SnapshotEvery(d time.Duration) Option { return func(o *options) { o.snapshotEvery = d } }

// StartJitter bounds the random wait before a snapshot is fetched from the broker;
// 0 is no wait.
func StartJitter(d time.Duration) Option { return func(o *options) { o.jitter = d } }

// OfflineStart lets a client whose broker is away answer from a snapshot of its
// folder, until the last event in it is older than maxAge by this machine's clock.
// Every such verdict has Decision.Stale set, and no bound holds: a key that was
// revoked meanwhile is accepted. 0, the default, is never; [MaxOfflineStart] is the most.
func OfflineStart(maxAge time.Duration) Option { return func(o *options) { o.offlineMax = maxAge } }

// AtOnce has [Open] return before the broker has said what the credential reads;
// until then every verdict is STALE. What would have been its error is told by
// [Client.Status].
func AtOnce() Option { return func(o *options) { o.atOnce = true } }

// OnMiss is told of every verdict that a secret is no key. It must return at once,
// and keep none of the texts.
func OnMiss(f func(Miss)) Option { return func(o *options) { o.missed = f } }

// Logger takes what operators should know. Nothing is logged without one.
func Logger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// Program says what the client announces itself as: a kind ([presence.SDK] by
// default) and the program's version (by default that of this module).
func Program(kind presence.Kind, version string) Option {
	return func(o *options) { o.kind, o.version = kind, version }
}

// Lease is how long an announcement of the client holds; a third of it is between
// two of them. Default [presence.DefaultLease].
func Lease(d time.Duration) Option { return func(o *options) { o.lease = d } }

// validate reports every fault at once.
func (o *options) validate() error {
	var faults []error
	fault := func(bad bool, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf("verify: "+format, args...))
		}
	}
	fault(o.maxStaleness < time.Millisecond, "MaxStaleness must be a millisecond at least")
	fault(o.maxWait < 0, "MaxWait is negative")
	fault(o.whenStale < Deny || o.whenStale > Ask, "WhileStale must be Deny, Serve or Ask")
	fault(o.whenStale == Ask && o.server == nil, "WhileStale(Ask) takes a Server")
	fault(o.durability != Buffered && o.durability != Durable, "Uses must be Buffered or Durable")
	fault(o.snapshotEvery < 0 || o.jitter < 0 || o.offlineMax < 0, "a duration is negative")
	fault(o.offlineMax > MaxOfflineStart, "OfflineStart is more than %s", MaxOfflineStart)
	fault(o.offlineMax > 0 && o.folder == "", "OfflineStart takes a SnapshotFolder")
	fault(o.offlineMax > 0 && o.durability == Durable, "OfflineStart takes Buffered uses: none can be stored then")
	fault(o.lease < presence.MinLease || o.lease > presence.MaxLease, "Lease must be between %s and %s", presence.MinLease, presence.MaxLease)
	fault(o.log == nil, "Logger is nil")
	fault(o.kind != presence.SDK && o.kind != presence.Sidecar, "Program is an SDK or a sidecar")
	fault(len(o.version) > presence.MaxVersionLength || strings.ContainsFunc(o.version, unprintable), "the version of Program is too long, or holds more than letters, digits and signs")
	fault(o.narrowed && len(o.organizations) == 0, "Organizations needs at least one")
	for _, org := range o.organizations {
		_, err := events.ParseOrgID(string(org))
		fault(err != nil || org == events.System, "an organization is none whose keys are verified")
	}
	for _, key := range o.keys {
		if _, err := note.NewVerifier(strings.TrimSpace(key)); err != nil {
			faults = append(faults, fmt.Errorf("verify: a log key cannot be read: %w", err))
		}
	}
	return errors.Join(append(faults, o.server.validate())...)
}
