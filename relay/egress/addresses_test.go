package egress

import (
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

func TestPublicAddresses(t *testing.T) {
	for _, a := range []string{
		"1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "198.17.255.255",
		"198.20.0.0", "223.255.255.255", "11.0.0.0", "9.255.255.255", "128.0.0.0", "126.255.255.255", "168.63.129.15",
		"2606:4700::1111", "2001:4860:4860::8888", "2a00:1450::1", "2001:200::1", "3ffe::1", "2400::",
	} {
		if !Public(netip.MustParseAddr(a)) {
			t.Errorf("%s is public", a)
		}
	}
	for _, a := range []string{
		"0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "127.0.0.1", "127.255.255.255", "169.254.169.254",
		"172.16.0.0", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.0", "192.168.255.255", "198.18.0.0", "198.19.255.255",
		"198.51.100.1", "203.0.113.255", "224.0.0.1", "239.255.255.255", "240.0.0.0", "255.255.255.255", "168.63.129.16", "100.100.100.200",
		"::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::8.8.8.8", "64:ff9b::8.8.8.8", "64:ff9b:1::1", "100::1", "2001::1", "2001:2::1", "2001:10::1",
		"2001:20::1", "2001:1ff:ffff::1", "2001:db8::1", "2002:0808:0808::1", "3fff::1", "4000::", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1",
		"fe80::1%eth0", "fec0::1", "ff02::1", "1fff:ffff::1", "2606:4700::1111%eth0",
	} {
		if Public(netip.MustParseAddr(a)) {
			t.Errorf("%s is not public", a)
		}
	}
	if Public(netip.Addr{}) {
		t.Error("no address is public")
	}
}

func TestAllowed(t *testing.T) {
	a, err := parseAllowed([]string{
		"ollama", "gateway.example:8443", "GATEWAY.example:9443", "10.0.0.7", "10.1.0.0/16:443", "fd00::/8", "[fd01::1]:8443", "[fe80::/10]:1", "[::1]", "10.2.3.4/16",
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		host string
		port uint16
		want bool
	}{
		{"ollama", 443, true},
		{"ollama", 11434, true},
		{"ollama.example", 443, false},
		{"gateway.example", 8443, true},
		{"gateway.example", 9443, true},
		{"gateway.example", 443, false},
		{"x.gateway.example", 8443, false},
		{"", 443, false},
	} {
		if a.name(test.host, test.port) != test.want {
			t.Errorf("%s:%d: want %v", test.host, test.port, test.want)
		}
	}
	for _, test := range []struct {
		to   string
		want bool
	}{
		{"10.0.0.7:1", true},
		{"10.0.0.8:1", false},
		{"10.1.2.3:443", true},
		{"10.1.2.3:444", false},
		{"10.2.0.1:1", true},
		{"[fd00::1]:5", true},
		{"[fc00::1]:5", false},
		{"[fe80::1]:1", true},
		{"[fe80::1]:2", false},
		{"[::1]:443", true},
		{"127.0.0.1:443", false},
		{"[::ffff:10.0.0.7]:1", false},
	} {
		to := netip.MustParseAddrPort(test.to)
		if a.address(to.Addr(), to.Port()) != test.want {
			t.Errorf("%s: want %v", test.to, test.want)
		}
	}
}

func TestFaultsOfConfigurationsAreReportedAtOnce(t *testing.T) {
	faulty := []string{"", ":443", "a:0", "a:70000", "a:x", "*.example", "https://a.example", "a/8", "[::1", "[::1]x", "[]", "a b", "a.", "fe80::1%eth0"}
	err := Config{Allow: faulty, CA: []byte("no certificate"), Timeout: -1}.Validate()
	if err == nil {
		t.Fatal("it is valid")
	}
	if got, want := len(strings.Split(err.Error(), "\n")), len(faulty)+2; got != want {
		t.Errorf("%d faults, want %d:\n%v", got, want, err)
	}
	if _, err := New(Config{Allow: faulty}); err == nil {
		t.Error("a client is made of it")
	}
}

// number is a host that browsers or C libraries take for an IPv4 address, by its
// last label.
var number = regexp.MustCompile(`(?i)(^|\.)([0-9]+|0x[0-9a-f]*)\.?$`)

// What passes by its text is https to a name that all programs take for one, or to
// an address in its usual spelling, which is then judged.
func FuzzPermits(f *testing.F) {
	for _, seed := range []string{
		"https://api.example.com/v1", "https://127.1/", "https://0x7f.1", "https://[::ffff:127.0.0.1]/", "https://a@b.example", "https://a.example:443#x",
		"https://a.example.:1", "https:a.example", "https://[fe80::1%25a]", `https://a.example\@b.example`, "https://1.1.1.1", "https://127.0.0.1",
	} {
		f.Add(seed)
	}
	c, err := New(Config{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.Parse(raw)
		if err != nil || c.permits(u) != nil {
			return
		}
		host := hostOf(u)
		if u.Scheme != "https" || u.User != nil || u.Fragment != "" || host == "" || portOf(u) == 0 {
			t.Fatalf("%q passes", raw)
		}
		if a, err := netip.ParseAddr(host); err == nil {
			if a.Is4() && a.String() != host || a.Is4In6() || a.Zone() != "" {
				t.Fatalf("%q passes", raw)
			}
			if c.judge(netip.AddrPortFrom(a, portOf(u))) == nil && !Public(a) {
				t.Fatalf("%q passes", raw)
			}
			return
		}
		if number.MatchString(host) || !strings.Contains(host, ".") || strings.HasSuffix(host, ".") || strings.HasSuffix(host, "localhost") {
			t.Fatalf("%q passes", raw)
		}
	})
}
