package products

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Workspaces are renamed and removed. A key whose last workspace goes is denied
// everywhere, and never good in more than it was.
func TestAroundWorkspacesRenamedAndRemoved(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		c := w.organization(t)
		one := c.create(obj{"scope": obj{"workspaces": []string{"hiring"}}})
		both := c.create(obj{"scope": obj{"workspaces": []string{"hiring", "research"}}})
		wide := c.create(nil)
		judged := func(made answer, workspace, position, want string) {
			t.Helper()
			for _, s := range []*server{w.one, w.two} {
				question := obj{"permission": "interview:read", "at_least": position}
				if workspace != "" {
					question["workspace"] = workspace
				}
				if v := c.at(s).verdict(made.Text("secret"), question); v.Text("code") != want {
					t.Errorf("in %q: %s, want %s", workspace, v, want)
				}
			}
		}
		if renamed := c.must(200, "PATCH", "/workspaces/hiring", obj{"name": "Hiring, Europe"}); renamed.Text("name") != "Hiring, Europe" {
			t.Errorf("renamed: %s", renamed)
		}
		says(t, c.cli("workspaces", "update", "research", "--name", "Research, Asia"), "Research, Asia")
		judged(one, "hiring", wide.Text("position"), "VALID")

		position := c.must(200, "DELETE", "/workspaces/hiring", nil).Text("position")
		judged(one, "hiring", position, "OUT_OF_SCOPE")
		judged(one, "research", position, "OUT_OF_SCOPE")
		judged(one, "", position, "OUT_OF_SCOPE")
		judged(both, "hiring", position, "OUT_OF_SCOPE")
		judged(both, "research", position, "VALID")
		judged(wide, "hiring", position, "OUT_OF_SCOPE")
		judged(wide, "research", position, "VALID")
		c.verify("OUT_OF_SCOPE", one.Text("secret"))
		c.must(403, "GET", "/v1/whoami", nil, "Authorization", "Bearer "+one.Text("secret"))

		says(t, c.exits(2, "", "workspaces", "delete", "research").stderr, "cannot be undone")
		position = c.document("workspaces", "delete", "research", "--yes").Text("position")
		judged(both, "research", position, "OUT_OF_SCOPE")
		judged(both, "", position, "OUT_OF_SCOPE")
		// Ids are for ever: nobody makes a workspace that old keys are good in.
		c.refused(409, "already_exists", "POST", "/workspaces", obj{"id": "hiring", "name": "Hiring"})
		judged(one, "hiring", position, "OUT_OF_SCOPE")
	})
}

// An organization has a plan, limits and a policy; its members have management keys
// with roles and scopes, and a wall around them.
func TestAroundOrganizationsAndTheirMembers(t *testing.T) {
	w := onOne(t)
	c := w.organization(t, obj{"plan": "enterprise", "limits": obj{"max_active_keys": 20, "max_key_lifetime": "1y"}, "policy": obj{"default_prefix": "acme_live", "default_expires_in": "90d"}})
	o := c.must(200, "GET", "/v1/organizations/"+c.org, nil)
	if o.Text("plan") != "enterprise" || o.Get("limits.max_active_keys") != 20.0 || o.Text("policy.default_prefix") != "acme_live" {
		t.Errorf("the organization is %s", o)
	}
	says(t, c.cli("orgs", "get", c.org), "enterprise", "20 active keys", "acme_live", "90d", "1y")
	made := c.create(nil)
	if made.Text("key.prefix") != "acme_live" || made.Text("key.expires_at") == "" {
		t.Errorf("made by the policy: %s", made.Get("key"))
	}
	c.refused(422, "lifetime_too_long", "POST", "/keys", obj{"permissions": []string{"interview:read"}, "scope": everywhere, "expires_in": "2y"})
	// Plan and limits are the installation's to set.
	c.refused(403, "forbidden", "PATCH", "/v1/organizations/"+c.org, obj{"limits": obj{"max_active_keys": 1000}})
	c.refused(403, "forbidden", "PATCH", "/v1/organizations/"+c.org, obj{"plan": "starter"})
	says(t, c.with(w.owner).cli("orgs", "update", c.org, "--plan", "growth"), "growth")

	for role, may := range map[string]struct{ look, change bool }{"admin": {true, true}, "member": {true, false}, "auditor": {true, false}, "verifier": {}, "resolver": {}} {
		m := w.as(c, obj{"role": role})
		if who := m.must(200, "GET", "/v1/whoami", nil); who.Text("role") != role || who.Text("organization") != c.org {
			t.Errorf("a %s is %s", role, who)
		}
		says(t, m.cli("whoami"), "role "+role)
		if a := m.ask("GET", "/keys", nil); (a.Status == 200) != may.look {
			t.Errorf("a %s looks: %s", role, a)
		}
		if a := m.ask("PATCH", "/keys/"+made.Text("key.id"), obj{"name": "by " + role}); (a.Status == 200) != may.change {
			t.Errorf("a %s changes: %s", role, a)
		}
		m.code("VALID", made.Text("secret"), "interview:read", "")
	}
	other := w.organization(t)
	for _, path := range []string{"", "/keys", "/workspaces", "/keys/" + made.Text("key.id")} {
		other.refused(404, "not_found", "GET", "/v1/organizations/"+c.org+path, nil)
	}
	if v := other.verdict(made.Text("secret"), nil); v.Text("code") != "NOT_FOUND" {
		t.Errorf("another organization is told %s", v)
	}
}

// Metadata and external ids are kept within bounds, and found by.
func TestAroundMetadataAndExternalIDs(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	one := c.create(obj{"metadata": obj{"team": "platform", "env": "a=b&c d"}, "external_id": "urn:crm:4711"})
	two := c.document("keys", "create", "--permissions", "interview:read", "--workspaces", "all", "--metadata", "team=platform", "--metadata", "env=prod", "--external-id", "crm-2")
	three := c.create(obj{"metadata": obj{"team": "data"}})
	found := func(want []answer, query string, flags ...string) {
		t.Helper()
		var ids []string
		for _, made := range want {
			ids = append(ids, made.Text("key.id"))
		}
		for _, s := range []*server{w.one, w.two} {
			c := c.at(s)
			c.until("the keys of "+query, func() bool { return len(c.must(200, "GET", "/keys?"+query, nil).List("items")) == len(ids) })
			list := c.must(200, "GET", "/keys?"+query, nil)
			for _, id := range ids {
				if _, listed := list.Item(id); !listed {
					t.Errorf("%s is not among the keys of %s", id, query)
				}
			}
		}
		if got := strings.Fields(c.cli(append([]string{"keys", "list", "-q"}, flags...)...)); len(got) != len(ids) {
			t.Errorf("%v finds %v, want %v", flags, got, ids)
		}
	}
	is := func(pair string) string { return "metadata=" + url.QueryEscape(pair) }
	found([]answer{one, two}, is("team=platform"), "--metadata", "team=platform")
	found([]answer{one}, is("team=platform")+"&"+is("env=a=b&c d"), "--metadata", "team=platform", "--metadata", "env=a=b&c d")
	found([]answer{three}, is("team=data"), "--metadata", "team=data")
	found(nil, is("team=plat"), "--metadata", "team=plat")
	found([]answer{one}, "external_id=urn%3Acrm%3A4711", "--external-id", "urn:crm:4711")
	// A change merges; what is taken away is not found any more.
	c.must(200, "PATCH", "/keys/"+one.Text("key.id"), obj{"metadata": obj{"env": nil, "tier": "gold"}})
	c.cli("keys", "update", two.Text("key.id"), "--metadata", "tier=gold", "--drop-metadata", "team")
	found([]answer{one, two}, is("tier=gold"), "--metadata", "tier=gold")
	found([]answer{one}, is("team=platform"), "--metadata", "team=platform")
	// The bounds.
	many := obj{}
	for n := range 33 {
		many[fmt.Sprint("name", n)] = "value"
	}
	for what, body := range map[string]obj{
		"33 of them": {"metadata": many}, "a long name": {"metadata": obj{strings.Repeat("n", 65): "v"}},
		"a long value": {"metadata": obj{"n": strings.Repeat("v", 501)}}, "a long external id": {"external_id": strings.Repeat("x", 201)},
	} {
		body["permissions"], body["scope"] = []string{"interview:read"}, everywhere
		if a := c.ask("POST", "/keys", body); a.Status != 422 {
			t.Errorf("%s: %s", what, a)
		}
	}
	c.refused(400, "invalid_request", "GET", "/keys?metadata=team", nil)
	c.must(400, "GET", "/keys?"+strings.Repeat(is("a=b")+"&", 6)+"limit=1", nil)
}

// Keys of another system are imported by their digests, thousands at a time, and
// are good at once, without anybody being given a new one.
func TestAroundImportByDigest(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	// A digest is one organization's for ever, and tests share a world.
	own := func(text string) string { return text + "-" + c.org }
	digest := func(text string) []byte { d := sha256.Sum256([]byte(text)); return d[:] }
	key := func(alg, value string, more obj) obj {
		k := obj{"digest": obj{"alg": alg, "value": value}, "permissions": []string{"interview:read"}, "scope": everywhere}
		for name, v := range more {
			k[name] = v
		}
		return k
	}
	body := obj{"keys": []obj{
		key("sha256", hex.EncodeToString(digest(own("old-key-of-hex"))), obj{"name": "hex", "prefix": "old", "last_four": "-hex", "created_at": "2024-02-29T00:00:00Z"}),
		key("sha256", base64.StdEncoding.EncodeToString(digest(own("old-key-of-base64"))), obj{"name": "base64", "metadata": obj{"from": "there"}, "external_id": "old-2"}),
		key("prefix_short_long", hex.EncodeToString(digest(own("theLongToken"))), obj{"name": "seam", "prefix": "acme_BRTRKFsL"}),
		key("sha256", hex.EncodeToString(digest(own("old-key-off"))), obj{"status": "INACTIVE"}),
		key("sha256", "no digest", nil),
		key("sha256", hex.EncodeToString(digest(own("another"))), obj{"permissions": []string{"interview:stop"}}),
		key("sha256", hex.EncodeToString(digest(own("old-key-of-hex"))), nil),
	}}
	plan := c.must(200, "POST", "/keys/import?dry_run=true", body)
	if plan.Get("dry_run") != true || len(plan.List("items")) != 7 {
		t.Errorf("the rehearsal is %s", plan)
	}
	if v := c.verdict(own("old-key-of-hex"), nil); v.Text("code") != "MALFORMED" && v.Text("code") != "NOT_FOUND" {
		t.Errorf("a rehearsal lets in: %s", v)
	}
	done := c.must(200, "POST", "/keys/import", body)
	for i, want := range []string{"imported", "imported", "imported", "imported", "refused", "refused", "refused"} {
		if got := done.Text(fmt.Sprint("items.", i, ".result")); got != want {
			t.Errorf("item %d is %s, want %s: %s", i, got, want, done)
		}
	}
	for i, code := range map[int]string{4: "invalid_value", 5: "unknown_permission", 6: "digest_taken"} {
		if got := done.Text(fmt.Sprint("items.", i, ".problem.code")); got != code {
			t.Errorf("item %d is refused with %s, want %s", i, got, code)
		}
	}
	if done.Get("imported") != 4.0 || done.Get("refused") != 3.0 {
		t.Errorf("counted: %s", done)
	}
	for _, s := range []*server{w.one, w.two} {
		for secret, want := range map[string]string{
			"old-key-of-hex": "VALID", "old-key-of-base64": "VALID", "acme_BRTRKFsL_theLongToken": "VALID", "other_x_theLongToken": "VALID",
			"old-key-off": "INACTIVE", "theLongToken": "MALFORMED", "acme_BRTRKFsL_another": "MALFORMED",
		} {
			c.at(s).code(want, own(secret), "interview:read", done.Text("position"))
		}
	}
	c.verify("VALID", own("acme_BRTRKFsL_theLongToken"), "--permission", "interview:read")
	shown := c.must(200, "GET", "/keys/"+done.Text("items.0.key_id"), nil)
	if shown.Get("imported") != true || shown.Text("masked") != "old_…-hex" || !strings.HasPrefix(shown.Text("created_at"), "2024-02-29") {
		t.Errorf("an imported key is shown as %s", shown)
	}
	// Nobody else can have it too.
	other := w.organization(t)
	taken := other.must(200, "POST", "/keys/import", body)
	if taken.Get("imported") != 0.0 || taken.Text("items.0.problem.code") != "digest_taken" {
		t.Errorf("imported by another organization: %s", taken)
	}
	// Once more is no news; and it is a key like others.
	again := c.must(200, "POST", "/keys/import", body)
	if again.Get("existing") != 4.0 && again.Get("existing") != 5.0 || again.Get("imported") != 0.0 || again.Text("items.0.key_id") != done.Text("items.0.key_id") {
		t.Errorf("imported again: %s", again)
	}
	c.must(200, "DELETE", "/keys/"+done.Text("items.0.key_id"), nil)
	c.code("REVOKED", own("old-key-of-hex"), "interview:read", "")

	// Thousands, by a file.
	const many = 2300
	var lines strings.Builder
	lines.WriteString("digest,name,metadata.batch\n")
	for n := range many {
		fmt.Fprintf(&lines, "%x,old %d,spring\n", digest(own(fmt.Sprint("many-", n))), n)
	}
	lines.WriteString("not-a-digest,wrong,spring\n")
	file := filepath.Join(t.TempDir(), "old.csv")
	if err := os.WriteFile(file, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := []string{"keys", "import", file, "--permissions", "interview:read", "--workspaces", "hiring"}
	c.exits(1, "", append(flags, "--dry-run")...)
	r := c.exits(1, "", flags...)
	says(t, r.stdout+r.stderr, fmt.Sprint(many), fmt.Sprint("line ", many+2))
	again = answer{Body: []byte(c.exits(1, "", append(flags, "-o", "json")...).stdout)}
	if again.Get("existing") != float64(many) || again.Get("refused") != 1.0 {
		t.Errorf("imported again by the file: %v existing, %v refused", again.Get("existing"), again.Get("refused"))
	}
	for _, n := range []int{0, 999, 1000, many - 1} {
		c.code("VALID", own(fmt.Sprint("many-", n)), "interview:read", "")
	}
}

// Many keys are judged by one request, each as if alone, in the order of the request.
func TestAroundBatchVerify(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	reader := c.create(nil)
	revoked := c.create(nil)
	position := c.must(200, "DELETE", "/keys/"+revoked.Text("key.id"), nil).Text("position")
	want := []string{"VALID", "REVOKED", "INSUFFICIENT_PERMISSIONS", "MALFORMED", "OUT_OF_SCOPE", "VALID"}
	requests := []obj{
		{"secret": reader.Text("secret"), "permission": "interview:read", "at_least": position},
		{"secret": revoked.Text("secret"), "permission": "interview:read"},
		{"secret": reader.Text("secret"), "permission": "interview:start"},
		{"secret": "no key"},
		{"secret": reader.Text("secret"), "workspace": "elsewhere"},
		{"secret": reader.Text("secret"), "permission": "interview:read OR interview:start", "workspace": "hiring"},
	}
	for _, s := range []*server{w.one, w.two} {
		a := c.at(s).must(200, "POST", "/v1/verify/batch", obj{"requests": requests})
		if n := len(a.List("verdicts")); n != len(want) {
			t.Fatalf("%d verdicts: %s", n, a)
		}
		for i, code := range want {
			if got := a.Text(fmt.Sprint("verdicts.", i, ".code")); got != code {
				t.Errorf("verdict %d is %s, want %s", i, got, code)
			}
		}
	}
	bad := c.refused(422, "invalid_value", "POST", "/v1/verify/batch", obj{"requests": []obj{requests[0], {"permission": "interview:read"}}})
	says(t, bad.Text("field"), "1", "secret")
	many := make([]obj, 101)
	for i := range many {
		many[i] = requests[3]
	}
	c.must(422, "POST", "/v1/verify/batch", obj{"requests": many})
	c.must(422, "POST", "/v1/verify/batch", obj{"requests": []obj{}})
	c.must(200, "POST", "/v1/verify/batch", obj{"requests": many[1:]})
	r := c.exits(3, reader.Text("secret")+"\n"+revoked.Text("secret")+"\n", "verify", "--batch", "--permission", "interview:read")
	says(t, r.stdout, "VALID", "REVOKED")
	if strings.Contains(r.stdout, reader.Text("secret")) {
		t.Errorf("verify --batch shows the keys it read")
	}
}

// A verdict is asked by a query of permissions, with AND, OR, parentheses and
// wildcards, within bounds.
func TestAroundPermissionQueries(t *testing.T) {
	w := onOne(t)
	c := w.tokens(t)
	secret := c.create(obj{"permissions": []string{"flow:read", "report:*"}}).Text("secret")
	for query, want := range map[string]string{
		"flow:read AND report:read":                 "VALID",
		"flow:read and (flow:run or report:export)": "VALID",
		"flow:run AND report:read OR flow:read":     "VALID", // AND binds tighter
		"flow:run AND (report:read OR flow:read)":   "INSUFFICIENT_PERMISSIONS",
		"report:*":                 "VALID",
		"flow:*":                   "INSUFFICIENT_PERMISSIONS",
		"flow:* OR report:*":       "VALID",
		"audit:*":                  "INSUFFICIENT_PERMISSIONS",
		"flow:read AND audit:read": "INSUFFICIENT_PERMISSIONS",
		"((flow:read))":            "VALID",
	} {
		c.code(want, secret, query, "")
		c.verify(want, secret, "--permission", query)
	}
	for _, query := range []string{
		"flow:read AND", "(flow:read", "flow:read report:read", "flow:read)", "*:*", "flow:read && report:read",
		strings.Repeat("(", 9) + "flow:read" + strings.Repeat(")", 9), "flow:read" + strings.Repeat(" OR flow:read", 32), "flow:read" + strings.Repeat(" ", 500) + "OR flow:run",
	} {
		refused := c.ask("POST", "/v1/verify", obj{"secret": secret, "permission": query})
		if refused.Status != 422 || refused.Text("code") != "invalid_value" || refused.Text("field") != "permission" || refused.Text("detail") == "" {
			t.Errorf("%.40q: %s", query, refused)
		}
		if r := c.run(secret, "verify", "--permission", query); r.code == 0 || r.code == 3 {
			t.Errorf("%.40q at the shell: %s", query, r)
		}
	}
	ask := "/v1/authorize?permission=" + url.QueryEscape("flow:read AND report:read")
	c.with(secret).must(200, "GET", ask, nil)
	c.with(secret).must(403, "GET", "/v1/authorize?permission="+url.QueryEscape("flow:read AND"), nil)
	c.with(secret).must(403, "GET", "/v1/authorize?permission="+url.QueryEscape("flow:read AND flow:run"), nil)
}

// Whoever holds a secret learns what it is, and ends it, with nothing but the secret.
func TestAroundSelfService(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		c := w.organization(t)
		made := c.create(nil)
		holder := c.with(made.Text("secret"))
		if who := holder.must(200, "GET", "/v1/whoami", nil); who.Text("key_id") != made.Text("key.id") {
			t.Errorf("whoami: %s", who)
		}
		holder.must(200, "POST", "/v1/whoami/revoke?dry_run=true", obj{"reason": "tried"})
		c.code("VALID", made.Text("secret"), "interview:read", "")
		gone := holder.must(200, "POST", "/v1/whoami/revoke", obj{"reason": "pushed to a repository"})
		if gone.Text("status") != "REVOKED" || gone.Text("key_id") != made.Text("key.id") {
			t.Errorf("revoked by its holder: %s", gone)
		}
		for _, s := range []*server{w.one, w.two} {
			c.at(s).code("REVOKED", made.Text("secret"), "interview:read", gone.Text("position"))
		}
		again := holder.must(200, "POST", "/v1/whoami/revoke", nil)
		if again.Text("status") != "REVOKED" {
			t.Errorf("once more: %s", again)
		}
		history := c.must(200, "GET", "/keys/"+made.Text("key.id")+"/history", nil)
		says(t, history.String(), `"key.revoked"`, "pushed to a repository")
		holder.must(401, "GET", "/v1/whoami", nil)

		// Switched off, it is ended all the same; at the shell it is asked first.
		off := c.create(nil)
		c.must(200, "PATCH", "/keys/"+off.Text("key.id"), obj{"status": "INACTIVE"})
		file := filepath.Join(t.TempDir(), "leaked.key")
		if err := os.WriteFile(file, []byte(off.Text("secret")), 0o600); err != nil {
			t.Fatal(err)
		}
		c.exits(2, "", "keys", "revoke", "--self", file)
		c.code("INACTIVE", off.Text("secret"), "", "")
		// Whoever it is needs no other key.
		c.with("").exits(0, off.Text("secret"), "keys", "revoke", "--self", "--yes")
		c.code("REVOKED", off.Text("secret"), "", "")

		// An owner cannot saw off the branch; no key at all is nobody.
		c.must(409, "POST", "/v1/whoami/revoke", nil)
		c.must(200, "GET", "/v1/whoami", nil)
		c.with("").must(401, "POST", "/v1/whoami/revoke", nil)
	})
}

// used is when a key was last used, which no change is needed for.
var used = regexp.MustCompile(`"last_used_at":("[^"]*"|null)`)

// Every operation that changes something can be tried: dry_run tells of the events,
// and changes nothing. What operations there are the server says itself.
func TestAroundDryRunOnEveryChange(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	c.profile("gold", obj{"model": "large"})
	c.must(200, "PATCH", "/v1/organizations/"+c.org, obj{"policy": obj{"sealing": "on", "signals": obj{"new_source": "off"}}})
	made := c.create(obj{"profile": "gold", "scope": obj{"workspaces": []string{"hiring"}}, "name": "of a person"})
	root := c.with(w.owner)
	c.must(201, "POST", "/provider-keys", obj{"provider": "mistral", "secret": "0a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P"})
	wishes := map[string]any{
		"add-provider-key": obj{"provider": "openai", "secret": "sk-proj-0a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T"}, "update-provider-key": obj{"name": "Tried"}, "remove-provider-key": nil,
		"create-organization": obj{"id": c.org + "-tried", "name": "Tried"}, "update-organization": obj{"name": "Tried"}, "delete-organization": nil,
		"create-workspace": obj{"id": "tried", "name": "Tried"}, "update-workspace": obj{"name": "Tried"}, "delete-workspace": nil,
		"replace-permissions": obj{"permissions": []obj{}}, "create-profile": obj{"id": "tried", "name": "Tried"},
		"update-profile": obj{"settings": obj{"model": "small"}}, "delete-profile": nil,
		"create-key": obj{"permissions": []string{"interview:read"}, "scope": everywhere}, "update-key": obj{"status": "INACTIVE"},
		"erase-data-subject": obj{"subject": made.Text("key.id")}, "revoke-key": obj{"reason": "tried"}, "delete-key": nil, "rotate-key": obj{"grace": "0"}, "revoke-token": form("token=" + made.Text("secret")), "revoke-self": obj{"reason": "tried"},
		"import-keys": obj{"keys": []obj{{"digest": obj{"alg": "sha256", "value": strings.Repeat("ab", 32)}, "permissions": []string{"interview:read"}, "scope": everywhere}}},
	}
	// Verdicts and what asks a provider, or is handed its key, change nothing that was
	// decided; what is wrapped anew is the same as before.
	others := map[string]bool{
		"verify": true, "verify-batch": true, "authorize": true, "introspect": true,
		"test-provider-key": true, "test-pasted-provider-key": true, "resolve-provider-key": true, "rewrap-provider-keys": true,
	}
	looks := []string{"/v1/organizations/" + c.org, "/workspaces", "/permissions", "/profiles", "/provider-keys", "/keys?status=all", "/keys/" + made.Text("key.id") + "/history"}
	look := func() (all string) {
		for _, path := range looks {
			all += used.ReplaceAllString(root.must(200, "GET", path, nil).String(), "") + "\n"
		}
		return all
	}
	before := look()

	var document struct {
		Paths map[string]map[string]struct {
			OperationID string                  `json:"operationId"`
			Parameters  []struct{ Name string } `json:"parameters"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(c.must(200, "GET", "/openapi.json", nil).Body, &document); err != nil {
		t.Fatal(err)
	}
	tried := 0
	for path, methods := range document.Paths {
		for method, op := range methods {
			if !strings.Contains("post put patch delete", method) || others[op.OperationID] {
				continue
			}
			has := false
			for _, p := range op.Parameters {
				has = has || p.Name == "dry_run"
			}
			wish, known := wishes[op.OperationID]
			if !has || !known {
				t.Errorf("%s %s (%s) changes something; it takes dry_run: %t, this test knows a wish for it: %t", method, path, op.OperationID, has, known)
				continue
			}
			query := "?dry_run=true"
			if op.OperationID == "delete-profile" {
				query += "&force=true"
			}
			at := strings.NewReplacer("{org}", c.org, "{workspace}", "hiring", "{profile}", "gold", "{provider}", "mistral", "{key}", made.Text("key.id")).Replace(path)
			by := root
			if op.OperationID == "revoke-self" {
				by = c.with(made.Text("secret"))
			}
			var body any
			if wish != nil {
				body = wish
			}
			a := by.must(200, strings.ToUpper(method), at+query, body)
			if a.Get("dry_run") != true || len(a.List("events")) == 0 || a.Get("secret") != nil {
				t.Errorf("%s tried: %s", op.OperationID, a)
			}
			if after := look(); after != before {
				t.Errorf("%s tried has changed\n%s\nto\n%s", op.OperationID, before, after)
				before = after
			}
			tried++
		}
	}
	if tried != len(wishes) {
		t.Errorf("%d operations were tried, of %d that there were", tried, len(wishes))
	}
	c.code("VALID", made.Text("secret"), "interview:read", "")
	root.refused(404, "not_found", "GET", "/v1/organizations/"+c.org+"-tried", nil)

	// At the shell every change has the flag.
	id := made.Text("key.id")
	for _, args := range [][]string{
		{"orgs", "update", c.org, "--name", "Tried"},
		{"orgs", "delete", c.org},
		{"workspaces", "create", "tried"},
		{"workspaces", "update", "hiring", "--name", "Tried"},
		{"workspaces", "delete", "hiring"},
		{"permissions", "set", "--permission", "a:b=read"},
		{"profiles", "create", "tried"},
		{"profiles", "update", "gold", "--name", "Tried"},
		{"profiles", "delete", "gold", "--force"},
		{"keys", "create", "--permissions", "all", "--workspaces", "all"},
		{"keys", "update", id, "--permissions", "all"},
		{"keys", "rename", id, "Tried"},
		{"keys", "disable", id},
		{"keys", "rotate", id},
		{"keys", "revoke", id},
		{"provider-keys", "rename", "mistral", "Tried"},
		{"provider-keys", "remove", "mistral"},
	} {
		says(t, root.cli(append(args, "--dry-run")...), "Nothing was changed", "keyledger.")
	}
	if after := look(); after != before {
		t.Errorf("tried at the shell has changed\n%s\nto\n%s", before, after)
	}
}
