package api

import (
	"context"
	"errors"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/domain/providerkey"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/relay/egress"
)

const (
	providerKeysPath = "/v1/organizations/{org}/provider-keys"
	providerKeyPath  = providerKeysPath + "/{provider}"
	providerTag      = "Provider keys"
)

// What any change of a provider key may be refused with.
var providerKeyCodes = []string{"invalid_value", "provider_key_malformed", "plan_required", "kek_missing", "base_url_required", "base_url_forbidden", "rate_limited"}

func (s *Server) providerEndpoints() []endpoint {
	const manages = "Role owner or admin of the whole organization."
	return []endpoint{
		{
			method: "GET", path: "/v1/providers", id: "list-providers", tag: providerTag, summary: "List AI providers",
			description: "Those whose keys can be brought, with what their keys begin with and which models this installation needs of each.",
			who:         "A management key of any role.", answers: wire.List[wire.Provider]{}, status: 200, handle: s.listProviders,
		},
		{
			method: "POST", path: providerKeysPath, id: "add-provider-key", tag: providerTag, summary: "Connect a provider",
			description: "Keeps the organization's own key of an AI provider, encrypted. From then on resolve answers it. Of the secret only its last four characters are ever shown again. " +
				"Nothing is asked of the provider: test it before, or after. One that is connected is refused with provider_key_exists; PATCH replaces its secret.",
			who: manages, takes: wire.CreateProviderKey{}, maxBody: MaxProviderKeyBytes,
			example: wire.CreateProviderKey{Provider: "openai", Secret: exampleSecret, Name: "Acme's account"},
			change:  true, answers: wire.ProviderKey{}, status: 201, codes: append([]string{"provider_unknown", "provider_key_exists"}, providerKeyCodes...), handle: s.addProviderKey,
		},
		{
			method: "GET", path: providerKeysPath, id: "list-provider-keys", tag: providerTag, summary: "List provider keys",
			description: "All that the organization has connected, with their states.", who: manages,
			answers: wire.List[wire.ProviderKey]{}, status: 200, codes: []string{"invalid_value"}, handle: s.listProviderKeys,
		},
		{
			method: "GET", path: providerKeyPath, id: "get-provider-key", tag: providerTag, summary: "Get a provider key", who: manages,
			answers: wire.ProviderKey{}, status: 200, codes: []string{"invalid_value"}, handle: s.getProviderKey,
		},
		{
			method: "PATCH", path: providerKeyPath, id: "update-provider-key", tag: providerTag, summary: "Rename a provider key, or replace its secret",
			description: "A secret takes the place of the one before at once: each resolve answers one or the other, and never none. What opens the old one is destroyed before this is answered: it is dead in the ledger, in exports and in backups of both. " +
				"A base_url goes only with a secret, so that nobody can have a secret sent to an address that it was not given for.",
			who: manages, takes: wire.UpdateProviderKey{}, maxBody: MaxProviderKeyBytes, example: wire.UpdateProviderKey{Name: wire.Some("Production"), Secret: exampleSecret},
			change: true, match: true, answers: wire.ProviderKey{}, status: 200, codes: providerKeyCodes, handle: s.updateProviderKey,
		},
		{
			method: "DELETE", path: providerKeyPath, id: "remove-provider-key", tag: providerTag, summary: "Disconnect a provider",
			description: "From then on resolve answers built_in. What opens the secret is destroyed before this is answered: it is dead in the ledger, in exports and in backups of both. It is not revoked at the provider.",
			who:         manages, change: true, match: true, answers: wire.Deleted{}, status: 200, codes: []string{"kek_missing"}, handle: s.removeProviderKey,
		},
		s.testSavedEndpoint(), s.testPastedEndpoint(), s.resolveEndpoint(), s.resolvesEndpoint(),
		{
			method: "POST", path: "/v1/provider-keys/rewrap", id: "rewrap-provider-keys", tag: providerTag, summary: "Wrap all data keys anew",
			description: "After the key-encryption key was rotated: every data key that another one wrapped is wrapped with the one of now. Events and secrets stay as they are. Servers do the same by themselves once an hour.",
			who:         "Role owner or admin of the installation.", answers: wire.RewrappedProviderKeys{}, status: 200, codes: []string{"kek_missing"}, handle: s.rewrapProviderKeys,
		},
	}
}

// exampleSecret has the form of a secret, and is none.
const exampleSecret = "sk-proj-EXAMPLE-0123456789-EXAMPLE-0123456789"

func (s *Server) listProviders(context.Context, *call) (reply, error) {
	return reply{body: list(provider.All(), "", func(p provider.Info) wire.Provider {
		models := s.cfg.Providers.Models[p.ID]
		return wire.Provider{
			ID: string(p.ID), Name: p.Name, NeedsBaseURL: p.NeedsBaseURL, KeyPrefixes: append([]string{}, p.Prefixes...),
			Models: append([]string{}, models...), KeysURL: p.KeysURL, DocsURL: p.DocsURL, UsageURL: p.UsageURL,
		}
	})}, nil
}

// provider reads the organization and provider of the path.
func (c *call) provider() (events.OrgID, events.ProviderID, error) {
	org, err := c.org()
	if err != nil {
		return "", "", err
	}
	id, err := events.ParseProviderID(c.r.PathValue("provider"))
	if err != nil {
		return "", "", missing("provider key")
	}
	return org, id, nil
}

// providerNamed reads the provider that a body names.
func providerNamed(text string) (events.ProviderID, error) {
	id, err := events.ParseProviderID(text)
	switch {
	case text == "":
		return "", domain.Refuse(domain.ErrInvalid, "provider", "is needed: an id of GET /v1/providers")
	case err != nil:
		return "", providerkey.RefuseProvider(text)
	}
	return id, nil
}

// reachable refuses an address that this server may not call. Whether anybody is
// there is another matter: the customer may be ahead of their own set-up, and a test
// tells.
func (s *Server) reachable(ctx context.Context, baseURL string) error {
	if baseURL == "" || s.cfg.Providers.Reach == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, reachWait)
	defer cancel()
	if err := s.cfg.Providers.Reach(ctx, baseURL); errors.Is(err, egress.ErrForbidden) {
		return refuse(provider.ErrBaseURLForbidden, "base_url", "is an address that this server does not call: none of a private network, unless the server's operator allows it")
	}
	return nil
}

func (s *Server) addProviderKey(ctx context.Context, c *call) (reply, error) {
	org, err := c.org()
	if err != nil {
		return reply{}, err
	}
	secret, err := s.takeSecret(c, org)
	if err != nil {
		return reply{}, err
	}
	body, w, err := wished(c, func(b wire.CreateProviderKey) string { return b.Reason })
	if err != nil {
		return reply{}, err
	}
	id, err := providerNamed(body.Provider)
	if err != nil {
		return reply{}, err
	}
	if err := s.mayWithAddress(ctx, c, org, id, body.BaseURL); err != nil {
		return reply{}, err
	}
	out, err := s.cfg.Commands.AddProviderKey(ctx, w, org, commands.AddProviderKey{
		Provider: id, Secret: secret, Name: body.Name, BaseURL: body.BaseURL, Force: body.Force,
	})
	return s.providerKeyChanged(ctx, c, w, out, err, "/v1/organizations/"+string(org)+"/provider-keys/"+string(id))
}

// mayWithAddress checks an address for who may have one checked: it takes a look-up,
// which nobody else causes, and which tells something of names that only this server
// sees. So it counts as a test does.
func (s *Server) mayWithAddress(ctx context.Context, c *call, org events.OrgID, id events.ProviderID, baseURL string) error {
	if baseURL == "" {
		return nil
	}
	if err := s.cfg.Commands.MayTestProviderKeys(ctx, c.principal, org); err != nil {
		return err
	}
	base, err := provider.BaseURL(id, baseURL)
	if err != nil {
		return err
	}
	end, err := s.paced(org)
	if err != nil {
		return err
	}
	defer end()
	return s.reachable(ctx, base)
}

func (s *Server) updateProviderKey(ctx context.Context, c *call) (reply, error) {
	org, id, err := c.provider()
	if err != nil {
		return reply{}, err
	}
	secret, err := s.takeSecret(c, org)
	if err != nil {
		return reply{}, err
	}
	body, w, err := wished(c, func(b wire.UpdateProviderKey) string { return b.Reason })
	if err != nil {
		return reply{}, err
	}
	if secret.IsZero() && hasMember(c.body, secretMember) {
		// A form that was sent empty would be told that the secret is replaced.
		return reply{}, refuse(domain.ErrInvalid, secretMember, "must not be empty: leave it out to keep the secret that is saved, or remove the provider key")
	}
	if body.BaseURL.Set && !secret.IsZero() {
		if err := s.mayWithAddress(ctx, c, org, id, body.BaseURL.Value); err != nil {
			return reply{}, err
		}
	}
	out, err := s.cfg.Commands.UpdateProviderKey(ctx, w, org, id, commands.UpdateProviderKey{
		Name: domain.Optional[string]{Set: body.Name.Set, Value: body.Name.Value}, Secret: secret,
		BaseURL: domain.Optional[string]{Set: body.BaseURL.Set, Value: body.BaseURL.Value}, Force: body.Force,
	})
	return s.providerKeyChanged(ctx, c, w, out, err, "")
}

// rowOfProviderKey is a provider key as the catalog would have it, by its own facts.
func (s *Server) rowOfProviderKey(k commands.ProviderKey) catalog.ProviderKey {
	config, _ := s.cfg.Configuration.Of(k.Org)
	return catalog.ProviderKey{
		Org: k.Org, Provider: k.Provider, Version: k.Version, Name: k.Name, BaseURL: k.BaseURL, Sealed: k.Sealed,
		State: catalog.ProviderKeyState(k.Condition(config.Organization.Plan)), CreatedAt: k.CreatedAt, CreatedBy: k.CreatedBy, ReplacedAt: k.ReplacedAt,
		LastTest: catalog.ProviderKeyTest(k.Tested), Revision: k.Revision, Position: k.Position,
	}
}

func (s *Server) providerKeyChanged(ctx context.Context, c *call, w commands.Wish, out commands.ProviderKeyOutcome, err error, location string) (reply, error) {
	if err := s.notDestroyed(out.Outcome, err); err != nil {
		return reply{}, err
	}
	if w.DryRun {
		return preview(out.Facts)
	}
	s.remember(out.Position)
	row := s.rowOfProviderKey(out.ProviderKey)
	// What is done is answered, even when this cannot be told now.
	resolved, _ := s.cfg.AccessLog.LastResolved(ctx, row.Org, row.Provider)
	return reply{
		body: s.showProviderKey(ctx, c.principal, row, resolved), revision: row.Revision, replayed: out.Replayed, location: location, lags: !out.Applied,
	}, nil
}

// notDestroyed answers a change that is recorded while what it takes away is not
// known to be destroyed.
func (s *Server) notDestroyed(out commands.Outcome, err error) error {
	if !errors.Is(err, commands.ErrNotDestroyed) {
		return err
	}
	s.remember(out.Position)
	return &refusal{
		Err:    errors.Join(errNotApplied, err),
		Detail: "the change is recorded and holds, and what opened the old secret is not destroyed yet: the servers go on trying; repeat the request with the same Idempotency-Key to learn that it is done",
	}
}

func (s *Server) removeProviderKey(ctx context.Context, c *call) (reply, error) {
	org, id, err := c.provider()
	if err != nil {
		return reply{}, err
	}
	w, err := c.wish("")
	if err != nil {
		return reply{}, err
	}
	out, err := s.cfg.Commands.RemoveProviderKey(ctx, w, org, id)
	if err := s.notDestroyed(out.Outcome, err); err != nil {
		return reply{}, err
	}
	if w.DryRun {
		return preview(out.Facts)
	}
	s.remember(out.Position)
	return reply{body: wire.Deleted{Position: s.position(out.Position)}, replayed: out.Replayed, lags: !out.Applied}, nil
}

func (s *Server) listProviderKeys(ctx context.Context, c *call) (reply, error) {
	org, err := c.org()
	if err != nil {
		return reply{}, err
	}
	if err := s.cfg.Commands.MaySeeProviderKeys(c.principal, org); err != nil {
		return reply{}, err
	}
	s.settle(ctx)
	if _, err := s.organization(ctx, org); err != nil {
		return reply{}, err
	}
	rows, err := s.cfg.Catalog.ProviderKeys(ctx, org)
	if err != nil {
		return reply{}, err
	}
	out := wire.List[wire.ProviderKey]{Items: make([]wire.ProviderKey, 0, len(rows))}
	for _, row := range rows {
		shown, err := s.providerKeyOf(ctx, c.principal, row)
		if err != nil {
			return reply{}, err
		}
		out.Items = append(out.Items, shown)
	}
	return reply{body: out}, nil
}

func (s *Server) getProviderKey(ctx context.Context, c *call) (reply, error) {
	org, id, err := c.provider()
	if err != nil {
		return reply{}, err
	}
	if err := s.cfg.Commands.MaySeeProviderKeys(c.principal, org); err != nil {
		return reply{}, err
	}
	s.settle(ctx)
	if _, err := s.organization(ctx, org); err != nil {
		return reply{}, err
	}
	row, err := s.cfg.Catalog.ProviderKey(ctx, org, id)
	if err == nil && !row.RemovedAt.IsZero() || errors.Is(err, catalog.ErrNotFound) {
		return reply{}, missing("provider key")
	}
	if err != nil {
		return reply{}, err
	}
	shown, err := s.providerKeyOf(ctx, c.principal, row)
	return reply{body: shown, revision: row.Revision}, err
}

// providerKeyOf shows what the catalog has, with what access records tell.
func (s *Server) providerKeyOf(ctx context.Context, p commands.Principal, k catalog.ProviderKey) (wire.ProviderKey, error) {
	last, err := s.cfg.AccessLog.LastResolved(ctx, k.Org, k.Provider)
	return s.showProviderKey(ctx, p, k, last), err
}

func (s *Server) showProviderKey(ctx context.Context, p commands.Principal, k catalog.ProviderKey, resolved events.Time) wire.ProviderKey {
	out := wire.ProviderKey{
		ID: string(k.Provider), Provider: string(k.Provider), Name: s.text(ctx, p, k.Org, k.Name), State: string(k.State), Version: k.Version,
		BaseURL: k.BaseURL, CreatedAt: k.CreatedAt.Std(), CreatedBy: k.CreatedBy.String(), ReplacedAt: instant(k.ReplacedAt),
		LastResolvedAt: instant(resolved), Position: s.position(k.Position),
		LastTest: lastTest(providerkey.Test(k.LastTest)),
	}
	if four := s.lastFour(ctx, k); four != "" {
		out.LastFour, out.Masked = four, "…"+four
	}
	return out
}

// lastFour opens the last four characters of a secret, empty where that cannot be
// done now: a list without them is better than none.
func (s *Server) lastFour(ctx context.Context, k catalog.ProviderKey) string {
	if s.cfg.Providers.LastFour == nil || k.Sealed.DataKey.IsZero() {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, openWait)
	defer cancel()
	four, err := s.cfg.Providers.LastFour(ctx, seals.Binding{Org: k.Org, Provider: k.Provider, Version: k.Version, BaseURL: k.BaseURL}, k.Sealed)
	if err != nil {
		return ""
	}
	return four
}

func lastTest(t providerkey.Test) *wire.ProviderLastTest {
	if t.At.IsZero() {
		return nil
	}
	return &wire.ProviderLastTest{Result: string(t.Result), At: t.At.Std(), MissingModels: t.MissingModels, Status: t.Status, Version: t.Version}
}

func (s *Server) rewrapProviderKeys(ctx context.Context, c *call) (reply, error) {
	done, err := s.cfg.Commands.RewrapProviderKeys(ctx, c.principal)
	return reply{body: wire.RewrappedProviderKeys{Rewrapped: done.Rewrapped, Current: done.Current, Failed: done.Failed}}, err
}

// noteSource records that a provider key was resolved from where it never was.
func (s *Server) noteSource(ctx context.Context, one seen) error {
	_, err := s.cfg.Commands.NoteProviderSource(ctx, one.org, one.provider, commands.ProviderSeen{At: one.at, By: one.by, Source: one.source})
	return err
}
