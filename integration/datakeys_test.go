package integration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/wrapping"
)

const (
	acmeProviderKeys = "/v1/organizations/acme/provider-keys"
	acmeOpenAI       = acmeProviderKeys + "/openai"
)

// TestDeadDataKeysAreDestroyedByWhoeverStarts lets the removal of a provider key end
// between its fact and the end of its data key, as a server that dies there leaves
// it: the next one to start destroys the data key, asked by nobody, and no other.
func TestDeadDataKeysAreDestroyedByWhoeverStarts(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := start(t, data)
	owner := s.owner()
	s.organization(owner, "acme", "")
	s.connect(owner, "openai", 1)
	s.connect(owner, "mistral", 2)
	s.resolved(owner, "openai", 1)
	s.Stop()
	if n := len(dataKeys(t, data)); n != 2 {
		t.Fatalf("there are %d data keys", n)
	}

	dead := removeAndDie(t, data, "acme", events.ProviderOpenAI)
	if left := dataKeys(t, data); len(left) != 2 || !left[dead] {
		t.Fatalf("%d data keys are left, and %s is there: %t", len(left), dead, left[dead])
	}

	s = start(t, data)
	s.resolved(owner, "openai", 0)
	s.resolved(owner, "mistral", 2)
	s.kept(func(destroyed, _ int) bool { return destroyed == 1 })
	s.resolved(owner, "mistral", 2)
	s.Stop()
	if left := dataKeys(t, data); len(left) != 1 || left[dead] {
		t.Errorf("%d data keys are left, and %s is there: %t", len(left), dead, left[dead])
	}
}

// TestRestoredDataKeysAreDestroyedAgain brings the data keys of before a removal back,
// as a backup of SEALS does: the ledger knows better, and so does the next server.
func TestRestoredDataKeysAreDestroyedAgain(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := start(t, data)
	owner := s.owner()
	s.organization(owner, "acme", "")
	s.connect(owner, "openai", 1)
	s.connect(owner, "mistral", 2)
	s.Stop()
	stream, backup := sealsFolder(t, data), t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(stream)); err != nil {
		t.Fatal(err)
	}
	before := dataKeys(t, data)

	s = start(t, data)
	s.must(200, owner, "DELETE", acmeOpenAI, "")
	s.Stop()
	after := dataKeys(t, data)
	if err := errors.Join(os.RemoveAll(stream), os.CopyFS(stream, os.DirFS(backup))); err != nil {
		t.Fatal(err)
	}
	if restored := dataKeys(t, data); len(before) != 2 || len(after) != 1 || len(restored) != 2 {
		t.Fatalf("%d, %d and %d data keys", len(before), len(after), len(restored))
	}

	s = start(t, data)
	s.kept(func(destroyed, _ int) bool { return destroyed == 1 })
	s.resolved(owner, "openai", 0)
	s.resolved(owner, "mistral", 2)
	s.Stop()
	for id := range dataKeys(t, data) {
		if !after[id] {
			t.Errorf("%s is still there", id)
		}
	}
}

// TestProviderKeysSurviveKills kills the program while a provider key is added,
// replaced or removed, again and again. What was answered is so afterwards, what is
// on record resolves at once and opens, and of what is not on record nothing does.
func TestProviderKeysSurviveKills(t *testing.T) {
	t.Parallel()
	const kills = 10
	data := t.TempDir()
	s := start(t, data)
	owner := s.owner()
	s.organization(owner, "acme", "")
	secret := 0 // of the one that is connected; 0 is none
	for n := 1; n <= kills; n++ {
		method, path, body, then := "POST", acmeProviderKeys, fmt.Sprintf(`{"provider":"openai","secret":%q}`, providerSecret(n)), n
		switch {
		case secret != 0 && n%3 == 0:
			method, path, body, then = "DELETE", acmeOpenAI, "", 0
		case secret != 0:
			method, path = "PATCH", acmeOpenAI
		}
		answered := make(chan int, 1)
		go func() {
			a, err := s.ask(owner, method, path, body)
			if err != nil {
				a.Status = 0
			}
			answered <- a.Status
		}()
		// It takes a few milliseconds.
		time.Sleep(time.Duration(rand.N(8000)) * time.Microsecond)
		s.Kill()
		status := <-answered
		s = start(t, data)
		if got := s.resolves(owner, "openai"); got != providerSecret(then) && got != providerSecret(secret) || status/100 == 2 && got != providerSecret(then) {
			t.Fatalf("%s was answered with %d, and what resolves is none of what was given", method, status)
		} else if got == providerSecret(then) {
			secret = then
		}
	}
	live := 0
	if secret != 0 {
		live = 1
	}
	s.kept(func(_, current int) bool { return current == live })
	s.resolved(owner, "openai", secret)
	s.Stop()
	// What was drawn and never named is destroyed when nobody can be about to name it.
	if n := len(dataKeys(t, data)); n < live || n > live+kills {
		t.Errorf("%d data keys are left of %d that are needed", n, live)
	}
	t.Logf("%d data keys that no event names are left to be destroyed in an hour", len(dataKeys(t, data))-live)
}

// providerSecret is a secret that a provider could have given out; none for 0.
func providerSecret(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("0123456789abcdefABCDEF%010d", n)
}

// connect adds a provider key.
func (s *server) connect(owner, provider string, n int) {
	s.t.Helper()
	s.must(201, owner, "POST", acmeProviderKeys, fmt.Sprintf(`{"provider":%q,"secret":%q,"force":true}`, provider, providerSecret(n)))
}

// resolves is what a provider resolves to: a secret, or none for the built-in one.
func (s *server) resolves(owner, provider string) string {
	s.t.Helper()
	return s.must(200, owner, "POST", acmeProviderKeys+"/resolve", fmt.Sprintf(`{"provider":%q}`, provider)).Text("secret")
}

func (s *server) resolved(owner, provider string, n int) {
	s.t.Helper()
	if got := s.resolves(owner, provider); got != providerSecret(n) {
		s.t.Errorf("%s resolves to another secret than the one given, or to one where there is none", provider)
	}
}

// kept waits until nothing that is dead is left, and the numbers of data keys that
// were destroyed for others and of those in use are as wanted.
func (s *server) kept(as func(destroyed, current int) bool) {
	s.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text := string(s.must(200, "", "GET", "/metrics", "").Body)
		pending, destroyed, current, failed := -1, -1, -1, -1
		for line := range strings.Lines(text) {
			_, _ = fmt.Sscanf(line, "keyledger_provider_data_keys_pending %d", &pending)
			_, _ = fmt.Sscanf(line, `keyledger_provider_data_keys_kept_total{outcome="destroyed"} %d`, &destroyed)
			_, _ = fmt.Sscanf(line, `keyledger_provider_data_keys_kept_total{outcome="failed"} %d`, &failed)
			_, _ = fmt.Sscanf(line, `keyledger_provider_data_keys{current="true"} %d`, &current)
		}
		if pending == 0 && as(destroyed, current) {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%d data keys are pending, %d were destroyed, %d are in use, %d tries failed", pending, destroyed, current, failed)
		}
	}
}

// stubborn is a place of data keys where nothing can be destroyed.
type stubborn struct{ *jetstream.Ledger }

func (stubborn) Destroy(context.Context, string, func([]byte) bool) (bool, error) {
	return false, errDied
}

// opensFolder works on a data folder that no server works with.
func opensFolder(t *testing.T, data string, use func(*jetstream.Ledger, events.LedgerID, wrapping.Ring)) {
	t.Helper()
	ledger, id, end := folderLedger(t, data)
	defer end()
	text, err := os.ReadFile(filepath.Join(data, "provider.kek"))
	if err != nil {
		t.Fatal(err)
	}
	kek, err := wrapping.ParseKeyset(text)
	if err != nil {
		t.Fatal(err)
	}
	use(ledger, id, wrapping.Ring{Primary: kek})
}

// removeAndDie records a removal, and ends there. It returns the data key that it
// should have destroyed.
func removeAndDie(t *testing.T, data string, org events.OrgID, provider events.ProviderID) (dead events.DataKeyID) {
	t.Helper()
	opensFolder(t, data, func(ledger *jetstream.Ledger, id events.LedgerID, ring wrapping.Ring) {
		configuration := commands.NewConfiguration()
		ctx, stop := context.WithCancel(t.Context())
		var followed sync.WaitGroup
		defer followed.Wait()
		defer stop()
		followed.Go(func() {
			_ = ledger.Follow(ctx, 0, func(facts []events.Recorded) error { return configuration.Apply(ctx, facts) })
		})
		last, err := ledger.Last(t.Context())
		for at := events.Position(0); err == nil && at < last; time.Sleep(time.Millisecond) {
			at, err = configuration.Position(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		service, err := commands.New(commands.Config{
			Log: ledger, Ledger: id, Configuration: configuration, Envelopes: seals.NewEnvelopes(ring, stubborn{ledger}, id),
			Holders: func(context.Context, events.OrgID) ([]events.KeyID, error) { return nil, nil },
			Await:   func(context.Context, events.Position) error { return nil }, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		out, err := service.RemoveProviderKey(t.Context(), commands.Wish{Principal: commands.Operator()}, org, provider)
		if !errors.Is(err, commands.ErrNotDestroyed) || !errors.Is(err, errDied) || len(out.Facts) != 1 {
			t.Fatal(out, err)
		}
		dead = out.Facts[0].Event.(events.ProviderKeyRemoved).DataKey
	})
	return dead
}

// dataKeys are the data keys that a data folder holds.
func dataKeys(t *testing.T, data string) map[events.DataKeyID]bool {
	t.Helper()
	out := map[events.DataKeyID]bool{}
	opensFolder(t, data, func(ledger *jetstream.Ledger, id events.LedgerID, ring wrapping.Ring) {
		list, err := seals.NewEnvelopes(ring, ledger, id).All(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range list {
			out[d.ID] = true
		}
	})
	return out
}
