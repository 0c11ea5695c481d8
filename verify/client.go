package verify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/projections/snapshot"
)

var (
	// ErrCredential says that a connection's credential is none of a verifier, or
	// shows something else than was asked for.
	ErrCredential = errors.New("verify: the credential is not the one that is needed")

	// ErrClosed says that a client was closed.
	ErrClosed = errors.New("verify: client is closed")
)

const (
	// firstRetry and lastRetry bound the wait before the broker is asked again
	// what there is to read.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
	// glance is how often it is looked whether a client has become ready.
	glance = 2 * time.Millisecond
)

// Client is a verifier of its own: it follows the ledger, keeps the index in this
// process, answers from it, and has every use recorded. It is safe for concurrent
// use.
type Client struct {
	o       *options
	conn    *nats.Conn
	started time.Time
	// folder and journal are nil without a folder.
	folder  *snapshot.Folder
	journal *journal
	// shown are the organizations that the credential shows as far as that is known
	// before the broker has said it, and isShown that it is; none means all.
	shown   []events.OrgID
	isShown bool
	// engine is nil until it is known what there is to read.
	engine atomic.Pointer[engine]
	ready  chan struct{}

	work   sync.WaitGroup
	stop   context.CancelFunc
	closed atomic.Bool
	ending sync.Once
	ended  error

	mu     sync.Mutex // guards the following
	err    error      // why there is no engine
	failed bool       // that there never will be one
}

// Open returns a verifier that follows the ledger over a connection which was made
// with a verifier's credential (`keyledger nats-auth verifier`). The connection
// should reconnect for ever (nats.MaxReconnects(-1)); it remains the caller's, to be
// closed after [Client.Close].
//
// It returns when the broker has said what the credential shows, and a snapshot is
// loaded if there is one; it fails when that is not what the options ask for
// ([ErrCredential]) or ctx ends before.
// Verdicts are STALE until [Client.Ready]. What happens to the ledger or the broker
// later is no error of anybody's: verdicts tell, and [Client.Status] says why.
func Open(ctx context.Context, conn *nats.Conn, opts ...Option) (*Client, error) {
	if conn == nil {
		return nil, errors.New("verify: no connection")
	}
	o := newOptions(opts)
	if err := o.validate(); err != nil {
		return nil, err
	}
	if err := o.nameBy(conn); err != nil {
		return nil, err
	}
	c := &Client{o: o, conn: conn, started: time.Now(), ready: make(chan struct{})}
	if o.folder != "" {
		var err error
		if c.folder, err = snapshot.OpenFolder(o.folder); err != nil {
			return nil, err
		}
		c.journal = &journal{path: filepath.Join(o.folder, bootsFile)}
	}
	c.shown, c.isShown = c.shownBefore()
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = cancel
	if o.atOnce {
		c.work.Go(func() {
			if err := c.begin(run, run); err != nil && run.Err() == nil {
				c.fail(run, err)
			}
		})
		return c, nil
	}
	if err := c.begin(ctx, run); err != nil {
		cancel()
		c.work.Wait()
		return nil, errors.Join(err, c.release())
	}
	return c, nil
}

// release gives the folder back.
func (c *Client) release() error {
	if c.folder == nil {
		return nil
	}
	return c.folder.Close()
}

// nameBy takes the client's name from the connection's credential, unless it was
// given, and refuses a credential that says it is for something else.
func (o *options) nameBy(conn *nats.Conn) error {
	if conn.Opts.UserJWT != nil {
		token, err := conn.Opts.UserJWT()
		if err != nil {
			return fmt.Errorf("%w: it cannot be read: %w", ErrCredential, err)
		}
		held, err := credentials.Holder([]byte(token))
		switch {
		case err != nil && o.name == "":
			return fmt.Errorf("%w: it names nobody: %w", ErrCredential, err)
		case err == nil && held.For != "" && held.For != events.CredentialVerifier:
			return fmt.Errorf("%w: it is for %s, and not for a verifier", ErrCredential, article(held.For))
		case err == nil && o.name == "":
			o.name = events.VerifierID(held.Name)
		}
	}
	if o.name == "" {
		return fmt.Errorf("%w: the connection has none, and no Name is given", ErrCredential)
	}
	if _, err := events.ParseVerifierID(string(o.name)); err != nil {
		return fmt.Errorf("verify: Name: %w", err)
	}
	return nil
}

// article is a kind of credential as a sentence has it.
func article(kind events.CredentialKind) string {
	if strings.IndexByte("aeiou", kind[0]) >= 0 {
		return "an " + string(kind)
	}
	return "a " + string(kind)
}

// begin finds out what there is to read, and starts everything in run.
func (c *Client) begin(ctx, run context.Context) error {
	info, offline, err := c.identify(ctx)
	if err != nil {
		return err
	}
	e, err := c.assemble(ctx, info, offline)
	if err != nil {
		return err
	}
	if !offline {
		if err := c.o.remember(info); err != nil {
			c.o.log.WarnContext(ctx, "what the credential shows is not kept", "error", err)
		}
	}
	c.run(run, e)
	// Only now: whoever closes the client ends what runs.
	c.engine.Store(e)
	return nil
}

// identify asks what the credential shows, until it is told or ctx ends. Where the
// broker is away and the client may start without, it is what was shown last.
func (c *Client) identify(ctx context.Context) (info jetstream.ReaderInfo, offline bool, err error) {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		info, err = c.describe(ctx)
		switch {
		case err == nil:
			return info, false, nil
		case errors.Is(err, ErrCredential):
			return info, false, err
		case c.conn.IsClosed():
			return info, false, fmt.Errorf("verify: %w", nats.ErrConnectionClosed)
		}
		if info, ok := c.offline(ctx); ok {
			return info, true, nil
		}
		c.note(err)
		c.o.log.WarnContext(ctx, "the broker does not say what there is to read, asking again", "verifier", string(c.o.name), "error", err)
		select {
		case <-ctx.Done():
			return info, false, fmt.Errorf("verify: the broker does not say what %s reads: %w: %w", c.o.name, context.Cause(ctx), err)
		case <-time.After(wait/2 + rand.N(wait)):
		}
	}
}

// describe asks once.
func (c *Client) describe(ctx context.Context) (jetstream.ReaderInfo, error) {
	if !c.conn.IsConnected() {
		return jetstream.ReaderInfo{}, fmt.Errorf("%w: no broker is connected", events.ErrUnavailable)
	}
	info, err := jetstream.DescribeReader(ctx, c.conn, jetstream.StreamLedger, string(c.o.name))
	if errors.Is(err, jetstream.ErrReaderChanged) {
		return info, fmt.Errorf("%w: %w", ErrCredential, err)
	}
	if err == nil {
		err = c.o.judge(info)
	}
	return info, err
}

// offline reports whether the client may start without the broker, on what the
// credential showed last.
func (c *Client) offline(ctx context.Context) (jetstream.ReaderInfo, bool) {
	if c.o.offlineMax == 0 {
		return jetstream.ReaderInfo{}, false
	}
	info, err := c.o.recall()
	if err == nil {
		err = c.o.judge(info)
	}
	if err == nil {
		_, known, seenErr := c.folder.Seen()
		if err = seenErr; err == nil && !known {
			err = snapshot.ErrNone
		}
	}
	if err != nil {
		c.o.log.WarnContext(ctx, "the broker is away, and there is nothing to start with", "error", err)
		return info, false
	}
	c.o.log.WarnContext(ctx, "the broker is away: the start is from a snapshot, and nothing bounds how old its verdicts are but its age",
		"verifier", string(c.o.name), "max_age", c.o.offlineMax)
	return info, true
}

// judge holds what a credential shows against what is expected of it.
func (o *options) judge(info jetstream.ReaderInfo) error {
	orgs, err := organizationsOf(info)
	switch {
	case err != nil:
		return err
	case o.narrowed && !slices.Equal(orgs, o.organizations):
		return fmt.Errorf("%w: it shows %s, and %s is expected", ErrCredential, these(orgs), these(o.organizations))
	}
	return nil
}

// organizationsOf are those that a credential shows all of, sorted; none means all.
func organizationsOf(info jetstream.ReaderInfo) ([]events.OrgID, error) {
	var orgs []events.OrgID
	for _, subject := range info.Subjects {
		if subject == events.TickSubject().String() || subject == events.InstallationSubject().String() {
			continue
		}
		part := strings.Split(subject, ".")
		if len(part) != 4 || part[3] != ">" {
			return nil, fmt.Errorf("%w: it shows parts of organizations only", ErrCredential)
		}
		org, err := events.ParseOrgID(part[2])
		if err != nil || org == events.System || fmt.Sprintf("%04d", events.Partition(org)) != part[1] {
			return nil, fmt.Errorf("%w: what it shows is no organization", ErrCredential)
		}
		orgs = append(orgs, org)
	}
	if len(info.Subjects) > 0 && len(orgs) == 0 || (info.Scope == "") != (len(orgs) == 0) {
		return nil, fmt.Errorf("%w: it is not counted in ticks what it shows", ErrCredential)
	}
	slices.Sort(orgs)
	return orgs, nil
}

// these names organizations in an error.
func these(orgs []events.OrgID) string {
	const most = 5
	switch {
	case len(orgs) == 0:
		return "everything"
	case len(orgs) > most:
		return fmt.Sprintf("%d organizations", len(orgs))
	}
	var b strings.Builder
	for i, org := range orgs {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(org))
	}
	return b.String()
}

// note keeps why it goes no further at the moment; fail, why it never will.
func (c *Client) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

func (c *Client) fail(ctx context.Context, err error) {
	c.mu.Lock()
	c.err, c.failed = err, true
	c.mu.Unlock()
	c.o.log.ErrorContext(ctx, "verifier does not start", "verifier", string(c.o.name), "error", err)
}

// Ready is closed once the client has caught up with the ledger, is proven fresh,
// and can record uses: from then on it has given, or could have given, verdicts.
func (c *Client) Ready() <-chan struct{} { return c.ready }

// Verify answers a question, as [Verifier.Verify] does. Where the client may ask the
// server, and did, Decision.Asked is set, and the server has recorded the use.
func (c *Client) Verify(ctx context.Context, q *Question) Decision {
	if e := c.engine.Load(); e != nil {
		return e.verifier.Verify(ctx, q)
	}
	return c.unopened(ctx, *q)
}

// unopened is the verdict of who has not been told yet what there is to read: the
// server's, where it may be asked and it is known whose keys this client may speak of.
// It takes a copy, so that nobody's question comes to lie on the heap for it.
func (c *Client) unopened(ctx context.Context, q Question) Decision {
	d := c.blind()
	if d.Code != events.CodeStale || c.o.server == nil || !c.isShown {
		return d
	}
	d.Asked = c.o.server.ask(ctx, &q, &d, events.Positions{}, c.shown)
	return d
}

// shownBefore are the organizations of the credential, as the options demand them, or as
// the folder remembers them of an earlier run.
func (c *Client) shownBefore() (orgs []events.OrgID, known bool) {
	switch {
	case c.o.narrowed:
		return c.o.organizations, true
	case c.folder == nil:
		return nil, false
	}
	info, err := c.o.recall()
	if err == nil {
		orgs, err = organizationsOf(info)
	}
	return orgs, err == nil
}

// Recheck judges a question anew, at once, and records nothing: see
// [Verifier.Recheck].
func (c *Client) Recheck(q *Question) Decision {
	if e := c.engine.Load(); e != nil {
		return e.verifier.Recheck(q)
	}
	return c.blind()
}

// Check returns nil when a question's Permission is understood: see
// [Verifier.Check].
func (c *Client) Check(q *Question) error {
	if e := c.engine.Load(); e != nil {
		return e.verifier.Check(q)
	}
	return (*queries)(nil).check(q)
}

// blind is the verdict of who has no index yet.
func (c *Client) blind() Decision {
	if c.closed.Load() {
		return Decision{Code: events.CodeUnavailable, At: events.TimeOf(time.Now())}
	}
	return Decision{Code: events.CodeStale, At: events.TimeOf(time.Now()), Staleness: never}
}

// Positions write and read positions of the ledger for the world outside; of a
// ledger that is not known yet they are the zero value, which no position fits.
func (c *Client) Positions() events.Positions {
	e := c.engine.Load()
	if e == nil {
		return events.Positions{}
	}
	return e.positions()
}

// Effective lists the permissions of an organization's catalog, sorted, that a key with
// these has today; nil of an organization that is not known.
func (c *Client) Effective(org events.OrgID, p events.Permissions) []string {
	if e := c.engine.Load(); e != nil {
		return e.index.Effective(org, p)
	}
	return nil
}

// Close stops answering (every later verdict is UNAVAILABLE), has all uses stored
// and the end of this run noted, says good-bye, and saves a snapshot if there is a
// folder. When ctx ends before, it gives up what takes the broker and says so.
// The connection remains open. Further calls return what the first did.
func (c *Client) Close(ctx context.Context) error {
	c.ending.Do(func() { c.ended = c.close(ctx) })
	return c.ended
}

func (c *Client) close(ctx context.Context) error {
	c.closed.Store(true)
	e := c.engine.Load()
	if e == nil {
		c.stop()
		c.work.Wait()
		// It may have come into being at the last moment.
		if e = c.engine.Load(); e == nil {
			return c.release()
		}
	}
	err := c.shut(ctx, e)
	c.stop()
	c.work.Wait()
	if e.endings != nil {
		e.endings.close()
	}
	return errors.Join(err, c.release())
}
