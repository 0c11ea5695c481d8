package verify_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/index"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
)

const (
	acme   = events.OrgID("acme")
	other  = events.OrgID("other")
	second = events.Time(1_000_000)
)

// drain is a sink that forgets.
type drain struct{}

func (drain) PublishUses(context.Context, []uses.Message) error { return nil }

// stuck is a sink that stores the boot mark and nothing after it.
type stuck struct{ calls int }

func (s *stuck) PublishUses(ctx context.Context, _ []uses.Message) error {
	if s.calls++; s.calls == 1 {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func newRecorder(t testing.TB, sink recording.Sink, c recording.Config) *recording.Recorder {
	t.Helper()
	c.Ledger, c.Verifier, c.Sink = events.LedgerID{1}, "test", sink
	r, err := recording.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := r.Close(ctx); err != nil && !errors.Is(err, recording.ErrUnstored) {
			t.Error(err)
		}
	})
	return r
}

func newIndex(t testing.TB, keys int) *index.Index {
	t.Helper()
	x, err := index.New(index.Config{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func never(context.Context, events.Position) error { return context.DeadlineExceeded }

func newVerifier(t testing.TB, c verify.Config) *verify.Verifier {
	t.Helper()
	if c.Recorder == nil {
		c.Recorder = newRecorder(t, drain{}, recording.Config{})
	}
	if c.Fresh == nil {
		c.Fresh = time.Now
	}
	if c.WaitFor == nil {
		c.WaitFor = never
	}
	v, err := verify.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

// ledger applies facts to an index, each at the next position and, unless it
// is said otherwise, with its subject's next revision.
type ledger struct {
	index     *index.Index
	position  events.Position
	revisions map[events.Subject]events.Revision
	// seen, if there is one, is shown every fact.
	seen func(events.Recorded)
}

// sized is a recorder's configuration with so much room.
func sized(n int) recording.Config { return recording.Config{MaxBuffered: n} }

func (l *ledger) add(s events.Subject, e events.Event) {
	l.revisions[s]++
	l.at(s, l.revisions[s], e)
}

func (l *ledger) at(s events.Subject, rev events.Revision, e events.Event) {
	l.position++
	r := []events.Recorded{{Position: l.position, Subject: s, Event: e, Meta: events.Meta{Revision: rev}}}
	if err := l.index.Apply(context.Background(), r); err != nil {
		panic(err)
	}
	if l.seen != nil {
		l.seen(r[0])
	}
}

func (l *ledger) begin(org events.OrgID) {
	l.add(events.OrganizationSubject(org), events.OrganizationCreated{ID: org})
	l.add(events.CatalogSubject(org), events.CatalogReplaced{Permissions: []events.CatalogPermission{
		{Name: "doc:read", Access: events.AccessRead, Routes: []string{"GET /docs/{id}"}},
		{Name: "doc:write", Access: events.AccessWrite, Routes: []string{"POST /docs"}},
	}})
	l.add(events.WorkspaceSubject(org, "w1"), events.WorkspaceCreated{ID: "w1"})
	l.add(events.WorkspaceSubject(org, "w2"), events.WorkspaceCreated{ID: "w2"})
}

func newLedger(x *index.Index) *ledger {
	return &ledger{index: x, revisions: map[events.Subject]events.Revision{}}
}

func keyID(n int) (id events.KeyID) {
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	id[6] = 0x70
	return id
}

// secret is the key string number n.
func secret(t testing.TB, n int) string {
	t.Helper()
	var random [24]byte
	binary.BigEndian.PutUint64(random[8:], uint64(n)+1)
	s, err := keystring.New("kl_live", random)
	if err != nil {
		t.Fatal(err)
	}
	return s.Reveal()
}

// key is an API key that may read documents in w1 and w2.
func key(n int, secret string) events.KeyCreated {
	return events.KeyCreated{
		ID: keyID(n), KeyKind: events.KindAPI, Digest: events.Digest{Alg: events.SHA256, Value: keystring.Digest(secret)},
		Permissions: events.Permissions{Level: events.LevelRestricted, Grants: []string{"doc:read"}},
		Scope:       events.Scope{Workspaces: []events.WorkspaceID{"w1", "w2"}},
	}
}

func TestConfig(t *testing.T) {
	if _, err := verify.New(verify.Config{MaxWait: -1, MaxStaleness: -1}); err == nil || strings.Count(err.Error(), "\n") != 5 {
		t.Errorf("not every fault is told: %v", err)
	}
}

// asked is one question about the fixture of TestCodes, and its answer.
type asked struct {
	name    string
	key     int
	q       verify.Question
	want    events.Code
	checked bool
}

func codes() []asked {
	return []asked{
		{"plain", 1, verify.Question{}, events.CodeValid, false},
		{"permission", 1, verify.Question{Permission: "doc:read"}, events.CodeValid, false},
		{"workspace", 1, verify.Question{Permission: "doc:read", Workspace: "w1"}, events.CodeValid, true},
		{"within", 1, verify.Question{Within: acme}, events.CodeValid, false},
		{"not granted", 1, verify.Question{Permission: "doc:write", Workspace: "w9"}, events.CodeInsufficientPermissions, false},
		{"not in the catalog", 1, verify.Question{Permission: "doc:shred"}, events.CodeInsufficientPermissions, false},
		{"all of a resource", 1, verify.Question{Permission: "doc:*"}, events.CodeInsufficientPermissions, false},
		{"all of a resource that is not", 9, verify.Question{Permission: "user:*"}, events.CodeInsufficientPermissions, false},
		{"all of a resource, granted", 9, verify.Question{Permission: "doc:*"}, events.CodeValid, false},
		{"either", 1, verify.Question{Permission: "doc:write OR doc:read", Workspace: "w1"}, events.CodeValid, true},
		{"both", 1, verify.Question{Permission: "doc:write AND doc:read", Workspace: "w9"}, events.CodeInsufficientPermissions, false},
		{"both, granted", 9, verify.Question{Permission: "doc:write and (user:read or doc:*)"}, events.CodeValid, false},
		{"a query that was never met", 1, verify.Question{Permission: "doc:shred OR (doc:read)"}, events.CodeValid, false},
		{"a query of an inactive key", 5, verify.Question{Permission: "doc:read OR doc:write"}, events.CodeInactive, false},
		{"workspace that is not", 1, verify.Question{Workspace: "w9"}, events.CodeOutOfScope, true},
		{"routed", 1, verify.Question{Method: "GET", Path: "/docs/1"}, events.CodeValid, false},
		{"routed to what is not granted", 1, verify.Question{Method: "POST", Path: "/docs"}, events.CodeInsufficientPermissions, false},
		{"no route", 1, verify.Question{Method: "DELETE", Path: "/docs"}, events.CodeInsufficientPermissions, false},
		{"permission before route", 1, verify.Question{Permission: "doc:read", Method: "POST", Path: "/docs"}, events.CodeValid, false},
		{"as management", 1, verify.Question{Kind: events.KindManagement}, events.CodeInsufficientPermissions, false},
		{"elsewhere", 1, verify.Question{Within: other}, events.CodeNotFound, false},
		{"position to come", 1, verify.Question{AtLeast: math.MaxUint64}, events.CodeStale, false},
		{"nobody's", 99, verify.Question{}, events.CodeNotFound, false},
		{"nobody's, position to come", 99, verify.Question{AtLeast: math.MaxUint64}, events.CodeStale, false},
		{"revoked", 2, verify.Question{}, events.CodeRevoked, false},
		{"revoked, position to come", 2, verify.Question{AtLeast: math.MaxUint64}, events.CodeRevoked, false},
		{"closed", 3, verify.Question{}, events.CodeUnavailable, false},
		{"expired", 4, verify.Question{}, events.CodeExpired, false},
		{"disabled", 5, verify.Question{Permission: "doc:shred"}, events.CodeInactive, false},
		{"nowhere", 6, verify.Question{Permission: "doc:read"}, events.CodeOutOfScope, false},
		{"nowhere, asked", 6, verify.Question{Workspace: "gone"}, events.CodeOutOfScope, true},
		{"management", 7, verify.Question{Kind: events.KindManagement}, events.CodeValid, false},
		{"management as key", 7, verify.Question{}, events.CodeInsufficientPermissions, false},
		{"management with a permission", 7, verify.Question{Kind: events.KindManagement, Permission: "doc:read"}, events.CodeInsufficientPermissions, false},
		{"organization has ended", 8, verify.Question{}, events.CodeRevoked, false},
	}
}

// fixture is an index with a key for every code.
func fixture(t testing.TB) *index.Index {
	x := newIndex(t, 0)
	l := newLedger(x)
	l.begin(acme)
	l.begin(other)
	l.add(events.WorkspaceSubject(acme, "gone"), events.WorkspaceCreated{ID: "gone"})
	l.add(events.WorkspaceSubject(acme, "gone"), events.WorkspaceDeleted{})
	for n := 1; n <= 6; n++ {
		k := key(n, secret(t, n))
		switch n {
		case 4:
			k.ExpiresAt = events.TimeOf(time.Now().Add(-time.Hour))
		case 6:
			k.Scope.Workspaces = []events.WorkspaceID{"gone"}
		}
		l.add(events.KeySubject(acme, k.ID), k)
	}
	l.add(events.RevokedSubject(acme, keyID(2)), events.KeyRevoked{})
	l.at(events.KeySubject(acme, keyID(3)), 9, events.KeyEnabled{})
	whole := key(9, secret(t, 9))
	whole.Permissions.Grants = []string{"doc:*", "user:*"}
	l.add(events.KeySubject(acme, whole.ID), whole)
	l.add(events.KeySubject(acme, keyID(5)), events.KeyDisabled{})
	root := key(7, secret(t, 7))
	root.KeyKind, root.Role, root.Permissions, root.Scope = events.KindManagement, events.RoleOwner, events.Permissions{}, events.Scope{AllWorkspaces: true}
	l.add(events.KeySubject(events.System, root.ID), root)
	l.add(events.KeySubject(other, keyID(8)), key(8, secret(t, 8)))
	l.add(events.EndSubject(other), events.OrganizationDeleted{})
	return x
}

func TestCodes(t *testing.T) {
	x := fixture(t)
	rec := newRecorder(t, drain{}, recording.Config{})
	v := newVerifier(t, verify.Config{Index: x, Recorder: rec})
	var recorded uint64
	for _, c := range codes() {
		c.q.Secret = secret(t, c.key)
		d := v.Verify(t.Context(), &c.q)
		if d.Code != c.want || d.Valid() != (c.want == events.CodeValid) || d.ScopeChecked != c.checked {
			t.Errorf("%s: %s, scope checked: %t", c.name, d.Code, d.ScopeChecked)
		}
		found := c.key != 99 && c.q.Within != other
		if found == d.Key.IsZero() || found == (d.Org == "") {
			t.Errorf("%s: found is %t, key %s", c.name, found, d.Key)
		}
		if found {
			recorded++
		}
		if d.Position != x.Applied() || d.At == 0 {
			t.Errorf("%s: position %d at %d", c.name, d.Position, d.At)
		}
		// The same again, with nothing recorded or counted.
		if again := v.Recheck(&c.q); again.Code != c.want || again.Key != d.Key || again.ScopeChecked != c.checked {
			t.Errorf("%s: %s when it is judged again", c.name, again.Code)
		}
	}
	if got := rec.Stats().Recorded; got != recorded {
		t.Errorf("%d uses recorded of %d", got, recorded)
	}

	for _, s := range []string{"", "x", secret(t, 1) + "x", strings.Repeat("x", verify.MaxSecretBytes+1)} {
		if d := v.Verify(t.Context(), &verify.Question{Secret: s}); d.Code != events.CodeMalformed {
			t.Errorf("%d bytes of nonsense: %s", len(s), d.Code)
		}
	}
	if v.Unrecorded(events.CodeMalformed) != 4 || v.Unrecorded(events.CodeNotFound) != 2 || v.Unrecorded(events.CodeStale) != 1 {
		t.Error("misses are not counted")
	}
	var zero verify.Decision
	if zero.Valid() {
		t.Error("the zero decision lets through")
	}
}

// Whoever wants to know is told of every secret that is no key, and nothing of it.
func TestMissed(t *testing.T) {
	var told []verify.Miss
	v := newVerifier(t, verify.Config{Index: fixture(t), Missed: func(m verify.Miss) { told = append(told, m) }})
	for _, c := range codes() {
		if c.q.AtLeast == 0 {
			q := c.q
			q.Secret = secret(t, c.key)
			v.Verify(t.Context(), &q)
		}
	}
	before := len(told)
	for _, m := range told {
		if m.Code != events.CodeNotFound {
			t.Errorf("%+v is told of a key", m)
		}
	}
	v.Verify(t.Context(), &verify.Question{
		Secret: "typo", Kind: events.KindManagement, Within: acme, From: "192.0.2.1", Context: recording.Context{RequestID: "r-1"},
	})
	want := verify.Miss{Code: events.CodeMalformed, Kind: events.KindManagement, Within: acme, From: "192.0.2.1", RequestID: "r-1"}
	if len(told) != before+1 || told[before] != want {
		t.Errorf("%+v", told[before:])
	}
	v.Recheck(&verify.Question{Secret: "typo"})
	v.Close()
	v.Verify(t.Context(), &verify.Question{Secret: "typo"})
	if len(told) != before+1 {
		t.Errorf("%+v is told of what is judged again, or of no verdict", told[before+1:])
	}
}

func TestNoAllocation(t *testing.T) {
	var missed int
	v := newVerifier(t, verify.Config{Index: fixture(t), Missed: func(verify.Miss) { missed++ }})
	ctx := t.Context()
	for _, c := range codes() {
		if c.q.AtLeast != 0 {
			continue // waiting takes a timer
		}
		s := secret(t, c.key)
		if n := testing.AllocsPerRun(1000, func() {
			q := c.q
			q.Secret = s
			q.Context = recording.Context{RequestID: "r", Path: "/docs"}
			if d := v.Verify(ctx, &q); d.Code != c.want {
				t.Fatal(d.Code)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
	if n := testing.AllocsPerRun(1000, func() { v.Verify(ctx, &verify.Question{Secret: "sk-typo"}) }); n != 0 {
		t.Errorf("malformed: %v allocations", n)
	}
	if missed == 0 {
		t.Error("nothing was missed")
	}
}

func TestImportedKeyOfAnyForm(t *testing.T) {
	x := fixture(t)
	k := key(20, "sk-of-another-system")
	newLedger(x).atPosition(x.Applied()).add(events.KeySubject(acme, k.ID), k)
	v := newVerifier(t, verify.Config{Index: x})
	if d := v.Verify(t.Context(), &verify.Question{Secret: "sk-of-another-system"}); !d.Valid() || d.Key != k.ID {
		t.Errorf("an imported key is %s", d.Code)
	}
}

func TestKeyFoundByItsLongToken(t *testing.T) {
	const whole = "mycompany_BRTRKFsL_51FwqftsmMDHHbJAMEXXHCgG"
	long := whole[strings.LastIndexByte(whole, '_')+1:]
	x := fixture(t)
	l := newLedger(x).atPosition(x.Applied())
	v := newVerifier(t, verify.Config{Index: x})
	code := func(secret string) events.Code {
		d := v.Verify(t.Context(), &verify.Question{Secret: secret})
		if d.Valid() && d.Key != keyID(20) {
			t.Errorf("%q leads to another key", secret)
		}
		return d.Code
	}
	if x.ShortLong() || code(whole) != events.CodeMalformed {
		t.Error("a key that is not there yet")
	}
	// The digest of the long token as that of a whole key is another key's.
	decoy := key(21, long)
	l.add(events.KeySubject(acme, decoy.ID), decoy)
	if x.ShortLong() || code(whole) != events.CodeMalformed {
		t.Error("a key is found by the end of its secret")
	}
	k := key(20, "")
	k.Digest = events.Digest{Alg: events.PrefixShortLong, Value: keystring.Digest(long)}
	l.add(events.KeySubject(acme, k.ID), k)
	if !x.ShortLong() {
		t.Error("nobody looks it up")
	}
	for secret, want := range map[string]events.Code{
		whole:                          events.CodeValid,
		"my_company_x_" + long:         events.CodeValid,
		"mycompany_" + long:            events.CodeMalformed,
		"_" + long:                     events.CodeMalformed,
		whole + "_":                    events.CodeMalformed,
		whole + "x":                    events.CodeMalformed,
		whole[:len(whole)-1]:           events.CodeMalformed,
		"a_" + long + "_b":             events.CodeMalformed,
		secret(t, 2):                   events.CodeRevoked,
		secret(t, 99):                  events.CodeNotFound,
		"__":                           events.CodeMalformed,
		"a_b_" + strings.ToLower(long): events.CodeMalformed,
	} {
		if got := code(secret); got != want {
			t.Errorf("%q: %s, want %s", secret, got, want)
		}
	}
	if d := v.Verify(t.Context(), &verify.Question{Secret: long}); !d.Valid() || d.Key != decoy.ID {
		t.Errorf("the other key is %s", d.Code)
	}
	if d := v.Verify(t.Context(), &verify.Question{Secret: whole, Within: other}); d.Code != events.CodeMalformed || !d.Key.IsZero() {
		t.Errorf("elsewhere it is %s", d.Code)
	}
	for _, secret := range []string{whole, secret(t, 99)} {
		if n := testing.AllocsPerRun(1000, func() { v.Recheck(&verify.Question{Secret: secret}) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
	// A whole digest comes first, whoever has it.
	both := key(22, whole)
	l.add(events.KeySubject(acme, both.ID), both)
	if d := v.Verify(t.Context(), &verify.Question{Secret: whole}); d.Key != both.ID {
		t.Error("the part is looked up before the whole")
	}
}

func TestCheck(t *testing.T) {
	v := newVerifier(t, verify.Config{Index: fixture(t)})
	for text, at := range map[string]int{"": 0, "doc:read": 0, "no-name": 0, "doc:*": 0, "doc:read OR doc:write": 0, "doc:read OR": 12, "(empty)": 2} {
		q := verify.Question{Secret: secret(t, 1), Permission: text}
		err := v.Check(&q)
		var fault *permission.QueryError
		if at == 0 && err != nil || at != 0 && (!errors.As(err, &fault) || fault.At != at) {
			t.Errorf("%q: %v", text, err)
		}
		if d := v.Verify(t.Context(), &q); at != 0 && (d.Code != events.CodeInsufficientPermissions || d.Permission != text) {
			t.Errorf("%q: %s", text, d.Code)
		}
	}
	// What was checked is not what is asked after it was changed.
	q := verify.Question{Secret: secret(t, 1), Permission: "doc:read OR doc:write"}
	if err := v.Check(&q); err != nil || v.Recheck(&q).Code != events.CodeValid {
		t.Error("not allowed")
	}
	q.Permission = "doc:read AND doc:write"
	if d := v.Recheck(&q); d.Code != events.CodeInsufficientPermissions {
		t.Error("another query is answered")
	}
}

// kept is a sink that keeps the uses.
type kept struct {
	mu   sync.Mutex
	uses []uses.Use
}

func (k *kept) PublishUses(_ context.Context, messages []uses.Message) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	d, err := uses.NewDecoder()
	if err != nil {
		return err
	}
	for _, m := range messages {
		b, err := d.Decode(m.Subject, m.Body)
		if err != nil {
			return err
		}
		k.uses = append(k.uses, b.Uses...)
	}
	return nil
}

// The use holds what was asked, to the last byte, whether it can be read or not.
func TestQueriesAreRecorded(t *testing.T) {
	longest := strings.Repeat("doc:read OR ", 31) + "doc:write"
	longest = strings.Repeat(" ", permission.MaxQueryLen-len(longest)) + longest
	valid, denied := events.CodeValid, events.CodeInsufficientPermissions
	asked := map[string]events.Code{"doc:read": valid, "doc:write OR doc:read": valid, longest: valid, "doc:read OR": denied, "(empty)": denied}
	sink := &kept{}
	rec := newRecorder(t, sink, recording.Config{FlushEvery: time.Millisecond})
	v := newVerifier(t, verify.Config{Index: fixture(t), Recorder: rec})
	for text := range asked {
		v.Verify(t.Context(), &verify.Question{Secret: secret(t, 1), Permission: text})
	}
	if err := rec.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	// They come in the order of their times, which may be one.
	got := map[string]events.Code{}
	for _, u := range sink.uses {
		got[u.Permission] = u.Code
	}
	if len(sink.uses) != len(asked) || !maps.Equal(got, asked) {
		t.Errorf("%d uses: %v, want %v", len(sink.uses), got, asked)
	}
}

func (l *ledger) atPosition(p events.Position) *ledger { l.position = p; return l }

func TestUnrecordedUseIsUnavailable(t *testing.T) {
	rec := newRecorder(t, &stuck{}, recording.Config{MaxBuffered: 64, MaxWait: time.Millisecond})
	v := newVerifier(t, verify.Config{Index: fixture(t), Recorder: rec})
	q := verify.Question{Secret: secret(t, 1)}
	valid, refused := 0, 0
	for range 200 {
		switch d := v.Verify(t.Context(), &q); d.Code {
		case events.CodeValid:
			valid++
		case events.CodeUnavailable:
			refused++
		default:
			t.Fatal(d.Code)
		}
	}
	if valid == 0 || refused == 0 || valid > 64 || uint64(refused) != v.Unrecorded(events.CodeUnavailable) {
		t.Errorf("%d given, %d refused", valid, refused)
	}
}

func TestQuestionKeepsItsSecret(t *testing.T) {
	q := verify.Question{Secret: "sk-imported"}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("asked", "question", q, "pointer", &q)
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %s %v %#v", q, q, q, q, &q, &q), log.String()} {
		if strings.Contains(text, "imported") {
			t.Error("a question told its secret")
		}
	}
}

func TestClosedVerifierDenies(t *testing.T) {
	v := newVerifier(t, verify.Config{Index: fixture(t)})
	v.Close()
	if d := v.Verify(t.Context(), &verify.Question{Secret: secret(t, 1)}); d.Code != events.CodeUnavailable {
		t.Errorf("a closed verifier says %s", d.Code)
	}
}

func TestAtLeastWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := fixture(t)
		pos := x.Applied() + 1
		done := make(chan struct{})
		v := newVerifier(t, verify.Config{Index: x, MaxWait: time.Second, WaitFor: func(ctx context.Context, p events.Position) error {
			if p != pos {
				t.Errorf("waits for %d", p)
			}
			select {
			case <-done:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}})
		q := verify.Question{Secret: secret(t, 1), AtLeast: pos}
		start := time.Now()
		if d := v.Verify(t.Context(), &q); d.Code != events.CodeStale || time.Since(start) != time.Second {
			t.Errorf("%s after %s", d.Code, time.Since(start))
		}
		go func() {
			time.Sleep(time.Second / 2)
			newLedger(x).atPosition(pos-1).add(events.RevokedSubject(acme, keyID(1)), events.KeyRevoked{})
			close(done)
		}()
		if d := v.Verify(t.Context(), &q); d.Code != events.CodeRevoked || d.Position != pos {
			t.Errorf("%s at %d", d.Code, d.Position)
		}
	})
}

func TestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := fixture(t)
		k := key(30, secret(t, 30))
		k.ExpiresAt = events.TimeOf(time.Now().Add(10 * time.Second)).WholeSecond()
		newLedger(x).atPosition(x.Applied()).add(events.KeySubject(acme, k.ID), k)
		proof := time.Now()
		strict := newVerifier(t, verify.Config{Index: x, MaxStaleness: 20 * time.Second, Fresh: func() time.Time { return proof }})
		lenient := newVerifier(t, verify.Config{Index: x, MaxStaleness: 20 * time.Second, Fresh: func() time.Time { return proof }, ServeStale: true})
		unproven := newVerifier(t, verify.Config{Index: x, Fresh: func() time.Time { return time.Time{} }})
		ask := func(v *verify.Verifier, n int) verify.Decision {
			t.Helper()
			time.Sleep(2 * time.Millisecond)
			return v.Verify(t.Context(), &verify.Question{Secret: secret(t, n)})
		}
		if d := ask(strict, 30); !d.Valid() || d.ExpiresAt != k.ExpiresAt || d.Staleness > 10*time.Millisecond {
			t.Errorf("%s, expires at %s, stale for %s", d.Code, d.ExpiresAt, d.Staleness)
		}
		future := newVerifier(t, verify.Config{Index: x, Fresh: func() time.Time { return time.Now().Add(time.Hour) }})
		for name, v := range map[string]*verify.Verifier{"never proven": unproven, "proven by the future": future} {
			if d := ask(v, 30); d.Code != events.CodeStale || d.Staleness != math.MaxInt64 || !v.Stale() {
				t.Errorf("%s: %s, %s", name, d.Code, d.Staleness)
			}
		}
		time.Sleep(10 * time.Second)
		if d := ask(strict, 30); d.Code != events.CodeExpired {
			t.Errorf("after its time: %s", d.Code)
		}
		time.Sleep(10 * time.Second)
		if d := ask(strict, 1); d.Code != events.CodeStale || d.Stale || d.Staleness < 20*time.Second {
			t.Errorf("past its staleness: %s, %s", d.Code, d.Staleness)
		}
		if d := ask(strict, 2); d.Code != events.CodeRevoked {
			t.Errorf("revoked, past its staleness: %s", d.Code)
		}
		if d := ask(lenient, 1); !d.Valid() || !d.Stale {
			t.Errorf("served stale: %s, %t", d.Code, d.Stale)
		}
	})
}

// ended is a ledger that tells its facts and, when it is told to, breaks.
type ended struct {
	facts  []events.Recorded
	broken chan struct{}
}

func (e *ended) Last(context.Context) (events.Position, error) {
	return events.Position(len(e.facts)), nil
}

func (e *ended) Follow(ctx context.Context, _ events.Position, apply func([]events.Recorded) error) error {
	if err := apply(e.facts); err != nil {
		return err
	}
	select {
	case <-e.broken:
		return events.ErrCorrupt
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestStoppedIndexIsStale: nothing that happened after it stopped can reach it,
// however fresh it was just before.
func TestStoppedIndexIsStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &ended{broken: make(chan struct{})}
		l := newLedger(newIndex(t, 0))
		l.seen = func(r events.Recorded) {
			r.Stored = events.TimeOf(time.Now())
			source.facts = append(source.facts, r)
		}
		l.begin(acme)
		l.add(events.KeySubject(acme, keyID(1)), key(1, secret(t, 1)))
		x := newIndex(t, 0)
		runner, err := projections.NewRunner(projections.Config{Source: source, View: x})
		if err != nil {
			t.Fatal(err)
		}
		v := newVerifier(t, verify.Config{Index: x, Fresh: runner.Fresh, WaitFor: runner.WaitFor, MaxStaleness: time.Hour})
		stopped := make(chan error)
		go func() { stopped <- runner.Run(t.Context()) }()
		q := verify.Question{Secret: secret(t, 1)}
		time.Sleep(5 * time.Second)
		// As old as the last event: that nothing came since proves nothing.
		if d := v.Verify(t.Context(), &q); !d.Valid() || d.Staleness.Round(time.Second) != 5*time.Second {
			t.Errorf("%s, stale for %s", d.Code, d.Staleness)
		}
		close(source.broken)
		if err := <-stopped; !errors.Is(err, events.ErrCorrupt) {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
		if d := v.Verify(t.Context(), &q); d.Code != events.CodeStale || d.Staleness != math.MaxInt64 {
			t.Errorf("%s, stale for %s", d.Code, d.Staleness)
		}
	})
}
