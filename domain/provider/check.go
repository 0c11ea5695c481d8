package provider

import (
	"slices"
	"strings"
	"unicode"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
)

// Problem is why a text cannot be a provider's key.
type Problem string

// The problems, in the order in which they are looked for.
const (
	// Spaces: there are spaces, tabs or line breaks before, in or after it.
	Spaces Problem = "spaces"
	// Characters: it has some that no key has, such as quotes, or the name of a
	// variable in front.
	Characters Problem = "characters"
	// OtherProvider: it begins as another provider's keys do.
	OtherProvider Problem = "other_provider"
	// MissingPrefix: it does not begin as this provider's keys do.
	MissingPrefix Problem = "missing_prefix"
	// TooShort: it is shorter than any key, or than this provider's are.
	TooShort Problem = "too_short"
	// TooLong: it is longer, or the same text twice.
	TooLong Problem = "too_long"
)

// Problems returns all problems.
func Problems() []Problem {
	return []Problem{Spaces, Characters, OtherProvider, MissingPrefix, TooShort, TooLong}
}

// Finding is what [Check] found. It holds nothing of the text that was checked,
// and the zero value is that there is no problem.
type Finding struct {
	Provider events.ProviderID
	// Problem is empty when the text may be a key of the provider.
	Problem Problem
	// LooksLike is whose key it is instead, with [OtherProvider]: a provider's id,
	// or the name in lower case of somebody whose keys cannot be brought.
	LooksLike string
	// Forcible says that a customer who knows better may insist: providers change
	// what their keys look like.
	Forcible bool

	trap trap
}

// OK reports whether the text may be a key of the provider.
func (f Finding) OK() bool { return f.Problem == "" }

// trap is what most likely happened when the text was pasted, where that helps to
// mend it.
type trap uint8

const (
	noTrap   trap = iota
	scheme        // "Bearer " in front
	variable      // OPENAI_API_KEY= in front
	quotes        // around it
	hidden        // letters left out: it was copied from where it is masked
	twice         // pasted twice
)

// Check says whether a text may be a key of the provider, without asking it. It
// names the first problem only. A provider that is not known has no keys: there
// the answer is as for [events.ProviderOpenAICompatible], which knows least.
func Check(id events.ProviderID, secret string) Finding {
	p, ok := Of(id)
	if !ok {
		p, _ = Of(events.ProviderOpenAICompatible)
	}
	f := Finding{Provider: id}
	switch {
	case hasSpaces(secret):
		f.Problem, f.trap = Spaces, spacesTrap(secret)
	case hasForeignCharacters(p, secret):
		f.Problem, f.trap = Characters, charactersTrap(secret)
	case len(secret) < events.MinProviderSecretLength:
		f.Problem = TooShort
	case len(secret) > events.MaxProviderSecretLength:
		f.Problem = TooLong
	default:
		form := checkForm(p, secret)
		f.Problem, f.LooksLike, f.Forcible, f.trap = form.Problem, form.LooksLike, form.Forcible, form.trap
	}
	return f
}

// checkForm checks what is otherwise some key for whose it is.
func checkForm(p Info, secret string) Finding {
	owner := ownerOf(secret)
	begins := slices.ContainsFunc(p.Prefixes, func(prefix string) bool { return strings.HasPrefix(secret, prefix) })
	switch {
	// Gateways may take keys of any form, those of the providers behind them and
	// those that another keyledger drew included.
	case owner != "" && owner != string(p.ID) && p.ID != events.ProviderOpenAICompatible:
		return Finding{Problem: OtherProvider, LooksLike: owner}
	case owner == keyledger:
		return Finding{Problem: OtherProvider, LooksLike: owner, Forcible: true}
	case len(secret)%2 == 0 && secret[:len(secret)/2] == secret[len(secret)/2:]:
		return Finding{Problem: TooLong, Forcible: true, trap: twice}
	case len(p.Prefixes) > 0 && !begins:
		return Finding{Problem: MissingPrefix, Forcible: true}
	case len(secret) < p.form.shortest:
		return Finding{Problem: TooShort, Forcible: true}
	case len(secret) > p.form.longest:
		return Finding{Problem: TooLong, Forcible: true}
	default:
		return Finding{}
	}
}

// keyledger is who made a key of this project: one that its customers get to call
// the platform, pasted where a provider's belongs.
const keyledger = "keyledger"

// beginning tells whose a key is. The lengths keep random characters apart from
// prefixes that are made of nothing but letters; 0 is any.
type beginning struct {
	prefix string
	owner  string
	length int
}

// beginnings are tried in this order: the most specific stand before what they
// begin with.
var beginnings = [...]beginning{
	{"sk-ant-", string(events.ProviderAnthropic), 0},
	{"sk-or-", "openrouter", 0},
	{"sk-", string(events.ProviderOpenAI), 0},
	{"AIza", string(events.ProviderGoogle), 39},
	{"AQ.", string(events.ProviderGoogle), 0},
	{"gsk_", "groq", 0},
	{"xai-", "xai", 0},
	{"hf_", "huggingface", 0},
	{"pplx-", "perplexity", 0},
	{"r8_", "replicate", 0},
	{"fw_", "fireworks", 0},
	{"csk-", "cerebras", 0},
	{"nvapi-", "nvidia", 0},
	{"tgp_v1_", "together", 0},
	{"AKIA", "aws", 20},
	{"github_pat_", "github", 0},
	{"ghp_", "github", 0},
}

// ownerOf returns whose a key is by how it begins, or "".
func ownerOf(secret string) string {
	if keystring.WellFormed(secret) {
		return keyledger
	}
	for _, b := range beginnings {
		if strings.HasPrefix(secret, b.prefix) && (b.length == 0 || len(secret) == b.length) {
			return b.owner
		}
	}
	return ""
}

// hasSpaces reports whether there is anything in the text that shows as a space or
// as nothing: pages put what is invisible around what they let people copy.
func hasSpaces(s string) bool { return strings.ContainsFunc(s, isSpace) }

func isSpace(r rune) bool {
	switch r {
	case '\u200b', '\u200c', '\u200d', '\u2060', '\ufeff', '\u00ad':
		return true
	default:
		return unicode.IsSpace(r)
	}
}

// hasForeignCharacters reports whether a text has characters that no key of the
// provider has. Those of a known provider are of the alphabet of bearer tokens
// (RFC 6750, section 2.1), where '=' stands at the end alone; whoever imitates
// OpenAI may draw others, as long as they can be sent in a header and are not what
// comes with pasting.
func hasForeignCharacters(p Info, s string) bool {
	if p.ID == events.ProviderOpenAICompatible {
		return strings.ContainsFunc(s, func(r rune) bool {
			return r <= ' ' || r > '~' || strings.ContainsRune("\"'`\\<>,;*", r)
		}) || namesVariable(s)
	}
	return strings.ContainsFunc(strings.TrimRight(s, "="), func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-._~+/", r))
	})
}

func spacesTrap(s string) trap {
	trimmed := strings.TrimFunc(s, isSpace)
	if name, _, ok := strings.Cut(trimmed, " "); ok && strings.EqualFold(strings.TrimSuffix(name, ":"), "bearer") {
		return scheme
	}
	if namesVariable(strings.TrimPrefix(trimmed, "export ")) {
		return variable
	}
	return noTrap
}

func charactersTrap(s string) trap {
	switch {
	case namesVariable(s):
		return variable
	case strings.ContainsAny(s, "\"'`“”‘’"):
		return quotes
	case strings.ContainsAny(s, "*…•●"):
		return hidden
	default:
		return noTrap
	}
}

// namesVariable reports whether a text begins as a line of a shell's environment
// does, such as OPENAI_API_KEY=.
func namesVariable(s string) bool {
	name, rest, ok := strings.Cut(s, "=")
	return ok && strings.Trim(rest, "=") != "" && strings.Contains(name, "_") && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == ""
}
