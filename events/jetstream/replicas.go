package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/keyledger/keyledger/events"
)

// ErrReplicas says that the streams lie on more or fewer servers than they are
// said to.
var ErrReplicas = errors.New("jetstream: the streams lie on another number of replicas")

// Check is what every program that works on the streams begins with:
// [Ledger.CheckReplicas], and then [Ledger.CheckStreams].
func (l *Ledger) Check(ctx context.Context) error {
	if err := l.CheckReplicas(ctx); err != nil {
		return err
	}
	return l.CheckStreams(ctx)
}

// CheckReplicas says by a name of its own what [Ledger.CheckStreams] would find
// too: it is seldom the stream that is wrong then.
func (l *Ledger) CheckReplicas(ctx context.Context) error {
	info, err := l.info(ctx, StreamLedger)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(string(info.Config["num_replicas"]))
	if err != nil {
		return fmt.Errorf("%w: unreadable configuration of %s", events.ErrUnavailable, StreamLedger)
	}
	if n != l.replicas {
		return fmt.Errorf("%w: %d and not %d", ErrReplicas, n, l.replicas)
	}
	return nil
}
