// Package provider knows the AI providers whose keys customers bring: what they
// are called, what their keys look like, and what goes wrong when one is pasted.
//
// It holds pure values alone. Whether a key works is asked of the provider itself,
// by relay/providers.
package provider

import (
	"slices"

	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
)

// Info is what there is to know of a provider.
type Info struct {
	ID events.ProviderID
	// Name is what people call it.
	Name string
	// NeedsBaseURL says that it has no address of its own: each customer's is
	// another.
	NeedsBaseURL bool
	// Prefixes are what its keys begin with; none when that tells nothing.
	Prefixes []string
	// KeysURL is where its customers make and revoke keys, DocsURL where it says
	// how, and UsageURL where it shows what they spend and warns of it. They are
	// empty for what is no single provider.
	KeysURL, DocsURL, UsageURL string

	form form
}

// form is how long a provider's keys are: what is shorter lost something on the
// way, and what is longer has something else with it. Providers change it, so that
// neither refuses for good.
type form struct{ shortest, longest int }

// infos are in the order of [events.Providers], which a test compares.
var infos = [...]Info{
	{
		ID: events.ProviderOpenAI, Name: "OpenAI", Prefixes: []string{"sk-"},
		KeysURL:  "https://platform.openai.com/api-keys",
		DocsURL:  "https://platform.openai.com/docs/api-reference/authentication",
		UsageURL: "https://platform.openai.com/usage",
		form:     form{40, 256},
	},
	{
		ID: events.ProviderAnthropic, Name: "Anthropic", Prefixes: []string{"sk-ant-"},
		KeysURL:  "https://console.anthropic.com/settings/keys",
		DocsURL:  "https://docs.anthropic.com/en/api/overview",
		UsageURL: "https://console.anthropic.com/settings/usage",
		form:     form{80, 256},
	},
	{
		ID: events.ProviderGoogle, Name: "Google", Prefixes: []string{"AIza", "AQ."},
		KeysURL:  "https://aistudio.google.com/app/apikey",
		DocsURL:  "https://ai.google.dev/gemini-api/docs/api-key",
		UsageURL: "https://aistudio.google.com/usage",
		form:     form{39, 256},
	},
	{
		ID: events.ProviderMistral, Name: "Mistral",
		KeysURL:  "https://console.mistral.ai/api-keys",
		DocsURL:  "https://docs.mistral.ai/api",
		UsageURL: "https://console.mistral.ai/usage",
		form:     form{32, 128},
	},
	{
		ID: events.ProviderCohere, Name: "Cohere",
		KeysURL:  "https://dashboard.cohere.com/api-keys",
		DocsURL:  "https://docs.cohere.com/reference/about",
		UsageURL: "https://dashboard.cohere.com/billing",
		form:     form{40, 128},
	},
	{
		ID: events.ProviderAzureOpenAI, Name: "Azure OpenAI", NeedsBaseURL: true,
		KeysURL:  "https://portal.azure.com",
		DocsURL:  "https://learn.microsoft.com/azure/ai-foundry/openai/reference",
		UsageURL: "https://portal.azure.com",
		form:     form{32, 128},
	},
	{
		ID: events.ProviderOpenAICompatible, Name: "OpenAI-compatible", NeedsBaseURL: true,
		form: form{events.MinProviderSecretLength, events.MaxProviderSecretLength},
	},
}

// All returns what there is to know of all providers, in the order in which people
// are shown them.
func All() []Info {
	all := slices.Clone(infos[:])
	for i := range all {
		all[i].Prefixes = slices.Clone(all[i].Prefixes)
	}
	return all
}

// Of returns what there is to know of a provider, and false when there is none of
// that id.
func Of(id events.ProviderID) (Info, bool) {
	i := slices.IndexFunc(infos[:], func(p Info) bool { return p.ID == id })
	if i < 0 {
		return Info{}, false
	}
	p := infos[i]
	p.Prefixes = slices.Clone(p.Prefixes)
	return p, true
}

// Nearest returns the provider that was most likely meant by an id that none has.
func Nearest(id string) (events.ProviderID, bool) {
	have := make([]string, len(infos))
	for i, p := range infos {
		have[i] = string(p.ID)
	}
	near, ok := permission.Nearest(id, have)
	return events.ProviderID(near), ok
}
