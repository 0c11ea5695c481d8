package api_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

// Keys are found by their metadata, all members of which must hold, and bad forms
// of a filter are refused instead of showing everything.
func TestKeysAreListedByTheirMetadata(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	const keys = "/v1/organizations/acme/keys"
	for _, body := range []string{`"a","metadata":{"team":"platform","env":"prod"}`, `"b","metadata":{"team":"platform"}`, `"c","metadata":{"team":"r&d = ü"}`, `"d"`} {
		s.Must(201, s.Owner, "POST", keys, `{"permissions":{"level":"all"},"scope":{"all_workspaces":true},"name":`+body+`}`)
	}
	c, err := client.New(client.Config{URL: s.URL, Key: client.Secret(s.Owner)})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		metadata map[string]string
		want     []string
	}{
		{map[string]string{"team": "platform"}, []string{"b", "a"}},
		{map[string]string{"team": "platform", "env": "prod"}, []string{"a"}},
		{map[string]string{"team": "r&d = ü"}, []string{"c"}},
		{map[string]string{"team": "nobody"}, nil},
		{nil, []string{"d", "c", "b", "a"}},
	} {
		list, err := c.Keys(t.Context(), "acme", client.KeyFilter{Metadata: tt.metadata})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, k := range list.Items {
			got = append(got, *k.Name)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%v: %q, want %q", tt.metadata, got, tt.want)
		}
	}
	for query, detail := range map[string]string{
		"metadata=team":    "must be name=value",
		"metadata=":        "must be name=value",
		"metadata=%3Da":    "must be name=value",
		"metadata=team%3D": "must be name=value",
		"metadata=" + strings.Repeat("n", 65) + "%3Da":                "name of 1 to 64 bytes",
		"metadata=a%3D" + strings.Repeat("v", 501):                    "a value of 1 to 500",
		strings.TrimPrefix(strings.Repeat("&metadata=a%3Db", 6), "&"): "at most 5 are allowed",
		"status=ACTIVE&status=all":                                    "is given 2 times",
		"rotation_due=yes":                                            "must be true or false",
	} {
		p := problem(t, s.Must(400, s.Owner, "GET", keys+"?"+query, ""))
		if p.Code != "invalid_request" || p.Field != strings.SplitN(query, "=", 2)[0] || !strings.Contains(p.Detail, detail) {
			t.Errorf("%s: %+v", query, p)
		}
	}
	first := as[wire.List[wire.Key]](t, s.Must(200, s.Owner, "GET", keys+"?metadata=team%3Dplatform&limit=1", ""))
	s.Must(200, s.Owner, "GET", keys+"?metadata=team%3Dplatform&limit=1&cursor="+first.NextCursor, "")
	if p := problem(t, s.Must(400, s.Owner, "GET", keys+"?metadata=env%3Dprod&limit=1&cursor="+first.NextCursor, "")); p.Code != "invalid_cursor" {
		t.Errorf("%+v", p)
	}
}

// When a key is to be rotated is in every answer that shows it, and is the same in
// that to a change and in the list.
func TestKeysTellWhenTheyAreToBeRotated(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	const keys = "/v1/organizations/acme/keys"
	made := as[wire.Created](t, s.Must(201, s.Owner, "POST", keys, keyBody)).Key
	path := keys + "/" + made.ID
	same := func(what string, k wire.Key, want time.Duration) {
		t.Helper()
		read := as[wire.Key](t, s.Must(200, s.Owner, "GET", keys+"/"+k.ID, ""))
		for _, k := range []wire.Key{k, read} {
			switch {
			case want == 0 && k.RotationDueAt != nil:
				t.Errorf("%s: due at %s", what, k.RotationDueAt)
			case want != 0 && (k.RotationDueAt == nil || !k.RotationDueAt.Equal(k.CreatedAt.Truncate(time.Second).Add(want))):
				t.Errorf("%s: due at %v, created at %s", what, k.RotationDueAt, k.CreatedAt)
			}
		}
	}
	const day = 24 * time.Hour
	same("by default", made, 90*day)
	s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme", `{"policy":{"rotation_due_after":"30d"}}`)
	same("by the policy", as[wire.Key](t, s.Must(200, s.Owner, "PATCH", path, `{"name":"b"}`)), 30*day)
	s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme", `{"policy":{"rotation_due_after":"never"}}`)
	same("never", as[wire.Key](t, s.Must(200, s.Owner, "PATCH", path, `{"name":"c"}`)), 0)
	s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme", `{"policy":{"rotation_due_after":"7d"}}`)
	rotated := as[wire.Rotated](t, s.Must(201, s.Owner, "POST", path+"/rotate", `{"grace":"1h"}`))
	same("the successor", rotated.Key, 7*day)
	same("once it was rotated", rotated.Previous, 0)
	same("once it has ended", as[wire.Changed](t, s.Must(200, s.Owner, "DELETE", keys+"/"+rotated.Key.ID, "")).Key, 0)
	for _, query := range []string{"rotation_due=true", "rotation_due=true&metadata=a%3Db"} {
		if list := as[wire.List[wire.Key]](t, s.Must(200, s.Owner, "GET", keys+"?"+query, "")); len(list.Items) != 0 {
			t.Errorf("%s: %+v", query, list.Items)
		}
	}
}

// A key tells which of its workspaces are there no more, so that whoever looks for
// why it is denied finds it.
func TestKeysTellWhichOfTheirWorkspacesAreGone(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	const base = "/v1/organizations/acme"
	made := as[wire.Created](t, s.Must(201, s.Owner, "POST", base+"/keys", `{"permissions":{"level":"all"},"scope":{"workspaces":["hiring","support"]}}`))
	everywhere := as[wire.Created](t, s.Must(201, s.Owner, "POST", base+"/keys", keyBody))
	for _, step := range []struct {
		deletes string
		want    []string
	}{{"", nil}, {"support", []string{"support"}}, {"hiring", []string{"hiring", "support"}}} {
		if step.deletes != "" {
			s.Must(200, s.Owner, "DELETE", base+"/workspaces/"+step.deletes, "")
		}
		if k := as[wire.Key](t, s.Must(200, s.Owner, "GET", base+"/keys/"+made.Key.ID, "")); !slices.Equal(k.GoneWorkspaces, step.want) {
			t.Errorf("without %q: %v, want %v", step.deletes, k.GoneWorkspaces, step.want)
		}
		if k := as[wire.Key](t, s.Must(200, s.Owner, "GET", base+"/keys/"+everywhere.Key.ID, "")); k.GoneWorkspaces != nil {
			t.Errorf("a key of all workspaces lost %v", k.GoneWorkspaces)
		}
	}
}
