package providers

import (
	"fmt"
	"strings"
	"time"

	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/events"
)

// Outcome is what a test came to. Nothing in it is the provider's text.
type Outcome struct {
	Provider events.ProviderID
	Result   events.ProviderResult
	// Problem and LooksLike say why a key was not sent at all.
	Problem   provider.Problem
	LooksLike string
	// MissingModels are those that the platform needs and the key does not reach, in
	// the order in which they were configured.
	MissingModels []string
	// Status is the provider's HTTP status; 0 when it did not answer.
	Status int
	// Reason says more, where more is known.
	Reason Reason
	// RetryAfter is when the provider wants to be asked again; 0 when it does not say.
	RetryAfter time.Duration

	finding provider.Finding
}

// Works reports whether the key works.
func (o Outcome) Works() bool { return o.Result == events.ProviderWorks }

// Reason is what is behind a result.
type Reason string

// Reasons, below the result that they go with.
const (
	// Unproven, with works: the server answers without a key as well, as far as can
	// be asked for nothing. It may need none.
	Unproven Reason = "unproven"
	// Unlisted, with works: the server has no list of models, so that those that are
	// needed could not be looked for.
	Unlisted Reason = "unlisted"

	// QuotaExhausted, with rate_limited: the account's credit or quota is used up.
	// Providers tell it like a rate, and it ends without another key.
	QuotaExhausted Reason = "quota_exhausted"

	// Scopes, with insufficient_permissions: the key is restricted.
	Scopes Reason = "scopes"
	// Region: the provider does not serve from where this server asks.
	Region Reason = "region"
	// SourceAddress: the key, the project or the resource takes requests from other
	// addresses than this server's.
	SourceAddress Reason = "source_address"
	// ServiceDisabled: the project has not switched the provider's service on.
	ServiceDisabled Reason = "service_disabled"

	// ForbiddenAddress, with unreachable: keys are not sent to addresses like this.
	ForbiddenAddress Reason = "forbidden_address"
	// BadAddress: there is no base URL, or none of the form that one has.
	BadAddress Reason = "bad_address"
	// UnknownName: the host's name was not found.
	UnknownName Reason = "unknown_name"
	// Refused: there was no connection.
	Refused Reason = "refused"
	// InsecureTLS: the host does not prove who it is, or speaks no TLS.
	InsecureTLS Reason = "tls"
	// Timeout: there was no answer in time.
	Timeout Reason = "timeout"
	// Redirect: the answer points elsewhere, where the key is not sent.
	Redirect Reason = "redirect"
	// NotFound: the host answers, but not at this address.
	NotFound Reason = "not_found"
	// ServerError: the provider failed.
	ServerError Reason = "server_error"
	// Unintelligible: the answer is none that the provider gives.
	Unintelligible Reason = "unintelligible"
	// Unasked: the provider is not one of those that are known.
	Unasked Reason = "unasked"
)

// Message says what the outcome means and what to do about it, in a sentence or
// two.
func (o Outcome) Message() string {
	name := o.name()
	switch o.Result {
	case events.ProviderWorks:
		switch o.Reason {
		case Unproven:
			return "The server answers, but it does so without a key as well: whether it takes this one is seen when the key is used."
		case Unlisted:
			return "The server takes the key, but has no list of models: whether it has those that are needed is seen when they are used."
		default:
			return fmt.Sprintf("%s takes the key.", name)
		}
	case events.ProviderInvalid:
		if o.Provider == events.ProviderAzureOpenAI {
			return "Azure OpenAI does not know this key at this address: key and base URL have to be of the same resource. Copy both again from its page \"Keys and Endpoint\"."
		}
		return fmt.Sprintf("%s does not know this key. It may have been copied in part, or deleted: copy it again, or make another one.", name)
	case events.ProviderExpiredOrRevoked:
		return fmt.Sprintf("%s takes this key no more: it expired, or the key or its account was disabled. Make another one.", name)
	case events.ProviderInsufficientPermissions:
		return o.permissionsMessage(name)
	case events.ProviderMissingModels:
		return fmt.Sprintf("%s takes the key, but it does not reach %s. Allow what is missing for the key's project or account, or use a key that reaches it.", name, strings.Join(o.MissingModels, ", "))
	case events.ProviderRateLimited:
		if o.Reason == QuotaExhausted {
			return fmt.Sprintf("The account's credit or quota at %s is used up: add credit or raise its limits there. The key need not be changed.", lower(name))
		}
		return fmt.Sprintf("%s wants to be asked less by this account: wait a moment and test again. The key may be good.", name)
	case events.ProviderMalformed:
		if o.finding.OK() {
			return fmt.Sprintf("This cannot be a key of %s.", name)
		}
		return o.finding.Message()
	case events.ProviderUnreachable:
		return o.unreachableMessage(name)
	default:
		return ""
	}
}

func (o Outcome) permissionsMessage(name string) string {
	switch o.Reason {
	case Region:
		return fmt.Sprintf("%s does not serve the place that this server asks from.", name)
	case SourceAddress:
		return fmt.Sprintf("%s takes this key from other network addresses only: allow those of this platform in the settings of the key, the project or the resource.", name)
	case ServiceDisabled:
		return fmt.Sprintf("The project of this key has not switched the API of %s on, or does not allow it for the key: enable it there.", lower(name))
	default:
		return fmt.Sprintf("%s knows the key, but it may not do this: give it the permission to list and use models, or use one without restrictions.", name)
	}
}

func (o Outcome) unreachableMessage(name string) string {
	switch o.Reason {
	case ForbiddenAddress:
		return "Keys are not sent to this address: it is private, or not one on the open internet. Ask the operator of this platform to allow it."
	case BadAddress:
		return "The base URL is missing or is none: it has to be an https address."
	case UnknownName:
		return "There is no host of this name: " + o.elsewhere("check the base URL, or try again later.")
	case Refused:
		return fmt.Sprintf("There was no connection to %s: try again later.", lower(name))
	case InsecureTLS:
		return "The host does not prove by a certificate who it is, so the key was not sent."
	case Timeout:
		return fmt.Sprintf("%s did not answer in time: try again later.", name)
	case Redirect:
		return "The address answers with another address, where the key is not sent: " + o.elsewhere("give that one as the base URL if it is right.")
	case NotFound:
		return "The host answers, but has no list of models at this address: " + o.elsewhere("check the base URL, its path included.")
	case ServerError:
		return fmt.Sprintf("%s has a failure: try again later. The key may be good.", name)
	case Unintelligible:
		return fmt.Sprintf("Something answered that is not %s, or not as it is documented: ", lower(name)) + o.elsewhere("check the base URL, or try again later.")
	case Unasked:
		return "There is no such provider."
	default:
		return fmt.Sprintf("There was no answer of %s: try again later.", lower(name))
	}
}

// unnamed is what a sentence calls whoever answers as OpenAI does.
const unnamed = "The provider"

// name is how a sentence about the provider begins.
func (o Outcome) name() string {
	if o.Provider == events.ProviderOpenAICompatible {
		return unnamed
	}
	return provider.NameOf(string(o.Provider))
}

// lower is a name within a sentence.
func lower(name string) string {
	if name == unnamed {
		return "the provider"
	}
	return name
}

// elsewhere is what to do about an address: advice where the customer gave it. The
// addresses of the other providers are none of theirs.
func (o Outcome) elsewhere(advice string) string {
	if p, ok := provider.Of(o.Provider); ok && p.NeedsBaseURL {
		return advice
	}
	return "try again later, and tell the operator of this platform if it stays so. It says nothing of the key."
}
