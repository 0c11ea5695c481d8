// Package jetstream is the ledger on NATS JetStream: facts are appended to the
// stream LEDGER under literal expectations, alone or as an atomic batch, read
// back from the stream's leader for a decision, and followed in order and
// without a gap by everyone else. Blocks of uses go to the stream USES.
//
// # What an answer means
//
// Append returns facts only when the broker acknowledged them; with
// `sync_interval: always` they are on disk by then. Every error tells what is
// known of the outcome: [events.ErrConflict], [events.ErrUnavailable] and
// [events.ErrTooLarge] say that this call stored nothing,
// [events.ErrOutcomeUnknown] that it stored all or nothing. Where the broker
// leaves doubt, the answer is "unknown", never "nothing".
//
// # What it does not do
//
// It never creates, changes or repairs a stream on its own: [EnsureStreams] is
// called once, at an installation's beginning, and [Ledger.CheckStreams] at every
// start after that.
package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/batch"
)

// The streams.
const (
	StreamLedger = "LEDGER"
	StreamUses   = "USES"
	// StreamSeals holds wrapped keys, the last under each subject. They can be
	// destroyed, so they are in no backup of the ledger.
	StreamSeals = "SEALS"
	// StreamAccess holds access records, which end.
	StreamAccess = "ACCESS"
	// StreamPresence holds what verifiers say of themselves, the last of each.
	StreamPresence = "PRESENCE"
	// StreamSnapshots holds snapshots of the verification index, the last of each
	// scope. They can be made again.
	StreamSnapshots = "SNAPSHOTS"
)

// streams are all of them.
var streams = [...]string{StreamLedger, StreamUses, StreamSeals, StreamAccess, StreamPresence, StreamSnapshots}

// Streams returns the names of all streams of a ledger.
func Streams() []string { return slices.Clone(streams[:]) }

// Config says which ledger it is and how to reach it.
type Config struct {
	// Conn is a connection to the account that holds the streams. It stays the
	// caller's to close, and should reconnect for ever (nats.MaxReconnects(-1)).
	Conn *nats.Conn
	// Ledger is the installation's ledger; facts of another are refused, and come
	// back as events.Malformed where someone stored them. [Identify] tells it.
	Ledger events.LedgerID
	// Replicas is how many servers hold each stream: 1 embedded, 3 on a cluster.
	Replicas int
	// Logger hears of reconnects and restarted readers. Default: nowhere.
	Logger *slog.Logger
	// AppendTimeout bounds the wait for one answer to an append. After it the
	// outcome is unknown. Default 10 s: a leader's loss takes 4 to 9 s to heal.
	AppendTimeout time.Duration
	// LoadTimeout bounds the wait for one answer to a read. Default 5 s.
	LoadTimeout time.Duration
	// Heartbeat is how often the broker shows a follower that it is there when
	// there is nothing to hand over. A follower that missed two begins again.
	// Default 1 s.
	Heartbeat time.Duration
	// CatchUp is how long a cluster may say that a stream is not there, or ends
	// before what a follower has seen of it: so may a new leader that has not
	// caught up. After it, and at once with one replica, that is corruption.
	// Default 10 s.
	CatchUp time.Duration
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(bad bool, text string) {
		if bad {
			faults = append(faults, errors.New("jetstream: "+text))
		}
	}
	fault(c.Conn == nil, "Conn is missing")
	fault(c.Ledger.IsZero(), "Ledger is missing")
	fault(c.Replicas != 1 && c.Replicas != 3 && c.Replicas != 5, "Replicas must be 1, 3 or 5")
	fault(c.AppendTimeout < 0, "AppendTimeout is negative")
	fault(c.LoadTimeout < 0, "LoadTimeout is negative")
	fault(c.CatchUp < 0, "CatchUp is negative")
	fault(c.Heartbeat < 0 || c.Heartbeat > 10*time.Second, "Heartbeat is not within 0 and 10 s")
	return errors.Join(faults...)
}

// Ledger is the ledger on JetStream. All methods may be called concurrently.
type Ledger struct {
	conn     *nats.Conn
	id       events.LedgerID
	replicas int
	log      *slog.Logger
	config   Config
	// seen is how far the ledger was seen to go.
	seen       furthest
	confirming confirming
	replies    replies
}

// New returns the ledger behind a connection. It asks the broker nothing.
func New(config Config) (*Ledger, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.AppendTimeout == 0 {
		config.AppendTimeout = 10 * time.Second
	}
	if config.LoadTimeout == 0 {
		config.LoadTimeout = 5 * time.Second
	}
	if config.Heartbeat == 0 {
		config.Heartbeat = time.Second
	}
	if config.CatchUp == 0 {
		config.CatchUp = 10 * time.Second
	}
	return &Ledger{conn: config.Conn, id: config.Ledger, replicas: config.Replicas, log: config.Logger, config: config}, nil
}

// Last returns the position of the last fact, 0 if there is none. The stream's
// leader answers.
func (l *Ledger) Last(ctx context.Context) (events.Position, error) {
	return l.lastOf(ctx, StreamLedger)
}

// LastUses returns the position of the last block of uses, 0 if there is none.
func (l *Ledger) LastUses(ctx context.Context) (events.Position, error) {
	return l.lastOf(ctx, StreamUses)
}

func (l *Ledger) lastOf(ctx context.Context, stream string) (events.Position, error) {
	info, err := l.info(ctx, stream)
	return events.Position(info.State.Last), err
}

// At returns the fact at a position. It wraps [events.ErrInvalidPosition] if the
// ledger does not reach that far, and [events.ErrCorrupt] if it does and the
// fact is missing.
func (l *Ledger) At(ctx context.Context, pos events.Position) (events.Recorded, error) {
	if pos == 0 {
		return events.Recorded{}, fmt.Errorf("%w: no fact stands at position 0", events.ErrInvalidPosition)
	}
	m, err := l.get(ctx, StreamLedger, getRequest{Seq: uint64(pos)})
	switch {
	case errors.Is(err, errNoMessage):
		last, err := l.Last(ctx)
		if err != nil {
			return events.Recorded{}, err
		}
		if pos > last {
			return events.Recorded{}, fmt.Errorf("%w: no fact stands at position %d", events.ErrInvalidPosition, pos)
		}
		return events.Recorded{}, fmt.Errorf("%w: position %d is missing", events.ErrCorrupt, pos)
	case err != nil:
		return events.Recorded{}, err
	}
	return m.decode(l.id), nil
}

// message is a stored message, whichever way it was read.
type message struct {
	seq     uint64
	stored  events.Time
	subject string
	body    []byte
}

// decode never fails: what is no fact of this ledger comes back as
// [events.Malformed], in the place where it stands.
func (m message) decode(ledger events.LedgerID) events.Recorded {
	r := batch.Read(ledger, m.subject, m.body)
	r.Position, r.Stored = events.Position(m.seq), m.stored
	return r
}

type getRequest struct {
	Seq  uint64 `json:"seq,omitzero"`
	Next string `json:"next_by_subj,omitzero"`
	Last string `json:"last_by_subj,omitzero"`
	// Headers carry no meaning of ours.
	NoHeaders bool `json:"no_hdr"`
}

var errNoMessage = errors.New("jetstream: no message found")

// get reads one message from the stream's leader.
func (l *Ledger) get(ctx context.Context, stream string, req getRequest) (message, error) {
	req.NoHeaders = true
	var answer struct {
		Error   *apiError `json:"error"`
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := l.ask(ctx, "$JS.API.STREAM.MSG.GET."+stream, req, &answer); err != nil {
		return message{}, err
	}
	if e := answer.Error; e != nil {
		if e.Code == codeNoMessage {
			return message{}, errNoMessage
		}
		return message{}, e.read(stream)
	}
	m := answer.Message
	if stream == StreamLedger {
		l.seen.reach(m.Seq)
	}
	return message{seq: m.Seq, stored: events.TimeOf(m.Time), subject: m.Subject, body: m.Data}, nil
}

// streamInfo is what is needed of a stream's state.
type streamInfo struct {
	Error  *apiError   `json:"error"`
	Config rawConfig   `json:"config"`
	State  streamState `json:"state"`
}

type streamState struct {
	Messages uint64 `json:"messages"`
	First    uint64 `json:"first_seq"`
	Last     uint64 `json:"last_seq"`
	Deleted  uint64 `json:"num_deleted"`
}

func (l *Ledger) info(ctx context.Context, stream string) (streamInfo, error) {
	var info streamInfo
	if err := l.ask(ctx, "$JS.API.STREAM.INFO."+stream, nil, &info); err != nil {
		return info, err
	}
	if info.Error != nil {
		return info, info.Error.read(stream)
	}
	return info, nil
}

// ask sends a request that changes nothing and reads its answer. No answer is
// [events.ErrUnavailable], whatever the reason.
func (l *Ledger) ask(ctx context.Context, subject string, request, answer any) error {
	var body []byte
	if request != nil {
		var err error
		if body, err = json.Marshal(request); err != nil {
			return fmt.Errorf("jetstream: encode request: %w", err)
		}
	}
	return l.askRaw(ctx, subject, body, answer)
}

// askRaw is ask with a request that is encoded already.
func (l *Ledger) askRaw(ctx context.Context, subject string, body []byte, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, l.config.LoadTimeout)
	defer cancel()
	ask := l.conn.RequestWithContext
	if l.replicas > 1 {
		ask = func(ctx context.Context, subject string, body []byte) (*nats.Msg, error) {
			return l.replies.ask(ctx, l.conn, subject, body)
		}
	}
	msg, err := ask(ctx, subject, body)
	if err != nil {
		return fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	if err := json.Unmarshal(msg.Data, answer); err != nil {
		return fmt.Errorf("%w: unreadable answer to %s", events.ErrUnavailable, subject)
	}
	return nil
}
