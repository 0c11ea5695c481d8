package api

import (
	"unsafe"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/verify/recording"
)

// asked is what a verification asks. Its texts may lie in the buffer that the
// request was read into, and are good until that is used again.
type asked struct {
	secret, permission, workspace, atLeast string
	context                                recording.Context
}

// read parses a body. Almost all are one flat object of plain texts, read in
// one pass with nothing allocated. Whatever else a body is, an escape, a list,
// an error, the strict decoder reads again, and tells what is wrong.
func (a *asked) read(body []byte) error {
	if a.scan(body) {
		return nil
	}
	var slow struct {
		wire.VerifyRequest
		// These tell an empty text or null from what was left out.
		Permission wire.Optional[string] `json:"permission"`
		Workspace  wire.Optional[string] `json:"workspace"`
		AtLeast    wire.Optional[string] `json:"at_least"`
	}
	if err := json.Unmarshal(body, &slow, json.RejectUnknownMembers(true)); err != nil {
		return bodyFault(err)
	}
	for _, member := range []struct {
		name string
		wire.Optional[string]
	}{{"permission", slow.Permission}, {"workspace", slow.Workspace}, {"at_least", slow.AtLeast}} {
		// A variable that was never set must not ask for less.
		if member.Set && member.Value == "" {
			return refuse(errRequest, member.name, "is empty; leave it out to ask for none")
		}
	}
	*a = asked{secret: slow.Secret, permission: slow.Permission.Value, workspace: slow.Workspace.Value, atLeast: slow.AtLeast.Value}
	if c := slow.Context; c != nil {
		a.context = recording.Context{
			RequestID: c.RequestID, Method: c.Method, Path: c.Path, ClientIP: c.ClientIP, UserAgent: c.UserAgent,
		}
	}
	return nil
}

// scan reads the frequent form and refuses every other.
func (a *asked) scan(body []byte) bool {
	*a = asked{}
	s := scanner{rest: body}
	return s.object(func(name string) bool {
		switch name {
		case "secret":
			return s.text(&a.secret)
		case "permission":
			return s.text(&a.permission)
		case "workspace":
			return s.text(&a.workspace)
		case "at_least":
			return s.text(&a.atLeast)
		case "context":
			return a.context == recording.Context{} && s.object(func(name string) bool { return a.scanContext(&s, name) })
		default:
			return false
		}
	}) && s.end()
}

func (a *asked) scanContext(s *scanner, name string) bool {
	switch name {
	case "request_id":
		return s.text(&a.context.RequestID)
	case "method":
		return s.text(&a.context.Method)
	case "path":
		return s.text(&a.context.Path)
	case "client_ip":
		return s.text(&a.context.ClientIP)
	case "user_agent":
		return s.text(&a.context.UserAgent)
	default:
		return false
	}
}

// scanner reads JSON of printable ASCII without escapes.
type scanner struct{ rest []byte }

func (s *scanner) space() {
	for len(s.rest) > 0 {
		switch s.rest[0] {
		case ' ', '\t', '\n', '\r':
			s.rest = s.rest[1:]
		default:
			return
		}
	}
}

func (s *scanner) take(c byte) bool {
	s.space()
	if len(s.rest) == 0 || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

func (s *scanner) end() bool {
	s.space()
	return len(s.rest) == 0
}

// object reads an object whose members the callback knows and reads.
func (s *scanner) object(member func(name string) bool) bool {
	if !s.take('{') {
		return false
	}
	for {
		var name string
		if !s.text(&name) || !s.take(':') || !member(name) {
			return false
		}
		if s.take(',') {
			continue
		}
		return s.take('}')
	}
}

// text reads a string that is not empty into a place that is: a member that
// stands twice goes to the strict decoder, and so does one that says nothing.
func (s *scanner) text(into *string) bool {
	if *into != "" || !s.take('"') {
		return false
	}
	for i, c := range s.rest {
		switch {
		case c == '"':
			if i == 0 {
				return false
			}
			// Nobody writes to the buffer before the verdict is written.
			*into = unsafe.String(unsafe.SliceData(s.rest), i)
			s.rest = s.rest[i+1:]
			return true
		case c < ' ' || c > '~' || c == '\\':
			return false
		}
	}
	return false
}
