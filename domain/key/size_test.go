package key

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/catalog"
	"github.com/keyledger/keyledger/events"
)

// large is a wish for a key with as many and as long grants as can be, and
// metadata that is as long.
func large(t *testing.T) (Create, events.Metadata) {
	t.Helper()
	c := simple(t)
	var list []events.CatalogPermission
	c.Permissions.Level = events.LevelRestricted
	for n := range events.MaxGrants {
		name := fmt.Sprintf("%s:%s%03d", strings.Repeat("r", 63), strings.Repeat("a", 60), n)
		list = append(list, events.CatalogPermission{Name: name, Access: events.AccessRead})
		c.Permissions.Grants = append(c.Permissions.Grants, name)
	}
	facts, err := catalog.Decide(catalog.State{}, catalog.Replace{Permissions: list})
	if err != nil {
		t.Fatal(err)
	}
	c.Config.Catalog = catalog.Evolve(catalog.State{}, facts[0])
	metadata := events.Metadata{}
	for n := range events.MaxMetadataEntries {
		metadata[fmt.Sprintf("%s%02d", strings.Repeat("k", 62), n)] = events.ClearText("x" + strings.Repeat("\n", events.MaxMetadataValueLength-2) + "x")
	}
	return c, metadata
}

// No key is built that could never be rotated.
func TestAKeyStaysSmallEnoughToBeRotated(t *testing.T) {
	c, metadata := large(t)
	whole := c
	whole.Metadata = metadata
	if _, err := Decide(State{}, whole); !errors.Is(err, domain.ErrInvalid) || errors.Is(err, events.ErrTooLarge) {
		t.Errorf("it was created: %v", err)
	}
	s := created(t, c)
	update := func(s State, c Create, m events.Metadata) (State, error) {
		facts, err := Decide(s, Update{Now: noon, Config: c.Config, Metadata: domain.Some(m)})
		for _, e := range facts {
			s = Evolve(s, e)
		}
		return s, err
	}
	if _, err := update(s, c, metadata); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("it grew too large: %v", err)
	}
	names := make([]string, 0, len(metadata))
	for name := range metadata {
		names = append(names, name)
	}
	slices.Sort(names)
	refused := 0
	for _, name := range names {
		next, err := update(s, c, events.Metadata{name: metadata[name]})
		if err != nil {
			refused++
			continue
		}
		s = next
	}
	if refused == 0 || refused == len(names) {
		t.Fatalf("%d of %d were refused", refused, len(names))
	}
	// As large as it can be, with the longest envelope.
	facts, err := Decide(s, Rotate{Now: noon, Config: c.Config, Issued: issued(2), Grace: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("\"", 1000)
	meta := events.Meta{
		ID: events.EventID{1}, Ledger: events.LedgerID{1}, Time: noon, RecordedTime: noon, Revision: 1, Command: events.CommandID{1},
		Actor: events.Actor{Type: events.ActorKey, Org: events.OrgID(strings.Repeat("o", 63)), Key: events.KeyID{1}},
		Role:  events.RoleAdmin, Scope: strings.Repeat(strings.Repeat("w", 63)+",", 8) + "+392",
		Reason: events.ClearText(text[:events.MaxReasonLength]), RequestID: text[:events.MaxRequestIDLength],
		ConfigPosition: 1 << 62, Digest: events.CommandDigest{1},
	}
	org := events.OrgID(strings.Repeat("o", 63))
	if _, err := events.Encode(events.KeySubject(org, issued(2).ID), facts[1], meta); err != nil {
		t.Errorf("it cannot be rotated: %v", err)
	}
	// One that is too large from before can still be changed where it does not grow.
	s.Metadata = metadata
	if _, err := Decide(s, Update{Now: noon, Config: c.Config, Status: domain.Some(events.StatusInactive)}); err != nil {
		t.Errorf("it cannot be switched off: %v", err)
	}
	if _, err := Decide(s, Update{Now: noon, Config: c.Config, ClearMetadata: true}); err != nil {
		t.Errorf("it cannot shrink: %v", err)
	}
}
