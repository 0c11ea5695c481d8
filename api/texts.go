package api

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/audit"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/projections/usage"
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

// opensAtOnce is how many keys that open texts are fetched at a time.
const opensAtOnce = 16

// ahead has ready what opens texts of an answer with many rows, each of which may be
// of another data subject: one after another, a page of them would take as many
// round trips to the broker.
func (s *Server) ahead(ctx context.Context, p commands.Principal, org events.OrgID, what string, sealed iter.Seq[events.Sealed]) {
	if s.cfg.Unseal == nil || !seesSealed(p, org) {
		return
	}
	seen := map[string]bool{}
	var all sync.WaitGroup
	slots := make(chan struct{}, opensAtOnce)
	for one := range sealed {
		if seen[one.Key] {
			continue
		}
		seen[one.Key] = true
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			s.opened(ctx, p, org, one, what)
		})
	}
	all.Wait()
}

// keysAhead is ahead for keys.
func (s *Server) keysAhead(ctx context.Context, p commands.Principal, org events.OrgID, rows []catalog.Key) {
	s.ahead(ctx, p, org, seals.TextOfFact, func(yield func(events.Sealed) bool) {
		for _, k := range rows {
			for _, t := range append(slices.Collect(maps.Values(k.Metadata)), k.Name, k.ExternalID, k.RevocationReason) {
				if !t.Sealed.IsZero() && !yield(t.Sealed) {
					return
				}
			}
		}
	})
}

// usesAhead is ahead for uses.
func (s *Server) usesAhead(ctx context.Context, p commands.Principal, org events.OrgID, rows []usage.Use) {
	s.ahead(ctx, p, org, seals.TextOfUse, func(yield func(events.Sealed) bool) {
		for _, u := range rows {
			for _, text := range []string{u.ClientIP, u.UserAgent, u.Path, u.RequestID} {
				if sealed, ok := uses.ParseSealed(text); ok && !yield(sealed) {
					return
				}
			}
		}
	})
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

// document shows the stored document of an event to a caller: sealed texts stand in
// it as texts in clear do. To whom they are not shown it stays as it is stored.
func (s *Server) document(ctx context.Context, p commands.Principal, e *audit.Event) []byte {
	if !bytes.Contains(e.Raw, []byte(`"sealed`)) || !seesSealed(p, e.Subject.Org) {
		return e.Raw
	}
	var out bytes.Buffer
	u := unsealer{enc: jsontext.NewEncoder(&out), open: func(sealed events.Sealed) (string, bool) {
		text := s.opened(ctx, p, e.Subject.Org, sealed, seals.TextOfFact)
		return text, text != markSealed
	}}
	if err := u.document(e); err != nil {
		return e.Raw
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

// memberSealedReason is where a document has a sealed reason, as a text of JSON;
// memberReason is where it has one in clear.
const (
	memberSealedReason = "sealedreason"
	memberReason       = "reason"
)

// unsealer copies JSON, as compact and in the order that it is in, and puts texts in
// the place of those that open.
type unsealer struct {
	enc  *jsontext.Encoder
	open func(events.Sealed) (string, bool)
}

// document copies a document. Of its data only that of keys has sealed texts: what
// looks like one in somebody's settings is theirs.
func (u unsealer) document(e *audit.Event) error {
	ofKey := e.Subject.Aggregate == events.AggregateKey || e.Subject.Aggregate == events.AggregateProviderKey
	return u.members(e.Raw, func(name string, value jsontext.Value) error {
		if reason, ok := u.reason(name, value); ok {
			return errors.Join(u.enc.WriteToken(jsontext.String(memberReason)), u.enc.WriteToken(jsontext.String(reason)))
		}
		if err := u.enc.WriteToken(jsontext.String(name)); err != nil {
			return err
		}
		if name == "data" && ofKey {
			return u.value(value)
		}
		return u.enc.WriteValue(value)
	})
}

// reason opens a member that is a sealed reason.
func (u unsealer) reason(name string, value jsontext.Value) (string, bool) {
	var text string
	var sealed events.Sealed
	if name != memberSealedReason || json.Unmarshal(value, &text) != nil || json.Unmarshal([]byte(text), &sealed) != nil {
		return "", false
	}
	return u.open(sealed)
}

// value copies a value with all that is in it.
func (u unsealer) value(value jsontext.Value) error {
	if value.Kind() != '{' {
		return u.enc.WriteValue(value)
	}
	var t events.Text
	if json.Unmarshal(value, &t, json.RejectUnknownMembers(true)) == nil {
		if text, ok := u.open(t.Sealed); ok {
			return u.enc.WriteToken(jsontext.String(text))
		}
		return u.enc.WriteValue(value)
	}
	return u.members(value, func(name string, member jsontext.Value) error {
		if err := u.enc.WriteToken(jsontext.String(name)); err != nil {
			return err
		}
		return u.value(member)
	})
}

// members copies an object, of which each member is written by a function.
func (u unsealer) members(object jsontext.Value, write func(name string, value jsontext.Value) error) error {
	dec := jsontext.NewDecoder(bytes.NewReader(object))
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	if err := u.enc.WriteToken(jsontext.BeginObject); err != nil {
		return err
	}
	for dec.PeekKind() != '}' {
		token, err := dec.ReadToken()
		if err != nil {
			return err
		}
		name := token.String()
		value, err := dec.ReadValue()
		if err != nil {
			return err
		}
		if err := write(name, value); err != nil {
			return err
		}
	}
	return u.enc.WriteToken(jsontext.EndObject)
}
