package products

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// automation is what the automation platform's API has.
var automation = []obj{
	{"name": "flow:read", "access": "read", "routes": []string{"GET /flows/{id}"}},
	{"name": "flow:run", "access": "write", "routes": []string{"POST /flows/{id}/runs"}},
	{"name": "report:read", "access": "read"},
	{"name": "report:export", "access": "write"},
}

// offers puts a catalog in the place of the one before, and returns its position.
func (c caller) offers(permissions ...obj) string {
	c.t.Helper()
	return c.must(200, "PUT", "/permissions", obj{"permissions": permissions}).Text("position")
}

// tokens begins an organization of the automation platform.
func (w *world) tokens(t *testing.T, more ...obj) caller {
	t.Helper()
	c := w.organization(t, more...)
	c.offers(automation...)
	probe := c.create(obj{"name": "probe", "permissions": []string{"flow:read"}})
	for _, s := range []*server{w.one, w.two} {
		c.at(s).code("VALID", probe.Text("secret"), "flow:read", probe.Text("position"))
	}
	c.must(200, "POST", "/keys/"+probe.Text("key.id")+"/revoke", nil)
	return c
}

// may expects what a key may do: of these permissions the listed ones, and no other.
func (c caller) may(secret, position string, asked []string, allowed ...string) {
	c.t.Helper()
	for _, p := range asked {
		want := "INSUFFICIENT_PERMISSIONS"
		if slices.Contains(allowed, p) {
			want = "VALID"
		}
		c.code(want, secret, p, position)
	}
}

// A token has a name, and expires after 7, 30, 60, 90 or 180 days, or a year.
func TestT01NameAndExpiry(t *testing.T) {
	w := onOne(t)
	c := w.tokens(t)
	for choice, after := range map[string]func(time.Time) time.Time{
		"7d":   func(t time.Time) time.Time { return t.AddDate(0, 0, 7) },
		"30d":  func(t time.Time) time.Time { return t.AddDate(0, 0, 30) },
		"60d":  func(t time.Time) time.Time { return t.AddDate(0, 0, 60) },
		"90d":  func(t time.Time) time.Time { return t.AddDate(0, 0, 90) },
		"180d": func(t time.Time) time.Time { return t.AddDate(0, 0, 180) },
		"1y":   func(t time.Time) time.Time { return months(t, 12) },
	} {
		name := "Ada's token for " + choice
		for _, made := range []answer{
			c.create(obj{"name": name, "permissions": []string{"flow:read"}, "expires_in": choice}),
			c.document("keys", "create", "--name", name, "--permissions", "flow:read", "--workspaces", "all", "--expires-in", choice),
		} {
			created, fault := time.Parse(time.RFC3339, made.Text("key.created_at"))
			expires, err := time.Parse(time.RFC3339, made.Text("key.expires_at"))
			if fault != nil || err != nil || made.Text("key.name") != name {
				t.Fatalf("%s: %s", choice, made)
			}
			if off := expires.Sub(after(created)); off < -time.Second || off > time.Second {
				t.Errorf("%s after %s is %s", choice, created, expires)
			}
			c.code("VALID", made.Text("secret"), "flow:read", "")
			shown := c.cli("keys", "get", made.Text("key.id"))
			says(t, shown, name, expires.Format("2006-01-02 15:04:05 UTC"))
		}
	}
}

// A token is good in all workspaces or in specific ones.
func TestT02ScopeAllOrSpecific(t *testing.T) {
	w := onOne(t)
	c := w.tokens(t)
	c.must(201, "POST", "/workspaces", obj{"id": "third", "name": "Third"})
	tokens := map[string][]string{"all": {"hiring", "research", "third"}, "hiring": {"hiring"}, "hiring,research": {"hiring", "research"}}
	for scope, good := range tokens {
		body := obj{"all_workspaces": true}
		if scope != "all" {
			body = obj{"workspaces": good}
		}
		for _, made := range []answer{
			c.create(obj{"permissions": []string{"flow:read"}, "scope": body}),
			c.document("keys", "create", "--permissions", "flow:read", "--workspaces", scope),
		} {
			for _, workspace := range []string{"hiring", "research", "third", "elsewhere"} {
				want := "OUT_OF_SCOPE"
				if slices.Contains(good, workspace) {
					want = "VALID"
				}
				for _, s := range []*server{w.one, w.two} {
					v := c.at(s).verdict(made.Text("secret"), obj{"permission": "flow:read", "workspace": workspace, "at_least": made.Text("position")})
					if v.Text("code") != want || v.Get("scope_checked") != true {
						t.Errorf("a token for %s in %s: %s, want %s", scope, workspace, v, want)
					}
				}
			}
			c.verify("VALID", made.Text("secret"), "--permission", "flow:read", "--workspace", "hiring")
			c.verify("OUT_OF_SCOPE", made.Text("secret"), "--permission", "flow:read", "--workspace", "elsewhere")
		}
	}
	c.must(422, "POST", "/keys", obj{"permissions": []string{"flow:read"}, "scope": obj{}})
	c.must(422, "POST", "/keys", obj{"permissions": []string{"flow:read"}, "scope": obj{"all_workspaces": true, "workspaces": []string{"hiring"}}})
	c.exits(2, "", "keys", "create", "--permissions", "flow:read")
}

// A token's level is All, Read only, or Restricted with single permissions of each
// resource, and resource:* for all of one.
func TestT03Levels(t *testing.T) {
	w := onOne(t)
	c := w.tokens(t)
	all := []string{"flow:read", "flow:run", "report:read", "report:export"}
	asked := append([]string{"flow:stop", "audit:read"}, all...)
	for flag, level := range map[string]struct {
		wish any
		may  []string
	}{
		"all":                   {obj{"level": "all"}, all},
		"read_only":             {obj{"level": "read_only"}, []string{"flow:read", "report:read"}},
		"flow:run":              {[]string{"flow:run"}, []string{"flow:run"}},
		"flow:run,report:read":  {obj{"level": "restricted", "grants": []string{"flow:run", "report:read"}}, []string{"flow:run", "report:read"}},
		"report:*":              {[]string{"report:*"}, []string{"report:read", "report:export"}},
		"flow:read,report:*":    {[]string{"flow:read", "report:*"}, []string{"flow:read", "report:read", "report:export"}},
		"flow:*,report:*":       {[]string{"flow:*", "report:*"}, all},
		"flow:*,report:export":  {[]string{"flow:*", "report:export"}, []string{"flow:read", "flow:run", "report:export"}},
		"flow:read,report:read": {[]string{"flow:read", "report:read"}, []string{"flow:read", "report:read"}},
	} {
		byAPI := c.create(obj{"permissions": level.wish})
		byCLI := c.document("keys", "create", "--permissions", flag, "--workspaces", "all")
		for _, made := range []answer{byAPI, byCLI} {
			c.may(made.Text("secret"), "", asked, level.may...)
			c.at(w.two).may(made.Text("secret"), made.Text("position"), asked, level.may...)
			var effective []string
			for _, p := range made.List("key.effective_permissions") {
				effective = append(effective, p.(string))
			}
			slices.Sort(effective)
			if want := slices.Sorted(slices.Values(level.may)); !slices.Equal(effective, want) {
				t.Errorf("%s: the key is shown with %v, want %v", flag, effective, want)
			}
		}
		c.verify("VALID", byCLI.Text("secret"), "--permission", level.may[0])
		c.verify("INSUFFICIENT_PERMISSIONS", byCLI.Text("secret"), "--permission", "audit:read")
	}
	for _, grants := range [][]string{{"flow:stop"}, {"audit:*"}, {"*"}, {"flow"}, {"*:read"}, {}} {
		a := c.must(422, "POST", "/keys", obj{"permissions": grants, "scope": everywhere})
		if a.Text("code") != "unknown_permission" && a.Text("code") != "invalid_value" {
			t.Errorf("%v: %s", grants, a)
		}
	}
	says(t, c.exits(1, "", "keys", "create", "--permissions", "flow:stop", "--workspaces", "all").stderr, "unknown_permission", "flow:stop")
}

// All and Read only follow the catalog as it grows, on either server. What is taken
// out of it is denied from then on, to everybody.
func TestT04LevelsFollowTheCatalog(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		c := w.tokens(t)
		token, born := map[string]string{}, ""
		for name, wish := range map[string]any{
			"all": obj{"level": "all"}, "read only": obj{"level": "read_only"}, "group": []string{"report:*"}, "single": []string{"report:read"},
		} {
			made := c.create(obj{"permissions": wish})
			token[name], born = made.Text("secret"), made.Text("position")
		}
		names := []string{"flow:read", "flow:run", "report:read", "report:export", "report:list", "report:share", "flow:stop"}
		// holds expects on both servers what each token may do, from a position on.
		holds := func(position string, may map[string][]string) {
			t.Helper()
			for _, s := range []*server{w.one, w.two} {
				for _, name := range slices.Sorted(maps.Keys(token)) {
					c.at(s).may(token[name], position, names, may[name]...)
				}
			}
		}
		holds(born, map[string][]string{
			"all": {"flow:read", "flow:run", "report:read", "report:export"}, "read only": {"flow:read", "report:read"},
			"group": {"report:read", "report:export"}, "single": {"report:read"},
		})
		// It grows.
		more := append(slices.Clone(automation), obj{"name": "report:list", "access": "read"}, obj{"name": "report:share", "access": "write"}, obj{"name": "flow:stop", "access": "write"})
		holds(c.offers(more...), map[string][]string{
			"all": names, "read only": {"flow:read", "report:read", "report:list"},
			"group": {"report:read", "report:export", "report:list", "report:share"}, "single": {"report:read"},
		})
		// It shrinks, at the other server.
		holds(c.at(w.two).offers(obj{"name": "flow:read", "access": "read"}, obj{"name": "report:export", "access": "write"}), map[string][]string{
			"all": {"flow:read", "report:export"}, "read only": {"flow:read"}, "group": {"report:export"},
		})
		c.verify("INSUFFICIENT_PERMISSIONS", token["all"], "--permission", "report:read")
		c.verify("INSUFFICIENT_PERMISSIONS", token["single"], "--permission", "report:read")
		// What reads today may write tomorrow; and set at the shell it holds as well.
		position := c.document("permissions", "set", "--permission", "flow:read=write", "--permission", "report:read=read", "--permission", "report:list=read").Text("position")
		holds(position, map[string][]string{
			"all": {"flow:read", "report:read", "report:list"}, "read only": {"report:read", "report:list"},
			"group": {"report:read", "report:list"}, "single": {"report:read"},
		})
		c.verify("VALID", token["read only"], "--permission", "report:list")
		c.verify("INSUFFICIENT_PERMISSIONS", token["read only"], "--permission", "flow:read")
	})
}

// A token is sent as Authorization: Bearer.
func TestT05SentAsBearer(t *testing.T) {
	w := onOne(t)
	c := w.tokens(t)
	secret := c.create(obj{"permissions": []string{"flow:read"}}).Text("secret")
	anyone := c.with("")
	for _, s := range []*server{w.one, w.two} {
		anyone := anyone.at(s)
		for _, scheme := range []string{"Bearer ", "bearer ", "BEARER "} {
			anyone.until("the key at this server", func() bool {
				return anyone.ask("GET", "/v1/authorize?permission=flow:read", nil, "Authorization", scheme+secret).Status == 200
			})
		}
		for what, header := range map[string]string{"nothing": "", "no scheme": secret, "another scheme": "Basic " + secret, "nothing behind it": "Bearer ", "two": "Bearer " + secret + " " + secret} {
			var a answer
			if header == "" {
				a = anyone.ask("GET", "/v1/authorize?permission=flow:read", nil)
			} else {
				a = anyone.ask("GET", "/v1/authorize?permission=flow:read", nil, "Authorization", header)
			}
			if a.Status != 401 || !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("%s: %d with WWW-Authenticate %q", what, a.Status, a.Header.Get("WWW-Authenticate"))
			}
			if strings.Contains(a.String(), secret) {
				t.Errorf("%s: the answer shows the key", what)
			}
		}
		// Nowhere else: in a URL it would end up in logs.
		if a := anyone.ask("GET", "/v1/authorize?permission=flow:read&access_token="+secret, nil); a.Status == 200 {
			t.Errorf("a key in the URL lets in")
		}
		if a := anyone.ask("GET", "/v1/whoami", nil, "Authorization", "Bearer "+secret); a.Status != 200 || a.Text("kind") != "api" {
			t.Errorf("whoami: %s", a)
		}
	}
	// The program sends what its environment holds.
	says(t, c.with(secret).cli("whoami"), "flow:read", c.org)
	// By the gateway's request it is the same.
	req, err := http.NewRequestWithContext(t.Context(), "POST", w.one.url+"/v1/authorize", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Authorization": {"Bearer " + secret}, "X-Forwarded-Method": {"GET"}, "X-Forwarded-Uri": {"/flows/7"}}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 || res.Header.Get("X-Keyledger-Permission") != "flow:read" {
		t.Errorf("a gateway is told %d, permission %q", res.StatusCode, res.Header.Get("X-Keyledger-Permission"))
	}
}

// The list shows name, key prefix, scope and creation date.
func TestT06ListShows(t *testing.T) {
	w := onOne(t)
	c := w.tokens(t)
	wide := c.create(obj{"name": "wide", "permissions": []string{"flow:read"}, "prefix": "auto_pat"})
	narrow := c.document("keys", "create", "--name", "narrow", "--permissions", "flow:read", "--workspaces", "hiring,research")
	day := time.Now().UTC()
	for _, s := range []*server{w.one, w.two} {
		c := c.at(s)
		var list answer
		c.until("the list of both", func() bool {
			list = c.must(200, "GET", "/keys?kind=api", nil)
			return len(list.List("items")) == 2
		})
		one, _ := list.Item(wide.Text("key.id"))
		if one.Text("name") != "wide" || one.Text("prefix") != "auto_pat" || one.Get("scope.all_workspaces") != true {
			t.Errorf("the list shows %s", one)
		}
		two, _ := list.Item(narrow.Text("key.id"))
		if two.Text("name") != "narrow" || two.Text("prefix") != "kl_live" || fmt.Sprint(two.List("scope.workspaces")) != "[hiring research]" {
			t.Errorf("the list shows %s", two)
		}
		for _, item := range []answer{one, two} {
			if at, err := time.Parse(time.RFC3339, item.Text("created_at")); err != nil || day.Sub(at).Abs() > time.Hour {
				t.Errorf("created_at is %q", item.Text("created_at"))
			}
		}
		table := c.cli("keys", "list", "--kind", "api")
		head, _, _ := strings.Cut(table, "\n")
		says(t, head, "NAME", "KEY", "IN", "CREATED")
		says(t, row(table, wide.Text("key.id")), "wide", "auto_pat_…", "all workspaces")
		says(t, row(table, narrow.Text("key.id")), "narrow", "kl_live_…", "hiring, research")
		for _, made := range []answer{wide, narrow} {
			says(t, c.cli("keys", "get", made.Text("key.id")), made.Text("key.created_at")[:10])
		}
	}
}

// Name, permissions and scope are edited; deleting takes access away at once. Both
// hold on either server, and whatever races.
func TestT07EditedAndDeleted(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		c := w.tokens(t)
		names := []string{"flow:read", "flow:run", "report:read", "report:export"}
		made := c.create(obj{"name": "before", "permissions": []string{"flow:read"}})
		id, secret := made.Text("key.id"), made.Text("secret")
		edited := c.must(200, "PATCH", "/keys/"+id, obj{"name": "after", "permissions": []string{"flow:run", "report:*"}, "scope": obj{"workspaces": []string{"hiring"}}})
		if edited.Text("name") != "after" || edited.Text("last_four") != made.Text("key.last_four") {
			t.Errorf("edited: %s", edited)
		}
		for _, s := range []*server{w.one, w.two} {
			c.at(s).may(secret, edited.Text("position"), names, "flow:run", "report:read", "report:export")
			if v := c.at(s).verdict(secret, obj{"permission": "flow:run", "workspace": "research"}); v.Text("code") != "OUT_OF_SCOPE" {
				t.Errorf("in another workspace: %s", v)
			}
		}
		position := c.document("keys", "update", id, "--name", "shell", "--permissions", "read_only", "--workspaces", "research").Text("position")
		for _, s := range []*server{w.one, w.two} {
			c.at(s).may(secret, position, names, "flow:read", "report:read")
			if v := c.at(s).verdict(secret, obj{"permission": "flow:read", "workspace": "hiring"}); v.Text("code") != "OUT_OF_SCOPE" {
				t.Errorf("in another workspace: %s", v)
			}
		}
		c.cli("keys", "rename", id, "renamed")
		says(t, row(c.cli("keys", "list"), id), "renamed", "research", "everything that reads")

		// Of two who edit the same revision, at a server each, one is told that he is late.
		tag := c.must(200, "GET", "/keys/"+id, nil).Header.Get("ETag")
		var racing sync.WaitGroup
		var outcome [2]answer
		for i, s := range []*server{w.one, w.two} {
			racing.Go(func() {
				a, err := c.at(s).insist("PATCH", "/keys/"+id, obj{"name": fmt.Sprint("by server ", i+1)}, "If-Match", tag)
				if err != nil {
					t.Errorf("an edit at server %d: %v", i+1, err)
				}
				outcome[i] = a
			})
		}
		racing.Wait()
		won := 0
		if outcome[1].Status == 200 {
			won = 1
		}
		if outcome[won].Status != 200 || outcome[1-won].Status != 412 || c.must(200, "GET", "/keys/"+id, nil).Text("name") != fmt.Sprint("by server ", won+1) && won == 0 {
			t.Errorf("of two edits of one revision: %s and %s", outcome[0], outcome[1])
		}

		// Deleted while somebody edits it, it is gone, and stays gone.
		edit := func() {
			for {
				a, err := c.at(w.two).insist("PATCH", "/keys/"+id, obj{"permissions": obj{"level": "all"}, "status": "ACTIVE"})
				if err != nil || a.Status != 200 && a.Status != 409 {
					t.Errorf("an edit: %s, %v", a, err)
				}
				if err != nil || a.Status == 409 {
					return
				}
			}
		}
		racing.Go(edit)
		gone := c.must(200, "DELETE", "/keys/"+id, nil)
		c.code("REVOKED", secret, "flow:read", "")
		if a := c.with(secret).ask("GET", "/v1/authorize?permission=flow:read", nil); a.Status != 401 {
			t.Errorf("the next request after the deletion: %s", a)
		}
		racing.Wait()
		for _, s := range []*server{w.one, w.two} {
			c.at(s).code("REVOKED", secret, "flow:read", gone.Text("position"))
		}
		byCLI := c.create(obj{"permissions": []string{"flow:read"}})
		c.cli("keys", "delete", byCLI.Text("key.id"), "--yes")
		c.verify("REVOKED", byCLI.Text("secret"))
	})
}

// An organization has ten tokens at most, and exactly: creates race on both servers,
// and ten of them succeed, whatever came before.
func TestT08AtMostNKeysExact(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		const most = 10
		c := w.organization(t, obj{"limits": obj{"max_active_keys": most}})
		wish := obj{"permissions": []string{"interview:read"}, "scope": everywhere}
		race := func(want int) (made []answer) {
			t.Helper()
			var (
				mu     sync.Mutex
				racing sync.WaitGroup
			)
			for n := range 3 * most {
				s := []*server{w.one, w.two}[n%2]
				racing.Go(func() {
					a, err := c.at(s).insist("POST", "/keys", wish)
					mu.Lock()
					defer mu.Unlock()
					switch {
					case err != nil:
						t.Errorf("create: %v", err)
					case a.Status == 201:
						made = append(made, a)
					case a.Status != 409 || a.Text("code") != "key_limit_reached":
						t.Errorf("create: %s", a)
					}
				})
			}
			racing.Wait()
			if len(made) != want {
				t.Errorf("%d keys were made, want %d", len(made), want)
			}
			return made
		}
		made := race(most)
		if len(made) != most {
			return
		}
		for _, s := range []*server{w.one, w.two} {
			says(t, c.at(s).refused(409, "key_limit_reached", "POST", "/keys", wish).Text("detail"), "10")
			c.at(s).code("VALID", made[0].Text("secret"), "interview:read", made[0].Text("position"))
		}
		r := c.exits(1, "", "keys", "create", "--permissions", "interview:read", "--workspaces", "all")
		says(t, r.stderr, "key_limit_reached", "10", "--max-active-keys")

		// Management keys take no place, and a rotation needs none.
		w.as(c, obj{"role": "admin"})
		c.must(201, "POST", "/keys/"+made[0].Text("key.id")+"/rotate", obj{"grace": "24h"})
		// Who is switched off keeps the place.
		c.must(200, "PATCH", "/keys/"+made[1].Text("key.id"), obj{"status": "INACTIVE"})
		race(0)
		// Who is deleted leaves it: by whichever server.
		c.cli("keys", "delete", made[2].Text("key.id"), "--yes")
		c.at(w.two).must(200, "DELETE", "/keys/"+made[3].Text("key.id"), nil)
		race(2)
		if living := c.must(200, "GET", "/keys?kind=api&limit=200", nil); len(living.List("items")) != most+1 {
			t.Errorf("with the predecessor in its grace %d keys live, want %d", len(living.List("items")), most+1)
		}
		// More are given room; and a limit that is lowered ends nobody.
		root := c.with(w.owner)
		position := root.must(200, "PATCH", "/v1/organizations/"+c.org, obj{"limits": obj{"max_active_keys": most + 1}}).Text("position")
		for _, s := range []*server{w.one, w.two} {
			c.at(s).code("VALID", made[4].Text("secret"), "interview:read", position)
		}
		race(1)
		says(t, root.cli("orgs", "update", c.org, "--max-active-keys", "3"), "3 active keys")
		c.code("VALID", made[4].Text("secret"), "interview:read", "")
		c.refused(409, "key_limit_reached", "POST", "/keys", wish)
	})
}

// Expired tokens are off by themselves, on both servers; their end is recorded once,
// and their places are free.
func TestT09ExpiredKeysAreDisabledByThemselves(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		c := w.organization(t, obj{"limits": obj{"max_active_keys": 2}})
		servers := []*server{w.one, w.two}
		at := soon()
		byAPI := c.create(obj{"name": "by API", "expires_at": at})
		byCLI := c.document("keys", "create", "--permissions", "interview:read", "--workspaces", "all", "--expires-at", at.Format(time.RFC3339))
		wish := obj{"permissions": []string{"interview:read"}, "scope": everywhere}
		if full := c.ask("POST", "/keys", wish); full.Text("code") != "key_limit_reached" && time.Now().Before(at) {
			t.Errorf("a third key beside two: %s", full)
		} else if full.Status == 201 {
			c.must(200, "DELETE", "/keys/"+full.Text("key.id"), nil)
		}
		var both sync.WaitGroup
		for _, made := range []answer{byAPI, byCLI} {
			both.Go(func() { c.expires(made, at, servers...) })
		}
		both.Wait()
		// At once: the record of the end may come later.
		for _, s := range servers {
			c.at(s).must(201, "POST", "/keys", wish)
		}
		c.refused(409, "key_limit_reached", "POST", "/keys", wish)
		for _, made := range []answer{byAPI, byCLI} {
			id := made.Text("key.id")
			c.recordedOnce(id, servers...)
			c.verify("EXPIRED", made.Text("secret"), "--permission", "interview:read")
			says(t, row(c.cli("keys", "list", "--status", "expired"), id), "EXPIRED")
			c.refused(409, "ended", "POST", "/keys/"+id+"/rotate", obj{"grace": "0"})
			says(t, c.exits(1, "", "keys", "enable", id).stderr, "ended")
		}
	})
}

// The organization's policy can set the longest lifetime, forbid keys that never
// expire, narrow the choices, and require a name. A create that breaks one says
// which, on either server; one that keeps all of them goes through.
func TestT10PolicySaysWhichIsBroken(t *testing.T) {
	w := onOne(t)
	for name, broken := range map[string]struct {
		policy obj
		flags  []string
		// breaks and keeps are creates, each by the API and at the shell.
		breaks, keeps map[string]obj
	}{
		"max_key_lifetime": {
			obj{"max_key_lifetime": "90d"},
			[]string{"--policy-max-key-lifetime", "90d"},
			map[string]obj{"--expires-in 91d": {"expires_in": "91d"}, "--expires-in 1y": {"expires_in": "1y"}, "--expires-in never": {"expires_in": "never"}},
			map[string]obj{"--expires-in 90d": {"expires_in": "90d"}, "--expires-in 7d": {"expires_in": "7d"}},
		},
		"expiry_required": {
			obj{"expiry_required": true},
			[]string{"--expiry-required"},
			map[string]obj{"--expires-in never": {"expires_in": "never"}, "": {}},
			map[string]obj{"--expires-in 1y": {"expires_in": "1y"}},
		},
		"expiry_choices": {
			obj{"expiry_choices": []string{"30d", "90d"}},
			[]string{"--expiry-choices", "30d,90d"},
			map[string]obj{"--expires-in 60d": {"expires_in": "60d"}, "--expires-in never": {"expires_in": "never"}, "": {}, "--expires-at 2099-01-31": {"expires_at": "2099-01-31T00:00:00Z"}},
			map[string]obj{"--expires-in 30d": {"expires_in": "30d"}, "--expires-in 90d": {"expires_in": "90d"}},
		},
		"name_required": {
			obj{"name_required": true},
			[]string{"--name-required"},
			map[string]obj{"": {}, "--expires-in 7d": {"expires_in": "7d"}},
			map[string]obj{"--name mine": {"name": "mine"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := w.organization(t)
			free := c.create(obj{"name": "before the policy"})
			c.cli(append([]string{"orgs", "update", c.org}, broken.flags...)...)
			set := c.must(200, "GET", "/v1/organizations/"+c.org, nil)
			if set.Get("policy."+name) == nil {
				t.Fatalf("set at the shell: %s", set)
			}
			// By the API it is taken away and set again.
			c.must(200, "PATCH", "/v1/organizations/"+c.org, obj{"policy": nil})
			c.create(nil)
			position := c.must(200, "PATCH", "/v1/organizations/"+c.org, obj{"policy": broken.policy}).Text("position")
			for _, s := range []*server{w.one, w.two} {
				c := c.at(s)
				c.code("VALID", free.Text("secret"), "interview:read", position)
				for flags, wish := range broken.breaks {
					body := obj{"permissions": []string{"interview:read"}, "scope": everywhere}
					maps.Copy(body, wish)
					refused := c.refused(422, "policy_violation", "POST", "/keys", body)
					if !strings.HasPrefix(refused.Text("detail"), "policy."+name) || refused.Text("field") == "" {
						t.Errorf("%q: %s", flags, refused)
					}
					r := c.exits(1, "", append([]string{"keys", "create", "--permissions", "interview:read", "--workspaces", "all"}, strings.Fields(flags)...)...)
					says(t, r.stderr, "policy."+name, "policy_violation")
				}
				for flags, wish := range broken.keeps {
					c.create(wish)
					c.cli(append([]string{"keys", "create", "--permissions", "interview:read", "--workspaces", "all"}, strings.Fields(flags)...)...)
				}
			}
			// What was there before goes on.
			c.code("VALID", free.Text("secret"), "interview:read", "")
		})
	}
	c := w.organization(t)
	for _, contradiction := range []obj{
		{"expiry_choices": []string{"30d"}, "default_expires_in": "90d"},
		{"expiry_choices": []string{"30d", "never"}, "expiry_required": true},
		{"expiry_choices": []string{"30d", "1y"}, "max_key_lifetime": "90d"},
	} {
		c.must(422, "PATCH", "/v1/organizations/"+c.org, obj{"policy": contradiction})
	}
}

// Read-only and restricted keys are told from management keys wherever a key shows:
// list, get, whoami, verdict, history, by the API and at the shell.
func TestT11ReadOnlyAndRestrictedAreToldFromManagementKeys(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	scope := obj{"workspaces": []string{"hiring"}}
	for name, k := range map[string]struct {
		wish              obj
		kind, level, role string
		// words are how the shell tells it, others how it tells of the other kinds.
		words  string
		others []string
	}{
		"read only":  {obj{"permissions": obj{"level": "read_only"}, "scope": scope}, "api", "read_only", "", "everything that reads", []string{"management", "role admin"}},
		"restricted": {obj{"permissions": []string{"interview:read"}, "scope": scope}, "api", "restricted", "", "interview:read", []string{"management", "role admin", "everything that reads"}},
		"management": {obj{"kind": "management", "role": "admin", "scope": scope}, "management", "", "admin", "role admin", []string{"everything that reads", "interview:read"}},
	} {
		body := maps.Clone(k.wish)
		body["name"] = name
		made := c.must(201, "POST", "/keys", body)
		id, secret := made.Text("key.id"), made.Text("secret")
		told := func(where string, a answer, prefix string) {
			t.Helper()
			if a.Text(prefix+"kind") != k.kind || a.Text(prefix+"role") != k.role || a.Text(prefix+"permissions.level") != k.level {
				t.Errorf("%s tells of a %s key: %s", where, name, a)
			}
		}
		shows := func(where, text string, words ...string) {
			t.Helper()
			says(t, text, words...)
			for _, other := range k.others {
				if strings.Contains(text, other) {
					t.Errorf("%s tells of a %s key as of another kind:\n%s", where, name, text)
				}
			}
		}
		told("create", made, "key.")
		told("get", c.must(200, "GET", "/keys/"+id, nil), "")
		item, _ := c.must(200, "GET", "/keys", nil).Item(id)
		told("list", item, "")
		for _, kind := range []string{"api", "management"} {
			if _, listed := c.must(200, "GET", "/keys?kind="+kind, nil).Item(id); listed != (kind == k.kind) {
				t.Errorf("a %s key in the list of kind %s: %t", name, kind, listed)
			}
		}
		told("whoami", c.with(secret).must(200, "GET", "/v1/whoami", nil), "")

		v := c.verdict(secret, obj{"permission": "interview:read", "workspace": "hiring"})
		switch {
		case k.kind == "management" && (v.Text("code") != "INSUFFICIENT_PERMISSIONS" || v.Text("kind") != "management" || v.Text("role") != "admin" || v.Get("permissions") != nil):
			t.Errorf("the verdict on a management key: %s", v)
		case k.kind == "api" && (v.Text("code") != "VALID" || v.Get("kind") != nil || v.Get("role") != nil || v.Text("permissions.level") != k.level):
			t.Errorf("the verdict on a %s key: %s", name, v)
		}
		created := c.must(200, "GET", "/keys/"+id+"/history?raw=true", nil)
		if got := created.Text("items.0.event.data.kind"); got != k.kind {
			t.Errorf("the history of a %s key says kind %q: %s", name, got, created)
		}
		if created.Text("items.0.event.data.role") != k.role || created.Text("items.0.event.data.permissions.level") != k.level {
			t.Errorf("the history of a %s key: %s", name, created)
		}

		shows("keys list", row(c.cli("keys", "list"), id), k.words)
		shows("keys get", c.cli("keys", "get", id), k.words, k.kind)
		shows("whoami", c.with(secret).cli("whoami"), k.words, k.kind)
		verdict := c.run(secret, "verify", "--workspace", "hiring").stdout
		shows("keys history", c.cli("keys", "history", id), strings.TrimPrefix(k.words, "role "))
		if k.kind == "management" {
			says(t, verdict, "INSUFFICIENT_PERMISSIONS", "management")
			// It manages, and opens no door of a service.
			c.with(secret).must(200, "GET", "/keys", nil)
			c.with(secret).must(403, "GET", "/v1/authorize?permission=interview:read", nil)
			continue
		}
		shows("verify", verdict, "VALID", k.words)
		// It opens doors, and manages nothing.
		c.with(secret).must(200, "GET", "/v1/authorize?permission=interview:read", nil)
		c.with(secret).refused(403, "forbidden", "GET", "/keys", nil)
		c.with(secret).refused(403, "forbidden", "POST", "/keys", obj{"permissions": []string{"interview:read"}, "scope": scope})
	}
}
