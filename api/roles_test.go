package api_test

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
)

func itoa(n int) string { return strconv.Itoa(n) }

// managementKey makes a key of a role and returns its secret.
func managementKey(t testing.TB, s *apitest.Server, org, role, scope string) string {
	t.Helper()
	a := s.Must(201, s.Owner, "POST", "/v1/organizations/"+org+"/keys", `{"name":"`+role+`","kind":"management","role":"`+role+`","scope":`+scope+`}`)
	return as[wire.Created](t, a).Secret
}

const everywhere = `{"all_workspaces":true}`

// ask sends an operation's example and returns the status; a stream is closed
// once it has begun.
func ask(t *testing.T, s *apitest.Server, op *operation, key, org, id string) int {
	t.Helper()
	target := filled(op.path, org, "support", "gold", id)
	switch {
	case op.change():
		target += "?dry_run=true"
	case op.OperationID == "stream-events" && org != "":
		target += "?organization=" + org
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, op.method, s.URL+target, strings.NewReader(op.body(t)))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	if op.RequestBody != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if op.OperationID != "stream-events" || res.StatusCode != 200 {
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode >= 500 || res.StatusCode == 400 || res.StatusCode == 415 {
			t.Errorf("%s: %d %s", op.OperationID, res.StatusCode, body)
		}
	}
	return res.StatusCode
}

// granted says that a request got past the question who may: whatever else is
// wrong with it is told then.
func granted(status int) bool { return status < 400 || status == 409 || status == 422 }

// Every route that is described, with every role, from inside and outside its
// walls. A new route is covered by being described.
func TestRolesAndWallsOnEveryRoute(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	connect(s, "acme")
	furnish(s, "other")
	api := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	_, all := readDocument(t, s)
	roles := map[string]string{}
	for _, role := range []string{"owner", "admin", "member", "auditor", "verifier", "resolver"} {
		roles[role] = managementKey(t, s, "acme", role, everywhere)
	}
	stranger := managementKey(t, s, "other", "owner", everywhere)
	confined := managementKey(t, s, "acme", "admin", `{"workspaces":["hiring"]}`)

	for _, op := range all {
		if op.open() || !strings.HasPrefix(op.path, "/v1/") || op.OperationID == "revoke-self" {
			// Whoever asks to end the own key has none to ask the next with.
			continue
		}
		t.Run(op.OperationID, func(t *testing.T) {
			open := strings.HasPrefix(op.OperationID, "verify") || op.OperationID == "whoami"
			inside := strings.Contains(op.path, "{org}")
			// What all of an organization did is for those who answer for it.
			whole := op.OperationID == "export-audit-events" || op.OperationID == "list-access"
			// Customers' own keys are for those who manage all of the organization, and
			// what is in them for those who call the provider.
			byok := op.tag() == "Provider keys" && inside
			check := func(who, key string, want int) {
				t.Helper()
				got := ask(t, s, op, key, "acme", api.Key.ID)
				if want == 200 && !granted(got) || want != 200 && got != want {
					t.Errorf("%s: %d, want %d", who, got, want)
				}
			}
			check("nobody", "", 401)
			check("no key", "kl_live_nonsense", 401)
			if op.OperationID == "whoami" {
				check("an API key", api.Secret, 200)
			} else {
				check("an API key", api.Secret, 403)
			}
			switch {
			case open:
				check("a stranger", stranger, 200)
			case inside || op.OperationID == "stream-events":
				check("a stranger", stranger, 404)
			case op.OperationID == "create-organization":
				check("a stranger", stranger, 403)
			}
			for role, key := range roles {
				want := 403
				switch {
				case open, role == "owner", role == "admin" && op.OperationID != "delete-organization",
					!op.change() && slices.Contains([]string{"member", "auditor"}, role):
					want = 200
				}
				if op.OperationID == "create-organization" || op.OperationID == "rewrap-provider-keys" || whole && role == "member" {
					want = 403
				}
				switch {
				case op.OperationID == "list-providers", op.OperationID == "resolve-provider-key" && role == "resolver":
					want = 200
				case op.OperationID == "resolve-provider-key" && role == "admin", byok && (role == "member" || role == "auditor"):
					want = 403
				}
				check(role, key, want)
			}
			check("the installation's owner", s.Owner, 200)
			// A key that is confined to one workspace sees neither the other
			// workspace nor the key that lies in both.
			switch {
			case strings.Contains(op.path, "{key}"), op.OperationID == "get-workspace":
				check("confined", confined, 404)
			case op.OperationID == "import-keys":
				// Each key of an import is refused, or not, by itself.
				check("confined", confined, 200)
			case op.change(), byok, op.OperationID == "rewrap-provider-keys", op.OperationID == "stream-events", whole, op.OperationID == "count-uses", op.OperationID == "list-uses-findings", strings.HasPrefix(op.OperationID, "verify"):
				check("confined", confined, 403)
			default:
				check("confined", confined, 200)
			}
		})
	}
}

// What another organization has, nobody outside sees a trace of.
func TestWallsInLists(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	furnish(s, "other")
	key := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	stranger := managementKey(t, s, "other", "owner", everywhere)
	if got := as[wire.List[wire.Organization]](t, s.Must(200, stranger, "GET", "/v1/organizations", "")); len(got.Items) != 1 || got.Items[0].ID != "other" {
		t.Errorf("organizations: %+v", got)
	}
	if got := as[wire.List[wire.Organization]](t, s.Must(200, s.Owner, "GET", "/v1/organizations?limit=2", "")); len(got.Items) != 2 || got.NextCursor == "" {
		t.Errorf("organizations of the installation: %+v", got)
	}
	if got := verdict(t, s, stranger, key.Secret, "").Code; got != "NOT_FOUND" {
		t.Errorf("a stranger's verdict: %s", got)
	}
	confined := managementKey(t, s, "acme", "member", `{"workspaces":["hiring"]}`)
	if got := as[wire.List[wire.Key]](t, s.Must(200, confined, "GET", "/v1/organizations/acme/keys", "")); len(got.Items) != 1 || got.Items[0].Kind != "management" {
		t.Errorf("keys within a workspace: %+v", got)
	}
	if got := as[wire.List[wire.Workspace]](t, s.Must(200, confined, "GET", "/v1/organizations/acme/workspaces", "")); len(got.Items) != 1 || got.Items[0].ID != "hiring" {
		t.Errorf("workspaces: %+v", got)
	}
	// Nor does the length of a page tell what is left out: support is newer.
	if got := as[wire.List[wire.Workspace]](t, s.Must(200, confined, "GET", "/v1/organizations/acme/workspaces?limit=1", "")); len(got.Items) != 1 || got.NextCursor != "" {
		t.Errorf("a page of workspaces: %+v", got)
	}
}

// A management key that was revoked is a stranger from the next request on.
func TestRevokedManager(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	a := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", `{"kind":"management","role":"admin","scope":{"all_workspaces":true}}`))
	s.Must(200, a.Secret, "GET", "/v1/organizations/acme", "")
	s.Must(200, s.Owner, "POST", "/v1/organizations/acme/keys/"+a.Key.ID+"/revoke", "")
	res := s.Must(401, a.Secret, "GET", "/v1/organizations/acme", "")
	if got := res.Header.Get("WWW-Authenticate"); got != `Bearer realm="keyledger", error="invalid_token"` {
		t.Errorf("challenge %q", got)
	}
	if got := s.Must(401, "", "GET", "/v1/organizations/acme", "").Header.Get("WWW-Authenticate"); got != `Bearer realm="keyledger"` {
		t.Errorf("challenge %q", got)
	}
}
