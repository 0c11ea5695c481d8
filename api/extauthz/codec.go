package extauthz

import (
	"errors"
	"sync"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// codec reads questions and writes answers by hand. Whatever else is said on a
// connection, and a question in a form that is odd, it leaves to the generated types.
type codec struct{ encoding.CodecV2 }

var errMessage = errors.New("extauthz: the question cannot be read")

// Unmarshal reads a message. The texts of a question lie in it, so that it is held.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	q, ok := v.(*call)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	a := &q.asked
	a.done()
	a.held = data.MaterializeToBuffer(mem.DefaultBufferPool())
	message := a.held.ReadOnlyData()
	if a.fast(message) {
		return nil
	}
	a.forget()
	return a.slow(message)
}

// Marshal writes a message. That of an answer was written already.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	q, ok := v.(*call)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	out := q.out
	q.out = nil
	return mem.BufferSlice{mem.NewBuffer(out, q.answers)}, nil
}

// answers are buffers that answers are written to, used again and again. They come
// back when they are sent.
type answers struct{ pool sync.Pool }

// Get returns an empty buffer.
func (p *answers) Get(int) *[]byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, answerBytes)
	return &b
}

// Put takes a buffer back.
func (p *answers) Put(b *[]byte) {
	if cap(*b) > answerMost {
		return
	}
	*b = (*b)[:0]
	p.pool.Put(b)
}
