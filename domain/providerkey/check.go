package providerkey

import (
	"errors"
	"strings"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/events"
)

// Malformed refuses what cannot be a key of the provider. It wraps a
// [domain.Refusal] of [domain.ErrProviderKeyMalformed], and holds nothing of what
// was given.
type Malformed struct {
	provider.Finding
	refusal error
}

func (m *Malformed) Error() string { return m.refusal.Error() }

func (m *Malformed) Unwrap() error { return m.refusal }

// CheckSecret refuses what cannot be a key of the provider, before anything is done
// with it. Whoever knows better may force what providers change.
func CheckSecret(id events.ProviderID, secret Secret, force bool) error {
	if secret.IsZero() {
		return domain.Refuse(domain.ErrInvalid, "secret", "is needed")
	}
	found := provider.Check(id, secret.Reveal())
	if found.OK() || force && found.Forcible {
		return nil
	}
	return &Malformed{found, domain.Refuse(domain.ErrProviderKeyMalformed, "secret", "%s", found.Message())}
}

// RefuseProvider refuses what is no provider's id, and names the one most likely
// meant.
func RefuseProvider(id string) error {
	if near, ok := provider.Nearest(id); ok {
		return domain.Refuse(domain.ErrUnknownProvider, "provider", "there is no such provider; did you mean %s?", near)
	}
	all := make([]string, 0, len(events.Providers()))
	for _, p := range events.Providers() {
		all = append(all, string(p))
	}
	return domain.Refuse(domain.ErrUnknownProvider, "provider", "must be one of %s", strings.Join(all, ", "))
}

// errSpelling says that a base URL was not made one of before something was bound to
// it.
var errSpelling = errors.New("providerkey: a base URL is to be given in its one spelling")

// checkBaseURL refuses what [provider.BaseURL] did not return.
func checkBaseURL(id events.ProviderID, given string) error {
	switch canonical, err := provider.BaseURL(id, given); {
	case err != nil:
		return err
	case canonical != given:
		return errSpelling
	default:
		return nil
	}
}
