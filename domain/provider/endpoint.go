package provider

import (
	"fmt"
	"strings"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// Refusals of base URLs.
var (
	// ErrBaseURLRequired: the provider has no address of its own, and none was given.
	ErrBaseURLRequired = fmt.Errorf("%w: base URL required", domain.ErrInvalid)
	// ErrBaseURLForbidden: the provider takes none, or none like this.
	ErrBaseURLForbidden = fmt.Errorf("%w: base URL forbidden", domain.ErrInvalid)
)

// BaseURL returns the base URL to keep with a provider's key, in the form that
// [ParseBaseURL] gives. A provider that has an address of its own takes none, and
// one that has none needs it. The error is a [domain.Refusal].
func BaseURL(id events.ProviderID, raw string) (string, error) {
	const field = "base_url"
	p, ok := Of(id)
	switch {
	case !ok:
		return "", domain.Refuse(domain.ErrInvalid, "provider", "there is no such provider")
	case !p.NeedsBaseURL && raw == "":
		return "", nil
	case !p.NeedsBaseURL:
		return "", domain.Refuse(ErrBaseURLForbidden, field, "%s has an address of its own: leave it out, or choose %s", p.Name, events.ProviderOpenAICompatible)
	case raw == "":
		return "", domain.Refuse(ErrBaseURLRequired, field, "must be %s", baseURLOf(id))
	}
	base, err := ParseBaseURL(raw)
	if err != nil {
		detail := strings.TrimPrefix(err.Error(), ErrBaseURL.Error()+": ")
		return "", domain.Refuse(ErrBaseURLForbidden, field, "must be %s, but %s", baseURLOf(id), detail)
	}
	if id == events.ProviderAzureOpenAI {
		// Azure's pages show a resource's address with and without these.
		for {
			short := strings.TrimSuffix(strings.TrimSuffix(base, "/v1"), "/openai")
			if short == base {
				return base, nil
			}
			base = short
		}
	}
	for _, tail := range operations {
		if strings.HasSuffix(base, tail) {
			return "", domain.Refuse(ErrBaseURLForbidden, field, "must end before %s, which whoever calls adds", tail)
		}
	}
	return base, nil
}

// operations are ends of addresses that people copy with the base.
var operations = [...]string{"/chat/completions", "/completions", "/responses", "/embeddings", "/models"}

func baseURLOf(id events.ProviderID) string {
	if id == events.ProviderAzureOpenAI {
		return "the endpoint of the Azure OpenAI resource, such as https://example.openai.azure.com"
	}
	return "what the addresses of requests begin with, such as https://llm.example.com/v1"
}
