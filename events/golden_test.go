package events

import (
	"bytes"
	"flag"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

var update = flag.Bool("update", false, "write the goldens that are missing; one that exists is never written again")

// id returns a UUID that ends in two given digits.
func id[T ~[16]byte](last string) T {
	return T(uuid.MustParse("0198c0de-0000-7000-8000-0000000000" + last))
}

var (
	acme   = OrgID("acme")
	sealed = Text{Sealed: Sealed{Subject: "subject-1", Key: "seal-1", Box: "c2VhbGVkIGFuZCDDvHRmLTg="}}
)

// plainMeta is an envelope with everything that an ordinary wish sets.
func plainMeta() Meta {
	return Meta{
		ID: id[EventID]("e1"), Ledger: id[LedgerID]("1d"),
		Time: 1_795_240_000_000_001, RecordedTime: 1_795_240_000_000_002, Revision: 1,
		Actor: Actor{Type: ActorKey, Org: System, Key: id[KeyID]("01")}, Role: RoleOwner, Scope: "*",
		Reason: ClearText("first key of the interview service"), RequestID: "req-1",
		Command: id[CommandID]("c1"), Digest: CommandDigest{0xc0, 31: 0xde}, ConfigPosition: 17,
	}
}

// bareMeta is an envelope with nothing that may be left out.
func bareMeta() Meta {
	m := plainMeta()
	return Meta{
		ID: m.ID, Ledger: m.Ledger, Time: m.Time, RecordedTime: m.RecordedTime, Revision: math.MaxInt32,
		Actor: Actor{Type: ActorSystem, Name: "sweeper"}, Command: m.Command,
	}
}

// plainKey is an ordinary key.
func plainKey() KeyCreated {
	return KeyCreated{
		ID: id[KeyID]("02"), KeyKind: KindAPI, Name: ClearText("interview service"), Prefix: "kl_live", LastFour: "a1B2",
		Digest:      Digest{Alg: SHA256, Value: DigestValue{1, 2, 3, 31: 0xff}},
		Permissions: Permissions{Level: LevelRestricted, Grants: []string{"interview:read", "interview:start"}},
		Scope:       Scope{Workspaces: []WorkspaceID{"hiring"}}, Profile: "strict",
		CreatedAt: 1_795_240_000_000_001, ExpiresAt: 1_826_776_000_000_000,
		Metadata: Metadata{"team": ClearText("platform")},
	}
}

// sealedSecret is a provider key's secret as it is stored.
func sealedSecret() SealedSecret {
	return SealedSecret{DataKey: DataKeyID{1, 15: 0xff}, Secret: "AWhlcmUgaXMgYSBzZWNyZXQ", LastFour: "AWhlcmU"}
}

// fact is one golden: its file is called after the kind and, for a variant, what
// is special about it.
type fact struct {
	variant string
	subject Subject
	event   Event
	meta    Meta
}

func (f fact) name() string {
	if f.variant == "" {
		return string(f.event.Kind())
	}
	return string(f.event.Kind()) + "." + f.variant
}

// facts returns the fact of every golden, of every kind at least one.
func facts() []fact {
	meta, key := plainMeta(), KeySubject(acme, id[KeyID]("02"))
	at := func(s Subject, e Event) fact { return fact{subject: s, event: e, meta: meta} }
	org, ws, profile := OrganizationSubject(acme), WorkspaceSubject(acme, "hiring"), ProfileSubject(acme, "strict")
	provider, secret := ProviderKeySubject(acme, ProviderOpenAI), sealedSecret()
	settings := Document(`{"model":"small","retries":3,"nested":{"on":true,"none":null,"list":[1.5,"two"]}}`)
	return append(variants(),
		at(InstallationSubject(), InstallationCreated{Ledger: meta.Ledger, Epoch: 1}),
		at(InstallationSubject(), InstallationSignerAdded{
			Name: "keyledger", VerifierKey: "keyledger+0f2c5a1b+AUGbrGeVcCV1pAzYHLNlSbrbRL5sLbG8sDAK6a0eMwhM",
		}),
		at(CredentialSubject("edge-1"), CredentialIssued{
			Name: "edge-1", For: CredentialVerifier, Organizations: []OrgID{"acme", "globex"},
			Account: "ACVLKBHXW4TCDB6U5U6RU4WBQ27WOSOHAP3YMZEJ7J43HLXYFTJW3YGZ", Scope: "000102030405060708090a0b0c0d0e0f", MaxStaleness: 15,
		}),
		at(CredentialSubject("edge-1"), CredentialRevoked{}),
		at(TickSubject(), Tick{
			At: 1_795_240_000_000_001, Through: 41, Digest: DigestValue{7, 31: 9},
			Scopes:    []TickScope{{Scope: "000102030405060708090a0b0c0d0e0f", Count: 12, Digest: DigestValue{1, 31: 2}}},
			Signature: "\u2014 keyledger DyxaG0FhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYQ==",
		}),
		at(org, OrganizationCreated{
			ID: acme, Name: ClearText("Acme Ltd"), Plan: PlanGrowth,
			Limits: Limits{MaxActiveKeys: 100, MaxKeyLifetime: "1y"},
			Policy: Policy{DefaultPrefix: "acme_live", DefaultExpiresIn: "90d", RotationDueAfter: "6mo"},
		}),
		at(org, OrganizationRenamed{Name: ClearText("Acme & Söhne <GmbH>")}),
		at(org, OrganizationPlanChanged{Plan: PlanEnterprise}),
		at(org, OrganizationLimitsChanged{Limits: Limits{MaxActiveKeys: 1000}}),
		at(org, OrganizationPolicyChanged{Policy: Policy{DefaultExpiresIn: "never"}}),
		at(EndSubject(acme), OrganizationDeleted{}),
		at(ws, WorkspaceCreated{ID: "hiring", Name: ClearText("Hiring")}),
		at(ws, WorkspaceRenamed{Name: ClearText("Recruiting")}),
		at(ws, WorkspaceDeleted{}),
		at(CatalogSubject(acme), CatalogReplaced{Permissions: []CatalogPermission{
			{Name: "interview:read", Access: AccessRead, Description: "Read interviews", Routes: []string{"GET /interviews/{id}"}},
			{Name: "interview:start", Access: AccessWrite},
		}}),
		at(profile, ProfileCreated{ID: "strict", Name: ClearText("Strict"), Settings: settings}),
		at(profile, ProfileRenamed{Name: ClearText("Very strict")}),
		at(profile, ProfileSettingsChanged{Settings: Document(`{}`)}),
		at(profile, ProfileDeleted{}),
		at(QuotaSubject(acme), QuotaChanged{Limit: 2, Holders: []KeyID{id[KeyID]("01"), id[KeyID]("02")}}),
		at(key, plainKey()),
		at(key, KeyRenamed{Name: ClearText("interviews")}),
		at(key, KeyPermissionsChanged{Permissions: Permissions{Level: LevelReadOnly}}),
		at(key, KeyScopeChanged{Scope: Scope{AllWorkspaces: true}}),
		at(key, KeyProfileChanged{Profile: "lenient"}),
		at(key, KeyMetadataChanged{Metadata: Metadata{"a": ClearText("1"), "b": ClearText(""), "é": ClearText("3")}}),
		at(key, KeyDisabled{}),
		at(key, KeyEnabled{}),
		at(key, KeyExpiryChanged{ExpiresAt: 1_826_776_000_000_000}),
		at(key, KeyRotated{Successor: id[KeyID]("03"), GraceEndsAt: 1_795_326_400_000_000}),
		at(key, KeyGraceChanged{GraceEndsAt: 1_795_243_600_000_000}),
		at(key, KeyExpiring{ExpiresAt: 1_826_776_000_000_000, Notice: "14d"}),
		at(key, KeyRotationDue{DueAt: 1_803_016_000_000_000, After: "90d"}),
		at(key, KeyNewSource{
			At: 1_795_240_000_000_001, Code: CodeOutOfScope, Verifier: "edge-1", By: SourceClientIP, Source: "000102030405060708090a0b0c0d0e0f",
		}),
		at(key, KeyDenialsSpike{From: 1_795_240_020_000_000, Denials: 23, Threshold: 20}),
		at(key, KeyExpired{ExpiredAt: 1_826_776_000_000_000}),
		at(RevokedSubject(acme, id[KeyID]("02")), KeyRevoked{}),
		at(provider, ProviderKeyAdded{Provider: ProviderOpenAI, Version: 1, Name: ClearText("Research"), Sealed: secret}),
		at(provider, ProviderKeyReplaced{Version: 2, Sealed: secret, Replaces: DataKeyID{15: 1}}),
		at(provider, ProviderKeyRenamed{Name: ClearText("Production")}),
		at(provider, ProviderKeyTested{Version: 2, At: 1_795_240_000_000_001, Result: ProviderWorks, Status: 200}),
		at(provider, ProviderKeyRemoved{DataKey: secret.DataKey}),
		at(provider, ProviderKeyNewSource{At: 1_795_240_000_000_001, By: id[KeyID]("04"), Source: "000102030405060708090a0b0c0d0e0f"}),
		at(provider, ProviderKeyResolvesSpike{From: 1_795_240_020_000_000, Resolves: 612, Threshold: 600}),
		at(provider, ProviderKeyFailing{Of: FailingTests, Since: 1_795_240_000_000_001, Failures: 3, Code: string(ProviderInvalid)}),
		at(ErasureSubject(acme, "user-4711"), SubjectErased{Keys: []string{"000102030405060708090a0b0c0d0e0f"}}),
		at(RetentionSubject(acme), UsesDropped{Before: 1_795_132_800_000_000, Through: 1204, Days: []UsesDay{
			{Day: 1_795_046_400_000_000, Code: "EXPIRED", Uses: 2}, {Day: 1_795_046_400_000_000, Code: "VALID", Uses: 1201},
		}}),
	)
}

// variants are facts in forms that an ordinary one does not show.
func variants() []fact {
	key := KeySubject(acme, id[KeyID]("02"))
	sealedKey, sealedMeta := plainKey(), plainMeta()
	sealedKey.Name, sealedKey.ExternalID, sealedKey.Metadata = sealed, sealed, Metadata{"owner": sealed}
	sealedMeta.Reason = sealed

	peppered := plainKey()
	peppered.Digest.Alg, peppered.Digest.PepperID = HMACSHA256, "pepper-1"

	manager := plainKey()
	manager.ID = id[KeyID]("04")
	manager.KeyKind, manager.Role, manager.RotatedFrom = KindManagement, RoleAuditor, id[KeyID]("02")
	manager.Scope, manager.Permissions = Scope{AllWorkspaces: true}, Permissions{}

	imported := plainKey()
	imported.Digest.Alg, imported.Prefix, imported.LastFour, imported.Imported = PrefixShortLong, "acme_BRTRKFsL", "", true

	personal, ticketed := plainKey(), plainMeta()
	personal.DataSubject, ticketed.Ticket = "user-4711", "CHG-1042 <https://tickets.example/1042>"

	least := KeyCreated{
		ID: id[KeyID]("02"), KeyKind: KindAPI, Digest: Digest{Alg: SHA256},
		Permissions: Permissions{Level: LevelRestricted}, CreatedAt: 1_795_240_000_000_001,
	}

	batch := plainMeta()
	batch.Revision, batch.BatchIndex, batch.BatchSize = 7, 2, 3
	quoted := plainMeta()
	quoted.Reason = ClearText("said \"no\" \\ then </script> \u2028 日本 \U0001F511")
	caused := plainMeta()
	caused.Causation, caused.Actor = id[EventID]("e0"), Actor{Type: ActorVerifier, Name: "edge-1"}

	return []fact{
		{"sealed", key, sealedKey, sealedMeta},
		{"pepper", key, peppered, plainMeta()},
		{"management", KeySubject(System, manager.ID), manager, plainMeta()},
		{"imported", key, imported, plainMeta()},
		{"least", key, least, bareMeta()},
		{"personal", key, personal, ticketed},
		{"private", OrganizationSubject(acme), OrganizationPolicyChanged{Policy: Policy{Sealing: SwitchOn, UsesRetention: "90d"}}, plainMeta()},
		{"stream", StreamRetentionSubject(), UsesDropped{Before: 1_795_132_800_000_000, Through: 1204, Blocks: 1204}, bareMeta()},
		{"batch", key, KeyRotated{Successor: id[KeyID]("03"), GraceEndsAt: 1_795_240_000_000_001}, batch},
		{"quoted", key, KeyRenamed{Name: ClearText("tab\t \"line\"\n \\ \b\f\r\x01 \x7f \u2028 \U0001F511")}, quoted},
		{"caused", key, KeyExpired{ExpiredAt: 1}, caused},
		{"bare", RevokedSubject(acme, id[KeyID]("02")), KeyRevoked{}, bareMeta()},
		{"never", key, KeyExpiryChanged{}, plainMeta()},
		{"detached", key, KeyProfileChanged{}, plainMeta()},
		{"empty", key, KeyMetadataChanged{}, plainMeta()},
		{"empty", QuotaSubject(acme), QuotaChanged{}, plainMeta()},
		{"empty", CatalogSubject(acme), CatalogReplaced{}, plainMeta()},
		{"notices", OrganizationSubject(acme), OrganizationPolicyChanged{Policy: Policy{ExpiryNotices: []Period{"14d", "1d"}}}, plainMeta()},
		{"strict", OrganizationSubject(acme), OrganizationPolicyChanged{Policy: Policy{
			MaxKeyLifetime: "1y", ExpiryRequired: true, ExpiryChoices: []Period{"30d", "90d"}, NameRequired: true,
			Signals: Signals{NewSource: SwitchOff, DenialsSpike: SwitchOn, DenialsPerMinute: 50},
		}}, plainMeta()},
		{"elsewhere", ProviderKeySubject(acme, ProviderAzureOpenAI), ProviderKeyAdded{
			Provider: ProviderAzureOpenAI, Version: 3, BaseURL: "https://acme.openai.azure.com", Sealed: sealedSecret(),
		}, plainMeta()},
		{"elsewhere", ProviderKeySubject(acme, ProviderAzureOpenAI), ProviderKeyReplaced{
			Version: 4, BaseURL: "https://acme-eu.openai.azure.com", Sealed: sealedSecret(), Replaces: DataKeyID{7},
		}, plainMeta()},
		{"nameless", ProviderKeySubject(acme, ProviderOpenAI), ProviderKeyRenamed{}, plainMeta()},
		{"missing", ProviderKeySubject(acme, ProviderOpenAI), ProviderKeyTested{
			Version: 2, At: 1, Result: ProviderMissingModels, MissingModels: []string{"gpt-5", "o4-mini"}, Status: 200,
		}, plainMeta()},
		{"first", ProviderKeySubject(acme, ProviderOpenAI), ProviderKeyNewSource{At: 1, By: id[KeyID]("04"), Source: "00", First: true}, bareMeta()},
		{"quiet", TickSubject(), Tick{At: 1, Through: 3, Signature: "x"}, bareMeta()},
		{"leaf", CredentialSubject("edge-3"), CredentialIssued{Name: "edge-3", For: CredentialVerifier, Account: "A", Leaf: "shop"}, plainMeta()},
		{"mirror", CredentialSubject("edge-2"), CredentialIssued{Name: "edge-2", For: CredentialVerifier, Account: "A", Mirror: "west"}, plainMeta()},
		{"everything", CredentialSubject("auditor"), CredentialIssued{Name: "auditor", For: CredentialAuditor, Account: "A"}, bareMeta()},
		{"unlimited", OrganizationSubject(acme), OrganizationLimitsChanged{}, plainMeta()},
	}
}

const goldens = "testdata/golden"

func golden(t testing.TB, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(goldens, name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// TestGoldens holds every kind to the bytes it was first written with. A golden
// that fails here tells of a change that would make stored facts unreadable: the
// code is wrong then, never the golden.
func TestGoldens(t *testing.T) {
	known := map[string]bool{"unknown": true, "unknown.bears": true, "upcast": true}
	seen := map[Kind]bool{}
	for _, f := range facts() {
		known[f.name()], seen[f.event.Kind()] = true, true
		t.Run(f.name(), func(t *testing.T) {
			body, err := Encode(f.subject, f.event, f.meta)
			if err != nil {
				t.Fatal(err)
			}
			create(t, f.name(), body)
			stored := golden(t, f.name())
			if !bytes.Equal(body, stored) {
				t.Fatalf("a fact is written otherwise than it was:\n now  %s\n then %s", body, stored)
			}
			for _, c := range []codec{{}, {thorough: true}} {
				meta, event, err := c.decode(f.subject, stored)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(f.event, event); diff != "" {
					t.Error("fact:", diff)
				}
				if diff := cmp.Diff(f.meta, meta); diff != "" {
					t.Error("envelope:", diff)
				}
			}
		})
	}
	for _, k := range Kinds() {
		if !seen[k] {
			t.Errorf("kind %s has no golden", k)
		}
	}
	files, err := os.ReadDir(goldens)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !known[strings.TrimSuffix(file.Name(), ".json")] {
			t.Errorf("golden %s is read by no test: what was written once is read for ever", file.Name())
		}
	}
}

// create writes a golden that is missing, when asked to, and no other.
func create(t *testing.T, name string, body []byte) {
	t.Helper()
	path := filepath.Join(goldens, name+".json")
	if _, err := os.Stat(path); !*update || err == nil {
		return
	}
	if err := os.WriteFile(path, body, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestGoldenUnknown reads facts that a later version could have written.
func TestGoldenUnknown(t *testing.T) {
	subject := KeySubject(acme, id[KeyID]("02"))
	for name, want := range map[string]Unknown{
		"unknown":       {Name: "key.praised.v1", Data: Document(`{"by":"everyone","times":[1,2.50]}`)},
		"unknown.bears": {Name: "key.restricted_further.v2", Bears: true, Data: Document(`{"only":"on sundays"}`)},
	} {
		h := header{meta: plainMeta(), kind: want.Name, bears: want.Bears, data: want.Data}
		body, err := appendEnvelope(nil, subject, &h)
		if err != nil {
			t.Fatal(err)
		}
		create(t, name, body)
		stored := golden(t, name)
		if !bytes.Equal(body, stored) {
			t.Errorf("%s is written otherwise:\n now  %s\n then %s", name, body, stored)
		}
		meta, event, err := Decode(subject, stored)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(Event(want), event); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(plainMeta(), meta); diff != "" {
			t.Error(diff)
		}
		if Bears(event) != want.Bears {
			t.Errorf("%s bears on verdicts: %t", name, Bears(event))
		}
	}
}

// TestProfileBears tells whatever is in a verdict: its profile's name is, and
// whoever keeps to what bears on verdicts must hear of a new one.
func TestProfileBears(t *testing.T) {
	for _, e := range []Event{ProfileCreated{}, ProfileRenamed{}, ProfileSettingsChanged{}, ProfileDeleted{}} {
		if !Bears(e) {
			t.Errorf("%s does not bear on verdicts", e.Kind())
		}
	}
}

// TestWriterMatchesStruct holds the envelope that is written by hand to the one
// that is declared.
func TestWriterMatchesStruct(t *testing.T) {
	for _, f := range facts() {
		body := golden(t, f.name())
		var env envelope
		if err := json.Unmarshal(body, &env, decodeOptions); err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(env, encodeOptions)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again, body) {
			t.Errorf("%s:\n by hand   %s\n by struct %s", f.name(), body, again)
		}
	}
}

// TestCloudEvents holds every golden to CloudEvents 1.0, by the eyes of its own
// SDK and by the rules of its section on the type system and naming.
// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md
func TestCloudEvents(t *testing.T) {
	files, err := filepath.Glob(goldens + "/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no goldens", err)
	}
	attribute := regexp.MustCompile(`^[a-z0-9]{1,20}$`)
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var e cloudevents.Event
		if err := e.UnmarshalJSON(body); err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if err := e.Validate(); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		members := map[string]jsontext.Value{}
		if err := json.Unmarshal(body, &members); err != nil {
			t.Fatal(err)
		}
		if e.SpecVersion() != "1.0" || !strings.HasPrefix(e.Type(), "keyledger.") || e.Time().IsZero() ||
			e.DataContentType() != "application/json" || !sameJSON(e.Data(), members["data"]) {
			t.Errorf("%s: the SDK reads something else: %v", file, e)
		}
		for name, value := range members {
			if name == "data" {
				continue
			}
			if !attribute.MatchString(name) {
				t.Errorf("%s: %q is no name for an attribute", file, name)
			}
			switch value.Kind() {
			case '0':
				var n int32
				if err := json.Unmarshal(value, &n); err != nil {
					t.Errorf("%s: %s is outside CloudEvents' integers", file, name)
				}
			case '"':
				if string(value) == `""` {
					t.Errorf("%s: %s is empty", file, name)
				}
			case 't', 'f':
			default:
				t.Errorf("%s: %s has a type that attributes cannot have", file, name)
			}
		}
	}
}
