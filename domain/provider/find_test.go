package provider_test

import (
	"strings"
	"testing"

	"github.com/keyledger/keyledger/domain/provider"
)

const hexes = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// TestFind: keys are found wherever they stand, and nothing that only looks a
// little like one.
func TestFind(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", ""},
		{"words", "ask the desk-clerk about sk-8 skis and AIzawa-san's task-force", ""},
		{"alone", openAI, openAI},
		{"Anthropic's", "x-api-key: " + anthropic, anthropic},
		{"Google's", `{"key":"` + google + `"}`, google},
		{"Google's new ones", "AQ.Ab8" + hexes, "AQ.Ab8" + hexes},
		{"in a URL", "https://example.com/?key=" + google + "&x=1", google},
		{"after a variable", "OPENAI_API_KEY=" + openAI, openAI},
		{"an old one of OpenAI", "(sk-" + hexes[:48] + ")", "sk-" + hexes[:48]},
		{"OpenRouter's", "sk-or-v1-" + hexes, "sk-or-v1-" + hexes},
		{"Groq's", "gsk_" + hexes[:52], "gsk_" + hexes[:52]},
		{"xAI's", "xai-" + hexes, "xai-" + hexes},
		{"Hugging Face's", "hf_" + hexes[:34], "hf_" + hexes[:34]},
		{"the first of two", openAI + " " + anthropic, openAI},
		{"glued to a word", "key" + anthropic, anthropic},
		{"after others that are none", "sk-sk-sk-" + openAI, openAI},
		{"at the end of bytes that are no text", "\xff\xfe" + openAI, openAI},

		{"a task's id", "task-" + hexes[:32], ""},
		{"a disk's id", "my-disk-" + hexes[:32], ""},
		{"an id with sk- within", "acme-sk-" + hexes[:32], ""},
		{"a slug", "sk-learn-an-introduction-to-models-of-2024-and-after", ""},
		{"a slug that goes on", "sk-proj-the-long-name-of-a-project-without-any-number-in-it", ""},
		{"too short", openAI[:40], ""},
		{"masked", "sk-proj-…abcd and sk-ant-api03-***", ""},
		{"in capitals", strings.ToUpper(openAI), ""},
		{"AIza and less", google[:38], ""},
		{"Mistral's", mistral, ""},
		{"one of ours", ours(t), ""},
	} {
		start, end, ok := provider.Find([]byte(c.text))
		if got := c.text[start:end]; got != c.want || ok != (c.want != "") || provider.Contains(c.text) != ok {
			t.Errorf("%s: found %q", c.name, got)
		}
		red := provider.Redact(c.text)
		if ok == (red == c.text) || provider.Contains(red) || ok && strings.Contains(red, c.want[len(c.want)-12:]) {
			t.Errorf("%s: redacted to %q", c.name, red)
		}
	}
	if got, want := provider.Redact("a "+openAI+", b "+google+"."), "a sk-proj-…, b AIza…."; got != want {
		t.Errorf("%q", got)
	}
}

// TestFindAll: keys of everybody who is looked for are found, the shortest as well.
func TestFindAll(t *testing.T) {
	for prefix, body := range map[string]int{
		"sk-ant-": 40, "sk-proj-": 40, "sk-svcacct-": 40, "sk-admin-": 40, "sk-or-v1-": 40, "sk-": 32, "AIza": 35, "AQ.": 40, "gsk_": 40, "xai-": 40,
		"hf_": 30, "pplx-": 40, "r8_": 30, "csk-": 40, "nvapi-": 40, "tgp_v1_": 40, "github_pat_": 60, "ghp_": 36,
	} {
		key := prefix + hexes[:body]
		if !provider.Contains(key) || !provider.Contains("a "+key+" b") || provider.Contains(key[:len(key)-1]) {
			t.Errorf("%s and %d characters", prefix, body)
		}
		if got := provider.Redact(key); got != prefix+"…" {
			t.Errorf("%s: %s", prefix, got)
		}
	}
}

// TestFindTakesNoMemory: it stands where every request passes.
func TestFindTakesNoMemory(t *testing.T) {
	text := strings.Repeat("Mozilla/5.0 (X11; Linux x86_64) sk-short hf_x task-1 ", 20)
	if n := testing.AllocsPerRun(100, func() {
		if provider.Contains(text) || provider.Redact(text) != text {
			t.Fatal("found a key")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzRedact: what is redacted has no key, and what was none is left as it was.
func FuzzRedact(f *testing.F) {
	f.Add("x " + openAI + anthropic + " " + google)
	f.Add("sk-sk-sk-ant-" + hexes)
	f.Add("gsk_" + hexes + "AQ." + hexes)
	f.Fuzz(func(t *testing.T, text string) {
		red := provider.Redact(text)
		if provider.Contains(red) {
			t.Fatalf("%q has a key still: %q", text, red)
		}
		if !provider.Contains(text) && red != text {
			t.Fatalf("%q was changed to %q", text, red)
		}
	})
}

func BenchmarkContains(b *testing.B) {
	text := "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36"
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if provider.Contains(text) {
			b.Fatal("found a key")
		}
	}
}
