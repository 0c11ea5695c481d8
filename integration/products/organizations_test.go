package products

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/integration/program"
)

// A key needs no name. It can be given one later, and lose it again.
func TestO01NameIsOptional(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	byAPI := c.create(nil)
	byCLI := c.document("keys", "create", "--permissions", "interview:read", "--workspaces", "all")
	for _, made := range []answer{byAPI, byCLI} {
		id, secret := made.Text("key.id"), made.Text("secret")
		if name, there := made.Get("key").(obj)["name"]; !there || name != nil {
			t.Errorf("a key without a name is called %v", name)
		}
		c.code("VALID", secret, "interview:read", "")
		c.verify("VALID", secret)
		says(t, c.cli("keys", "list"), id, "kl_live_…"+secret[len(secret)-4:])
		c.must(200, "PATCH", "/keys/"+id, obj{"name": "tax return"})
		says(t, c.cli("keys", "get", id), "tax return")
		c.cli("keys", "rename", id, "")
		if k := c.must(200, "GET", "/keys/"+id, nil); k.Get("name") != nil {
			t.Errorf("a key that lost its name is called %v", k.Get("name"))
		}
	}
}

// A key expires after two weeks, one, three or six months, a year, or never.
func TestO02ExpiryChoices(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	for choice, after := range map[string]func(time.Time) time.Time{
		"14d": func(t time.Time) time.Time { return t.AddDate(0, 0, 14) },
		"1mo": func(t time.Time) time.Time { return months(t, 1) },
		"3mo": func(t time.Time) time.Time { return months(t, 3) },
		"6mo": func(t time.Time) time.Time { return months(t, 6) },
		"1y":  func(t time.Time) time.Time { return months(t, 12) },
	} {
		byAPI := c.create(obj{"expires_in": choice})
		byCLI := c.document("keys", "create", "--permissions", "interview:read", "--workspaces", "all", "--expires-in", choice)
		for _, made := range []answer{byAPI, byCLI} {
			created, fault := time.Parse(time.RFC3339, made.Text("key.created_at"))
			expires, err := time.Parse(time.RFC3339, made.Text("key.expires_at"))
			if fault != nil || err != nil {
				t.Fatalf("%s: %s", choice, made)
			}
			// What is counted in days and months ends with a whole second.
			if off := expires.Sub(after(created)); off < -time.Second || off > time.Second {
				t.Errorf("%s after %s is %s", choice, created, expires)
			}
			if v := c.verdict(made.Text("secret"), nil); v.Text("code") != "VALID" || v.Text("expires_at") == "" {
				t.Errorf("a key that expires later: %s", v)
			}
		}
		says(t, c.cli("keys", "get", byCLI.Text("key.id")), byCLI.Text("key.expires_at")[:10])
	}
	for _, made := range []answer{c.create(obj{"expires_in": "never"}), c.document("keys", "create", "--permissions", "all", "--workspaces", "all", "--expires-in", "never")} {
		if at, there := made.Get("key").(obj)["expires_at"]; !there || at != nil {
			t.Errorf("a key that never expires ends at %v", at)
		}
		if !lineOf(c.cli("keys", "get", made.Text("key.id")), "expires", "never") {
			t.Error("keys get does not say that it never expires")
		}
	}
	c.must(422, "POST", "/keys", obj{"permissions": []string{"interview:read"}, "scope": everywhere, "expires_in": "2 weeks"})
	says(t, c.exits(1, "", "keys", "create", "--permissions", "interview:read", "--workspaces", "all", "--expires-in", "2 weeks").stderr, "--expires-in", "<n>d, <n>mo, <n>y or never")
}

// months is so many months later, on the month's last day where it is shorter.
func months(t time.Time, n int) time.Time {
	first := time.Date(t.Year(), t.Month(), 1, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC).AddDate(0, n, 0)
	last := first.AddDate(0, 1, -1).Day()
	return first.AddDate(0, 0, min(t.Day(), last)-1)
}

// The full key is in the answer that made it, and nowhere else.
func TestO03ShownOnce(t *testing.T) { shownOnce(t, onOne(t)) }

// Keys are listed and renamed, page by page and on either server.
func TestO04ListedAndRenamed(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	const many = 5
	made := map[string]bool{}
	for n := range many {
		made[c.create(obj{"name": fmt.Sprint("return ", n)}).Text("key.id")] = true
	}
	for _, s := range []*server{w.one, w.two} {
		c := c.at(s)
		c.until("all keys to be listed", func() bool { return len(c.must(200, "GET", "/keys?kind=api", nil).List("items")) == many })
		seen := map[string]bool{}
		for cursor := ""; ; {
			page := c.must(200, "GET", "/keys?kind=api&limit=2&cursor="+url.QueryEscape(cursor), nil)
			for i := range page.List("items") {
				seen[page.Text(fmt.Sprint("items.", i, ".id"))] = true
			}
			if cursor = page.Text("next_cursor"); cursor == "" {
				break
			}
		}
		if fmt.Sprint(seen) != fmt.Sprint(made) {
			t.Errorf("listed page by page are %v, want %v", seen, made)
		}
	}
	id := c.must(200, "GET", "/keys?kind=api&limit=1", nil).Text("items.0.id")
	if k := c.must(200, "PATCH", "/keys/"+id, obj{"name": "annual return"}); k.Text("name") != "annual return" {
		t.Errorf("renamed: %s", k)
	}
	says(t, c.cli("keys", "list", "--search", "annual"), id, "annual return")
	c.cli("keys", "rename", id, "VAT return")
	if item, _ := c.must(200, "GET", "/keys", nil).Item(id); item.Text("name") != "VAT return" {
		t.Errorf("the list shows %s", item)
	}
	says(t, c.cli("keys", "list"), "VAT return")
}

// Revoking asks first at the shell, and cannot be undone.
func TestO05RevokeAsksFirst(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	made := c.create(obj{"name": "tax return"})
	id, secret := made.Text("key.id"), made.Text("secret")
	// Where there is nobody to ask, nothing happens without --yes.
	says(t, c.exits(2, "y\n", "keys", "revoke", id).stderr, "cannot be undone", "--yes")
	c.terminal(obj{"ID": id}, `
		ttyin -stdin no
		! exec keyledger keys revoke $ID
		stderr 'Revoke key .*tax return.* for ever\? \[y/N\]'
		stderr 'nothing was changed'
		! stdout .
	`)
	c.code("VALID", secret, "interview:read", "")
	c.terminal(obj{"ID": id}, `
		ttyin -stdin yes
		exec keyledger keys revoke $ID --reason leaked
		stdout 'Revoked key .*tax return.*for ever'
	`)
	c.nothingRevives(made, "")
	c.at(w.two).code("REVOKED", secret, "interview:read", c.must(200, "GET", "/keys/"+id, nil).Text("position"))
}

// Several keys live at once: a service changes over from one to the other, and
// only then the old one goes.
func TestO06SeveralKeysForRotation(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	old := c.create(obj{"name": "2025"})
	next := c.document("keys", "create", "--name", "2026", "--permissions", "interview:read", "--workspaces", "all")
	for _, made := range []answer{old, next} {
		c.code("VALID", made.Text("secret"), "interview:read", "")
		c.at(w.two).code("VALID", made.Text("secret"), "interview:read", next.Text("position"))
		c.verify("VALID", made.Text("secret"))
	}
	gone := c.must(200, "DELETE", "/keys/"+old.Text("key.id"), nil)
	for _, s := range []*server{w.one, w.two} {
		c.at(s).code("REVOKED", old.Text("secret"), "interview:read", gone.Text("position"))
		c.at(s).code("VALID", next.Text("secret"), "interview:read", gone.Text("position"))
	}
	c.verify("REVOKED", old.Text("secret"))
	c.verify("VALID", next.Text("secret"))
}

// A key lives until it goes or its organization does. The organization's end
// denies all its keys at once, and the audit log then has an event for each.
func TestO07OrganizationsEndDeniesAllItsKeys(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		t.Run("by API", func(t *testing.T) {
			t.Parallel()
			c := w.organization(t)
			endOrganization(t, w, c, func() string {
				return c.must(200, "DELETE", "/v1/organizations/"+c.org, nil).Text("position")
			})
		})
		t.Run("by CLI", func(t *testing.T) {
			t.Parallel()
			c := w.organization(t)
			c.terminal(nil, `
				ttyin -stdin no
				! exec keyledger orgs delete $KEYLEDGER_ORG
				stderr 'End organization .* deny all its keys, for ever\? \[y/N\]'
			`)
			endOrganization(t, w, c, func() string { return c.document("orgs", "delete", c.org, "--yes").Text("position") })
		})
	})
}

// endOrganization ends an organization while both servers are asked about its
// keys, and more are made.
func endOrganization(t *testing.T, w *world, c caller, end func() string) {
	// Keys of every kind and state, but one that was revoked before.
	const many = 8
	keys := map[string]string{}
	var live string
	for range many {
		made := c.create(nil)
		live = made.Text("secret")
		keys[made.Text("key.id")] = live
	}
	off := c.create(nil)
	keys[off.Text("key.id")] = off.Text("secret")
	c.must(200, "PATCH", "/keys/"+off.Text("key.id"), obj{"status": "INACTIVE"})
	before := c.create(nil)
	last := c.must(200, "POST", "/keys/"+before.Text("key.id")+"/revoke", obj{"reason": "leaked"}).Text("position")
	c.at(w.two).code("VALID", live, "interview:read", last)
	root := c.with(w.owner)
	self := c.must(200, "GET", "/v1/whoami", nil).Text("key_id")

	var (
		ended  atomic.Pointer[string]
		racing sync.WaitGroup
		mu     sync.Mutex
	)
	for i, s := range []*server{w.one, w.two} {
		asked := root.at(s)
		racing.Go(func() {
			for after, denied := 0, false; after < 3; {
				question, position := obj{"secret": live, "permission": "interview:read"}, ended.Load()
				if position != nil {
					question["at_least"] = *position
					after++
				}
				a, err := asked.try("POST", "/v1/verify", question)
				code := a.Text("code")
				if err != nil || code != "REVOKED" && (code != "VALID" || position != nil || denied) {
					t.Errorf("server %d, after the end was answered: %t: %s, %v", i+1, position != nil, a, err)
					return
				}
				denied = code == "REVOKED"
			}
		})
		// Whoever makes keys meanwhile makes some that nothing comes of.
		racing.Go(func() {
			for ended.Load() == nil {
				a, err := c.at(s).try("POST", "/keys", obj{"permissions": []string{"interview:read"}, "scope": everywhere})
				if err != nil || a.Status != 201 && a.Status != 401 && a.Status != 404 && a.Status != 409 && a.Status != 503 {
					t.Errorf("a create at server %d: %s, %v", i+1, a, err)
					return
				}
				if a.Status == 201 {
					mu.Lock()
					keys[a.Text("key.id")] = a.Text("secret")
					mu.Unlock()
				}
			}
		})
	}
	position := end()
	ended.Store(&position)
	racing.Wait()
	for _, s := range []*server{w.one, w.two} {
		for _, secret := range keys {
			root.at(s).code("REVOKED", secret, "interview:read", position)
		}
		root.at(s).verify("REVOKED", live, "--at-least", position)
		c.at(s).must(401, "GET", "/v1/whoami", nil)
	}
	root.refused(409, "already_exists", "POST", "/v1/organizations", obj{"id": c.org, "name": "once more"})

	keys[self] = c.key
	audited(t, w, root, keys, last)
}

// audited expects one revocation of each key in the audit log, by the ledger
// itself, caused by the organization's end.
func audited(t *testing.T, w *world, root caller, keys map[string]string, after string) {
	t.Helper()
	var cause string
	told := map[string]int{}
	w.follow(root.at(w.two), after, "organization.deleted,key.revoked", func(e answer) bool {
		if e.Text("type") == "keyledger.organization.deleted.v1" {
			cause = e.Text("id")
		} else if cause != "" {
			id := e.Text("subject")[strings.LastIndexByte(e.Text("subject"), '.')+1:]
			told[id]++
			if _, known := keys[id]; !known || e.Text("reason") != "the organization was deleted" || e.Text("causationid") != cause {
				t.Errorf("revoked with the organization: %s", e)
			}
		}
		return len(told) < len(keys)
	})
	for id := range keys {
		if told[id] != 1 {
			t.Errorf("key %s is revoked %d times", id, told[id])
		}
	}
	said := root.cli("events", "tail", "--after", after, "--types", "key.revoked", "--limit", fmt.Sprint(len(keys)))
	if got := strings.Count(said, "the organization was deleted"); got != len(keys) {
		t.Errorf("events tail tells of %d revocations, want %d:\n%s", got, len(keys), said)
	}
}

// follow reads the organization's events behind a position, until it has enough.
func (w *world) follow(c caller, after, types string, more func(answer) bool) {
	c.t.Helper()
	query := url.Values{"organization": {c.org}, "after": {after}, "types": {types}}
	req, err := http.NewRequestWithContext(c.t.Context(), "GET", c.server.url+"/v1/events?"+query.Encode(), nil)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	client := http.Client{Timeout: program.Patience}
	res, err := client.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, is := strings.CutPrefix(lines.Text(), "data: ")
		if !is {
			continue
		}
		if !json.Valid([]byte(data)) {
			c.t.Fatalf("an event is %s", data)
		}
		if !more(answer{Status: res.StatusCode, Body: []byte(data)}) {
			return
		}
	}
	c.t.Fatalf("the events end with %d: %v", res.StatusCode, lines.Err())
}
