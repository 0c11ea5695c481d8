package verify

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events/uses"
)

func (c *queries) kept() (n int) {
	for i := range c.sets {
		for j := range c.sets[i] {
			if c.sets[i][j].Load() != nil {
				n++
			}
		}
	}
	return n
}

// has reports whether a query is kept, and asks nothing.
func (c *queries) has(text string) bool {
	for i := range c.sets {
		for j := range c.sets[i] {
			if kept := c.sets[i][j].Load(); kept != nil && kept.query.Text() == text {
				return true
			}
		}
	}
	return false
}

func get(t *testing.T, c *queries, text string) *permission.Query {
	t.Helper()
	q, err := c.get(text)
	if err != nil || q.Text() != text {
		t.Fatalf("%q: %v", text, err)
	}
	return q
}

func TestQueriesAreParsedOnce(t *testing.T) {
	c := newQueries()
	const text = "a:b OR c:d"
	first := get(t, c, text)
	if get(t, c, text) != first {
		t.Error("parsed again")
	}
	if n := testing.AllocsPerRun(100, func() { get(t, c, text) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	for _, bad := range []string{"a:b OR", strings.Repeat(" ", 600) + "a:b"} {
		if _, err := c.get(bad); !errors.Is(err, permission.ErrQuery) {
			t.Errorf("%v", err)
		}
	}
	if n := c.kept(); n != 1 {
		t.Errorf("%d are kept", n)
	}
}

// A query outlives the buffer that it was read into.
func TestQueriesOwnTheirText(t *testing.T) {
	c := newQueries()
	const text = "a:b OR c:d"
	buffer := []byte(text)
	get(t, c, unsafe.String(unsafe.SliceData(buffer), len(buffer)))
	clear(buffer)
	if !c.has(text) {
		t.Error("the text has changed")
	}
}

// Who asks a new query each time takes no room from those that are asked again
// and again, however many he asks, and does not make it more.
func TestStrangersPushNothingOut(t *testing.T) {
	c := newQueries()
	var known []string
	for n := range 100 {
		known = append(known, fmt.Sprintf("known:%d OR a:b", n))
	}
	for range 3 {
		for _, text := range known {
			get(t, c, text)
		}
	}
	var lasting []string
	for _, text := range known {
		if c.has(text) {
			lasting = append(lasting, text)
		}
	}
	// By chance some meet more than three others in their place.
	if len(lasting) < 95 {
		t.Fatalf("of 100 queries %d are kept", len(lasting))
	}
	for n := range 100_000 {
		get(t, c, fmt.Sprintf("stranger:%d OR a:b", n))
		if n%100 == 0 {
			get(t, c, lasting[n/100%len(lasting)])
		}
	}
	if n := c.kept(); n > querySets*queryWays {
		t.Errorf("%d are kept", n)
	}
	gone := 0
	for _, text := range lasting {
		if !c.has(text) {
			gone++
		}
	}
	// Only four that are known in one place have none for a stranger.
	if gone > 5 {
		t.Errorf("%d of %d have gone", gone, len(lasting))
	}
}

// What is not asked again makes room for what is.
func TestQueriesMakeRoom(t *testing.T) {
	c := newQueries()
	for round := range 3 {
		for n := range 20 * querySets {
			for range 2 {
				get(t, c, fmt.Sprintf("of%d:%d OR a:b", round, n))
			}
		}
	}
	kept := 0
	for n := range 20 * querySets {
		if c.has(fmt.Sprintf("of2:%d OR a:b", n)) {
			kept++
		}
	}
	if kept < querySets {
		t.Errorf("%d of the last are kept", kept)
	}
}

func TestQueriesOfManyAtOnce(t *testing.T) {
	c := newQueries()
	var group sync.WaitGroup
	for worker := range 4 {
		group.Go(func() {
			for n := range 20_000 {
				text := fmt.Sprintf("a:%d OR b:%d", n%(1500+worker), n%7)
				q, err := c.get(text)
				if err != nil || q.Text() != text || !q.Holds(func(g permission.Grant) bool { return string(g) == fmt.Sprint("b:", n%7) }) {
					t.Errorf("%q: %v", text, err)
					return
				}
			}
		})
	}
	group.Wait()
}

func TestAUseHoldsEveryQuery(t *testing.T) {
	if permission.MaxQueryLen > uses.MaxPermission {
		t.Errorf("a query of %d bytes is cut to %d", permission.MaxQueryLen, uses.MaxPermission)
	}
}
