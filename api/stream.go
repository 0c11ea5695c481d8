package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/projections/audit"
	"github.com/keyledger/keyledger/verify"
)

// stream is a client that follows GET /v1/events.
type stream struct {
	server    *Server
	w         http.ResponseWriter
	r         *http.Request
	control   *http.ResponseController
	requestID string
	key       events.KeyID
	principal commands.Principal
	filter    audit.Filter
	at        events.Position
	buf       bytes.Buffer
	// recorded is when the use of the key was last recorded.
	recorded time.Time
	// torn says that a part of something was sent: nothing can follow on it.
	torn bool
}

const (
	// useEvery is how often the use of a stream's key is recorded while the
	// stream is open: a key that is in use for days must not look unused.
	useEvery = time.Minute

	// lastWrite bounds how long a client may take to read why its stream ends.
	lastWrite = time.Second

	// streamChunk is how much is gathered before it is sent.
	streamChunk = 64 << 10
)

// Why streams end, as a metric names it.
const (
	// endedByClient: it has gone, which is the common end.
	endedByClient = "client"
	// endedSlow: the client did not take what it was sent.
	endedSlow = "slow_reader"
	// endedByStop: the server stops.
	endedByStop = "server_stops"
	// endedByKey: the key is not good any more, or may not look any more.
	endedByKey = "key"
	// endedUnknown: whether the key is good cannot be told right now.
	endedUnknown = "verdict"
	// endedUnreadable: the view of events has stopped, or cannot be read.
	endedUnreadable = "unreadable"
)

// ended is the error of a stream that has ended, with its reason.
type ended struct {
	reason string
	err    error
}

func (e *ended) Error() string { return e.reason + ": " + e.err.Error() }
func (e *ended) Unwrap() error { return e.err }

// errStopping ends the streams of a server that stops.
var errStopping = &ended{endedByStop, refuse(events.ErrUnavailable, "", "the server stops; come again with Last-Event-ID")}

// unreadable ends a stream whose events cannot be read here any more, unless it
// has ended already.
func unreadable(ctx context.Context, cause error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &ended{endedUnreadable, &refusal{
		Err:    errors.Join(events.ErrUnavailable, cause),
		Detail: "events cannot be read on this server right now; come again with Last-Event-ID, here or at another server of this ledger",
	}}
}

// EndStreams ends the streams of events, which have no end of their own, and
// takes no new ones. It is for a server that stops and answers its other
// requests first.
func (s *Server) EndStreams() { s.endStreams(errStopping) }

func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	t := trackOf(w)
	c := &call{w: w, r: r, requestID: t.requestID, endpoint: s.streamed}
	st, err := s.openStream(c)
	if err == nil {
		err = s.audience.sit(st.key)
	}
	if err != nil {
		t.fail(writeProblem(w, err, t.requestID), err)
		return
	}
	defer s.audience.leave(st.key)
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.streaming, func() {
		cancel(context.Cause(s.streaming))
		// A client that does not read must not hold up the stop.
		_ = st.control.SetWriteDeadline(time.Now().Add(lastWrite))
	})()
	err = st.run(ctx)
	st.end(err)
	reason := reasonOf(r.Context(), err)
	// A client that has gone says nothing.
	if reason != endedByClient {
		s.cfg.Logger.LogAttrs(r.Context(), slog.LevelInfo, "a stream of events ended",
			slog.String("reason", reason), slog.String("request_id", t.requestID), slog.String("actor", t.actor.String()),
			slog.Uint64("position", uint64(st.at)), slog.String("error", keystring.Redact(err.Error())))
	}
	s.metrics.streamsEnded.WithLabelValues(reason).Inc()
}

// reasonOf tells why a stream ended. Whatever a write failed of that is no
// deadline is a connection that broke.
func reasonOf(client context.Context, err error) string {
	var e *ended
	if errors.As(err, &e) && (client.Err() == nil || e.reason == endedSlow || e.reason == endedByStop) {
		return e.reason
	}
	return endedByClient
}

// end tells the client why its stream ends, as far as it can still be told
// anything: what was gathered for it is not sent any more.
func (st *stream) end(err error) {
	var e *ended
	if st.torn || !errors.As(err, &e) {
		return
	}
	body, encodeErr := json.Marshal(problemOf(e.err, st.requestID))
	if encodeErr != nil || st.control.SetWriteDeadline(time.Now().Add(lastWrite)) != nil {
		return
	}
	// The client may have gone; there is nobody to tell.
	if _, err := fmt.Fprintf(st.w, "event: "+wire.EventEnd+"\ndata: %s\n\n", body); err == nil {
		_ = st.control.Flush()
	}
}

// openStream reads what is to be streamed, and to whom.
func (s *Server) openStream(c *call) (*stream, error) {
	if err := c.refuseSecrets(); err != nil {
		return nil, err
	}
	var err error
	ctx := c.r.Context()
	if c.principal, err = s.authenticate(ctx, c.r, c.requestID); err != nil {
		return nil, err
	}
	trackOf(c.w).actor = c.principal.Actor
	if err := c.checkQuery(); err != nil {
		return nil, err
	}
	if s.streaming.Err() != nil {
		return nil, refuse(events.ErrUnavailable, "", "the server stops")
	}
	st := &stream{
		server: s, w: c.w, r: c.r, control: http.NewResponseController(c.w), requestID: c.requestID,
		key: c.principal.Actor.Key, principal: c.principal, recorded: time.Now(),
	}
	if st.filter, err = streamFilter(c); err != nil {
		return nil, err
	}
	if st.filter.Kinds, err = kindsOf("types", c.query("types")); err != nil {
		return nil, err
	}
	if err := s.eventFilter(ctx, c, &st.filter); err != nil {
		return nil, err
	}
	if st.at, err = s.beginning(ctx, c); err != nil {
		return nil, err
	}
	org := st.filter.Org
	if st.filter.AllOrganizations {
		org = events.System
	}
	s.access(c, access.AuditRead, org, c.endpoint.id)
	return st, nil
}

// streamFilter keeps a client within its walls. A key that is limited to
// workspaces would have to be judged event by event, over scopes that change: it
// reads histories of keys instead.
func streamFilter(c *call) (audit.Filter, error) {
	p := c.principal
	f := audit.Filter{Org: p.Org, AllOrganizations: p.Installation(), OldestFirst: true}
	if text := c.query("organization"); text != "" {
		org, err := events.ParseOrgID(text)
		if err != nil || !p.Reaches(org) {
			return f, missing("organization")
		}
		f.Org, f.AllOrganizations = org, false
	}
	switch {
	case !p.MayLook(f.Org):
		return f, domain.Refuse(domain.ErrForbidden, "", "role %s may not look; this needs role owner, admin, member or auditor", p.Role)
	case !p.Scope.AllWorkspaces:
		return f, domain.Refuse(domain.ErrForbidden, "", "the stream is of a whole organization; the key's scope is limited to workspaces")
	}
	return f, nil
}

// kindsOf reads the types that a parameter asks for: kinds with or without their
// version.
func kindsOf(parameter, text string) ([]events.Kind, error) {
	if text == "" {
		return nil, nil
	}
	known := make([]string, 0, 64)
	for _, k := range events.Kinds() {
		// A tick is no change: no list of events has any.
		if k == events.KindTick {
			continue
		}
		known = append(known, string(k), k.Name())
	}
	var out []events.Kind
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimPrefix(name, events.TypePrefix)
		if !slices.Contains(known, name) {
			if near, ok := permission.Nearest(name, known); ok {
				return nil, refuse(errRequest, parameter, "there is no such type; did you mean %q?", near)
			}
			return nil, refuse(errRequest, parameter, "there is no such type; types are comma-separated, such as key.created,key.revoked")
		}
		out = append(out, events.Kind(name))
	}
	return out, nil
}

// beginning is the position after which the client wants events: the last that
// it has seen when it comes again, what it asks for, or else from now on.
// Last-Event-ID wins over after: a browser that comes again sends it, and asks
// for the same address as before.
func (s *Server) beginning(ctx context.Context, c *call) (events.Position, error) {
	text, field := c.r.Header.Get("Last-Event-ID"), "Last-Event-ID"
	if text == "" {
		text, field = c.query("after"), "after"
	}
	switch text {
	case "":
		s.settleAudit(ctx)
		return s.cfg.Audit.Position(ctx)
	case "0":
		return 0, nil
	}
	pos, err := s.cfg.Positions.Parse(events.StreamLedger, text)
	if err != nil {
		return 0, refuse(err, field, "%s", gate.PlainDetail(err, kindOf(err)))
	}
	return pos, s.reached(ctx, pos, field)
}

// reached returns nil when this server holds a position. A client may well come
// from a server that is further on; but a position that does not exist yet would
// be waited for in silence, and what happens before it would be left out.
func (s *Server) reached(ctx context.Context, pos events.Position, field string) error {
	waiting, cancel := context.WithTimeout(ctx, aheadWait)
	defer cancel()
	cause := s.cfg.WaitForAudit(waiting, pos)
	if cause == nil {
		return nil
	}
	if at, err := s.cfg.Audit.Position(ctx); err == nil && at >= pos {
		// The view has stopped behind it.
		return nil
	}
	if last, err := s.cfg.Last(ctx); err == nil && last < pos {
		return refuse(events.ErrInvalidPosition, field, "it lies beyond the ledger's end")
	}
	return unreadable(ctx, cause)
}

// run sends what there is, and then what comes, until the client goes or may
// not look any more. It always returns why it ended: an [ended], or the error of
// a connection that broke.
func (st *stream) run(ctx context.Context) error {
	// The server's timeouts are for requests that end.
	if err := errors.Join(st.control.SetReadDeadline(time.Time{}), st.control.SetWriteDeadline(time.Time{})); err != nil {
		return err
	}
	h := st.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h["Cache-Control"] = noStore
	h.Set("X-Accel-Buffering", "no")
	st.w.WriteHeader(http.StatusOK)
	// What a client sees at once: that it listens, and from where on it goes
	// on after a connection that broke before the first event.
	fmt.Fprintf(&st.buf, "retry: 2000\nid: %s\n\n", st.server.position(st.at))
	if err := st.send(ctx); err != nil {
		return err
	}
	audience := st.server.audience
	f, from, err := audience.follow(ctx, st.wants)
	if err != nil {
		return unreadable(ctx, err)
	}
	defer audience.unfollow(f)
	if err := st.catchUp(ctx, from); err != nil {
		return err
	}
	// A comment now and then keeps proxies from closing the connection.
	beat := time.NewTicker(st.server.cfg.Streams.Heartbeat)
	defer beat.Stop()
	for {
		quiet := false
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-f.wake:
		case <-beat.C:
			quiet = true
		}
		if err := st.goOn(ctx, f, quiet); err != nil {
			return err
		}
	}
}

// goOn sends what waits for the stream, and a comment when it was quiet.
func (st *stream) goOn(ctx context.Context, f *follower, quiet bool) error {
	waiting, at, missed, err := st.server.audience.take(f)
	if err != nil {
		return unreadable(ctx, err)
	}
	if missed {
		return st.catchUp(ctx, at)
	}
	for i := range waiting {
		if waiting[i].Position > st.at {
			if err := st.event(ctx, &waiting[i]); err != nil {
				return err
			}
		}
	}
	st.at = max(st.at, at)
	if quiet {
		fmt.Fprintf(&st.buf, ": still here\nid: %s\n\n", st.server.position(st.at))
	}
	return st.send(ctx)
}

// wants reports whether an event is the client's to see.
func (st *stream) wants(e *audit.Event) bool { return st.filter.Wants(e) }

// catchUp sends from the view what comes after the last event that was sent, up
// to a position.
func (st *stream) catchUp(ctx context.Context, until events.Position) error {
	if until <= st.at {
		return nil
	}
	f := st.filter
	f.After, f.Until, f.Limit = st.at, until, streamPage
	for {
		page, next, err := st.server.cfg.Audit.Events(ctx, f)
		if err != nil {
			return unreadable(ctx, err)
		}
		for i := range page {
			if err := st.event(ctx, &page[i]); err != nil {
				return err
			}
		}
		if err := st.send(ctx); err != nil {
			return err
		}
		if next == "" {
			st.at = until
			return nil
		}
		f.Cursor = next
	}
}

func (st *stream) event(ctx context.Context, e *audit.Event) error {
	fmt.Fprintf(&st.buf, "id: %s\nevent: %s\ndata: ", st.server.position(e.Position), e.Kind.Name())
	// A stored body has no line breaks; a planted one must not forge events.
	raw := st.server.document(ctx, st.principal, e)
	st.buf.Write(bytes.ReplaceAll(bytes.ReplaceAll(raw, []byte("\r"), nil), []byte("\n"), []byte("\ndata: ")))
	st.buf.WriteString("\n\n")
	if st.buf.Len() < streamChunk {
		return nil
	}
	return st.send(ctx)
}

// allowed judges the key anew. That is done before anything is sent: what
// happened after a key's revocation was answered is not for who holds it.
func (st *stream) allowed(ctx context.Context) error {
	var d verify.Decision
	if time.Since(st.recorded) < useEvery {
		if err := st.server.readmit(st.r, &d); err != nil {
			return err
		}
	} else {
		st.recorded = time.Now()
		if err := st.server.admit(ctx, st.r, st.requestID, &d); err != nil {
			return err
		}
	}
	p := commands.Principal{Org: d.Org, Role: d.Role, Scope: d.Scope}
	if !p.MayLook(st.filter.Org) && !st.filter.AllOrganizations || !p.Scope.AllWorkspaces || st.filter.AllOrganizations && !p.Installation() {
		return domain.Refuse(domain.ErrForbidden, "", "the key may not look any more")
	}
	return nil
}

// send writes what is gathered, to whom it is still for.
func (st *stream) send(ctx context.Context) error {
	if st.buf.Len() == 0 {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := st.allowed(ctx); err != nil {
		reason := endedByKey
		if kindOf(err).Status == http.StatusServiceUnavailable {
			reason = endedUnknown
		}
		return &ended{reason, err}
	}
	return st.write(ctx)
}

// write writes what is gathered. A client that takes it late is cut off and told
// so: that it took it shows that it can be. One that has not taken it after
// twice the time cannot be told anything.
func (st *stream) write(ctx context.Context) error {
	patience, began := st.server.cfg.Streams.Patience, time.Now()
	if err := st.control.SetWriteDeadline(began.Add(2 * patience)); err != nil {
		return err
	}
	if ctx.Err() != nil {
		// The stop has set its own deadline before this one, or will after it.
		return context.Cause(ctx)
	}
	_, err := st.w.Write(st.buf.Bytes())
	if err == nil {
		err = st.control.Flush()
	}
	took := time.Since(began)
	switch {
	case err == nil && took <= patience:
		st.buf.Reset()
		return nil
	case err == nil:
		st.buf.Reset()
		return tooSlow(took, patience)
	}
	// The context tells nothing here: a write that fails ends it.
	st.torn = true
	switch {
	case st.server.streaming.Err() != nil:
		return context.Cause(st.server.streaming)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return tooSlow(took, patience)
	default:
		return err
	}
}

func tooSlow(took, patience time.Duration) error {
	return &ended{endedSlow, refuse(errSlow, "",
		"what was sent was not taken for %s, and a reader has %s; come again with Last-Event-ID, and read faster or ask for fewer types",
		took.Round(time.Millisecond), patience)}
}

func (s *Server) eventsEndpoint() endpoint {
	return endpoint{
		method: "GET", path: "/v1/events", id: "stream-events", tag: "Events", summary: "Follow events as they happen",
		description: "Server-sent events: id is the position, event the type without its version, data the stored CloudEvents document, in which texts that are sealed are opened for role owner, admin or auditor; what was erased is (erased). Begins after the position in the header Last-Event-ID, or else after, with the oldest first, and without both from now on; the header wins, so that a browser may come again to the address it began with. A position is good at every server of this ledger. One that no server has reached is refused with 400. " +
			"A comment with the position so far comes every 15 seconds. The key is judged again before anything is sent. 16 streams may be open with one key. " +
			"A stream that the server ends says why in its last event: event is end, without an id, and data is a problem document. Its code is unauthenticated or forbidden when the key is not good any more, unavailable when the server stops or cannot read on, and slow_reader when the client did not take what it was sent within 30 seconds. Who takes nothing for 60 seconds is cut off without a word. Come again with Last-Event-ID: nothing is left out and nothing comes twice.",
		who: "Role owner, admin, member or auditor, not limited to workspaces. A key of an organization sees its own events only.",
		query: append([]parameter{
			{name: "types", description: "Only these types, comma-separated, with or without their version.", of: "", example: "key.created,key.revoked"},
			{name: "after", description: "Events after this position; 0 is the beginning.", of: "", example: "0"},
			{name: "organization", description: "Only events of this organization.", of: "", example: "acme"},
		}, eventFilters()...),
		status: 200, codes: []string{"invalid_position", "too_many_streams", "slow_reader"}, raw: http.HandlerFunc(s.events),
	}
}
