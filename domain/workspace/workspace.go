// Package workspace decides over workspaces: the projects inside an
// organization that keys may be confined to.
package workspace

import (
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// State is a workspace as its facts tell it.
type State struct {
	Exists bool
	ID     events.WorkspaceID
	Name   events.Text
	Ended  bool
}

// Live reports whether the workspace is there and has not ended.
func (s State) Live() bool { return s.Exists && !s.Ended }

// Command is a wish about a workspace: [Create], [Update] or [Delete].
type Command interface{ command() }

// Create begins a workspace.
type Create struct {
	ID   events.WorkspaceID
	Name events.Text
}

// Update changes what is set.
type Update struct {
	Name domain.Optional[events.Text]
	// Insist gives a fact for whatever is set, though it is so already: a wish
	// that shall be met again has to be recorded.
	Insist bool
}

// Delete ends a workspace for ever. Keys whose last workspace it was are denied.
type Delete struct{}

func (Create) command() {}
func (Update) command() {}
func (Delete) command() {}

// Decide turns a wish into facts. A wish that changes nothing gives none, unless
// it insists.
func Decide(s State, c Command) ([]events.Event, error) {
	if create, ok := c.(Create); ok {
		if s.Exists {
			return nil, domain.Refuse(domain.ErrExists, "id", "the organization has, or had, a workspace of this id; ids are never used again")
		}
		if _, err := events.ParseWorkspaceID(string(create.ID)); err != nil {
			return nil, domain.RefuseID("id")
		}
		if err := domain.CheckName("name", create.Name, true); err != nil {
			return nil, err
		}
		return []events.Event{events.WorkspaceCreated(create)}, nil
	}
	if !s.Exists {
		return nil, domain.Refuse(domain.ErrNotFound, "", "there is no such workspace")
	}
	switch c := c.(type) {
	case Update:
		if s.Ended {
			return nil, domain.Refuse(domain.ErrEnded, "", "the workspace was deleted")
		}
		if !c.Name.Set || c.Name.Value == s.Name && !c.Insist {
			return nil, nil
		}
		if err := domain.CheckName("name", c.Name.Value, true); err != nil {
			return nil, err
		}
		return []events.Event{events.WorkspaceRenamed{Name: c.Name.Value}}, nil
	case Delete:
		if s.Ended {
			return nil, nil
		}
		return []events.Event{events.WorkspaceDeleted{}}, nil
	default:
		return nil, domain.Refuse(domain.ErrInvalid, "", "unknown command")
	}
}

// Evolve applies a fact.
func Evolve(s State, e events.Event) State {
	switch e := e.(type) {
	case events.WorkspaceCreated:
		s = State{Exists: true, ID: e.ID, Name: e.Name, Ended: s.Ended}
	case events.WorkspaceRenamed:
		s.Name = e.Name
	case events.WorkspaceDeleted:
		s.Ended = true
	}
	return s
}
