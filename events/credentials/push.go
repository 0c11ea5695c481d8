package credentials

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
)

const (
	// hearing is how long to wait for one more server to answer.
	hearing = 500 * time.Millisecond
	// pushing bounds the wait for all of them.
	pushing = 10 * time.Second
)

// Push makes accounts known to every server of the broker, over a connection of
// the system account, and returns once those that are there have confirmed it. A
// server that is away hears of it from the others when it comes back. How many
// servers there are is asked for if it is 0.
//
// What was not confirmed is [events.ErrUnavailable]; pushing again does no harm.
func Push(ctx context.Context, system *nats.Conn, servers int, accounts ...Account) error {
	ctx, cancel := context.WithTimeout(ctx, pushing)
	defer cancel()
	if servers == 0 {
		there, err := gather(ctx, system, "$SYS.REQ.SERVER.PING", nil, 0)
		if err != nil {
			return err
		}
		servers = len(there)
	}
	for _, account := range accounts {
		answers, err := gather(ctx, system, "$SYS.REQ.CLAIMS.UPDATE", []byte(account.JWT), servers)
		if err != nil {
			return err
		}
		for _, answer := range answers {
			if answer.Error != nil {
				return fmt.Errorf("credentials: server %s refuses account %s: %s", answer.Server.Name, account.Public, answer.Error.Description)
			}
		}
	}
	return nil
}

// answer is one server's.
type answer struct {
	Server struct {
		Name string `json:"name"`
	} `json:"server"`
	Error *struct {
		Description string `json:"description"`
	} `json:"error"`
}

// gather asks all servers, and takes as many answers as are expected, or all that
// come until it falls silent.
func gather(ctx context.Context, system *nats.Conn, subject string, body []byte, expected int) ([]answer, error) {
	inbox := system.NewInbox()
	sub, err := system.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := system.PublishRequest(subject, inbox, body); err != nil {
		return nil, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	var out []answer
	for expected == 0 || len(out) < expected {
		patience, cancel := ctx, context.CancelFunc(func() {})
		if expected == 0 && len(out) > 0 {
			patience, cancel = context.WithTimeout(ctx, hearing)
		}
		msg, err := sub.NextMsgWithContext(patience)
		cancel()
		if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err == nil && msg.Header.Get("Status") == "503" {
			err = nats.ErrNoResponders
		}
		if err != nil {
			return out, fmt.Errorf("%w: the broker does not answer %s to this connection: %w", events.ErrUnavailable, subject, err)
		}
		var a answer
		if err := json.Unmarshal(msg.Data, &a); err != nil {
			return out, fmt.Errorf("%w: unreadable answer to %s", events.ErrUnavailable, subject)
		}
		out = append(out, a)
	}
	return out, nil
}
