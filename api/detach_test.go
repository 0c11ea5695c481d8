package api_test

import (
	"strings"
	"testing"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
)

// A refusal names a few of the keys that have a profile; force detaches all of
// them, and its dry run shows as much.
func TestDeletingAProfileByForceReachesEveryKey(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	const path = "/v1/organizations/acme"
	const keys = 25
	for range keys {
		s.Must(201, s.Owner, "POST", path+"/keys", `{"permissions":{"level":"all"},"scope":{"all_workspaces":true},"profile":"gold"}`)
	}
	p := problem(t, s.Must(409, s.Owner, "DELETE", path+"/profiles/gold", ""))
	if p.Code != "in_use" || !strings.Contains(p.Detail, "25 keys") || !strings.Contains(p.Detail, "and 15 more") {
		t.Errorf("%+v", p)
	}
	dry := as[wire.DryRun](t, s.Must(200, s.Owner, "DELETE", path+"/profiles/gold?force=true&dry_run=true", ""))
	if len(dry.Events) != keys+1 {
		t.Errorf("%d events are previewed, %d would be appended", len(dry.Events), keys+1)
	}
	s.Must(200, s.Owner, "DELETE", path+"/profiles/gold?force=true", "")
	list := as[wire.List[wire.Key]](t, s.Must(200, s.Owner, "GET", path+"/keys?limit=200", ""))
	for _, k := range list.Items {
		if k.Profile != nil {
			t.Errorf("%s has it still", k.ID)
		}
	}
	if len(list.Items) != keys {
		t.Errorf("%d keys", len(list.Items))
	}
}
