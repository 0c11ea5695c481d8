package api

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/keyledger/keyledger/domain/keystring"
)

// flowing is an answer that is too long to be made before it is sent: a report, an
// export. send writes it, piece by piece.
type flowing struct {
	contentType string
	// filename is what a browser saves it as.
	filename string
	// header are further headers.
	header map[string]string
	// policy is the Content-Security-Policy of a page, empty for what is none.
	policy string
	send   func(context.Context, *flow) error
}

// flow is such an answer on its way. What is written is gathered, and sent while
// it is still for the one who asked: the key is judged again for every piece.
type flow struct {
	ctx     context.Context
	call    *call
	control *http.ResponseController
	headers func()
	buf     bytes.Buffer
	began   bool
}

// Write gathers a piece, and sends what is gathered once it is worth it.
func (f *flow) Write(p []byte) (int, error) {
	f.buf.Write(p)
	if f.buf.Len() < streamChunk {
		return len(p), nil
	}
	return len(p), f.flush()
}

func (f *flow) flush() error {
	if err := context.Cause(f.ctx); err != nil {
		return err
	}
	if err := f.call.still(); err != nil {
		return err
	}
	// A test's recorder has no deadlines.
	if err := f.control.SetWriteDeadline(time.Now().Add(defaultPatience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if !f.began {
		f.began = true
		f.headers()
	}
	if _, err := f.call.w.Write(f.buf.Bytes()); err != nil {
		return err
	}
	f.buf.Reset()
	if err := f.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// pour sends a flowing answer. One that fails before its first piece is answered
// with the problem; after that the connection is broken, so that nobody takes a
// part for the whole.
func (s *Server) pour(c *call, out *flowing) {
	ctx, cancel := context.WithTimeout(c.r.Context(), flowTimeout)
	defer cancel()
	f := &flow{ctx: ctx, call: c, control: http.NewResponseController(c.w)}
	f.headers = func() {
		h := c.w.Header()
		h.Set("Content-Type", out.contentType)
		h.Set("Cache-Control", "no-store")
		if out.filename != "" {
			h.Set("Content-Disposition", `attachment; filename="`+out.filename+`"`)
		}
		if out.policy != "" {
			h.Set("Content-Security-Policy", out.policy)
		}
		for name, value := range out.header {
			h.Set(name, value)
		}
		c.w.WriteHeader(http.StatusOK)
	}
	if c.r.Method == http.MethodHead {
		f.headers()
		return
	}
	// The server's own timeout is for requests that have sent their body.
	if err := f.control.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		trackOf(c.w).fail(writeProblem(c.w, errors.Join(errInternal, err), c.requestID), err)
		return
	}
	err := out.send(ctx, f)
	if err == nil {
		err = f.flush()
	}
	if err == nil {
		return
	}
	if !f.began {
		trackOf(c.w).fail(writeProblem(c.w, err, c.requestID), err)
		return
	}
	s.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "a long answer was cut off", slog.String("request_id", c.requestID),
		slog.String("endpoint", c.endpoint.id), slog.String("error", keystring.Redact(err.Error())))
	// A deadline that has passed: the end of the answer, which the server would
	// write now, does not reach the client.
	_ = f.control.SetWriteDeadline(time.Unix(1, 0))
}
