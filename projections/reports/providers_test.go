package reports_test

import (
	"fmt"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/projections/reports"
)

func providerSecret(n byte) events.SealedSecret {
	return events.SealedSecret{DataKey: events.DataKeyID{n}, Secret: "ciphertext", LastFour: "ciphertext"}
}

func (w *world) resolved(org events.OrgID, provider events.ProviderID, answer string, at events.Time) {
	w.record(access.Row{
		Kind: access.ProviderKeyResolved, Org: org, Actor: events.Actor{Type: events.ActorKey, Org: org, Key: keyID(1)}, Role: events.RoleResolver,
		What: string(provider), Answer: answer, Single: fmt.Sprint(len(w.records)),
	}, 1, at)
}

func TestProviderKeys(t *testing.T) {
	w := review(t)
	ops := func(m *events.Meta) { m.Actor = events.Actor{Type: events.ActorKey, Org: acme, Key: keyID(1)} }
	openai, azure := events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeySubject(acme, events.ProviderAzureOpenAI)
	google := events.ProviderKeySubject(acme, events.ProviderGoogle)
	w.add(ago(80), azure, events.ProviderKeyAdded{
		Provider: events.ProviderAzureOpenAI, Version: 1, Name: sealed, BaseURL: "https://acme.openai.azure.com", Sealed: providerSecret(1),
	})
	w.add(ago(70), openai, events.ProviderKeyAdded{Provider: events.ProviderOpenAI, Version: 1, Name: events.ClearText("Research"), Sealed: providerSecret(2)}, ops)
	w.add(ago(60), openai, events.ProviderKeyTested{Version: 1, At: ago(60), Result: events.ProviderWorks, Status: 200})
	w.add(ago(9), openai, events.ProviderKeyReplaced{Version: 2, Sealed: providerSecret(3), Replaces: events.DataKeyID{2}})
	w.add(ago(8), openai, events.ProviderKeyTested{
		Version: 2, At: ago(8), Result: events.ProviderMissingModels, MissingModels: []string{"gpt-5", "o4-mini"}, Status: 200,
	})
	w.add(ago(7), google, events.ProviderKeyAdded{Provider: events.ProviderGoogle, Version: 1, Sealed: providerSecret(4)})
	w.add(ago(6), google, events.ProviderKeyRemoved{DataKey: events.DataKeyID{4}})
	w.add(ago(7), events.ProviderKeySubject(other, events.ProviderGoogle), events.ProviderKeyAdded{Provider: events.ProviderGoogle, Version: 1, Sealed: providerSecret(5)})
	w.resolved(acme, events.ProviderOpenAI, access.AnswerCustomer, ago(3))
	w.resolved(acme, events.ProviderOpenAI, access.AnswerBuiltIn, ago(2))
	w.resolved(other, events.ProviderAzureOpenAI, access.AnswerCustomer, ago(1))
	w.apply()

	never := events.Time(0)
	q := reports.Question{Report: reports.ProviderKeys}
	w.equal(w.ask(q),
		row("azure-openai", sealed, "untested", int64(1), "https://acme.openai.azure.com", ago(80), byTest, never, int64(80), never, "", int64(0), []string(nil), never),
		row("openai", events.ClearText("Research"), "failing", int64(2), "", ago(70), byOps, ago(9), int64(9), ago(8), "missing_models", int64(2),
			[]string{"gpt-5", "o4-mini"}, ago(3)+second),
	)
	// They are of the organization, and of no workspace.
	q.Within = events.Scope{Workspaces: []events.WorkspaceID{"hiring"}}
	w.equal(w.ask(q))
	// What a plan suspends is told so.
	w.add(ago(1), events.OrganizationSubject(acme), events.OrganizationPlanChanged{Plan: events.PlanStarter})
	w.apply()
	q.Within = events.Scope{}
	for _, r := range w.ask(q) {
		if r[2] != "suspended" {
			t.Errorf("%v", r)
		}
	}
}

// To whom provider keys are handed out: management keys of two roles and of all
// workspaces.
func TestAccessReviewTellsWhoMayResolve(t *testing.T) {
	w := newWorld(t)
	w.add(ago(500), events.OrganizationSubject(acme), events.OrganizationCreated{ID: acme, Plan: events.PlanGrowth})
	some := events.Scope{Workspaces: []events.WorkspaceID{"hiring"}}
	want := map[string]bool{}
	for n, k := range []struct {
		kind  events.KeyKind
		role  events.Role
		scope events.Scope
		may   bool
	}{
		{events.KindManagement, events.RoleOwner, everywhere, true},
		{events.KindManagement, events.RoleResolver, everywhere, true},
		{events.KindManagement, events.RoleOwner, some, false},
		{events.KindManagement, events.RoleResolver, some, false},
		{events.KindManagement, events.RoleAdmin, everywhere, false},
		{events.KindManagement, events.RoleMember, everywhere, false},
		{events.KindManagement, events.RoleAuditor, everywhere, false},
		{events.KindManagement, events.RoleVerifier, everywhere, false},
		{events.KindAPI, "", everywhere, false},
	} {
		id := w.create(acme, n+1, 5, func(e *events.KeyCreated) {
			if e.KeyKind, e.Role, e.Scope = k.kind, k.role, k.scope; k.role != "" {
				e.Permissions = events.Permissions{}
			}
		})
		want[id.String()] = k.may
	}
	w.apply()
	rows := w.ask(reports.Question{Report: reports.AccessReview})
	if len(rows) != len(want) {
		t.Fatalf("%d rows", len(rows))
	}
	for _, r := range rows {
		if id, may := r[0].(string), r[len(r)-1].(bool); may != want[id] {
			t.Errorf("role %v in %v: %t", r[3], r[11], may)
		}
	}
}
