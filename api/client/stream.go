package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/api/wire"
)

// Follow says which events are wanted.
type Follow struct {
	// Types are kinds such as key.revoked; none is all.
	Types []string
	// After is a position, "0" the beginning, and empty from now on.
	After string
	// Organization is one organization's; empty is all that the key may see.
	Organization string
	// Key, Actor, Workspace and Query narrow it as in [ChangeFilter].
	Key, Actor, Workspace, Query string
	// Interrupted is told why a connection ended before the next one is made,
	// if there is to be a next one. Optional.
	Interrupted func(why error)
}

// silence is how long a stream may say nothing: two heartbeats and a half.
const silence = 38 * time.Second

// slowAfter is what a server has patience for: whoever does not read for longer
// may find the connection cut off without a word.
const slowAfter = 30 * time.Second

// maxEventLine holds an event of the largest size with its escapes.
const maxEventLine = 1 << 20

// Events calls handle with each event as it happens, oldest first, until the
// context ends or handle returns an error, which is returned. A connection that
// breaks, or that the server ends for a reason which passes, is taken up again
// after the last event that was handled: none is left out, none comes twice.
// What does not pass, such as a key that was revoked, is returned.
//
// A handle that takes longer than 30 seconds is cut off by the server, sooner or
// later, and taken up again.
func (c *Client) Events(ctx context.Context, f Follow, handle func(wire.Event) error) error {
	backoff := firstBackoff
	for {
		begin := f.After
		err := c.follow(ctx, &f, handle)
		var own *handlerError
		again, wait := retry(err)
		if p := (*Problem)(nil); errors.As(err, &p) && p.Code == "slow_reader" {
			again = true
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &own):
			return own.err
		case !again:
			return err
		}
		if f.After != begin {
			backoff = firstBackoff
		}
		if f.Interrupted != nil {
			f.Interrupted(err)
		}
		if wait == 0 {
			wait = backoff
			backoff = min(2*backoff, maxBackoff)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// handlerError tells an error of the caller's from one of the stream.
type handlerError struct{ err error }

func (e *handlerError) Error() string { return e.err.Error() }

// follow reads one connection, and notes how far it came.
func (c *Client) follow(ctx context.Context, f *Follow, handle func(wire.Event) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &request{method: http.MethodGet, path: path("events"), query: url.Values{}, header: http.Header{"Accept": {"text/event-stream"}}}
	for name, value := range map[string]string{
		"types": joined(f.Types), "after": f.After, "organization": f.Organization,
		"key": f.Key, "actor": f.Actor, "workspace": f.Workspace, "q": f.Query,
	} {
		set(r.query, name, value)
	}
	res, err := c.open(ctx, r, maxEventLine)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	watchdog := time.AfterFunc(silence, cancel)
	defer watchdog.Stop()
	var longest time.Duration
	err = read(res.Body, func(e wire.Event) error {
		// It is the server's silence that is watched, not the caller's.
		watchdog.Stop()
		began := time.Now()
		defer func() { longest = max(longest, time.Since(began)) }()
		if err := handle(e); err != nil {
			return &handlerError{err}
		}
		return nil
	}, func(position string) { f.After = position }, func() { watchdog.Reset(silence) })
	if broke := (*transportError)(nil); errors.As(err, &broke) && longest > slowAfter {
		err = &transportError{fmt.Errorf("%w; one event took %s to handle, and a server cuts off who does not read for %s",
			broke.err, longest.Round(time.Second), slowAfter)}
	}
	return err
}

// endOf reads the last event of a stream.
func endOf(data []byte) error {
	p := &Problem{}
	if json.Unmarshal(data, &p.Problem) != nil || p.Code == "" {
		return &transportError{errors.New("the server ended the stream")}
	}
	return p
}

// read parses server-sent events. It tells how far the stream has come, also
// where no event is wanted, and that it is alive for every line. It returns why
// the stream ended.
func read(body io.Reader, handle func(wire.Event) error, came func(position string), alive func()) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 64<<10), maxEventLine)
	var e wire.Event
	var data []byte
	for lines.Scan() {
		alive()
		line := lines.Bytes()
		if len(line) == 0 {
			if data != nil && e.Kind == wire.EventEnd {
				return endOf(data)
			}
			if data != nil {
				e.Event = jsontext.Value(data)
				if err := handle(e); err != nil {
					return err
				}
			}
			if e.Position != "" {
				came(e.Position)
			}
			e, data = wire.Event{}, nil
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "id":
			e.Position = string(value)
		case "event":
			e.Kind = string(value)
		case "data":
			if data != nil {
				data = append(data, '\n')
			}
			data = append(data, value...)
		}
	}
	if err := lines.Err(); err != nil {
		return &transportError{fmt.Errorf("the stream broke off: %w", err)}
	}
	return &transportError{errors.New("the stream ended")}
}

// open asks for an answer that has no end which a timeout could wait for, and is the
// caller's to close. Of one that is a problem no more than most bytes are read.
func (c *Client) open(ctx context.Context, r *request, most int64) (*http.Response, error) {
	endless := *c.http
	endless.Timeout = 0
	patient := *c
	patient.http = &endless
	res, err := patient.send(ctx, r, nil)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		defer res.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(res.Body, most))
		return nil, problem(res, body)
	}
	return res, nil
}
