package gate

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
	var slow strictlyAsked
	if err := json.Unmarshal(body, &slow, json.RejectUnknownMembers(true)); err != nil {
		return BodyFault(err)
	}
	return slow.into(a)
}

// readBatch parses a body of many, and appends them to a list, in the same two
// ways.
func readBatch(body []byte, list []asked) ([]asked, error) {
	fresh := len(list)
	if list, ok := scanBatch(body, list); ok {
		return list, nil
	}
	list = list[:fresh]
	var slow struct {
		Requests []strictlyAsked `json:"requests"`
	}
	if err := json.Unmarshal(body, &slow, json.RejectUnknownMembers(true)); err != nil {
		return list, BodyFault(err)
	}
	for i := range slow.Requests {
		var a asked
		if err := slow.Requests[i].into(&a); err != nil {
			return list, InBatch(i, err)
		}
		list = append(list, a)
	}
	return list, nil
}

// strictlyAsked is what the strict decoder reads.
type strictlyAsked struct {
	wire.VerifyRequest
	// These tell an empty text or null from what was left out.
	Permission wire.Optional[string] `json:"permission"`
	Workspace  wire.Optional[string] `json:"workspace"`
	AtLeast    wire.Optional[string] `json:"at_least"`
}

func (s *strictlyAsked) into(a *asked) error {
	for _, member := range []struct {
		name string
		wire.Optional[string]
	}{{"permission", s.Permission}, {"workspace", s.Workspace}, {"at_least", s.AtLeast}} {
		// A variable that was never set must not ask for less.
		if member.Set && member.Value == "" {
			return Refuse(ErrRequest, member.name, "is empty; leave it out to ask for none")
		}
	}
	*a = asked{secret: s.Secret, permission: s.Permission.Value, workspace: s.Workspace.Value, atLeast: s.AtLeast.Value}
	if c := s.Context; c != nil {
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
	return a.scanObject(&s) && s.end()
}

// scanBatch reads the frequent form of many. Of those that are too many it reads
// one more than there may be.
func scanBatch(body []byte, list []asked) ([]asked, bool) {
	s := scanner{rest: body}
	once, tooMany := false, false
	ok := s.object(func(name string) bool {
		if once || name != "requests" {
			return false
		}
		once = true
		return s.list(func() bool {
			list = append(list, asked{})
			tooMany = len(list) > MaxVerifyBatch
			return !tooMany && list[len(list)-1].scanObject(&s)
		})
	}) && s.end()
	return list, ok || tooMany
}

// scanObject reads into what is empty.
func (a *asked) scanObject(s *scanner) bool {
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
			return a.context == recording.Context{} && s.object(func(name string) bool { return a.scanContext(s, name) })
		default:
			return false
		}
	})
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

// list reads a list whose items the callback reads.
func (s *scanner) list(item func() bool) bool {
	if !s.take('[') {
		return false
	}
	if s.take(']') {
		return true
	}
	for {
		if !item() {
			return false
		}
		if s.take(',') {
			continue
		}
		return s.take(']')
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
