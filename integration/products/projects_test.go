package products

import (
	"strings"
	"testing"
)

// A key belongs to a project, which is a workspace here, and is good nowhere else.
func TestP01KeyBelongsToAProject(t *testing.T) {
	w := onOne(t)
	c := w.organization(t)
	made := c.create(obj{"scope": obj{"workspaces": []string{"hiring"}}})
	if got := made.list("key.scope.workspaces"); len(got) != 1 || got[0] != "hiring" {
		t.Errorf("the key belongs to %v", got)
	}
	secret := made.text("secret")
	for workspace, want := range map[string]string{"hiring": "VALID", "research": "OUT_OF_SCOPE", "elsewhere": "OUT_OF_SCOPE"} {
		if v := c.verdict(secret, obj{"permission": "interview:read", "workspace": workspace}); v.text("code") != want {
			t.Errorf("in %s: %s, want %s", workspace, v, want)
		}
		c.verify(want, secret, "--permission", "interview:read", "--workspace", workspace)
	}
	c.refused(422, "unknown_workspace", "POST", "/keys", obj{"permissions": []string{"interview:read"}, "scope": obj{"workspaces": []string{"elsewhere"}}})

	second := c.document("keys", "create", "--permissions", "interview:read", "--workspaces", "research")
	if got := second.list("key.scope.workspaces"); len(got) != 1 || got[0] != "research" {
		t.Errorf("the key belongs to %v", got)
	}
	c.verify("OUT_OF_SCOPE", second.text("secret"), "--permission", "interview:read", "--workspace", "hiring")
	// A project's keys are its own list.
	for workspace, id := range map[string]string{"hiring": made.text("key.id"), "research": second.text("key.id")} {
		if list := c.must(200, "GET", "/keys?kind=api&workspace="+workspace, nil); len(list.list("items")) != 1 || list.text("items.0.id") != id {
			t.Errorf("the keys of %s are %s", workspace, list)
		}
		if ids := strings.Fields(c.cli("keys", "list", "--kind", "api", "--workspace", workspace, "-q")); len(ids) != 1 || ids[0] != id {
			t.Errorf("the keys of %s are %v", workspace, ids)
		}
	}
}
