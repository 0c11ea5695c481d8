package wire

import (
	"fmt"
	"log/slog"
	"time"
)

// ProviderSecret is a provider's secret on its way. It prints as its length, so that
// no log or error shows it by accident; in JSON it is itself.
type ProviderSecret string

// Reveal returns the secret.
func (s ProviderSecret) Reveal() string { return string(s) }

// Format writes how long it is, whatever the verb.
func (s ProviderSecret) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, s.String()) }

func (s ProviderSecret) String() string { return fmt.Sprintf("(secret of %d bytes)", len(s)) }

// LogValue is what a log shows of it.
func (s ProviderSecret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Provider is an AI provider whose keys can be brought.
type Provider struct {
	ID           string   `json:"id" example:"openai"`
	Name         string   `json:"name" example:"OpenAI" doc:"What people call it."`
	NeedsBaseURL bool     `json:"needs_base_url" doc:"Whether its address is the customer's own, so that base_url is needed."`
	KeyPrefixes  []string `json:"key_prefixes" example:"[\"sk-proj-\",\"sk-\"]" doc:"What its keys begin with, as far as it says; empty when it does not."`
	Models       []string `json:"models" example:"[\"gpt-4o\"]" doc:"The models that this installation needs of it; a test names those that a key does not reach."`
	KeysURL      string   `json:"keys_url,omitzero" doc:"Where people make a key there."`
	DocsURL      string   `json:"docs_url,omitzero" doc:"What it says about its keys."`
	UsageURL     string   `json:"usage_url,omitzero" doc:"Where it shows what is spent, and warns of it."`
}

// ProviderKey is a customer's own key of a provider, without its secret.
type ProviderKey struct {
	ID             string            `json:"id" example:"openai" doc:"The provider: an organization has one key of each."`
	Provider       string            `json:"provider" example:"openai"`
	Name           string            `json:"name,omitzero" doc:"Left out when the key has none."`
	State          string            `json:"state" enum:"connected,untested,failing,suspended" doc:"connected: the last test of this secret worked, or has not been answered since it did. untested: none was. failing: the last one came to another result. suspended: the organization's plan has no provider keys, so that resolve answers built_in; the key is kept."`
	Version        uint64            `json:"version" example:"1" doc:"Counts the secrets that the organization has given for the provider, for ever."`
	LastFour       string            `json:"last_four,omitzero" example:"a1B2" doc:"The last four characters of the secret. Left out when this server cannot open them."`
	Masked         string            `json:"masked,omitzero" example:"…a1B2"`
	BaseURL        string            `json:"base_url,omitzero" doc:"The provider's address, where it is the customer's own."`
	CreatedAt      time.Time         `json:"created_at" doc:"When the provider was connected."`
	CreatedBy      string            `json:"created_by" example:"key/acme/0197ab6e-98f1-7c3a-8f0e-2f3a4b5c6d7e"`
	ReplacedAt     *time.Time        `json:"replaced_at,omitempty" doc:"When the secret was replaced for the last time."`
	LastTest       *ProviderLastTest `json:"last_test,omitempty" doc:"The last test of the saved key; left out before the first."`
	LastResolvedAt *time.Time        `json:"last_resolved_at,omitempty" doc:"When it was handed out for the last time, as far as access records are kept. It may lag some seconds behind."`
	Position       string            `json:"position" doc:"Position of its last change."`
}

// ProviderLastTest is what the last test of a saved key came to.
type ProviderLastTest struct {
	Result        string    `json:"result" enum:"works,invalid,expired_or_revoked,insufficient_permissions,missing_models,rate_limited,unreachable,malformed"`
	At            time.Time `json:"at"`
	MissingModels []string  `json:"missing_models,omitempty" doc:"The models that the platform needs and the key does not reach."`
	Status        int       `json:"status,omitzero" example:"200" doc:"The provider's HTTP status, if it answered."`
	Version       uint64    `json:"version" doc:"The secret that was tested; another than the key's version is out of date."`
}

// CreateProviderKey connects a provider.
type CreateProviderKey struct {
	Provider string         `json:"provider" maxLength:"63" example:"openai" doc:"An id of GET /v1/providers."`
	Secret   ProviderSecret `json:"secret" maxLength:"4096" doc:"The provider's key. It is never shown again."`
	BaseURL  string         `json:"base_url,omitzero" maxLength:"512" example:"https://acme.openai.azure.com" doc:"The provider's address, where it is the customer's own: https only."`
	Name     string         `json:"name,omitzero" maxLength:"200" example:"Acme's account"`
	Force    bool           `json:"force,omitzero" doc:"Save a secret that does not look like one of this provider's, where that may be wrong: it was missing_prefix, too_short or too_long. White space, other characters and another provider's key are refused all the same."`
	Reason   string         `json:"reason,omitzero" maxLength:"1000" doc:"Why, for the audit log."`
}

// UpdateProviderKey is a merge patch of a provider key.
type UpdateProviderKey struct {
	Name    Optional[string] `json:"name,omitzero" maxLength:"200" doc:"null clears it."`
	Secret  ProviderSecret   `json:"secret,omitzero" maxLength:"4096" doc:"Takes the place of the one before, from the next resolve on; that one is destroyed."`
	BaseURL Optional[string] `json:"base_url,omitzero" maxLength:"512" doc:"Only together with a secret: the one before was given for the address before. It stays unless given."`
	Force   bool             `json:"force,omitzero" doc:"As when a provider is connected."`
	Reason  string           `json:"reason,omitzero" maxLength:"1000" doc:"Why, for the audit log."`
}

// TestProviderKey asks a provider about a key that is not saved.
type TestProviderKey struct {
	Provider string         `json:"provider" maxLength:"63" example:"openai"`
	Secret   ProviderSecret `json:"secret" maxLength:"4096"`
	BaseURL  string         `json:"base_url,omitzero" maxLength:"512"`
	Force    bool           `json:"force,omitzero" doc:"Ask the provider even when the secret does not look like one of its keys."`
}

// ProviderTest is what a test came to. That a key does not work is an answer, and
// no error.
type ProviderTest struct {
	Provider      string    `json:"provider" example:"openai"`
	Result        string    `json:"result" enum:"works,invalid,expired_or_revoked,insufficient_permissions,missing_models,rate_limited,unreachable,malformed" doc:"malformed: it was not sent, and problem says why."`
	Works         bool      `json:"works" doc:"Whether result is works."`
	Problem       string    `json:"problem,omitzero" enum:"spaces,missing_prefix,other_provider,too_short,too_long,characters" doc:"What is wrong with what was pasted, with malformed alone."`
	LooksLike     string    `json:"looks_like,omitzero" example:"anthropic" doc:"Whose key it looks like, with other_provider."`
	MissingModels []string  `json:"missing_models" doc:"The models that the platform needs and the key does not reach."`
	Status        int       `json:"status,omitzero" example:"200" doc:"The provider's HTTP status, if it answered."`
	Reason        string    `json:"reason,omitzero" example:"quota_exhausted" doc:"What is behind the result, where more is known. With works: unproven, unlisted. With rate_limited: quota_exhausted. With insufficient_permissions: scopes, region, source_address, service_disabled. With unreachable: forbidden_address, bad_address, unknown_name, refused, tls, timeout, redirect, not_found, server_error, unintelligible. There may be others one day."`
	RetryAfter    int       `json:"retry_after,omitzero" doc:"The seconds after which the provider wants to be asked again, if it says so with rate_limited."`
	Message       string    `json:"message" doc:"What it means and what to do. It holds nothing of what the provider wrote."`
	TestedAt      time.Time `json:"tested_at"`
	Version       uint64    `json:"version,omitzero" doc:"The secret that was tested, of a saved key."`
	Position      string    `json:"position,omitzero" doc:"Of the event that records it, of a saved key."`
}

// ResolveProviderKey asks for what to call a provider with.
type ResolveProviderKey struct {
	Provider string `json:"provider" maxLength:"63" example:"openai"`
}

// ResolvedProviderKey is the customer's key, or that the built-in allocation serves.
type ResolvedProviderKey struct {
	Provider string            `json:"provider" example:"openai"`
	Source   string            `json:"source" enum:"customer,built_in"`
	Reason   string            `json:"reason,omitzero" enum:"not_connected,plan" doc:"Why it is built_in: the organization has no key of the provider, or its plan has no provider keys."`
	Version  uint64            `json:"version,omitzero" doc:"Of the customer's secret; another one means that it was replaced."`
	Secret   ProviderSecret    `json:"secret,omitzero" doc:"The customer's key. Keep it in memory alone, and for no longer than a minute."`
	BaseURL  string            `json:"base_url,omitzero" doc:"The address to call, where it is the customer's own."`
	LastTest *ProviderLastTest `json:"last_test,omitempty" doc:"The last test of this secret, so that a key that fails can be told from an outage."`
}

// ProviderKeyResolve is one time that a provider key was asked for.
type ProviderKeyResolve struct {
	At         time.Time `json:"at"`
	Provider   string    `json:"provider" example:"openai"`
	Actor      string    `json:"actor" example:"key/acme/0197ab6e-98f1-7c3a-8f0e-2f3a4b5c6d7e" doc:"The management key that asked."`
	ActorName  string    `json:"actor_name,omitzero" doc:"The name of that key."`
	Role       string    `json:"role"`
	Answer     string    `json:"answer,omitzero" enum:"customer,built_in" doc:"What was handed out; left out when nothing was."`
	Version    uint64    `json:"version,omitzero" doc:"Of the customer's secret."`
	Code       string    `json:"code,omitzero" doc:"Why nothing was handed out." example:"forbidden"`
	Source     string    `json:"source,omitzero" doc:"Where it came from, as source_kind says."`
	SourceKind string    `json:"source_kind,omitzero" doc:"client_ip, or label: the same for the same address on one day." example:"label"`
	Server     string    `json:"server" doc:"The server that answered."`
	Count      uint64    `json:"count" doc:"1 of what was handed out; refusals alike within a minute are counted together." example:"1"`
	RequestID  string    `json:"request_id,omitzero"`
}

// RewrappedProviderKeys tells what became of the data keys of all provider keys.
type RewrappedProviderKeys struct {
	Rewrapped int `json:"rewrapped" doc:"Wrapped anew, with the key-encryption key of now."`
	Current   int `json:"current" doc:"Wrapped with it before."`
	Failed    int `json:"failed" doc:"Still wrapped with another, because they could not be opened or stored; the server's log tells more. Repeat it."`
}
