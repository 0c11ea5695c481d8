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
	waiting map[string]chan *nats.Msg
	// stray is when the last answer came that nobody waited for (any more).
	stray time.Time
}

// ask asks a question and returns the first answer to it.
func (r *replies) ask(ctx context.Context, conn *nats.Conn, subject string, body []byte) (*nats.Msg, error) {
	answer := make(chan *nats.Msg, 1)
	r.mu.Lock()
	if r.sub == nil {
		inbox := conn.NewInbox() + "."
		sub, err := conn.Subscribe(inbox+"*", r.take)
		if err != nil {
			r.mu.Unlock()
			return nil, err
		}
		r.sub, r.inbox, r.waiting = sub, inbox, map[string]chan *nats.Msg{}
	}
	r.asked++
	id := strconv.FormatUint(r.asked, 10)
	r.waiting[id] = answer
	reply := r.inbox + id
	r.mu.Unlock()
	err := conn.PublishRequest(subject, reply, body)
	if err == nil {
		select {
		case m := <-answer:
			if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
				return nil, nats.ErrNoResponders
			}
			return m, nil
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	r.mu.Lock()
	delete(r.waiting, id)
	r.mu.Unlock()
	return nil, err
}

// take hands an answer to whoever waits for it.
func (r *replies) take(m *nats.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
	answer, ok := r.waiting[id]
	if !ok {
		r.stray = time.Now()
		return
	}
	delete(r.waiting, id)
	answer <- m
}

// doubled tells whether a second answer has come since an instant.
func (r *replies) doubled(since time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.stray.Before(since)
}
