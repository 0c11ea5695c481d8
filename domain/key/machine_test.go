package key

import (
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/configuration"
	"github.com/keyledger/keyledger/events"
)

// oracle is what a reader of the rules expects of one key, kept apart from the
// code under test.
type oracle struct {
	config  configuration.State
	now     events.Time
	exists  bool
	state   State          // as Decide and Evolve have it
	own     []events.Event // facts on the key's subject
	revoked bool           // the one on the revocation's
	expired bool           // recorded
	off     bool
	expires events.Time
	grace   events.Time
	rotated bool
	// set is when the end was set, given the moments of the notices of it.
	set   events.Time
	given []events.Time
	// born is when the key was created, aged which rotation was told of last.
	born, aged events.Time
	name       string
	count      int
}

func (o *oracle) status() events.Status {
	passed := func(at events.Time) bool { return at != 0 && o.now >= at }
	switch {
	case o.revoked:
		return events.StatusRevoked
	case o.expired, passed(o.expires), passed(o.grace):
		return events.StatusExpired
	case o.off:
		return events.StatusInactive
	default:
		return events.StatusActive
	}
}

func (o *oracle) ended() bool {
	s := o.status()
	return s == events.StatusRevoked || s == events.StatusExpired
}

// decide asks for a decision and folds it. It returns whether it was refused.
func (o *oracle) decide(t *rapid.T, c Command) (facts []events.Event, refused bool) {
	facts, err := Decide(o.state, c)
	if err != nil {
		var refusal *domain.Refusal
		if !errors.As(err, &refusal) || len(facts) != 0 {
			t.Fatalf("%T: %v with facts %v", c, err, facts)
		}
		return nil, true
	}
	for i, e := range facts {
		switch e.(type) {
		case events.KeyRevoked:
			o.revoked = true
		default:
			if _, ok := c.(Rotate); ok && i > 0 {
				continue // the successor's
			}
			o.own = append(o.own, e)
		}
		if before := o.state; Evolve(before, e).Equal(before) {
			t.Fatalf("%T gave a fact that changes nothing: %+v", c, e)
		}
		o.state = Evolve(o.state, e)
	}
	return facts, false
}

func (o *oracle) update(t *rapid.T, change func(*Update)) bool {
	u := Update{Now: o.now, Config: o.config}
	change(&u)
	facts, refused := o.decide(t, u)
	if !refused {
		// A wish is fulfilled by its facts.
		if again, err := Decide(o.state, u); err != nil && o.state.Status(o.now) != events.StatusExpired || len(again) != 0 {
			t.Fatalf("%+v again gave %v, %v", u, again, err)
		}
	}
	return len(facts) > 0
}

// must holds a decision to what the oracle expects.
func must(t *rapid.T, what string, got, want bool) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: %t, want %t", what, got, want)
	}
}

func TestKeyAgainstItsOracle(t *testing.T) {
	whole := config(t)
	base := simple(t)
	rapid.Check(t, func(t *rapid.T) {
		o := &oracle{config: whole, now: noon}
		t.Repeat(map[string]func(*rapid.T){
			"time": func(t *rapid.T) {
				o.now = o.now.Add(time.Duration(rapid.Int64Range(1, int64(3*time.Hour)).Draw(t, "passes")))
			},
			"create":   func(t *rapid.T) { o.create(t, base) },
			"rename":   func(t *rapid.T) { o.rename(t) },
			"switch":   func(t *rapid.T) { o.toggle(t) },
			"expiry":   func(t *rapid.T) { o.extend(t) },
			"edit":     func(t *rapid.T) { o.edit(t) },
			"rotate":   func(t *rapid.T) { o.rotate(t) },
			"shorten":  func(t *rapid.T) { o.shorten(t) },
			"notify":   func(t *rapid.T) { o.notify(t) },
			"expire":   func(t *rapid.T) { o.expire(t) },
			"age":      func(t *rapid.T) { o.age(t) },
			"revoke":   func(t *rapid.T) { o.revoke(t) },
			"":         func(t *rapid.T) { o.check(t) },
			"not back": func(t *rapid.T) { o.comeBack(t) },
		})
	})
}

func (o *oracle) create(t *rapid.T, c Create) {
	c.Now = o.now
	if hours := rapid.IntRange(0, 6).Draw(t, "hours"); hours > 0 {
		c.Expiry.At = o.now.Add(time.Duration(hours) * time.Hour)
	}
	_, refused := o.decide(t, c)
	must(t, "create refused", refused, o.exists)
	if !refused {
		o.moved(func() { o.exists, o.expires, o.born = true, c.Expiry.At.WholeSecond(), o.now })
	}
}

// end is when the key's time comes.
func (o *oracle) end() events.Time {
	if o.grace != 0 && (o.expires == 0 || o.grace < o.expires) {
		return o.grace
	}
	return o.expires
}

// moved makes notices due anew where a change moves the end.
func (o *oracle) moved(change func()) {
	before := o.end()
	if change(); o.end() != before {
		o.set, o.given = o.now, nil
	}
}

func (o *oracle) notify(t *rapid.T) {
	const hour = events.Time(3_600_000_000)
	config := o.config
	// Days are too long for a key that lives for hours: its end is looked at from
	// days before.
	days := rapid.SliceOfNDistinct(rapid.IntRange(1, 3), 0, 3, rapid.ID).Draw(t, "notices")
	for _, n := range days {
		config.Organization.Policy.ExpiryNotices = append(config.Organization.Policy.ExpiryNotices, events.Period(strconv.Itoa(n)+"d"))
	}
	now := o.now - 70*hour + events.Time(rapid.IntRange(0, 70).Draw(t, "hours"))*hour
	since := o.set - 80*hour
	for _, at := range o.given {
		since = max(since, at)
	}
	want := events.Period("")
	if end := o.end(); o.exists && !o.revoked && !o.expired && end != 0 && now < end {
		nearest := since
		for _, n := range days {
			if at := end - events.Time(n)*24*hour; at <= now && at > nearest {
				nearest, want = at, events.Period(strconv.Itoa(n)+"d")
			}
		}
		if want != "" {
			o.given = append(o.given, now)
		}
	}
	facts, refused := o.decide(t, Notify{Now: now, Config: config, Since: since})
	must(t, "notify refused", refused, !o.exists)
	var got events.Period
	for _, e := range facts {
		got = e.(events.KeyExpiring).Notice
	}
	if got != want || len(facts) > 1 {
		t.Fatalf("notice %q of %v, want %q: it ends at %s, set at %s, now %s", got, days, want, o.end(), o.set, now)
	}
}

// age looks at a key from days after: those that live for hours never get old.
func (o *oracle) age(t *rapid.T) {
	const day = 24 * events.Time(3_600_000_000)
	config := o.config
	age := rapid.SampledFrom([]string{"", "never", "1d", "2d", "3d"}).Draw(t, "age")
	config.Organization.Policy.RotationDueAfter = events.Period(age)
	now := o.now + events.Time(rapid.IntRange(0, 5).Draw(t, "days"))*day + events.Time(rapid.IntRange(0, 4).Draw(t, "months"))*31*day
	want := events.Time(0)
	if end := o.end(); o.exists && !o.revoked && !o.expired && !o.rotated && (end == 0 || now < end) && age != "never" {
		days := map[string]events.Time{"": 90, "1d": 1, "2d": 2, "3d": 3}[age]
		if at := o.born - o.born%1_000_000 + days*day; at <= now && at > o.aged {
			want, o.aged = at, at
		}
	}
	facts, refused := o.decide(t, NoteRotation{Now: now, Config: config})
	must(t, "age refused", refused, !o.exists)
	must(t, "told of its age", len(facts) == 1, want != 0)
	if len(facts) == 1 {
		e := facts[0].(events.KeyRotationDue)
		if e.DueAt != want || e.After != config.Organization.Policy.RotateAfter() {
			t.Fatalf("%+v, want %s", e, want)
		}
	}
}

func (o *oracle) rename(t *rapid.T) {
	name := rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "name")
	changed := o.update(t, func(u *Update) { u.Name = domain.Some(events.ClearText(name)) })
	must(t, "renamed", changed, o.exists && !o.ended() && name != o.name)
	if changed {
		o.name = name
	}
}

func (o *oracle) toggle(t *rapid.T) {
	off := rapid.Bool().Draw(t, "off")
	status := map[bool]events.Status{true: events.StatusInactive, false: events.StatusActive}[off]
	changed := o.update(t, func(u *Update) { u.Status = domain.Some(status) })
	must(t, "switched", changed, o.exists && !o.ended() && off != o.off)
	if changed {
		o.off = off
	}
}

func (o *oracle) extend(t *rapid.T) {
	at := events.Time(0)
	if hours := rapid.IntRange(-2, 6).Draw(t, "hours"); hours != 0 {
		at = o.now.Add(time.Duration(hours) * time.Hour).WholeSecond()
	}
	changed := o.update(t, func(u *Update) { u.Expiry = domain.Some(Expiry{At: at}) })
	must(t, "moved its expiry", changed, o.exists && !o.ended() && at != o.expires && (at == 0 || at > o.now))
	if changed {
		o.moved(func() { o.expires = at })
	}
}

// edit changes what no status depends on; Equal after a replay is its check.
func (o *oracle) edit(t *rapid.T) {
	changed := o.update(t, func(u *Update) {
		if level := rapid.SampledFrom([]events.Level{"", events.LevelAll, events.LevelReadOnly, events.LevelRestricted}).Draw(t, "level"); level != "" {
			p := events.Permissions{Level: level}
			if level == events.LevelRestricted {
				p.Grants = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"report:read", "interview:*", "interview:read"}), 1, 3, rapid.ID).Draw(t, "grants")
			}
			u.Permissions = domain.Some(p)
		}
		if rapid.Bool().Draw(t, "scope") {
			w := rapid.SliceOfNDistinct(rapid.SampledFrom([]events.WorkspaceID{"a", "b"}), 0, 2, rapid.ID).Draw(t, "workspaces")
			u.Scope = domain.Some(events.Scope{AllWorkspaces: len(w) == 0, Workspaces: w})
		}
		if rapid.Bool().Draw(t, "profile") {
			u.Profile = domain.Some(rapid.SampledFrom([]events.ProfileID{"", "p"}).Draw(t, "id"))
		}
		u.Metadata = domain.Some(events.Metadata{
			rapid.SampledFrom([]string{"x", "y"}).Draw(t, "member"): events.ClearText(rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "value")),
		})
	})
	if changed {
		must(t, "edited", true, o.exists && !o.ended())
	}
}

func (o *oracle) rotate(t *rapid.T) {
	o.count++
	grace := time.Duration(rapid.IntRange(0, 4).Draw(t, "hours")) * time.Hour
	facts, refused := o.decide(t, Rotate{Now: o.now, Config: o.config, Issued: issued(1 + o.count), Grace: grace})
	must(t, "rotate refused", refused, !o.exists || o.ended() || o.rotated)
	if refused {
		return
	}
	next := evolve(State{}, facts[1:]...)
	if !next.Exists || next.RotatedFrom != o.state.ID || o.state.RotatedTo != next.ID {
		t.Fatalf("successor %+v", next)
	}
	must(t, "successor is off", next.Disabled, o.off)
	must(t, "successor is at its end", next.EndsAt().Passed(o.now), false)
	must(t, "successor is endless", next.ExpiresAt == 0, o.expires == 0)
	o.moved(func() { o.rotated, o.grace = true, o.now.Add(grace).WholeSecond() })
}

func (o *oracle) shorten(t *rapid.T) {
	grace := time.Duration(rapid.IntRange(0, 240).Draw(t, "minutes")) * time.Minute
	at := o.now.Add(grace).WholeSecond()
	changed := o.update(t, func(u *Update) { u.Grace = domain.Some(grace) })
	must(t, "shortened", changed, o.exists && !o.ended() && o.rotated && at < o.grace)
	if changed {
		o.moved(func() { o.grace = at })
	}
}

func (o *oracle) expire(t *rapid.T) {
	end := o.end()
	facts, refused := o.decide(t, Expire{Now: o.now})
	must(t, "expire refused", refused, !o.exists)
	must(t, "expired", len(facts) == 1, o.exists && !o.revoked && !o.expired && o.status() == events.StatusExpired)
	if len(facts) == 1 {
		if e := facts[0].(events.KeyExpired); e.ExpiredAt != end {
			t.Fatalf("expired at %s, its end was %s", e.ExpiredAt, end)
		}
		o.expired = true
	}
}

func (o *oracle) revoke(t *rapid.T) {
	was := o.revoked
	facts, refused := o.decide(t, Revoke{})
	must(t, "revoke refused", refused, !o.exists)
	must(t, "revoked", len(facts) == 1, o.exists && !was)
}

// comeBack tries everything at once on a key that has ended.
func (o *oracle) comeBack(t *rapid.T) {
	if !o.exists || !o.ended() {
		return
	}
	before := o.status()
	for _, c := range []Command{
		Update{Now: o.now, Config: o.config, Status: domain.Some(events.StatusActive)},
		Update{Now: o.now, Config: o.config, Expiry: domain.Some(Expiry{})},
		Update{Now: o.now, Config: o.config, Expiry: domain.Some(Expiry{At: o.now.Add(time.Hour)})},
		Update{Now: o.now, Config: o.config, Grace: domain.Some(time.Hour)},
		Rotate{Now: o.now, Config: o.config, Issued: issued(999), Grace: time.Hour},
	} {
		if _, refused := o.decide(t, c); !refused {
			t.Fatalf("a key that is %s took %T", before, c)
		}
	}
}

func (o *oracle) check(t *rapid.T) {
	replayed := evolve(State{}, o.own...)
	if o.revoked {
		replayed = Evolve(replayed, events.KeyRevoked{})
		// The revocation stands on another subject: it may be read at any time.
		at := rapid.IntRange(0, len(o.own)).Draw(t, "revoked at")
		shuffled := evolve(State{}, slices.Insert(slices.Clone(o.own), at, events.Event(events.KeyRevoked{}))...)
		if !shuffled.Equal(replayed) || shuffled.Status(o.now) != events.StatusRevoked {
			t.Fatalf("with the revocation as fact %d it is %+v", at+1, shuffled)
		}
	}
	if !replayed.Equal(o.state) {
		t.Fatalf("replayed as %+v, decided on %+v", replayed, o.state)
	}
	if !o.exists {
		must(t, "holds a place", o.state.HoldsPlace(o.now), false)
		return
	}
	if got, want := o.state.Status(o.now), o.status(); got != want {
		t.Fatalf("status %s, want %s", got, want)
	}
	must(t, "holds a place", o.state.HoldsPlace(o.now), !o.ended() && !o.rotated)
	if o.ended() && o.state.Status(o.now.Add(events.MaxPeriod)) != o.status() {
		t.Fatalf("it is %s and will not stay so", o.status())
	}
}

// Whatever is folded, in whatever order, and however often: what has ended has.
func TestEndsAreAbsorbing(t *testing.T) {
	all := []events.Event{
		events.KeyCreated{ID: events.KeyID{1}, KeyKind: events.KindAPI},
		events.KeyEnabled{},
		events.KeyDisabled{},
		events.KeyExpiryChanged{},
		events.KeyExpiryChanged{ExpiresAt: noon.Add(time.Hour)},
		events.KeyGraceChanged{GraceEndsAt: noon.Add(time.Hour)},
		events.KeyRotated{Successor: events.KeyID{2}, GraceEndsAt: noon.Add(time.Hour)},
		events.KeyExpired{ExpiredAt: noon},
		events.KeyRevoked{},
		events.Unknown{Name: "key.bound.v1", Bears: true},
		events.Malformed{},
	}
	rapid.Check(t, func(t *rapid.T) {
		order := rapid.SliceOf(rapid.IntRange(0, len(all)-1)).Draw(t, "order")
		var s State
		for _, i := range order {
			s = Evolve(s, all[i])
		}
		must(t, "revoked", s.Revoked, slices.Contains(order, 8))
		must(t, "expired", s.Expired, slices.Contains(order, 7))
		must(t, "doubtful", s.Doubtful, slices.Contains(order, 9) || slices.Contains(order, 10))
	})
}
