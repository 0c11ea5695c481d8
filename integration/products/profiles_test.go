package products

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/keyledger/integration/program"
)

// profile begins a profile by the API.
func (c caller) profile(id string, settings obj) answer {
	c.t.Helper()
	return c.must(201, "POST", "/profiles", obj{"id": id, "name": "Profile " + id, "settings": settings})
}

// brings expects what a verdict that has seen a position brings of a profile: its
// id, and one of its settings. An empty id expects none.
func (c caller) brings(secret, position, id, name string, setting any) {
	c.t.Helper()
	question := obj{"permission": "interview:read"}
	if position != "" {
		question["at_least"] = position
	}
	v := c.verdict(secret, question)
	if v.Text("code") != "VALID" || v.Text("profile.id") != id || v.Get("profile.settings."+name) != setting {
		c.t.Errorf("the verdict is %s, want profile %q with %s %v", v, id, name, setting)
	}
	if id == "" && v.Get("profile") != nil {
		c.t.Errorf("the verdict brings a profile of a key that has none: %s", v)
	}
}

// row is the line of a table that begins with an id.
func row(table, id string) string {
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, id) {
			return line
		}
	}
	return ""
}

// The list shows id, masked key, status, when the key was last used, and profile.
func TestS01ListShows(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	c.profile("strict", obj{"threshold": 0.8})
	used := c.create(obj{"name": "used", "profile": "strict"})
	off := c.create(obj{"name": "switched off"})
	c.code("VALID", used.Text("secret"), "interview:read", "")
	c.must(200, "PATCH", "/keys/"+off.Text("key.id"), obj{"status": "INACTIVE"})
	masked := func(made answer) string { return "kl_live_…" + made.Text("secret")[len(made.Text("secret"))-4:] }

	for _, s := range []*server{w.one, w.two} {
		c := c.at(s)
		var list answer
		c.until("the list to tell of the use and of the change", func() bool {
			list = c.must(200, "GET", "/keys?kind=api", nil)
			use, _ := list.Item(used.Text("key.id"))
			change, _ := list.Item(off.Text("key.id"))
			return use.Text("last_used_at") != "" && change.Text("status") == "INACTIVE"
		})
		one, _ := list.Item(used.Text("key.id"))
		if one.Text("masked") != masked(used) || one.Text("status") != "ACTIVE" || one.Text("profile") != "strict" {
			t.Errorf("the list shows %s", one)
		}
		two, _ := list.Item(off.Text("key.id"))
		if two.Text("masked") != masked(off) || two.Get("last_used_at") != nil || two.Get("profile") != nil {
			t.Errorf("the list shows %s", two)
		}
		table := c.cli("keys", "list")
		head, _, _ := strings.Cut(table, "\n")
		says(t, head, "ID", "KEY", "STATUS", "PROFILE", "LAST USED")
		says(t, row(table, used.Text("key.id")), masked(used), "ACTIVE", "strict", "ago")
		says(t, row(table, off.Text("key.id")), masked(off), "INACTIVE", "never")
		for status, id := range map[string]string{"active": used.Text("key.id"), "inactive": off.Text("key.id")} {
			if ids := strings.Fields(c.cli("keys", "list", "--kind", "api", "--status", status, "-q")); len(ids) != 1 || ids[0] != id {
				t.Errorf("the keys of status %s are %v, want %s", status, ids, id)
			}
		}
	}
}

// A profile may be attached when the key is made, and comes with its verdicts; a
// profile that is not there, or another organization's, may not.
func TestS02ProfileIsAttachedAtCreation(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	c.profile("strict", obj{"threshold": 0.8})
	c.exits(0, `{"threshold":0.2}`, "profiles", "create", "loose", "--name", "Loose", "--settings", "-")
	byAPI := c.create(obj{"profile": "strict"})
	byCLI := c.document("keys", "create", "--permissions", "interview:read", "--workspaces", "all", "--profile", "loose")
	if byAPI.Text("key.profile") != "strict" || byCLI.Text("key.profile") != "loose" {
		t.Errorf("made with a profile: %s, %s", byAPI.Get("key"), byCLI.Get("key"))
	}
	for _, s := range []*server{w.one, w.two} {
		c.at(s).brings(byAPI.Text("secret"), byAPI.Text("position"), "strict", "threshold", 0.8)
		c.at(s).brings(byCLI.Text("secret"), byCLI.Text("position"), "loose", "threshold", 0.2)
	}
	says(t, c.exits(0, byCLI.Text("secret"), "verify").stdout, "loose", `"threshold": 0.2`)

	other := w.organization(t)
	other.profile("theirs", obj{"threshold": 0.5})
	for _, id := range []string{"missing", "theirs"} {
		c.refused(422, "unknown_profile", "POST", "/keys", obj{"permissions": []string{"interview:read"}, "scope": everywhere, "profile": id})
		says(t, c.exits(1, "", "keys", "create", "--permissions", "interview:read", "--workspaces", "all", "--profile", id).stderr, "--profile", "unknown_profile", id)
	}
}

// A key's profile is changed and detached later, and each verdict brings the
// settings as they are now, on either server.
func TestS03ProfileIsChangedAndDetachedAndItsSettingsAreThoseOfNow(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		c := w.organization(t)
		c.profile("strict", obj{"threshold": 0, "model": "large"})
		c.profile("loose", obj{"threshold": -1})
		made := c.create(obj{"profile": "strict"})
		id, secret := made.Text("key.id"), made.Text("secret")
		brings := func(position, profile string, threshold any) {
			t.Helper()
			for _, s := range []*server{w.one, w.two} {
				c.at(s).brings(secret, position, profile, "threshold", threshold)
			}
		}
		brings(made.Text("position"), "strict", 0.0)

		// Settings change under keys that have them: by either server, seen by both.
		for n := 1; n <= 6; n++ {
			by := c.at([]*server{w.one, w.two}[n%2])
			position := by.must(200, "PATCH", "/profiles/strict", obj{"settings": obj{"threshold": n}}).Text("position")
			brings(position, "strict", float64(n))
		}
		position := answer{Body: []byte(c.exits(0, `{"threshold":7}`, "profiles", "update", "strict", "--settings", "-", "-o", "json").stdout)}.Text("position")
		brings(position, "strict", 7.0)
		if v := c.verdict(secret, nil); v.Text("profile.settings.model") != "large" {
			t.Errorf("a change of one setting took another away: %s", v)
		}

		// The key gets another profile, and none.
		change := func(body obj) string { return c.must(200, "PATCH", "/keys/"+id, body).Text("position") }
		brings(change(obj{"profile": "loose"}), "loose", -1.0)
		brings(change(obj{"profile": nil}), "", nil)
		position = c.document("keys", "update", id, "--profile", "strict").Text("position")
		brings(position, "strict", 7.0)
		position = c.document("keys", "update", id, "--profile", "").Text("position")
		brings(position, "", nil)
		c.refused(422, "unknown_profile", "PATCH", "/keys/"+id, obj{"profile": "missing"})
		brings("", "", nil)
	})
}

// A key is switched off and on again, as often as one likes; while it is INACTIVE
// it is denied by both servers, whichever was told.
func TestS04StatusIsSwitched(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		c := w.organization(t)
		made := c.create(nil)
		id, secret := made.Text("key.id"), made.Text("secret")
		servers := []*server{w.one, w.two}
		judged := func(position string, want string, status int) {
			t.Helper()
			for _, s := range servers {
				c.at(s).code(want, secret, "interview:read", position)
				// Both have seen the position now, and so has the door of a service.
				if a := c.at(s).with(secret).ask("GET", "/v1/authorize?permission=interview:read", nil); a.Status != status {
					t.Errorf("a service is told %s, want %d", a, status)
				}
			}
		}
		c.at(w.two).code("VALID", secret, "interview:read", made.Text("position"))
		for n := range 6 {
			by := c.at(servers[n%2])
			off := by.must(200, "PATCH", "/keys/"+id, obj{"status": "INACTIVE"})
			judged(off.Text("position"), "INACTIVE", 401)
			on := c.at(servers[(n+1)%2]).must(200, "PATCH", "/keys/"+id, obj{"status": "ACTIVE"})
			judged(on.Text("position"), "VALID", 200)
			if off.Text("status") != "INACTIVE" || on.Text("status") != "ACTIVE" {
				t.Errorf("off %s, on %s", off, on)
			}
		}
		off := c.document("keys", "disable", id, "--reason", "on holiday")
		judged(off.Text("position"), "INACTIVE", 401)
		c.verify("INACTIVE", secret)
		says(t, row(c.cli("keys", "list"), id), "INACTIVE")
		judged(c.document("keys", "enable", id).Text("position"), "VALID", 200)
		c.verify("VALID", secret)
		// What was there before is there again.
		if k := c.must(200, "GET", "/keys/"+id, nil); fmt.Sprint(k.List("permissions.grants")) != "[interview:read]" {
			t.Errorf("switched off and on: %s", k)
		}
		for _, status := range []string{"EXPIRED", "REVOKED", "PAUSED", ""} {
			c.must(422, "PATCH", "/keys/"+id, obj{"status": status})
		}
		c.racedSwitches(w, id, secret)
	})
}

// racedSwitches switches a key off on one server and on at the other, over and over
// and at once. What the ledger says came last is what both servers go by.
func (c caller) racedSwitches(w *world, id, secret string) {
	c.t.Helper()
	var racing sync.WaitGroup
	for i, s := range []*server{w.one, w.two} {
		racing.Go(func() {
			for range 10 {
				a, err := c.at(s).insist("PATCH", "/keys/"+id, obj{"status": []string{"INACTIVE", "ACTIVE"}[i]})
				if err != nil || a.Status != 200 && a.Status != 409 {
					c.t.Errorf("a switch at server %d: %s, %v", i+1, a, err)
				}
			}
		})
	}
	racing.Wait()
	last := c.must(200, "PATCH", "/keys/"+id, obj{"name": "raced"})
	want := map[string]string{"ACTIVE": "VALID", "INACTIVE": "INACTIVE"}[last.Text("status")]
	for _, s := range []*server{w.one, w.two} {
		c.at(s).code(want, secret, "interview:read", last.Text("position"))
	}
	// Switched on and off in turns: nothing was said twice, and nothing lost.
	status := "ACTIVE"
	switches := 0
	for cursor := ""; ; {
		page := c.must(200, "GET", "/keys/"+id+"/history?limit=200"+cursor, nil)
		for i := range page.List("items") {
			switch kind := page.Text(fmt.Sprint("items.", i, ".type")); kind {
			case "key.disabled", "key.enabled":
				on := kind == "key.enabled"
				if switches > 0 && on == (status == "ACTIVE") {
					c.t.Errorf("switched to %s twice in a row", status)
				}
				if switches == 0 && on != (last.Text("status") == "ACTIVE") {
					c.t.Errorf("the last switch is %s, and the key is %s", kind, last.Text("status"))
				}
				if status = "INACTIVE"; on {
					status = "ACTIVE"
				}
				switches++
			}
		}
		if page.Text("next_cursor") == "" {
			break
		}
		cursor = "&cursor=" + page.Text("next_cursor")
	}
}

// soon is an instant that comes while a test waits, and leaves time to begin. Keys
// end with a whole second.
func soon() time.Time { return time.Now().UTC().Add(5 * time.Second).Truncate(time.Second) }

// expires expects that a key is good until an instant and no longer, at each server
// and at a service's door, without anybody doing anything. A verifier's clock goes
// by ticks: it is never early, and what it has once denied stays denied.
func (c caller) expires(made answer, at time.Time, servers ...*server) {
	c.t.Helper()
	secret := made.Text("secret")
	var asking sync.WaitGroup
	for i, s := range servers {
		c := c.at(s)
		if v := c.verdict(secret, obj{"at_least": made.Text("position")}); v.Text("code") != "VALID" && time.Now().Before(at) {
			c.t.Errorf("before its end the key is %s", v)
		}
		ways := map[string]func() (string, error){
			"verify": func() (string, error) {
				a, err := c.try("POST", "/v1/verify", obj{"secret": secret})
				return a.Text("code"), err
			},
			"authorize": func() (string, error) {
				a, err := c.with(secret).try("GET", "/v1/authorize?permission=interview:read", nil)
				return a.Header.Get("X-Keyledger-Code"), err
			},
		}
		for way, ask := range ways {
			asking.Go(func() {
				for ended := 0; ended < 5; time.Sleep(5 * time.Millisecond) {
					code, err := ask()
					now := time.Now()
					early, again := code == "EXPIRED" && now.Before(at), code == "VALID" && ended > 0
					if err != nil || early || again || code != "VALID" && code != "EXPIRED" || now.After(at.Add(program.Patience)) {
						c.t.Errorf("%s at server %d says %s, %s after the key's end, %v", way, i+1, code, now.Sub(at), err)
						return
					}
					if code == "EXPIRED" {
						ended++
					}
				}
			})
		}
	}
	asking.Wait()
}

// recordedOnce waits for the record of a key's end, and expects one, on all servers.
func (c caller) recordedOnce(id string, servers ...*server) {
	c.t.Helper()
	for _, s := range servers {
		c := c.at(s)
		var history answer
		c.until("the end to be recorded", func() bool {
			history = c.must(200, "GET", "/keys/"+id+"/history", nil)
			return strings.Contains(history.String(), `"key.expired"`)
		})
		if n := strings.Count(history.String(), `"key.expired"`); n != 1 {
			c.t.Errorf("the end is recorded %d times: %s", n, history)
		}
	}
}

// EXPIRED comes by itself, at the instant and not before, on both servers; it is in
// the list, and it is recorded once.
func TestS05ExpiredComesByItself(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	servers := []*server{w.one, w.two}
	at := soon()
	byAPI := c.create(obj{"name": "by API", "expires_at": at})
	byCLI := c.document("keys", "create", "--permissions", "interview:read", "--workspaces", "all", "--expires-at", at.Format(time.RFC3339Nano))
	// Switched off, it expires all the same.
	off := c.create(obj{"name": "switched off", "expires_at": at})
	c.must(200, "PATCH", "/keys/"+off.Text("key.id"), obj{"status": "INACTIVE"})
	var both sync.WaitGroup
	for _, made := range []answer{byAPI, byCLI} {
		both.Go(func() { c.expires(made, at, servers...) })
	}
	both.Wait()
	c.code("EXPIRED", off.Text("secret"), "", "")
	for _, made := range []answer{byAPI, byCLI, off} {
		id := made.Text("key.id")
		for _, s := range servers {
			if k := c.at(s).must(200, "GET", "/keys/"+id, nil); k.Text("status") != "EXPIRED" {
				t.Errorf("past its time the key is %s", k)
			}
			if _, listed := c.at(s).must(200, "GET", "/keys?status=EXPIRED", nil).Item(id); !listed {
				t.Errorf("key %s is not in the list of those that expired", id)
			}
		}
		c.verify("EXPIRED", made.Text("secret"))
		says(t, row(c.cli("keys", "list"), id), "EXPIRED")
		c.recordedOnce(id, servers...)
		says(t, c.cli("keys", "history", id), "expired", "system expiry")
		// It does not come back.
		for _, patch := range []obj{{"expires_in": "1y"}, {"expires_at": nil}, {"status": "ACTIVE"}} {
			c.refused(409, "ended", "PATCH", "/keys/"+id, patch)
		}
		says(t, c.exits(1, "", "keys", "update", id, "--expires-in", "30d").stderr, "ended")
		c.code("EXPIRED", made.Text("secret"), "", "")
	}
}

// Deleting asks first, is for ever, and the services of both servers stop letting
// the key in at once.
func TestS06DeletingAsksFirstAndStopsServicesAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		c := w.organization(t)
		byCLI, byAPI := c.create(obj{"name": "bias check"}), c.create(nil)
		services := []service{newService(t, w.one, nil), newService(t, w.two, nil)}
		for _, made := range []answer{byCLI, byAPI} {
			for i, s := range []*server{w.one, w.two} {
				c.at(s).code("VALID", made.Text("secret"), "interview:read", made.Text("position"))
				services[i].answers(200, "interview:read", made.Text("secret"), "GET", "/api/v1/interviews/42")
			}
		}
		id := byCLI.Text("key.id")
		says(t, c.exits(2, "y\n", "keys", "delete", id).stderr, "cannot be undone", "--yes")
		c.terminal(obj{"ID": id}, `
			ttyin -stdin no
			! exec keyledger keys delete $ID
			stderr 'Revoke key .*bias check.* for ever\? \[y/N\]'
			stderr 'nothing was changed'
		`)
		c.code("VALID", byCLI.Text("secret"), "interview:read", "")
		c.terminal(obj{"ID": id}, `
			ttyin -stdin yes
			exec keyledger keys delete $ID --reason leaked
			stdout 'for ever'
		`)
		// The shell has its answer: the server it asked denies from here on, and the
		// other one once it has come as far.
		services[0].answers(401, "REVOKED", byCLI.Text("secret"), "GET", "/api/v1/interviews/42")
		gone := c.must(200, "DELETE", "/keys/"+byAPI.Text("key.id"), nil, "Keyledger-Reason", "leaked")
		if gone.Text("key.status") != "REVOKED" {
			t.Errorf("deleted: %s", gone)
		}
		services[0].answers(401, "REVOKED", byAPI.Text("secret"), "GET", "/api/v1/interviews/42")
		for _, made := range []answer{byCLI, byAPI} {
			c.at(w.two).code("REVOKED", made.Text("secret"), "interview:read", gone.Text("position"))
			services[1].answers(401, "REVOKED", made.Text("secret"), "GET", "/api/v1/interviews/42")
			c.nothingRevives(made, gone.Text("position"))
			c.at(w.two).nothingRevives(made, gone.Text("position"))
			if _, listed := c.must(200, "GET", "/keys", nil).Item(made.Text("key.id")); listed {
				t.Errorf("a deleted key is listed")
			}
			// Its story stays.
			says(t, c.cli("keys", "history", made.Text("key.id")), "revoked", "leaked")
		}
	})
}

// A profile that keys have is not deleted silently: 409 names the keys, and force
// detaches it from each of them.
func TestS07ProfileInUseIsNotDeletedSilently(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	c.profile("strict", obj{"threshold": 0.8})
	users := []answer{c.create(obj{"profile": "strict"}), c.create(obj{"profile": "strict"})}
	ended := c.create(obj{"profile": "strict"})
	c.must(200, "POST", "/keys/"+ended.Text("key.id")+"/revoke", nil)
	for _, path := range []string{"/profiles/strict", "/profiles/strict?dry_run=true"} {
		refused := c.refused(409, "in_use", "DELETE", path, nil)
		says(t, refused.Text("detail"), users[0].Text("key.id"), users[1].Text("key.id"), "force")
		if strings.Contains(refused.Text("detail"), ended.Text("key.id")) {
			t.Errorf("a revoked key keeps the profile in use: %s", refused)
		}
	}
	r := c.exits(1, "", "profiles", "delete", "strict", "--yes")
	says(t, r.stderr, "in_use", users[0].Text("key.id"), users[1].Text("key.id"), "--force")
	for _, u := range users {
		c.brings(u.Text("secret"), "", "strict", "threshold", 0.8)
	}
	// What force would do can be seen before.
	plan := c.must(200, "DELETE", "/profiles/strict?force=true&dry_run=true", nil)
	if n := strings.Count(plan.String(), "keyledger.key.profile_changed.v1"); n != 2 || strings.Count(plan.String(), "keyledger.profile.deleted.v1") != 1 {
		t.Errorf("the rehearsal tells of %s", plan)
	}
	c.brings(users[0].Text("secret"), "", "strict", "threshold", 0.8)

	gone := c.must(200, "DELETE", "/profiles/strict?force=true", nil)
	for _, u := range users {
		for _, s := range []*server{w.one, w.two} {
			c.at(s).brings(u.Text("secret"), gone.Text("position"), "", "threshold", nil)
		}
		if k := c.must(200, "GET", "/keys/"+u.Text("key.id"), nil); k.Get("profile") != nil {
			t.Errorf("the profile is still on %s", k)
		}
		says(t, c.must(200, "GET", "/keys/"+u.Text("key.id")+"/history", nil).Text("items.0.type"), "key.profile_changed")
	}
	c.refused(404, "not_found", "GET", "/profiles/strict", nil)

	// The same at the shell; and one that nobody has goes without force.
	c.profile("loose", nil)
	user := c.create(obj{"profile": "loose"})
	c.terminal(obj{"USER": user.Text("key.id")}, `
		ttyin -stdin no
		! exec keyledger profiles delete loose --force
		stderr 'End profile loose .*for ever\? \[y/N\]'
		ttyin -stdin yes
		exec keyledger profiles delete loose --force
		stdout 'loose .*has ended'
		exec keyledger keys history $USER
		stdout 'profile detached'
	`)
	c.brings(user.Text("secret"), "", "", "threshold", nil)
	c.profile("unused", nil)
	c.cli("profiles", "delete", "unused", "--yes")
	c.refused(404, "not_found", "GET", "/profiles/unused", nil)
}

// A profile is deleted at one server while the other attaches it: whatever came
// first, no verdict brings the settings of a profile that has gone.
func TestS07DeletionRacesAttaching(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		c := w.organization(t)
		for round := range 4 {
			id := fmt.Sprint("raced-", round)
			c.profile(id, obj{"threshold": 0.8})
			var keys [4]answer
			for i := range keys {
				keys[i] = c.create(nil)
			}
			c.at(w.two).code("VALID", keys[3].Text("secret"), "", keys[3].Text("position"))
			var racing sync.WaitGroup
			for _, k := range keys {
				racing.Go(func() {
					a, err := c.at(w.two).insist("PATCH", "/keys/"+k.Text("key.id"), obj{"profile": id})
					if err != nil || a.Status != 200 && a.Text("code") != "unknown_profile" {
						t.Errorf("attach: %s, %v", a, err)
					}
				})
			}
			racing.Go(func() {
				a, err := c.insist("DELETE", "/profiles/"+id+"?force=true", nil)
				if err != nil || a.Status != 200 {
					t.Errorf("delete: %s, %v", a, err)
				}
			})
			racing.Wait()
			// A change behind all of them shows that they were applied.
			position := c.profile("behind-"+id, nil).Text("position")
			for _, k := range keys {
				for _, s := range []*server{w.one, w.two} {
					c.at(s).brings(k.Text("secret"), position, "", "threshold", nil)
				}
			}
		}
	})
}
