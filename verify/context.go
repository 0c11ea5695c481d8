package verify

import "context"

// contextKey is under which a verdict is kept.
type contextKey struct{}

// NewContext returns a context with a verdict, for what handles the request that it
// was given on.
func NewContext(ctx context.Context, d *Decision) context.Context {
	return context.WithValue(ctx, contextKey{}, d)
}

// FromContext returns the verdict that lets a request through, and whether there is
// one: its zero value denies. Its lists are shared, and not to be written to.
func FromContext(ctx context.Context) (Decision, bool) {
	d, ok := ctx.Value(contextKey{}).(*Decision)
	if !ok || d == nil {
		return Decision{}, false
	}
	return *d, true
}
