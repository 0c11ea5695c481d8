// Package section writes and reads what views put into snapshots: numbers, texts
// and lists, one after another.
//
// A [Reader] takes nothing for granted. It knows how many bytes there are, and no
// length or number of items is believed that they could not hold, so that nobody
// can make it ask for more memory than a few times what he has sent. What goes
// wrong stays: all later reads give zero values, and Err tells the first fault.
package section

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/keyledger/keyledger/events"
)

// ErrDamaged says that what is read was never written.
var ErrDamaged = errors.New("section: it is damaged")

// buffered is large enough for few calls of the system, and small beside an index.
const buffered = 256 * 1024

// Writer writes a section. What goes wrong is told by Flush, and by Err as soon as it
// is known.
type Writer struct {
	w    *bufio.Writer
	err  error
	room [binary.MaxVarintLen64]byte
}

// NewWriter returns a writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: bufio.NewWriterSize(w, buffered)} }

// Uint writes a number.
func (w *Writer) Uint(n uint64) { w.Raw(binary.AppendUvarint(w.room[:0], n)) }

// Byte writes a byte.
func (w *Writer) Byte(b byte) { w.failed(w.w.WriteByte(b)) }

// Bool writes a truth.
func (w *Writer) Bool(b bool) {
	if b {
		w.Byte(1)
	} else {
		w.Byte(0)
	}
}

// Time writes an instant.
func (w *Writer) Time(t events.Time) { w.Uint(uint64(t)) }

// Raw writes bytes whose number the reader knows.
func (w *Writer) Raw(b []byte) {
	_, err := w.w.Write(b)
	w.failed(err)
}

// Text writes a text or a document with its length.
func Text[T ~string | ~[]byte](w *Writer, s T) {
	w.Uint(uint64(len(s)))
	_, err := w.w.WriteString(string(s))
	w.failed(err)
}

func (w *Writer) failed(err error) {
	if err != nil {
		w.err = err
	}
}

// Err returns what went wrong so far.
func (w *Writer) Err() error { return w.err }

// Flush hands on what is left, and returns the first error of it all.
func (w *Writer) Flush() error { return w.w.Flush() }

// Reader reads what a [Writer] wrote.
type Reader struct {
	r    *bufio.Reader
	left int64
	err  error
}

// NewReader returns a reader of the next size bytes of r.
func NewReader(r io.Reader, size int64) *Reader {
	return &Reader{r: bufio.NewReaderSize(io.LimitReader(r, size), int(max(min(size, buffered), 0))), left: size}
}

// Err returns what went wrong first.
func (r *Reader) Err() error { return r.err }

// Left returns how many bytes there are still.
func (r *Reader) Left() int64 { return r.left }

// Fail notes that what was read makes no sense.
func (r *Reader) Fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrDamaged, what)
	}
}

func (r *Reader) broken(err error) {
	switch {
	case r.err != nil:
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		r.Fail("it was cut")
	default:
		r.err = fmt.Errorf("section: %w", err)
	}
}

// Peek returns the next bytes, up to max of them; fewer only at the end. They are
// good until the next call.
func (r *Reader) Peek(most int) []byte {
	if r.err != nil {
		return nil
	}
	b, err := r.r.Peek(int(min(int64(most), r.left)))
	if err != nil {
		r.broken(err)
		return nil
	}
	return b
}

// Skip passes over bytes that Peek has shown.
func (r *Reader) Skip(n int) {
	if r.err != nil {
		return
	}
	if _, err := r.r.Discard(n); err != nil {
		r.broken(err)
		return
	}
	r.left -= int64(n)
}

// Uint reads a number.
func (r *Reader) Uint() uint64 {
	n, size := binary.Uvarint(r.Peek(binary.MaxVarintLen64))
	if size <= 0 {
		r.Fail("a number is none")
		return 0
	}
	r.Skip(size)
	return n
}

// Int reads a number that is not above a bound.
func (r *Reader) Int(most uint64) uint64 {
	n := r.Uint()
	if n > most {
		r.Fail("a number is too large")
		return 0
	}
	return n
}

// Byte reads a byte.
func (r *Reader) Byte() byte {
	b := r.Peek(1)
	if len(b) == 0 {
		r.Fail("it was cut")
		return 0
	}
	first := b[0]
	r.Skip(1)
	return first
}

// Bool reads a truth.
func (r *Reader) Bool() bool {
	b := r.Byte()
	if b > 1 {
		r.Fail("neither true nor false")
	}
	return b == 1
}

// Time reads an instant.
func (r *Reader) Time() events.Time { return events.Time(r.Uint()) }

// Raw fills b.
func (r *Reader) Raw(b []byte) {
	if r.err == nil && int64(len(b)) > r.left {
		r.Fail("it was cut")
	}
	if r.err != nil {
		return
	}
	if _, err := io.ReadFull(r.r, b); err != nil {
		r.broken(err)
		return
	}
	r.left -= int64(len(b))
}

// Count reads how many items follow, of so many bytes at least each.
func (r *Reader) Count(least int) int {
	n := r.Uint()
	if n > uint64(r.left)/uint64(least) {
		r.Fail("more items than there is room for")
		return 0
	}
	return int(n)
}

// ReadText reads a text or a document of so many bytes at most.
func ReadText[T ~string | ~[]byte](r *Reader, most int) T {
	n := r.Int(uint64(most))
	if r.err == nil && int64(n) > r.left {
		r.Fail("it was cut")
	}
	if r.err != nil || n == 0 {
		var none T
		return none
	}
	b := make([]byte, n)
	r.Raw(b)
	return T(b)
}

// MaxText bounds texts of facts: none is longer than a fact.
const MaxText = events.MaxFactBytes
