// Package profile decides over profiles: named settings documents that can be
// attached to keys and come back with every verdict.
package profile

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// State is a profile as its facts tell it.
type State struct {
	Exists   bool
	ID       events.ProfileID
	Name     events.Text
	Settings events.Document
	Ended    bool
}

// Live reports whether the profile is there and has not ended.
func (s State) Live() bool { return s.Exists && !s.Ended }

// Command is a wish about a profile: [Create], [Update] or [Delete].
type Command interface{ command() }

// Create begins a profile.
type Create struct {
	ID       events.ProfileID
	Name     events.Text
	Settings events.Document
}

// Update changes what is set, on the state that the decision is made on.
type Update struct {
	Name domain.Optional[events.Text]
	// Settings take the place of all there are; Patch is merged into them, after
	// that, as RFC 7396 says.
	Settings domain.Optional[events.Document]
	Patch    domain.Optional[events.Document]
	// Insist gives a fact for whatever is set, though it is so already: a wish
	// that shall be met again has to be recorded.
	Insist bool
}

// Delete ends a profile for ever. Whether keys use it is asked before, of a
// view, and is advisory.
type Delete struct{}

func (Create) command() {}
func (Update) command() {}
func (Delete) command() {}

// Decide turns a wish into facts. A wish that changes nothing gives none, unless
// it insists.
func Decide(s State, c Command) ([]events.Event, error) {
	if create, ok := c.(Create); ok {
		if s.Exists {
			return nil, domain.Refuse(domain.ErrExists, "id", "the organization has, or had, a profile of this id; ids are never used again")
		}
		if _, err := events.ParseProfileID(string(create.ID)); err != nil {
			return nil, domain.RefuseID("id")
		}
		if err := domain.CheckName("name", create.Name, true); err != nil {
			return nil, err
		}
		settings, err := compact(create.Settings)
		if err != nil {
			return nil, err
		}
		return []events.Event{events.ProfileCreated{ID: create.ID, Name: create.Name, Settings: settings}}, nil
	}
	if !s.Exists {
		return nil, domain.Refuse(domain.ErrNotFound, "", "there is no such profile")
	}
	switch c := c.(type) {
	case Update:
		return update(s, c)
	case Delete:
		if s.Ended {
			return nil, nil
		}
		return []events.Event{events.ProfileDeleted{}}, nil
	default:
		return nil, domain.Refuse(domain.ErrInvalid, "", "unknown command")
	}
}

func update(s State, c Update) ([]events.Event, error) {
	if s.Ended {
		return nil, domain.Refuse(domain.ErrEnded, "", "the profile was deleted")
	}
	var out []events.Event
	if c.Name.Set && (c.Insist || c.Name.Value != s.Name) {
		if err := domain.CheckName("name", c.Name.Value, true); err != nil {
			return nil, err
		}
		out = append(out, events.ProfileRenamed{Name: c.Name.Value})
	}
	if !c.Settings.Set && !c.Patch.Set {
		return out, nil
	}
	next := c.Settings.Or(s.Settings)
	if c.Patch.Set {
		// What is no object would take the place of all there is.
		patch, err := compact(c.Patch.Value)
		if err != nil {
			return nil, err
		}
		if next, err = mergePatch(next, patch); err != nil {
			return nil, domain.Refuse(domain.ErrInvalid, "settings", "cannot be merged into what there is")
		}
	}
	settings, err := compact(next)
	if err != nil {
		return nil, err
	}
	if c.Insist || !bytes.Equal(settings, s.Settings) {
		out = append(out, events.ProfileSettingsChanged{Settings: settings})
	}
	return out, nil
}

// compact keeps the members in the order they were given, without white space
// and with each string in its shortest spelling, so that nothing hides behind an
// escape. Names that stand twice are refused: readers differ in which one counts.
func compact(doc events.Document) (events.Document, error) {
	if len(doc) == 0 {
		return events.Document("{}"), nil
	}
	out := doc.Clone()
	if err := out.Format(); err != nil || out.Kind() != jsontext.KindBeginObject {
		return nil, domain.Refuse(domain.ErrInvalid, "settings", "must be a JSON object in UTF-8 in which no name stands twice")
	}
	if len(out) > events.MaxSettingsBytes {
		return nil, domain.Refuse(domain.ErrInvalid, "settings", "is %d bytes long, at most %d are allowed", len(out), events.MaxSettingsBytes)
	}
	return out, nil
}

// Evolve applies a fact.
func Evolve(s State, e events.Event) State {
	switch e := e.(type) {
	case events.ProfileCreated:
		s = State{Exists: true, ID: e.ID, Name: e.Name, Settings: e.Settings, Ended: s.Ended}
	case events.ProfileRenamed:
		s.Name = e.Name
	case events.ProfileSettingsChanged:
		s.Settings = e.Settings
	case events.ProfileDeleted:
		s.Ended = true
	}
	return s
}
