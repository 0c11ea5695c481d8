package api

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/uses"
)

// What stands in the place of a text that is not shown.
const (
	// markSealed: the caller may not see it, or what opens it cannot be had now.
	markSealed = "(sealed)"
	// markErased: its data subject was erased, and nobody will see it again.
	markErased = "(erased)"
	// markLeftOut: it could not be sealed in time when the use was recorded.
	markLeftOut = "(left out)"
)

const (
	// openWait bounds how long a text is waited for that is sealed.
	openWait = 2 * time.Second

	// opensAgain is how long texts are shown as sealed after what opens them could
	// not be had: an answer with many of them must not wait for each.
	opensAgain = time.Second
)

// openers remembers that sealed texts could not be opened.
type openers struct{ again atomic.Int64 }

// seesSealed reports whether a caller sees what is sealed. A member may look at
// keys, and not at what they tell of persons.
func seesSealed(p commands.Principal, org events.OrgID) bool {
	switch p.Role {
	case events.RoleOwner, events.RoleAdmin, events.RoleAuditor:
		return p.Reaches(org)
	default:
		return false
	}
}

// text shows a text of an organization to a caller: in clear, or a mark in the
// place of one that is sealed and not for them, or erased.
func (s *Server) text(ctx context.Context, p commands.Principal, org events.OrgID, t events.Text) string {
	if t.Sealed.IsZero() {
		return t.Clear
	}
	return s.opened(ctx, p, org, t.Sealed, seals.TextOfFact)
}

// useText does so with a text that came with a use.
func (s *Server) useText(ctx context.Context, p commands.Principal, org events.OrgID, t string) string {
	if t == uses.SealedNone {
		return markLeftOut
	}
	if sealed, ok := uses.ParseSealed(t); ok {
		return s.opened(ctx, p, org, sealed, seals.TextOfUse)
	}
	return t
}

// metadata shows a key's metadata to a caller.
func (s *Server) metadata(ctx context.Context, p commands.Principal, org events.OrgID, m events.Metadata) map[string]string {
	out := make(map[string]string, len(m))
	for name, value := range m {
		out[name] = s.text(ctx, p, org, value)
	}
	return out
}

func (s *Server) opened(ctx context.Context, p commands.Principal, org events.OrgID, sealed events.Sealed, what string) string {
	if s.cfg.Unseal == nil || !seesSealed(p, org) || time.Now().UnixNano() < s.openers.again.Load() {
		return markSealed
	}
	waiting, cancel := context.WithTimeout(ctx, openWait)
	defer cancel()
	text, err := s.cfg.Unseal(waiting, org, sealed, what)
	switch {
	case err == nil:
		return text
	case errors.Is(err, seals.ErrErased):
		return markErased
	case ctx.Err() == nil && (waiting.Err() != nil || errors.Is(err, events.ErrUnavailable)):
		s.openers.again.Store(time.Now().Add(opensAgain).UnixNano())
	}
	return markSealed
}

// document shows a stored document to a caller: sealed texts stand in it as texts
// in clear do. To whom they are not shown it stays as it is stored.
func (s *Server) document(ctx context.Context, p commands.Principal, org events.OrgID, raw []byte) []byte {
	if !bytes.Contains(raw, []byte(`"sealed`)) || !seesSealed(p, org) {
		return raw
	}
	open := func(sealed events.Sealed) (string, bool) {
		text := s.opened(ctx, p, org, sealed, seals.TextOfFact)
		return text, text != markSealed
	}
	var out bytes.Buffer
	// As compact as it is stored, and with every member in its place.
	if err := unseal(jsontext.NewEncoder(&out), raw, open); err != nil {
		return raw
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

// memberSealedReason is where the envelope has a sealed reason, as a text of JSON;
// memberReason is where it has one in clear.
const (
	memberSealedReason = "sealedreason"
	memberReason       = "reason"
)

// unseal copies a JSON value with every sealed text in it replaced that opens.
func unseal(enc *jsontext.Encoder, value jsontext.Value, open func(events.Sealed) (string, bool)) error {
	switch value.Kind() {
	case '{':
		var t events.Text
		if json.Unmarshal(value, &t, json.RejectUnknownMembers(true)) == nil {
			if text, ok := open(t.Sealed); ok {
				return enc.WriteToken(jsontext.String(text))
			}
			return enc.WriteValue(value)
		}
	case '[':
	default:
		return enc.WriteValue(value)
	}
	dec := jsontext.NewDecoder(bytes.NewReader(value))
	begin, err := dec.ReadToken()
	if err != nil {
		return err
	}
	object := begin.Kind() == '{'
	if err := enc.WriteToken(begin); err != nil {
		return err
	}
	for dec.PeekKind() != '}' && dec.PeekKind() != ']' {
		name := ""
		if object {
			token, err := dec.ReadToken()
			if err != nil {
				return err
			}
			name = token.String()
		}
		member, err := dec.ReadValue()
		if err != nil {
			return err
		}
		if err := unsealMember(enc, object, name, member, open); err != nil {
			return err
		}
	}
	end, err := dec.ReadToken()
	if err != nil {
		return err
	}
	return enc.WriteToken(end)
}

// unsealMember copies a member of an object, or an element of a list.
func unsealMember(enc *jsontext.Encoder, object bool, name string, value jsontext.Value, open func(events.Sealed) (string, bool)) error {
	if !object {
		return unseal(enc, value, open)
	}
	if name == memberSealedReason && value.Kind() == '"' {
		var text string
		var sealed events.Sealed
		if json.Unmarshal(value, &text) == nil && json.Unmarshal([]byte(text), &sealed) == nil {
			if reason, ok := open(sealed); ok {
				return errors.Join(enc.WriteToken(jsontext.String(memberReason)), enc.WriteToken(jsontext.String(reason)))
			}
		}
	}
	if err := enc.WriteToken(jsontext.String(name)); err != nil {
		return err
	}
	return unseal(enc, value, open)
}
