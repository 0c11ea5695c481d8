package serve

import (
	"context"
	"testing"

	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/verify/announcing"
)

// TestUnannouncedIsNotFresh: before a server was announced nothing that its index holds
// makes it fresh.
func TestUnannouncedIsNotFresh(t *testing.T) {
	var p parts // has no index yet
	var err error
	p.fleet.announcer, err = announcing.New(announcing.Config{
		State:   func() presence.Announcement { return presence.Announcement{} },
		Publish: func(context.Context, presence.Announcement) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if at := p.known(); !at.IsZero() {
		t.Errorf("fresh at %s", at)
	}
	if err := p.fleet.announcer.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("once it is announced the index is not asked")
		}
	}()
	p.known()
}
