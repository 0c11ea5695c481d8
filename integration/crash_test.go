package integration

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/audit"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/projections/usage"
	"github.com/keyledger/keyledger/verify/recording"
)

var (
	// seed makes what clients do, and when the program is killed, the same again.
	seed = flag.Uint64("seed", 0, "what clients do, and when they are interrupted, is drawn from it; 0 draws one")
	// rounds is made for some ten seconds; a night takes thousands.
	rounds = flag.Int("rounds", 12, "how often the program is killed")
)

// The organizations of the test: acme's keys live long, the crowd's come and go
// under a limit that they could just exceed.
const (
	acmeOrg  = "/v1/organizations/acme"
	crowdOrg = "/v1/organizations/crowd"

	// crowd is how many clients create keys at the same time, and crowdLimit how
	// many may be active.
	crowd      = 12
	crowdLimit = crowd + 2
)

// wish is a request that can be told again.
type wish struct {
	method, path, body, repeat string
	answered                   bool
	answer                     answer
	// before and after are what its key looks like without it and with it.
	before, after look
}

// look is what of a key is looked at. A patch sets all but the status, and the
// parts of it carry one number, so that half a patch shows.
type look struct{ Name, Number, Grant, Status string }

// writer is a client with a key of its own, one at a time: nobody else touches
// it, so that the client knows what it must look like.
type writer struct {
	dice   *rand.Rand
	number int
	// org is the path of the organization that the key is in; brief says that the
	// client creates and revokes, and nothing else.
	org     string
	brief   bool
	wishes  int
	id      string
	look    look
	secrets map[string]string // by key id
	last    wish
}

func (w *writer) wish(method, path, body string, after look) wish {
	w.wishes++
	return wish{method: method, path: path, body: body, repeat: fmt.Sprintf("crash-%d-%d", w.number, w.wishes), before: w.look, after: after}
}

// next is what the client does next.
func (w *writer) next() wish {
	n := fmt.Sprintf("%d-%d", w.number, w.wishes)
	path := w.org + "/keys/" + w.id
	grant := []string{"interview:read", "interview:start", "interview:complete"}[w.dice.IntN(3)]
	set := fmt.Sprintf(`"name":"key %s","metadata":{"number":%q},"permissions":[%q]`, n, n, grant)
	after := look{"key " + n, n, grant, w.look.Status}
	switch roll := w.dice.IntN(10); {
	case w.id == "":
		after.Status = "ACTIVE"
		return w.wish("POST", w.org+"/keys", fmt.Sprintf(`{%s,"external_id":%q,"scope":{"all_workspaces":true}}`, set, n), after)
	case roll < 6 && !w.brief:
		return w.wish("PATCH", path, "{"+set+"}", after)
	case roll < 8 && !w.brief:
		return w.wish("POST", path+"/rotate", `{"grace":"1h"}`, w.look)
	default:
		after = w.look
		after.Status = "REVOKED"
		return w.wish("POST", path+"/revoke", `{"reason":"test"}`, after)
	}
}

// about is the key that an answer shows: a patch shows nothing but the key.
func about(a answer) string {
	if id := a.Text("key.id"); id != "" {
		return id
	}
	return a.Text("id")
}

// settled takes in what a wish did.
func (w *writer) settled(done wish) {
	w.look = done.after
	if id := about(done.answer); id != "" {
		w.id = id
	}
	if secret := done.answer.Text("secret"); secret != "" {
		w.secrets[w.id] = secret
	}
	if w.look.Status == "REVOKED" {
		w.id, w.look = "", look{}
	}
}

// run goes on until a request has no answer.
func (w *writer) run(t *testing.T, s *server, owner string) {
	for {
		w.last = w.next()
		a, err := s.ask(owner, w.last.method, w.last.path, w.last.body, "Idempotency-Key", w.last.repeat)
		if err != nil {
			return
		}
		w.last.answered, w.last.answer = true, a
		if a.Status != 200 && a.Status != 201 {
			// A program that is being killed may still say that it does not know.
			if w.last.answered = a.Status < 500; w.last.answered {
				t.Errorf("%s %s: %s", w.last.method, w.last.path, a)
			}
			return
		}
		w.settled(w.last)
		if secret := w.secrets[w.id]; secret != "" {
			_, _ = s.ask(owner, "POST", "/v1/verify", fmt.Sprintf(`{"secret":%q}`, secret))
		}
	}
}

// lookAt reads a key.
func (w *writer) lookAt(s *server, owner, id string) (look, answer) {
	s.t.Helper()
	a := s.must(200, owner, "GET", w.org+"/keys/"+id, "")
	grants, _ := a.Get("permissions.grants").([]any)
	return look{a.Text("name"), a.Text("metadata.number"), fmt.Sprint(grants...), a.Text("status")}, a
}

// check looks for what the client was answered, and for its last wish, which must
// be there wholly or not at all; told again it is there, once.
func (w *writer) check(t *testing.T, s *server, owner string) {
	t.Helper()
	if w.id != "" {
		got, key := w.lookAt(s, owner, w.id)
		switch {
		case got == w.look, !w.last.answered && got == w.last.after:
		default:
			t.Errorf("key %s is %v, want %v or, by %s, %v", w.id, got, w.look, w.last.body, w.last.after)
		}
		if successor := key.Text("rotated_to"); successor != "" {
			if w.last.answered || !strings.HasSuffix(w.last.path, "/rotate") {
				t.Errorf("key %s was rotated by nobody", w.id)
			}
			if _, next := w.lookAt(s, owner, successor); next.Text("rotated_from") != w.id {
				t.Errorf("key %s was rotated to one that knows nothing of it", w.id)
			}
		}
	}
	if w.last.answered || w.last.method == "" {
		return
	}
	created := func() int {
		items, _ := s.must(200, owner, "GET", w.org+"/keys?status=all&external_id="+w.last.after.Number, "").Get("items").([]any)
		return len(items)
	}
	creates := w.last.method == "POST" && strings.HasSuffix(w.last.path, "/keys")
	there := creates && created() == 1
	again, err := s.ask(owner, w.last.method, w.last.path, w.last.body, "Idempotency-Key", w.last.repeat)
	if err != nil || again.Status != 200 && again.Status != 201 {
		t.Fatalf("told again, %s %s: %s, %v", w.last.method, w.last.path, again, err)
	}
	w.last.answer = again
	replayed := again.Header.Get("Idempotency-Replayed") == "true"
	if creates && (replayed != there || created() != 1) {
		t.Errorf("told again, a create was replayed: %t, was there: %t, and is there %d times", replayed, there, created())
	}
	once := s.must(again.Status, owner, w.last.method, w.last.path, w.last.body, "Idempotency-Key", w.last.repeat)
	if once.Header.Get("Idempotency-Replayed") != "true" || about(once) != about(again) || once.Get("secret") != nil {
		t.Errorf("told a third time: %s", once)
	}
	if got, _ := w.lookAt(s, owner, about(again)); got != w.last.after {
		t.Errorf("told again, %s %s left %v, want %v", w.last.method, w.last.body, got, w.last.after)
	}
	w.settled(w.last)
}

// Killed at any moment, also while it starts, the program has all that it
// answered, all or nothing of what it did not, and views that a rebuild from
// nothing equals; and the uses that went with it show as a boot without an end,
// with a bound that holds.
//
// Breaking it: with a command id that is drawn anew for each repeat, a wish that was
// carried out is refused when it is told again, or carried out again. With a bound
// of 1 more uses are lost than a boot admits.
func TestKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("to have the clients do the same again: -seed %d -rounds %d", *seed, *rounds)
	dice := rand.New(rand.NewPCG(*seed, 0))
	s := start(t, t.TempDir())
	owner := s.owner()
	s.organization(owner, "acme", "")
	s.organization(owner, "crowd", fmt.Sprintf(`,"limits":{"max_active_keys":%d}`, crowdLimit))
	clients := newClients(t, s, owner)
	cut, early := 0, 0
	for range *rounds {
		began := time.Now()
		var running sync.WaitGroup
		clients.run(t, s, owner, &running)
		time.Sleep(time.Duration(50+dice.IntN(450)) * time.Millisecond)
		s.Kill()
		running.Wait()
		clients.verifiers.killed(began)
		if dice.IntN(3) == 0 {
			// It comes to no harm while it starts, either.
			early++
			starting := run(t, s.data, "127.0.0.1:0")
			time.Sleep(time.Duration(dice.IntN(200)) * time.Millisecond)
			starting.Kill()
		}
		s = start(t, s.data)
		cut += clients.check(t, s, owner)
	}
	if cut < *rounds {
		t.Errorf("only %d requests had no answer: this proves little", cut)
	}
	full(t, s, owner)
	rebuild(t, s, clients.writers)
	t.Logf("%d requests, %d without an answer, over %d kills and %d more during starts", clients.wishes(), cut, *rounds, early)
	unended(t, s.data, *rounds, early)
	clients.verifiers.check(t, s.data)
}

// clients are all that use the server.
type clients struct {
	writers   []*writer
	enders    []*ender
	verifiers *verifiers
}

func newClients(t *testing.T, s *server, owner string) *clients {
	t.Helper()
	c := &clients{verifiers: newVerifiers(s, owner)}
	for i := range 6 + crowd {
		w := &writer{number: i, dice: rand.New(rand.NewPCG(*seed, uint64(i+1))), secrets: map[string]string{}, org: acmeOrg}
		if i >= 6 {
			w.org, w.brief = crowdOrg, true
		}
		c.writers = append(c.writers, w)
	}
	for i := range 2 {
		c.enders = append(c.enders, &ender{number: i})
	}
	return c
}

// run has all of them go on until the server is killed.
func (c *clients) run(t *testing.T, s *server, owner string, running *sync.WaitGroup) {
	for _, w := range c.writers {
		running.Go(func() { w.run(t, s, owner) })
	}
	for _, e := range c.enders {
		running.Go(func() { e.run(t, s, owner) })
	}
	c.verifiers.run(t, s, owner, running)
}

// check checks all of them, and returns how many changes had no answer.
func (c *clients) check(t *testing.T, s *server, owner string) int {
	t.Helper()
	cut := 0
	for _, w := range c.writers {
		if !w.last.answered {
			cut++
		}
		w.check(t, s, owner)
	}
	for _, e := range c.enders {
		if e.cut {
			cut++
		}
		e.check(t, s, owner)
	}
	return cut
}

func (c *clients) wishes() int {
	n := 0
	for _, w := range c.writers {
		n += w.wishes
	}
	for _, e := range c.enders {
		n += e.wishes
	}
	return n
}

// full fills the crowd's organization to its limit: no place under it was lost
// or given twice, whatever became of who took it.
func full(t *testing.T, s *server, owner string) {
	t.Helper()
	active, _ := s.must(200, owner, "GET", crowdOrg+"/keys?status=ACTIVE&limit=200", "").Get("items").([]any)
	if len(active) > crowdLimit {
		t.Fatalf("%d keys are active, at most %d may be", len(active), crowdLimit)
	}
	for range crowdLimit - len(active) {
		s.must(201, owner, "POST", crowdOrg+"/keys", keyBody)
	}
	s.must(409, owner, "POST", crowdOrg+"/keys", keyBody)
}

// rebuild compares what the server tells with what it tells after its views were
// made anew, and the views themselves.
func rebuild(t *testing.T, s *server, writers []*writer) {
	t.Helper()
	tell := func(s *server) map[string]string {
		told := map[string]string{}
		for cursor, n := "", 0; n == 0 || cursor != ""; n++ {
			page := s.must(200, s.owner(), "GET", acmeOrg+"/keys?status=all&limit=200&cursor="+cursor, "")
			items, _ := page.Get("items").([]any)
			for _, item := range items {
				key, _ := item.(map[string]any)
				delete(key, "last_used_at") // the questions below are uses
				text, err := json.Marshal(key)
				if err != nil {
					t.Fatal(err)
				}
				told[fmt.Sprint(key["id"])] = string(text)
			}
			cursor = page.Text("next_cursor")
		}
		for _, w := range writers {
			for id, secret := range w.secrets {
				told["verdict of "+id] = s.verdict(s.owner(), secret, "interview:read")
			}
		}
		return told
	}
	before := tell(s)
	s.Stop()
	views := digests(t, s.data)
	files, err := filepath.Glob(filepath.Join(s.data, "*.db*"))
	if err != nil || len(files) < 3 {
		t.Fatalf("views: %v, %v", files, err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	again := start(t, s.data)
	after := tell(again)
	again.Stop()
	if !maps.Equal(before, after) {
		for id, text := range before {
			if after[id] != text {
				t.Errorf("%s is\n%s\nand after a rebuild\n%s", id, text, after[id])
			}
		}
		t.Errorf("%d keys and verdicts before the rebuild, %d after", len(before), len(after))
	}
	for name, digest := range digests(t, s.data) {
		if views[name] != digest {
			t.Errorf("view %s is another after a rebuild", name)
		}
	}
}

// positions are those of the ledger in a data folder.
func positions(t *testing.T, data string) events.Positions {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(data, "ledger.id"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := events.ParseLedgerID(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return events.Positions{Ledger: id, Epoch: 1}
}

// digests are those of the views of the ledger in a data folder that nobody has.
func digests(t *testing.T, data string) map[string][sha256.Size]byte {
	t.Helper()
	of := positions(t, data)
	keys, err := catalog.Open(t.Context(), catalog.Config{Path: filepath.Join(data, "catalog.db"), UsagePath: filepath.Join(data, "usage.db"), Of: of})
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(t.Context(), audit.Config{Path: filepath.Join(data, "audit.db"), Of: of})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][sha256.Size]byte{}
	for name, view := range map[string]interface {
		Digest(ctx context.Context) (events.Position, [sha256.Size]byte, error)
		Close() error
	}{"catalog": keys, "audit": log} {
		pos, digest, err := view.Digest(t.Context())
		if err = errors.Join(err, view.Close()); err != nil || pos == 0 {
			t.Fatalf("view %s at %d: %v", name, pos, err)
		}
		out[name] = digest
	}
	return out
}

// unended expects a finding for every boot that was killed, and no other but of
// the one that ended last: its end may be in the ledger and not in the view yet.
func unended(t *testing.T, data string, kills, early int) {
	t.Helper()
	view, err := usage.Open(t.Context(), usage.Config{Path: filepath.Join(data, "usage.db"), Of: positions(t, data)})
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	findings, err := view.Findings(t.Context(), 0, 100)
	if err != nil || len(findings) != 0 {
		t.Errorf("findings: %v, %v", findings, err)
	}
	boots, err := view.Unended(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, b := range boots {
		if !b.Superseded {
			continue
		}
		killed++
		if b.Count != recording.DefaultMaxBuffered {
			t.Errorf("a killed boot may have lost %d uses at most, want the bound of %d", b.Count, recording.DefaultMaxBuffered)
		}
	}
	// Who was killed while it started had perhaps not begun to record.
	if killed < kills || killed > kills+early || len(boots) > killed+1 {
		t.Errorf("after %d kills and %d more during starts, %d of %d boots without an end are of before", kills, early, killed, len(boots))
	}
}
