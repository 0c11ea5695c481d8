package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/events"
)

// poured is what a client gets of a flowing answer that is sent in pieces, and that
// may end with an error. The key is good for as many pieces as good says.
func poured(t *testing.T, pieces, good int, end error) (status int, body string, err error) {
	t.Helper()
	s := &Server{cfg: Config{Logger: slog.New(slog.DiscardHandler)}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent := 0
		c := &call{w: w, r: r, requestID: "req-1", endpoint: &endpoint{id: "test"}, still: func() error {
			if sent++; sent > good {
				return unauthenticated(gate.Realm, "the key has ended")
			}
			return nil
		}}
		s.pour(c, &flowing{contentType: csvType, send: func(_ context.Context, f *flow) error {
			for range pieces {
				if _, err := io.WriteString(f, strings.Repeat("x", streamChunk)); err != nil {
					return err
				}
			}
			return end
		}})
	}))
	defer front.Close()
	res, err := http.Get(front.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

// TestFlow tells an answer that is whole from one that is not, whatever was sent.
func TestFlow(t *testing.T) {
	broken := errors.Join(events.ErrUnavailable, errors.New("the view has stopped"))
	for name, test := range map[string]struct {
		pieces, good int
		end          error
		status       int
		cut          bool
		size         int
	}{
		"whole":                     {3, 9, nil, 200, false, 3 * streamChunk},
		"empty":                     {0, 9, nil, 200, false, 0},
		"it breaks at once":         {0, 9, broken, 503, false, -1},
		"it breaks later":           {2, 9, broken, 200, true, 2 * streamChunk},
		"the key has ended":         {3, 0, nil, 401, false, -1},
		"the key ends on the way":   {3, 2, nil, 200, true, 2 * streamChunk},
		"the key ends for the last": {3, 3, nil, 200, true, 3 * streamChunk},
	} {
		status, body, err := poured(t, test.pieces, test.good, test.end)
		if status != test.status || (err != nil) != test.cut {
			t.Errorf("%s: %d, %v", name, status, err)
		}
		if test.cut && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", name, err)
		}
		if test.size >= 0 && len(body) != test.size {
			t.Errorf("%s: %d bytes, want %d", name, len(body), test.size)
		}
		if test.size < 0 && !strings.Contains(body, `"code":`) {
			t.Errorf("%s: no problem document but %q", name, body[:min(100, len(body))])
		}
	}
}
