package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/catalog"
)

const (
	// sealWorkers is how many data subjects of one batch of uses are looked up at
	// a time: a broker takes as many requests as easily as one.
	sealWorkers = 16

	// maxKnownSubjects bounds the keys whose data subject is remembered: some 200
	// bytes each.
	maxKnownSubjects = 1 << 16

	// sealWarnEvery is how often it is said that texts are left out.
	sealWarnEvery = time.Minute
)

// useSealer seals the texts of uses, for [recording.Recorder].
type useSealer struct {
	// sealing tells which organizations want it, once ready is closed.
	sealing func(events.OrgID) bool
	ready   <-chan struct{}
	// sealer returns what seals for a data subject.
	sealer func(context.Context, events.OrgID, events.DataSubject) (seals.Sealer, error)
	// subject looks up whose data a key's uses are. A key's never changes.
	subject func(context.Context, events.OrgID, events.KeyID) (events.DataSubject, error)
	log     *slog.Logger

	mu     sync.Mutex
	known  map[usedKey]events.DataSubject
	warned time.Time

	leftOut atomic.Uint64
}

type usedKey struct {
	org events.OrgID
	key events.KeyID
}

func (p *parts) newUseSealer() *useSealer {
	return &useSealer{
		sealing: p.configuration.Sealing, ready: p.memory.Ready(), sealer: p.subjects.RecentSealer, subject: p.subjectOf,
		log: p.log, known: map[usedKey]events.DataSubject{},
	}
}

// subjectOf returns the data subject of a key: as the catalog has it, or, of a key
// that it does not have yet, as the key's own first fact does.
func (p *parts) subjectOf(ctx context.Context, org events.OrgID, id events.KeyID) (events.DataSubject, error) {
	k, err := p.catalog.Key(ctx, org, id, events.TimeOf(time.Now()))
	if err == nil {
		return k.DataSubject, nil
	}
	if !errors.Is(err, catalog.ErrNotFound) {
		return "", err
	}
	facts, err := p.ledger.Load(ctx, events.KeySubject(org, id), 0)
	if err != nil {
		return "", err
	}
	for _, f := range facts {
		if created, ok := f.Event.(events.KeyCreated); ok {
			return created.Subject(), nil
		}
	}
	return "", fmt.Errorf("%w: a key without a beginning was used", events.ErrCorrupt)
}

// Sealing reports whether texts of an organization are to be sealed. Before this
// server knows, they are not to be written in clear either.
func (s *useSealer) Sealing(org events.OrgID) bool { return !s.knows() || s.sealing(org) }

func (s *useSealer) knows() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

// SealUses seals the texts of uses of one organization.
func (s *useSealer) SealUses(ctx context.Context, org events.OrgID, list []uses.Use) {
	byKey := make(map[events.KeyID][]*uses.Use)
	texts := 0
	for i := range list {
		if u := &list[i]; u.RequestID != "" || u.Path != "" || u.ClientIP != "" || u.UserAgent != "" {
			byKey[u.Key] = append(byKey[u.Key], u)
			texts++
		}
	}
	if !s.knows() {
		s.leftOut.Add(uint64(texts))
		return
	}
	todo := make(chan events.KeyID, len(byKey))
	for key := range byKey {
		todo <- key
	}
	close(todo)
	var workers sync.WaitGroup
	for range min(sealWorkers, len(byKey)) {
		workers.Go(func() {
			for key := range todo {
				if err := s.sealOf(ctx, usedKey{org, key}, byKey[key]); err != nil {
					s.warn(ctx, len(byKey[key]), err)
				}
			}
		})
	}
	workers.Wait()
}

// sealOf seals the texts of the uses of one key.
func (s *useSealer) sealOf(ctx context.Context, of usedKey, list []*uses.Use) error {
	subject, err := s.subjectFor(ctx, of)
	if err != nil {
		return err
	}
	sealer, err := s.sealer(ctx, of.org, subject)
	if err != nil {
		return err
	}
	// Most uses of a key come with the same texts.
	done := make(map[string]string)
	for _, u := range list {
		for _, text := range []*string{&u.RequestID, &u.Path, &u.ClientIP, &u.UserAgent} {
			if *text == "" {
				continue
			}
			sealed, ok := done[*text]
			if !ok {
				box, err := sealer.Seal(seals.TextOfUse, *text)
				if err != nil {
					return err
				}
				sealed = uses.SealedText(box)
				done[*text] = sealed
			}
			*text = sealed
		}
	}
	return nil
}

func (s *useSealer) subjectFor(ctx context.Context, of usedKey) (events.DataSubject, error) {
	s.mu.Lock()
	subject, ok := s.known[of]
	s.mu.Unlock()
	if ok {
		return subject, nil
	}
	subject, err := s.subject(ctx, of.org, of.key)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxKnownSubjects {
		clear(s.known)
	}
	s.known[of] = subject
	return subject, nil
}

// warn counts uses whose texts are left out, and says so now and then.
func (s *useSealer) warn(ctx context.Context, n int, err error) {
	s.leftOut.Add(uint64(n))
	s.mu.Lock()
	due := time.Since(s.warned) >= sealWarnEvery
	if due {
		s.warned = time.Now()
	}
	s.mu.Unlock()
	if due {
		s.log.LogAttrs(ctx, slog.LevelWarn, "texts of uses are left out: they could not be sealed in time",
			slog.Uint64("uses", s.leftOut.Load()), slog.Any("error", err))
	}
}
