package deny

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
)

// The list follows revocations, and the ends of organizations.
func TestFollow(t *testing.T) {
	w := newWorld(t)
	w.revoke("acme", 0, 2)
	w.record(ledgerID, map[events.Subject]events.Event{
		events.WorkspaceSubject("acme", "w"): events.WorkspaceCreated{ID: "w", Name: events.ClearText("w")},
		events.EndSubject("gone"):            events.OrganizationDeleted{},
	})
	s := w.serve(filepath.Join(t.TempDir(), "list"))
	w.revoke("acme", 2, 3)
	s.upToDate()
	for n, denied := range []bool{true, true, true, false} {
		s.want("acme", n, denied)
		s.want("gone", n, true)
		s.want("other", n, false)
	}
	s.wantSize(4, 0)
}

// The service is down, while thousands of keys are revoked, and the broker goes
// and comes again. Nothing of what it missed has a date after which it goes: that
// is what the consumer and the stream say. Back again, the service has it all.
func TestDown(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "list")
	const before, missed = 50, 1200
	w.revoke("acme", 0, before)
	s := w.serve(file)
	s.upToDate()
	s.wantSize(before, 0)
	s.stop()

	w.revoke("acme", before, before+missed/2)
	w.restart()
	w.revoke("acme", before+missed/2, before+missed)

	c := w.consumerInfo()
	if c.Config.InactiveThreshold != 0 || c.Config.MaxDeliver != -1 || len(c.Config.BackOff) != 0 ||
		c.Config.MemoryStorage || c.Config.Durable != consumer || c.Paused {
		t.Errorf("the consumer does not wait for ever: %+v", c.Config)
	}
	stream, err := w.js().Stream(t.Context(), jetstream.StreamLedger)
	if err != nil {
		t.Fatal(err)
	}
	if is := stream.CachedInfo().Config; is.MaxAge != 0 || is.MaxMsgs != -1 || is.MaxBytes != -1 || is.MaxMsgsPerSubject != -1 ||
		is.Retention != natsjs.LimitsPolicy || is.Discard != natsjs.DiscardNew || is.AllowMsgTTL {
		t.Errorf("the stream does not keep all for ever: %+v", is)
	}
	if c.NumPending != missed || c.NumAckPending != 0 {
		t.Errorf("%d are pending and %d in flight, and %d were missed", c.NumPending, c.NumAckPending, missed)
	}

	s = w.serve(file)
	s.want("acme", before-1, true) // before it heard anything
	s.upToDate()
	s.wantSize(before+missed, 0)
	for n := range before + missed {
		s.want("acme", n, true)
	}
	// While it runs, the broker may go as well.
	w.restart()
	w.revoke("acme", before+missed, before+missed+1)
	s.upToDate()
	s.want("acme", before+missed, true)
}

// A list that was lost is not filled again by itself: its consumer was told that
// everything is written down. An empty one, and an older one, are found out.
func TestLost(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "list")
	w.revoke("acme", 0, 3)
	s := w.serve(file)
	s.upToDate()
	s.stop()
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	older := whole[:strings.LastIndexByte(strings.TrimSpace(string(whole)), '\n')+1]
	for name, content := range map[string][]byte{"empty": nil, "older": older} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		list := open(t, file)
		f, err := NewFollower(Config{Conn: w.dial(), Consumer: consumer, List: list, Logger: s.config.Logger})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if err := f.Run(ctx); !errors.Is(err, ErrLost) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	s = w.serve(file)
	s.upToDate()
	s.wantSize(3, 0)
}

// What is told twice stands there once.
func TestTwice(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "list")
	w.revoke("acme", 0, 100)
	s := w.serve(file)
	s.upToDate()
	s.stop()
	// The consumer is made again, and tells everything from the beginning.
	js, c := w.js(), w.consumerInfo().Config
	if err := js.DeleteConsumer(t.Context(), jetstream.StreamLedger, consumer); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateConsumer(t.Context(), jetstream.StreamLedger, c); err != nil {
		t.Fatal(err)
	}
	s = w.serve(file)
	s.upToDate()
	s.wantSize(100, 0)
	if n := lines(t, file); n != 100 {
		t.Errorf("the file has %d lines", n)
	}
}

// What cannot be read, what another ledger wrote, and what a later version wrote
// denies what its subject names; a subject that names nothing is set aside. None
// of them keeps the next one waiting.
func TestUnreadable(t *testing.T) {
	w := newWorld(t)
	w.revoke("acme", 0, 1)
	later := func(n int, bears string) {
		subject := events.RevokedSubject("acme", keyID(n))
		body, err := events.Encode(subject, events.KeyRevoked{}, events.Meta{
			ID: events.EventID(uuid.Must(uuid.NewV7())), Ledger: ledgerID, Time: events.TimeOf(time.Now()), RecordedTime: events.TimeOf(time.Now()),
			Revision: 1, Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: events.CommandID(uuid.New()),
		})
		if err != nil {
			t.Fatal(err)
		}
		w.plant(subject.String(), strings.NewReplacer("key.revoked.v1", "key.revoked.v2", `"bearsonverdict":true`, `"bearsonverdict":`+bears).Replace(string(body)))
	}
	later(6, "false")
	later(1, "true")
	w.plant(events.RevokedSubject("acme", keyID(2)).String(), "no fact")
	w.record(events.LedgerID(uuid.New()), map[events.Subject]events.Event{events.RevokedSubject("acme", keyID(3)): events.KeyRevoked{}})
	w.plant("ledger.0000.acme.revoked.nobody", "no fact")
	w.plant(events.EndSubject("other").String(), "no fact")
	w.revoke("acme", 4, 5)
	file := filepath.Join(t.TempDir(), "list")
	s := w.serve(file)
	s.upToDate()
	for n := range 5 {
		s.want("acme", n, true)
	}
	s.want("acme", 5, false)
	s.want("other", 5, true)
	s.wantSize(6, 1)
	s.stop()
	s = w.serve(file)
	s.upToDate()
	s.wantSize(6, 1)
}

// A handler that always fails neither loses its message nor keeps the others
// waiting: after its tries the message is set aside, and what it names is denied.
func TestHandlerFails(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "list")
	s := w.serve(file)
	s.upToDate()
	// The list's file breaks; the one beside it does not.
	if err := s.list.list.close(); err != nil {
		t.Fatal(err)
	}
	w.revoke("acme", 0, 1)
	w.revoke("acme", 1, 2)
	s.upToDate()
	s.wantSize(2, 2)
	s.want("acme", 0, true)
	s.want("acme", 1, true)
	s.stop()
	if n := lines(t, file+".aside"); n != 2 {
		t.Errorf("%d messages were set aside", n)
	}
	// It is known after a restart too, and what comes then is written down again.
	s = w.serve(file)
	w.revoke("acme", 2, 3)
	s.upToDate()
	s.wantSize(3, 2)
	s.want("acme", 1, true)
}

// Where nothing can be written at all, messages go back to the broker. The list
// says that it is not up to date, and the next run has them.
func TestNothingCanBeWritten(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "list")
	s := w.serve(file)
	s.upToDate()
	if err := s.list.Close(); err != nil {
		t.Fatal(err)
	}
	w.revoke("acme", 0, 1)
	eventually(t, "the message came again", func() bool { return w.consumerInfo().NumRedelivered > 0 })
	if _, pending := s.Current(); pending == 0 {
		eventually(t, "it is told as pending", func() bool { _, n := s.Current(); return n == 1 })
	}
	s.want("acme", 0, false)
	s.stop()
	s = w.serve(file)
	s.upToDate()
	s.want("acme", 0, true)
	s.wantSize(1, 0)
}

// A service whose credential was revoked is thrown out at once. It ends, and says
// so, for its list goes no further.
func TestThrownOut(t *testing.T) {
	w := newWorld(t)
	f, err := NewFollower(Config{
		Conn: w.dial(), Consumer: consumer, List: open(t, filepath.Join(t.TempDir(), "list")), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- f.Run(t.Context()) }()
	eventually(t, "it is up to date", func() bool { at, _ := f.Current(); return !at.IsZero() })
	w.throwOut()
	select {
	case err := <-ended:
		if !errors.Is(err, ErrEnded) || !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the service goes on")
	}
}

func TestValidate(t *testing.T) {
	_, err := NewFollower(Config{})
	for _, member := range []string{"Conn", "Consumer", "List", "Logger"} {
		if err == nil || !strings.Contains(err.Error(), member) {
			t.Errorf("%s is not told: %v", member, err)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "no", "folder")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("open without a folder: %v", err)
	}
}
