package api_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
)

// A limit that is set while keys are made: whatever came through counts, and no
// more are made until there is room.
func TestALimitThatIsSetWhileKeysAreMade(t *testing.T) {
	s := apitest.StartEmbedded(t)
	const limit = 20
	for round := range 4 {
		org := fmt.Sprintf("org%d", round)
		s.Must(201, s.Owner, "POST", "/v1/organizations", `{"id":"`+org+`","name":"A"}`)
		path := "/v1/organizations/" + org
		create := func() int {
			return s.Do(s.Owner, "POST", path+"/keys", `{"permissions":{"level":"all"},"scope":{"all_workspaces":true}}`).Status
		}
		active := func() int {
			return len(as[wire.List[wire.Key]](t, s.Must(200, s.Owner, "GET", path+"/keys?kind=api&status=ACTIVE&limit=200", "")).Items)
		}
		var wg sync.WaitGroup
		some := make(chan struct{}, 64)
		for range 8 {
			wg.Go(func() {
				for range 8 {
					create()
					some <- struct{}{}
				}
			})
		}
		for range 4 * (round + 1) {
			<-some
		}
		s.Must(200, s.Owner, "PATCH", path, fmt.Sprintf(`{"limits":{"max_active_keys":%d}}`, limit))
		wg.Wait()
		through := active()
		for range limit {
			create()
		}
		if got := active(); got != max(through, limit) {
			t.Errorf("%d active keys under a limit of %d, of which %d came through", got, limit, through)
		}
	}
}

// Neither a preview nor a refusal tells of keys that the caller does not see.
func TestNobodyLearnsOfKeysBeyondTheirScope(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	const path = "/v1/organizations/acme"
	s.Must(200, s.Owner, "PATCH", path, `{"limits":{"max_active_keys":3}}`)
	admin := as[wire.Created](t, s.Must(201, s.Owner, "POST", path+"/keys", `{"kind":"management","role":"admin","scope":{"workspaces":["hiring"]}}`)).Secret
	for range 2 {
		s.Must(201, s.Owner, "POST", path+"/keys", `{"permissions":{"level":"all"},"scope":{"workspaces":["support"]}}`)
	}
	const mine = `{"permissions":{"level":"all"},"scope":{"workspaces":["hiring"]}}`
	for _, key := range []string{admin, s.Owner} {
		dry := as[wire.DryRun](t, s.Must(200, key, "POST", path+"/keys?dry_run=true", mine))
		if len(dry.Events) != 1 || dry.Events[0].Type != "keyledger.key.created.v1" {
			t.Errorf("%+v", dry)
		}
	}
	s.Must(201, admin, "POST", path+"/keys", mine)
	for key, told := range map[string]bool{admin: false, s.Owner: true} {
		p := problem(t, s.Must(409, key, "POST", path+"/keys", mine))
		if p.Code != "key_limit_reached" || strings.Contains(p.Detail, "3") != told {
			t.Errorf("%+v", p)
		}
	}
}
