package key

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/workspace"
	"github.com/keyledger/keyledger/events"
)

// Whose data a key's texts are is said once, and handed on.
func TestDataSubject(t *testing.T) {
	for given, want := range map[events.DataSubject]string{"": "", "user-4711": "user-4711"} {
		c := simple(t)
		c.DataSubject = given
		s := created(t, c)
		if want == "" {
			want = s.ID.String()
		}
		facts, err := Decide(s, Rotate{Now: noon, Config: c.Config, Issued: Issued{ID: events.KeyID{9}, Prefix: "kl_live"}, Grace: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		next := Evolve(State{}, facts[1])
		if string(s.DataSubject) != want || next.DataSubject != s.DataSubject {
			t.Errorf("%q: it is %q, its successor's %q", given, s.DataSubject, next.DataSubject)
		}
	}
	c := simple(t)
	for _, bad := range []events.DataSubject{"Alice", "a b", "alice@example.com", "-", events.DataSubject(strings.Repeat("a", 64))} {
		c.DataSubject = bad
		if _, err := Decide(State{}, c); !errors.Is(err, domain.ErrInvalid) || strings.Contains(err.Error(), string(bad)+" ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// Where texts are sealed a key is as large as it will be with them.
func TestSealedTextsCountAsSealed(t *testing.T) {
	c, _ := large(t)
	c.Config.Workspaces, c.Scope = map[events.WorkspaceID]workspace.State{}, events.Scope{}
	for i := range 200 {
		id := events.WorkspaceID(fmt.Sprintf("%03d", i) + strings.Repeat("w", events.MaxIDLength-3))
		c.Config.Workspaces[id] = workspace.State{Exists: true, ID: id}
		c.Scope.Workspaces = append(c.Scope.Workspaces, id)
	}
	largest := func(sealing events.Switch) (n int) {
		c.Config.Organization.Policy.Sealing = sealing
		s := created(t, c)
		for n = range events.MaxMetadataEntries + 1 {
			metadata := events.Metadata{}
			for i := range n {
				metadata[strconv.Itoa(i)] = events.ClearText(strings.Repeat("v", events.MaxMetadataValueLength))
			}
			if _, err := Decide(s, Update{Now: noon, Config: c.Config, Metadata: domain.Some(metadata)}); err != nil {
				if !errors.Is(err, domain.ErrInvalid) {
					t.Fatal(err)
				}
				return n - 1
			}
		}
		return n
	}
	clear, sealed := largest(""), largest(events.SwitchOn)
	if sealed >= clear || sealed < clear/3 {
		t.Errorf("%d values fit in clear, %d sealed", clear, sealed)
	}
}
