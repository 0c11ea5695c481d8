package commands

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/seals"
)

// sealPatience bounds how long a revocation waits for its reason to be sealed: it
// is worth more than its reason.
const sealPatience = time.Second

// drawsAtOnce bounds how many keys of data subjects are fetched or drawn at once.
const drawsAtOnce = 16

// errNoSubjects says that this service cannot seal.
var errNoSubjects = fmt.Errorf("%w: commands: config: Subjects is needed to seal texts", events.ErrUnavailable)

// inClear opens the texts of a key, so that it is decided on what they say. What
// was erased stays sealed, and goes with the key wherever it goes.
func (s *Service) inClear(ctx context.Context, org events.OrgID, k key.State) (key.State, error) {
	var fault error
	open := func(t events.Text) events.Text {
		if t.Sealed.IsZero() || fault != nil {
			return t
		}
		if s.cfg.Subjects == nil {
			fault = errNoSubjects
			return t
		}
		switch text, err := s.cfg.Subjects.Open(ctx, org, t.Sealed, seals.TextOfFact); {
		case err == nil:
			return events.ClearText(text)
		case errors.Is(err, events.ErrUnavailable):
			fault = err
		default:
			// Erased, or damaged: it is as it is, and keeps nothing else from changing.
		}
		return t
	}
	k.Name, k.ExternalID = open(k.Name), open(k.ExternalID)
	if len(k.Metadata) > 0 {
		metadata := make(events.Metadata, len(k.Metadata))
		for member, text := range k.Metadata {
			metadata[member] = open(text)
		}
		k.Metadata = metadata
	}
	return k, fault
}

// seal seals what may name a person in facts that are about to be appended, where
// their organization wants that. It is the one place where texts are sealed, and
// nothing is appended that has not passed it.
//
// What ends a key, or an organization, is appended without its reason when that
// cannot be sealed: nothing keeps a revocation up.
func (s *Service) seal(ctx context.Context, a attempt, entries []events.Entry) error {
	if !s.sealing(entries) {
		return nil
	}
	ends := ending(entries)
	if ends {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, sealPatience)
		defer cancel()
	}
	err := s.sealAll(ctx, subjectsOf(a), entries)
	if err == nil || !ends {
		return err
	}
	for i := range entries {
		entries[i].Meta.Reason = events.Text{}
	}
	s.cfg.Logger.WarnContext(ctx, "a revocation is recorded without its reason, which could not be sealed", "subject", entries[0].Subject.String(), "error", err)
	return nil
}

// sealing reports whether the texts of facts are to be sealed: by what this server
// knows of their organization, or by what they say themselves.
func (s *Service) sealing(entries []events.Entry) bool {
	if len(entries) == 0 {
		return false
	}
	for _, e := range entries {
		var policy events.Policy
		switch e := e.Event.(type) {
		case events.OrganizationCreated:
			policy = e.Policy
		case events.OrganizationPolicyChanged:
			policy = e.Policy
		default:
		}
		if policy.Sealing == events.SwitchOn {
			return true
		}
	}
	own, _ := s.cfg.Configuration.standing(entries[0].Subject.Org)
	return own.Policy.Sealing == events.SwitchOn
}

// ending reports whether facts do nothing but end keys, or an organization.
func ending(entries []events.Entry) bool {
	for _, e := range entries {
		switch e.Event.(type) {
		case events.KeyRevoked, events.OrganizationDeleted:
		default:
			return false
		}
	}
	return true
}

// subjectsOf are the data subjects of the keys that an attempt is about.
func subjectsOf(a attempt) map[events.KeyID]events.DataSubject {
	out := map[events.KeyID]events.DataSubject{}
	note := func(e events.Event) {
		if created, ok := e.(events.KeyCreated); ok {
			out[created.ID] = created.Subject()
		}
	}
	for _, h := range a.histories {
		for _, f := range h {
			note(f.Event)
		}
	}
	for _, f := range a.facts {
		note(f.event)
	}
	return out
}

// sealAll seals the texts of facts of one organization, each for its data subject:
// those of a key and of what is done to it for the key's, and why something else was
// done, with what it is called, for the key that did it. What this program does by itself names nobody.
//
// What is recorded along with a change of keys, such as the guard of a limit, goes
// without the reason: sealed for another, it would outlive the erasure of theirs.
func (s *Service) sealAll(ctx context.Context, of map[events.KeyID]events.DataSubject, entries []events.Entry) error {
	org := entries[0].Subject.Org
	whose := make([]events.DataSubject, len(entries))
	needed := map[events.DataSubject]bool{}
	ofKeys := slices.ContainsFunc(entries, isOfKey)
	for i := range entries {
		if ofKeys && !isOfKey(entries[i]) {
			entries[i].Meta.Reason = events.Text{}
		}
		e := entries[i]
		if !hasTexts(e) {
			continue
		}
		id, isKey := e.Subject.Key()
		if !isKey {
			id = e.Meta.Actor.Key
		}
		if whose[i] = events.DataSubject(id.String()); isKey {
			if whose[i] = of[id]; whose[i] == "" {
				return fmt.Errorf("%w: the key's data subject is not known", events.ErrCorrupt)
			}
		}
		needed[whose[i]] = true
	}
	sealers, err := s.sealers(ctx, org, needed)
	if err != nil {
		return err
	}
	for i := range entries {
		if whose[i] == "" {
			continue
		}
		if err := sealEntry(sealers[whose[i]], &entries[i]); err != nil {
			return err
		}
	}
	return nil
}

// isOfKey reports whether a fact is one of a key.
func isOfKey(e events.Entry) bool {
	_, ok := e.Subject.Key()
	return ok
}

// sealers fetches what seals for data subjects, several at once.
func (s *Service) sealers(ctx context.Context, org events.OrgID, needed map[events.DataSubject]bool) (map[events.DataSubject]seals.Sealer, error) {
	if len(needed) > 0 && s.cfg.Subjects == nil {
		return nil, errNoSubjects
	}
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		fault error
		slots = make(chan struct{}, drawsAtOnce)
		out   = make(map[events.DataSubject]seals.Sealer, len(needed))
	)
	for subject := range needed {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			sealer, err := s.cfg.Subjects.Sealer(ctx, org, subject)
			mu.Lock()
			defer mu.Unlock()
			out[subject], fault = sealer, errors.Join(fault, err)
		})
	}
	all.Wait()
	return out, fault
}

// hasTexts reports whether a fact has a text to seal.
func hasTexts(e events.Entry) bool {
	if sealable(e) && e.Meta.Reason.Clear != "" {
		return true
	}
	switch e := e.Event.(type) {
	case events.KeyCreated:
		return e.Name.Clear != "" || e.ExternalID.Clear != "" || len(e.Metadata) > 0
	case events.KeyRenamed:
		return e.Name.Clear != ""
	case events.KeyMetadataChanged:
		return len(e.Metadata) > 0
	case events.ProviderKeyAdded:
		return e.Name.Clear != ""
	case events.ProviderKeyRenamed:
		return e.Name.Clear != ""
	default:
		return false
	}
}

// sealable reports whether a fact's reason may name a person: somebody gave it.
func sealable(e events.Entry) bool { return e.Meta.Actor.Type == events.ActorKey }

// sealEntry seals the texts of one fact.
func sealEntry(with seals.Sealer, e *events.Entry) error {
	var fault error
	text := func(t events.Text) events.Text {
		if t.Clear == "" || fault != nil {
			return t
		}
		var sealed events.Sealed
		sealed, fault = with.Seal(seals.TextOfFact, t.Clear)
		return events.Text{Sealed: sealed}
	}
	metadata := func(m events.Metadata) events.Metadata {
		if len(m) == 0 {
			return m
		}
		out := make(events.Metadata, len(m))
		for member, t := range m {
			out[member] = text(t)
		}
		return out
	}
	if sealable(*e) {
		e.Meta.Reason = text(e.Meta.Reason)
	}
	switch event := e.Event.(type) {
	case events.KeyCreated:
		event.Name, event.ExternalID, event.Metadata = text(event.Name), text(event.ExternalID), metadata(event.Metadata)
		e.Event = event
	case events.KeyRenamed:
		event.Name = text(event.Name)
		e.Event = event
	case events.KeyMetadataChanged:
		event.Metadata = metadata(event.Metadata)
		e.Event = event
	case events.ProviderKeyAdded:
		event.Name = text(event.Name)
		e.Event = event
	case events.ProviderKeyRenamed:
		event.Name = text(event.Name)
		e.Event = event
	default:
	}
	return fault
}
