package provider_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/events"
)

// TestBaseURL: who has an address of its own takes none, who has none needs one,
// and what people copy with it is cut off or told.
func TestBaseURL(t *testing.T) {
	for _, c := range []struct {
		id        events.ProviderID
		raw, want string
		err       error
	}{
		{events.ProviderOpenAI, "", "", nil},
		{events.ProviderOpenAI, "https://api.openai.com/v1", "", provider.ErrBaseURLForbidden},
		{events.ProviderOpenAICompatible, "", "", provider.ErrBaseURLRequired},
		{events.ProviderOpenAICompatible, "https://LLM.example.com:443/v1/", "https://llm.example.com/v1", nil},
		{events.ProviderOpenAICompatible, "https://llm.example.com/openai/v1", "https://llm.example.com/openai/v1", nil},
		{events.ProviderOpenAICompatible, "https://llm.example.com/v1/chat/completions", "", provider.ErrBaseURLForbidden},
		{events.ProviderOpenAICompatible, "https://llm.example.com/v1/models", "", provider.ErrBaseURLForbidden},
		{events.ProviderOpenAICompatible, "http://llm.example.com/v1", "", provider.ErrBaseURLForbidden},
		{events.ProviderOpenAICompatible, "https://user:sk-proj-secret@llm.example.com/v1", "", provider.ErrBaseURLForbidden},
		{events.ProviderAzureOpenAI, "", "", provider.ErrBaseURLRequired},
		{events.ProviderAzureOpenAI, "https://example.openai.azure.com/", "https://example.openai.azure.com", nil},
		{events.ProviderAzureOpenAI, "https://example.openai.azure.com/openai/v1/", "https://example.openai.azure.com", nil},
		{events.ProviderAzureOpenAI, "https://example.openai.azure.com/openai", "https://example.openai.azure.com", nil},
		{events.ProviderAzureOpenAI, "https://example.openai.azure.com/openai/v1/openai/v1", "https://example.openai.azure.com", nil},
		{events.ProviderAzureOpenAI, "https://example.azure-api.net/team", "https://example.azure-api.net/team", nil},
		{"groq", "https://api.groq.com/openai/v1", "", domain.ErrInvalid},
	} {
		got, err := provider.BaseURL(c.id, c.raw)
		if got != c.want || !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
			t.Errorf("%s, %s: %q, %v", c.id, c.raw, got, err)
		}
		var refusal *domain.Refusal
		if err != nil && (!errors.As(err, &refusal) || !errors.Is(err, domain.ErrInvalid) || refusal.Field == "" || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s, %s: %v", c.id, c.raw, err)
		}
		if again, err := provider.BaseURL(c.id, got); c.err == nil && (again != got || err != nil) {
			t.Errorf("%s, %s: %q the second time, %v", c.id, c.raw, again, err)
		}
	}
}
