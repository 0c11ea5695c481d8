package section_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"testing"
	"testing/iotest"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/section"
)

func written(t testing.TB, f func(*section.Writer)) []byte {
	t.Helper()
	var b bytes.Buffer
	w := section.NewWriter(&b)
	f(w)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func reader(b []byte) *section.Reader { return section.NewReader(bytes.NewReader(b), int64(len(b))) }

func TestComesBackAsItWasWritten(t *testing.T) {
	body := written(t, func(w *section.Writer) {
		w.Uint(math.MaxUint64)
		w.Byte(7)
		w.Bool(true)
		w.Time(-5)
		w.Raw([]byte("raw"))
		section.Text(w, events.OrgID("acme"))
		section.Text(w, []byte(nil))
		w.Uint(2)
	})
	r := reader(body)
	raw := make([]byte, 3)
	if n, b, yes, at := r.Uint(), r.Byte(), r.Bool(), r.Time(); n != math.MaxUint64 || b != 7 || !yes || at != -5 {
		t.Error(n, b, yes, at)
	}
	r.Raw(raw)
	if org, none := section.ReadText[events.OrgID](r, 10), section.ReadText[[]byte](r, 10); string(raw) != "raw" || org != "acme" || none != nil {
		t.Errorf("%s %s %q", raw, org, none)
	}
	if r.Int(2) != 2 || r.Left() != 0 || r.Err() != nil {
		t.Error(r.Left(), r.Err())
	}
}

// TestNothingIsBelieved that the bytes could not hold, and the first fault stays.
func TestNothingIsBelieved(t *testing.T) {
	huge := written(t, func(w *section.Writer) { w.Uint(1 << 62) })
	for name, read := range map[string]func(*section.Reader){
		"a number of items":     func(r *section.Reader) { r.Count(1) },
		"a text":                func(r *section.Reader) { section.ReadText[string](r, math.MaxInt) },
		"a text that is longer": func(r *section.Reader) { section.ReadText[string](r, 10) },
		"a number":              func(r *section.Reader) { r.Int(1 << 61) },
		"bytes":                 func(r *section.Reader) { r.Raw(make([]byte, 100)) },
		"neither true or false": func(r *section.Reader) { r.Bool() },
		"after the end":         func(r *section.Reader) { r.Uint(); r.Byte() },
	} {
		r := reader(huge)
		read(r)
		first := r.Err()
		if !errors.Is(first, section.ErrDamaged) {
			t.Errorf("%s: %v", name, first)
		}
		if r.Uint() != 0 || r.Count(1) != 0 || r.Peek(1) != nil || section.ReadText[string](r, 10) != "" || r.Err() != first { //nolint:errorlint // the same one
			t.Errorf("%s: it goes on after a fault: %v", name, r.Err())
		}
	}
}

// TestWhatCannotBeReadIsNotDamaged: a disk that fails is no reason to throw away what
// is on it.
func TestWhatCannotBeReadIsNotDamaged(t *testing.T) {
	broken := errors.New("the disk fails")
	r := section.NewReader(iotest.ErrReader(broken), 100)
	if r.Uint(); !errors.Is(r.Err(), broken) || errors.Is(r.Err(), section.ErrDamaged) {
		t.Error(r.Err())
	}
	r = section.NewReader(io.MultiReader(bytes.NewReader([]byte{1}), iotest.ErrReader(broken)), 100)
	if r.Raw(make([]byte, 50)); !errors.Is(r.Err(), broken) || errors.Is(r.Err(), section.ErrDamaged) {
		t.Error(r.Err())
	}
	r = section.NewReader(bytes.NewReader([]byte{1}), 100)
	if r.Raw(make([]byte, 50)); !errors.Is(r.Err(), section.ErrDamaged) {
		t.Error(r.Err())
	}
}
