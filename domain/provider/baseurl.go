package provider

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/keyledger/keyledger/events"
)

// ErrBaseURL says that a text is no base URL. What was given stands in no error: it
// may be a secret that was pasted into the wrong field.
var ErrBaseURL = errors.New("provider: not a base URL of the form https://host/path")

// ParseBaseURL returns the one spelling of a base URL that customers give: https, a
// host, perhaps a port other than 443, perhaps a path, and no slash at the end.
//
// It knows text alone. Where an address may lie is known only at the moment of
// connecting, when its name is resolved (relay/egress). What is refused here is what
// programs read differently: a host that is a number to one of them and a name to
// the next, a path that climbs, anything before an @.
func ParseBaseURL(raw string) (string, error) {
	if len(raw) > events.MaxBaseURLLength {
		return "", fault("it is longer than %d bytes", events.MaxBaseURLLength)
	}
	for i := range len(raw) {
		if c := raw[i]; c <= ' ' || c >= 0x7f || c == '\\' {
			return "", fault("it holds characters other than visible ASCII, or a backslash")
		}
	}
	if scheme, _, ok := strings.Cut(raw, "://"); !ok || !strings.EqualFold(scheme, "https") {
		return "", fault("it does not begin with https://")
	}
	rest := raw[len("https://"):]
	switch {
	case strings.Contains(rest, "?"):
		return "", fault("it has a query")
	case strings.Contains(rest, "#"):
		return "", fault("it has a fragment")
	case strings.Contains(rest, "@"):
		return "", fault("it holds an @, as a user or a password would")
	}
	authority, path, _ := strings.Cut(rest, "/")
	host, err := parseAuthority(authority)
	if err != nil {
		return "", err
	}
	path, err = parsePath(path)
	if err != nil {
		return "", err
	}
	return "https://" + host + path, nil
}

// parseAuthority reads a host and perhaps a port.
func parseAuthority(s string) (string, error) {
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host = s[:i]
		n, err := strconv.ParseUint(s[i+1:], 10, 16)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != s[i+1:] {
			return "", fault("its port is no number from 1 to 65535")
		}
		if n != 443 {
			port = s[i:]
		}
	}
	host, err := parseHost(host)
	return host + port, err
}

func parseHost(s string) (string, error) {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		a, err := netip.ParseAddr(inner)
		switch {
		case !ok || err != nil || !a.Is6() || a.Zone() != "":
			return "", fault("what stands in brackets is no IPv6 address")
		case a.Is4In6():
			return "", fault("it is an IPv4 address written as IPv6")
		}
		return "[" + a.String() + "]", nil
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
		return s, nil
	}
	return parseName(strings.ToLower(s))
}

// parseName reads a host name by RFC 1123, in lower case. Its last label is none that
// would have a browser or a C library take the whole for an IPv4 address, as
// 127.1, 0x7f.1 and 2130706433.
func parseName(s string) (string, error) {
	if s == "" {
		return "", fault("it has no host")
	}
	if len(s) > 253 {
		return "", fault("its host is longer than 253 characters")
	}
	if strings.HasSuffix(s, ".") {
		return "", fault("its host ends with a dot")
	}
	labels := strings.Split(s, ".")
	for _, label := range labels {
		if !isLabel(label) {
			return "", fault("its host is no name of letters, digits, hyphens and dots (write other letters as xn--)")
		}
	}
	last := labels[len(labels)-1]
	digits, hex := strings.CutPrefix(last, "0x")
	if strings.Trim(last, "0123456789") == "" || hex && strings.Trim(digits, "0123456789abcdef") == "" {
		return "", fault("its host is a number, and no IPv4 address as it is usually written")
	}
	return s, nil
}

func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// parsePath reads what follows the host's slash. Segments that would be dropped or
// climbed by some and kept by others are refused, and so is all that needs escaping.
func parsePath(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	s = strings.TrimSuffix(s, "/")
	for segment := range strings.SplitSeq(s, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return "", fault("its path has an empty part, or one of dots")
		}
		for i := range len(segment) {
			if !isPathByte(segment[i]) {
				return "", fault("its path holds characters other than letters, digits and -._~:=+,")
			}
		}
	}
	return "/" + s, nil
}

func isPathByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~:=+,", c) >= 0
}

func fault(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBaseURL, fmt.Sprintf(format, args...))
}
