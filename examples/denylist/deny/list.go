// Package deny keeps a list of revoked keys for a service that asks nobody when a
// request comes in: [Follow] writes down every revocation as the ledger tells it,
// [List] answers from memory, and both outlive the service's own restart.
//
// The list fails closed. A fact that cannot be read, or that a later version of
// the ledger wrote, denies what its subject names; so does one that could not be
// handled and was set aside. And [Handler] says "not denied" only while the list
// is known to be up to date.
package deny

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/relay/watermill"
)

// Denial is one line of the list.
type Denial struct {
	// Subject names the key, or the organization with all its keys. A line without
	// one only tells that its position was seen.
	Subject string `json:"subject,omitempty"`
	// Why is the kind of the fact, or what was wrong with it.
	Why string `json:"why"`
	// Position is the fact's, At when the ledger stored it.
	Position events.Position `json:"position"`
	At       time.Time       `json:"at"`
}

// List is the deny list. It is safe for concurrent use.
type List struct {
	mu     sync.RWMutex
	denied map[string]Denial
	list   *journal
	aside  *journal
	put    map[events.Position]bool
	last   events.Position
}

// Open opens the list in a file, and beside it, in one that ends in `.aside`, the
// messages that were set aside. Both are made if need be. They belong to one
// process at a time.
func Open(path string) (*List, error) {
	l := &List{denied: map[string]Denial{}, put: map[events.Position]bool{}}
	var err error
	if l.list, err = openJournal(path, l.replay); err != nil {
		return nil, err
	}
	if l.aside, err = openJournal(path+".aside", l.replayAside); err != nil {
		return nil, errors.Join(err, l.list.close())
	}
	return l, nil
}

func (l *List) replay(line []byte) error {
	var d Denial
	if err := json.Unmarshal(line, &d); err != nil {
		return fmt.Errorf("a line is no denial: %w", err)
	}
	l.add(d)
	return nil
}

func (l *List) add(d Denial) {
	l.last = max(l.last, d.Position)
	if _, there := l.denied[d.Subject]; !there && d.Subject != "" {
		l.denied[d.Subject] = d
	}
}

// Last is the furthest position that was written down.
func (l *List) Last() events.Position {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.last
}

// Deny writes down what a fact's subject names. A fact may come twice, and is
// written once; of several about one subject the first counts.
func (l *List) Deny(r events.Recorded, why string) error {
	if r.Subject.Aggregate != events.AggregateRevoked {
		return fmt.Errorf("deny: position %d names no key", r.Position)
	}
	return l.write(Denial{Subject: r.Subject.String(), Why: why, Position: r.Position, At: r.Stored.Std()})
}

// Pass writes down that a fact has come that denies nothing: what was
// acknowledged and is not in the file was lost.
func (l *List) Pass(r events.Recorded, why string) error {
	return l.write(Denial{Why: why, Position: r.Position, At: r.Stored.Std()})
}

func (l *List) write(d Denial) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if there, ok := l.denied[d.Subject]; ok && there.Position == d.Position {
		return nil
	}
	if err := l.list.append(d); err != nil {
		return err
	}
	l.add(d)
	return nil
}

// Denied tells whether a key is on the list, or its organization with all its
// keys.
func (l *List) Denied(org events.OrgID, key events.KeyID) (Denial, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if d, ok := l.denied[events.EndSubject(org).String()]; ok {
		return d, true
	}
	d, ok := l.denied[events.RevokedSubject(org, key).String()]
	return d, ok
}

// Size tells how many lines the list has, and how many messages were set aside.
func (l *List) Size() (denied, aside int) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.denied), len(l.put)
}

// set is a message that was set aside.
type set struct {
	Metadata message.Metadata `json:"metadata"`
	Payload  []byte           `json:"payload"`
}

// Publish sets messages aside: it is where the router's poison queue leads. What
// their subjects name is denied from then on.
func (l *List) Publish(_ string, messages ...*message.Message) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range messages {
		// The place is the broker's word, and known whatever the message says.
		r, _ := watermill.Decode(m)
		if l.put[r.Position] {
			continue
		}
		if err := l.aside.append(set{m.Metadata, m.Payload}); err != nil {
			return err
		}
		l.close(r)
	}
	return nil
}

func (l *List) replayAside(line []byte) error {
	var s set
	if err := json.Unmarshal(line, &s); err != nil {
		return fmt.Errorf("a line is no message: %w", err)
	}
	m := message.NewMessage("", s.Payload)
	m.Metadata = s.Metadata
	r, _ := watermill.Decode(m)
	l.close(r)
	return nil
}

// close denies what a message that was set aside names.
func (l *List) close(r events.Recorded) {
	l.put[r.Position] = true
	l.add(Denial{Subject: r.Subject.String(), Why: "set aside", Position: r.Position, At: r.Stored.Std()})
}

// Close closes the files.
func (l *List) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.list.close(), l.aside.close())
}

var _ message.Publisher = (*List)(nil)
