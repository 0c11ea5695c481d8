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
	"strings"
	"time"

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
}

// silence is how long a stream may say nothing: two heartbeats and a half.
const silence = 38 * time.Second

// maxEventLine holds an event of the largest size with its escapes.
const maxEventLine = 1 << 20

// Events calls handle with each event as it happens, oldest first, until the
// context ends or handle returns an error, which is returned. A broken
// connection is taken up again after the last event that was handled.
func (c *Client) Events(ctx context.Context, f Follow, handle func(wire.Event) error) error {
	backoff := firstBackoff
	for {
		begin := f.After
		err := c.follow(ctx, &f, handle)
		var own *handlerError
		again, wait := retry(err)
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
	for name, value := range map[string]string{"types": strings.Join(f.Types, ","), "after": f.After, "organization": f.Organization} {
		if value != "" {
			r.query.Set(name, value)
		}
	}
	// A stream has no end that a timeout could wait for.
	endless := *c.http
	endless.Timeout = 0
	patient := *c
	patient.http = &endless
	res, err := patient.send(ctx, r, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(res.Body, maxEventLine))
		return problem(res, body)
	}
	watchdog := time.AfterFunc(silence, cancel)
	defer watchdog.Stop()
	return read(res.Body, func(e wire.Event) error {
		if err := handle(e); err != nil {
			return &handlerError{err}
		}
		return nil
	}, func(position string) { f.After = position }, func() { watchdog.Reset(silence) })
}

// read parses server-sent events. It tells how far the stream has come, also
// where no event is wanted, and that it is alive for every line.
func read(body io.Reader, handle func(wire.Event) error, came func(position string), alive func()) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 64<<10), maxEventLine)
	var e wire.Event
	var data []byte
	for lines.Scan() {
		alive()
		line := lines.Bytes()
		if len(line) == 0 {
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
