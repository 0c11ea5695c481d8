package byok

import (
	"fmt"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/relay/providers/providertest"
)

// condition is what is the matter with a key.
type condition = providertest.Condition

const (
	works     = providertest.Works
	invalid   = providertest.Unknown
	revoked   = providertest.Revoked
	echoed    = providertest.Echo
	redirects = providertest.Redirected
	endless   = providertest.Endless
)

// fake is all providers, on this machine.
type fake struct {
	*providertest.Server
	ca string
	// narrow leaves out that this machine may be asked.
	narrow bool
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{Server: providertest.Start(t)}
	var err error
	if f.ca, err = f.WriteCA(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	return f
}

// flags have a server ask the fake in the place of all providers.
func (f *fake) flags() []string {
	out := []string{"--provider-ca", f.ca}
	for p, url := range f.Endpoints() {
		out = append(out, "--provider-endpoint", string(p)+"="+url)
	}
	for _, p := range events.Providers() {
		m := providertest.Models(p)
		out = append(out, "--provider-models", fmt.Sprintf("%s=%s,%s", p, m[0], m[1]))
	}
	if !f.narrow {
		out = append(out, "--provider-allow", "127.0.0.1")
	}
	return out
}

// key is a provider's key of a condition.
func (f *fake) key(provider string, c condition) string {
	return providertest.Key(events.ProviderID(provider), c)
}

// named is one of any number of keys that work; 0 is the first.
func (f *fake) named(provider string, n int) string {
	key := f.key(provider, works)
	if n > 0 {
		key = fmt.Sprintf("%s%04d", key[:len(key)-4], n)
		f.Set(events.ProviderID(provider), key, works)
	}
	return key
}

// base is the address that a customer gives, or "".
func (f *fake) base(provider string) string { return f.BaseURL(events.ProviderID(provider)) }

// asked counts the requests that came.
func (f *fake) asked() int {
	n := 0
	for _, p := range events.Providers() {
		n += len(f.Requests(p))
	}
	return n
}
