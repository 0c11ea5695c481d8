package products

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// Permissions are edited without a new key and hold from the next request, on every
// server that knows of the edit. A request that was let in before may finish.
func TestP06PermissionsEditedHoldFromTheNextRequest(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		c := w.organization(t)
		made := c.create(obj{"permissions": []string{"interview:start"}})
		id, secret := made.Text("key.id"), made.Text("secret")

		edit := c.must(200, "PATCH", "/keys/"+id, obj{"permissions": []string{"interview:read"}})
		for _, s := range []*server{w.one, w.two} {
			c.at(s).code("INSUFFICIENT_PERMISSIONS", secret, "interview:start", edit.Text("position"))
			c.at(s).code("VALID", secret, "interview:read", edit.Text("position"))
		}
		c.at(w.two).cli("keys", "update", id, "--permissions", "interview:start,interview:complete", "--reason", "it conducts them now")
		position := c.at(w.two).must(200, "GET", "/keys/"+id, nil).Text("position")
		c.verify("VALID", secret, "--permission", "interview:complete", "--at-least", position)
		c.verify("INSUFFICIENT_PERMISSIONS", secret, "--permission", "interview:read", "--at-least", position)
		shown := c.at(w.two).must(200, "GET", "/keys/"+id, nil)
		if shown.Text("last_four") != secret[len(secret)-4:] {
			t.Errorf("the key is another one: %s", shown)
		}

		t.Run("a request in flight", func(t *testing.T) { inFlight(t, w, c.in(t), id, secret) })
		t.Run("requests all the while", func(t *testing.T) { editedUnderLoad(t, w, c.in(t), id, secret) })
	})
}

// inFlight takes a permission away while a request that it let in is at work.
func inFlight(t *testing.T, w *world, c caller, id, secret string) {
	entered, finish := make(chan struct{}, 1), make(chan struct{})
	s := newService(t, w.one, func() {
		entered <- struct{}{}
		<-finish
	})
	ended := make(chan string, 1)
	go func() {
		status, said, err := s.request(secret, "POST", "/api/v1/interviews/start")
		ended <- fmt.Sprintf("%d %s %v", status, said, err)
	}()
	select {
	case <-entered:
	case early := <-ended:
		t.Fatalf("the request was not let in: %s", early)
	}
	c.must(200, "PATCH", "/keys/"+id, obj{"permissions": []string{"interview:read"}})
	s.answers(403, "INSUFFICIENT_PERMISSIONS", secret, "POST", "/api/v1/interviews/start")
	close(finish)
	if got, want := <-ended, "200 interview:start <nil>"; got != want {
		t.Errorf("the request that was at work: %s, want %s", got, want)
	}
}

// editedUnderLoad edits on one server while both are asked all the time. What was
// answered before a request began is what judges it: on the server that answered
// the edit in any case, on the other where the question says how far it must know.
func editedUnderLoad(t *testing.T, w *world, c caller, id, secret string) {
	const edits = 10
	// An edit of an even number grants interview:start, and one of an odd number
	// takes it away.
	type edit struct {
		n        int64
		position string
	}
	var (
		begun  atomic.Int64
		last   atomic.Pointer[edit]
		stop   = make(chan struct{})
		asking sync.WaitGroup
		door   = newService(t, w.one, nil)
	)
	last.Store(&edit{n: 0, position: c.must(200, "PATCH", "/keys/"+id, obj{"permissions": []string{"interview:start"}}).Text("position")})
	ways := []func(position string) (bool, error){
		func(string) (bool, error) {
			status, _, err := door.request(secret, "POST", "/api/v1/interviews/start")
			return status == 200, err
		},
		func(position string) (bool, error) {
			a, err := c.at(w.two).try("POST", "/v1/verify", obj{"secret": secret, "permission": "interview:start", "at_least": position})
			return a.Text("code") == "VALID", err
		},
	}
	judged := make([]atomic.Int64, len(ways))
	for i, ask := range ways {
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				before := last.Load()
				may, err := ask(before.position)
				// Where a further edit has begun meanwhile, either is right.
				if begun.Load() != before.n {
					continue
				}
				if judged[i].Add(1); err != nil || may != (before.n%2 == 0) {
					t.Errorf("way %d, after edit %d: may start: %t, %v", i, before.n, may, err)
					return
				}
			}
		})
	}
	defer asking.Wait()
	defer close(stop)
	for n := int64(1); n <= edits && !t.Failed(); n++ {
		begun.Store(n)
		grants := []string{"interview:read"}
		if n%2 == 0 {
			grants = append(grants, "interview:start")
		}
		last.Store(&edit{n: n, position: c.must(200, "PATCH", "/keys/"+id, obj{"permissions": grants}).Text("position")})
		for i := range judged {
			seen := judged[i].Load()
			c.until("a verdict after the edit", func() bool { return t.Failed() || judged[i].Load() > seen })
		}
	}
}

// A revocation holds for the next request, which is 401, wherever it is asked, and
// for ever: nothing brings the key back, whatever races it.
func TestP07RevocationIsImmediateAndForEver(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		c := w.organization(t)
		door := newService(t, w.one, nil)
		byAPI, byCLI := c.create(nil), c.create(nil)
		for _, made := range []answer{byAPI, byCLI} {
			door.answers(200, "interview:read", made.Text("secret"), "GET", "/api/v1/interviews/42")
			c.at(w.two).code("VALID", made.Text("secret"), "interview:read", made.Text("position"))
		}
		position := c.must(200, "POST", "/keys/"+byAPI.Text("key.id")+"/revoke", obj{"reason": "leaked"}).Text("position")
		c.nothingRevives(byAPI, position)
		position = c.document("keys", "revoke", byCLI.Text("key.id"), "--yes", "--reason", "leaked").Text("position")
		c.nothingRevives(byCLI, position)
		for _, made := range []answer{byAPI, byCLI} {
			door.answers(401, "REVOKED", made.Text("secret"), "GET", "/api/v1/interviews/42")
			c.at(w.two).code("REVOKED", made.Text("secret"), "interview:read", position)
			c.verify("REVOKED", made.Text("secret"), "--permission", "interview:read")
		}
		t.Run("raced by verdicts and edits", func(t *testing.T) {
			for range 5 {
				raceRevocation(t, w, c.in(t))
			}
		})
		// For ever is for a server too that knew none of this.
		later := c.at(w.join(t))
		for _, made := range []answer{byAPI, byCLI} {
			later.code("REVOKED", made.Text("secret"), "interview:read", "")
		}
	})
}

// nothingRevives tries to bring a revoked key back.
func (c caller) nothingRevives(made answer, position string) {
	c.t.Helper()
	id := made.Text("key.id")
	for _, patch := range []obj{
		{"status": "ACTIVE"}, {"expires_in": "1y"}, {"expires_at": nil}, {"permissions": obj{"level": "all"}}, {"scope": everywhere}, {"grace": "7d"},
	} {
		c.refused(409, "ended", "PATCH", "/keys/"+id, patch)
	}
	c.refused(409, "ended", "POST", "/keys/"+id+"/rotate", obj{"grace": "24h"})
	says(c.t, c.exits(1, "", "keys", "enable", id).stderr, "ended")
	says(c.t, c.exits(1, "", "keys", "rotate", id).stderr, "ended")
	// Revoking it once more is no news.
	if again := c.must(200, "POST", "/keys/"+id+"/revoke", nil); again.Text("key.status") != "REVOKED" || again.Text("key.revocation_reason") != "leaked" {
		c.t.Errorf("revoked once more: %s", again)
	}
	c.code("REVOKED", made.Text("secret"), "interview:read", position)
}

// raceRevocation revokes a key on one server while both are asked for verdicts and
// told to change it. Who begins after the answer to the revocation, and says so, is
// denied; and whoever was once told REVOKED is told so ever after.
func raceRevocation(t *testing.T, w *world, c caller) {
	made := c.create(nil)
	id, secret := made.Text("key.id"), made.Text("secret")
	var (
		revoked atomic.Pointer[string]
		racing  sync.WaitGroup
		ready   sync.WaitGroup
	)
	for i, s := range []*server{w.one, w.two} {
		c := c.at(s)
		c.code("VALID", secret, "interview:read", made.Text("position"))
		ready.Add(2)
		racing.Go(func() {
			ready.Done()
			for after, ended := 0, false; after < 5; {
				question, position := obj{"secret": secret, "permission": "interview:read"}, revoked.Load()
				if position != nil {
					question["at_least"] = *position
					after++
				}
				a, err := c.try("POST", "/v1/verify", question)
				code := a.Text("code")
				if err != nil || code != "REVOKED" && (position != nil || ended) {
					t.Errorf("server %d, after the revocation was answered: %t, after it was applied: %t: %s, %v", i+1, position != nil, ended, a, err)
					return
				}
				ended = code == "REVOKED"
			}
		})
		racing.Go(func() {
			ready.Done()
			for n := 0; ; n++ {
				done := revoked.Load() != nil
				status := []string{"INACTIVE", "ACTIVE"}[n%2]
				a, err := c.try("PATCH", "/keys/"+id, obj{"status": status, "name": fmt.Sprint("edit ", n, " at ", i)})
				// Editors who leave each other no gap are told 503 at some time.
				if err != nil || a.Status != 200 && a.Status != 409 && a.Status != 503 || done && a.Status != 409 {
					t.Errorf("an edit at server %d, after the revocation was answered: %t: %s, %v", i+1, done, a, err)
				}
				if done || err != nil {
					return
				}
			}
		})
	}
	ready.Wait()
	a := c.must(200, "POST", "/keys/"+id+"/revoke", obj{"reason": "leaked"})
	position := a.Text("position")
	revoked.Store(&position)
	racing.Wait()
	// An edit that was under way may stand behind the revocation, and changes
	// nothing about it.
	for _, s := range []*server{w.one, w.two} {
		c := c.at(s)
		c.until("the revocation in the catalog", func() bool { return c.must(200, "GET", "/keys/"+id, nil).Text("status") == "REVOKED" })
		c.code("REVOKED", secret, "interview:read", position)
	}
	if n := len(c.events(id, "key.revoked")); n != 1 {
		t.Errorf("the key is revoked %d times", n)
	}
}

// Two keys live side by side for as long as wanted. Rotating is one step, with a
// grace that can be cut short; and whoever revokes the old key while nobody uses
// the new one is warned.
func TestP08RotationSideBySide(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	// As long as wanted: two keys, and nothing that ends either.
	for _, secret := range []string{c.create(nil).Text("secret"), c.create(nil).Text("secret")} {
		if v := c.verdict(secret, nil); v.Text("code") != "VALID" || v.Text("expires_at") != "" {
			t.Errorf("a key beside another: %s", v)
		}
	}

	// In one step, and side by side for the grace, on both servers.
	old := c.create(obj{"name": "service", "permissions": []string{"interview:start"}})
	id := old.Text("key.id")
	rotated := c.must(201, "POST", "/keys/"+id+"/rotate", obj{"grace": "24h"})
	if rotated.Text("key.name") != "service" || rotated.Text("key.rotated_from") != id || rotated.Text("previous.rotated_to") != rotated.Text("key.id") {
		t.Errorf("rotated: %s", rotated)
	}
	for _, s := range []*server{w.one, w.two} {
		c.at(s).code("VALID", old.Text("secret"), "interview:start", rotated.Text("position"))
		c.at(s).code("VALID", rotated.Text("secret"), "interview:start", rotated.Text("position"))
	}
	c.refused(409, "already_rotated", "POST", "/keys/"+id+"/rotate", obj{"grace": "0"})
	// The grace is cut short, never longer.
	c.must(422, "PATCH", "/keys/"+id, obj{"grace": "7d"})
	c.must(200, "PATCH", "/keys/"+id, obj{"grace": "1h"})
	c.code("VALID", old.Text("secret"), "interview:start", "")
	cut := c.must(200, "PATCH", "/keys/"+id, obj{"grace": "0"})
	for _, s := range []*server{w.one, w.two} {
		c.at(s).code("EXPIRED", old.Text("secret"), "interview:start", cut.Text("position"))
		c.at(s).code("VALID", rotated.Text("secret"), "interview:start", cut.Text("position"))
	}

	// The same at the shell.
	old = c.create(nil)
	id = old.Text("key.id")
	next := c.document("keys", "rotate", id, "--grace", "1h")
	c.verify("VALID", old.Text("secret"))
	c.verify("VALID", next.Text("secret"))
	c.cli("keys", "update", id, "--grace", "0")
	c.verify("EXPIRED", old.Text("secret"))
	c.verify("VALID", next.Text("secret"))
}

// The warning, by the API and at the shell, and that there is none where there is
// nothing to warn of.
func TestP08RevokingTheOldKeyTooEarlyIsWarnedOf(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	warned := func(a answer) bool { return a.Text("warnings.0.code") == "successor_unused" }

	old := c.create(obj{"name": "service"})
	id := old.Text("key.id")
	if a := c.must(200, "POST", "/keys/"+id+"/revoke?dry_run=true", nil); warned(a) {
		t.Errorf("a key without a successor: %s", a)
	}
	next := c.must(201, "POST", "/keys/"+id+"/rotate", obj{"grace": "24h"})
	if a := c.must(200, "POST", "/keys/"+id+"/revoke?dry_run=true", nil); !warned(a) || a.Text("warnings.0.detail") == "" {
		t.Errorf("a rehearsal does not warn: %s", a)
	}
	// A denied use is none.
	c.code("INSUFFICIENT_PERMISSIONS", next.Text("secret"), "interview:start", "")
	c.code("VALID", old.Text("secret"), "interview:read", "")
	c.until("both uses to be known", func() bool { return c.must(200, "GET", "/keys/"+id, nil).Text("last_used_at") != "" })
	c.terminal(obj{"ID": id}, `
		ttyin -stdin no
		! exec keyledger keys revoke $ID
		stderr 'no VALID use is known of'
		stderr 'service.*for ever\? \[y/N\]'
	`)
	c.code("VALID", old.Text("secret"), "interview:read", "")
	if a := c.must(200, "POST", "/keys/"+id+"/revoke", obj{"reason": "too early"}); !warned(a) {
		t.Errorf("a revocation that is too early does not warn: %s", a)
	}
	c.code("REVOKED", old.Text("secret"), "interview:read", "")

	third := c.must(201, "POST", "/keys/"+next.Text("key.id")+"/rotate", obj{"grace": "24h"})
	r := c.exits(0, "", "keys", "revoke", next.Text("key.id"), "--yes")
	says(t, r.stderr, third.Text("key.id"))

	// Used, by whichever server, it may be relied on.
	fourth := c.must(201, "POST", "/keys/"+third.Text("key.id")+"/rotate", obj{"grace": "24h"})
	c.at(w.two).code("VALID", fourth.Text("secret"), "interview:read", fourth.Text("position"))
	c.until("the use to be known", func() bool {
		return !warned(c.must(200, "DELETE", "/keys/"+third.Text("key.id")+"?dry_run=true", nil))
	})
	if r := c.exits(0, "", "keys", "revoke", third.Text("key.id"), "--yes"); r.stderr != "" {
		t.Errorf("a revocation in time is warned of: %s", r.stderr)
	}
}

// A rotation on one server races a revocation on the other: either the rotation
// came first and its successor lives, or there is none. A revoked key never has a
// successor that was born later.
func TestP08RotationRacesRevocation(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		c := w.organization(t)
		// Both outcomes are met at some time: not to be seen in one round.
		for range 15 {
			old := c.create(nil)
			id := old.Text("key.id")
			c.at(w.two).code("VALID", old.Text("secret"), "", old.Text("position"))
			var (
				rotated, revoked       answer
				rotateFault, revokeErr error
				racing                 sync.WaitGroup
			)
			racing.Go(func() {
				// 503 is that nothing was changed, and 504 that nobody knows: either is
				// asked again, under the same idempotency key.
				for again := true; again && rotateFault == nil; again = rotated.Status == 503 || rotated.Status == 504 {
					rotated, rotateFault = c.try("POST", "/keys/"+id+"/rotate", obj{"grace": "24h"}, "Idempotency-Key", "rotate "+id)
				}
			})
			racing.Go(func() { revoked, revokeErr = c.at(w.two).try("POST", "/keys/"+id+"/revoke", obj{"reason": "leaked"}) })
			racing.Wait()
			if rotateFault != nil || revokeErr != nil || revoked.Status != 200 {
				t.Fatalf("rotate: %s %v; revoke: %s %v", rotated, rotateFault, revoked, revokeErr)
			}
			position := revoked.Text("position")
			for _, s := range []*server{w.one, w.two} {
				c.at(s).code("REVOKED", old.Text("secret"), "", position)
			}
			// The other server's answer is in this one's history a little later.
			c.told(id, "key.revoked")
			history := c.must(200, "GET", "/keys/"+id+"/history", nil)
			var kinds []string
			for i := range history.List("items") {
				kinds = append(kinds, history.Text(fmt.Sprint("items.", i, ".type")))
			}
			switch got := fmt.Sprint(kinds); rotated.Status {
			case 201:
				if got != "[key.revoked key.rotated key.created]" {
					t.Errorf("rotated, and then: %s", got)
				}
				if rotated.Text("secret") == "" {
					break // its answer was lost, and with it the secret
				}
				for _, s := range []*server{w.one, w.two} {
					c.at(s).code("VALID", rotated.Text("secret"), "", rotated.Text("position"))
				}
			case 409:
				if got != "[key.revoked key.created]" {
					t.Errorf("not rotated, and then: %s", got)
				}
			default:
				t.Errorf("rotate: %s", rotated)
			}
		}
		// At the end nobody lives whom the answers did not name.
		list := c.must(200, "GET", "/keys?kind=api", nil)
		for i := range list.List("items") {
			if list.Text(fmt.Sprint("items.", i, ".rotated_from")) == "" {
				t.Errorf("a key is left that was not born of a rotation: %s", list)
			}
		}
	})
}
