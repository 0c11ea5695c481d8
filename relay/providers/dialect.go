package providers

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/keyledger/keyledger/events"
)

// dialect is how one provider is asked.
type dialect struct {
	// endpoint is the provider's own address with the API's version; "" for those
	// whose customers give a base URL.
	endpoint string
	// method and path are the documented call that validates a key when no models
	// are needed, list is the one that lists models. Most have one for both.
	method, path, list string
	// query is what every call has after the question mark.
	query url.Values
	// size and cursor are the parameters for how many models are listed, and from
	// where on; "" when all come at once.
	size, cursor string
	// authorize puts the key where the provider wants it: a header in all cases,
	// since addresses get into logs.
	authorize func(h http.Header, secret string)
	// probe is what is asked for without saying what, where a list of models proves
	// nothing or may be missing: there are servers that list theirs to anybody.
	probe string
	// same reports whether the model that a key reaches is the one that is needed,
	// when their names differ; nil when names are what they are.
	same func(need, have string) bool
}

// azureVersion is the last version of Azure's data plane that is generally
// available.
const azureVersion = "2024-10-21"

// dialects are by the documentation of each provider:
//
//	OpenAI     GET  /v1/models                         platform.openai.com/docs/api-reference/models/list
//	Anthropic  GET  /v1/models                         docs.anthropic.com/en/api/models-list
//	Google     GET  /v1beta/models                     ai.google.dev/api/models
//	Mistral    GET  /v1/models                         docs.mistral.ai/api
//	Cohere     POST /v1/check-api-key, GET /v1/models  docs.cohere.com/reference/checkapikey
//	Azure      GET  /openai/models                     learn.microsoft.com/rest/api/azureopenai/models/list
var dialects = map[events.ProviderID]dialect{
	events.ProviderOpenAI: {
		endpoint: "https://api.openai.com/v1", method: http.MethodGet, path: "/models", list: "/models", authorize: bearer,
	},
	events.ProviderAnthropic: {
		endpoint: "https://api.anthropic.com/v1", method: http.MethodGet, path: "/models", list: "/models",
		size: "limit", cursor: "after_id", same: sameButDate,
		authorize: func(h http.Header, secret string) {
			h.Set("x-api-key", secret)
			h.Set("anthropic-version", "2023-06-01")
		},
	},
	events.ProviderGoogle: {
		endpoint: "https://generativelanguage.googleapis.com/v1beta", method: http.MethodGet, path: "/models", list: "/models",
		size: "pageSize", cursor: "pageToken",
		same: func(need, have string) bool {
			return strings.TrimPrefix(need, "models/") == strings.TrimPrefix(have, "models/")
		},
		authorize: func(h http.Header, secret string) { h.Set("x-goog-api-key", secret) },
	},
	events.ProviderMistral: {
		endpoint: "https://api.mistral.ai/v1", method: http.MethodGet, path: "/models", list: "/models", authorize: bearer,
	},
	events.ProviderCohere: {
		endpoint: "https://api.cohere.com/v1", method: http.MethodPost, path: "/check-api-key", list: "/models",
		size: "page_size", cursor: "page_token", authorize: bearer,
	},
	events.ProviderAzureOpenAI: {
		method: http.MethodGet, path: "/openai/models", list: "/openai/models",
		query: url.Values{"api-version": {azureVersion}}, same: sameButDate,
		authorize: func(h http.Header, secret string) { h.Set("api-key", secret) },
	},
	events.ProviderOpenAICompatible: {
		method: http.MethodGet, path: "/models", list: "/models", authorize: bearer, probe: "/chat/completions",
	},
}

func bearer(h http.Header, secret string) { h.Set("Authorization", "Bearer "+secret) }

// sameButDate reports whether a model is the needed one in some version, which is
// a date at the end of its name: claude-sonnet-4-20250514, gpt-4o-2024-08-06.
func sameButDate(need, have string) bool {
	date, ok := strings.CutPrefix(have, need+"-")
	if !ok {
		return false
	}
	switch len(date) {
	case len("20250514"):
	case len("2024-08-06"):
		if date[4] != '-' || date[7] != '-' {
			return false
		}
		date = date[:4] + date[5:7] + date[8:]
	default:
		return false
	}
	_, err := strconv.ParseUint(date, 10, 32)
	return err == nil
}
