package api_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/events"
)

// Whoever may read events hears of everything that happens to a provider key, each
// kind by its name, within the walls; of its secret there is ciphertext and no more.
func TestStreamOfProviderKeys(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	furnish(s, "other")
	at := events.TimeOf(time.Now())
	sealed := events.SealedSecret{DataKey: events.DataKeyID{1}, Secret: "c2VhbGVk", LastFour: "Zm91cg"}
	facts := []events.Event{
		events.ProviderKeyAdded{Provider: events.ProviderOpenAI, Version: 1, Sealed: sealed},
		events.ProviderKeyRenamed{Name: events.ClearText("Production")},
		events.ProviderKeyTested{Version: 1, At: at, Result: events.ProviderWorks, Status: 200},
		events.ProviderKeyNewSource{At: at, By: events.KeyID{1}, Source: "00", First: true},
		events.ProviderKeyResolvesSpike{From: at, Resolves: 700, Threshold: 600},
		events.ProviderKeyFailing{Of: events.FailingResolves, Since: at, Failures: 5, Code: "forbidden"},
		events.ProviderKeyReplaced{Version: 2, Sealed: sealed, Replaces: sealed.DataKey},
		events.ProviderKeyRemoved{DataKey: sealed.DataKey},
	}
	var names []string
	for i, e := range facts {
		name, _, _ := strings.Cut(string(e.Kind()), ".v")
		names = append(names, name)
		for _, org := range []events.OrgID{"other", "acme"} {
			_, err := s.Ledger.Append(t.Context(), []events.Entry{{Subject: events.ProviderKeySubject(org, events.ProviderOpenAI), Event: e, Meta: events.Meta{
				ID: events.EventID(uuid.Must(uuid.NewV7())), Ledger: s.Positions.Ledger, Time: at, Revision: events.Revision(i + 1),
				Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: events.CommandID(uuid.New()),
			}}})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	auditor := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", `{"kind":"management","role":"auditor","scope":{"all_workspaces":true}}`))
	all := stream(t, s, auditor.Secret, "?after=0&types="+strings.Join(names, ","))
	for i, name := range names {
		of := `"subject":"` + events.ProviderKeySubject("acme", events.ProviderOpenAI).String() + `"`
		if e := all(); e["event"] != name || !strings.Contains(e["data"], of) || !strings.Contains(e["data"], fmt.Sprintf(`"revision":%d`, i+1)) {
			t.Errorf("%v, want %s of acme", e, name)
		}
		one := stream(t, s, auditor.Secret, "?after=0&types="+name)
		if e := one(); e["event"] != name || !strings.Contains(e["data"], of) {
			t.Errorf("%v, want %s of acme alone", e, name)
		}
	}
}
