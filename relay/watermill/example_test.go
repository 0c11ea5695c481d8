package watermill_test

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/relay/watermill"
)

// A list of revoked keys in memory: every instance reads all revocations at its
// start, and follows them from there.
func ExampleNewFollower() {
	follow := func(ctx context.Context, conn *nats.Conn, ledger events.LedgerID, revoked *sync.Map) error {
		follower, err := watermill.NewFollower(watermill.FollowerConfig{
			Conn:     conn,
			Ledger:   ledger,
			Topics:   map[string][]string{"revocations": watermill.Revocations("acme")},
			Delivery: watermill.Delivery{MaxInFlight: 256},
		})
		if err != nil {
			return err
		}
		messages, err := follower.Subscribe(ctx, "revocations")
		if err != nil {
			return err
		}
		for m := range messages {
			fact, err := watermill.Decode(m)
			if err != nil {
				m.Nack()
				continue
			}
			switch fact.Event.(type) {
			case events.KeyRevoked:
				id, _ := fact.Subject.Key()
				revoked.Store(id, fact.Position)
			case events.OrganizationDeleted:
				revoked.Store(fact.Subject.Org, fact.Position)
			}
			m.Ack()
		}
		return follower.Close()
	}
	_ = follow
}
