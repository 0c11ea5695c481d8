package api_test

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

// recorded makes a server that records addresses, and a key good in a workspace.
func recorded(t *testing.T) (s *apitest.Server, hiring, support wire.Created) {
	t.Helper()
	s = apitest.Start(t, func(c *api.Config) { c.RecordClientIP = true })
	furnish(s, "acme")
	furnish(s, "other")
	for workspace, key := range map[string]*wire.Created{"hiring": &hiring, "support": &support} {
		*key = as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys",
			`{"name":"`+workspace+`","permissions":["interview:start","interview:read"],"scope":{"workspaces":["`+workspace+`"]}}`))
	}
	return s, hiring, support
}

// used asks for a verdict, as an application does.
func used(t *testing.T, s *apitest.Server, secret, permission, workspace string, n int) {
	t.Helper()
	s.Must(200, s.Owner, "POST", "/v1/verify", fmt.Sprintf(`{"secret":%q,"permission":%q,"workspace":%q,
		"context":{"request_id":"req-%d","method":"POST","path":"/interviews/%d","client_ip":"203.0.113.%d","user_agent":"app/%d"}}`,
		secret, permission, workspace, n, n, n%2, n))
}

// awaited asks until a list has so many items.
func awaited[T any](t *testing.T, want int, list func() (wire.KeptList[T], error)) []T {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		got, err := list()
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Items) >= want {
			return got.Items
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d items, want %d", len(got.Items), want)
		}
	}
}

func clientOf(t *testing.T, s *apitest.Server, key string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: s.URL, Key: client.Secret(key)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Every use of a key is told with what it asked for and from where, to whoever may
// see the key.
func TestUses(t *testing.T) {
	s, hiring, support := recorded(t)
	began := time.Now().Add(-time.Second)
	used(t, s, hiring.Secret, "interview:start", "hiring", 1)
	// The clock of a verdict has steps of some milliseconds.
	time.Sleep(50 * time.Millisecond)
	used(t, s, support.Secret, "interview:start", "support", 2)
	time.Sleep(50 * time.Millisecond)
	used(t, s, hiring.Secret, "interview:read", "support", 3)
	time.Sleep(50 * time.Millisecond)
	used(t, s, hiring.Secret, "interview:read AND interview:start", "hiring", 4)
	c, ctx := clientOf(t, s, s.Owner), t.Context()

	items := awaited(t, 4, func() (wire.KeptList[wire.Use], error) { return c.Uses(ctx, "acme", client.UseFilter{From: began}) })
	if len(items) != 4 || !slices.IsSortedFunc(items, func(a, b wire.Use) int { return b.At.Compare(a.At) }) {
		t.Fatalf("%+v", items)
	}
	u := items[1]
	if u.KeyID != hiring.Key.ID || u.Code != "OUT_OF_SCOPE" || u.Permission != "interview:read" || u.Workspace != "support" || u.Verifier != "test" ||
		u.Boot == "" || u.Number != 3 || u.Position == "" || u.At.Before(began) || u.StoredAt.Before(u.At) ||
		u.RequestID != "req-3" || u.Method != "POST" || u.Path != "/interviews/3" || u.ClientIP != "203.0.113.1" || u.UserAgent != "app/3" {
		t.Errorf("%+v", u)
	}
	for _, tt := range []struct {
		f    client.UseFilter
		want []uint64
	}{
		{client.UseFilter{Key: hiring.Key.ID}, []uint64{4, 3, 1}},
		{client.UseFilter{Key: hiring.Key.ID, Order: "asc"}, []uint64{1, 3, 4}},
		{client.UseFilter{Key: hiring.Key.ID, Code: "VALID"}, []uint64{4, 1}},
		{client.UseFilter{Permission: "interview:start"}, []uint64{4, 2, 1}},
		{client.UseFilter{Workspace: "support"}, []uint64{3, 2}},
		{client.UseFilter{To: items[2].At}, []uint64{1}},
		{client.UseFilter{From: items[1].At}, []uint64{4, 3}},
		{client.UseFilter{Code: "EXPIRED"}, nil},
	} {
		list, err := c.Uses(ctx, "acme", tt.f)
		if err != nil {
			t.Fatal(err)
		}
		if got := numbers(list.Items); !slices.Equal(got, tt.want) {
			t.Errorf("%+v: %v, want %v", tt.f, got, tt.want)
		}
		f := tt.f
		if f.Key, f.Page = "", (client.Page{Limit: 1}); tt.f.Key == "" {
			continue
		}
		var paged []uint64
		for {
			list, err := c.KeyUses(ctx, "acme", hiring.Key.ID, f)
			if err != nil {
				t.Fatal(err)
			}
			paged = append(paged, numbers(list.Items)...)
			if f.Cursor = list.NextCursor; f.Cursor == "" {
				break
			}
		}
		if !slices.Equal(paged, tt.want) {
			t.Errorf("%+v by pages: %v, want %v", tt.f, paged, tt.want)
		}
	}

	// Who is confined to a workspace sees the keys within, and their uses.
	confined := managementKey(t, s, "acme", "auditor", `{"workspaces":["hiring"]}`)
	list, err := clientOf(t, s, confined).Uses(ctx, "acme", client.UseFilter{})
	// What the key itself asks is a use of it, too.
	keys := []string{hiring.Key.ID, support.Key.ID}
	list.Items = slices.DeleteFunc(list.Items, func(u wire.Use) bool { return !slices.Contains(keys, u.KeyID) })
	if err != nil || !slices.Equal(numbers(list.Items), []uint64{4, 3, 1}) {
		t.Errorf("confined: %+v, %v", list, err)
	}
	s.Must(404, confined, "GET", "/v1/organizations/acme/keys/"+support.Key.ID+"/uses", "")
	s.Must(404, confined, "GET", "/v1/organizations/acme/keys/"+support.Key.ID+"/sources", "")
	s.Must(404, confined, "GET", "/v1/organizations/acme/audit/uses?key="+support.Key.ID, "")
	s.Must(403, confined, "GET", "/v1/organizations/acme/audit/uses/counts", "")
	s.Must(404, confined, "GET", "/v1/organizations/acme/audit/uses/counts?key="+support.Key.ID, "")
	s.Must(200, confined, "GET", "/v1/organizations/acme/audit/uses/counts?key="+hiring.Key.ID, "")
	stranger := managementKey(t, s, "other", "owner", everywhere)
	for _, path := range []string{"audit/uses", "audit/uses/counts", "audit/uses/findings", "keys/" + hiring.Key.ID + "/uses", "keys/" + hiring.Key.ID + "/sources"} {
		s.Must(404, stranger, "GET", "/v1/organizations/acme/"+path, "")
	}
	list, err = clientOf(t, s, stranger).Uses(ctx, "other", client.UseFilter{})
	if err != nil || slices.ContainsFunc(list.Items, func(u wire.Use) bool { return slices.Contains(keys, u.KeyID) }) {
		t.Errorf("a stranger: %+v, %v", list, err)
	}
	s.Must(404, stranger, "GET", "/v1/organizations/other/audit/uses?key="+hiring.Key.ID, "")
	s.Must(404, stranger, "GET", "/v1/organizations/other/keys/"+hiring.Key.ID+"/uses", "")
}

func numbers(list []wire.Use) (out []uint64) {
	for _, u := range list {
		out = append(out, u.Number)
	}
	return out
}

func TestUseCountsAndSources(t *testing.T) {
	s, hiring, support := recorded(t)
	for n := range 5 {
		used(t, s, hiring.Secret, "interview:start", "hiring", n)
	}
	used(t, s, hiring.Secret, "interview:start", "support", 5)
	used(t, s, support.Secret, "interview:start", "support", 6)
	c, ctx := clientOf(t, s, s.Owner), t.Context()
	awaited(t, 7, func() (wire.KeptList[wire.Use], error) { return c.Uses(ctx, "acme", client.UseFilter{}) })
	since := time.Now().Add(-time.Hour)
	for unit, length := range map[string]time.Duration{"minute": time.Minute, "hour": time.Hour, "day": 24 * time.Hour} {
		for key, want := range map[string]map[string]uint64{"": {"VALID": 6, "OUT_OF_SCOPE": 1}, hiring.Key.ID: {"VALID": 5, "OUT_OF_SCOPE": 1}, support.Key.ID: {"VALID": 1}} {
			list, err := c.UseCounts(ctx, "acme", unit, client.UseFilter{Key: key, From: since})
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]uint64{}
			for _, n := range list.Items {
				if n.Unit != unit || !n.At.Equal(n.At.Truncate(length)) {
					t.Errorf("%+v", n)
				}
				got[n.Code] += n.Count
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s of %q: %v, want %v", unit, key, got, want)
			}
		}
	}
	sources := awaited(t, 2, func() (wire.KeptList[wire.KeySource], error) {
		list, err := c.KeySources(ctx, "acme", hiring.Key.ID)
		return wire.KeptList[wire.KeySource]{List: list}, err
	})
	if a := sources[0]; a.Kind != "client_ip" || a.Source != "203.0.113.0" || a.FirstCode != "VALID" || a.FirstVerifier != "test" ||
		a.FirstAt.Before(since) || a.LastAt.Before(a.FirstAt) || sources[1].Source != "203.0.113.1" {
		t.Errorf("%+v", sources)
	}
	// The server's own run has no end while it goes on.
	found, err := c.UsesFindings(ctx, "acme", client.Page{})
	if err != nil || len(found.Items) != 1 {
		t.Fatalf("%+v, %v", found, err)
	}
	if f := found.Items[0]; f.Kind != "unended" || f.Verifier != "test" || f.Boot == "" || f.Superseded || f.Count == 0 || f.Position == "" || f.Detail == "" {
		t.Errorf("%+v", f)
	}
	if found, err := c.UsesFindings(ctx, "other", client.Page{}); err != nil || len(found.Items) != 0 {
		t.Errorf("of another organization: %+v, %v", found, err)
	}
}

// Who follows gets every use once, in the order in which they are stored.
func TestUsesAreFollowed(t *testing.T) {
	s, hiring, _ := recorded(t)
	c, ctx := clientOf(t, s, s.Owner), t.Context()
	used(t, s, hiring.Secret, "interview:start", "hiring", 1)
	awaited(t, 1, func() (wire.KeptList[wire.Use], error) { return c.Uses(ctx, "acme", client.UseFilter{}) })
	f := client.UseFilter{Key: hiring.Key.ID, Order: "stored", Page: client.Page{Limit: 2}}
	begin, err := c.Uses(ctx, "acme", f)
	if err != nil || len(begin.Items) != 0 || begin.NextCursor == "" {
		t.Fatalf("%+v, %v", begin, err)
	}
	f.Cursor = begin.NextCursor
	for n := 2; n <= 8; n++ {
		used(t, s, hiring.Secret, "interview:start", "hiring", n)
	}
	var seen []uint64
	for deadline := time.Now().Add(20 * time.Second); len(seen) < 7 && time.Now().Before(deadline); {
		list, err := c.Uses(ctx, "acme", f)
		if err != nil || list.NextCursor == "" || len(list.Items) > 2 {
			t.Fatalf("%+v, %v", list, err)
		}
		seen = append(seen, numbers(list.Items)...)
		f.Cursor = list.NextCursor
	}
	if !slices.Equal(seen, []uint64{2, 3, 4, 5, 6, 7, 8}) {
		t.Errorf("%v", seen)
	}
}

func TestBadQuestionsAboutUses(t *testing.T) {
	s, hiring, _ := recorded(t)
	used(t, s, hiring.Secret, "interview:start", "hiring", 1)
	used(t, s, hiring.Secret, "interview:start", "hiring", 2)
	c := clientOf(t, s, s.Owner)
	awaited(t, 2, func() (wire.KeptList[wire.Use], error) { return c.Uses(t.Context(), "acme", client.UseFilter{}) })
	const base = "/v1/organizations/acme/audit/uses"
	first := as[wire.List[wire.Use]](t, s.Must(200, s.Owner, "GET", base+"?limit=1", ""))
	key := "key=" + hiring.Key.ID
	for path, want := range map[string]struct {
		status      int
		code, field string
	}{
		base + "?code=GOOD":      {400, "invalid_request", "code"},
		base + "?order=up":       {400, "invalid_request", "order"},
		base + "?from=yesterday": {400, "invalid_request", "from"},
		base + "?to=1":           {400, "invalid_request", "to"},
		base + "?from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z": {422, "invalid_value", "to"},
		base + "?limit=0":                                {400, "invalid_request", "limit"},
		base + "?limit=201":                              {400, "invalid_request", "limit"},
		base + "?cursor=nonsense":                        {400, "invalid_cursor", ""},
		base + "?order=asc&cursor=" + first.NextCursor:   {400, "invalid_cursor", ""},
		base + "?key=nonsense":                           {404, "not_found", ""},
		base + "?order=stored&from=2026-01-01T00:00:00Z": {400, "invalid_request", "order"},
		base + "?permission=" + strings.Repeat("a", 600): {400, "invalid_request", "permission"},
		base + "?workspace=" + strings.Repeat("a", 65):   {400, "invalid_request", "workspace"},
		base + "?secret=x":                               {400, "invalid_request", "secret"},
		base + "/counts?unit=week":                       {400, "invalid_request", "unit"},
		base + "/counts?unit=minute&" + key:              {422, "invalid_value", "from"},
		base + "/counts?unit=minute&" + key + "&from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:01Z": {422, "invalid_value", "from"},
		base + "/counts?cursor=" + first.NextCursor:                                                {400, "invalid_cursor", ""},
		base + "/findings?cursor=x":                                                                {400, "invalid_cursor", ""},
		base + "/findings?kind=missing":                                                            {400, "invalid_request", "kind"},
		"/v1/organizations/nobody/audit/uses":                                                      {404, "not_found", ""},
		"/v1/organizations/nobody/audit/uses/counts":                                               {404, "not_found", ""},
		"/v1/organizations/acme/keys/x/uses":                                                       {404, "not_found", ""},
		base + "?key=" + url.QueryEscape(hiring.Secret):                                            {422, "secret_in_field", "key"},
		"/v1/organizations/acme/keys/" + hiring.Secret + "/uses":                                   {422, "secret_in_field", "path"},
	} {
		p := problem(t, s.Must(want.status, s.Owner, "GET", path, ""))
		if p.Code != want.code || p.Field != want.field {
			t.Errorf("%s: %+v", path, p)
		}
	}
	s.Must(200, s.Owner, "GET", base+"/counts?unit=minute&"+key+"&from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z", "")
	s.Must(200, s.Owner, "GET", "/v1/organizations/_system/audit/uses/findings", "")
}

// A view of uses that is made anew must not pass for a record in which nothing
// happened.
func TestUsesThatAreNotReadYet(t *testing.T) {
	var percent atomic.Uint64
	percent.Store(40)
	s := apitest.Start(t, func(c *api.Config) {
		c.UsesRead = func(context.Context) (uint64, error) { return percent.Load(), nil }
	})
	furnish(s, "acme")
	made := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	audit, key := "/v1/organizations/acme/audit/", "/v1/organizations/acme/keys/"+made.Key.ID
	paths := []string{
		audit + "uses", audit + "uses/counts", audit + "uses/findings", audit + "reports/dormant", audit + "reports/access-review?format=csv",
		key + "/uses", key + "/sources",
	}
	var asked sync.WaitGroup // each waits for a while before it gives up
	for _, path := range paths {
		asked.Go(func() {
			if a := s.Do(s.Owner, "GET", path, ""); a.Status != 503 || !strings.Contains(string(a.Body), "40 %") {
				t.Errorf("%s: %d %s", path, a.Status, a.Body)
			}
		})
	}
	asked.Wait()
	s.Must(200, s.Owner, "GET", audit+"reports/changes", "")
	percent.Store(100)
	for _, path := range paths {
		s.Must(200, s.Owner, "GET", path, "")
	}
}
