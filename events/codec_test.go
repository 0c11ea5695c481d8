package events

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func BenchmarkDecode(b *testing.B) {
	for _, f := range facts() {
		if f.variant != "" && f.variant != "sealed" {
			continue
		}
		switch f.event.(type) {
		case KeyCreated, KeyRevoked, KeyDisabled, KeyPermissionsChanged, QuotaChanged:
		default:
			continue
		}
		body, err := Encode(f.subject, f.event, f.meta)
		if err != nil {
			b.Fatal(err)
		}
		for path, c := range map[string]codec{"": {}, "/thorough": {thorough: true}} {
			b.Run(f.name()+path, func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					if _, _, err := c.decode(f.subject, body); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	e, m := plainKey(), plainMeta()
	s := KeySubject(acme, e.ID)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Encode(s, e, m); err != nil {
			b.Fatal(err)
		}
	}
}

// upcasting is a codec for a history in which keys were renamed twice: v1 called
// the name a title, v2 a label, and today's kind a name.
func upcasting() codec {
	replace := func(from, to string) func(Document) (Document, error) {
		return func(d Document) (Document, error) {
			s := string(d)
			if !strings.Contains(s, from) {
				return nil, errors.New("upcaster: member is missing")
			}
			return Document(strings.Replace(s, from, to, 1)), nil
		}
	}
	return codec{upcasters: map[Kind]Upcaster{
		"key.titled.v1":   {To: "key.labelled.v2", Data: replace(`"title"`, `"label"`)},
		"key.labelled.v2": {To: KindKeyRenamed, Data: replace(`"label"`, `"name"`)},
	}}
}

func TestUpcast(t *testing.T) {
	subject := KeySubject(acme, id[KeyID]("02"))
	write := func(kind Kind, bears bool, data string) []byte {
		h := header{meta: plainMeta(), kind: kind, bears: bears, data: Document(data)}
		body, err := appendEnvelope(nil, subject, &h)
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	create(t, "upcast", write("key.titled.v1", false, `{"title":"interviews"}`))
	for _, body := range [][]byte{
		golden(t, "upcast"),
		write("key.labelled.v2", false, `{"label":"interviews"}`),
		write(KindKeyRenamed, false, `{"name":"interviews"}`),
	} {
		meta, event, err := upcasting().decode(subject, body)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(Event(KeyRenamed{Name: ClearText("interviews")}), event); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(plainMeta(), meta); diff != "" {
			t.Error(diff)
		}
	}
	// Without its upcaster it is a fact of another version, kept as it stands.
	if _, event, err := Decode(subject, golden(t, "upcast")); err != nil || event.Kind() != "key.titled.v1" {
		t.Errorf("got %v, %v", event, err)
	}
	for what, body := range map[string][]byte{
		"first upcaster fails":    write("key.titled.v1", false, `{"topic":"interviews"}`),
		"second upcaster fails":   write("key.labelled.v2", false, `{"title":"interviews"}`),
		"result is no fact":       write("key.titled.v1", false, `{"title":"interviews","size":1}`),
		"bears where it must not": write("key.titled.v1", true, `{"title":"interviews"}`),
	} {
		if meta, event, err := upcasting().decode(subject, body); !malformed(event, err) || meta.Revision != 1 {
			t.Errorf("%s: got %v, %v", what, event, err)
		}
	}
}

// TestUpcastersEnd holds the real table to an end: every chain reaches a kind of
// today without passing one twice, and no kind of today is upcast.
func TestUpcastersEnd(t *testing.T) {
	for from := range upcasters {
		kind := from
		for range len(upcasters) {
			if up, ok := upcasters[kind]; ok {
				kind = up.To
			}
		}
		if _, ok := kinds[kind]; !ok {
			t.Errorf("%s becomes %s, which is not known", from, kind)
		}
		if _, ok := kinds[from]; ok {
			t.Errorf("%s is both current and upcast", from)
		}
	}
}

func malformed(event Event, err error) bool {
	m, ok := event.(Malformed)
	return ok && errors.Is(err, ErrMalformed) && m.Reason == err.Error()
}

// TestDecodeRefuses changes one thing of a good fact at a time.
func TestDecodeRefuses(t *testing.T) {
	key := plainKey()
	subject := KeySubject(acme, key.ID)
	good, err := Encode(subject, key, plainMeta())
	if err != nil {
		t.Fatal(err)
	}
	const secret = "kl_live_4fJq8Zt1Xw0Vb7Nn"
	tests := []struct{ what, from, to string }{
		{"unknown member", `{"specversion"`, `{"` + secret + `":1,"specversion"`},
		{"unknown member in data", `"profile":`, `"` + secret + `":1,"profile":`},
		{"unknown member deep in data", `"alg":`, `"` + secret + `":1,"alg":`},
		{"duplicate member", `"revision":1`, `"revision":1,"revision":1`},
		{"duplicate member, other value", `"bearsonverdict":true`, `"bearsonverdict":true,"bearsonverdict":false`},
		{"duplicate member in data", `"profile":"strict"`, `"profile":"strict","profile":"lenient"`},
		{"duplicate name in metadata", `"team":"platform"`, `"team":"platform","team":"x"`},
		{"member in another case", `"subject"`, `"Subject"`},
		{"member in another case in data", `"expires_at"`, `"Expires_At"`},
		{"member as Go calls it", `"expires_at"`, `"ExpiresAt"`},
		{"trailing data", `}}}`, `}}}{}`},
		{"trailing text", `}}}`, `}}}` + secret},
		{"second data", `}}}`, `}},"data":{}}`},
		{"cut short", `}}}`, `}}`},
		{"invalid UTF-8 in the envelope", `first key`, "first \xff key"},
		{"invalid UTF-8 in data", `interview service`, "interview \xc3 service"},
		{"half a surrogate", `interview service`, `interview \ud800 service`},
		{"raw control character", `interview service`, "interview\nservice"},
		{"another specversion", `"specversion":"1.0"`, `"specversion":"1.1"`},
		{"another content type", `application/json`, `application/xml`},
		{"another source", `urn:keyledger:`, `urn:other:`},
		{"no ledger in source", `urn:keyledger:0198c0de-0000-7000-8000-00000000001d`, `urn:keyledger:` + secret},
		{"empty ledger", `urn:keyledger:0198c0de-0000-7000-8000-00000000001d`, `urn:keyledger:00000000-0000-0000-0000-000000000000`},
		{"another type", `"type":"keyledger.key`, `"type":"` + secret + `.key`},
		{"empty kind", `keyledger.key.created.v1`, `keyledger.`},
		{"kind in another case", `keyledger.key.created.v1`, `keyledger.Key.Created.v1`},
		{"endless kind", `keyledger.key.created.v1`, `keyledger.` + strings.Repeat("a", MaxKindLength+1)},
		{"kind of another aggregate", `keyledger.key.created.v1`, `keyledger.workspace.created.v1`},
		{"another fact's data", `keyledger.key.created.v1`, `keyledger.key.enabled.v1`},
		{"says it does not bear on verdicts", `"bearsonverdict":true`, `"bearsonverdict":false`},
		{"foreign organization", `.acme.key`, `.evil.key`},
		{"foreign partition", `"subject":"ledger.0`, `"subject":"ledger.1`},
		{"foreign key", `.key.0198c0de-0000-7000-8000-000000000002`, `.key.0198c0de-0000-7000-8000-000000000003`},
		{"key of another id", `{"id":"0198c0de-0000-7000-8000-000000000002"`, `{"id":"0198c0de-0000-7000-8000-000000000003"`},
		{"revision 0", `"revision":1`, `"revision":0`},
		{"negative revision", `"revision":1`, `"revision":-1`},
		{"revision with a fraction", `"revision":1`, `"revision":1.0`},
		{"revision as text", `"revision":1`, `"revision":"1"`},
		{"revision beyond CloudEvents", `"revision":1`, `"revision":2147483648`},
		{"no id", `"id":"0198c0de-0000-7000-8000-0000000000e1",`, ``},
		{"empty id", `0198c0de-0000-7000-8000-0000000000e1`, `00000000-0000-0000-0000-000000000000`},
		{"id in another case", `0198c0de-0000-7000-8000-0000000000e1`, `0198C0DE-0000-7000-8000-0000000000E1`},
		{"no command id", `"commandid":"0198c0de-0000-7000-8000-0000000000c1",`, ``},
		{"no time", `"time":"2026-11-21T05:46:40.000001Z",`, ``},
		{"empty time", `"time":"2026-11-21T05:46:40.000001Z"`, `"time":""`},
		{"time without fraction", `05:46:40.000001Z`, `05:46:40Z`},
		{"time with a comma", `05:46:40.000001Z`, `05:46:40,000001Z`},
		{"time of a zone", `40.000001Z`, `40.000001+00:00`},
		{"impossible day", `2026-11-21T`, `2026-11-31T`},
		{"no actor", `"actor":"key/_system/0198c0de-0000-7000-8000-000000000001",`, ``},
		{"actor of no type", `"actor":"key/`, `"actor":"` + secret + `/`},
		{"actor of no organization", `"actor":"key/_system/`, `"actor":"key/` + secret + `/`},
		{"control character in a reason", `first key`, `first\nkey`},
		{"empty reason", `"reason":"first key of the interview service"`, `"reason":""`},
		{"null reason", `"reason":"first key of the interview service"`, `"reason":null`},
		{"null member", `"expires_at":"2027-11-21T05:46:40.000000Z"`, `"expires_at":null`},
		{"empty expiry", `"expires_at":"2027-11-21T05:46:40.000000Z"`, `"expires_at":""`},
		{"reason in clear and sealed", `"requestid"`, `"sealedreason":"{\"subject\":\"a\",\"key\":\"b\",\"box\":\"c\"}","requestid"`},
		{"config position as a number", `"configposition":"17"`, `"configposition":17`},
		{"config position 0", `"configposition":"17"`, `"configposition":"0"`},
		{"config position with a zero in front", `"configposition":"17"`, `"configposition":"017"`},
		{"batch 1 of 1", `"data":{"id"`, `"batchindex":1,"batchsize":1,"data":{"id"`},
		{"batch 3 of 2", `"data":{"id"`, `"batchindex":3,"batchsize":2,"data":{"id"`},
		{"batch 0 of 2", `"data":{"id"`, `"batchindex":0,"batchsize":2,"data":{"id"`},
		{"batch -1 of 2", `"data":{"id"`, `"batchindex":-1,"batchsize":2,"data":{"id"`},
		{"batch 2 of none", `"data":{"id"`, `"batchindex":2,"data":{"id"`},
		{"batch beyond the broker", `"data":{"id"`, `"batchindex":1,"batchsize":1001,"data":{"id"`},
		{"batch 0 of 0", `"data":{"id"`, `"batchindex":0,"batchsize":0,"data":{"id"`},
		{"empty command digest", `"commanddigest":"c0`, `"commanddigest":"00`},
		{"short digest", `"value":"010203`, `"value":"0102`},
		{"digest in another case", `00ff"}`, `00FF"}`},
		{"no digest value", `,"value":"01020300000000000000000000000000000000000000000000000000000000ff"`, ``},
		{"no permissions", `"permissions":{"level":"restricted","grants":["interview:read","interview:start"]},`, ``},
		{"permissions of no level", `"level":"restricted"`, `"level":""`},
		{"permissions that say nothing", `{"level":"restricted","grants":["interview:read","interview:start"]}`, `{"level":""}`},
		{"management key with permissions", `"kind":"api"`, `"kind":"management"`},
		{"created at no time", `"created_at":"2026-11-21T05:46:40.000001Z"`, `"created_at":""`},
		{"null permissions", `"permissions":{"level":"restricted","grants":["interview:read","interview:start"]}`, `"permissions":null`},
		{"empty grants", `["interview:read","interview:start"]`, `[]`},
		{"null among grants", `["interview:read",`, `[null,`},
		{"empty metadata", `{"team":"platform"}`, `{}`},
		{"null in metadata", `{"team":"platform"}`, `{"team":null}`},
		{"number in metadata", `{"team":"platform"}`, `{"team":1}`},
		{"empty seal", `"name":"interview service"`, `"name":{"sealed":{"subject":"","key":"","box":""}}`},
		{"half a seal", `"name":"interview service"`, `"name":{"sealed":{"subject":"a","key":"b"}}`},
		{"clear beside the seal", `"name":"interview service"`, `"name":{"clear":"x","sealed":{"subject":"a","key":"b","box":"c"}}`},
		{"data is a list", `"data":{`, `"data":[{},{`},
		{"data of another shape", `"prefix":"kl_live"`, `"prefix":["` + secret + `"]`},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			body := strings.Replace(string(good), tt.from, tt.to, 1)
			if tt.what == "empty command digest" {
				body = strings.Replace(body, `00de"`, `0000"`, 1)
			}
			if body == string(good) {
				t.Fatal("nothing was changed")
			}
			for _, c := range []codec{{}, {thorough: true}} {
				_, event, err := c.decode(subject, []byte(body))
				if !malformed(event, err) {
					t.Fatalf("got %v, %v", event, err)
				}
				if strings.Contains(err.Error(), secret) {
					t.Errorf("error repeats the body: %v", err)
				}
			}
		})
	}
	for what, body := range map[string]string{
		"nothing": "", "null": "null", "true": "true", "a string": `"x"`, "a list": "[]", "an empty object": "{}",
		"a deep list": strings.Repeat("[", MaxFactBytes), "too large": strings.Replace(string(good), `:`, strings.Repeat(" ", MaxFactBytes)+":", 1),
		"data is null": string(good[:strings.Index(string(good), `"data":`)]) + `"data":null}`,
		"no data":      string(good[:strings.Index(string(good), `,"data":`)]) + `}`,
		"empty data":   string(good[:strings.Index(string(good), `"data":`)]) + `"data":{}}`,
	} {
		if _, event, err := Decode(subject, []byte(body)); !malformed(event, err) {
			t.Errorf("%s: got %v, %v", what, event, err)
		}
	}
}

// TestDecodeRefusesNoTime refuses a fact that leaves out when: whoever reads a
// grace or an end of time zero takes it for one that never comes.
func TestDecodeRefusesNoTime(t *testing.T) {
	at := regexp.MustCompile(`("(grace_ends_at|expired_at|created_at)":)"[^"]+"`)
	for _, f := range facts() {
		switch f.event.(type) {
		case KeyCreated, KeyRotated, KeyGraceChanged, KeyExpired:
		default:
			continue
		}
		body := golden(t, f.name())
		for _, none := range []string{`""`, `null`, `"1970-01-01T00:00:00.000000Z"`} {
			changed := at.ReplaceAll(body, []byte(`${1}`+none))
			if string(changed) == string(body) {
				t.Fatalf("%s: nothing was changed", f.name())
			}
			for _, c := range []codec{{}, {thorough: true}} {
				if _, event, err := c.decode(f.subject, changed); !malformed(event, err) {
					t.Errorf("%s at %s: got %v, %v", f.name(), none, event, err)
				}
			}
		}
	}
}

// TestDecodeAnySpelling reads what says the same in other words of JSON.
func TestDecodeAnySpelling(t *testing.T) {
	key := plainKey()
	subject := KeySubject(acme, key.ID)
	good, err := Encode(subject, key, plainMeta())
	if err != nil {
		t.Fatal(err)
	}
	spelled := func(from, to string) string { return strings.Replace(string(good), from, to, 1) }
	for what, body := range map[string]string{
		"spaces":            spelled(`,"profile":`, ",\n\t\"profile\" : "),
		"space at the end":  string(good) + "\n",
		"escapes":           spelled(`interview service`, `int\u0065rview service`),
		"escaped name":      spelled(`"profile"`, `"prof\u0069le"`),
		"another order":     spelled(`"prefix":"kl_live","last_four":"a1B2"`, `"last_four":"a1B2","prefix":"kl_live"`),
		"another envelope":  spelled(`"revision":1,"bearsonverdict":true`, `"bearsonverdict":true,"revision":1`),
		"space in the data": spelled(`"data":{`, `"data": {`),
	} {
		if body == string(good) {
			t.Fatalf("%s: nothing was changed", what)
		}
		meta, event, err := Decode(subject, []byte(body))
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if diff := cmp.Diff(Event(key), event) + cmp.Diff(plainMeta(), meta); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
}

// TestDecodeForeignSubject finds a good fact where it does not belong.
func TestDecodeForeignSubject(t *testing.T) {
	for _, f := range facts() {
		body := golden(t, f.name())
		for _, s := range []Subject{
			{},
			KeySubject(acme, id[KeyID]("99")), KeySubject("other", id[KeyID]("02")), RevokedSubject(acme, id[KeyID]("98")),
			{Org: f.subject.Org, Aggregate: "future", ID: f.subject.ID},
			{Org: "a.b", Aggregate: AggregateKey, ID: "x"},
		} {
			if _, event, err := Decode(s, body); !malformed(event, err) {
				t.Errorf("%s under %q: got %v, %v", f.name(), s, event, err)
			}
		}
	}
}

// TestEncodeRefuses holds writers to what readers take.
func TestEncodeRefuses(t *testing.T) {
	key := plainKey()
	subject, revoked := KeySubject(acme, key.ID), RevokedSubject(acme, key.ID)
	with := func(change func(*Meta)) Meta { m := plainMeta(); change(&m); return m }
	but := func(change func(*KeyCreated)) KeyCreated { k := plainKey(); change(&k); return k }
	named := func(name string) KeyCreated { return but(func(k *KeyCreated) { k.Name = ClearText(name) }) }
	ok := plainMeta()
	tests := []struct {
		what    string
		subject Subject
		event   Event
		meta    Meta
		is      error
	}{
		{"unknown", subject, Unknown{Name: "key.praised.v1", Data: Document(`{}`)}, ok, nil},
		{"malformed", subject, Malformed{Reason: "x"}, ok, nil},
		{"another aggregate", revoked, key, ok, nil},
		{"another key", KeySubject(acme, id[KeyID]("77")), key, ok, ErrMalformed},
		{"revoked all", EndSubject(acme), KeyRevoked{}, ok, ErrMalformed},
		{"deleted one", revoked, OrganizationDeleted{}, ok, ErrMalformed},
		{"another ledger", InstallationSubject(), InstallationCreated{Ledger: id[LedgerID]("77")}, ok, ErrMalformed},
		{"another organization", OrganizationSubject(acme), OrganizationCreated{ID: "other"}, ok, ErrMalformed},
		{"another workspace", WorkspaceSubject(acme, "a"), WorkspaceCreated{ID: "b"}, ok, ErrMalformed},
		{"another profile", ProfileSubject(acme, "a"), ProfileCreated{ID: "b", Settings: Document(`{}`)}, ok, ErrMalformed},
		{"no settings", ProfileSubject(acme, "a"), ProfileCreated{ID: "a"}, ok, ErrMalformed},
		{"settings are a list", ProfileSubject(acme, "a"), ProfileSettingsChanged{Settings: Document(`[]`)}, ok, ErrMalformed},
		{"settings are no JSON", ProfileSubject(acme, "a"), ProfileSettingsChanged{Settings: Document(`{`)}, ok, nil},
		{"rotated for ever", subject, KeyRotated{Successor: id[KeyID]("03")}, ok, ErrMalformed},
		{"grace for ever", subject, KeyGraceChanged{}, ok, ErrMalformed},
		{"expired at no time", subject, KeyExpired{}, ok, ErrMalformed},
		{"created at no time", subject, but(func(k *KeyCreated) { k.CreatedAt = 0 }), ok, ErrMalformed},
		{"no permissions", subject, but(func(k *KeyCreated) { k.Permissions = Permissions{} }), ok, ErrMalformed},
		{"grants without a level", subject, but(func(k *KeyCreated) { k.Permissions.Level = "" }), ok, ErrMalformed},
		{"management key with permissions", subject, but(func(k *KeyCreated) { k.KeyKind = KindManagement }), ok, ErrMalformed},
		{"permissions changed to none", subject, KeyPermissionsChanged{}, ok, ErrMalformed},
		{"settings say it twice", ProfileSubject(acme, "a"), ProfileSettingsChanged{Settings: Document(`{"a":1,"a":2}`)}, ok, nil},
		{"organization with a dot", Subject{Org: "a.b", Aggregate: AggregateKey, ID: key.ID.String()}, key, ok, ErrInvalidID},
		{"no revision", subject, key, with(func(m *Meta) { m.Revision = 0 }), nil},
		{"revision too large", subject, key, with(func(m *Meta) { m.Revision = 1 << 31 }), nil},
		{"no id", subject, key, with(func(m *Meta) { m.ID = EventID{} }), nil},
		{"no ledger", subject, key, with(func(m *Meta) { m.Ledger = LedgerID{} }), nil},
		{"no command", subject, key, with(func(m *Meta) { m.Command = CommandID{} }), nil},
		{"no time", subject, key, with(func(m *Meta) { m.Time = 0 }), nil},
		{"no recorded time", subject, key, with(func(m *Meta) { m.RecordedTime = 0 }), nil},
		{"time before 1970", subject, key, with(func(m *Meta) { m.Time = -1 }), nil},
		{"no actor", subject, key, with(func(m *Meta) { m.Actor = Actor{} }), ErrMalformed},
		{"batch of one", subject, key, with(func(m *Meta) { m.BatchIndex, m.BatchSize = 1, 1 }), nil},
		{"control character in a reason", subject, key, with(func(m *Meta) { m.Reason = ClearText("a\nb") }), nil},
		{"control character in a request id", subject, key, with(func(m *Meta) { m.RequestID = "\x9f" }), nil},
		{"noncharacter in a scope", subject, key, with(func(m *Meta) { m.Scope = "\U0001fffe" }), nil},
		{"invalid UTF-8 in the envelope", subject, key, with(func(m *Meta) { m.RequestID = "\xff" }), nil},
		{"invalid UTF-8 in data", subject, named("\xff"), ok, nil},
		{"too large", subject, named(strings.Repeat("x", MaxFactBytes)), ok, ErrTooLarge},
	}
	for _, tt := range tests {
		body, err := Encode(tt.subject, tt.event, tt.meta)
		if err == nil || body != nil || (tt.is != nil && !errors.Is(err, tt.is)) {
			t.Errorf("%s: got %s, %v", tt.what, body, err)
		}
	}
}

// TestEmptyIsNil holds nil and empty to one text and one value.
func TestEmptyIsNil(t *testing.T) {
	key := plainKey()
	key.Permissions.Grants, key.Scope.Workspaces, key.Metadata = nil, nil, nil
	filled := key
	filled.Permissions.Grants, filled.Scope.Workspaces, filled.Metadata = []string{}, []WorkspaceID{}, Metadata{}
	tests := []struct {
		subject     Subject
		isNil, isIn Event
	}{
		{KeySubject(acme, key.ID), key, filled},
		{KeySubject(acme, key.ID), KeyMetadataChanged{}, KeyMetadataChanged{Metadata: Metadata{}}},
		{KeySubject(acme, key.ID), KeyScopeChanged{}, KeyScopeChanged{Scope: Scope{Workspaces: []WorkspaceID{}}}},
		{QuotaSubject(acme), QuotaChanged{}, QuotaChanged{Holders: []KeyID{}}},
		{CatalogSubject(acme), CatalogReplaced{}, CatalogReplaced{Permissions: []CatalogPermission{}}},
		{
			CatalogSubject(acme),
			CatalogReplaced{Permissions: []CatalogPermission{{Name: "a:b"}}},
			CatalogReplaced{Permissions: []CatalogPermission{{Name: "a:b", Routes: []string{}}}},
		},
	}
	for _, tt := range tests {
		a, err := Encode(tt.subject, tt.isNil, plainMeta())
		if err != nil {
			t.Fatal(err)
		}
		b, err := Encode(tt.subject, tt.isIn, plainMeta())
		if err != nil {
			t.Fatal(err)
		}
		if string(a) != string(b) {
			t.Errorf("nil and empty differ:\n %s\n %s", a, b)
		}
		for _, c := range []codec{{}, {thorough: true}} {
			_, event, err := c.decode(tt.subject, a)
			if diff := cmp.Diff(tt.isNil, event); diff != "" || err != nil {
				t.Error(err, diff)
			}
		}
	}
}

// TestScanIsTaken holds the kinds of the short cut to it, so that a change of
// the writer does not make every reader slow unseen.
func TestScanIsTaken(t *testing.T) {
	for _, f := range facts() {
		t.Run(f.name(), func(t *testing.T) {
			var h header
			if !scanEnvelope(f.subject, golden(t, f.name()), &h) {
				t.Fatal("the envelope takes the thorough path")
			}
			switch f.event.(type) {
			case KeyCreated, KeyRevoked, QuotaChanged, Tick:
				if scanData(h.kind, h.data) == nil {
					t.Error("the data takes the thorough path")
				}
			default:
			}
		})
	}
}

func ExampleDecode() {
	subject := RevokedSubject(acme, id[KeyID]("02"))
	body, err := Encode(subject, KeyRevoked{}, plainMeta())
	if err != nil {
		fmt.Println(err)
		return
	}
	meta, event, err := Decode(subject, body)
	fmt.Println(event.Kind().Name(), meta.Actor, meta.Time, err)
	// Output: key.revoked key/_system/0198c0de-0000-7000-8000-000000000001 2026-11-21T05:46:40.000001Z <nil>
}
