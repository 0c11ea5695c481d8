package jetstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
)

// rawConfig is a stream's configuration as the broker tells it, member by
// member, so that one which this program has never heard of is seen too.
type rawConfig map[string]jsontext.Value

// headerRoom is room for a message's headers.
const headerRoom = 4 * 1024

// maxMessageBytes bounds a stored message: a fact or block at its largest, and
// room for its headers.
const maxMessageBytes = events.MaxFactBytes + headerRoom

// duplicateWindow is how long the broker remembers message ids. It costs memory
// for each of them; what must hold for longer rests on expectations.
const duplicateWindow = 2 * time.Minute

// wanted is how a stream must be configured.
//
// No limit on age, count or size: each of them deletes. Discard new: a limit
// that someone sets after all refuses new facts and does not drop old ones. No
// compression: a fact stays readable by anyone with an editor and the file, and
// compressing and compacting blocks is where the broker's own faults of this
// year were. No direct get: followers answer it, and may lag behind the writer.
// No rollups, message expiry, counters or schedules: they delete or rewrite.
func wanted(stream string, replicas int) natsjs.StreamConfig {
	config := natsjs.StreamConfig{
		Name: stream, Retention: natsjs.LimitsPolicy, Discard: natsjs.DiscardNew,
		MaxConsumers: -1, MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: -1, MaxMsgSize: maxMessageBytes,
		Storage: natsjs.FileStorage, Replicas: replicas, Duplicates: duplicateWindow,
		Compression: natsjs.NoCompression, DenyDelete: true, DenyPurge: true, AllowAtomicPublish: true,
	}
	switch stream {
	case StreamLedger:
		config.Subjects = []string{"ledger.>"}
	case StreamUses:
		// What retention has dropped goes by purging its beginning.
		config.Subjects, config.DenyPurge = []string{"uses.>"}, false
	case StreamAccess:
		accessConfig(&config)
	case StreamPresence:
		presenceConfig(&config)
	case StreamSnapshots:
		snapshotsConfig(&config)
	case StreamSeals:
		// The last on each subject, and nothing that keeps a wrapped key from
		// being destroyed. None of them is ever stored together with another.
		config.Subjects, config.MaxMsgsPerSubject = []string{"seals.>"}, 1
		config.DenyDelete, config.DenyPurge, config.AllowAtomicPublish = false, false, false
	}
	return config
}

// operators is what an operator may set as he likes; nothing else is. Metadata
// is also where the broker notes its own version, and placement names servers.
var operators = map[string][]string{
	StreamLedger: {"description", "metadata", "placement", "max_consumers"},
	// Uses may expire, after their tree's frontier became a fact of the ledger.
	// To make room the oldest go: hence the discard policy too. Nothing can be
	// purged where it is denied, and nothing else suffers.
	StreamUses:  {"description", "metadata", "placement", "max_consumers", "max_age", "max_bytes", "discard", "deny_purge"},
	StreamSeals: {"description", "metadata", "placement", "max_consumers"},
	// How much of the accesses is kept is the operator's to say.
	StreamAccess:    {"description", "metadata", "placement", "max_consumers", "max_age", "max_bytes", "max_msgs_per_subject"},
	StreamPresence:  {"description", "metadata", "placement", "max_consumers", "max_age", "max_bytes", "max_msgs_per_subject"},
	StreamSnapshots: {"description", "metadata", "placement", "max_consumers", "max_bytes"},
}

// EnsureStreams creates the streams of a ledger. It is called at an
// installation's beginning and never again, over a connection that may create
// streams. Called twice, as by a beginning that was interrupted, it leaves what
// is there and refuses it if it is configured otherwise.
func EnsureStreams(ctx context.Context, conn *nats.Conn, replicas int) error {
	js, err := natsjs.New(conn)
	if err != nil {
		return fmt.Errorf("jetstream: create streams: %w", err)
	}
	for _, name := range streams {
		_, err := js.CreateStream(ctx, wanted(name, replicas))
		var refused *natsjs.APIError
		switch {
		case err == nil:
		case errors.Is(err, natsjs.ErrStreamNameAlreadyInUse), errors.As(err, &refused) && refused.ErrorCode == codeStreamNameInUse:
			// It exists and differs; the check below names the member.
		default:
			return fmt.Errorf("%w: create stream %s: %w", events.ErrUnavailable, name, err)
		}
	}
	l := &Ledger{conn: conn, replicas: replicas, config: Config{LoadTimeout: 5 * time.Second}}
	return l.CheckStreams(ctx)
}

// CheckStreams compares the streams with what the ledger needs and refuses to go
// on when one is missing ([ErrStreamMissing]), configured otherwise
// ([ErrStreamChanged], naming the member), or has lost messages
// ([events.ErrCorrupt]). No answer is [events.ErrUnavailable]. It is called at
// every start, before anything else.
func (l *Ledger) CheckStreams(ctx context.Context) error {
	var faults []error
	for _, name := range streams {
		info, err := l.info(ctx, name)
		if errors.Is(err, events.ErrUnavailable) {
			return err
		}
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if err := compare(name, wanted(name, l.replicas), info.Config); err != nil {
			faults = append(faults, err)
		}
		if s := info.State; holed(name, s) {
			faults = append(faults, fmt.Errorf("%w: stream %s holds %d messages from position %d to %d, %d are missing between",
				events.ErrCorrupt, name, s.Messages, s.First, s.Last, s.Deleted))
		}
	}
	return errors.Join(faults...)
}

// holed tells whether messages are missing that must be there: all of the
// ledger's, those of the uses behind the oldest, and no seals in particular.
func holed(stream string, s streamState) bool {
	switch stream {
	case StreamLedger:
		return s.Deleted > 0 || s.Messages > 0 && s.First != 1 || s.Messages == 0 && s.Last > 0
	case StreamUses:
		return s.Deleted > 0
	default:
		return false
	}
}

// compare tells every member in which a stream is not configured as it should be.
func compare(stream string, want natsjs.StreamConfig, live rawConfig) error {
	wants, err := raw(want)
	if err != nil {
		return err
	}
	changed := differences(wants, live, operators[stream])
	if len(changed) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s: %s", ErrStreamChanged, stream, strings.Join(changed, ", "))
}

func same(a, b jsontext.Value) bool {
	return zero(a) && zero(b) || bytes.Equal(compact(a), compact(b))
}

func compact(v jsontext.Value) jsontext.Value {
	v = v.Clone()
	// A value that was parsed before can be put in canonical form; if not, it is
	// compared as it is.
	_ = v.Canonicalize()
	return v
}

// zero tells what a broker says, or leaves out, for "not set".
func zero(v jsontext.Value) bool {
	switch string(compact(v)) {
	case "", "null", "false", "0", `""`, "[]", "{}":
		return true
	}
	return false
}

func shown(v jsontext.Value) string {
	if zero(v) {
		return "not set"
	}
	return string(compact(v))
}
