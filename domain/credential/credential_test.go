package credential

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

const label = events.ScopeLabel("00112233445566778899aabbccddeeff")

func verifier() events.CredentialIssued {
	return events.CredentialIssued{Name: "edge", For: events.CredentialVerifier, Account: "A"}
}

func TestLife(t *testing.T) {
	var s State
	if _, err := Decide(s, Revoke{}); !errors.Is(err, domain.ErrNotFound) {
		t.Fatalf("revoked what is not there: %v", err)
	}
	narrow := verifier()
	narrow.Organizations, narrow.Scope, narrow.MaxStaleness = []events.OrgID{"b", "a"}, label, 30
	facts, err := Decide(s, Issue{narrow})
	if err != nil || len(facts) != 1 {
		t.Fatalf("issue: %v %v", facts, err)
	}
	s = Evolve(s, facts[0])
	if diff := cmp.Diff([]events.OrgID{"a", "b"}, s.Issued.Organizations); diff != "" {
		t.Error(diff)
	}
	// The same again is the same, in whatever order, and with a label drawn anew.
	again := narrow
	again.Organizations, again.Scope = []events.OrgID{"b", "a"}, "ffeeddccbbaa99887766554433221100"
	if facts, err := Decide(s, Issue{again}); err != nil || len(facts) != 0 {
		t.Errorf("issued again: %v %v", facts, err)
	}
	for name, change := range map[string]func(*events.CredentialIssued){
		"another account": func(c *events.CredentialIssued) { c.Account = "B" },
		"wider":           func(c *events.CredentialIssued) { c.Organizations, c.Scope = nil, "" },
		"another purpose": func(c *events.CredentialIssued) { c.For, c.MaxStaleness = events.CredentialAuditor, 0 },
		"another mirror":  func(c *events.CredentialIssued) { c.Mirror = "west" },
		"another place":   func(c *events.CredentialIssued) { c.Leaf = "shop" },
		"another age":     func(c *events.CredentialIssued) { c.MaxStaleness = 60 },
	} {
		other := narrow
		change(&other)
		if _, err := Decide(s, Issue{other}); !errors.Is(err, domain.ErrExists) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if facts, err = Decide(s, Revoke{}); err != nil || len(facts) != 1 {
		t.Fatalf("revoke: %v %v", facts, err)
	}
	s = Evolve(s, facts[0])
	if facts, err := Decide(s, Revoke{}); err != nil || len(facts) != 0 {
		t.Errorf("revoked again: %v %v", facts, err)
	}
	if _, err := Decide(s, Issue{narrow}); !errors.Is(err, domain.ErrEnded) {
		t.Errorf("a name was used again: %v", err)
	}
}

func TestRefuses(t *testing.T) {
	var many []events.OrgID
	for i := range events.MaxCredentialOrganizations + 1 {
		many = append(many, events.OrgID(fmt.Sprint("org-", i)))
	}
	for name, change := range map[string]func(*events.CredentialIssued){
		"no name":        func(c *events.CredentialIssued) { c.Name = "" },
		"a name of two":  func(c *events.CredentialIssued) { c.Name = "a.b" },
		"a server's":     func(c *events.CredentialIssued) { c.Name = "server-01abcdef" },
		"a wildcard":     func(c *events.CredentialIssued) { c.Name = "*" },
		"no purpose":     func(c *events.CredentialIssued) { c.For = "" },
		"no account":     func(c *events.CredentialIssued) { c.Account = "" },
		"no id":          func(c *events.CredentialIssued) { c.Organizations, c.Scope = []events.OrgID{">"}, label },
		"installation's": func(c *events.CredentialIssued) { c.Organizations, c.Scope = []events.OrgID{events.System}, label },
		"one twice":      func(c *events.CredentialIssued) { c.Organizations, c.Scope = []events.OrgID{"a", "b", "a"}, label },
		"too many":       func(c *events.CredentialIssued) { c.Organizations, c.Scope = many, label },
		"label for all":  func(c *events.CredentialIssued) { c.Scope = label },
		"no label":       func(c *events.CredentialIssued) { c.Organizations = []events.OrgID{"a"} },
		"too fresh":      func(c *events.CredentialIssued) { c.MaxStaleness = 1 },
		"negative":       func(c *events.CredentialIssued) { c.MaxStaleness = -30 },
		"too stale":      func(c *events.CredentialIssued) { c.MaxStaleness = 90_000 },
		"no mirror":      func(c *events.CredentialIssued) { c.Mirror = "a.b" },
		"no leaf":        func(c *events.CredentialIssued) { c.Leaf = ">" },
		"both":           func(c *events.CredentialIssued) { c.Mirror, c.Leaf = "west", "shop" },
		"mirror auditor": func(c *events.CredentialIssued) { c.For, c.Mirror = events.CredentialAuditor, "west" },
		"leaf auditor":   func(c *events.CredentialIssued) { c.For, c.Leaf = events.CredentialAuditor, "shop" },
		"narrow leaf": func(c *events.CredentialIssued) {
			c.For, c.Organizations, c.Scope = events.CredentialLeaf, []events.OrgID{"a"}, label
		},
		"stale auditor": func(c *events.CredentialIssued) { c.For, c.MaxStaleness = events.CredentialAuditor, 30 },
	} {
		c := verifier()
		change(&c)
		if facts, err := Decide(State{}, Issue{c}); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%s: %v, %v", name, facts, err)
		}
	}
}
