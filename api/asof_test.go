package api_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/projections/usage"
)

const acmeKeys = "/v1/organizations/acme/keys"

// lived makes a key and has something happen to it. It returns the key as it was
// after its creation, and the position of each change.
func lived(t *testing.T, s *apitest.Server) (wire.Key, map[string]string) {
	t.Helper()
	furnish(s, "acme")
	k := as[wire.Created](t, s.Must(201, s.Owner, "POST", acmeKeys, `{"name":"Zapier","permissions":["interview:read"],"scope":{"workspaces":["hiring"]}}`)).Key
	at := map[string]string{"created": k.Position}
	at["disabled"] = as[wire.Key](t, s.Must(200, s.Owner, "PATCH", acmeKeys+"/"+k.ID, `{"status":"INACTIVE"}`)).Position
	at["enabled"] = as[wire.Key](t, s.Must(200, s.Owner, "PATCH", acmeKeys+"/"+k.ID, `{"status":"ACTIVE","scope":{"all_workspaces":true}}`)).Position
	at["catalog"] = as[wire.Permissions](t, s.Must(200, s.Owner, "PUT", "/v1/organizations/acme/permissions",
		`{"permissions":[{"name":"interview:start","access":"write"}],"reason":"fewer of them"}`)).Position
	return k, at
}

func asOf(path string, parameters ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(parameters); i += 2 {
		q.Set(parameters[i], parameters[i+1])
	}
	return path + "?" + q.Encode()
}

func TestAKeyAsItWas(t *testing.T) {
	s := apitest.Start(t)
	made, at := lived(t, s)
	path := acmeKeys + "/" + made.ID
	a := s.Must(200, s.Owner, "GET", asOf(path, "as_of", at["disabled"], "permission", "interview:read", "workspace", "hiring"), "")
	k := as[wire.Key](t, a)
	if k.Status != "INACTIVE" || k.AsOf == nil || k.AsOf.Position != at["disabled"] || k.MadeSoBy == nil || k.MadeSoBy.Type != "key.disabled" ||
		k.MadeSoBy.Position != at["disabled"] || k.Verdict == nil || k.Verdict.Code != "INACTIVE" || k.Verdict.Valid || k.Verdict.ScopeChecked ||
		k.Verdict.Permission != "interview:read" || k.Verdict.Workspace != "hiring" || k.Verdict.MadeSoBy.Type != "key.disabled" {
		t.Errorf("%s", a.Body)
	}
	if a.Header.Get("Etag") != "" {
		t.Error("what is past has an ETag to change it by")
	}
	k = as[wire.Key](t, s.Must(200, s.Owner, "GET", asOf(path, "as_of", at["catalog"], "permission", "interview:read"), ""))
	if k.Status != "ACTIVE" || k.Verdict.Code != "INSUFFICIENT_PERMISSIONS" || k.Verdict.MadeSoBy.Type != "catalog.replaced" ||
		k.Verdict.MadeSoBy.Reason != "fewer of them" || len(k.EffectivePermissions) != 0 || k.MadeSoBy.Position != at["enabled"] {
		t.Errorf("%+v", k)
	}
	k = as[wire.Key](t, s.Must(200, s.Owner, "GET", asOf(path, "as_of", at["created"]), ""))
	if k.Verdict != nil || k.MadeSoBy.Type != "key.created" || len(k.EffectivePermissions) != 1 || len(k.Scope.Workspaces) != 1 {
		t.Errorf("%+v", k)
	}
	// By time: the present is the past of now.
	now := time.Now().UTC().Format(time.RFC3339Nano)
	k = as[wire.Key](t, s.Must(200, s.Owner, "GET", asOf(path, "as_of", now, "verdict", "true"), ""))
	if k.Verdict.Code != "VALID" || k.AsOf.Position != at["catalog"] || k.MadeSoBy.Position != at["enabled"] {
		t.Errorf("%+v", k)
	}
	// A management key is judged like anywhere else: it grants no permission.
	admin := as[wire.Created](t, s.Must(201, s.Owner, "POST", acmeKeys, `{"kind":"management","role":"member","scope":{"all_workspaces":true}}`)).Key
	k = as[wire.Key](t, s.Must(200, s.Owner, "GET", asOf(acmeKeys+"/"+admin.ID, "as_of", admin.Position, "verdict", "true"), ""))
	if k.Verdict.Code != "INSUFFICIENT_PERMISSIONS" || k.Role != "member" {
		t.Errorf("%+v", k)
	}
	// The end of the organization is every key's.
	s.Must(200, s.Owner, "DELETE", "/v1/organizations/acme", "")
	end := time.Now().UTC().Format(time.RFC3339Nano)
	k = as[wire.Key](t, s.Must(200, s.Owner, "GET", asOf(path, "as_of", end, "verdict", "true"), ""))
	if k.Status != "REVOKED" || k.RevokedAt == nil || k.MadeSoBy.Type != "organization.deleted" || k.Verdict.MadeSoBy.Type != "organization.deleted" {
		t.Errorf("%+v", k)
	}
}

func TestAPastThatCannotBeAskedAbout(t *testing.T) {
	s := apitest.Start(t)
	before := time.Now().UTC().Format(time.RFC3339Nano)
	made, at := lived(t, s)
	path := acmeKeys + "/" + made.ID
	future := s.Positions.Format(events.StreamLedger, 1<<40)
	for _, tt := range []struct {
		want       int
		code, text string
		parameters []string
	}{
		{404, "not_found", "there was no such key then: it is there since " + made.CreatedAt.Format(time.RFC3339Nano), []string{"as_of", before}},
		{404, "not_found", "there was no such key then", []string{"as_of", "1970-01-01T00:00:00Z"}},
		{422, "invalid_value", "future", []string{"as_of", "2999-01-01T00:00:00Z"}},
		{422, "invalid_value", "future", []string{"as_of", time.Now().Add(time.Hour).Format(time.RFC3339)}},
		{422, "invalid_value", "beyond the ledger's end", []string{"as_of", future}},
		{422, "invalid_value", "the first year is 1970", []string{"as_of", "1066-10-14T00:00:00Z"}},
		{400, "invalid_request", "must be a time", []string{"as_of", "yesterday"}},
		{400, "invalid_request", "must be a time", []string{"as_of", at["created"][:10]}},
		{400, "invalid_request", "is no workspace id", []string{"as_of", at["created"], "workspace", "Not One"}},
		{422, "invalid_value", "is no query", []string{"as_of", at["created"], "permission", "a:b OR"}},
		{400, "invalid_request", "true or false", []string{"as_of", at["created"], "verdict", "yes"}},
		{400, "invalid_request", "together with as_of", []string{"permission", "a:b"}},
		{400, "invalid_request", "together with as_of", []string{"verdict", "true"}},
	} {
		a := s.Do(s.Owner, "GET", asOf(path, tt.parameters...), "")
		p := as[wire.Problem](t, a)
		if a.Status != tt.want || p.Code != tt.code || !strings.Contains(p.Detail, tt.text) {
			t.Errorf("%v: %d %s", tt.parameters, a.Status, a.Body)
		}
	}
	const none = acmeKeys + "/0197ab6e-98f1-7c3a-8f0e-2f3a4b5c6d7e"
	s.Must(404, s.Owner, "GET", asOf(none, "as_of", at["created"]), "")
	for parameters, want := range map[string]int{"at=2999-01-01T00:00:00Z": 422, "at=then": 400, "permission=a:b+OR": 422, "cursor=x": 400, "limit=0": 400, "workspace=No": 400} {
		s.Must(want, s.Owner, "GET", "/v1/organizations/acme/audit/who-could?"+parameters, "")
	}
	s.Must(404, s.Owner, "GET", "/v1/organizations/nobody/audit/who-could", "")
}

// Who is limited to workspaces sees of the past what lay within them, of keys that
// still do, and learns of the whole organization's events that they were.
func TestThePastWithinWorkspaces(t *testing.T) {
	s := apitest.Start(t)
	made, at := lived(t, s)
	path := acmeKeys + "/" + made.ID
	limited := managementKey(t, s, "acme", "auditor", `{"workspaces":["hiring"]}`)
	// It is for all workspaces now.
	s.Must(404, limited, "GET", asOf(path, "as_of", at["created"]), "")
	could := func(when string) (ids []string) {
		for _, k := range as[wire.WhoCould](t, s.Must(200, limited, "GET", asOf("/v1/organizations/acme/audit/who-could", "at", when), "")).Items {
			ids = append(ids, k.KeyID)
		}
		return ids
	}
	if got := could(at["created"]); got != nil {
		t.Error("a key that is out of sight now:", got)
	}
	s.Must(200, s.Owner, "PATCH", path, `{"scope":{"workspaces":["hiring"]}}`)
	k := as[wire.Key](t, s.Must(200, limited, "GET", asOf(path, "as_of", at["created"]), ""))
	if k.ID != made.ID || len(k.Scope.Workspaces) != 1 {
		t.Errorf("%+v", k)
	}
	if got := could(at["created"]); len(got) != 1 || got[0] != made.ID {
		t.Error(got)
	}
	// It was for all workspaces then.
	s.Must(404, limited, "GET", asOf(path, "as_of", at["catalog"]), "")
	if got := could(at["catalog"]); got != nil {
		t.Error("a key that was out of sight then:", got)
	}
	now := time.Now().UTC().Format(time.RFC3339Nano)
	a := s.Must(200, limited, "GET", asOf(path, "as_of", now, "permission", "interview:read"), "")
	k = as[wire.Key](t, a)
	by := k.Verdict.MadeSoBy
	if by == nil || by.Type != "catalog.replaced" || by.Position != at["catalog"] || by.Actor != "" || by.Reason != "" || len(by.Changes) != 0 {
		t.Errorf("%+v", by)
	}
	// Another organization's is not there.
	other := managementKey(t, s, "acme", "owner", `{"all_workspaces":true}`)
	furnish(s, "other")
	stranger := managementKey(t, s, "other", "owner", `{"all_workspaces":true}`)
	s.Must(200, other, "GET", asOf(path, "as_of", at["created"]), "")
	s.Must(404, stranger, "GET", asOf(path, "as_of", at["created"]), "")
	s.Must(404, stranger, "GET", "/v1/organizations/acme/audit/who-could", "")
	s.Must(403, managementKey(t, s, "acme", "verifier", `{"all_workspaces":true}`), "GET", "/v1/organizations/acme/audit/who-could", "")
}

// A digest is for ever that of the first key which came with it: no secret leads
// to the second one, whatever it is allowed. Two servers that import at once may
// append such a one.
func TestAKeyThatNoSecretLeadsTo(t *testing.T) {
	s := apitest.Start(t)
	made, _ := lived(t, s)
	pos, err := s.Positions.Parse(events.StreamLedger, made.Position)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Ledger.(*memory.Ledger).At(t.Context(), pos)
	if err != nil {
		t.Fatal(err)
	}
	second, meta := r.Event.(events.KeyCreated), r.Meta
	second.ID[15]++
	meta.ID[15]++
	meta.Command[15]++
	stored, err := s.Ledger.Append(t.Context(), []events.Entry{{Subject: events.KeySubject("acme", second.ID), Event: second, Meta: meta}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Config.WaitForCatalog(t.Context(), stored[0].Position); err != nil {
		t.Fatal(err)
	}
	at := s.Positions.Format(events.StreamLedger, stored[0].Position)
	for id, want := range map[events.KeyID]string{r.Event.(events.KeyCreated).ID: "VALID", second.ID: "NOT_FOUND"} {
		k := as[wire.Key](t, s.Must(200, s.Owner, "GET", asOf(acmeKeys+"/"+id.String(), "as_of", at, "verdict", "true"), ""))
		if k.Status != "ACTIVE" || k.Verdict.Code != want || want == "NOT_FOUND" && k.Verdict.MadeSoBy.Position != at {
			t.Errorf("%+v", k.Verdict)
		}
	}
}

func TestWhoCouldPageByPage(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	var want []string
	for n := range 7 {
		k := as[wire.Created](t, s.Must(201, s.Owner, "POST", acmeKeys, fmt.Sprintf(`{"name":"k%d","permissions":["interview:read"],"scope":{"all_workspaces":true}}`, n))).Key
		if want = append(want, k.ID); n%3 == 1 {
			s.Must(200, s.Owner, "DELETE", acmeKeys+"/"+k.ID, "")
			want = want[:len(want)-1]
		}
	}
	const path = "/v1/organizations/acme/audit/who-could"
	first := as[wire.WhoCould](t, s.Must(200, s.Owner, "GET", asOf(path, "permission", "interview:read", "limit", "2"), ""))
	if len(first.Items) != 2 || first.NextCursor == "" || *first.Items[0].Name != "k0" || first.Items[0].Masked == "" || first.Items[0].MadeSoBy == "" {
		t.Fatalf("%+v", first)
	}
	// What happens meanwhile changes nothing of the list that was begun.
	s.Must(200, s.Owner, "DELETE", acmeKeys+"/"+want[4], "")
	s.Must(201, s.Owner, "POST", acmeKeys, keyBody)
	got := []string{first.Items[0].KeyID, first.Items[1].KeyID}
	for cursor := first.NextCursor; cursor != ""; {
		page := as[wire.WhoCould](t, s.Must(200, s.Owner, "GET", asOf(path, "permission", "interview:read", "limit", "2", "cursor", cursor), ""))
		if page.Position != first.Position || !page.Time.Equal(first.Time) {
			t.Errorf("about %s at %s, not %s at %s", page.Position, page.Time, first.Position, first.Time)
		}
		for _, k := range page.Items {
			got = append(got, k.KeyID)
		}
		cursor = page.NextCursor
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%v, not %v", got, want)
	}
	// A cursor is of its own list alone.
	for _, other := range []string{
		asOf(path, "permission", "interview:start", "cursor", first.NextCursor), asOf(path, "permission", "interview:read", "workspace", "hiring", "cursor", first.NextCursor),
		asOf(path, "permission", "interview:read", "at", first.Position, "cursor", first.NextCursor), asOf(path, "permission", "interview:read", "cursor", "1"+first.NextCursor),
		asOf(path, "permission", "interview:read", "cursor", strings.Replace(first.NextCursor, ".", ".1", 1)),
		asOf(path, "permission", "interview:read", "cursor", first.NextCursor[strings.LastIndexByte(first.NextCursor, '.')+1:]),
	} {
		if p := as[wire.Problem](t, s.Must(400, s.Owner, "GET", other, "")); p.Code != "invalid_cursor" {
			t.Errorf("%+v", p)
		}
	}
}

// When a key was last used is told of then, and not of now.
func TestTheLastUseOfThePast(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	made := as[wire.Created](t, s.Must(201, s.Owner, "POST", acmeKeys, keyBody))
	path := acmeKeys + "/" + made.Key.ID
	use := func(after time.Time) time.Time {
		t.Helper()
		// The verifier's clock goes by milliseconds.
		time.Sleep(5 * time.Millisecond)
		s.Must(200, s.Owner, "POST", "/v1/verify", `{"secret":"`+made.Secret+`"}`)
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			if k := as[wire.Key](t, s.Must(200, s.Owner, "GET", path, "")); k.LastUsedAt != nil && k.LastUsedAt.After(after) {
				return *k.LastUsedAt
			}
		}
		t.Fatal("the use is not known")
		return after
	}
	first := use(time.Time{})
	second := use(first)
	for when, want := range map[string]*time.Time{
		made.Position: nil, first.Add(-time.Microsecond).Format(time.RFC3339Nano): nil, first.Format(time.RFC3339Nano): &first,
		second.Add(-time.Microsecond).Format(time.RFC3339Nano): &first, time.Now().UTC().Format(time.RFC3339Nano): &second,
	} {
		k := as[wire.Key](t, s.Must(200, s.Owner, "GET", asOf(path, "as_of", when), ""))
		if (k.LastUsedAt == nil) != (want == nil) || want != nil && !k.LastUsedAt.Equal(*want) {
			t.Errorf("as of %s it was last used %v, not %v", when, k.LastUsedAt, want)
		}
	}
}

// Texts of the past are shown like those of today: to those who may see them, and
// not once they were erased.
func TestTextsOfThePast(t *testing.T) {
	s := apitest.Start(t)
	made := private(t, s)
	path := acmeKeys + "/" + made.Key.ID
	member, auditor := managementKey(t, s, "acme", "member", `{"all_workspaces":true}`), managementKey(t, s, "acme", "auditor", `{"all_workspaces":true}`)
	check := func(caller, name, why string) {
		t.Helper()
		k := as[wire.Key](t, s.Must(200, caller, "GET", asOf(path, "as_of", made.Position), ""))
		if *k.Name != name || k.MadeSoBy.Reason != why {
			t.Errorf("%q because %q", *k.Name, k.MadeSoBy.Reason)
		}
		could := as[wire.WhoCould](t, s.Must(200, caller, "GET", asOf("/v1/organizations/acme/audit/who-could", "at", made.Position), ""))
		if len(could.Items) != 1 || *could.Items[0].Name != name {
			t.Errorf("%+v", could)
		}
	}
	check(auditor, "Ada Lovelace", "Ada asked for it")
	check(member, "(sealed)", "(sealed)")
	erase(t, s)
	check(auditor, "(erased)", "(erased)")
}

// That a key was not used is not said where nothing is known of it any more.
func TestLastUseOfThePastIsNotKeptForEver(t *testing.T) {
	var view *usage.View
	s := apitest.Start(t, func(c *api.Config) { view = c.Usage })
	furnish(s, "acme")
	made := as[wire.Created](t, s.Must(201, s.Owner, "POST", acmeKeys, `{"permissions":["interview:read"],"scope":{"all_workspaces":true}}`))
	path := acmeKeys + "/" + made.Key.ID
	uses := func(n int) []wire.Use {
		used(t, s, made.Secret, "interview:read", "hiring", n)
		return awaited(t, n, func() (wire.KeptList[wire.Use], error) {
			return as[wire.KeptList[wire.Use]](t, s.Must(200, s.Owner, "GET", path+"/uses", "")), nil
		})
	}
	first := uses(1)[0].At
	between := time.Now().Add(50 * time.Millisecond)
	time.Sleep(100 * time.Millisecond)
	uses(2)
	then := func() *wire.Key {
		k := as[wire.Key](t, s.Must(200, s.Owner, "GET", asOf(path, "as_of", between.Format(time.RFC3339Nano)), ""))
		return &k
	}
	if k := then(); k.LastUsedAt == nil || !k.LastUsedAt.Equal(first) || k.AsOf.UsesKeptSince != nil {
		t.Errorf("it was used at %v, %v", k.LastUsedAt, k.AsOf)
	}
	dropped := events.TimeOf(between)
	if err := view.Drop(t.Context(), usage.Dropped{Orgs: map[events.OrgID]usage.DroppedUses{"acme": {Before: dropped, Through: 1 << 40}}}); err != nil {
		t.Fatal(err)
	}
	if k := then(); k.LastUsedAt != nil || k.AsOf.UsesKeptSince == nil || !k.AsOf.UsesKeptSince.Equal(dropped.Std()) {
		t.Errorf("after the uses were dropped it was used at %v, %+v", k.LastUsedAt, k.AsOf)
	}
}
