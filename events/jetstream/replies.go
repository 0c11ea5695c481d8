package jetstream

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// replies are the answers to questions, of which each has one: that a second one
// comes shows that two take themselves for the leader, and that either may have
// been heard. The client library drops it. Its zero value is ready for use.
type replies struct {
	mu      sync.Mutex
	sub     *nats.Subscription // as long as the connection
	inbox   string
	asked   uint64
	waiting map[string]*question
	// left are those of them that nobody waits for any more, the oldest first.
	left []left
	// stray is when the last answer came to a question that had one.
	stray time.Time
}

// question is one that has no answer yet.
type question struct {
	answer chan *nats.Msg
	left   bool
}

// left is a question that was given up, and when: its answer is late, and nobody
// else's word. Callers who give up must not make others doubt theirs.
type left struct {
	id string
	at time.Time
}

// ask asks a question and returns the first answer to it.
func (r *replies) ask(ctx context.Context, conn *nats.Conn, subject string, body []byte) (*nats.Msg, error) {
	q := &question{answer: make(chan *nats.Msg, 1)}
	r.mu.Lock()
	if r.sub == nil {
		inbox := conn.NewInbox() + "."
		sub, err := conn.Subscribe(inbox+"*", r.take)
		if err != nil {
			r.mu.Unlock()
			return nil, err
		}
		r.sub, r.inbox, r.waiting = sub, inbox, map[string]*question{}
	}
	r.forget()
	r.asked++
	id := strconv.FormatUint(r.asked, 10)
	r.waiting[id] = q
	reply := r.inbox + id
	r.mu.Unlock()
	err := conn.PublishRequest(subject, reply, body)
	if err == nil {
		select {
		case m := <-q.answer:
			if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
				return nil, nats.ErrNoResponders
			}
			return m, nil
		case <-ctx.Done():
			r.leave(id)
			return nil, ctx.Err()
		}
	}
	r.mu.Lock()
	delete(r.waiting, id) // it was not sent
	r.mu.Unlock()
	return nil, err
}

// leave gives a question up.
func (r *replies) leave(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if q := r.waiting[id]; q != nil {
		q.left = true
		r.left = append(r.left, left{id, time.Now()})
	}
}

// forget forgets the questions that were given up so long ago that nobody who took
// himself for the leader then does so still.
func (r *replies) forget() {
	for len(r.left) > 0 && time.Since(r.left[0].at) > settled {
		delete(r.waiting, r.left[0].id)
		r.left = r.left[1:]
	}
}

// take hands an answer to whoever waits for it.
func (r *replies) take(m *nats.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
	q := r.waiting[id]
	if q == nil {
		r.stray = time.Now()
		return
	}
	delete(r.waiting, id)
	if !q.left {
		q.answer <- m
	}
}

// doubled tells whether a second answer has come since an instant.
func (r *replies) doubled(since time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.stray.Before(since)
}
