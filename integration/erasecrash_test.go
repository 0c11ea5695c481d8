package integration

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjetstream "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/seals"
)

// TestErasureIsFinishedByWhoeverStarts lets an erasure end between its fact and the
// end of the key, as a server that dies there leaves it: the next one to start
// destroys the key, asked by nobody.
func TestErasureIsFinishedByWhoeverStarts(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := start(t, data)
	owner := s.owner()
	s.organization(owner, "acme", `,"policy":{"sealing":"on"}`)
	erased, kept := s.person(owner, "person-one"), s.person(owner, "person-two")
	s.Stop()
	before := sealingKeys(t, data)

	named := eraseAndDie(t, data, "acme", "person-one")
	if after := sealingKeys(t, data); len(after) != len(before) || !after[named] {
		t.Fatalf("%d of %d keys are left, and %s is there: %t", len(after), len(before), named, after[named])
	}

	s = start(t, data)
	s.called(owner, erased, "(erased)")
	s.called(owner, kept, "Person of person-two")
	s.finished(1)
	s.Stop()
	if after := sealingKeys(t, data); len(after) != len(before)-1 || after[named] {
		t.Errorf("%d of %d keys are left, and %s is there: %t", len(after), len(before), named, after[named])
	}
}

// TestErasuresSurviveKills kills the program while a person is erased, again and
// again. What was answered is erased, what is on record is erased without being
// asked for again, and of all others every text is there.
func TestErasuresSurviveKills(t *testing.T) {
	t.Parallel()
	const kills = 10
	data := t.TempDir()
	s := start(t, data)
	owner := s.owner()
	s.organization(owner, "acme", `,"policy":{"sealing":"on"}`)
	answered := map[string]bool{}
	keys := map[string]string{}
	for n := range kills {
		subject := fmt.Sprintf("person-%d", n)
		keys[subject] = s.person(owner, subject)
		asked := make(chan bool, 1)
		go func() {
			a, err := s.ask(owner, "POST", "/v1/organizations/acme/audit/erase", fmt.Sprintf(`{"subject":%q}`, subject))
			asked <- err == nil && a.Status == 200
		}()
		// An erasure takes a few milliseconds.
		time.Sleep(time.Duration(rand.N(8000)) * time.Microsecond)
		s.Kill()
		answered[subject] = <-asked
		s = start(t, data)
	}
	recorded := s.erasures(owner)
	s.finished(0)
	told := 0
	for subject, key := range keys {
		want := "Person of " + subject
		if recorded[subject] != nil {
			want = "(erased)"
		} else if answered[subject] {
			t.Errorf("the erasure of %s was answered, and is not on record", subject)
		}
		if answered[subject] {
			told++
		}
		s.called(owner, key, want)
	}
	s.Stop()
	left := sealingKeys(t, data)
	for subject, erased := range recorded {
		for _, id := range erased {
			if left[id] {
				t.Errorf("the key of %s is still there", subject)
			}
		}
	}
	if want := kills - len(recorded); len(left) != want {
		t.Errorf("%d keys are left, want %d", len(left), want)
	}
	t.Logf("%d of %d erasures are on record, %d were answered", len(recorded), kills, told)
}

// person makes a key that tells of a person.
func (s *server) person(owner, subject string) string {
	s.t.Helper()
	body := fmt.Sprintf(`{"name":"Person of %s","data_subject":%q,"permissions":["interview:read"],"scope":{"all_workspaces":true}}`, subject, subject)
	return s.must(201, owner, "POST", "/v1/organizations/acme/keys", body).Text("key.id")
}

// called expects the name that a key is shown with.
func (s *server) called(owner, key, want string) {
	s.t.Helper()
	if got := s.must(200, owner, "GET", "/v1/organizations/acme/keys/"+key, "").Text("name"); got != want {
		s.t.Errorf("the key is called %q, want %q", got, want)
	}
}

// finished waits until no erasure is pending, and so many were finished for others.
func (s *server) finished(least int) {
	s.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text := string(s.must(200, "", "GET", "/metrics", "").Body)
		var pending, done int
		for line := range strings.Lines(text) {
			_, _ = fmt.Sscanf(line, "keyledger_erasures_pending %d", &pending)
			_, _ = fmt.Sscanf(line, "keyledger_erasures_finished_total %d", &done)
		}
		if pending == 0 && done >= least {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%d erasures are pending, %d were finished", pending, done)
		}
	}
}

// erasures are the keys that are on record as erased, by their subject.
func (s *server) erasures(owner string) map[string][]string {
	s.t.Helper()
	out := map[string][]string{}
	a := s.must(200, owner, "GET", "/v1/organizations/acme/audit/events?raw=true&limit=200", "")
	var list struct {
		Items []struct {
			ID    string `json:"id"`
			Type  string `json:"type"`
			Event struct {
				Data struct {
					Keys []string `json:"keys"`
				} `json:"data"`
			} `json:"event"`
		} `json:"items"`
	}
	if err := json.Unmarshal(a.Body, &list); err != nil {
		s.t.Fatal(err)
	}
	for _, e := range list.Items {
		if e.Type == "subject.erased" {
			out[e.ID] = append(out[e.ID], e.Event.Data.Keys...)
		}
	}
	return out
}

// broken is a place of seals where nothing can be destroyed.
type broken struct{ *jetstream.Ledger }

var errDied = errors.New("died")

func (broken) Destroy(context.Context, string, func([]byte) bool) (bool, error) {
	return false, errDied
}

// folderLedger opens the ledger of a data folder that no server works with, and returns
// what closes it.
func folderLedger(t *testing.T, data string) (*jetstream.Ledger, events.LedgerID, func()) {
	t.Helper()
	broker, err := embedded.Start(t.Context(), embedded.Config{Dir: data})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Shutdown)
	id, _, err := jetstream.Identify(t.Context(), broker.Conn())
	if err != nil {
		t.Fatal(err)
	}
	ledger, err := jetstream.New(jetstream.Config{Conn: broker.Conn(), Ledger: id, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	return ledger, id, broker.Shutdown
}

// eraseAndDie records an erasure on a data folder that no server works with, and
// ends there. It returns the name of the key that it should have destroyed.
func eraseAndDie(t *testing.T, data string, org events.OrgID, subject events.DataSubject) string {
	t.Helper()
	ledger, id, end := folderLedger(t, data)
	defer end()
	text, err := os.ReadFile(filepath.Join(data, "installation.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := seals.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seals.Open(t.Context(), ledger, key, id)
	if err != nil {
		t.Fatal(err)
	}
	service, err := commands.New(commands.Config{
		Log: ledger, Ledger: id, Configuration: commands.NewConfiguration(), Subjects: seals.NewSubjects(keys, broken{ledger}, id),
		Holders: func(context.Context, events.OrgID) ([]events.KeyID, error) { return nil, nil },
		Await:   func(context.Context, events.Position) error { return nil }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := service.EraseSubject(t.Context(), commands.Wish{Principal: commands.Operator()}, org, subject)
	if !errors.Is(err, commands.ErrNotDestroyed) || !errors.Is(err, errDied) || len(out.Facts) != 1 {
		t.Fatal(out, err)
	}
	return out.Facts[0].Event.(events.SubjectErased).Keys[0]
}

// sealingKeys are the names of the data subjects' keys that a data folder holds.
func sealingKeys(t *testing.T, data string) map[string]bool {
	t.Helper()
	broker, err := embedded.Start(t.Context(), embedded.Config{Dir: data})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Shutdown()
	out := map[string]bool{}
	err = broker.Setup(t.Context(), func(conn *nats.Conn) error {
		js, err := natsjetstream.New(conn)
		if err != nil {
			return err
		}
		stream, err := js.Stream(t.Context(), jetstream.StreamSeals)
		if err != nil {
			return err
		}
		for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
			m, err := stream.GetMsg(t.Context(), seq)
			switch {
			case errors.Is(err, natsjetstream.ErrMsgNotFound):
			case err != nil:
				return err
			case strings.Contains(m.Subject, ".subject."):
				out[hex.EncodeToString(m.Data[:16])] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRestoredSealsAreClearedAgain brings the keys of before an erasure back, as a
// backup does: the ledger knows better, and so does the next server.
func TestRestoredSealsAreClearedAgain(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := start(t, data)
	owner := s.owner()
	s.organization(owner, "acme", `,"policy":{"sealing":"on"}`)
	erased, kept := s.person(owner, "person-one"), s.person(owner, "person-two")
	s.Stop()
	before := sealingKeys(t, data)
	stream, backup := sealsFolder(t, data), t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(stream)); err != nil {
		t.Fatal(err)
	}

	s = start(t, data)
	s.must(200, owner, "POST", "/v1/organizations/acme/audit/erase", `{"subject":"person-one"}`)
	s.Stop()
	after := sealingKeys(t, data)
	if len(after) != len(before)-1 {
		t.Fatalf("%d of %d keys are left", len(after), len(before))
	}
	if err := errors.Join(os.RemoveAll(stream), os.CopyFS(stream, os.DirFS(backup))); err != nil {
		t.Fatal(err)
	}
	if restored := sealingKeys(t, data); len(restored) != len(before) {
		t.Fatalf("%d of %d keys are restored", len(restored), len(before))
	}

	s = start(t, data)
	s.called(owner, erased, "(erased)")
	s.called(owner, kept, "Person of person-two")
	s.finished(1)
	s.Stop()
	if again := sealingKeys(t, data); !maps.Equal(again, after) {
		t.Errorf("%d of %d keys are left", len(again), len(before))
	}
}

// sealsFolder is the folder in which a data folder keeps the stream of seals.
func sealsFolder(t *testing.T, data string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(data, "broker", "jetstream", "*", "streams", jetstream.StreamSeals))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	return found[0]
}
