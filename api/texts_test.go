package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/seals"
)

const privateKey = `{"name":"Ada Lovelace","permissions":["interview:start"],"scope":{"all_workspaces":true},` +
	`"external_id":"ada@example.com","metadata":{"desk":"4711 Ockham"},"data_subject":"person-7","reason":"Ada asked for it"}`

// private makes an organization that has its texts sealed, with one key.
func private(t testing.TB, s *apitest.Server) wire.Created {
	t.Helper()
	furnish(s, "acme")
	s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme", `{"policy":{"sealing":"on"}}`)
	return as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", privateKey))
}

// Whoever may see what is sealed sees it wherever keys are shown, and nobody else
// does; what was erased nobody sees.
func TestWhoSeesSealedTexts(t *testing.T) {
	s := apitest.Start(t)
	made := private(t, s)
	if k := made.Key; *k.Name != "Ada Lovelace" || k.ExternalID != "ada@example.com" || k.Metadata["desk"] != "4711 Ockham" || k.DataSubject != "person-7" {
		t.Fatalf("%+v", k)
	}
	path := "/v1/organizations/acme/keys/" + made.Key.ID
	callers := map[string]string{"owner of the installation": s.Owner}
	for _, role := range []string{"owner", "admin", "auditor", "member"} {
		callers[role] = managementKey(t, s, "acme", role, `{"all_workspaces":true}`)
	}
	check := func(what string, k wire.Key, name, external, desk string) {
		t.Helper()
		if *k.Name != name || k.ExternalID != external || k.Metadata["desk"] != desk || k.DataSubject != "person-7" {
			t.Errorf("%s: %q, %q, %q of %s", what, *k.Name, k.ExternalID, k.Metadata["desk"], k.DataSubject)
		}
	}
	for who, caller := range callers {
		name, external, desk := "Ada Lovelace", "ada@example.com", "4711 Ockham"
		if who == "member" {
			name, external, desk = "(sealed)", "(sealed)", "(sealed)"
		}
		check(who, as[wire.Key](t, s.Must(200, caller, "GET", path, "")), name, external, desk)
		list := as[wire.List[wire.Key]](t, s.Must(200, caller, "GET", "/v1/organizations/acme/keys?kind=api", ""))
		if len(list.Items) != 1 {
			t.Fatalf("%s: %d keys", who, len(list.Items))
		}
		check(who+", in a list", list.Items[0], name, external, desk)
		for _, of := range []string{path + "/history", "/v1/organizations/acme/audit/events?key=" + made.Key.ID} {
			told := as[wire.List[wire.Change]](t, s.Must(200, caller, "GET", of, "")).Items[0]
			reason := "Ada asked for it"
			if who == "member" {
				reason = "(sealed)"
			}
			after := map[string]any{}
			for _, change := range told.Changes {
				after[change.Field] = change.After
			}
			if told.Reason != reason || after["name"] != name || after["external_id"] != external || after["metadata.desk"] != desk {
				t.Errorf("%s: %s tells %q, %v", who, of, told.Reason, after)
			}
		}
	}
	// What is sealed is not searched.
	for _, query := range []string{"q=Lovelace", "external_id=ada%40example.com", "metadata=desk%3D4711+Ockham"} {
		if list := as[wire.List[wire.Key]](t, s.Must(200, s.Owner, "GET", "/v1/organizations/acme/keys?"+query, "")); len(list.Items) != 0 {
			t.Errorf("%s finds what is sealed", query)
		}
	}
	s.Must(200, s.Owner, "POST", path+"/revoke", `{"reason":"Ada left"}`)
	if k := as[wire.Key](t, s.Must(200, callers["auditor"], "GET", path, "")); k.RevocationReason != "Ada left" {
		t.Errorf("revoked for %q", k.RevocationReason)
	}
	erase(t, s)
	for who, caller := range callers {
		want := "(erased)"
		if who == "member" {
			want = "(sealed)"
		}
		k := as[wire.Key](t, s.Must(200, caller, "GET", path, ""))
		check(who+", after the erasure", k, want, want, want)
		if k.RevocationReason != want {
			t.Errorf("%s: revoked for %q", who, k.RevocationReason)
		}
	}
}

// erase erases the data subject of the key of private.
func erase(t testing.TB, s *apitest.Server) {
	t.Helper()
	held, err := s.Subjects.Held(t.Context(), "acme", "person-7")
	if err != nil || held == "" {
		t.Fatal(held, err)
	}
	if _, err := s.Subjects.Destroy(t.Context(), "acme", "person-7", []string{held}); err != nil {
		t.Fatal(err)
	}
}

// The stream of events opens texts for those who may see them. What it sends is
// the stored document otherwise, member by member.
func TestStreamOpensSealedTexts(t *testing.T) {
	s := apitest.Start(t)
	made := private(t, s)
	member := managementKey(t, s, "acme", "member", `{"all_workspaces":true}`)
	created := func(caller string) string {
		t.Helper()
		next := stream(t, s, caller, "?after=0&types=key.created&organization=acme")
		for e := next(); e != nil; e = next() {
			if strings.Contains(e["data"], made.Key.ID) {
				return e["data"]
			}
		}
		t.Fatal("the key's beginning is not in the stream")
		return ""
	}
	texts := []string{`"name":"Ada Lovelace"`, `"external_id":"ada@example.com"`, `"desk":"4711 Ockham"`, `"reason":"Ada asked for it"`}
	seen, stored := created(s.Owner), created(member)
	for _, text := range texts {
		if !strings.Contains(seen, text) || strings.Contains(stored, text) {
			t.Errorf("%s: the owner got %s, the member %s", text, seen, stored)
		}
	}
	if !strings.Contains(stored, `"sealedreason":"{\"subject\":\"person-7\"`) || strings.Contains(seen, "sealed") {
		t.Errorf("the owner got %s, the member %s", seen, stored)
	}
	var a, b map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal([]byte(seen), &a), json.Unmarshal([]byte(stored), &b)); err != nil {
		t.Fatal(err)
	}
	for name, value := range b {
		if name != "sealedreason" && name != "data" && string(a[name]) != string(value) {
			t.Errorf("%s is sent as %s, and stored as %s", name, a[name], value)
		}
	}
	subject := events.KeySubject("acme", keyIDOf(t, made.Key.ID))
	meta, event, err := events.Decode(subject, []byte(seen))
	if err != nil || meta.Reason.Clear != "Ada asked for it" || event.(events.KeyCreated).Name.Clear != "Ada Lovelace" {
		t.Errorf("%+v, %+v, %v", meta, event, err)
	}
	erase(t, s)
	if seen := created(s.Owner); strings.Count(seen, `"(erased)"`) != 4 || strings.Contains(seen, "sealed") {
		t.Errorf("after the erasure the owner got %s", seen)
	}
}

func keyIDOf(t testing.TB, text string) events.KeyID {
	t.Helper()
	id, err := events.ParseKeyID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// While what opens texts is away they are shown as sealed, and an answer with many
// of them does not wait for each.
func TestSealedTextsThatCannotBeOpened(t *testing.T) {
	var away atomic.Bool
	var asked atomic.Int32
	s := apitest.Start(t, func(c *api.Config) {
		open := c.Unseal
		c.Unseal = func(ctx context.Context, org events.OrgID, sealed events.Sealed, what string) (string, error) {
			if asked.Add(1); away.Load() {
				return "", events.ErrUnavailable
			}
			if what != seals.TextOfFact {
				t.Errorf("opens a %s", what)
			}
			return open(ctx, org, sealed, what)
		}
	})
	made := private(t, s)
	path := "/v1/organizations/acme/keys/" + made.Key.ID
	before := as[wire.Key](t, s.Must(200, s.Owner, "GET", path, ""))
	away.Store(true)
	asked.Store(0)
	k := as[wire.Key](t, s.Must(200, s.Owner, "GET", path, ""))
	if *k.Name != "(sealed)" || k.ExternalID != "(sealed)" || k.Metadata["desk"] != "(sealed)" {
		t.Errorf("%+v", k)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times for one answer", n)
	}
	away.Store(false)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if k = as[wire.Key](t, s.Must(200, s.Owner, "GET", path, "")); *k.Name == *before.Name && k.Metadata["desk"] == before.Metadata["desk"] {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still %+v", k)
		}
	}
}

// What looks like a sealed text where nobody's texts are sealed is what somebody
// wrote there, and sent as it is.
func TestStreamOpensNothingElse(t *testing.T) {
	s := apitest.Start(t)
	made := private(t, s)
	id := keyIDOf(t, made.Key.ID)
	facts, err := s.Ledger.Load(t.Context(), events.KeySubject("acme", id), 0)
	if err != nil || len(facts) != 1 {
		t.Fatal(facts, err)
	}
	name, err := json.Marshal(facts[0].Event.(events.KeyCreated).Name.Sealed)
	if err != nil {
		t.Fatal(err)
	}
	box := `{"sealed":` + strings.Replace(strings.Replace(strings.Replace(string(name), `"Subject"`, `"subject"`, 1), `"Key"`, `"key"`, 1), `"Box"`, `"box"`, 1) + `}`
	s.Must(201, s.Owner, "POST", "/v1/organizations/acme/profiles", `{"id":"odd","name":"Odd","settings":{"a":`+box+`,"sealedreason":"x"}}`)
	next := stream(t, s, s.Owner, "?after=0&types=profile.created&organization=acme")
	next() // the one that the organization was furnished with
	if e := next(); !strings.Contains(e["data"], `"a":`+box) || !strings.Contains(e["data"], `"sealedreason":"x"`) {
		t.Errorf("sent as %s", e["data"])
	}
}
