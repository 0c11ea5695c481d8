package recording

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
)

// sealer seals what does not come from organization open, in a way that a test
// can look through.
type sealer struct {
	// before is asked before each text, and may refuse to seal it.
	before func(ctx context.Context, u *uses.Use, text string) bool
	calls  atomic.Int32
}

func (s *sealer) Sealing(org events.OrgID) bool { return org != "open" }

func (s *sealer) SealUses(ctx context.Context, _ events.OrgID, list []uses.Use) {
	s.calls.Add(1)
	for i := range list {
		u := &list[i]
		for _, text := range []*string{&u.RequestID, &u.Path, &u.ClientIP, &u.UserAgent} {
			if *text != "" && (s.before == nil || s.before(ctx, u, *text)) {
				*text = boxed(u.Key, *text)
			}
		}
	}
}

func boxed(key events.KeyID, text string) string {
	return uses.SealedText(events.Sealed{Subject: key.String(), Key: "0a", Box: fmt.Sprintf("%x", text)})
}

func TestTextsAreSealed(t *testing.T) {
	s := &stream{}
	c := config(s)
	c.Sealer = &sealer{}
	r := start(t, c)
	texts := Context{RequestID: strings.Repeat("r", uses.MaxRequestID), Method: "GET", Path: "/people/\xff", ClientIP: "192.0.2.7", UserAgent: "sealed:a:b:c"}
	for i, org := range []events.OrgID{"closed", "open", "closed"} {
		u := use(uint64(i))
		if u.Org = org; i != 2 {
			u.Context = texts
		}
		if !r.Record(t.Context(), &u) {
			t.Fatal("refused")
		}
	}
	stop(t, r)
	_, list, findings := s.audit(t)
	if len(list) != 3 || len(findings) != 0 {
		t.Fatalf("%d uses, findings %+v", len(list), findings)
	}
	byKey := map[events.KeyID]uses.Use{}
	for _, u := range list {
		byKey[u.Key] = u
	}
	key := use(0).Key
	want := uses.Context{
		RequestID: boxed(key, strings.Repeat("r", uses.MaxRequestIDToSeal)), Method: "GET",
		Path: boxed(key, "/people/?"), ClientIP: boxed(key, "192.0.2.7"), UserAgent: boxed(key, "sealed?a:b:c"),
	}
	if got := byKey[key]; got.Context != want || got.Permission != "interview:start" || got.Workspace != "main" {
		t.Errorf("sealed: %+v", got)
	}
	// Where nothing is sealed, nothing looks as if it were.
	want = uses.Context{RequestID: texts.RequestID, Method: "GET", Path: "/people/?", ClientIP: "192.0.2.7", UserAgent: "sealed?a:b:c"}
	if got := byKey[use(1).Key]; got.Context != want {
		t.Errorf("in clear: %+v", got)
	}
	if got := byKey[use(2).Key]; got.Context != (Context{}) {
		t.Errorf("no texts became %+v", got)
	}
}

// Without a sealer, too, no caller can have a text look erased.
func TestNothingLooksSealed(t *testing.T) {
	s := &stream{}
	r := start(t, config(s))
	u := use(1)
	u.Context = Context{RequestID: uses.SealedNone, Path: "sealed:", ClientIP: "sealed:a:b:c", UserAgent: "sealed: a"}
	if !r.Record(t.Context(), &u) {
		t.Fatal("refused")
	}
	stop(t, r)
	_, list, _ := s.audit(t)
	want := Context{RequestID: "sealed?none", Path: "sealed?", ClientIP: "sealed?a:b:c", UserAgent: "sealed? a"}
	if len(list) != 1 || list[0].Context != want {
		t.Errorf("%+v", list)
	}
}

// What cannot be sealed is left out, and neither kept in clear nor waited for.
func TestWhatCannotBeSealedIsLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stream{}
		c := config(s)
		c.Sealer = &sealer{before: func(ctx context.Context, u *uses.Use, text string) bool {
			switch u.Key[15] {
			case 1: // its key does not come
				<-ctx.Done()
				return false
			case 2: // this text of it
				return text != "192.0.2.7"
			}
			return true
		}}
		r := start(t, c)
		began := time.Now()
		for i := range 4 {
			u := use(uint64(i))
			u.Context = Context{RequestID: "r", Path: "/", ClientIP: "192.0.2.7", UserAgent: "curl"}
			if !r.Record(t.Context(), &u) {
				t.Fatal("refused")
			}
		}
		stop(t, r)
		if waited := time.Since(began); waited != sealWait {
			t.Errorf("waited %v", waited)
		}
		_, list, findings := s.audit(t)
		if len(list) != 4 || len(findings) != 0 {
			t.Fatalf("%d uses, findings %+v", len(list), findings)
		}
		none := Context{RequestID: uses.SealedNone, Path: uses.SealedNone, ClientIP: uses.SealedNone, UserAgent: uses.SealedNone}
		for i, u := range list {
			want := Context{RequestID: boxed(u.Key, "r"), Path: boxed(u.Key, "/"), ClientIP: boxed(u.Key, "192.0.2.7"), UserAgent: boxed(u.Key, "curl")}
			switch i {
			case 1:
				want = none
			case 2:
				want.ClientIP = uses.SealedNone
			}
			if u.Context != want {
				t.Errorf("use %d: %+v", i, u.Context)
			}
		}
	})
}

// However many there are, all are sealed, once each, and none is lost.
func TestManyAreSealed(t *testing.T) {
	s := &stream{}
	c := config(s)
	fake := &sealer{before: func(_ context.Context, _ *uses.Use, text string) bool {
		if !utf8.ValidString(text) || strings.HasPrefix(text, uses.SealedPrefix) {
			t.Errorf("is to seal %q", text)
		}
		return true
	}}
	c.Sealer, c.FlushEvery = fake, time.Hour
	r := start(t, c)
	const n = 3*sealAtOnce + 17
	for i := range n {
		u := use(uint64(i))
		u.Org = events.OrgID([]string{"closed", "shut"}[i%2])
		u.Context.ClientIP = fmt.Sprintf("192.0.2.%d", i%200)
		if !r.Record(t.Context(), &u) {
			t.Fatal("refused")
		}
	}
	stop(t, r)
	_, list, findings := s.audit(t)
	if len(list) != n || len(findings) != 0 {
		t.Fatalf("%d uses, findings %+v", len(list), findings)
	}
	for _, u := range list {
		if !strings.HasPrefix(u.ClientIP, uses.SealedPrefix+u.Key.String()) {
			t.Fatalf("%+v", u)
		}
	}
	if calls := fake.calls.Load(); calls < 4 {
		t.Errorf("sealed in %d parts", calls)
	}
}

// Who has nothing to seal with records texts where they may stand in clear alone.
func TestWithhold(t *testing.T) {
	for name, tt := range map[string]struct {
		withhold Withhold
		open     string
	}{"by organization": {func(org events.OrgID) bool { return org != "open" }, "192.0.2.7"}, "of all": {nil, uses.SealedNone}} {
		s := &stream{}
		c := config(s)
		c.Sealer = tt.withhold
		r := start(t, c)
		for i, org := range []events.OrgID{"closed", "open"} {
			u := use(uint64(i))
			u.Org, u.Context = org, Context{Method: "GET", ClientIP: "192.0.2.7"}
			if !r.Record(t.Context(), &u) {
				t.Fatal("refused")
			}
		}
		stop(t, r)
		_, list, findings := s.audit(t)
		if len(list) != 2 || len(findings) != 0 {
			t.Fatalf("%s: %d uses, findings %+v", name, len(list), findings)
		}
		for _, u := range list {
			want := Context{Method: "GET", ClientIP: uses.SealedNone}
			if u.Key == use(1).Key {
				want.ClientIP = tt.open
			}
			if u.Context != want {
				t.Errorf("%s: %+v", name, u)
			}
		}
	}
}
