package providerkey

import (
	"slices"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// State is what an organization has of a provider, as its facts tell it. It goes on
// when the key is removed: the versions, the sources and what was told of them stay.
type State struct {
	Provider events.ProviderID
	// Connected says that there is a key now.
	Connected bool
	// Version is that of the last secret there was.
	Version uint64
	Name    events.Text
	BaseURL string
	// Sealed is the secret, as long as there is one.
	Sealed events.SealedSecret
	// Tested is the last test of this version; Works says that the last one that
	// tells found it good.
	Tested Test
	Works  bool
	// Failures are the tests of this version that failed in a row, the first of
	// them at FailingSince.
	Failures     int
	FailingSince events.Time
	// Sources are those that were told, the first included.
	Sources []events.SourceLabel
	// SpikeAt is the minute of the last spike that was told, FailingAt the
	// beginning of the last failing of resolves.
	SpikeAt   events.Time
	FailingAt events.Time
	// Dead is the data key that the last replacement or removal destroys.
	Dead events.DataKeyID
}

// Test is what a test of a saved key came to; without a result there was none.
type Test struct {
	Version       uint64
	At            events.Time
	Result        events.ProviderResult
	MissingModels []string
	// Status is the provider's HTTP status, if it answered.
	Status int
}

// Condition is how a provider key stands.
type Condition string

// The conditions.
const (
	// ConditionConnected: the last test of this secret works, or could not be
	// answered since one did.
	ConditionConnected Condition = "connected"
	// ConditionUntested: none was.
	ConditionUntested Condition = "untested"
	// ConditionFailing: the last one came to another result.
	ConditionFailing Condition = "failing"
	// ConditionSuspended: the organization's plan has no provider keys. It is kept
	// for one that has.
	ConditionSuspended Condition = "suspended"
)

// Condition returns how the key stands under a plan.
func (s State) Condition(plan events.Plan) Condition {
	switch {
	case !plan.TakesProviderKeys():
		return ConditionSuspended
	case s.Tested.Result == "":
		return ConditionUntested
	case s.Works:
		return ConditionConnected
	default:
		return ConditionFailing
	}
}

// RefusePlan refuses what a plan has not.
func RefusePlan(plan events.Plan) error {
	if plan.TakesProviderKeys() {
		return nil
	}
	return domain.Refuse(domain.ErrPlanRequired, "", "provider keys need plan %s or above; the organization has plan %s", events.PlanGrowth, plan)
}

// NextVersion is that of the next secret, which is bound to it.
func (s State) NextVersion() uint64 { return s.Version + 1 }

// Command is a wish about a provider key: [Add], [Replace], [Rename], [Remove],
// [NoteTest], [NoteSource], [NoteSpike] or [NoteFailing].
type Command interface{ command() }

// Add connects a provider.
type Add struct {
	Plan     events.Plan
	Provider events.ProviderID
	Name     events.Text
	BaseURL  string
	// Sealed is bound to the state's next version, and to BaseURL.
	Sealed events.SealedSecret
}

// Replace puts another secret in the place of the one before.
type Replace struct {
	Plan    events.Plan
	BaseURL string
	// Sealed is bound to the state's next version, and to BaseURL.
	Sealed events.SealedSecret
}

// Rename changes the display name; without one it has none.
type Rename struct {
	Name events.Text
	// Insist gives a fact though it is so already.
	Insist bool
}

// Remove disconnects the provider.
type Remove struct{}

func (Add) command()     {}
func (Replace) command() {}
func (Rename) command()  {}
func (Remove) command()  {}

// Decide turns a wish into facts. A wish that changes nothing gives none, unless it
// insists.
func Decide(s State, c Command) ([]events.Event, error) {
	switch c := c.(type) {
	case Add:
		return add(s, c)
	case NoteSource:
		return noteSource(s, c), nil
	case NoteSpike:
		return noteSpike(s, c), nil
	case NoteFailing:
		return noteFailing(s, c), nil
	case Remove:
		switch {
		case s.Version == 0:
			return nil, refuseMissing()
		case !s.Connected:
			return nil, nil
		}
		return []events.Event{events.ProviderKeyRemoved{DataKey: s.Sealed.DataKey}}, nil
	}
	if !s.Connected {
		return nil, refuseMissing()
	}
	switch c := c.(type) {
	case Replace:
		if err := RefusePlan(c.Plan); err != nil {
			return nil, err
		}
		if err := checkBaseURL(s.Provider, c.BaseURL); err != nil {
			return nil, err
		}
		return []events.Event{events.ProviderKeyReplaced{
			Version: s.NextVersion(), BaseURL: c.BaseURL, Sealed: c.Sealed, Replaces: s.Sealed.DataKey,
		}}, nil
	case Rename:
		if err := domain.CheckName("name", c.Name, false); err != nil {
			return nil, err
		}
		if c.Name == s.Name && !c.Insist {
			return nil, nil
		}
		return []events.Event{events.ProviderKeyRenamed{Name: c.Name}}, nil
	case NoteTest:
		return noteTest(s, c)
	default:
		return nil, domain.Refuse(domain.ErrInvalid, "", "unknown command")
	}
}

func refuseMissing() error {
	return domain.Refuse(domain.ErrNotFound, "", "there is no such provider key")
}

func add(s State, c Add) ([]events.Event, error) {
	if _, err := events.ParseProviderID(string(c.Provider)); err != nil {
		return nil, RefuseProvider(string(c.Provider))
	}
	if err := domain.CheckName("name", c.Name, false); err != nil {
		return nil, err
	}
	if err := checkBaseURL(c.Provider, c.BaseURL); err != nil {
		return nil, err
	}
	if err := RefusePlan(c.Plan); err != nil {
		return nil, err
	}
	if s.Connected {
		return nil, domain.Refuse(domain.ErrProviderKeyExists, "provider", "the organization has a key of %s; replace its secret, or remove it first", c.Provider)
	}
	return []events.Event{events.ProviderKeyAdded{
		Provider: c.Provider, Version: s.NextVersion(), Name: c.Name, BaseURL: c.BaseURL, Sealed: c.Sealed,
	}}, nil
}

// Evolve applies a fact. A secret is never put back by an older one.
func Evolve(s State, e events.Event) State {
	switch e := e.(type) {
	case events.ProviderKeyAdded:
		s = s.begin(e.Version, e.BaseURL, e.Sealed)
		s.Provider, s.Name = e.Provider, e.Name
	case events.ProviderKeyReplaced:
		s = s.begin(e.Version, e.BaseURL, e.Sealed)
		s.Dead = e.Replaces
	case events.ProviderKeyRenamed:
		s.Name = e.Name
	case events.ProviderKeyRemoved:
		s.Connected, s.Sealed, s.Name, s.BaseURL, s.Dead = false, events.SealedSecret{}, events.Text{}, "", e.DataKey
		s = s.untested()
	case events.ProviderKeyTested:
		s = s.tested(e)
	case events.ProviderKeyNewSource:
		s.Sources = append(slices.Clip(s.Sources), e.Source)
	case events.ProviderKeyResolvesSpike:
		s.SpikeAt = max(s.SpikeAt, e.From)
	case events.ProviderKeyFailing:
		if e.Of == events.FailingResolves {
			s.FailingAt = max(s.FailingAt, e.Since)
		}
	}
	return s
}

// begin puts a new secret in.
func (s State) begin(version uint64, baseURL string, sealed events.SealedSecret) State {
	if version <= s.Version {
		return s
	}
	s.Connected, s.Version, s.BaseURL, s.Sealed = true, version, baseURL, sealed
	return s.untested()
}

// untested forgets what tests of another secret came to.
func (s State) untested() State {
	s.Tested, s.Works, s.Failures, s.FailingSince = Test{}, false, 0, 0
	return s
}
