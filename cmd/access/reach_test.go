package access_test

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/cmd/access"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/jetstream"
)

// On a cluster somebody is let in and shut out by the folder of its root of trust,
// at every node, and also while one is away.
func TestOnCluster(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t)
	reach := access.Reach{
		URL: c.URL(0), Auth: c.Authority().Dir(), Replicas: clustertest.Nodes, Logger: slog.New(slog.DiscardHandler),
	}
	c.Begin()
	if _, _, err := reach.Open(t.Context()); !errors.Is(err, access.ErrNotBegun) {
		t.Fatalf("open: %v", err)
	}
	ledger, err := jetstream.New(jetstream.Config{Conn: c.Connect(1), Ledger: ledgerID, Replicas: clustertest.Nodes})
	if err != nil {
		t.Fatal(err)
	}
	subject := events.InstallationSubject()
	_, err = ledger.Append(t.Context(), []events.Entry{{
		Subject: subject, Event: events.InstallationCreated{Ledger: ledgerID, Epoch: 1}, Expect: events.Expect(subject, 0),
		Meta: events.Meta{
			ID: events.EventID(uuid.Must(uuid.NewV7())), Ledger: ledgerID, Time: events.TimeOf(time.Now()), Revision: 1,
			Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: events.CommandID(uuid.New()),
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	doors, leave, err := reach.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	wish := access.Wish{Name: "edge", For: events.CredentialAuditor, Out: filepath.Join(t.TempDir(), "edge.creds")}
	if _, err := doors.Issue(t.Context(), wish); err != nil {
		t.Fatal(err)
	}
	enters := func(node int) bool {
		conn, err := nats.Connect(c.URL(node), nats.UserCredentials(wish.Out))
		if err != nil {
			return false
		}
		defer conn.Close()
		for _, stream := range []string{jetstream.StreamLedger, jetstream.StreamUses, jetstream.StreamAccess} {
			if _, err := jetstream.DescribeReader(t.Context(), conn, stream, "edge"); err != nil {
				t.Logf("%s: %v", stream, err)
				return false
			}
		}
		return true
	}
	for node := range clustertest.Nodes {
		if !enters(node) {
			t.Errorf("node %d does not let in", node)
		}
	}
	c.Stop(2)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if err = doors.Revoke(t.Context(), "edge", "test"); err == nil {
			break
		}
		// Without its leader a stream answers nothing for a while.
		if !errors.Is(err, events.ErrUnavailable) && !errors.Is(err, events.ErrOutcomeUnknown) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	for node := range 2 {
		if enters(node) {
			t.Errorf("node %d lets in who was shut out", node)
		}
	}
}

func TestReach(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	for _, bad := range []access.Reach{
		{Logger: quiet},
		{Data: "data", Auth: "auth", Logger: quiet},
		{URL: "nats://127.0.0.1:1", Replicas: 3, Logger: quiet},
		{URL: "nats://127.0.0.1:1", Auth: "auth", Replicas: 2, Logger: quiet},
		{Data: "data"},
	} {
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), "access: ") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	authority, err := credentials.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	nobody := access.Reach{URL: "nats://127.0.0.1:1", Auth: authority.Dir(), Replicas: 1, Logger: quiet}
	if _, _, err := nobody.Open(t.Context()); !errors.Is(err, access.ErrNoBroker) {
		t.Errorf("open: %v", err)
	}
	nobody.Auth = t.TempDir()
	if _, _, err := nobody.Open(t.Context()); !errors.Is(err, credentials.ErrNoAuthority) {
		t.Errorf("open: %v", err)
	}
}
