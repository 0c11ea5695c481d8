package jetstream

import (
	"context"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
)

// mirrorPrefix begins the names of mirrors among the streams.
const mirrorPrefix = "MIRROR_"

var (
	// ErrNoMirror says that there is no mirror of that name.
	ErrNoMirror = errors.New("jetstream: there is no such mirror")

	// ErrMirrorChanged says that a mirror is not the whole ledger, position by
	// position.
	ErrMirrorChanged = errors.New("jetstream: mirror was changed")
)

// MirrorStream is what the stream of a mirror is called.
func MirrorStream(name events.MirrorName) string { return mirrorPrefix + string(name) }

// mirrorFree is what an operator may set of a mirror as he likes.
var mirrorFree = []string{"description", "metadata", "placement", "max_consumers", "num_replicas"}

// wantedMirror is how a mirror must be configured: what it holds stands where it
// stands in the ledger, and nobody can publish to it. No direct get: nobody needs it.
func wantedMirror(name events.MirrorName, replicas int) natsjs.StreamConfig {
	return natsjs.StreamConfig{
		Name: MirrorStream(name), Mirror: &natsjs.StreamSource{Name: StreamLedger}, Retention: natsjs.LimitsPolicy,
		MaxConsumers: -1, MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: -1, MaxMsgSize: maxMessageBytes, Discard: natsjs.DiscardNew,
		Storage: natsjs.FileStorage, Replicas: replicas, Compression: natsjs.NoCompression, DenyDelete: true, DenyPurge: true,
	}
}

// EnsureMirror makes a mirror of the ledger, over a connection that may create
// streams. Called again it does nothing; one that is there and differs is
// [ErrMirrorChanged], which names the members.
func EnsureMirror(ctx context.Context, conn *nats.Conn, ledger events.LedgerID, name events.MirrorName, replicas int) error {
	if _, err := events.ParseMirrorName(string(name)); err != nil {
		return err
	}
	js, err := natsjs.New(conn)
	if err != nil {
		return fmt.Errorf("jetstream: create mirror: %w", err)
	}
	_, err = js.CreateStream(ctx, wantedMirror(name, replicas))
	var refused *natsjs.APIError
	switch {
	case err == nil, errors.Is(err, natsjs.ErrStreamNameAlreadyInUse), errors.As(err, &refused) && refused.ErrorCode == codeStreamNameInUse:
	default:
		return fmt.Errorf("%w: create mirror %s: %w", events.ErrUnavailable, name, err)
	}
	return onceFilled(ctx, func() error { return CheckMirror(ctx, conn, ledger, name) })
}

// errMirrorEmpty says that a mirror does not show yet what it is of.
var errMirrorEmpty = fmt.Errorf("%w: jetstream: mirror holds nothing yet", events.ErrUnavailable)

// CheckMirror says whether a mirror is there and is one of this ledger, all of it, over
// a connection that may ask about all streams: [ErrNoMirror], [ErrMirrorChanged].
func CheckMirror(ctx context.Context, conn *nats.Conn, ledger events.LedgerID, name events.MirrorName) error {
	return checkCopy(ctx, conn, ledger, wantedMirror(name, 1), string(name))
}

// Mirror is how a mirror stands.
type Mirror struct {
	Name events.MirrorName
	// Last is the position that it has come to, Lag how many facts it is behind as it
	// last heard, and Heard how long ago that is, negative if it never did.
	Last  events.Position
	Lag   uint64
	Heard time.Duration
	// Replicas is how many servers hold it, Readers how many read by it.
	Replicas, Readers int
}

// Mirrors returns the mirrors of the ledger, by name, over a connection that may list
// streams.
func Mirrors(ctx context.Context, conn *nats.Conn) ([]Mirror, error) {
	l := readOnly(conn)
	var out []Mirror
	for seen, total := 0, 1; seen < total; {
		var page struct {
			Error   *apiError `json:"error"`
			Total   int       `json:"total"`
			Streams []struct {
				Config struct {
					Name     string `json:"name"`
					Replicas int    `json:"num_replicas"`
				} `json:"config"`
				State struct {
					Last      uint64 `json:"last_seq"`
					Consumers int    `json:"consumer_count"`
				} `json:"state"`
				Mirror struct {
					Lag    uint64 `json:"lag"`
					Active int64  `json:"active"`
				} `json:"mirror"`
			} `json:"streams"`
		}
		body, err := stdjson.Marshal(map[string]int{"offset": seen})
		if err != nil {
			return nil, fmt.Errorf("jetstream: encode request: %w", err)
		}
		if err := l.askRaw(ctx, "$JS.API.STREAM.LIST", body, &page); err != nil {
			return nil, err
		}
		if page.Error != nil {
			return nil, fmt.Errorf("%w: %w", events.ErrUnavailable, page.Error)
		}
		if len(page.Streams) == 0 {
			break
		}
		seen, total = seen+len(page.Streams), page.Total
		for _, s := range page.Streams {
			name, ok := strings.CutPrefix(s.Config.Name, mirrorPrefix)
			if !ok {
				continue
			}
			out = append(out, Mirror{
				Name: events.MirrorName(name), Last: events.Position(s.State.Last), Lag: s.Mirror.Lag,
				Heard: time.Duration(s.Mirror.Active), Replicas: s.Config.Replicas, Readers: s.State.Consumers,
			})
		}
	}
	slices.SortFunc(out, func(a, b Mirror) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return out, nil
}
