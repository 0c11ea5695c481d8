package verifytest

import (
	"context"
	"fmt"
	"testing"
)

// Example runs f with a ledger that ends with it, for runnable examples, which have no
// test that could fail: whatever would fail one panics.
func Example(f func(*Ledger)) {
	ctx, cancel := context.WithCancel(context.Background())
	e := &example{ctx: ctx}
	defer func() {
		cancel()
		for i := len(e.cleanups) - 1; i >= 0; i-- {
			e.cleanups[i]()
		}
	}()
	f(Begin(e))
}

// example is as much of a test as a ledger needs.
type example struct {
	testing.TB
	ctx      context.Context //nolint:containedctx // It is what testing.TB has.
	cleanups []func()
}

func (e *example) Helper()                           {}
func (e *example) Context() context.Context          { return e.ctx }
func (e *example) Cleanup(f func())                  { e.cleanups = append(e.cleanups, f) }
func (e *example) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (e *example) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
