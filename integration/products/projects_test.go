package products

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// permissions are those of the interview platform.
var permissions = []string{"interview:start", "interview:read", "interview:complete"}

// combinations are all choices of the permissions but none.
func combinations() (all [][]string) {
	for chosen := 1; chosen < 1<<len(permissions); chosen++ {
		var some []string
		for i, p := range permissions {
			if chosen&(1<<i) != 0 {
				some = append(some, p)
			}
		}
		all = append(all, some)
	}
	return all
}

// A key belongs to a project, which is a workspace here, and is good nowhere else.
func TestP01KeyBelongsToAProject(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	made := c.create(obj{"scope": obj{"workspaces": []string{"hiring"}}})
	if got := made.List("key.scope.workspaces"); len(got) != 1 || got[0] != "hiring" {
		t.Errorf("the key belongs to %v", got)
	}
	secret := made.Text("secret")
	for workspace, want := range map[string]string{"hiring": "VALID", "research": "OUT_OF_SCOPE", "elsewhere": "OUT_OF_SCOPE"} {
		if v := c.verdict(secret, obj{"permission": "interview:read", "workspace": workspace}); v.Text("code") != want {
			t.Errorf("in %s: %s, want %s", workspace, v, want)
		}
		c.verify(want, secret, "--permission", "interview:read", "--workspace", workspace)
	}
	c.refused(422, "unknown_workspace", "POST", "/keys", obj{"permissions": []string{"interview:read"}, "scope": obj{"workspaces": []string{"elsewhere"}}})

	second := c.document("keys", "create", "--permissions", "interview:read", "--workspaces", "research")
	if got := second.List("key.scope.workspaces"); len(got) != 1 || got[0] != "research" {
		t.Errorf("the key belongs to %v", got)
	}
	c.verify("OUT_OF_SCOPE", second.Text("secret"), "--permission", "interview:read", "--workspace", "hiring")
	// A project's keys are its own list.
	for workspace, id := range map[string]string{"hiring": made.Text("key.id"), "research": second.Text("key.id")} {
		if list := c.must(200, "GET", "/keys?kind=api&workspace="+workspace, nil); len(list.List("items")) != 1 || list.Text("items.0.id") != id {
			t.Errorf("the keys of %s are %s", workspace, list)
		}
		if ids := strings.Fields(c.cli("keys", "list", "--kind", "api", "--workspace", workspace, "-q")); len(ids) != 1 || ids[0] != id {
			t.Errorf("the keys of %s are %v", workspace, ids)
		}
	}
}

// A key has a descriptive name and any combination of the permissions, and may do
// what was chosen and nothing else.
func TestP02NameAndAnyCombinationOfPermissions(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	for i, chosen := range combinations() {
		name := fmt.Sprintf("Bewerbungen “Süd”, %d of 7", i+1)
		byAPI := c.create(obj{"name": name, "permissions": chosen})
		byCLI := c.document("keys", "create", "--name", name, "--permissions", strings.Join(chosen, ","), "--workspaces", "all")
		for _, made := range []answer{byAPI, byCLI} {
			if made.Text("key.name") != name {
				t.Errorf("the key is called %q", made.Text("key.name"))
			}
			for _, p := range permissions {
				want := "INSUFFICIENT_PERMISSIONS"
				if slices.Contains(chosen, p) {
					want = "VALID"
				}
				c.code(want, made.Text("secret"), p, "")
			}
		}
	}
	near := c.refused(422, "unknown_permission", "POST", "/keys", obj{"permissions": []string{"interview:starts"}, "scope": everywhere})
	says(t, near.Text("detail"), "interview:start")
	says(t, c.exits(1, "", "keys", "create", "--permissions", "interview:starts", "--workspaces", "all").stderr, "unknown_permission", "interview:start")
}

// The full key is in the answer that made it. Afterwards there are its last four
// characters and its prefix, whoever asks, and however.
func TestP03ShownOnce(t *testing.T) { shownOnce(t, onOne(t)) }

func shownOnce(t *testing.T, w *world) {
	c := w.organization(t)
	made := c.create(obj{"name": "shown once", "prefix": "acme_live"})
	c.hidden(made.Text("secret"), made.Text("key.id"), "acme_live")
	repeated := func() answer {
		return c.must(201, "POST", "/keys", obj{"permissions": []string{"interview:read"}, "scope": everywhere}, "Idempotency-Key", "twice")
	}
	if first, second := repeated(), repeated(); first.Text("secret") == "" || second.Text("secret") != "" || first.Text("key.id") != second.Text("key.id") {
		t.Errorf("a request that is repeated shows its secret again")
	}

	said := c.cli("keys", "create", "--permissions", "interview:read", "--workspaces", "all", "--prefix", "acme_live")
	says(t, said, "shown this once")
	var secret, id string
	for line := range strings.Lines(said) {
		fields := strings.Fields(line)
		if len(fields) == 1 && strings.HasPrefix(fields[0], "acme_live_") {
			secret = fields[0]
		}
		if len(fields) == 2 && fields[0] == "id" {
			id = fields[1]
		}
	}
	if secret == "" || strings.Count(said, secret) != 1 {
		t.Fatalf("keys create does not show the key once:\n%s", said)
	}
	c.hidden(secret, id, "acme_live")
}

// hidden expects that a key is shown nowhere but for its end.
func (c caller) hidden(secret, id, prefix string) {
	c.t.Helper()
	c.code("VALID", secret, "interview:read", "")
	last := secret[len(secret)-4:]
	shown := c.must(200, "GET", "/keys/"+id, nil)
	if shown.Text("prefix") != prefix || shown.Text("last_four") != last || shown.Text("masked") != prefix+"_…"+last {
		c.t.Errorf("the key is shown as %s", shown)
	}
	random := strings.TrimPrefix(secret, prefix+"_")
	random = random[:len(random)-4]
	for _, text := range []string{
		shown.String(),
		c.must(200, "GET", "/keys?status=all", nil).String(),
		c.must(200, "GET", "/keys/"+id+"/history", nil).String(),
		c.must(200, "PATCH", "/keys/"+id, obj{"name": "another name"}).String(),
		c.verdict(secret, nil).String(),
		c.cli("keys", "get", id), c.cli("keys", "get", id, "-o", "json"), c.cli("keys", "list"), c.cli("keys", "history", id),
		c.exits(0, secret, "verify").stdout,
	} {
		if strings.Contains(text, random) {
			c.t.Errorf("the key is shown again in\n%s", strings.ReplaceAll(text, random, "…"))
		}
	}
	for _, text := range []string{c.cli("keys", "get", id), c.cli("keys", "list")} {
		says(c.t, text, prefix+"_…"+last)
	}
}

// Each permission opens its endpoint and no other: the service hands the request's
// method and path on, and the catalog's routes say which permission that takes,
// whatever stands in the place of {id}.
func TestP04PermissionsOpenTheirEndpointsAndNoOther(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	doors := map[string]string{
		"POST /api/v1/interviews/start":                                 "interview:start",
		"GET /api/v1/interviews/42":                                     "interview:read",
		"GET /api/v1/interviews/0198c0de-0000-7000-8000-00000000001d":   "interview:read",
		"GET /api/v1/interviews/start":                                  "interview:read",
		"GET /api/v1/interviews/42?fields=score&path=/interviews/start": "interview:read",
		"POST /api/v1/interviews/42/complete":                           "interview:complete",
		"POST /api/v1/interviews/start/complete":                        "interview:complete",
	}
	// What no route says is open to nobody.
	for _, closed := range []string{
		"DELETE /api/v1/interviews/42", "GET /api/v1/interviews", "GET /api/v1/interviews/", "GET /api/v1/interviews/42/complete",
		"POST /api/v1/interviews/42", "POST /api/v1/interviews/42/complete/now", "POST /API/v1/interviews/start", "GET /",
	} {
		doors[closed] = ""
	}
	one, two := newService(t, w.one, nil), newService(t, w.two, nil)
	opens := func(s service, secret string, may ...string) {
		t.Helper()
		for door, permission := range doors {
			method, path, _ := strings.Cut(door, " ")
			if permission != "" && slices.Contains(may, permission) {
				s.answers(200, permission, secret, method, path)
			} else {
				s.answers(403, "INSUFFICIENT_PERMISSIONS", secret, method, path)
			}
		}
	}
	for _, p := range permissions {
		opens(one, c.create(obj{"permissions": []string{p}}).Text("secret"), p)
		byCLI := c.document("keys", "create", "--permissions", p, "--workspaces", "all")
		c.at(w.two).code("VALID", byCLI.Text("secret"), p, byCLI.Text("position"))
		opens(two, byCLI.Text("secret"), p)
		for _, asked := range permissions {
			if want := "INSUFFICIENT_PERMISSIONS"; asked != p {
				c.verify(want, byCLI.Text("secret"), "--permission", asked)
			} else {
				c.verify("VALID", byCLI.Text("secret"), "--permission", asked)
			}
		}
	}
	opens(one, c.create(obj{"permissions": []string{"interview:*"}}).Text("secret"), permissions...)
	opens(one, c.create(obj{"permissions": obj{"level": "all"}}).Text("secret"), permissions...)
	opens(one, c.create(obj{"permissions": obj{"level": "read_only"}}).Text("secret"), "interview:read")
	one.answers(401, "", "", "GET", "/api/v1/interviews/42")
	one.answers(401, "MALFORMED", "no-key-of-ours", "GET", "/api/v1/interviews/42")

	// The routes can be set at the shell too, and hold from then on.
	c.cli("permissions", "set",
		"--permission", "interview:start=write,POST /api/v2/interviews",
		"--permission", "interview:read=read,GET /api/v2/interviews/{id}/report",
		"--permission", "interview:complete=write")
	reader := c.create(obj{"permissions": []string{"interview:read"}}).Text("secret")
	for door, want := range map[string]int{
		"GET /api/v2/interviews/42/report": 200, "GET /api/v2/interviews/42": 403, "POST /api/v2/interviews": 403, "GET /api/v1/interviews/42": 403,
	} {
		method, path, _ := strings.Cut(door, " ")
		a := c.with(reader).ask("GET", "/v1/authorize", nil, "X-Forwarded-Method", method, "X-Forwarded-Uri", path)
		if a.Status != want {
			t.Errorf("%s: %s, want %d", door, a, want)
		}
	}
}

// The list shows name, masked key, permissions, when it was created and last used.
// Revoked keys are not in it unless somebody asks for them.
func TestP05ListShowsAndHides(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	before := time.Now().Add(-time.Minute)
	used := c.create(obj{"name": "used", "permissions": []string{"interview:read", "interview:start"}})
	unused := c.create(obj{"name": "never used"})
	revoked := c.create(obj{"name": "revoked"})
	c.must(200, "POST", "/keys/"+revoked.Text("key.id")+"/revoke", obj{"reason": "leaked"})
	c.code("VALID", used.Text("secret"), "interview:start", "")

	id := used.Text("key.id")
	for _, s := range []*server{w.one, w.two} {
		c := c.at(s)
		var item answer
		c.until("the list to tell of the use", func() bool {
			item, _ = c.must(200, "GET", "/keys", nil).Item(id)
			return item.Text("last_used_at") != ""
		})
		c.until("the list to be without the revoked key", func() bool {
			_, listed := c.must(200, "GET", "/keys", nil).Item(revoked.Text("key.id"))
			return !listed
		})
		secret := used.Text("secret")
		if item.Text("name") != "used" || item.Text("masked") != "kl_live_…"+secret[len(secret)-4:] ||
			fmt.Sprint(item.List("permissions.grants")) != "[interview:read interview:start]" {
			t.Errorf("the list shows %s", item)
		}
		for _, name := range []string{"created_at", "last_used_at"} {
			if at, err := time.Parse(time.RFC3339, item.Text(name)); err != nil || at.Before(before) || at.After(time.Now().Add(time.Minute)) {
				t.Errorf("%s is %q", name, item.Text(name))
			}
		}
		if item, ok := c.must(200, "GET", "/keys", nil).Item(unused.Text("key.id")); !ok || item.Get("last_used_at") != nil {
			t.Errorf("the unused key is shown as %s", item)
		}
		for _, query := range []string{"?status=all", "?status=REVOKED"} {
			if _, listed := c.must(200, "GET", "/keys"+query, nil).Item(revoked.Text("key.id")); !listed {
				t.Errorf("the revoked key is not in the list of %s", query)
			}
		}
	}

	table := c.cli("keys", "list")
	head, _, _ := strings.Cut(table, "\n")
	says(t, head, "NAME", "KEY", "MAY", "CREATED", "LAST USED")
	says(t, table, "never used", "interview:read, interview:start", "kl_live_…"+used.Text("key.last_four"))
	if strings.Contains(table, revoked.Text("key.id")) {
		t.Errorf("the revoked key is in\n%s", table)
	}
	says(t, c.cli("keys", "list", "--status", "all"), revoked.Text("key.id"))
	says(t, c.cli("keys", "list", "--status", "revoked", "-q"), revoked.Text("key.id"))
}

// Only admins and owners manage keys. An admin of one workspace sees and changes
// the keys within it, and no others.
func TestP09AdminsManageWithinTheirProject(t *testing.T) {
	w := onOne(t)
	owner := w.organization(t)
	key := owner.create(obj{"name": "everywhere"})
	inside := owner.create(obj{"name": "inside", "scope": obj{"workspaces": []string{"hiring"}}})
	outside := owner.create(obj{"name": "outside", "scope": obj{"workspaces": []string{"research"}}})
	across := owner.create(obj{"name": "across", "scope": obj{"workspaces": []string{"hiring", "research"}}})
	path := func(a answer, more string) string { return "/keys/" + a.Text("key.id") + more }
	wish := obj{"permissions": []string{"interview:read"}, "scope": everywhere}

	w.as(owner, obj{"role": "admin"}).create(nil)
	for _, role := range []string{"member", "auditor", "verifier", "resolver"} {
		c := w.as(owner, obj{"role": role})
		c.refused(403, "forbidden", "POST", "/keys", wish)
		c.refused(403, "forbidden", "PATCH", path(key, ""), obj{"name": "mine"})
		c.refused(403, "forbidden", "POST", path(key, "/revoke"), nil)
		c.refused(403, "forbidden", "DELETE", path(key, ""), nil)
		c.refused(403, "forbidden", "POST", path(key, "/rotate"), obj{"grace": "0"})
		says(t, c.exits(1, "", "keys", "revoke", key.Text("key.id"), "--yes").stderr, "forbidden")
		says(t, c.exits(1, "", "keys", "create", "--permissions", "interview:read", "--workspaces", "all").stderr, "forbidden")
	}
	// A project's own key manages nothing.
	owner.with(owner.create(obj{"permissions": obj{"level": "all"}}).Text("secret")).must(403, "POST", "/keys", wish)

	admin := w.as(owner, obj{"role": "admin", "scope": obj{"workspaces": []string{"hiring"}}})
	for _, s := range []*server{w.one, w.two} {
		admin := admin.at(s)
		admin.until("the list of what is inside", func() bool {
			_, listed := admin.must(200, "GET", "/keys", nil).Item(inside.Text("key.id"))
			return listed
		})
		list := admin.must(200, "GET", "/keys?kind=api", nil)
		if len(list.List("items")) != 1 {
			t.Errorf("an admin of hiring sees %s", list)
		}
		for _, hidden := range []answer{key, outside, across} {
			admin.refused(404, "not_found", "GET", path(hidden, ""), nil)
			admin.refused(404, "not_found", "PATCH", path(hidden, ""), obj{"name": "mine"})
			admin.refused(404, "not_found", "POST", path(hidden, "/revoke"), nil)
			admin.refused(404, "not_found", "POST", path(hidden, "/rotate"), obj{"grace": "0"})
		}
	}
	admin.must(200, "PATCH", path(inside, ""), obj{"name": "still inside"})
	admin.refused(403, "forbidden", "PATCH", path(inside, ""), obj{"scope": everywhere})
	admin.refused(403, "forbidden", "POST", "/keys", wish)
	admin.refused(403, "forbidden", "POST", "/keys", obj{"permissions": []string{"interview:read"}, "scope": obj{"workspaces": []string{"research"}}})

	if ids := strings.Fields(admin.cli("keys", "list", "--kind", "api", "-q")); len(ids) != 1 || ids[0] != inside.Text("key.id") {
		t.Errorf("an admin of hiring is shown %v", ids)
	}
	says(t, admin.exits(1, "", "keys", "get", outside.Text("key.id")).stderr, "not_found")
	says(t, admin.exits(1, "", "keys", "revoke", across.Text("key.id"), "--yes").stderr, "not_found")
	says(t, admin.exits(1, "", "keys", "create", "--permissions", "interview:read", "--workspaces", "research").stderr, "forbidden")
	own := admin.document("keys", "create", "--permissions", "interview:read", "--workspaces", "hiring")
	admin.cli("keys", "revoke", own.Text("key.id"), "--yes")
	owner.code("VALID", across.Text("secret"), "interview:read", "")
	owner.code("REVOKED", own.Text("secret"), "interview:read", "")
}

// There may be any number of keys, unless somebody sets a limit.
func TestP10NoLimitUnlessOneIsSet(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	const many = 40
	for range many / 2 {
		c.create(nil)
		c.cli("keys", "create", "--permissions", "interview:read", "--workspaces", "all")
	}
	if got := len(c.must(200, "GET", "/keys?kind=api&limit=200", nil).List("items")); got != many {
		t.Fatalf("there are %d keys", got)
	}
	root := c.with(w.owner)
	root.must(200, "PATCH", "/v1/organizations/"+c.org, obj{"limits": obj{"max_active_keys": many}})
	c.refused(409, "key_limit_reached", "POST", "/keys", obj{"permissions": []string{"interview:read"}, "scope": everywhere})
	says(t, c.exits(1, "", "keys", "create", "--permissions", "interview:read", "--workspaces", "all").stderr, "key_limit_reached")
	says(t, root.cli("orgs", "get", c.org), "40 active keys")
	root.cli("orgs", "update", c.org, "--max-active-keys", "0")
	c.create(nil)
	c.cli("keys", "create", "--permissions", "interview:read", "--workspaces", "all")
}

// When each key was last used finds those that nobody uses.
func TestP11UnusedSince(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	used, unused := c.create(nil), c.create(nil)
	since := time.Now().UTC().Format(time.RFC3339Nano)
	younger := c.create(nil)
	for _, s := range []*server{w.one, w.two} {
		c.at(s).code("VALID", used.Text("secret"), "interview:read", used.Text("position"))
	}
	for _, s := range []*server{w.one, w.two} {
		c := c.at(s)
		var list answer
		c.until("the use to be known", func() bool {
			list = c.must(200, "GET", "/keys?kind=api&unused_since="+url.QueryEscape(since), nil)
			_, listed := list.Item(used.Text("key.id"))
			return !listed && len(list.List("items")) > 0
		})
		if len(list.List("items")) != 1 || list.Text("items.0.id") != unused.Text("key.id") {
			t.Errorf("unused are said to be %s, want %s and not %s", list, unused.Text("key.id"), younger.Text("key.id"))
		}
		if ids := strings.Fields(c.cli("keys", "list", "--kind", "api", "--unused-since", since, "-q")); len(ids) != 1 || ids[0] != unused.Text("key.id") {
			t.Errorf("unused are said to be %v", ids)
		}
	}
}

// A key that is older than N days is due for rotation: it is listed, and an event
// tells of it. N is 90 unless the organization says otherwise.
func TestP12RotationDue(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	days := func(n int) string { return time.Now().UTC().AddDate(0, 0, -n).Format(time.RFC3339) }

	old, young := c.imported(days(91)), c.imported(days(89))
	fresh := c.create(nil)
	due := func(c caller, want ...string) {
		t.Helper()
		c.until("the keys that are due", func() bool {
			list := c.must(200, "GET", "/keys?rotation_due=true", nil)
			var ids []string
			for i := range list.List("items") {
				ids = append(ids, list.Text(fmt.Sprint("items.", i, ".id")))
			}
			slices.Sort(ids)
			slices.Sort(want)
			return slices.Equal(ids, want)
		})
		listed := strings.Fields(c.cli("keys", "list", "--rotation-due", "-q"))
		slices.Sort(listed)
		if !slices.Equal(listed, want) {
			t.Errorf("keys list --rotation-due lists %v, want %v", listed, want)
		}
	}
	due(c, old)
	due(c.at(w.two), old)
	event := c.told(old, "key.rotation_due")
	created, err := time.Parse(time.RFC3339, c.must(200, "GET", "/keys/"+old, nil).Text("created_at"))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{event.Text("data.due_at"), c.must(200, "GET", "/keys/"+old, nil).Text("rotation_due_at")} {
		if got, err := time.Parse(time.RFC3339, at); err != nil || !got.Equal(created.AddDate(0, 0, 90)) {
			t.Errorf("a key of %s is due %s", created, at)
		}
	}
	if at := c.must(200, "GET", "/keys/"+fresh.Text("key.id"), nil).Text("rotation_due_at"); at == "" {
		t.Error("a new key does not say when it is due")
	}
	says(t, c.cli("keys", "history", old), "rotation")

	// Another N, for this organization alone.
	c.cli("orgs", "update", c.org, "--rotation-due-after", "30d")
	due(c, old, young)
	c.told(young, "key.rotation_due")
	// Who was rotated is not due any more.
	c.must(201, "POST", "/keys/"+old+"/rotate", obj{"grace": "24h"})
	due(c, young)
	c.must(200, "PATCH", "/v1/organizations/"+c.org, obj{"policy": obj{"rotation_due_after": "never"}})
	due(c)
	if k := c.must(200, "GET", "/keys/"+young, nil); k.Text("rotation_due_at") != "" {
		t.Errorf("due, where nobody is: %s", k)
	}
	for _, id := range []string{old, young} {
		if n := len(c.events(id, "key.rotation_due")); n != 1 {
			t.Errorf("%d events tell that the key is due", n)
		}
	}
}

// imported imports a key that was made elsewhere, some time ago, at the shell.
func (c caller) imported(created string) string {
	c.t.Helper()
	digest := sha256.Sum256(fmt.Append(nil, c.org, created))
	row := fmt.Sprintf("digest,created_at\n%x,%s\n", digest, created)
	r := c.exits(0, row, "keys", "import", "-", "--permissions", "interview:read", "--workspaces", "all", "-o", "json")
	a := answer{Body: []byte(r.stdout)}
	if a.Text("items.0.result") != "imported" {
		c.t.Fatalf("imported: %s", r)
	}
	return a.Text("items.0.key_id")
}

// events are those of a kind that a key's history tells of, from the newest on.
func (c caller) events(id, kind string) (found []answer) {
	c.t.Helper()
	history := c.must(200, "GET", "/keys/"+id+"/history?limit=200&raw=true", nil)
	for i := range history.List("items") {
		if e, _ := history.Get(fmt.Sprint("items.", i, ".event")).(obj); e["type"] == "keyledger."+kind+".v1" {
			body, err := json.Marshal(e)
			if err != nil {
				c.t.Fatal(err)
			}
			found = append(found, answer{Body: body})
		}
	}
	return found
}

// told waits until a key's history tells of a kind of event, and returns the newest.
func (c caller) told(id, kind string) answer {
	c.t.Helper()
	var found []answer
	c.until(kind, func() bool {
		found = c.events(id, kind)
		return len(found) > 0
	})
	return found[0]
}

// A use from a source that a key was never used from becomes an event, once for
// each source, whichever server met it. The first source is no news.
func TestP12NewSource(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	made := c.create(nil)
	id, secret := made.Text("key.id"), made.Text("secret")
	from := func(s *server, address string) {
		t.Helper()
		a := c.at(s).verdict(secret, obj{"permission": "interview:read", "at_least": made.Text("position"), "context": obj{"client_ip": address}})
		if a.Text("code") != "VALID" {
			t.Fatalf("from %s: %s", address, a)
		}
	}
	known := func(n int) {
		t.Helper()
		c.until(fmt.Sprint(n, " new sources"), func() bool { return len(c.events(id, "key.new_source")) >= n })
	}
	from(w.one, "192.0.2.1")
	c.until("the first use to be known", func() bool { return c.must(200, "GET", "/keys/"+id, nil).Text("last_used_at") != "" })
	from(w.one, "192.0.2.2")
	known(1)
	from(w.two, "192.0.2.2")
	from(w.two, "192.0.2.1")
	from(w.two, "2001:db8::1")
	known(2)
	// A gateway says it in a header.
	c.with(secret).must(200, "GET", "/v1/authorize?permission=interview:read", nil, "X-Forwarded-For", "spoofed, 198.51.100.7")
	known(3)
	sources := map[string]bool{}
	for _, e := range c.events(id, "key.new_source") {
		sources[e.Text("data.source")] = true
		if e.Text("data.by") != "client_ip" || e.Text("data.code") != "VALID" {
			t.Errorf("a new source is told as %s", e)
		}
		for _, clear := range []string{"192.0.2", "2001:db8", "198.51.100"} {
			if strings.Contains(e.String(), clear) {
				t.Errorf("an address stands in clear in %s", e)
			}
		}
	}
	if len(sources) != 3 || len(c.events(id, "key.new_source")) != 3 {
		t.Errorf("new sources are told as %v", c.events(id, "key.new_source"))
	}
	if n := strings.Count(c.cli("keys", "history", id), "used from a new IP address"); n != 3 {
		t.Errorf("keys history tells of %d new sources:\n%s", n, c.cli("keys", "history", id))
	}
	says(t, c.cli("events", "tail", "--after", made.Text("position"), "--types", "key.new_source", "--limit", "3"), "used from a new IP address")
}

// A burst of denials within a minute becomes an event, once, though it went on and
// two servers saw a part of it each.
func TestP12DenialsSpike(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	const threshold = 6
	c.cli("orgs", "update", c.org, "--denials-per-minute", fmt.Sprint(threshold))
	made := c.create(nil)
	id, secret := made.Text("key.id"), made.Text("secret")
	// One minute of at most two has as many.
	for n := range 2 * threshold {
		s := []*server{w.one, w.two}[n%2]
		c.at(s).code("INSUFFICIENT_PERMISSIONS", secret, "interview:start", made.Text("position"))
	}
	spike := c.told(id, "key.denials_spike")
	if n, _ := spike.Get("data.denials").(float64); n < threshold || spike.Get("data.threshold") != float64(threshold) {
		t.Errorf("a burst is told as %s", spike)
	}
	for range threshold {
		c.verify("INSUFFICIENT_PERMISSIONS", secret, "--permission", "interview:start")
	}
	// What is told next comes behind what would have been told of these.
	other := c.create(nil)
	for range 2 * threshold {
		c.code("INSUFFICIENT_PERMISSIONS", other.Text("secret"), "interview:start", "")
	}
	c.told(other.Text("key.id"), "key.denials_spike")
	hours := map[string]int{}
	for _, e := range c.events(id, "key.denials_spike") {
		hours[e.Text("data.from")[:len("2006-01-02T15")]]++
	}
	for hour, n := range hours {
		if n != 1 {
			t.Errorf("the burst is told %d times in the hour %s", n, hour)
		}
	}
	says(t, c.cli("keys", "history", id), "denials")
	says(t, c.cli("events", "tail", "--after", made.Text("position"), "--types", "key.denials_spike", "--limit", "1"), "denials")
}
