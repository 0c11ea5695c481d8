package client

import (
	"context"

	"github.com/keyledger/keyledger/api/wire"
)

func providerKeys(org string, id ...string) string {
	if len(id) == 0 {
		return path("organizations", org, "provider-keys")
	}
	return path("organizations", org, "provider-keys", id[0])
}

// Providers lists the AI providers whose keys can be brought.
func (c *Client) Providers(ctx context.Context) (wire.List[wire.Provider], error) {
	return call[wire.List[wire.Provider]](ctx, c, "GET", path("providers"), nil)
}

// AddProviderKey connects a provider with the customer's own key.
func (c *Client) AddProviderKey(ctx context.Context, org string, body wire.CreateProviderKey, o ...Option) (wire.ProviderKey, error) {
	return call[wire.ProviderKey](ctx, c, "POST", providerKeys(org), body, o...)
}

// ProviderKeys lists an organization's provider keys.
func (c *Client) ProviderKeys(ctx context.Context, org string) (wire.List[wire.ProviderKey], error) {
	return call[wire.List[wire.ProviderKey]](ctx, c, "GET", providerKeys(org), nil)
}

// ProviderKey reads an organization's key of a provider.
func (c *Client) ProviderKey(ctx context.Context, org, provider string, o ...Option) (wire.ProviderKey, error) {
	return call[wire.ProviderKey](ctx, c, "GET", providerKeys(org, provider), nil, o...)
}

// UpdateProviderKey renames a provider key or replaces its secret.
func (c *Client) UpdateProviderKey(ctx context.Context, org, provider string, body wire.UpdateProviderKey, o ...Option) (wire.ProviderKey, error) {
	return call[wire.ProviderKey](ctx, c, "PATCH", providerKeys(org, provider), body, o...)
}

// RemoveProviderKey disconnects a provider; what opens its secret is destroyed.
func (c *Client) RemoveProviderKey(ctx context.Context, org, provider string, o ...Option) (wire.Deleted, error) {
	return call[wire.Deleted](ctx, c, "DELETE", providerKeys(org, provider), nil, o...)
}

// TestProviderKey asks the provider about a saved key.
func (c *Client) TestProviderKey(ctx context.Context, org, provider string) (wire.ProviderTest, error) {
	return call[wire.ProviderTest](ctx, c, "POST", providerKeys(org, provider)+"/test", nil, once)
}

// TryProviderKey asks a provider about a key that is not saved.
func (c *Client) TryProviderKey(ctx context.Context, org string, body wire.TestProviderKey) (wire.ProviderTest, error) {
	return call[wire.ProviderTest](ctx, c, "POST", providerKeys(org)+"/test", body, once)
}

// ResolveProviderKey returns what to call a provider with: the customer's own key,
// or that the built-in allocation serves. Each call is recorded, with who made it.
func (c *Client) ResolveProviderKey(ctx context.Context, org, provider string) (wire.ResolvedProviderKey, error) {
	return call[wire.ResolvedProviderKey](ctx, c, "POST", providerKeys(org)+"/resolve", wire.ResolveProviderKey{Provider: provider}, once)
}

// ProviderKeyResolves lists who asked for a provider key, from the newest on.
func (c *Client) ProviderKeyResolves(ctx context.Context, org, provider string, p Page) (wire.List[wire.ProviderKeyResolve], error) {
	return call[wire.List[wire.ProviderKeyResolve]](ctx, c, "GET", providerKeys(org, provider)+"/resolves", nil, paged(p))
}

// RewrapProviderKeys has the data keys of all provider keys wrapped with the
// key-encryption key of now.
func (c *Client) RewrapProviderKeys(ctx context.Context) (wire.RewrappedProviderKeys, error) {
	return call[wire.RewrappedProviderKeys](ctx, c, "POST", path("provider-keys")+"/rewrap", nil, once)
}

// once marks what appends nothing that a repetition could meet.
func once(r *request) { r.header.Del("Idempotency-Key") }
