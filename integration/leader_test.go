package integration

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// bound is how long after its revocation was answered a key may still be VALID
// somewhere: a server's max staleness.
const bound = 30 * time.Second

// pace is how long a customer waits before his next key.
const pace = 50 * time.Millisecond

// owned is a key that one client has made, and nobody else touches.
type owned struct {
	id, secret string
	revoked    bool
	position   string    // of the last answered change
	at         time.Time // when the answer to the revocation came
}

// customer makes keys and takes them back, asking one server and then another, and
// looks at what each says of them.
type customer struct {
	t       *testing.T
	number  int
	owner   string
	servers []*server
	wishes  int
	keys    []*owned
	// open are the wishes that nobody answered.
	open []wish
	log  *progress
}

// progress is when changes were answered, by all customers.
type progress struct {
	answered atomic.Int64
	// looked counts the verdicts over keys that were revoked longer ago than the
	// bound.
	looked atomic.Int64

	mu      sync.Mutex
	last    time.Time
	longest time.Duration
}

func (p *progress) note() {
	p.answered.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if !p.last.IsZero() {
		p.longest = max(p.longest, now.Sub(p.last))
	}
	p.last = now
}

// gap returns the longest time without an answer since it was last asked.
func (p *progress) gap() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	longest := p.longest
	p.longest = 0
	return longest
}

const leaderOrg = "/v1/organizations/acme/keys"

// tell sends a wish to a server. It returns nothing when nobody can say what became
// of it, or that it was carried out.
func (c *customer) tell(s *server, w wish) (answer, bool) {
	a, err := s.ask(c.owner, w.method, w.path, w.body, "Idempotency-Key", w.repeat)
	switch {
	case err != nil || a.Status == 503 || a.Status == 504:
		return a, false
	case a.Status != 200 && a.Status != 201:
		c.t.Errorf("%s %s: %s", w.method, w.path, a)
		return a, false
	}
	c.log.note()
	return a, true
}

func (c *customer) wish(path, body string) wish {
	c.wishes++
	return wish{method: "POST", path: path, body: body, repeat: fmt.Sprintf("leader-%d-%d", c.number, c.wishes)}
}

// run goes on until it is told to stop.
func (c *customer) run(stop <-chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		// Customers without a pause would only keep the machine busy.
		case <-time.After(pace):
		}
		one, other := c.servers[n%len(c.servers)], c.servers[(n+1)%len(c.servers)]
		name := fmt.Sprintf("%d-%d", c.number, c.wishes)
		w := c.wish(leaderOrg, fmt.Sprintf(`{"external_id":%q,"permissions":["interview:read"],"scope":{"all_workspaces":true}}`, name))
		a, ok := c.tell(one, w)
		if !ok {
			w.after.Number = name
			c.unanswered(w)
			continue
		}
		k := &owned{id: a.Text("key.id"), secret: a.Text("secret"), position: a.Text("position")}
		c.keys = append(c.keys, k)
		c.judge(other, k)
		// Every third key stays.
		if n%3 == 0 {
			continue
		}
		w = c.wish(leaderOrg+"/"+k.id+"/revoke", `{"reason":"test"}`)
		if a, ok = c.tell(other, w); !ok {
			c.unanswered(w)
			// Nobody knows what it is now: see settle.
			c.keys = c.keys[:len(c.keys)-1]
			continue
		}
		k.revoked, k.position, k.at = true, a.Text("position"), time.Now()
		c.judge(one, k)
		c.judge(other, k)
		c.look(one)
	}
}

// unanswered keeps a wish for later, and waits a moment: the next one would not be
// answered either.
func (c *customer) unanswered(w wish) {
	c.open = append(c.open, w)
	time.Sleep(200 * time.Millisecond)
}

// judge asks for the verdict over a key, as of its last answered change at least.
func (c *customer) judge(s *server, k *owned) {
	code, ok := c.verdict(s, k, fmt.Sprintf(`,"at_least":%q`, k.position))
	want := "VALID"
	if k.revoked {
		want = "REVOKED"
	}
	if ok && code != want {
		c.t.Errorf("%s says %s of a key that is %s as of %s", s.url, code, want, k.position)
	}
}

// look asks for the verdict over the key that was revoked last of those that were
// longer ago than the bound, without a word on how much the server must know.
func (c *customer) look(s *server) {
	for _, k := range slices.Backward(c.keys) {
		if k.revoked && time.Since(k.at) > bound {
			code, ok := c.verdict(s, k, "")
			if ok && code != "REVOKED" {
				c.t.Errorf("%s says %s of a key that was revoked %s ago", s.url, code, time.Since(k.at))
			}
			if ok {
				c.log.looked.Add(1)
			}
			return
		}
	}
}

// verdict returns a verdict, unless the server cannot tell.
func (c *customer) verdict(s *server, k *owned, more string) (string, bool) {
	a, err := s.ask(c.owner, "POST", "/v1/verify", fmt.Sprintf(`{"secret":%q,"permission":"interview:read"%s}`, k.secret, more))
	if err != nil || a.Status == 503 || a.Status == 504 {
		return "", false
	}
	// Whoever asks for a verdict has a key as well, which is judged first.
	if a.Status != 200 {
		c.t.Errorf("verify: %s", a)
		return "", false
	}
	code := a.Text("code")
	return code, code != "STALE" && code != "UNAVAILABLE"
}

// settle finds everything that was answered, on each server, and what was not wholly
// there or not at all; told again, that is there once.
func (c *customer) settle() {
	c.t.Helper()
	for _, s := range c.servers {
		for _, k := range c.keys {
			want := map[bool]string{false: "ACTIVE", true: "REVOKED"}[k.revoked]
			if got := s.must(200, c.owner, "GET", leaderOrg+"/"+k.id, "").Text("status"); got != want {
				c.t.Errorf("%s shows key %s as %s, which was answered as %s", s.url, k.id, got, want)
			}
			c.judge(s, k)
		}
	}
	s := c.servers[0]
	for _, w := range c.open {
		there := 0
		if w.after.Number != "" {
			there = c.named(w.after.Number)
		}
		a := s.must(map[bool]int{true: 201, false: 200}[w.after.Number != ""], c.owner, w.method, w.path, w.body, "Idempotency-Key", w.repeat)
		switch {
		case w.after.Number == "":
			if got := a.Text("key.status"); got != "REVOKED" {
				c.t.Errorf("told again, %s left it %s", w.path, got)
			}
		case (a.Header.Get("Idempotency-Replayed") == "true") != (there == 1) || c.named(w.after.Number) != 1:
			c.t.Errorf("%q was there %d times; told again: %s", w.after.Number, there, a)
		}
	}
}

// named counts the keys with an external id.
func (c *customer) named(id string) int {
	items, _ := c.servers[0].must(200, c.owner, "GET", leaderOrg+"?status=all&external_id="+id, "").Get("items").([]any)
	return len(items)
}

// The process of the ledger's leader is killed under load, time and again, and
// stands still once; it comes back on its own files. Nothing that was answered is
// lost, what was not answered is there wholly or not at all, no server finds a
// revoked key VALID after the bound, and the servers need nobody's help.
//
// Breaking it, and what showed it: servers without a heartbeat to their node stay with
// the one that stands still, and two changes in two minutes are answered; with a
// command id that is drawn anew for each repeat, a create that was carried out is
// refused when it is told again.
func TestLeaderLost(t *testing.T) {
	t.Parallel()
	p := compose(t)
	nodes, servers := p.up()
	owner := strings.TrimSpace(string(readFile(t, p.volume("owner")+"/owner.key")))
	servers[0].organization(owner, "acme", "")
	awaitCatalog(t, servers[1], owner)
	log := &progress{}
	customers := make([]*customer, 6)
	stop := make(chan struct{})
	var running sync.WaitGroup
	for i := range customers {
		customers[i] = &customer{t: t, number: i, owner: owner, servers: []*server{servers[i%2], servers[(i+1)%2]}, log: log}
		running.Go(func() { customers[i].run(stop) })
	}
	onward := func(what string, n int64) {
		t.Helper()
		from := log.answered.Load()
		for deadline := time.Now().Add(2 * time.Minute); log.answered.Load() < from+n; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: only %d changes were answered in two minutes", what, log.answered.Load()-from)
			}
		}
	}
	onward("at first", 30)
	for round, away := range []struct {
		what        string
		leave, back func(int)
	}{
		{"killed", nodes.Kill, nodes.Restart},
		{"standing still", nodes.Pause, func(i int) { nodes.Resume(i); nodes.Healthy(i) }},
		{"killed", nodes.Kill, nodes.Restart},
	} {
		log.gap()
		node := nodes.Leader("LEDGER")
		away.leave(node)
		onward("without the leader", 50)
		away.back(node)
		onward("with all nodes", 50)
		t.Logf("round %d: the leader, node %d, %s: the longest time without an answered change was %s", round+1, node+1, away.what, log.gap().Round(100*time.Millisecond))
	}
	servers[0].until("verdicts after the bound", func() bool { return log.looked.Load() >= int64(len(customers)) })
	close(stop)
	running.Wait()
	for _, s := range servers {
		awaitHealth(t, s)
	}
	open := 0
	for _, c := range customers {
		c.settle()
		open += len(c.open)
	}
	if s := nodes.Alike("LEDGER"); s.First != 1 || s.Messages != s.Last || s.Deleted != 0 || s.Messages < uint64(log.answered.Load()) {
		t.Errorf("after %d answered changes every node holds %+v", log.answered.Load(), s)
	}
	t.Logf("%d changes answered, %d not; %d verdicts after the bound", log.answered.Load(), open, log.looked.Load())
	if open == 0 {
		t.Error("every wish was answered: this proves little")
	}
}

// awaitHealth waits until a server says that it is ready.
func awaitHealth(t *testing.T, s *server) {
	t.Helper()
	var last answer
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		a, err := s.ask("", "GET", "/readyz", "")
		if err == nil && a.Status == 200 {
			return
		}
		last = a
	}
	var checks any
	_ = json.Unmarshal(last.Body, &checks)
	t.Fatalf("%s is not ready: %v\n%s", s.url, checks, s.Logged())
}
