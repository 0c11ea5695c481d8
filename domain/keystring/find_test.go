package keystring_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/domain/keystring"
)

func TestFind(t *testing.T) {
	key := mustKey(t, "kl_live", [24]byte{1, 2, 3})
	other := mustKey(t, "x", [24]byte{9})
	typo := key[:20] + string(key[20]^1) + key[21:]
	body := key[len("kl_live_"):]
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", ""},
		{"only underscores", strings.Repeat("_", 100), ""},
		{"alone", key, key},
		{"in JSON", `{"name":"` + key + `"}`, key},
		{"in a URL", "https://api.example.com/?key=" + key + "&x=1", key},
		{"after a word in capitals", "KEY" + key, key},
		{"glued to lower case in front", "my" + key, "my" + key},
		{"glued to more than a prefix in front", "0123456789" + key, "23456789" + key},
		{"glued to letters behind", key + "abc", key},
		{"underscore behind", key + "_old", key},
		{"the first of two", key + " " + other, key},
		{"two without anything between", other + key, other},
		{"after one with a typo", typo + key, typo[len(typo)-1:] + key},
		{"typo", typo, ""},
		{"one character short", key[:len(key)-1], ""},
		{"no prefix", "_" + body, ""},
		{"prefix ends with _", "kl__" + body, ""},
		{"capital before the separator", "KL_" + body, ""},
		{"underscores before the prefix", "_____" + key, key},
	} {
		start, end, ok := keystring.Find([]byte(c.text))
		if ok != (c.want != "") || keystring.Contains(c.text) != ok {
			t.Errorf("%s: found %v", c.name, ok)
			continue
		}
		if c.name == "after one with a typo" {
			// How much of the string in front counts as prefix depends on its last characters.
			if !strings.HasSuffix(c.text[start:end], body) {
				t.Errorf("%s: found something else", c.name)
			}
			continue
		}
		if got := c.text[start:end]; ok && got != c.want {
			t.Errorf("%s: found %d bytes at %d", c.name, len(got), start)
		}
	}
}

func TestRedact(t *testing.T) {
	key := mustKey(t, "kl_live", [24]byte{1, 2, 3})
	last := key[len(key)-4:]
	typo := key[:20] + string(key[20]^1) + key[21:]
	masked := "kl_live_…" + last
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", ""},
		{"no key", "GET /v1/some_resource_name?x=1 snake_case_word", "GET /v1/some_resource_name?x=1 snake_case_word"},
		{"alone", key, masked},
		{"in a sentence", "Bearer " + key + " was refused", "Bearer " + masked + " was refused"},
		{"typo", "<" + typo + ">", "<" + masked + ">"},
		{"a character too many", typo + "Z", "kl_live_…" + last[1:] + "Z"},
		{"a character too few", key[:len(key)-1], key[:len(key)-1]},
		{"twice", key + "," + key, masked + "," + masked},
		{"twice without anything between", key + key, masked + masked},
		{"already masked", masked, masked},
		{"invalid UTF-8 around", "\xff" + key + "\xfe", "\xff" + masked + "\xfe"},
	} {
		if got := keystring.Redact(c.text); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// firstKey is Find without any cleverness: every start, every length.
func firstKey(text string) (sep int, ok bool) {
	best := -1
	for start := range len(text) {
		for end := start + 41; end <= min(len(text), start+keystring.MaxLen); end++ {
			if s := end - 40; keystring.WellFormed(text[start:end]) && (best < 0 || s < best) {
				best = s
			}
		}
	}
	return best, best >= 0
}

func checkFind(t interface {
	Fatal(...any)
	Fatalf(string, ...any)
}, text string,
) {
	start, end, ok := keystring.Find([]byte(text))
	sep, want := firstKey(text)
	if ok != want {
		t.Fatalf("found %v, by hand %v", ok, want)
	}
	if ok {
		if !keystring.WellFormed(text[start:end]) || end-40 != sep {
			t.Fatal("what was found is not the first key")
		}
		if start > 0 && end-start < keystring.MaxLen && keystring.WellFormed(text[start-1:end]) {
			t.Fatal("the prefix could be longer")
		}
	}
	redacted := keystring.Redact(text)
	if keystring.Contains(redacted) {
		t.Fatal("a key is left after Redact")
	}
	if keystring.Redact(redacted) != redacted {
		t.Fatal("redacting twice differs from once")
	}
	if !ok && len(text) < 41 && redacted != text {
		t.Fatal("a text too short for a key was changed")
	}
}

func TestFindAgreesWithTryingEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var text strings.Builder
		for range rapid.IntRange(0, 4).Draw(t, "pieces") {
			switch rapid.IntRange(0, 3).Draw(t, "piece") {
			case 0:
				text.WriteString(drawKey(t))
			case 1: // a key cut or with one character wrong
				key := []byte(drawKey(t))
				key[rapid.IntRange(0, len(key)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
				text.Write(key[:rapid.IntRange(30, len(key)).Draw(t, "cut")])
			case 2:
				text.WriteString(rapid.StringMatching(`[a-z0-9_A-Z]{0,60}`).Draw(t, "glue"))
			case 3:
				text.WriteString(rapid.StringN(0, 8, 20).Draw(t, "text"))
			}
		}
		checkFind(t, text.String())
	})
}

func FuzzFind(f *testing.F) {
	v := readVectors(f)
	for i, c := range v.Valid {
		f.Add("x_y " + c.Key + v.Valid[(i+1)%len(v.Valid)].Key)
		f.Add(c.Key + "_" + c.Key[len(c.Prefix)+1:])
	}
	for _, c := range v.Invalid {
		f.Add("a" + c.Key + "_" + c.Key)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<10 {
			text = text[:1<<10] // trying everything takes its time
		}
		checkFind(t, text)
	})
}

func BenchmarkFind(b *testing.B) {
	for name, text := range map[string][]byte{
		"prose":       []byte(strings.Repeat("the quick brown fox jumps over the lazy dog ", 100)),
		"underscores": []byte(strings.Repeat("a_", 2200)),
		"near misses": []byte(strings.Repeat("a_0123456789012345678901234567890123456789", 100)),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, ok := keystring.Find(text); ok {
					b.Fatal("found")
				}
			}
		})
	}
}
