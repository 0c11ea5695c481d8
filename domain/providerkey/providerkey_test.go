package providerkey_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/domain/providerkey"
	"github.com/keyledger/keyledger/events"
)

func sealed(n byte) events.SealedSecret {
	return events.SealedSecret{DataKey: events.DataKeyID{n}, Secret: "c2VjcmV0", LastFour: "Zm91cg"}
}

func decide(t *testing.T, s providerkey.State, c providerkey.Command, facts int) providerkey.State {
	t.Helper()
	got, err := providerkey.Decide(s, c)
	if err != nil || len(got) != facts {
		t.Fatalf("%T gave %v, %v, want %d facts", c, got, err, facts)
	}
	for _, e := range got {
		s = providerkey.Evolve(s, e)
	}
	return s
}

func added(t *testing.T) providerkey.State {
	t.Helper()
	return decide(t, providerkey.State{}, providerkey.Add{
		Plan: events.PlanGrowth, Provider: events.ProviderOpenAI, Name: events.ClearText("Ours"), Sealed: sealed(1),
	}, 1)
}

func test(version uint64, at events.Time, result events.ProviderResult) providerkey.NoteTest {
	return providerkey.NoteTest{Test: providerkey.Test{Version: version, At: at, Result: result}}
}

func missing(models ...string) providerkey.NoteTest {
	c := test(1, 1, events.ProviderMissingModels)
	c.Test.MissingModels = models
	return c
}

func TestLife(t *testing.T) {
	s := added(t)
	if !s.Connected || s.Version != 1 || s.Provider != events.ProviderOpenAI || s.Sealed != sealed(1) || s.Name.Clear != "Ours" {
		t.Fatalf("%+v", s)
	}
	s = decide(t, s, test(1, 10, events.ProviderWorks), 1)
	s = decide(t, s, providerkey.Replace{Plan: events.PlanEnterprise, Sealed: sealed(2)}, 1)
	if s.Version != 2 || s.Sealed != sealed(2) || s.Dead != sealed(1).DataKey || s.Tested.Result != "" || s.Works {
		t.Fatalf("replaced: %+v", s)
	}
	s = decide(t, s, providerkey.Rename{Name: events.ClearText("Theirs")}, 1)
	decide(t, s, providerkey.Rename{Name: events.ClearText("Theirs")}, 0)
	decide(t, s, providerkey.Rename{Name: events.ClearText("Theirs"), Insist: true}, 1)
	if s = decide(t, s, providerkey.Rename{}, 1); !s.Name.IsZero() {
		t.Fatalf("named %v", s.Name)
	}
	s = decide(t, s, providerkey.Remove{}, 1)
	if s.Connected || s.Sealed != (events.SealedSecret{}) || s.Dead != sealed(2).DataKey || s.Version != 2 {
		t.Fatalf("removed: %+v", s)
	}
	decide(t, s, providerkey.Remove{}, 0)
	s = decide(t, s, providerkey.Add{Plan: events.PlanGrowth, Provider: events.ProviderOpenAI, Sealed: sealed(3)}, 1)
	if !s.Connected || s.Version != 3 || s.Sealed != sealed(3) {
		t.Fatalf("added again: %+v", s)
	}
}

// An older fact puts no secret back.
func TestNoSecretComesBack(t *testing.T) {
	s := added(t)
	s = decide(t, s, providerkey.Replace{Plan: events.PlanGrowth, Sealed: sealed(2)}, 1)
	s = decide(t, s, providerkey.Remove{}, 1)
	for _, e := range []events.Event{
		events.ProviderKeyAdded{Provider: events.ProviderOpenAI, Version: 1, Sealed: sealed(1)},
		events.ProviderKeyReplaced{Version: 2, Sealed: sealed(2), Replaces: sealed(1).DataKey},
	} {
		if got := providerkey.Evolve(s, e); got.Connected || got.Sealed != (events.SealedSecret{}) {
			t.Errorf("%T brought it back: %+v", e, got)
		}
	}
}

func TestPlans(t *testing.T) {
	s := added(t)
	for plan, entitled := range map[events.Plan]bool{events.PlanStarter: false, "": false, "gold": false, events.PlanGrowth: true, events.PlanEnterprise: true} {
		if plan.TakesProviderKeys() != entitled {
			t.Errorf("plan %q: entitled is %t", plan, !entitled)
		}
		for what, c := range map[string]struct {
			state   providerkey.State
			command providerkey.Command
		}{
			"add":     {providerkey.State{}, providerkey.Add{Plan: plan, Provider: events.ProviderOpenAI, Sealed: sealed(1)}},
			"replace": {s, providerkey.Replace{Plan: plan, Sealed: sealed(2)}},
		} {
			_, err := providerkey.Decide(c.state, c.command)
			if refused := errors.Is(err, domain.ErrPlanRequired) && errors.Is(err, domain.ErrForbidden) && strings.Contains(err.Error(), "growth"); refused == entitled {
				t.Errorf("%s under plan %q: %v", what, plan, err)
			}
		}
		if suspended := s.Condition(plan) == providerkey.ConditionSuspended; suspended == entitled {
			t.Errorf("plan %q: %s", plan, s.Condition(plan))
		}
	}
	// What takes away, or only names, needs no plan.
	decide(t, s, providerkey.Rename{Name: events.ClearText("X")}, 1)
	decide(t, s, providerkey.Remove{}, 1)
}

func TestConditions(t *testing.T) {
	s := added(t)
	for i, step := range []struct {
		result events.ProviderResult
		want   providerkey.Condition
	}{
		{events.ProviderUnreachable, providerkey.ConditionFailing},
		{events.ProviderWorks, providerkey.ConditionConnected},
		{events.ProviderRateLimited, providerkey.ConditionConnected},
		{events.ProviderUnreachable, providerkey.ConditionConnected},
		{events.ProviderWorks, providerkey.ConditionConnected},
		{events.ProviderExpiredOrRevoked, providerkey.ConditionFailing},
		{events.ProviderRateLimited, providerkey.ConditionFailing},
		{events.ProviderWorks, providerkey.ConditionConnected},
		{events.ProviderMissingModels, providerkey.ConditionFailing},
	} {
		s = providerkey.Evolve(s, events.ProviderKeyTested{Version: 1, At: events.Time(i), Result: step.result})
		if got := s.Condition(events.PlanGrowth); got != step.want || s.Tested.Result != step.result {
			t.Errorf("after test %d, %s: %s, want %s", i, step.result, got, step.want)
		}
	}
	s = decide(t, s, providerkey.Replace{Plan: events.PlanGrowth, Sealed: sealed(2)}, 1)
	if got := s.Condition(events.PlanGrowth); got != providerkey.ConditionUntested {
		t.Errorf("replaced: %s", got)
	}
	// What a test of the secret before came to says nothing of this one.
	decide(t, s, test(1, 99, events.ProviderInvalid), 0)
	if got := providerkey.Evolve(s, events.ProviderKeyTested{Version: 1, At: 99, Result: events.ProviderInvalid}); got.Tested.Result != "" {
		t.Errorf("%+v", got.Tested)
	}
}

// A row of failed tests is told once, with its beginning.
func TestFailingTests(t *testing.T) {
	s := decide(t, added(t), test(1, 1, events.ProviderWorks), 1)
	for round := range 2 {
		at := events.Time(100 * (round + 1))
		s = decide(t, s, test(1, at, events.ProviderInvalid), 1)
		s = decide(t, s, test(1, at+1, events.ProviderUnreachable), 1)
		facts, err := providerkey.Decide(s, test(1, at+2, events.ProviderExpiredOrRevoked))
		want := []events.Event{
			events.ProviderKeyTested{Version: 1, At: at + 2, Result: events.ProviderExpiredOrRevoked},
			events.ProviderKeyFailing{Of: events.FailingTests, Since: at, Failures: events.FailingTestsInRow, Code: "expired_or_revoked"},
		}
		if diff := cmp.Diff(want, facts); err != nil || diff != "" {
			t.Fatalf("%v, %s", err, diff)
		}
		s = decide(t, s, test(1, at+2, events.ProviderExpiredOrRevoked), 2)
		s = decide(t, s, test(1, at+3, events.ProviderInvalid), 1)
		s = decide(t, s, test(1, at+4, events.ProviderWorks), 1)
	}
}

func TestSources(t *testing.T) {
	s := added(t)
	note := func(label string) providerkey.NoteSource {
		return providerkey.NoteSource{At: 5, By: events.KeyID{7}, Source: events.SourceLabel(label)}
	}
	facts, _ := providerkey.Decide(s, note("a"))
	if diff := cmp.Diff([]events.Event{events.ProviderKeyNewSource{At: 5, By: events.KeyID{7}, Source: "a", First: true}}, facts); diff != "" {
		t.Error(diff)
	}
	s = decide(t, s, note("a"), 1)
	decide(t, s, note("a"), 0)
	off := note("b")
	off.Signals.NewSource = events.SwitchOff
	decide(t, s, off, 0)
	for i := range events.MaxProviderSources - 1 {
		facts, err := providerkey.Decide(s, note(string(rune('b'+i))))
		if err != nil || len(facts) != 1 || facts[0].(events.ProviderKeyNewSource).First {
			t.Fatalf("%v, %v", facts, err)
		}
		s = decide(t, s, note(string(rune('b'+i))), 1)
	}
	decide(t, s, note("z"), 0)
	// They are known for ever: a key that comes again is not new to them.
	s = decide(t, s, providerkey.Remove{}, 1)
	decide(t, s, note("z"), 0)
	s = decide(t, s, providerkey.Add{Plan: events.PlanGrowth, Provider: events.ProviderOpenAI, Sealed: sealed(2)}, 1)
	decide(t, s, note("a"), 0)
}

func TestSpikesAndFailingResolves(t *testing.T) {
	const minute = events.Time(60_000_000)
	s := added(t)
	spike := func(from events.Time, resolves, threshold int) providerkey.NoteSpike {
		return providerkey.NoteSpike{Signals: events.Signals{ResolvesPerMinute: threshold}, From: from, Resolves: resolves}
	}
	decide(t, s, spike(minute, events.DefaultResolvesPerMinute-1, 0), 0)
	decide(t, s, spike(minute, events.DefaultResolvesPerMinute, 0), 1)
	s = decide(t, s, spike(minute, 7, 7), 1)
	decide(t, s, spike(60*minute, 7, 7), 0)
	decide(t, s, spike(61*minute, 7, 7), 1)
	if s.NextSpike() != 61*minute || (providerkey.State{}).NextSpike() != 0 {
		t.Errorf("next at %d", s.NextSpike())
	}
	failing := func(since events.Time, failures int) providerkey.NoteFailing {
		return providerkey.NoteFailing{Failing: events.ProviderKeyFailing{Of: events.FailingResolves, Since: since, Failures: failures, Code: "forbidden"}}
	}
	decide(t, s, failing(minute, events.FailingResolvesPerHour-1), 0)
	s = decide(t, s, failing(minute, events.FailingResolvesPerHour), 1)
	decide(t, s, failing(60*minute, 99), 0)
	decide(t, s, failing(61*minute, 99), 1)
	tests := failing(99*minute, 99)
	tests.Failing.Of = events.FailingTests
	decide(t, s, tests, 0)
	gone := decide(t, s, providerkey.Remove{}, 1)
	decide(t, gone, spike(999*minute, 7, 7), 0)
	decide(t, gone, failing(999*minute, 99), 0)
}

func TestRefusals(t *testing.T) {
	live := added(t)
	add := func(p events.ProviderID, baseURL string) providerkey.Add {
		return providerkey.Add{Plan: events.PlanGrowth, Provider: p, BaseURL: baseURL, Sealed: sealed(1)}
	}
	long := add(events.ProviderOpenAI, "")
	long.Name = events.ClearText(strings.Repeat("x", events.MaxNameLength+1))
	for what, c := range map[string]struct {
		state   providerkey.State
		command providerkey.Command
		is      error
		field   string
	}{
		"unknown provider": {providerkey.State{}, add("openia", ""), domain.ErrUnknownProvider, "provider"},
		"long name":        {providerkey.State{}, long, domain.ErrInvalid, "name"},
		"needs a base URL": {providerkey.State{}, add(events.ProviderAzureOpenAI, ""), provider.ErrBaseURLRequired, "base_url"},
		"wants none":       {providerkey.State{}, add(events.ProviderOpenAI, "https://example.com"), provider.ErrBaseURLForbidden, "base_url"},
		"http":             {providerkey.State{}, add(events.ProviderOpenAICompatible, "http://example.com"), provider.ErrBaseURLForbidden, "base_url"},
		"another for it":   {live, providerkey.Replace{Plan: events.PlanGrowth, BaseURL: "https://example.com", Sealed: sealed(2)}, provider.ErrBaseURLForbidden, "base_url"},
		"connected":        {live, add(events.ProviderOpenAI, ""), domain.ErrProviderKeyExists, "provider"},
		"replace none":     {providerkey.State{}, providerkey.Replace{Plan: events.PlanGrowth, Sealed: sealed(1)}, domain.ErrNotFound, ""},
		"rename none":      {providerkey.State{}, providerkey.Rename{}, domain.ErrNotFound, ""},
		"remove none":      {providerkey.State{}, providerkey.Remove{}, domain.ErrNotFound, ""},
		"test none":        {providerkey.State{}, test(0, 1, events.ProviderWorks), domain.ErrNotFound, ""},
		"no result":        {live, test(1, 1, "good"), domain.ErrInvalid, "result"},
		"never tested":     {live, test(1, 0, events.ProviderWorks), domain.ErrInvalid, "result"},
		"many models":      {live, missing(make([]string, events.MaxModels+1)...), domain.ErrInvalid, "missing_models"},
		"a long model":     {live, missing(strings.Repeat("m", events.MaxModelLength+1)), domain.ErrInvalid, "missing_models"},
		"control in name":  {live, providerkey.Rename{Name: events.ClearText("a\nb")}, domain.ErrInvalid, "name"},
		"nothing":          {live, nil, domain.ErrInvalid, ""},
	} {
		facts, err := providerkey.Decide(c.state, c.command)
		var refusal *domain.Refusal
		if !errors.As(err, &refusal) || !errors.Is(err, c.is) || refusal.Field != c.field || len(facts) != 0 {
			t.Errorf("%s: %v, %v, want %v of %q", what, facts, err, c.is, c.field)
		}
	}
	if _, err := providerkey.Decide(providerkey.State{}, add("openia", "")); !strings.Contains(err.Error(), "openai") {
		t.Errorf("no nearest name: %v", err)
	}
	// A secret is bound to one spelling of the address.
	if _, err := providerkey.Decide(providerkey.State{}, add(events.ProviderOpenAICompatible, "https://EXAMPLE.com/v1/")); err == nil {
		t.Error("an address in another spelling was taken")
	}
}

func TestCheckSecret(t *testing.T) {
	const pasted = "sk-ant-api03-abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0123456789AAAA"
	if err := providerkey.CheckSecret(events.ProviderAnthropic, providerkey.Conceal(pasted), false); err != nil {
		t.Error(err)
	}
	err := providerkey.CheckSecret(events.ProviderOpenAI, providerkey.Conceal(pasted), true)
	var malformed *providerkey.Malformed
	var refusal *domain.Refusal
	if !errors.As(err, &malformed) || malformed.Problem != provider.OtherProvider || malformed.LooksLike != "anthropic" {
		t.Errorf("%v", err)
	}
	if !errors.As(err, &refusal) || !errors.Is(err, domain.ErrProviderKeyMalformed) || refusal.Field != "secret" || strings.Contains(err.Error(), "api03") {
		t.Errorf("%v", err)
	}
	prefixless := providerkey.Conceal("proj-abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz")
	if err := providerkey.CheckSecret(events.ProviderOpenAI, prefixless, false); !errors.Is(err, domain.ErrProviderKeyMalformed) {
		t.Errorf("%v", err)
	}
	if err := providerkey.CheckSecret(events.ProviderOpenAI, prefixless, true); err != nil {
		t.Errorf("forced: %v", err)
	}
	if err := providerkey.CheckSecret(events.ProviderOpenAI, providerkey.Secret{}, true); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("none: %v", err)
	}
}

// Whatever is wished, in whatever order: there is a secret exactly while the provider
// is connected, versions only grow, and what was folded before is not changed by what
// is folded after.
func TestAnySequence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var (
			s        providerkey.State
			history  []events.Event
			previous providerkey.State
			copied   []events.SourceLabel
		)
		for n := range rapid.IntRange(1, 40).Draw(t, "steps") {
			plan := rapid.SampledFrom([]events.Plan{events.PlanStarter, events.PlanGrowth}).Draw(t, "plan")
			command := rapid.SampledFrom([]providerkey.Command{
				providerkey.Add{Plan: plan, Provider: events.ProviderOpenAI, Sealed: sealed(byte(n + 1))},
				providerkey.Replace{Plan: plan, Sealed: sealed(byte(n + 1))},
				providerkey.Rename{Name: events.ClearText(string(rune('a' + n)))},
				providerkey.Remove{},
				test(rapid.Uint64Range(1, s.Version+1).Draw(t, "version"), events.Time(n+1), rapid.SampledFrom(events.ProviderResults()).Draw(t, "result")),
				providerkey.NoteSource{Source: events.SourceLabel(rapid.StringMatching("[a-d]").Draw(t, "source"))},
			}).Draw(t, "command")
			facts, err := providerkey.Decide(s, command)
			if err != nil && len(facts) > 0 {
				t.Fatalf("%T: %v and %v", command, facts, err)
			}
			previous, copied = s, append([]events.SourceLabel(nil), s.Sources...)
			for _, e := range facts {
				before := s.Version
				s = providerkey.Evolve(s, e)
				if s.Version < before {
					t.Fatalf("version %d after %d", s.Version, before)
				}
				_ = providerkey.Evolve(previous, events.ProviderKeyNewSource{Source: "other"})
			}
			if diff := cmp.Diff(copied, append([]events.SourceLabel(nil), previous.Sources...)); diff != "" {
				t.Fatalf("the state before has changed: %s", diff)
			}
			history = append(history, facts...)
			if s.Connected != (s.Sealed != events.SealedSecret{}) || s.Works && s.Tested.Result == "" {
				t.Fatalf("%+v", s)
			}
		}
		var replayed providerkey.State
		for _, e := range history {
			replayed = providerkey.Evolve(replayed, e)
		}
		if diff := cmp.Diff(s, replayed); diff != "" {
			t.Fatal(diff)
		}
	})
}
