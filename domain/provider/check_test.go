package provider_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/events"
)

const (
	openAI    = "sk-proj-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGH_-x"
	anthropic = "sk-ant-api03-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefghijklmnopqrst-uAA"
	google    = "AIzaSy0123456789abcdefghijklmnopqrstuvw"
	mistral   = "0123456789abcdefghijklmnopqrstuv"
	cohere    = "0123456789abcdefghijklmnopqrstuvwxyzABCD"
	azure     = "0123456789abcdef0123456789abcdfe"
	gateway   = "1|any-token:of@a$gateway"
)

func good() map[events.ProviderID]string {
	return map[events.ProviderID]string{
		events.ProviderOpenAI: openAI, events.ProviderAnthropic: anthropic, events.ProviderGoogle: google, events.ProviderMistral: mistral,
		events.ProviderCohere: cohere, events.ProviderAzureOpenAI: azure, events.ProviderOpenAICompatible: gateway,
	}
}

func ours(t *testing.T) string {
	t.Helper()
	key, err := keystring.New("kl_live", [24]byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	return key.Reveal()
}

// TestCheck: each trap of pasting is told by its name, and by what to do.
func TestCheck(t *testing.T) {
	for id, secret := range good() {
		if f := provider.Check(id, secret); !f.OK() || f.Message() != "" {
			t.Errorf("a key of %s: %s", id, f.Problem)
		}
	}
	const (
		never = false
		may   = true
	)
	for _, c := range []struct {
		name      string
		id        events.ProviderID
		secret    string
		want      provider.Problem
		looksLike string
		forcible  bool
		says      string
	}{
		{"a space in front", events.ProviderOpenAI, " " + openAI, provider.Spaces, "", never, "spaces"},
		{"a space behind", events.ProviderOpenAI, openAI + " ", provider.Spaces, "", never, "spaces"},
		{"a line break behind", events.ProviderGoogle, google + "\n", provider.Spaces, "", never, "line breaks"},
		{"a line break in the middle", events.ProviderAnthropic, anthropic[:40] + "\r\n" + anthropic[40:], provider.Spaces, "", never, "line breaks"},
		{"a tab", events.ProviderCohere, cohere + "\t", provider.Spaces, "", never, "spaces"},
		{"a space that does not break", events.ProviderMistral, mistral + "\u00a0", provider.Spaces, "", never, "spaces"},
		{"a space of no width", events.ProviderMistral, "\u200b" + mistral, provider.Spaces, "", never, "invisible"},
		{"a byte order mark", events.ProviderOpenAICompatible, "\ufeff" + gateway, provider.Spaces, "", never, "invisible"},
		{"Bearer", events.ProviderOpenAI, "Bearer " + openAI, provider.Spaces, "", never, "Bearer"},
		{"an exported variable", events.ProviderOpenAI, "export OPENAI_API_KEY=" + openAI, provider.Spaces, "", never, "equals sign"},
		{"a variable", events.ProviderOpenAI, "OPENAI_API_KEY=" + openAI, provider.Characters, "", never, "equals sign"},
		{"a variable at a gateway", events.ProviderOpenAICompatible, "LLM_API_KEY=" + gateway, provider.Characters, "", never, "equals sign"},
		{"double quotes", events.ProviderOpenAI, `"` + openAI + `"`, provider.Characters, "", never, "quotes"},
		{"single quotes", events.ProviderOpenAICompatible, "'" + gateway + "'", provider.Characters, "", never, "quotes"},
		{"curly quotes", events.ProviderAzureOpenAI, "“" + azure + "”", provider.Characters, "", never, "quotes"},
		{"a comma behind", events.ProviderMistral, mistral + ",", provider.Characters, "", never, "characters"},
		{"stars for letters", events.ProviderOpenAI, "sk-proj-****************************************abcd", provider.Characters, "", never, "hidden"},
		{"dots for letters", events.ProviderAnthropic, "sk-ant-api03-…abcdAA", provider.Characters, "", never, "hidden"},
		{"another alphabet", events.ProviderOpenAI, "sk-proj-" + strings.Repeat("а", 40), provider.Characters, "", never, "characters"},
		{"a control character", events.ProviderOpenAI, openAI + "\x00", provider.Characters, "", never, "characters"},
		{"no UTF-8", events.ProviderOpenAICompatible, gateway + "\xff", provider.Characters, "", never, "characters"},

		{"Anthropic's at OpenAI", events.ProviderOpenAI, anthropic, provider.OtherProvider, "anthropic", never, "Anthropic"},
		{"OpenAI's at Anthropic", events.ProviderAnthropic, openAI, provider.OtherProvider, "openai", never, "OpenAI"},
		{"OpenAI's at Azure", events.ProviderAzureOpenAI, openAI, provider.OtherProvider, "openai", never, "OpenAI"},
		{"OpenRouter's at OpenAI", events.ProviderOpenAI, "sk-or-v1-0123456789abcdef0123456789abcdef0123456789abcdef", provider.OtherProvider, "openrouter", never, "OpenRouter"},
		{"Google's at Mistral", events.ProviderMistral, google, provider.OtherProvider, "google", never, "Google"},
		{"Google's new ones at Cohere", events.ProviderCohere, "AQ.Ab0123456789abcdefghijklmnopqrstuvwxyz", provider.OtherProvider, "google", never, "Google"},
		{"Groq's at OpenAI", events.ProviderOpenAI, "gsk_0123456789abcdefghijklmnopqrstuvwxyz", provider.OtherProvider, "groq", never, "Groq"},
		{"xAI's at Google", events.ProviderGoogle, "xai-0123456789abcdefghijklmnopqrstuvwxyz", provider.OtherProvider, "xai", never, "xAI"},
		{"Hugging Face's at Mistral", events.ProviderMistral, "hf_0123456789abcdefghijklmnopqrstuvwx", provider.OtherProvider, "huggingface", never, "Hugging Face"},
		{"one of ours at OpenAI", events.ProviderOpenAI, ours(t), provider.OtherProvider, "keyledger", never, "the one that OpenAI made"},
		{"one of ours at a gateway", events.ProviderOpenAICompatible, ours(t), provider.OtherProvider, "keyledger", may, "this platform"},

		{"no sk-", events.ProviderOpenAI, openAI[3:], provider.MissingPrefix, "", may, "sk-"},
		{"no AIza", events.ProviderGoogle, google[4:], provider.MissingPrefix, "", may, "AIza or AQ."},
		{"no sk-ant-", events.ProviderAnthropic, anthropic[7:], provider.MissingPrefix, "", may, "sk-ant-"},
		{"half of it", events.ProviderAnthropic, anthropic[:50], provider.TooShort, "", may, "shorter"},
		{"half of Google's", events.ProviderGoogle, google[:24], provider.TooShort, "", may, "shorter"},
		{"half of Mistral's", events.ProviderMistral, mistral[:20], provider.TooShort, "", may, "shorter"},
		{"hardly anything", events.ProviderOpenAICompatible, "secret", provider.TooShort, "", never, "shorter"},
		{"nothing", events.ProviderOpenAI, "", provider.TooShort, "", never, "shorter"},
		{"much more", events.ProviderMistral, strings.Repeat("ab", 80) + "c", provider.TooLong, "", may, "longer"},
		{"more than any", events.ProviderOpenAICompatible, strings.Repeat("ab", 3000), provider.TooLong, "", never, "longer"},
		{"twice", events.ProviderCohere, cohere + cohere, provider.TooLong, "", may, "twice"},
		{"OpenAI's twice", events.ProviderOpenAI, openAI + openAI, provider.TooLong, "", may, "twice"},
	} {
		f := provider.Check(c.id, c.secret)
		if f.Problem != c.want || f.LooksLike != c.looksLike || f.Forcible != c.forcible || f.Provider != c.id {
			t.Errorf("%s: %s, looks like %q, forcible %v", c.name, f.Problem, f.LooksLike, f.Forcible)
		}
		if !strings.Contains(f.Message(), c.says) {
			t.Errorf("%s: says %q", c.name, f.Message())
		}
	}
}

// TestGatewaysTakeKeysOfOthers: behind an address that a customer gives may be any
// provider.
func TestGatewaysTakeKeysOfOthers(t *testing.T) {
	for id, secret := range good() {
		if f := provider.Check(events.ProviderOpenAICompatible, secret); !f.OK() {
			t.Errorf("a key of %s: %s", id, f.Problem)
		}
	}
}

// TestProviders: all that there are stand in the table, in their order.
func TestProviders(t *testing.T) {
	all := provider.All()
	ids := make([]events.ProviderID, len(all))
	for i, p := range all {
		ids[i] = p.ID
		one, ok := provider.Of(p.ID)
		if !ok || one.Name != p.Name || p.Name == "" || provider.NameOf(string(p.ID)) != p.Name {
			t.Errorf("%s: %q", p.ID, p.Name)
		}
		for _, u := range []string{p.KeysURL, p.DocsURL, p.UsageURL} {
			if p.ID != events.ProviderOpenAICompatible && !strings.HasPrefix(u, "https://") {
				t.Errorf("%s: %q", p.ID, u)
			}
		}
		for _, prefix := range p.Prefixes {
			if f := provider.Check(p.ID, prefix+strings.Repeat("a1", 60)); f.Problem == provider.MissingPrefix || f.Problem == provider.OtherProvider {
				t.Errorf("%s begins with %s: %s", p.ID, prefix, f.Problem)
			}
		}
	}
	if !slices.Equal(ids, events.Providers()) {
		t.Errorf("%v", ids)
	}
	all[0].Name, all[0].Prefixes[0] = "x", "x"
	if p, _ := provider.Of(all[0].ID); p.Name == "x" || p.Prefixes[0] == "x" {
		t.Error("the table can be changed from outside")
	}
	if _, ok := provider.Of("groq"); ok {
		t.Error("there is no such provider")
	}
	for typed, want := range map[string]events.ProviderID{"opanai": "openai", "OpenAI": "openai", "antropic": "anthropic", "azure-open-ai": "azure-openai", "bedrock": ""} {
		if near, ok := provider.Nearest(typed); near != want || ok != (want != "") {
			t.Errorf("%s: %q", typed, near)
		}
	}
	for _, owner := range []string{"groq", "openrouter", "keyledger"} {
		if provider.NameOf(owner) == "" || provider.NameOf(owner) == provider.NameOf("nobody") {
			t.Errorf("%s has no name", owner)
		}
	}
}

// FuzzCheck: whatever is pasted, nothing of it is said, what is taken can be sent
// in a header, and what nobody may insist on is refused.
func FuzzCheck(f *testing.F) {
	for _, secret := range good() {
		f.Add(secret)
		f.Add(secret + "\n")
		f.Add("\"" + secret + "\"")
	}
	f.Fuzz(func(t *testing.T, secret string) {
		for _, id := range append(events.Providers(), "nobody") {
			found := provider.Check(id, secret)
			if found.OK() != (found.Message() == "") || !found.OK() && !slices.Contains(provider.Problems(), found.Problem) {
				t.Fatalf("%s: %s says %q", id, found.Problem, found.Message())
			}
			if (found.LooksLike != "") != (found.Problem == provider.OtherProvider) {
				t.Fatalf("%s: %s looks like %q", id, found.Problem, found.LooksLike)
			}
			if (found.Problem == provider.Spaces || found.Problem == provider.Characters) && found.Forcible {
				t.Fatalf("%s: one may insist on %s", id, found.Problem)
			}
			if !found.OK() && !found.Forcible {
				continue
			}
			if len(secret) < events.MinProviderSecretLength || len(secret) > events.MaxProviderSecretLength ||
				strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }) {
				t.Fatalf("%s: %d bytes that no header takes", id, len(secret))
			}
			if len(secret) > 40 && strings.Contains(found.Message(), secret) {
				t.Fatalf("%s: the message has the secret", id)
			}
		}
	})
}
