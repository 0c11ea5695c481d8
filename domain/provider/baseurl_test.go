package provider_test

import (
	"errors"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/events"
)

func TestBaseURLsHaveOneSpelling(t *testing.T) {
	for raw, want := range map[string]string{
		"https://api.example.com":                       "https://api.example.com",
		"https://api.example.com/":                      "https://api.example.com",
		"HTTPS://API.Example.COM:443/v1/":               "https://api.example.com/v1",
		"https://api.example.com:8443/v1":               "https://api.example.com:8443/v1",
		"https://ollama:11434/v1":                       "https://ollama:11434/v1",
		"https://xn--mnchen-3ya.example/openai":         "https://xn--mnchen-3ya.example/openai",
		"https://93.184.216.34/v1":                      "https://93.184.216.34/v1",
		"https://10.0.0.7:8443":                         "https://10.0.0.7:8443",
		"https://[2001:DB8::0001]:8443/v1":              "https://[2001:db8::1]:8443/v1",
		"https://[::1]":                                 "https://[::1]",
		"https://gateway.example/v1/a_b/~me/openai-2.0": "https://gateway.example/v1/a_b/~me/openai-2.0",
		"https://vertex.example/v1/projects/p:x/a=b":    "https://vertex.example/v1/projects/p:x/a=b",
		"https://1.example":                             "https://1.example",
		"https://0x7f.example":                          "https://0x7f.example",
	} {
		if got, err := provider.ParseBaseURL(raw); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", raw, got, err, want)
		}
	}
}

func TestOtherTextsAreNoBaseURLs(t *testing.T) {
	for _, raw := range []string{
		"", "https", "https:", "https:/", "https://", "https:///v1", "https://:443", "api.example.com", "//api.example.com",
		"http://api.example.com", "httpss://api.example.com", " https://api.example.com", "https://api.example.com ",
		"https://api.example.com\n", "https://api.example.com/a b", "ftp://api.example.com", "file:///etc/passwd", "unix:///x.sock",
		"https://user@api.example.com", "https://user:password@api.example.com", "https://@api.example.com", "https://api.example.com/@x",
		"https://api.example.com?", "https://api.example.com/v1?key=1", "https://api.example.com#", "https://api.example.com/v1#x",
		`https://api.example.com\@evil.example`, `https:\\api.example.com`, `https://api.example.com/\..`,
		"https://localhost.", "https://api.example.com.", "https://api..example.com", "https://.example.com", "https://-a.example", "https://a-.example",
		"https://münchen.example", "https://api.example.com/mün", "https://api_1.example", "https://api%2eexample.com", "https://*.example",
		"https://127.1", "https://127.0.1", "https://2130706433", "https://0x7f.1", "https://0x7f000001", "https://0X7F.0.0.0x1", "https://0177.0.0.1",
		"https://127.0.0.01", "https://127.0.0.1.", "https://0", "https://0x", "https://1.2.3.4.5", "https://256.1.1.1", "https://example.1",
		"https://[::ffff:127.0.0.1]", "https://[::FFFF:7f00:1]", "https://[::1", "https://::1", "https://::1]", "https://[127.0.0.1]", "https://[fe80::1%25eth0]",
		"https://[fe80::1%eth0]", "https://[]", "https://[::1]x", "https://[::1]:", "https://[::1]:0", "https://a[::1]",
		"https://api.example.com:", "https://api.example.com:0", "https://api.example.com:65536", "https://api.example.com:0443", "https://api.example.com:+443",
		"https://api.example.com:https", "https://api.example.com:443:443", "https://api.example.com:-1",
		"https://api.example.com//", "https://api.example.com/a//b", "https://api.example.com/../x", "https://api.example.com/.", "https://api.example.com/a/..",
		"https://api.example.com/%2e%2e/x", "https://api.example.com/a%2fb", "https://api.example.com/<x>", "https://api.example.com/v1;x",
		"https://" + strings.Repeat("a", 64) + ".example", "https://" + strings.Repeat("a.", 127) + "ab",
		"https://api.example.com/" + strings.Repeat("a", events.MaxBaseURLLength),
	} {
		got, err := provider.ParseBaseURL(raw)
		if !errors.Is(err, provider.ErrBaseURL) || got != "" {
			t.Errorf("%q: got %q, %v", raw, got, err)
		}
	}
}

// What is pasted into the wrong field may be a secret.
func TestErrorsOfBaseURLsDoNotRepeatThem(t *testing.T) {
	const secret = "sk-proj-0123456789"
	for _, raw := range []string{
		secret, "https://" + secret + "@host.example", "https://host.example/" + secret + "?", "https://host.example:" + secret,
		"https://[" + secret + "]", "https://" + secret + "_.example", "https://host.example/" + secret + "/..", "https://host.example/v1?key=" + secret,
	} {
		if _, err := provider.ParseBaseURL(raw); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("got %v", err)
		}
	}
}

// number is a label that ends an IPv4 address, by the URL standard of browsers.
var number = regexp.MustCompile(`^([0-9]+|0x[0-9a-f]*)$`)

// Whatever passes means the same to net/url, to netip and to itself, and is no
// spelling that some programs take for another host.
func FuzzParseBaseURL(f *testing.F) {
	for _, seed := range []string{
		"https://api.example.com:8443/v1/", "HTTPS://[2001:DB8::1]:443", "https://127.1/", "https://0x7f.1", "https://[::ffff:127.0.0.1]/",
		"https://a@b.example", `https://a\b.example`, "https://a.example/%2e%2e", "https://localhost.", "https://1.2.3.4:1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		canonical, err := provider.ParseBaseURL(raw)
		if err != nil {
			if !errors.Is(err, provider.ErrBaseURL) || canonical != "" {
				t.Fatalf("got %q, %v", canonical, err)
			}
			return
		}
		if again, err := provider.ParseBaseURL(canonical); err != nil || again != canonical {
			t.Fatalf("%q becomes %q, %v", canonical, again, err)
		}
		u, err := url.Parse(canonical)
		if err != nil {
			t.Fatalf("%q: %v", canonical, err)
		}
		if u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "" || u.RawPath != "" {
			t.Fatalf("%q has other parts than https, a host and a path", canonical)
		}
		if u.String() != canonical || "https://"+u.Host+u.Path != canonical || u.JoinPath().String() != canonical && u.Path != "" {
			t.Fatalf("%q is %q to net/url", canonical, u)
		}
		given, err := url.Parse(raw)
		if err != nil || !strings.EqualFold(hostname(given), u.Hostname()) {
			t.Fatalf("%q names another host to net/url: %v", raw, err)
		}
		if a, err := netip.ParseAddr(u.Hostname()); err == nil {
			if a.String() != u.Hostname() || a.Is4In6() || a.Zone() != "" {
				t.Fatalf("%q is an odd address", canonical)
			}
			return
		}
		if labels := strings.Split(u.Hostname(), "."); number.MatchString(labels[len(labels)-1]) {
			t.Fatalf("%q is a number to some", canonical)
		}
	})
}

// hostname is a URL's host, an address in its usual spelling.
func hostname(u *url.URL) string {
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		return a.String()
	}
	return u.Hostname()
}
