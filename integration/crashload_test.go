package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/usage"
)

// ender is a client that makes an organization with a key and ends it, over and
// over. A wish that has no answer is told again until it has one.
type ender struct {
	number, cycle, step, wishes int
	secret                      string
	cut                         bool
}

func (e *ender) org() string { return fmt.Sprintf("end-%d-%d", e.number, e.cycle) }

// life is what an organization goes through, step by step.
var life = []struct{ method, path, body string }{
	{"POST", "/v1/organizations", `{"id":"ORG","name":"Short"}`},
	{"PUT", "/v1/organizations/ORG/permissions", catalogBody},
	{"POST", "/v1/organizations/ORG/keys", keyBody},
	{"DELETE", "/v1/organizations/ORG", ""},
}

// next takes the next step, and reports whether it was answered.
func (e *ender) next(t *testing.T, s *server, owner string) bool {
	step := life[e.step]
	fill := strings.NewReplacer("ORG", e.org()).Replace
	a, err := s.ask(owner, step.method, fill(step.path), fill(step.body), "Idempotency-Key", fmt.Sprintf("%s-%d", e.org(), e.step))
	e.wishes++
	if e.cut = err != nil || a.Status >= 500; e.cut {
		return false
	}
	if a.Status != 200 && a.Status != 201 {
		t.Errorf("%s %s: %s", step.method, fill(step.path), a)
		return false
	}
	if secret := a.Text("secret"); secret != "" {
		e.secret = secret
	}
	if e.step++; e.step == len(life) {
		e.step, e.cycle, e.secret = 0, e.cycle+1, ""
	}
	return true
}

func (e *ender) run(t *testing.T, s *server, owner string) {
	for e.next(t, s, owner) {
	}
}

// check looks at the organization of the last cycle and at this one's: an end
// that was answered holds, one that was not is there for the organization and
// its key alike, or for neither.
func (e *ender) check(t *testing.T, s *server, owner string) {
	t.Helper()
	there := func(org string) bool {
		a, err := s.ask(owner, "GET", "/v1/organizations/"+org, "")
		if err != nil || a.Status != 200 && a.Status != 404 {
			t.Fatalf("organization %s: %s, %v", org, a, err)
		}
		return a.Status == 200
	}
	if e.cycle > 0 {
		if last := (&ender{number: e.number, cycle: e.cycle - 1}).org(); there(last) {
			t.Errorf("organization %s is there after its end was answered", last)
		}
	}
	if e.step > 0 && e.step < len(life)-1 && !there(e.org()) {
		t.Errorf("organization %s is not there after its beginning was answered", e.org())
	}
	if e.step == len(life)-1 && e.secret != "" {
		want := "REVOKED"
		if there(e.org()) {
			want = "VALID"
		} else if !e.cut {
			t.Errorf("organization %s was ended by nobody", e.org())
		}
		if got := s.verdict(owner, e.secret, "interview:read"); got != want {
			t.Errorf("a key of %s is %s, want %s", e.org(), got, want)
		}
		secret, org := e.secret, e.org()
		if !e.next(t, s, owner) {
			t.Fatalf("the end of %s, told again, has no answer", org)
		}
		if got := s.verdict(owner, secret, "interview:read"); got != "REVOKED" || there(org) {
			t.Errorf("after the end of %s its key is %s", org, got)
		}
	}
}

// verifiers are clients that ask for verdicts on keys that nobody changes.
type verifiers struct {
	secrets []string
	keys    map[events.KeyID]bool
	// asked and valid count requests that were sent, and VALID answers, since the
	// last kill.
	asked, valid atomic.Int64
	boots        []asked
}

// asked is what was asked of one run of the server.
type asked struct {
	from, to     events.Time
	asked, valid int64
}

func newVerifiers(s *server, owner string) *verifiers {
	s.t.Helper()
	v := &verifiers{keys: map[events.KeyID]bool{}}
	for range 4 {
		created := s.must(201, owner, "POST", acmeOrg+"/keys", keyBody)
		id, err := events.ParseKeyID(created.Text("key.id"))
		if err != nil {
			s.t.Fatal(err)
		}
		v.secrets, v.keys[id] = append(v.secrets, created.Text("secret")), true
	}
	return v
}

func (v *verifiers) run(t *testing.T, s *server, owner string, running *sync.WaitGroup) {
	for _, secret := range v.secrets {
		running.Go(func() {
			// Without a pause nobody else came to do anything.
			for ; ; time.Sleep(3 * time.Millisecond) {
				v.asked.Add(1)
				a, err := s.ask(owner, "POST", "/v1/verify", fmt.Sprintf(`{"secret":%q,"permission":"interview:read"}`, secret))
				if err != nil {
					return
				}
				if a.Text("code") != "VALID" {
					t.Errorf("verdict on a key that nobody changes: %s", a)
					return
				}
				v.valid.Add(1)
			}
		})
	}
}

// killed notes that a run has ended which was asked from an instant on.
func (v *verifiers) killed(from time.Time) {
	v.boots = append(v.boots, asked{events.TimeOf(from), events.TimeOf(time.Now()), v.asked.Swap(0), v.valid.Swap(0)})
}

// check compares what each killed run had answered with what is stored of it: no
// more is missing than the bound that its boot tells, and nothing that was not
// asked for is there.
func (v *verifiers) check(t *testing.T, data string) {
	t.Helper()
	stored, bounds := v.stored(t, data)
	var answered, lost, worst int64
	for _, run := range v.boots {
		var n, bound int64
		for boot, times := range stored {
			// The uses say when they were: between the beginning of the round and
			// its kill.
			of := int64(0)
			for _, at := range times {
				if at >= run.from && at <= run.to {
					of++
				}
			}
			if n += of; of > 0 {
				bound = max(bound, int64(bounds[boot]))
			}
		}
		missing := max(0, run.valid-n)
		if n == 0 {
			bound = max(bound, int64(largest(bounds)))
		}
		if missing > bound || n > run.asked {
			t.Errorf("%d verdicts were asked for and %d answered VALID; %d uses are stored, and the boot tells of %d that may be missing", run.asked, run.valid, n, bound)
		}
		answered, lost, worst = answered+run.valid, lost+missing, max(worst, missing)
	}
	t.Logf("%d VALID answers of killed runs, %d of them lost with their runs, %d of one run at most", answered, lost, worst)
	if answered == 0 {
		t.Error("no verdict was asked for: this proves nothing")
	}
}

func largest(bounds map[uses.BootID]uint64) uint64 {
	var most uint64
	for _, b := range bounds {
		most = max(most, b)
	}
	return most
}

// stored reads the stream of uses: when the keys were used with VALID, by boot,
// and how many uses each boot without an end may have lost.
func (v *verifiers) stored(t *testing.T, data string) (map[uses.BootID][]events.Time, map[uses.BootID]uint64) {
	t.Helper()
	of := positions(t, data)
	view, err := usage.Open(t.Context(), usage.Config{Path: data + "/usage.db", Of: of})
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	unended, err := view.Unended(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bounds := map[uses.BootID]uint64{}
	for _, f := range unended {
		bounds[f.Boot] = f.Count
	}
	broker, err := embedded.Start(t.Context(), embedded.Config{Dir: data})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Shutdown()
	ledger, err := jetstream.New(jetstream.Config{Conn: broker.Conn(), Ledger: of.Ledger, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	last, err := ledger.LastUses(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	decoder, err := uses.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	stored := map[uses.BootID][]events.Time{}
	ctx, done := context.WithCancel(t.Context())
	defer done()
	err = ledger.FollowUses(ctx, 0, func(messages []events.UsesMessage) error {
		for _, m := range messages {
			b, err := decoder.Decode(m.Subject, m.Body)
			if err != nil {
				return err
			}
			for _, u := range b.Uses {
				if v.keys[u.Key] && u.Code == events.CodeValid {
					stored[b.Boot] = append(stored[b.Boot], u.At)
				}
			}
			if m.Position == last {
				done()
			}
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	return stored, bounds
}
