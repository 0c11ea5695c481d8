package api

import (
	"errors"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/audit"
)

// A change wakes those whose it is, and one that does not keep up is told so
// and takes no memory.
func TestAudienceHandsToThoseConcerned(t *testing.T) {
	a := newAudience(nil, nil)
	r := &reading{followers: map[*follower]struct{}{}}
	of := func(org events.OrgID) *follower {
		f := &follower{reading: r, wake: make(chan struct{}, 1), wants: func(e *audit.Event) bool { return e.Subject.Org == org }}
		r.followers[f] = struct{}{}
		return f
	}
	acme, other := of("acme"), of("other")
	event := func(n int) audit.Event {
		return audit.Event{Position: events.Position(n), Subject: events.OrganizationSubject("acme")}
	}
	a.hand(r, []audit.Event{event(1), event(2)}, 2)
	if len(acme.wake) != 1 || len(other.wake) != 0 {
		t.Errorf("%d and %d are awake", len(acme.wake), len(other.wake))
	}
	if got, at, missed, err := a.take(acme); len(got) != 2 || at != 2 || missed || err != nil {
		t.Errorf("took %v up to %d, %t, %v", got, at, missed, err)
	}
	if got, at, missed, err := a.take(other); got != nil || at != 2 || missed || err != nil {
		t.Errorf("took %v up to %d, %t, %v", got, at, missed, err)
	}
	for n := range 2 * maxWaiting {
		a.hand(r, []audit.Event{event(3 + n)}, events.Position(3+n))
	}
	if acme.waiting != nil {
		t.Errorf("%d events are kept", len(acme.waiting))
	}
	if got, at, missed, err := a.take(acme); got != nil || at != 2+2*maxWaiting || !missed || err != nil {
		t.Errorf("took %v up to %d, %t, %v", got, at, missed, err)
	}
	// The end comes after what was handed out.
	stopped := errors.New("stopped")
	a.hand(r, []audit.Event{event(9999)}, 9999)
	r.err = stopped
	if got, _, _, err := a.take(acme); len(got) != 1 || err != nil {
		t.Errorf("took %v, %v", got, err)
	}
	if _, _, _, err := a.take(acme); !errors.Is(err, stopped) {
		t.Errorf("ended with %v", err)
	}
}

// Large events are not kept for who does not keep up.
func TestAudienceKeepsLittle(t *testing.T) {
	a := newAudience(nil, nil)
	r := &reading{followers: map[*follower]struct{}{}}
	f := &follower{reading: r, wake: make(chan struct{}, 1), wants: func(*audit.Event) bool { return true }}
	r.followers[f] = struct{}{}
	for n := range maxWaiting {
		a.hand(r, []audit.Event{{Position: events.Position(n), Raw: make([]byte, events.MaxFactBytes)}}, events.Position(n))
		kept := 0
		for _, e := range f.waiting {
			kept += len(e.Raw)
		}
		if kept > maxWaitingBytes {
			t.Fatalf("%d bytes are kept", kept)
		}
	}
	if _, _, missed, _ := a.take(f); !missed {
		t.Error("what is not kept is not missed either")
	}
	// Who keeps up again is handed events again.
	a.hand(r, []audit.Event{{Position: 9999, Raw: make([]byte, 1000)}}, 9999)
	if got, _, missed, _ := a.take(f); len(got) != 1 || missed {
		t.Errorf("took %d events, %t", len(got), missed)
	}
}

func TestSeats(t *testing.T) {
	a := newAudience(nil, nil)
	taken := 0
	for n := 0; taken < maxStreams; n++ {
		key := events.KeyID{byte(n)}
		for range maxStreamsOfKey {
			if err := a.sit(key); err != nil {
				t.Fatal(err)
			}
			taken++
		}
		if taken < maxStreams && !errors.Is(a.sit(key), errTooMany) {
			t.Error("a key has more than its share")
		}
	}
	stranger := events.KeyID{255}
	if err := a.sit(stranger); !errors.Is(err, events.ErrUnavailable) {
		t.Errorf("one more than there are: %v", err)
	}
	a.leave(events.KeyID{0})
	if err := a.sit(stranger); err != nil {
		t.Error(err)
	}
}
