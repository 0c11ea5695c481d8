package provider

import (
	"fmt"
	"strings"

	"github.com/keyledger/keyledger/events"
)

// owners are how people write the names of those whose keys cannot be brought.
var owners = map[string]string{
	keyledger:     "this platform",
	"openrouter":  "OpenRouter",
	"groq":        "Groq",
	"xai":         "xAI",
	"huggingface": "Hugging Face",
	"perplexity":  "Perplexity",
	"replicate":   "Replicate",
	"fireworks":   "Fireworks",
	"cerebras":    "Cerebras",
	"nvidia":      "NVIDIA",
	"together":    "Together",
	"aws":         "AWS",
	"github":      "GitHub",
}

// NameOf returns how people write a provider's name, or that of an owner of keys
// that [Finding.LooksLike] gives.
func NameOf(id string) string {
	if p, ok := Of(events.ProviderID(id)); ok {
		return p.Name
	}
	if name, ok := owners[id]; ok {
		return name
	}
	return "another provider"
}

// Message says what is wrong and what to do, in a sentence or two; it is empty when
// nothing is.
func (f Finding) Message() string {
	name := NameOf(string(f.Provider))
	if f.Provider == events.ProviderOpenAICompatible {
		name = "the provider"
	}
	switch f.trap {
	case scheme:
		return "The word Bearer stands in front of the key: paste the key alone."
	case variable:
		return "The name of a variable stands in front of the key: paste only what comes after the equals sign."
	case quotes:
		return "There are quotes around the key or in it: paste the key without them."
	case hidden:
		return "Some of the key's characters are hidden: most providers show a key once, when it is made. Make another one and copy it there."
	case twice:
		return "The key was pasted twice, one after the other: paste it once."
	case noTrap:
	}
	switch f.Problem {
	case Spaces:
		return "There are spaces, line breaks or invisible characters before, in or after the key: copy it again without them."
	case Characters:
		return fmt.Sprintf("There are characters that no key of %s has: copy the key again, alone.", name)
	case OtherProvider:
		if f.LooksLike == keyledger {
			return fmt.Sprintf("This looks like an API key of this platform, not like a key of %s: paste the one that %s made. It was not sent anywhere.", name, name)
		}
		return fmt.Sprintf("This looks like a key of %s, not of %s: choose that provider if it is offered, or paste the other key. It was not sent anywhere.", NameOf(f.LooksLike), name)
	case MissingPrefix:
		p, _ := Of(f.Provider)
		return fmt.Sprintf("Keys of %s begin with %s: the beginning may not have been copied.", name, strings.Join(p.Prefixes, " or "))
	case TooShort:
		return fmt.Sprintf("This is shorter than a key of %s: some of it may not have been copied.", name)
	case TooLong:
		return fmt.Sprintf("This is longer than a key of %s: something else may have been copied with it.", name)
	default:
		return ""
	}
}
