package gate

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
)

// Verifier gives verdicts, such as [verify.Verifier] and [verify.Client].
type Verifier interface {
	// Check returns nil when a question's Permission is understood.
	Check(*verify.Question) error
	// Verify answers a question, and keeps nothing of its texts.
	Verify(context.Context, *verify.Question) verify.Decision
}

// Config says what a gate works with. Everything is needed unless it says
// otherwise.
type Config struct {
	Verifier Verifier
	// Positions tells what positions are written and read with. It is asked again
	// and again, and may learn it late.
	Positions func() events.Positions
	// Metrics takes how long verdicts took.
	Metrics *Metrics
	// Effective lists the permissions that a key with these has under today's
	// catalog of its organization, for the scope of /oauth2/introspect. Without it,
	// and where it returns nil, a token's scope is told only if its grants are
	// listed. Optional.
	Effective func(events.OrgID, events.Permissions) []string
	// RecordClientIP records the client_ip that verifications are asked with.
	// It is personal data, and dropped unless this is set.
	RecordClientIP bool
}

// Validate reports everything that is missing at once.
func (c Config) Validate() error {
	var faults []error
	need := func(missing bool, what string) {
		if missing {
			faults = append(faults, errors.New("gate: config: "+what+" is needed"))
		}
	}
	need(c.Verifier == nil, "Verifier")
	need(c.Positions == nil, "Positions")
	need(c.Metrics == nil, "Metrics")
	return errors.Join(faults...)
}

// Gate judges what is asked. It is safe for concurrent use.
type Gate struct {
	cfg Config
	// last is the last position that was written as a text.
	last atomic.Pointer[positionText]
}

// New returns a gate.
func New(c Config) (*Gate, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Gate{cfg: c}, nil
}

// positionText is a position with its text, kept because verdict after verdict
// tells the same one.
type positionText struct {
	pos  events.Position
	of   events.Positions
	text string
}

// Position writes a position of the ledger.
func (g *Gate) Position(pos events.Position) string {
	of := g.cfg.Positions()
	if last := g.last.Load(); last != nil && last.pos == pos && last.of == of {
		return last.text
	}
	p := &positionText{pos, of, of.Format(events.StreamLedger, pos)}
	g.last.Store(p)
	return p.text
}

// Judge asks for the verdict on one question, at a door.
func (g *Gate) Judge(ctx context.Context, door Door, q *verify.Question) verify.Decision {
	begin := time.Now()
	d := g.cfg.Verifier.Verify(ctx, q)
	g.cfg.Metrics.verdict(door, d.Code, time.Since(begin))
	return d
}

// Buffers are what a verification reads and writes in, used again and again.
type Buffers struct {
	// In is the body of a request, Out that of its answer.
	In, Out []byte
	// Questions are what was asked. A door that has callers says there whose keys
	// exist for them. The texts lie in In.
	Questions []verify.Question

	asked []asked
}

// Waits reports whether a question asks for a position, for which it may wait.
func (b *Buffers) Waits() bool {
	for i := range b.Questions {
		if b.Questions[i].AtLeast != 0 {
			return true
		}
	}
	return false
}

// Forget clears what was asked, for buffers whose In is somebody else's.
func (b *Buffers) Forget() {
	clear(b.asked[:cap(b.asked)])
	clear(b.Questions[:cap(b.Questions)])
	b.In, b.Out, b.asked, b.Questions = nil, b.Out[:0], b.asked[:0], b.Questions[:0]
}

// BufferPool keeps buffers that have not grown beyond a size: a profile of 16 KiB
// should not stay in memory for every processor.
type BufferPool struct {
	pool sync.Pool
	most int
}

// NewBufferPool returns a pool of buffers that begin with a size and are kept up
// to another.
func NewBufferPool(size, most int) *BufferPool {
	return &BufferPool{sync.Pool{New: func() any { return &Buffers{In: make([]byte, 0, size), Out: make([]byte, 0, size)} }}, most}
}

// Get returns buffers with nothing in them.
func (p *BufferPool) Get() *Buffers { return p.pool.Get().(*Buffers) }

// Put takes buffers back, and clears them.
func (p *BufferPool) Put(b *Buffers) {
	if cap(b.In) > p.most || cap(b.Out) > p.most {
		return
	}
	// The texts of a question lie in the buffer, a secret among them.
	clear(b.In[:cap(b.In)])
	in := b.In[:0]
	b.Forget()
	b.In = in
	p.pool.Put(b)
}

// Instant returns a time as answers have it, nil for none.
func Instant(t events.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	std := t.Std()
	return &std
}

// GrantOf shows what a key may do, nil for a management key, which has a role.
func GrantOf(kind events.KeyKind, p events.Permissions) *wire.Grant {
	if kind == events.KindManagement {
		return nil
	}
	return &wire.Grant{Level: string(p.Level), Grants: p.Grants}
}

// ScopeOf shows where a key may be used.
func ScopeOf(s events.Scope) wire.Scope {
	out := wire.Scope{AllWorkspaces: s.AllWorkspaces}
	for _, w := range s.Workspaces {
		out.Workspaces = append(out.Workspaces, string(w))
	}
	return out
}
