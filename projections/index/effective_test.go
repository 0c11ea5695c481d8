package index_test

import (
	"slices"
	"testing"

	"github.com/keyledger/keyledger/events"
)

// TestEffective lists what look-ups allow.
func TestEffective(t *testing.T) {
	l := newBook(t)
	l.add(events.OrganizationSubject("acme"), events.OrganizationCreated{ID: "acme"})
	l.add(events.CatalogSubject("acme"), events.CatalogReplaced{Permissions: []events.CatalogPermission{
		{Name: "report:write", Access: events.AccessWrite}, {Name: "doc:read", Access: events.AccessRead}, {Name: "doc:write", Access: events.AccessWrite},
	}})
	for name, c := range map[string]struct {
		p    events.Permissions
		want []string
	}{
		"all":        {events.Permissions{Level: events.LevelAll}, []string{"doc:read", "doc:write", "report:write"}},
		"read only":  {events.Permissions{Level: events.LevelReadOnly}, []string{"doc:read"}},
		"restricted": {events.Permissions{Level: events.LevelRestricted, Grants: []string{"doc:*", "gone:read"}}, []string{"doc:read", "doc:write"}},
		"nothing":    {events.Permissions{}, []string{}},
	} {
		if got := l.index.Effective("acme", c.p); got == nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := l.index.Effective("globex", events.Permissions{Level: events.LevelAll}); got != nil {
		t.Errorf("of an organization that nobody knows: %q", got)
	}
}
