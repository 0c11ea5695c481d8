package key

import (
	"time"

	"github.com/keyledger/keyledger/domain/configuration"
	"github.com/keyledger/keyledger/events"
)

// NoteSource tells that a key was used from where it never was before. Of a key
// that has ended there is nothing to tell, and of one that was used from very many
// places no more.
type NoteSource struct {
	Now    events.Time
	Config configuration.State
	// Use is what is told.
	Use events.KeyNewSource
}

// NoteSpike tells that a minute's uses of a key were denied unusually often, if
// the organization's policy finds so. It is told of keys that have ended, too:
// somebody goes on with one that was taken from him.
type NoteSpike struct {
	Now    events.Time
	Config configuration.State
	// From is the beginning of the minute, Denials how many there were in it.
	From    events.Time
	Denials int
}

func (NoteSource) command() {}
func (NoteSpike) command()  {}

// signals are what the organization wants to be told, if anything can be: nothing
// is decided of a key, or under a configuration, that is not understood, and
// whoever ended an organization wants to hear no more of its keys.
func (s State) signals(config configuration.State) (events.Signals, bool) {
	if !s.Exists || s.Doubtful || refuseConfig(config) != nil {
		return events.Signals{}, false
	}
	return config.Organization.Policy.Signals, true
}

func noteSource(s State, c NoteSource) []events.Event {
	wanted, ok := s.signals(c.Config)
	status := s.Status(c.Now)
	live := status == events.StatusActive || status == events.StatusInactive
	if !ok || !live || wanted.NewSource == events.SwitchOff || s.Sources >= events.MaxNewSources {
		return nil
	}
	return []events.Event{c.Use}
}

func noteSpike(s State, c NoteSpike) []events.Event {
	wanted, ok := s.signals(c.Config)
	threshold := SpikeThreshold(wanted)
	if !ok || wanted.DenialsSpike == events.SwitchOff || c.Denials < threshold || c.From < s.NextSpike(c.Now) {
		return nil
	}
	return []events.Event{events.KeyDenialsSpike{From: c.From, Denials: c.Denials, Threshold: threshold}}
}

// SpikeThreshold is how many denials within a minute are a spike.
func SpikeThreshold(s events.Signals) int {
	if s.DenialsPerMinute == 0 {
		return events.DefaultDenialsPerMinute
	}
	return s.DenialsPerMinute
}

// NextSpike is the first minute of which a spike is told again, 0 where none was.
func (s State) NextSpike(now events.Time) events.Time {
	if s.SpikeAt == 0 {
		return 0
	}
	return s.SpikeAt.Add(s.spikeEvery(now))
}

func (s State) spikeEvery(now events.Time) time.Duration {
	switch s.Status(now) {
	case events.StatusActive, events.StatusInactive:
		return events.SpikeEvery
	default:
		return events.EndedSpikeEvery
	}
}
