package cli

import (
	"fmt"
	"strings"

	"github.com/keyledger/keyledger/events"
)

// happenedToProviderKey says what an event did to a provider key.
func happenedToProviderKey(e events.Event) string {
	switch e := e.(type) {
	case events.ProviderKeyAdded:
		return fmt.Sprintf("connected, version %d%s", e.Version, atBase(e.BaseURL))
	case events.ProviderKeyReplaced:
		return fmt.Sprintf("secret replaced, version %d%s", e.Version, atBase(e.BaseURL))
	case events.ProviderKeyRenamed:
		if e.Name.IsZero() {
			return "name removed"
		}
		return "renamed " + e.Name.String()
	case events.ProviderKeyTested:
		return "tested, " + testText(string(e.Result), strings.Join(e.MissingModels, ", "))
	case events.ProviderKeyRemoved:
		return "removed"
	case events.ProviderKeyNewSource:
		return resolvedFrom(e.First) + " by key " + shortID(e.By.String())
	case events.ProviderKeyResolvesSpike:
		return fmt.Sprintf("resolved %d times within a minute from %s on", e.Resolves, at(e.From.Std()))
	case events.ProviderKeyFailing:
		return fmt.Sprintf("%s failed %d times since %s, the last was %s", e.Of, e.Failures, at(e.Since.Std()), words(e.Code))
	default:
		return string(e.Kind())
	}
}

// providerHeadline is what [happenedToProviderKey] says, of a change.
func (v values) providerHeadline(what string) string {
	switch what {
	case "added":
		return "connected, version " + v.text("version") + atBase(v.plain("base_url"))
	case "replaced":
		return "secret replaced"
	case "renamed":
		if v["name"] == nil {
			return "name removed"
		}
		return "renamed " + v.text("name")
	case "tested":
		missing := ""
		if v["last_test.missing_models"] != nil {
			missing = v.text("last_test.missing_models")
		}
		// A field that is as it was is not told.
		if v["last_test.result"] == nil {
			return strings.TrimSpace("tested, as before " + missing)
		}
		return "tested, " + testText(v.plain("last_test.result"), missing)
	case "new_source":
		return resolvedFrom(v["first"] != nil) + " by key " + shortID(v.plain("by"))
	case "resolves_spike":
		return "resolved " + v.text("resolves") + " times within a minute from " + v.text("from") + " on"
	case "failing":
		return v.text("of") + " failed " + v.text("failures") + " times since " + v.text("since") + ", the last was " + words(v.plain("code"))
	default:
		return words(what)
	}
}

// testText says what a test came to.
func testText(result, missing string) string { return strings.TrimSpace(words(result) + " " + missing) }

func resolvedFrom(first bool) string {
	if first {
		return "resolved for the first time,"
	}
	return "resolved from a new address,"
}

// atBase says where an address of its own is.
func atBase(url string) string {
	if url == "" {
		return ""
	}
	return " at " + url
}

// words writes a code as words.
func words(code string) string { return strings.ReplaceAll(code, "_", " ") }
