package providers

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/keyledger/keyledger/events"
)

// sign is something in an error that tells what it is: a code that providers
// document, or words of a message where there is no code. What is told by words
// alone is told by few of them, and never decides that a key works.
type sign struct {
	codes, words []string
	result       events.ProviderResult
	reason       Reason
}

// signs are looked for in this order: what is narrow stands before what it would
// be taken for. Where they come from:
//
//	OpenAI     developers.openai.com/docs/guides/error-codes
//	Anthropic  docs.anthropic.com/en/api/errors
//	Google     google/api/error_reason.proto, ai.google.dev/gemini-api/docs/troubleshooting
//	Mistral    docs.mistral.ai/resources/error-glossary
//	Cohere     docs.cohere.com/reference/errors
//	Azure      learn.microsoft.com/azure/ai-foundry/openai
var signs = []sign{
	{
		codes: []string{
			"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "credit_balance_exhausted",
			"billing_error", "billing_disabled", "resource_quota_exceeded",
		},
		words:  []string{"credit balance is too low", "insufficient balance", "out of call volume quota", "reached your specified"},
		result: events.ProviderRateLimited, reason: QuotaExhausted,
	},
	{
		codes:  []string{"rate_limit_exceeded", "rate_limit_error", "resource_exhausted", "slow_down"},
		result: events.ProviderRateLimited,
	},
	{
		codes:  []string{"unsupported_country_region_territory", "location_policy_violated"},
		words:  []string{"location is not supported"},
		result: events.ProviderInsufficientPermissions, reason: Region,
	},
	{
		codes:  []string{"ip_not_authorized", "api_key_ip_address_blocked", "api_key_http_referrer_blocked"},
		words:  []string{"virtual network", "firewall rules", "public access is disabled", "ip not authorized", "ip address is not"},
		result: events.ProviderInsufficientPermissions, reason: SourceAddress,
	},
	{
		codes:  []string{"service_disabled", "api_key_service_blocked", "service_not_visible"},
		result: events.ProviderInsufficientPermissions, reason: ServiceDisabled,
	},
	{
		codes: []string{
			"token_expired", "api_key_expired", "expired_api_key", "key_expired", "token_revoked", "api_key_revoked",
			"account_deactivated", "consumer_suspended", "gcp_suspended", "account_state_invalid", "access_token_expired",
		},
		words: []string{
			"has expired", "is expired", "key expired", "revoked", "deactivated", "reported as leaked", "been suspended",
			"key has been disabled", "key is disabled", "organization has been disabled", "account has been disabled",
		},
		result: events.ProviderExpiredOrRevoked,
	},
	{
		codes:  []string{"missing_scope", "permissiondenied", "insufficient_permissions", "mismatched_organization", "access_token_scope_insufficient"},
		words:  []string{"missing scopes", "insufficient permissions", "member of an organization"},
		result: events.ProviderInsufficientPermissions, reason: Scopes,
	},
	{
		codes:  []string{"invalid_api_key", "api_key_invalid", "authentication_error", "incorrect_api_key"},
		words:  []string{"incorrect api key", "invalid api key", "invalid api token", "api key not valid", "unregistered callers"},
		result: events.ProviderInvalid,
	},
}

// classify says what an answer that is no list means.
func (a answer) classify() Outcome {
	switch {
	case a.status >= 300 && a.status < 400:
		return Outcome{Result: events.ProviderUnreachable, Reason: Redirect}
	case a.html && a.status < 500 && a.status != http.StatusNotFound:
		// No provider answers people's pages here: this is somebody in between.
		return Outcome{Result: events.ProviderUnreachable, Reason: Unintelligible}
	case a.status >= 500:
		return Outcome{Result: events.ProviderUnreachable, Reason: ServerError, RetryAfter: a.retryAfter}
	}
	f := readFault(a.body)
	for _, s := range signs {
		if f.has(s) {
			out := Outcome{Result: s.result, Reason: s.reason}
			if s.result == events.ProviderRateLimited {
				out.RetryAfter = a.retryAfter
			}
			return out
		}
	}
	switch a.status {
	case http.StatusUnauthorized:
		return Outcome{Result: events.ProviderInvalid}
	case http.StatusPaymentRequired:
		return Outcome{Result: events.ProviderRateLimited, Reason: QuotaExhausted, RetryAfter: a.retryAfter}
	case http.StatusForbidden:
		return Outcome{Result: events.ProviderInsufficientPermissions, Reason: Scopes}
	case http.StatusTooManyRequests:
		return Outcome{Result: events.ProviderRateLimited, RetryAfter: a.retryAfter}
	case http.StatusUnavailableForLegalReasons:
		return Outcome{Result: events.ProviderInsufficientPermissions, Reason: Region}
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone:
		return Outcome{Result: events.ProviderUnreachable, Reason: NotFound}
	case http.StatusOK:
		if f.invalid {
			return Outcome{Result: events.ProviderInvalid}
		}
	}
	return Outcome{Result: events.ProviderUnreachable, Reason: Unintelligible}
}

// fault is what an error says, in lower case. It is looked through and thrown
// away.
type fault struct {
	codes []string
	text  string
	// invalid is Cohere's {"valid": false}.
	invalid bool
}

func (f fault) has(s sign) bool {
	return slices.ContainsFunc(s.codes, func(c string) bool { return slices.Contains(f.codes, c) }) ||
		slices.ContainsFunc(s.words, func(w string) bool { return strings.Contains(f.text, w) })
}

// readFault reads the errors of all providers, which differ in where they put what:
// {"error": {"code", "type", "status", "message", "details": [{"reason"}]}} of
// OpenAI, Anthropic, Google and Azure, the same without "error" of Mistral and
// Cohere, "detail" of Mistral, "error" as a text of some who imitate OpenAI, and
// any of these within a list, as Google does where it imitates it.
func readFault(body []byte) fault {
	type inner struct {
		Code    any    `json:"code"`
		Type    string `json:"type"`
		Status  string `json:"status"`
		Message string `json:"message"`
		Detail  any    `json:"detail"`
		Details []struct {
			Reason string `json:"reason"`
		} `json:"details"`
	}
	var outer struct {
		inner
		Error json.RawMessage `json:"error"`
		Valid *bool           `json:"valid"`
	}
	var within []json.RawMessage
	// What does not fit stays empty, and is then no sign of anything.
	if json.Unmarshal(body, &within) == nil && len(within) > 0 {
		body = within[0]
	}
	_ = json.Unmarshal(body, &outer)
	var nested inner
	var text string
	_ = json.Unmarshal(outer.Error, &nested)
	_ = json.Unmarshal(outer.Error, &text)

	f := fault{invalid: outer.Valid != nil && !*outer.Valid}
	texts := []string{text}
	for _, i := range []inner{outer.inner, nested} {
		code, _ := i.Code.(string)
		detail, _ := i.Detail.(string)
		f.codes = append(f.codes, strings.ToLower(code), strings.ToLower(i.Type), strings.ToLower(i.Status))
		for _, d := range i.Details {
			f.codes = append(f.codes, strings.ToLower(d.Reason))
		}
		texts = append(texts, i.Message, detail)
	}
	f.text = strings.ToLower(strings.Join(texts, "\n"))
	return f
}
