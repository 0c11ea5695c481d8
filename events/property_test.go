package events

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func drawID[T ~[16]byte](t *rapid.T, label string) T {
	var out T
	copy(out[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label))
	return out
}

var (
	slugs = rapid.StringMatching(`[a-z0-9][a-z0-9-]{0,62}`)
	orgs  = rapid.OneOf(rapid.Map(slugs, func(s string) OrgID { return OrgID(s) }), rapid.Just(System))
	words = rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z:*"\\<>&]{0,12}`))
	times = rapid.Map(rapid.Int64Range(1, 253402300799999999), func(n int64) Time { return Time(n) })
	maybe = rapid.OneOf(times, rapid.Just(Time(0)))
	// A kind of key that this version does not know is none of the codec's business.
	kindsOfKeys = rapid.OneOf(rapid.SampledFrom([]KeyKind{KindAPI, KindManagement}), rapid.Map(words, func(s string) KeyKind { return KeyKind(s) }))
	texts       = rapid.Custom(func(t *rapid.T) Text {
		if rapid.Bool().Draw(t, "sealed") {
			return Text{Sealed: Sealed{Subject: words.Draw(t, "subject"), Key: "k", Box: words.Draw(t, "box")}}
		}
		return ClearText(words.Draw(t, "text"))
	})
)

func drawMeta(t *rapid.T) Meta {
	m := Meta{
		ID: drawID[EventID](t, "id"), Ledger: drawID[LedgerID](t, "ledger"), Command: drawID[CommandID](t, "command"),
		Time: maybe.Draw(t, "time"), RecordedTime: times.Draw(t, "recorded"),
		Revision: Revision(rapid.Uint32().Draw(t, "revision")), Role: Role(words.Draw(t, "role")),
		Scope: words.Draw(t, "scope"), Reason: texts.Draw(t, "reason"), RequestID: words.Draw(t, "request"),
		ConfigPosition: Position(rapid.Uint64().Draw(t, "config")),
		BatchIndex:     rapid.IntRange(-1, 4).Draw(t, "index"), BatchSize: rapid.IntRange(-1, 4).Draw(t, "size"),
	}
	if rapid.Bool().Draw(t, "caused") {
		m.Causation, m.Digest[3] = drawID[EventID](t, "cause"), 7
	}
	if m.Actor = (Actor{Type: ActorVerifier, Name: slugs.Draw(t, "actor")}); rapid.Bool().Draw(t, "key") {
		m.Actor = Actor{Type: ActorKey, Org: orgs.Draw(t, "actor org"), Key: drawID[KeyID](t, "actor key")}
	}
	return m
}

func drawKey(t *rapid.T) KeyCreated {
	return KeyCreated{
		ID: drawID[KeyID](t, "key"), KeyKind: kindsOfKeys.Draw(t, "kind"), Role: Role(words.Draw(t, "role")),
		Name: texts.Draw(t, "name"), Prefix: words.Draw(t, "prefix"), LastFour: words.Draw(t, "last four"),
		Digest: Digest{Alg: SHA256, PepperID: words.Draw(t, "pepper"), Value: DigestValue(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "digest"))},
		Permissions: Permissions{
			Level:  Level(words.Draw(t, "level")),
			Grants: rapid.SliceOfN(words, 0, 20).Draw(t, "grants"),
		},
		Scope: Scope{
			AllWorkspaces: rapid.Bool().Draw(t, "all"),
			Workspaces:    rapid.SliceOfN(rapid.Map(slugs, func(s string) WorkspaceID { return WorkspaceID(s) }), 0, 4).Draw(t, "workspaces"),
		},
		Profile: ProfileID(words.Draw(t, "profile")), CreatedAt: maybe.Draw(t, "created"), ExpiresAt: maybe.Draw(t, "expires"),
		Metadata:   rapid.MapOfN(words, texts, 0, 4).Draw(t, "metadata"),
		ExternalID: texts.Draw(t, "external"), RotatedFrom: drawID[KeyID](t, "from"),
	}
}

// TestEncodeDecode draws facts at random: what Encode writes, both paths read as
// what was meant, and Encode writes it again to the same bytes.
func TestEncodeDecode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key, meta, org := drawKey(t), drawMeta(t), orgs.Draw(t, "org")
		subject, event := KeySubject(org, key.ID), Event(key)
		switch rapid.IntRange(0, 3).Draw(t, "event") {
		case 0:
			subject, event = RevokedSubject(org, key.ID), KeyRevoked{}
		case 1:
			n := rapid.IntRange(0, 3).Draw(t, "holders")
			holders := make([]KeyID, n)
			for i := range holders {
				holders[i] = drawID[KeyID](t, "holder")
			}
			subject, event = QuotaSubject(org), QuotaChanged{Limit: rapid.Int().Draw(t, "limit"), Holders: holders}
		case 2:
			event = KeyMetadataChanged{Metadata: key.Metadata}
		default:
		}
		body, err := Encode(subject, event, meta)
		if err != nil {
			if meta.check() == nil && whole(event) == nil {
				t.Fatalf("refused a good fact: %v", err)
			}
			return
		}
		for _, c := range []codec{{}, {thorough: true}} {
			meta2, event2, err := c.decode(subject, body)
			if err != nil {
				t.Fatalf("cannot read what was written: %v\n%s", err, body)
			}
			if diff := cmp.Diff(meta, meta2) + cmp.Diff(event, event2, emptyIsNil); diff != "" {
				t.Fatal(diff)
			}
			if again, err := Encode(subject, event2, meta2); err != nil || string(again) != string(body) {
				t.Fatalf("%v\n%s\n%s", err, body, again)
			}
		}
	})
}

var emptyIsNil = cmp.FilterValues(func(a, b any) bool { return empty(a) && empty(b) }, cmp.Comparer(func(_, _ any) bool { return true }))

func empty(v any) bool {
	switch v := v.(type) {
	case []string:
		return len(v) == 0
	case []WorkspaceID:
		return len(v) == 0
	case []KeyID:
		return len(v) == 0
	case Metadata:
		return len(v) == 0
	}
	return false
}

func TestPositionsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Positions{Ledger: drawID[LedgerID](t, "ledger"), Epoch: rapid.Uint32().Draw(t, "epoch")}
		pos := Position(rapid.Uint64().Draw(t, "position"))
		stream := rapid.SampledFrom([]Stream{StreamLedger, StreamUses}).Draw(t, "stream")
		text := p.Format(stream, pos)
		if got, err := p.Parse(stream, text); err != nil || got != pos {
			t.Fatalf("%q gives %d, %v; want %d", text, got, err, pos)
		}
		other := Positions{Ledger: drawID[LedgerID](t, "other"), Epoch: p.Epoch}
		restored := Positions{Ledger: p.Ledger, Epoch: p.Epoch + 1}
		if _, err := other.Parse(stream, text); string(other.Ledger[8:]) != string(p.Ledger[8:]) && !errors.Is(err, ErrInvalidPosition) {
			t.Fatalf("another ledger takes it: %v", err)
		}
		if _, err := restored.Parse(stream, text); !errors.Is(err, ErrInvalidPosition) {
			t.Fatalf("another epoch takes it: %v", err)
		}
		if _, err := p.Parse(3-stream, text); !errors.Is(err, ErrInvalidPosition) {
			t.Fatalf("another stream takes it: %v", err)
		}
	})
}

// TestPositionOfTwin refuses the position of a ledger that began in the same
// instant: its id, a UUIDv7, begins with the same clock.
func TestPositionOfTwin(t *testing.T) {
	a, b := id[LedgerID]("1d"), id[LedgerID]("1e")
	text := Positions{Ledger: a, Epoch: 1}.Format(StreamLedger, 7)
	if pos, err := (Positions{Ledger: b, Epoch: 1}).Parse(StreamLedger, text); !errors.Is(err, ErrInvalidPosition) {
		t.Errorf("%s gives %d, %v", text, pos, err)
	}
}

// TestPositionOneChange tries every change of one character, of texts of every
// length. The checksum is linear, so that what it finds depends on the length
// and the change alone, not on the position.
func TestPositionOneChange(t *testing.T) {
	const alphabet = "0123456789abcdefghjkmnpqrstvwxyzilouAZ.- "
	for _, epoch := range []uint32{1, 200, 1 << 14, 1 << 21, math.MaxUint32} {
		p := Positions{Ledger: id[LedgerID]("1d"), Epoch: epoch}
		for shift := range 10 {
			text := p.Format(StreamLedger, Position(1)<<(7*shift))
			for i := range len(text) {
				for _, c := range []byte(alphabet) {
					if c == text[i] {
						continue
					}
					changed := text[:i] + string(c) + text[i+1:]
					if pos, err := p.Parse(StreamLedger, changed); !errors.Is(err, ErrInvalidPosition) {
						t.Errorf("%s with one change %s gives %d, %v", text, changed, pos, err)
					}
				}
			}
			for i := range text {
				if _, err := p.Parse(StreamLedger, text[:i]); !errors.Is(err, ErrInvalidPosition) {
					t.Errorf("%s cut to %d characters: %v", text, i, err)
				}
			}
		}
	}
}

// TestPositionText pins the form that people have stored.
func TestPositionText(t *testing.T) {
	p := Positions{Ledger: id[LedgerID]("1d"), Epoch: 3}
	const want = "p040r00000000000x0easnvstdqd0"
	if got := p.Format(StreamLedger, 123_456_789); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if pos, err := p.Parse(StreamLedger, want); err != nil || pos != 123_456_789 {
		t.Errorf("got %d, %v", pos, err)
	}
}

// TestPartition pins the formula: every subject ever written holds its result.
func TestPartition(t *testing.T) {
	for org, want := range map[OrgID]uint16{
		"acme": 160, System: 397, "a": 458, "0": 824, "globex": 999, "acme-eu": 872,
	} {
		if got := Partition(org); got != want {
			t.Errorf("organization %s is in partition %d, was in %d", org, got, want)
		}
	}
}

func TestSubjectRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		org, slug, key := orgs.Draw(t, "org"), slugs.Draw(t, "slug"), drawID[KeyID](t, "key")
		s := rapid.SampledFrom([]Subject{
			InstallationSubject(), OrganizationSubject(org), WorkspaceSubject(org, WorkspaceID(slug)),
			CatalogSubject(org), ProfileSubject(org, ProfileID(slug)), QuotaSubject(org),
			KeySubject(org, key), RevokedSubject(org, key), EndSubject(org),
			{Org: org, Aggregate: "future", ID: slug},
			{Org: org, Aggregate: "of_tomorrow", ID: "_" + slug},
		}).Draw(t, "subject")
		text, err := s.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got Subject
		if err := got.UnmarshalText(text); err != nil || got != s {
			t.Fatalf("%s gives %v, %v", text, got, err)
		}
		about, ok := s.Key()
		if want := s.ID == key.String(); ok != want || (ok && about != key) {
			t.Fatalf("%s is about key %s: %t", text, about, ok)
		}
	})
}

// TestSubjectRefuses holds aggregates of a later version to the grammar of
// today's: whoever handles facts by their subjects never meets another text.
func TestSubjectRefuses(t *testing.T) {
	long := strings.Repeat("a", 33)
	for _, rest := range []string{
		"future.", ".a", "future.Bar", "future.b_r", "future.b$r", "future.-a", "future._", "future.__a", "future._-a", "future._A",
		"future.é", "future.a b", "future.*", "future.>", "future.a.b", "future." + strings.Repeat("a", 64), "future._" + strings.Repeat("a", 64),
		"Foo.a", "foo-bar.a", "1st.a", "_foo.a", "foo$.a", "key_x.A B", long + ".a",
		"organization.other", "quota.other", "key.a", "revoked._none", "workspace._a",
	} {
		if s, err := ParseSubject("ledger.0160.acme." + rest); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s is read as %v, %v", rest, s, err)
		}
	}
	for _, rest := range []string{"future.a", "f.0", "f_2.a-b", "future." + id[KeyID]("02").String(), long[1:] + ".a", "future._all", "future." + strings.Repeat("a", 63)} {
		if _, err := ParseSubject("ledger.0160.acme." + rest); err != nil {
			t.Errorf("%s: %v", rest, err)
		}
		if _, err := ParseSubject("ledger.0161.acme." + rest); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s in a foreign partition: %v", rest, err)
		}
	}
}

func TestTimeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := maybe.Draw(t, "time")
		text, err := at.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got Time
		if err := got.UnmarshalText(text); err != nil || got != at || got.String() != string(text) {
			t.Fatalf("%s gives %d, %v; want %d", text, got, err, at)
		}
		if back := TimeOf(at.Std()); back != at {
			t.Fatalf("%d becomes %d by package time", at, back)
		}
		if len(text) > 0 {
			if std, err := time.Parse(time.RFC3339Nano, string(text)); err != nil || TimeOf(std) != at {
				t.Fatalf("package time reads %s as %v, %v", text, std, err)
			}
		}
	})
}

// TestTimeRefuses compares with package time on texts near the right form.
func TestTimeRefuses(t *testing.T) {
	digits := rapid.StringMatching(`(19[67][0-9]|20[0-9]{2})-[01][0-9]-[0-3][0-9]T[012][0-9]:[0-6][0-9]:[0-6][0-9]\.[0-9]{6}Z`)
	rapid.Check(t, func(t *rapid.T) {
		text := digits.Draw(t, "text")
		std, err := time.Parse(timeLayout, text)
		good := err == nil && std.Year() >= 1970 && std.UnixMicro() != 0
		var got Time
		if err := got.UnmarshalText([]byte(text)); (err == nil) != good || (good && got != TimeOf(std)) {
			t.Fatalf("%s gives %d, %v; package time says %v", text, got, err, std)
		}
	})
	var got Time
	if err := got.UnmarshalText([]byte("1970-01-01T00:00:00.000000Z")); !errors.Is(err, ErrMalformed) {
		t.Errorf("the instant that means none is read: %v", err)
	}
	for _, bad := range []Time{-1, 253402300800000000} {
		if text, err := bad.MarshalText(); err == nil {
			t.Errorf("%d is written as %s", bad, text)
		}
	}
}
