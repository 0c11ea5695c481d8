package recording

import (
	"sync"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
)

const (
	// chunkUses is how many uses a chunk holds: one visit to the common stack
	// of free ones for that many.
	chunkUses = 256

	// textPerUse is the room for texts, on average.
	textPerUse = 128

	// maxText is the longest all texts of one use may be together.
	maxText = events.MaxIDLength + uses.MaxPermission + uses.MaxWorkspace + uses.MaxRequestID +
		uses.MaxMethod + uses.MaxPath + uses.MaxClientIP + uses.MaxUserAgent
)

// row is a use without its texts, which lie one after another in the chunk.
type row struct {
	at  events.Time
	key events.KeyID
	// text is where they begin.
	text             uint32
	path, permission uint16
	code             events.Code

	org, workspace, requestID, method, clientIP, userAgent uint8
}

// chunk holds a fixed number of uses. Its memory has no pointers, is taken when
// the recorder is made, and costs nothing before it is used.
type chunk struct {
	rows []row
	text []byte
}

func (c *chunk) hasRoom(text int) bool {
	return len(c.rows) < cap(c.rows) && len(c.text)+text <= cap(c.text)
}

// buffer is what one processor writes to. Its lock is contended only in the
// moment in which it is emptied, or when the pool has mixed buffers up.
type buffer struct {
	mu       sync.Mutex
	index    int
	cur      *chunk
	full     []*chunk // with room for all there are
	org      events.OrgID
	recorded uint64
	// group waits for the flush that takes what is added next, if anybody does.
	group *group

	_ [64]byte // keeps neighbours off this cache line
}

type result int

const (
	closed     result = iota // the recorder is not running
	invalid                  // the use has no organization
	late                     // earlier uses than this one were said to be stored
	full                     // there is no room
	added                    // the use is in the buffer
	addedFirst               // and is the first one there
)

// add puts a use into a locked buffer.
func (r *Recorder) add(b *buffer, u *Use) result {
	// Read under the lock: who closes the recorder takes every buffer's lock
	// afterwards, and so meets every use that was taken.
	if !r.open.Load() {
		return closed
	}
	if u.At < events.Time(r.through.floor.Load()) && r.through.late(u.At) {
		return late
	}
	if u.Org != b.org || u.Org == "" {
		if _, err := events.ParseOrgID(string(u.Org)); err != nil {
			return invalid
		}
		b.org = u.Org
	}
	permission, workspace := uses.Cut(u.Permission, uses.MaxPermission), uses.Cut(u.Workspace, uses.MaxWorkspace)
	size := len(u.Org) + len(permission) + len(workspace)
	var ctx Context
	bare := u.Context == Context{}
	if !bare {
		ctx = cutContext(&u.Context)
		size += len(ctx.RequestID) + len(ctx.Method) + len(ctx.Path) + len(ctx.ClientIP) + len(ctx.UserAgent)
	}
	if b.cur == nil || !b.cur.hasRoom(size) {
		next, low := r.free.take()
		if low {
			signal(r.hurry)
		}
		if next == nil {
			return full
		}
		if b.cur != nil {
			b.full = append(b.full, b.cur)
		}
		b.cur = next
	}
	c := b.cur
	n := len(c.rows)
	c.rows = c.rows[:n+1]
	w := &c.rows[n]
	*w = row{
		at: u.At, key: u.Key, code: u.Code, text: uint32(len(c.text)),
		org: uint8(len(u.Org)), permission: uint16(len(permission)), workspace: uint8(len(workspace)),
	}
	t := append(c.text, u.Org...)
	t = append(t, permission...)
	t = append(t, workspace...)
	if !bare {
		w.requestID, w.method, w.path = uint8(len(ctx.RequestID)), uint8(len(ctx.Method)), uint16(len(ctx.Path))
		w.clientIP, w.userAgent = uint8(len(ctx.ClientIP)), uint8(len(ctx.UserAgent))
		t = append(t, ctx.RequestID...)
		t = append(t, ctx.Method...)
		t = append(t, ctx.Path...)
		t = append(t, ctx.ClientIP...)
		t = append(t, ctx.UserAgent...)
	}
	c.text = t
	b.recorded++
	if n == 0 && len(b.full) == 0 {
		return addedFirst
	}
	return added
}

func cutContext(c *Context) Context {
	return Context{
		RequestID: uses.Cut(c.RequestID, uses.MaxRequestID), Method: uses.Cut(c.Method, uses.MaxMethod),
		Path: uses.Cut(c.Path, uses.MaxPath), ClientIP: uses.Cut(c.ClientIP, uses.MaxClientIP),
		UserAgent: uses.Cut(c.UserAgent, uses.MaxUserAgent),
	}
}

// take empties a buffer. Who adds to it from now on waits for the next group.
func (b *buffer) take(into []*chunk, next *group) []*chunk {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.group = next
	into = append(into, b.full...)
	b.full = b.full[:0]
	if b.cur != nil && len(b.cur.rows) > 0 {
		into = append(into, b.cur)
		b.cur = nil
	}
	return into
}

// empty reports whether nothing waits in a buffer.
func (b *buffer) empty() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.full) == 0 && (b.cur == nil || len(b.cur.rows) == 0)
}

// use reads a row with its texts, which share the memory of text.
func (w *row) use(text string, u *uses.Use) {
	text = text[int(w.text)+int(w.org):]
	u.At, u.Key, u.Code = w.at, w.key, w.code
	u.Permission, text = text[:w.permission], text[w.permission:]
	u.Workspace, text = text[:w.workspace], text[w.workspace:]
	u.RequestID, text = text[:w.requestID], text[w.requestID:]
	u.Method, text = text[:w.method], text[w.method:]
	u.Path, text = text[:w.path], text[w.path:]
	u.ClientIP, text = text[:w.clientIP], text[w.clientIP:]
	u.UserAgent = text[:w.userAgent]
}

// freeChunks is the stack of empty chunks. All chunks together hold what may be
// buffered: there is no other bound, and none that could be missed.
type freeChunks struct {
	mu    sync.Mutex
	list  []*chunk // the last one was used last, and is still in the caches
	total int
	freed chan struct{} // closed when a chunk comes back, nil if nobody waits
}

// fill makes chunks for at most maxUses uses, so small that every one of n
// buffers gets some, and says how many.
func (f *freeChunks) fill(maxUses, n int) int {
	per := max(1, min(chunkUses, maxUses/(4*n)))
	f.total = maxUses / per
	text := max(maxText, per*textPerUse)
	rows, texts, chunks := make([]row, f.total*per), make([]byte, f.total*text), make([]chunk, f.total)
	f.list = make([]*chunk, f.total)
	for i := range chunks {
		chunks[i] = chunk{rows: rows[i*per : i*per : (i+1)*per], text: texts[i*text : i*text : (i+1)*text]}
		f.list[i] = &chunks[i]
	}
	return f.total
}

// take returns an empty chunk, nil if there is none, and whether fewer than
// half are left.
func (f *freeChunks) take() (c *chunk, low bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := len(f.list) - 1
	if last < 0 {
		return nil, true
	}
	c, f.list = f.list[last], f.list[:last]
	return c, last < f.total/2
}

// give takes chunks back and wakes who waits for one.
func (f *freeChunks) give(chunks []*chunk) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range chunks {
		c.rows, c.text = c.rows[:0], c.text[:0]
		f.list = append(f.list, c)
	}
	if f.freed != nil {
		close(f.freed)
		f.freed = nil
	}
}

// watch returns a channel that is closed when chunks come back after the call.
func (f *freeChunks) watch() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.freed == nil {
		f.freed = make(chan struct{})
	}
	return f.freed
}
