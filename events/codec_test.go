package events

import (
	"testing"

	"github.com/google/uuid"
)

// sample is a fact as a create of an ordinary key makes it.
func sample() (Subject, Event, Meta) {
	id := KeyID(uuid.MustParse("0198c0de-0000-7000-8000-000000000001"))
	org := OrgID("acme")
	meta := Meta{
		ID:     EventID(uuid.MustParse("0198c0de-0000-7000-8000-0000000000e1")),
		Ledger: LedgerID(uuid.MustParse("0198c0de-0000-7000-8000-00000000001d")),
		Time:   1_795_240_000_000_001, RecordedTime: 1_795_240_000_000_002, Revision: 1,
		Actor: Actor{Type: ActorKey, Org: System, Key: id}, Role: RoleOwner, Scope: "*",
		Reason: ClearText("first key of the interview service"), RequestID: "req-1",
		Command: CommandID(uuid.MustParse("0198c0de-0000-7000-8000-0000000000c1")), ConfigPosition: 17,
	}
	e := KeyCreated{
		ID: id, KeyKind: KindAPI, Name: ClearText("interview service"), Prefix: "kl_live", LastFour: "a1B2",
		Digest:      Digest{Alg: SHA256, Value: DigestValue{1, 2, 3}},
		Permissions: Permissions{Level: LevelRestricted, Grants: []string{"interview:read", "interview:start"}},
		Scope:       Scope{Workspaces: []WorkspaceID{"hiring"}}, Profile: "strict", CreatedAt: meta.Time, ExpiresAt: 1_826_776_000_000_000,
		Metadata: Metadata{"team": ClearText("platform")},
	}
	return KeySubject(org, id), e, meta
}

func BenchmarkDecode(b *testing.B) {
	s, e, m := sample()
	body, err := Encode(s, e, m)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Decode(s, body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	s, e, m := sample()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Encode(s, e, m); err != nil {
			b.Fatal(err)
		}
	}
}

func TestShow(t *testing.T) {
	s, e, m := sample()
	body, err := Encode(s, e, m)
	t.Logf("%s %v", body, err)
	_, ev, err := Decode(s, body)
	t.Logf("%+v %v", ev, err)
}
