package providerkey

import (
	"slices"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// NoteTest tells what a test of the saved key came to. Of a secret that has been
// replaced since there is nothing to tell.
type NoteTest struct{ Test Test }

// NoteSource tells that the key was resolved from where it never was before, if the
// organization wants to know. Of one that was resolved from very many places it tells
// no more.
type NoteSource struct {
	Signals events.Signals
	At      events.Time
	By      events.KeyID
	Source  events.SourceLabel
}

// NoteSpike tells that the key was resolved unusually often within a minute, if the
// organization's policy finds so and none was told of lately.
type NoteSpike struct {
	Signals events.Signals
	// From is the beginning of the minute, Resolves how many there were in it.
	From     events.Time
	Resolves int
}

// NoteFailing tells that attempts to resolve the key failed repeatedly within an
// hour, unless it was told lately.
type NoteFailing struct{ Failing events.ProviderKeyFailing }

func (NoteTest) command()    {}
func (NoteSource) command()  {}
func (NoteSpike) command()   {}
func (NoteFailing) command() {}

// noteTest gives the result, and with the one that makes a row of failures also that
// the key is failing: once for each row.
func noteTest(s State, c NoteTest) ([]events.Event, error) {
	t := c.Test
	if !slices.Contains(events.ProviderResults(), t.Result) || t.Version == 0 || t.At == 0 {
		return nil, domain.Refuse(domain.ErrInvalid, "result", "is none that a test of a provider key comes to")
	}
	if len(t.MissingModels) > events.MaxModels || slices.ContainsFunc(t.MissingModels, func(m string) bool { return len(m) > events.MaxModelLength }) {
		return nil, domain.Refuse(domain.ErrInvalid, "missing_models", "are more, or longer, than a platform may need")
	}
	if t.Version != s.Version {
		return nil, nil
	}
	tested := events.ProviderKeyTested{Version: t.Version, At: t.At, Result: t.Result, MissingModels: slices.Clone(t.MissingModels), Status: t.Status}
	out := []events.Event{tested}
	if after := s.tested(tested); after.Failures == events.FailingTestsInRow {
		out = append(out, events.ProviderKeyFailing{
			Of: events.FailingTests, Since: after.FailingSince, Failures: after.Failures, Code: string(t.Result),
		})
	}
	return out, nil
}

// tested folds a test of the secret that there is.
func (s State) tested(e events.ProviderKeyTested) State {
	if !s.Connected || e.Version != s.Version {
		return s
	}
	s.Tested = Test(e)
	switch e.Result {
	case events.ProviderWorks:
		s.Works, s.Failures, s.FailingSince = true, 0, 0
		return s
	case events.ProviderRateLimited, events.ProviderUnreachable:
		// They tell nothing of the key.
	default:
		s.Works = false
	}
	if s.Failures++; s.Failures == 1 {
		s.FailingSince = e.At
	}
	return s
}

func noteSource(s State, c NoteSource) []events.Event {
	if !s.Connected || c.Signals.NewSource == events.SwitchOff || len(s.Sources) >= events.MaxProviderSources || slices.Contains(s.Sources, c.Source) {
		return nil
	}
	return []events.Event{events.ProviderKeyNewSource{At: c.At, By: c.By, Source: c.Source, First: len(s.Sources) == 0}}
}

func noteSpike(s State, c NoteSpike) []events.Event {
	threshold := SpikeThreshold(c.Signals)
	if !s.Connected || c.Resolves < threshold || c.From < s.NextSpike() {
		return nil
	}
	return []events.Event{events.ProviderKeyResolvesSpike{From: c.From, Resolves: c.Resolves, Threshold: threshold}}
}

func noteFailing(s State, c NoteFailing) []events.Event {
	f := c.Failing
	if !s.Connected || f.Of != events.FailingResolves || f.Failures < events.FailingResolvesPerHour || f.Since < s.NextFailing() {
		return nil
	}
	return []events.Event{f}
}

// SpikeThreshold is how many resolves within a minute are a spike.
func SpikeThreshold(s events.Signals) int {
	if s.ResolvesPerMinute == 0 {
		return events.DefaultResolvesPerMinute
	}
	return s.ResolvesPerMinute
}

// NextSpike is the first minute of which a spike is told again, 0 where none was.
func (s State) NextSpike() events.Time { return again(s.SpikeAt) }

// NextFailing is from when on failing resolves are told again, 0 where none were.
func (s State) NextFailing() events.Time { return again(s.FailingAt) }

func again(told events.Time) events.Time {
	if told == 0 {
		return 0
	}
	return told.Add(events.SpikeEvery)
}
