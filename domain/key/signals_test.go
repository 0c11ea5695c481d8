package key

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/domain/configuration"
	"github.com/keyledger/keyledger/events"
)

func wants(t testing.TB, s events.Signals) configuration.State {
	c := config(t)
	c.Organization.Policy.Signals = s
	return c
}

// told are the events that a wish for a signal comes to; none of them is refused.
func told(t testing.TB, s State, c Command) []events.Event {
	t.Helper()
	facts, err := Decide(s, c)
	if err != nil {
		t.Fatal(err)
	}
	return facts
}

func TestNoteSource(t *testing.T) {
	s := created(t, simple(t))
	seen := events.KeyNewSource{At: noon, Code: events.CodeValid, Verifier: "edge-1", By: events.SourceClientIP, Source: "00112233445566778899aabbccddeeff"}
	full := s
	for range events.MaxNewSources {
		full = evolve(full, seen)
	}
	ended, doubtful := config(t), config(t)
	ended.Organization.Ended, doubtful.Doubtful = true, true
	short := evolve(s, events.KeyExpiryChanged{ExpiresAt: noon.Add(time.Hour)})
	for what, c := range map[string]struct {
		state  State
		config configuration.State
		now    time.Duration
		want   int
	}{
		"active":                      {s, config(t), 0, 1},
		"switched on":                 {s, wants(t, events.Signals{NewSource: events.SwitchOn, DenialsSpike: events.SwitchOff}), 0, 1},
		"inactive":                    {evolve(s, events.KeyDisabled{}), config(t), 0, 1},
		"one before the last":         {evolve(s, sourcesOf(events.MaxNewSources-1)...), config(t), 0, 1},
		"no more":                     {full, config(t), 0, 0},
		"switched off":                {s, wants(t, events.Signals{NewSource: events.SwitchOff}), 0, 0},
		"before its end":              {short, config(t), time.Hour - time.Second, 1},
		"at its end":                  {short, config(t), time.Hour, 0},
		"expired":                     {evolve(s, events.KeyExpired{}), config(t), 0, 0},
		"revoked":                     {evolve(s, events.KeyRevoked{}), config(t), 0, 0},
		"doubtful":                    {evolve(s, events.Unknown{Bears: true}), config(t), 0, 0},
		"none":                        {State{}, config(t), 0, 0},
		"organization ended":          {s, ended, 0, 0},
		"organization not understood": {s, doubtful, 0, 0},
		"no organization":             {s, configuration.State{}, 0, 0},
	} {
		facts := told(t, c.state, NoteSource{Now: noon.Add(c.now), Config: c.config, Use: seen})
		if len(facts) != c.want || c.want == 1 && facts[0] != events.Event(seen) {
			t.Errorf("%s: %v, want %d", what, facts, c.want)
		}
	}
}

// sourcesOf are that many events of new sources.
func sourcesOf(n int) []events.Event {
	out := make([]events.Event, n)
	for i := range out {
		out[i] = events.KeyNewSource{}
	}
	return out
}

func TestNoteSpike(t *testing.T) {
	s := created(t, simple(t))
	at := func(d time.Duration) events.Time { return noon.WholeSecond().Add(d) }
	spiked := evolve(s, events.KeyDenialsSpike{From: at(0), Denials: 20, Threshold: 20})
	off := evolve(spiked, events.KeyRevoked{})
	ended := config(t)
	ended.Organization.Ended = true
	const hour, day = time.Hour, 24 * time.Hour
	for what, c := range map[string]struct {
		state     State
		config    configuration.State
		from      time.Duration
		denials   int
		threshold int // 0: none
	}{
		"enough":                 {s, config(t), 0, 20, 20},
		"more":                   {s, config(t), 0, 400, 20},
		"too few":                {s, config(t), 0, 19, 0},
		"enough for the policy":  {s, wants(t, events.Signals{DenialsPerMinute: 2, NewSource: events.SwitchOff}), 0, 2, 2},
		"too few for the policy": {s, wants(t, events.Signals{DenialsPerMinute: 100}), 0, 99, 0},
		"switched off":           {s, wants(t, events.Signals{DenialsSpike: events.SwitchOff}), 0, 50, 0},
		"again":                  {spiked, config(t), 0, 50, 0},
		"too soon":               {spiked, config(t), hour - time.Minute, 50, 0},
		"an hour later":          {spiked, config(t), hour, 50, 20},
		"before it":              {spiked, config(t), -2 * hour, 50, 0},
		"revoked":                {evolve(s, events.KeyRevoked{}), config(t), 0, 50, 20},
		"expired":                {evolve(s, events.KeyExpired{}), config(t), 0, 50, 20},
		"revoked, an hour later": {off, config(t), hour, 50, 0},
		"revoked, nearly a day":  {off, config(t), day - time.Minute, 50, 0},
		"revoked, a day later":   {off, config(t), day, 50, 20},
		"expired, an hour later": {evolve(spiked, events.KeyExpired{}), config(t), hour, 50, 0},
		"doubtful":               {evolve(s, events.Unknown{Bears: true}), config(t), 0, 50, 0},
		"none":                   {State{}, config(t), 0, 50, 0},
		"organization ended":     {s, ended, 0, 50, 0},
	} {
		facts := told(t, c.state, NoteSpike{Now: at(2 * day), Config: c.config, From: at(c.from), Denials: c.denials})
		var want []events.Event
		if c.threshold != 0 {
			want = []events.Event{events.KeyDenialsSpike{From: at(c.from), Denials: c.denials, Threshold: c.threshold}}
		}
		if len(facts) != len(want) || len(want) == 1 && facts[0] != want[0] {
			t.Errorf("%s: %v, want %v", what, facts, want)
		}
	}
}

// Whatever is told of a key, in whatever order it is seen: it is told of so many
// sources and no more, of spikes at least an hour apart, a day once it has ended; and
// nothing of the key changes by it, above all nothing that has ended comes back.
func TestSignalsAreBoundedAndChangeNothing(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := created(t, simple(t))
		var spikes []events.Time
		var ended bool
		sources := 0
		now := noon
		for range rapid.IntRange(1, 120).Draw(r, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 90).Draw(r, "minutes")) * time.Minute)
			before := s
			var facts []events.Event
			switch rapid.IntRange(0, 9).Draw(r, "what") {
			case 0:
				switch rapid.IntRange(0, 5).Draw(r, "end") {
				case 0:
					s, ended = evolve(s, events.KeyRevoked{}), true
				case 1:
					s, ended = evolve(s, events.KeyExpired{}), true
				case 2:
					s = evolve(s, events.KeyDisabled{})
				}
				continue
			case 1, 2, 3, 4:
				facts = told(t, s, NoteSource{Now: now, Config: config(t)})
				if sources += len(facts); len(facts) > 0 && ended {
					r.Fatal("a source of a key that has ended")
				}
			default:
				from := now - events.Time(rapid.IntRange(0, 600).Draw(r, "late"))*60_000_000
				facts = told(t, s, NoteSpike{Now: now, Config: config(t), From: from, Denials: rapid.IntRange(15, 30).Draw(r, "denials")})
				if len(facts) > 0 {
					every := events.SpikeEvery
					if ended {
						every = events.EndedSpikeEvery
					}
					if n := len(spikes); n > 0 && from < spikes[n-1].Add(every) {
						r.Fatalf("a spike at %s after one at %s", from, spikes[n-1])
					}
					spikes = append(spikes, from)
				}
			}
			s = evolve(s, facts...)
			same := s
			same.Sources, same.SpikeAt = before.Sources, before.SpikeAt
			if !same.Equal(before) || s.Status(now) != before.Status(now) {
				r.Fatalf("%+v became %+v", before, s)
			}
		}
		if sources > events.MaxNewSources {
			r.Fatalf("%d sources", sources)
		}
	})
}
