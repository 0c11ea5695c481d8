package integration

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain/installation"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/projections"
)

// One wish, one outcome, also when the broker has long forgotten the ids of its
// messages: here it does after a moment, in the ledger's own stream after minutes.
func TestIdempotencyOutlivesTheBrokersMemory(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	broker, err := embedded.Start(ctx, embedded.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Shutdown)
	const window = 100 * time.Millisecond
	err = broker.Setup(ctx, func(conn *nats.Conn) error {
		js, err := natsjs.New(conn)
		if err != nil {
			return err
		}
		_, err = js.CreateStream(ctx, natsjs.StreamConfig{
			Name: jetstream.StreamLedger, Subjects: []string{"ledger.>"}, Storage: natsjs.FileStorage,
			AllowAtomicPublish: true, Duplicates: window,
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	id := events.LedgerID{1}
	ledger, err := jetstream.New(jetstream.Config{Conn: broker.Conn(), Ledger: id, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	owner, err := commands.NewOwner()
	if err != nil {
		t.Fatal(err)
	}
	if err := commands.Begin(ctx, ledger, id, owner, installation.Signer{Name: "log", VerifierKey: "log+0+0"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	service := func() *commands.Service {
		config := commands.NewConfiguration()
		runner, err := projections.NewRunner(projections.Config{Source: ledger, View: config})
		if err != nil {
			t.Fatal(err)
		}
		running, stop := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() { defer close(done); _ = runner.Run(running) }()
		t.Cleanup(func() { stop(); <-done })
		<-runner.Ready()
		s, err := commands.New(commands.Config{
			Log: ledger, Ledger: id, Configuration: config, Await: runner.WaitFor, Logger: slog.New(slog.DiscardHandler),
			Holders: func(context.Context, events.OrgID) ([]events.KeyID, error) { return nil, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	wish := commands.Wish{
		Principal: commands.Principal{
			Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Org: events.System,
			Role: events.RoleOwner, Scope: events.Scope{AllWorkspaces: true},
		},
	}
	s := service()
	if _, err := s.CreateOrganization(ctx, wish, organization.Create{ID: "acme", Name: events.ClearText("Acme")}); err != nil {
		t.Fatal(err)
	}
	wish.IdempotencyKey, wish.Route, wish.Body = "4b7c1c1e", "POST keys", []byte(`{}`)
	create := func(s *commands.Service) commands.KeyOutcome {
		out, err := s.CreateKey(ctx, wish, "acme", commands.CreateKey{Create: key.Create{
			Permissions: events.Permissions{Level: events.LevelAll}, Scope: events.Scope{AllWorkspaces: true},
		}})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	first := create(s)
	before, err := ledger.Last(ctx)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * window)
	for name, s := range map[string]*commands.Service{"the same server": s, "another server": service()} {
		again := create(s)
		if !again.Replayed || again.Key.ID != first.Key.ID || !again.Secret.IsZero() {
			t.Errorf("%s: replayed %t, key %s instead of %s, a secret: %t", name, again.Replayed, again.Key.ID, first.Key.ID, !again.Secret.IsZero())
		}
	}
	if after, err := ledger.Last(ctx); err != nil || after != before {
		t.Errorf("repeats moved the ledger from %d to %d (%v)", before, after, err)
	}
}
