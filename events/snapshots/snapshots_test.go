package snapshots

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/keyledger/events"
)

func manifest() Manifest {
	return Manifest{
		Ledger: events.LedgerID{1}, Scope: "0123456789abcdef0123456789abcdef", Organizations: []events.OrgID{"acme", "globex"},
		Position: 7, Stored: events.TimeOf(time.Unix(1, 0)), Projection: 1, Size: ChunkBytes + 1, Digest: events.DigestValue{2}, Chunks: 2,
		Side: "Zq9", CreatedAt: events.TimeOf(time.Unix(2, 0)), Signature: "— keyledger x\n",
	}
}

func TestManifestComesBackAsItWasWritten(t *testing.T) {
	m := manifest()
	body, err := Encode(&m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(m.Ledger, m.Scope, body)
	if err != nil || !cmp.Equal(got, m) {
		t.Fatal(cmp.Diff(m, got), err)
	}
	for _, other := range []struct {
		ledger events.LedgerID
		scope  events.ScopeLabel
	}{{events.LedgerID{9}, m.Scope}, {m.Ledger, ""}} {
		if _, err := Decode(other.ledger, other.scope, body); !errors.Is(err, ErrMalformed) {
			t.Errorf("%v %q: %v", other.ledger, other.scope, err)
		}
	}
}

func TestWhatIsNoManifest(t *testing.T) {
	for says, spoil := range map[string]func(*Manifest){
		"ledger":        func(m *Manifest) { m.Ledger = events.LedgerID{} },
		"scope":         func(m *Manifest) { m.Scope = "" },
		"organizations": func(m *Manifest) { m.Organizations = []events.OrgID{"globex", "acme"} },
		"position":      func(m *Manifest) { m.Position = 0 },
		"stored":        func(m *Manifest) { m.Stored = 0 },
		"projection":    func(m *Manifest) { m.Projection = 0 },
		"size":          func(m *Manifest) { m.Size = MaxBytes + 1 },
		"chunks":        func(m *Manifest) { m.Chunks = 3 },
		"side":          func(m *Manifest) { m.Side = "../c" },
		"created_at":    func(m *Manifest) { m.CreatedAt = 0 },
	} {
		m := manifest()
		spoil(&m)
		if _, err := Encode(&m); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}

// TestSignatureIsOverEverything: but for where it lies, and itself.
func TestSignatureIsOverEverything(t *testing.T) {
	m := manifest()
	text := m.Text()
	for name, change := range map[string]func(*Manifest){
		"ledger":        func(m *Manifest) { m.Ledger[0]++ },
		"scope":         func(m *Manifest) { m.Scope = "" },
		"organizations": func(m *Manifest) { m.Organizations = m.Organizations[:1] },
		"position":      func(m *Manifest) { m.Position++ },
		"stored":        func(m *Manifest) { m.Stored++ },
		"projection":    func(m *Manifest) { m.Projection++ },
		"size":          func(m *Manifest) { m.Size++ },
		"digest":        func(m *Manifest) { m.Digest[0]++ },
		"chunks":        func(m *Manifest) { m.Chunks++ },
		"created_at":    func(m *Manifest) { m.CreatedAt++ },
	} {
		other := manifest()
		change(&other)
		if other.Text() == text {
			t.Errorf("%s is not signed", name)
		}
	}
}

func FuzzDecode(f *testing.F) {
	m := manifest()
	body, err := Encode(&m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := Decode(m.Ledger, m.Scope, body)
		if err != nil {
			return
		}
		if _, err := Encode(&got); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
	})
}

func TestParseChunk(t *testing.T) {
	for _, scope := range []events.ScopeLabel{"", "00ff"} {
		if side, n, ok := ParseChunk(scope, ChunkSubject(scope, "Zq9", 17)); !ok || side != "Zq9" || n != 17 {
			t.Errorf("%q %d %v", side, n, ok)
		}
		token := ScopeToken(scope)
		for _, bad := range []string{
			"", ManifestSubject(scope), ChunkSubject("beef", "a", 1), "snapshots." + token + ".a.+1", "snapshots." + token + ".a.01",
			"snapshots." + token + ".a.-1", "snapshots." + token + ".a.1.2", "snapshots." + token + "..1", "snapshots." + token + ".a/b.1",
			ChunkSubject(scope, strings.Repeat("a", 33), 1), ChunkSubject(scope, "a", MaxBytes/ChunkBytes),
		} {
			if side, n, ok := ParseChunk(scope, bad); ok {
				t.Errorf("%s: %q %d", bad, side, n)
			}
		}
	}
}
