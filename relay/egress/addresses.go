package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Public reports whether an address is one of the public internet: of those that
// IANA gives out to be reached by everybody, and none that stands for another.
// [netip.Addr.Unmap] comes first for IPv4 written as IPv6, which is not public.
func Public(a netip.Addr) bool {
	in := func(p netip.Prefix) bool { return p.Contains(a) }
	if a.Zone() != "" {
		return false
	}
	if a.Is4() {
		return !slices.ContainsFunc(special4(), in)
	}
	// All global unicast addresses of IPv6 are of 2000::/3. What lies outside is
	// refused without a list: loopback (::1), unspecified (::), IPv4 as IPv6
	// (::ffff:0:0/96, ::/96), NAT64 (64:ff9b::/96, 64:ff9b:1::/48), discard (100::/64),
	// segments (5f00::/16), unique local (fc00::/7), link-local (fe80::/10),
	// site-local (fec0::/10), multicast (ff00::/8).
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20}), 3).Contains(a) && !slices.ContainsFunc(special6(), in)
}

// special4 are IANA's special-purpose IPv4 addresses (RFC 6890 and its registry),
// whether or not they are reachable from everywhere, and one that clouds add.
func special4() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"),        // this network
		netip.MustParsePrefix("10.0.0.0/8"),       // private
		netip.MustParsePrefix("100.64.0.0/10"),    // carriers' translation
		netip.MustParsePrefix("127.0.0.0/8"),      // loopback
		netip.MustParsePrefix("168.63.129.16/32"), // a virtual machine's host, at Azure
		netip.MustParsePrefix("169.254.0.0/16"),   // link-local, and clouds' metadata
		netip.MustParsePrefix("172.16.0.0/12"),    // private
		netip.MustParsePrefix("192.0.0.0/24"),     // protocol assignments
		netip.MustParsePrefix("192.0.2.0/24"),     // documentation
		netip.MustParsePrefix("192.31.196.0/24"),  // AS112
		netip.MustParsePrefix("192.52.193.0/24"),  // automatic multicast tunnels
		netip.MustParsePrefix("192.88.99.0/24"),   // relays of 6to4
		netip.MustParsePrefix("192.168.0.0/16"),   // private
		netip.MustParsePrefix("192.175.48.0/24"),  // AS112
		netip.MustParsePrefix("198.18.0.0/15"),    // benchmarks
		netip.MustParsePrefix("198.51.100.0/24"),  // documentation
		netip.MustParsePrefix("203.0.113.0/24"),   // documentation
		netip.MustParsePrefix("224.0.0.0/4"),      // multicast
		netip.MustParsePrefix("240.0.0.0/4"),      // reserved, and broadcast
	}
}

// special6 are those of 2000::/3.
func special6() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("2001::/23"),         // protocol assignments: Teredo, benchmarks, ORCHID
		netip.MustParsePrefix("2001:db8::/32"),     // documentation
		netip.MustParsePrefix("2002::/16"),         // 6to4, which holds an IPv4 address
		netip.MustParsePrefix("2620:4f:8000::/48"), // AS112
		netip.MustParsePrefix("3fff::/20"),         // documentation
	}
}

// allowed are the operator's exceptions.
type allowed struct {
	names    map[string][]uint16
	networks []network
}

type network struct {
	prefix netip.Prefix
	port   uint16
}

// anyPort stands where an exception names none.
const anyPort uint16 = 0

// name reports whether a name may be connected to wherever it leads.
func (a allowed) name(host string, port uint16) bool {
	ports, ok := a.names[host]
	return ok && (slices.Contains(ports, anyPort) || slices.Contains(ports, port))
}

// address reports whether an address may be connected to.
func (a allowed) address(to netip.Addr, port uint16) bool {
	return slices.ContainsFunc(a.networks, func(n network) bool {
		return (n.port == anyPort || n.port == port) && n.prefix.Contains(to)
	})
}

// parseAllowed reads the operator's exceptions and reports every fault at once. They
// are the operator's own words, so that faults repeat them.
func parseAllowed(entries []string) (allowed, error) {
	all := allowed{names: map[string][]uint16{}}
	var faults []error
	for _, entry := range entries {
		host, port, ok := splitPort(entry)
		if !ok {
			faults = append(faults, fmt.Errorf("egress: %q has a port that is no number from 1 to 65535", entry))
			continue
		}
		if prefix, ok := parsePrefix(host); ok {
			all.networks = append(all.networks, network{prefix, port})
			continue
		}
		host = strings.ToLower(host)
		if strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" || host == "" || strings.HasSuffix(host, ".") {
			faults = append(faults, fmt.Errorf("egress: %q is no name, address or network, perhaps with a port", entry))
			continue
		}
		all.names[host] = append(all.names[host], port)
	}
	return all, errors.Join(faults...)
}

// splitPort takes a port off an exception: after the brackets, or after the only
// colon.
func splitPort(entry string) (host string, port uint16, ok bool) {
	host, text, found := entry, "", false
	if inner, bracketed := strings.CutPrefix(entry, "["); bracketed {
		var rest string
		if host, rest, ok = strings.Cut(inner, "]"); !ok {
			return "", 0, false
		}
		if text, found = strings.CutPrefix(rest, ":"); !found && rest != "" {
			return "", 0, false
		}
	} else if strings.Count(entry, ":") == 1 {
		host, text, found = strings.Cut(entry, ":")
	}
	if !found {
		return host, anyPort, true
	}
	n, err := strconv.ParseUint(text, 10, 16)
	return host, uint16(n), err == nil && n != 0
}

// parsePrefix reads a network, or an address as the network of it alone.
func parsePrefix(s string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(s); err == nil && !p.Addr().Is4In6() {
		return p.Masked(), true
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, false
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), true
}
