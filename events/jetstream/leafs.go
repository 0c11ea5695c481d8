package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
)

// HubPrefix begins the subjects by which a leaf node reaches the doors of the broker
// that it hangs on. What begins with $JS.API never crosses between the two.
const HubPrefix = "keyledger.hub"

// LeafSubject is where the broker delivers the ledger for a leaf node. No stream
// takes what comes there.
func LeafSubject(leaf events.CredentialName) string { return "keyledger.copy." + string(leaf) }

// wantedCopy is how a leaf node's copy of the ledger must be configured. It is called
// like the ledger's stream, so that verifiers read it as they read that one, and it is
// fed by the one consumer that was made for the leaf node: it can make none.
func wantedCopy(leaf events.CredentialName) natsjs.StreamConfig {
	config := wantedMirror("", 1)
	config.Name = StreamLedger
	config.Mirror = &natsjs.StreamSource{
		Name: StreamLedger,
		// Nothing is delivered by the second: the consumer says where to.
		External: &natsjs.ExternalStream{APIPrefix: HubPrefix, DeliverPrefix: "keyledger.none"},
		Consumer: &natsjs.StreamConsumerSource{Name: string(leaf), DeliverSubject: LeafSubject(leaf)},
	}
	return config
}

// EnsureCopy makes a leaf node's copy of the ledger, over a connection to the leaf node
// that may create streams, and returns once it shows whose it is. Called again it does
// nothing; one that is there and differs is [ErrMirrorChanged].
func EnsureCopy(ctx context.Context, conn *nats.Conn, ledger events.LedgerID, leaf events.CredentialName) error {
	js, err := natsjs.New(conn)
	if err != nil {
		return fmt.Errorf("jetstream: create copy: %w", err)
	}
	want := wantedCopy(leaf)
	_, err = js.CreateStream(ctx, want)
	var refused *natsjs.APIError
	switch {
	case err == nil, errors.Is(err, natsjs.ErrStreamNameAlreadyInUse), errors.As(err, &refused) && refused.ErrorCode == codeStreamNameInUse:
	default:
		return fmt.Errorf("%w: create the leaf node's copy: %w", events.ErrUnavailable, err)
	}
	return onceFilled(ctx, func() error { return checkCopy(ctx, conn, ledger, want, string(leaf)) })
}

// fills is how long a copy may take to begin to fill: one that hangs on nothing never
// does.
const fills = 30 * time.Second

// onceFilled waits until a copy shows whose it is.
func onceFilled(ctx context.Context, check func() error) error {
	for deadline := time.Now().Add(fills); ; {
		err := check()
		if !errors.Is(err, errMirrorEmpty) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// checkCopy compares a stream with what it should be, and its first fact with the
// ledger's.
func checkCopy(ctx context.Context, conn *nats.Conn, ledger events.LedgerID, want natsjs.StreamConfig, name string) error {
	l := readOnly(conn)
	info, err := l.info(ctx, want.Name)
	if errors.Is(err, ErrStreamMissing) {
		return fmt.Errorf("%w: %s", ErrNoMirror, name)
	}
	if err != nil {
		return err
	}
	wants, err := raw(want)
	if err != nil {
		return err
	}
	if changed := differences(wants, info.Config, mirrorFree); len(changed) > 0 {
		return fmt.Errorf("%w: %s: %s", ErrMirrorChanged, name, strings.Join(changed, ", "))
	}
	id, begun, err := l.identify(ctx, want.Name)
	switch {
	case err != nil:
		return err
	case !begun && info.State.Messages == 0:
		return fmt.Errorf("%w: %s", errMirrorEmpty, name)
	case !begun || id != ledger:
		return fmt.Errorf("%w: %s is of another ledger", ErrMirrorChanged, name)
	}
	return nil
}

// CopyOf tells which leaf node a broker is, by the copy of the ledger that it keeps;
// empty if it keeps none yet.
func CopyOf(ctx context.Context, conn *nats.Conn) (events.CredentialName, error) {
	info, err := readOnly(conn).info(ctx, StreamLedger)
	if errors.Is(err, ErrStreamMissing) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var mirror struct {
		Consumer struct {
			Name events.CredentialName `json:"name"`
		} `json:"consumer"`
	}
	if text, ok := info.Config["mirror"]; ok {
		if err := json.Unmarshal(text, &mirror); err != nil {
			return "", fmt.Errorf("%w: unreadable configuration of %s", events.ErrUnavailable, StreamLedger)
		}
	}
	if mirror.Consumer.Name == "" {
		return "", fmt.Errorf("%w: what is there is no leaf node's copy", ErrMirrorChanged)
	}
	return mirror.Consumer.Name, nil
}
