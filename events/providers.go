package events

import (
	"encoding/hex"
	"fmt"
	"slices"
)

// ProviderID names an AI provider whose keys customers bring. It is also the id of
// an organization's provider key: there is one for each provider.
type ProviderID string

// The providers.
const (
	ProviderOpenAI      ProviderID = "openai"
	ProviderAnthropic   ProviderID = "anthropic"
	ProviderGoogle      ProviderID = "google"
	ProviderMistral     ProviderID = "mistral"
	ProviderCohere      ProviderID = "cohere"
	ProviderAzureOpenAI ProviderID = "azure-openai"
	// ProviderOpenAICompatible is whoever answers as OpenAI does, at an address
	// of its own.
	ProviderOpenAICompatible ProviderID = "openai-compatible"
)

// Providers returns all providers, in the order in which people are shown them.
func Providers() []ProviderID {
	return []ProviderID{
		ProviderOpenAI, ProviderAnthropic, ProviderGoogle, ProviderMistral, ProviderCohere, ProviderAzureOpenAI, ProviderOpenAICompatible,
	}
}

// ParseProviderID reads a provider's id.
func ParseProviderID(s string) (ProviderID, error) {
	if p := ProviderID(s); slices.Contains(Providers(), p) {
		return p, nil
	}
	return "", fmt.Errorf("%w: there is no such provider", ErrInvalidID)
}

// ProviderResult is what a provider answered to a test of a key.
type ProviderResult string

// The results of a test.
const (
	// ProviderWorks: the provider takes the key, and it reaches every model that
	// the platform needs.
	ProviderWorks ProviderResult = "works"
	// ProviderInvalid: the provider does not know the key.
	ProviderInvalid ProviderResult = "invalid"
	// ProviderExpiredOrRevoked: it did, and takes it no more.
	ProviderExpiredOrRevoked ProviderResult = "expired_or_revoked"
	// ProviderInsufficientPermissions: it is restricted, or its account is.
	ProviderInsufficientPermissions ProviderResult = "insufficient_permissions"
	// ProviderMissingModels: it does not reach some models that the platform needs.
	ProviderMissingModels ProviderResult = "missing_models"
	// ProviderRateLimited: the provider wants to be asked less; the key may be good.
	ProviderRateLimited ProviderResult = "rate_limited"
	// ProviderUnreachable: there was no answer, or none that a provider gives.
	ProviderUnreachable ProviderResult = "unreachable"
	// ProviderMalformed: the key was not sent at all, since it cannot be one of
	// this provider's.
	ProviderMalformed ProviderResult = "malformed"
)

// ProviderResults returns all results of tests.
func ProviderResults() []ProviderResult {
	return []ProviderResult{
		ProviderWorks, ProviderInvalid, ProviderExpiredOrRevoked, ProviderInsufficientPermissions,
		ProviderMissingModels, ProviderRateLimited, ProviderUnreachable, ProviderMalformed,
	}
}

// DataKeyID names the key that a provider key's secret is encrypted with. It is
// drawn at random with each secret, and says nothing of whose it is.
type DataKeyID [16]byte

// IsZero reports whether there is no id.
func (id DataKeyID) IsZero() bool { return id == DataKeyID{} }

func (id DataKeyID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText writes the id.
func (id DataKeyID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads an id.
func (id *DataKeyID) UnmarshalText(b []byte) error {
	var v DataKeyID
	if len(b) != hex.EncodedLen(len(v)) {
		return fmt.Errorf("%w: a data key's id has 32 digits", ErrInvalidID)
	}
	if _, err := hex.Decode(v[:], b); err != nil || v.String() != string(b) {
		return fmt.Errorf("%w: a data key's id has 32 digits", ErrInvalidID)
	}
	*id = v
	return nil
}

// SealedSecret is a provider key's secret as the ledger holds it: ciphertext, in
// base64. The key that opens it lies elsewhere, wrapped, and is destroyed when the
// secret is replaced or removed.
type SealedSecret struct {
	DataKey DataKeyID `json:"data_key"`
	// Secret is all of it, LastFour its last four characters: what is listed is
	// shown without opening the whole.
	Secret   string `json:"secret"`
	LastFour string `json:"last_four"`
}

// ProviderKeyAdded connects a provider. It stands on [ProviderKeySubject], which a
// provider has for ever: one that was removed may be added again, and goes on with
// the next version.
type ProviderKeyAdded struct {
	Provider ProviderID `json:"provider"`
	// Version counts the secrets that the organization has given for the provider,
	// those that were removed or replaced included, from 1 on.
	Version uint64       `json:"version"`
	Name    Text         `json:"name,omitzero"`
	BaseURL string       `json:"base_url,omitzero"`
	Sealed  SealedSecret `json:"sealed"`
}

// ProviderKeyReplaced puts another secret in the place of the one before, whose
// data key is destroyed.
type ProviderKeyReplaced struct {
	Version  uint64       `json:"version"`
	BaseURL  string       `json:"base_url,omitzero"`
	Sealed   SealedSecret `json:"sealed"`
	Replaces DataKeyID    `json:"replaces"`
}

// ProviderKeyRenamed changes a provider key's display name; without one it has none.
type ProviderKeyRenamed struct {
	Name Text `json:"name,omitzero"`
}

// ProviderKeyTested is what a test of a saved provider key came to.
type ProviderKeyTested struct {
	Version uint64         `json:"version"`
	At      Time           `json:"at"`
	Result  ProviderResult `json:"result"`
	// MissingModels are those that the platform needs and the key does not reach.
	MissingModels []string `json:"missing_models,omitempty"`
	// Status is the provider's HTTP status, if it answered.
	Status int `json:"status,omitzero"`
}

// ProviderKeyRemoved disconnects a provider: its data key is destroyed, and the
// built-in allocation serves from then on.
type ProviderKeyRemoved struct {
	DataKey DataKeyID `json:"data_key"`
}

// ProviderKeyNewSource says that a provider key was resolved from where it never
// was before.
type ProviderKeyNewSource struct {
	At Time `json:"at"`
	// By is the management key that resolved it.
	By     KeyID       `json:"by"`
	Source SourceLabel `json:"source"`
	// First says that it is the first that is known.
	First bool `json:"first,omitzero"`
}

// ProviderKeyResolvesSpike says that a provider key was resolved unusually often.
type ProviderKeyResolvesSpike struct {
	// From is the beginning of the minute in which Threshold was reached, and
	// Resolves is how many there were by the time that it was noticed.
	From      Time `json:"from"`
	Resolves  int  `json:"resolves"`
	Threshold int  `json:"threshold"`
}

// ProviderFailure says what of a provider key fails.
type ProviderFailure string

// What fails.
const (
	// FailingTests are tests of the saved key that come to another result than
	// [ProviderWorks].
	FailingTests ProviderFailure = "tests"
	// FailingResolves are those that were refused, or could not open the secret.
	FailingResolves ProviderFailure = "resolves"
)

// ProviderKeyFailing says that a provider key failed repeatedly: tests of it in a
// row, or attempts to resolve it within an hour.
type ProviderKeyFailing struct {
	Of       ProviderFailure `json:"of"`
	Since    Time            `json:"since"`
	Failures int             `json:"failures"`
	// Code is why the last of them failed: a [ProviderResult], or the code of the
	// refusal.
	Code string `json:"code"`
}
