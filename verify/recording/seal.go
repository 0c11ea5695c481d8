package recording

import (
	"context"
	"strings"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
)

const (
	// sealWait bounds how long one flush waits for what seals: below
	// DefaultMaxWait, so that no verdict is refused for it, and some times what a
	// broker takes to store a key that was not there yet.
	sealWait = 200 * time.Millisecond

	// sealAtOnce bounds the memory of sealed texts: some 1 KiB a use.
	sealAtOnce = 2048
)

// Sealer seals the texts of uses that may name a person or a place, for the
// organizations that want it: the request id, path, client IP and user agent. The
// recorder asks it when it stores uses, and no verdict waits for it.
type Sealer interface {
	// Sealing reports whether the texts of an organization's uses are to be
	// sealed. It answers at once.
	Sealing(org events.OrgID) bool

	// SealUses replaces those texts in uses of one organization by what
	// [uses.SealedText] writes, and returns when ctx ends at the latest. What it
	// has not replaced the recorder leaves out. It is never called twice at a
	// time, keeps nothing of the list, and gives one text of one key the same
	// seal each time, as long as the key is not erased: what a use comes from is
	// told by it.
	SealUses(ctx context.Context, org events.OrgID, list []uses.Use)
}

// Withhold is the [Sealer] of a verifier that has nothing to seal with, such as one
// beside an application: of organizations that have their texts sealed, texts are left
// out. A nil Withhold leaves out those of all.
type Withhold func(org events.OrgID) bool

// Sealing reports whether an organization has its texts sealed.
func (w Withhold) Sealing(org events.OrgID) bool { return w == nil || w(org) }

// SealUses replaces nothing.
func (w Withhold) SealUses(context.Context, events.OrgID, []uses.Use) {}

// sealing is the sealing of one flush. Its time begins when it is first needed.
type sealing struct {
	sealer Sealer
	ctx    context.Context
	cancel context.CancelFunc
}

func (s *sealing) wanted(org events.OrgID) bool { return s.sealer != nil && s.sealer.Sealing(org) }

// seal replaces the texts of uses, each of which is in clear.
func (s *sealing) seal(parent context.Context, org events.OrgID, list []uses.Use) {
	if s.cancel == nil {
		s.ctx, s.cancel = context.WithTimeout(parent, sealWait)
	}
	for i := range list {
		for _, text := range sealable(&list[i]) {
			*text = strings.ToValidUTF8(*text, "?")
		}
		list[i].RequestID = uses.Cut(list[i].RequestID, uses.MaxRequestIDToSeal)
	}
	s.sealer.SealUses(s.ctx, org, list)
	for i := range list {
		for _, text := range sealable(&list[i]) {
			if *text != "" && !strings.HasPrefix(*text, uses.SealedPrefix) {
				*text = uses.SealedNone
			}
		}
	}
}

func (s *sealing) end() {
	if s.cancel != nil {
		s.cancel()
	}
}

// sealable are the texts of a use that may name a person or a place.
func sealable(u *uses.Use) [4]*string {
	return [4]*string{&u.RequestID, &u.Path, &u.ClientIP, &u.UserAgent}
}
