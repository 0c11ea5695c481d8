// Package egress sends requests to addresses that customers name, and to nothing
// that only this machine, its network or its operator should reach.
//
// A [Client] speaks https alone, asks no proxy, follows no redirect, and bounds how
// long an exchange takes and how much is read. Where a name leads is judged at the
// moment of connecting, on the very address that is connected to: a name that
// answers differently the second time gains nothing. What is not a public address
// is refused, however it is written, unless the operator allows it.
package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// What a request comes to when there is no answer. None of these repeats the
// request, its address, what its name resolved to or what the other side said: they
// are shown to customers, whom the operator's names are no business of.
var (
	// ErrUnreachable is what all others here belong to.
	ErrUnreachable = errors.New("egress: there is no answer")

	// ErrForbidden says that the address is not one that customers may name.
	ErrForbidden = fmt.Errorf("%w: the address is not public, and the operator does not allow it", ErrUnreachable)

	// ErrName says that the name does not resolve.
	ErrName = fmt.Errorf("%w: its name does not resolve", ErrUnreachable)

	// ErrTLS says that the other side does not prove who it is, or speaks no TLS
	// that is good enough.
	ErrTLS = fmt.Errorf("%w: no secure connection", ErrUnreachable)

	// ErrTimeout says that it took too long.
	ErrTimeout = fmt.Errorf("%w in time", ErrUnreachable)

	// ErrRedirect says that the answer is to ask elsewhere.
	ErrRedirect = fmt.Errorf("%w but a redirect, which is not followed", ErrUnreachable)

	// ErrTooLarge says that the answer is longer than is read.
	ErrTooLarge = fmt.Errorf("%w of a size that is read", ErrUnreachable)
)

// The bounds of a [Config] that names none.
const (
	DefaultTimeout = 10 * time.Second
	// DefaultMaxHeader and DefaultMaxBody are generous for JSON of a few hundred
	// models, and small beside what a server can hold of them at once.
	DefaultMaxHeader = 64 << 10
	DefaultMaxBody   = 1 << 20
)

// Config says where a client may go beyond public addresses, and how much it takes.
// The zero value allows nothing more, and has the default bounds.
type Config struct {
	// Allow are the operator's exceptions: names, addresses or networks, each
	// perhaps with a port, such as "ollama.example", "10.0.0.7:8443",
	// "10.1.0.0/16" or "[fd00::/8]:8443". A name is allowed wherever it leads.
	Allow []string
	// CA are certificates, in PEM, that are trusted beside the system's.
	CA []byte
	// Timeout bounds an exchange from the first look at its name to the last
	// byte of the answer.
	Timeout time.Duration
	// MaxHeader and MaxBody bound an answer, in bytes; of a compressed body it is
	// what it unpacks to.
	MaxHeader, MaxBody int64
	// Resolver looks up names; nil is the system's.
	Resolver *net.Resolver
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	_, fault := parseAllowed(c.Allow)
	faults := []error{fault}
	if len(c.CA) > 0 && !x509.NewCertPool().AppendCertsFromPEM(c.CA) {
		faults = append(faults, errors.New("egress: the certificates to trust are not PEM"))
	}
	if c.Timeout < 0 || c.MaxHeader < 0 || c.MaxBody < 0 {
		faults = append(faults, errors.New("egress: a bound is negative"))
	}
	return errors.Join(faults...)
}

// Client sends requests. It holds nothing between them: no connection, no cookie.
type Client struct {
	http     *http.Client
	dialer   net.Dialer
	tls      *tls.Config
	resolver *net.Resolver
	allowed  allowed
	maxBody  int64
}

// New returns a client.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("egress: the system's certificates: %w", err)
	}
	roots.AppendCertsFromPEM(cfg.CA)
	allowed, err := parseAllowed(cfg.Allow)
	if err != nil {
		return nil, err
	}
	c := &Client{
		tls:      &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		allowed:  allowed,
		resolver: cfg.Resolver,
		maxBody:  or(cfg.MaxBody, DefaultMaxBody),
	}
	if c.resolver == nil {
		c.resolver = net.DefaultResolver
	}
	c.dialer = net.Dialer{Resolver: c.resolver, KeepAlive: -1}
	// HTTP/1.1 alone has fewer frames whose number nothing bounds.
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	c.http = &http.Client{
		Timeout: or(cfg.Timeout, DefaultTimeout),
		Transport: &http.Transport{
			// No Proxy: it would resolve the name, and connect, in our place.
			DialContext:            func(context.Context, string, string) (net.Conn, error) { return nil, ErrForbidden },
			DialTLSContext:         c.dialTLS,
			DisableKeepAlives:      true,
			Protocols:              &protocols,
			MaxResponseHeaderBytes: or(cfg.MaxHeader, DefaultMaxHeader),
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

func or[T ~int64](v, otherwise T) T {
	if v == 0 {
		return otherwise
	}
	return v
}

// Do sends a request and returns the answer, whatever its status, unless that is a
// redirect. Its errors are those of this package, or the context's own when that was
// given up. Reading the body ends in the same ones; the caller closes it.
func (c *Client) Do(req *http.Request) (*http.Response, error) {
	if err := c.permits(req.URL); err != nil || req.Host != "" && req.Host != req.URL.Host {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, ErrForbidden
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, told(req.Context(), err)
	}
	if res.StatusCode >= 300 && res.StatusCode < 400 {
		res.Body.Close()
		return nil, ErrRedirect
	}
	res.Body = &body{ctx: req.Context(), from: res.Body, left: c.maxBody}
	return res, nil
}

// Check looks where a URL leads today, and connects to nothing. It is [ErrForbidden]
// for what Do would refuse to connect to, and another error when that cannot be told.
// It only spares people a key that can never work: what holds is Do's own look.
func (c *Client) Check(ctx context.Context, rawURL string) error {
	u, err := url.Parse(rawURL)
	if err != nil || c.permits(u) != nil {
		return ErrForbidden
	}
	host, port := hostOf(u), portOf(u)
	if c.allowed.name(host, port) {
		return nil
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return c.judge(netip.AddrPortFrom(a, port))
	}
	ctx, cancel := context.WithTimeout(ctx, c.http.Timeout)
	defer cancel()
	found, err := c.resolver.LookupNetIP(ctx, "ip", absolute(host))
	if err != nil {
		return told(ctx, err)
	}
	for _, a := range found {
		if err := c.judge(netip.AddrPortFrom(a, port)); err != nil {
			return err
		}
	}
	return nil
}

// permits judges what a URL's text alone tells.
func (c *Client) permits(u *url.URL) error {
	if u == nil || u.Scheme != "https" || u.Opaque != "" || u.User != nil || u.Fragment != "" {
		return ErrForbidden
	}
	host, port := hostOf(u), portOf(u)
	switch {
	case port == 0 || strings.HasSuffix(u.Host, ":"):
		return ErrForbidden
	case c.allowed.name(host, port):
		return nil
	case strings.HasPrefix(u.Host, "["):
		a, err := netip.ParseAddr(host)
		if err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" {
			return ErrForbidden
		}
	case !isName(host):
		if a, err := netip.ParseAddr(host); err != nil || !a.Is4() {
			return ErrForbidden
		}
	}
	return nil
}

// isName reports whether a host is a name of several labels, that no program takes
// for an address. What has no dot is a name of this machine's network,
// and what ends with one is written so to escape lists of names.
func isName(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	if last == host || last == "" || last == "localhost" || last[0] >= '0' && last[0] <= '9' {
		return false
	}
	return strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789-.") == ""
}

// hostOf is a URL's host, in the case that names are compared in.
func hostOf(u *url.URL) string { return strings.ToLower(u.Hostname()) }

// portOf is a URL's port, 0 when it is none.
func portOf(u *url.URL) uint16 {
	p := u.Port()
	if p == "" {
		return 443
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
}

// absolute has a name looked up as it stands: a resolver would try it within the
// networks that it searches first.
func absolute(host string) string { return host + "." }

// dialTLS connects, and has the other side prove who it is.
func (c *Client) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	plain, err := c.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	cfg := c.tls.Clone()
	if cfg.ServerName, _, err = net.SplitHostPort(address); err != nil {
		return nil, errors.Join(ErrForbidden, plain.Close())
	}
	conn := tls.Client(plain, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		plain.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, ErrTLS
	}
	return conn, nil
}

// dial connects to an address that may be connected to.
func (c *Client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, ErrForbidden
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, ErrForbidden
	}
	dialer := c.dialer
	if !c.allowed.name(strings.ToLower(host), uint16(port)) {
		// The operating system is about to connect to this address: between here
		// and there nothing resolves a name again.
		dialer.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return ErrForbidden
			}
			return c.judge(to)
		}
		if _, err := netip.ParseAddr(host); err != nil {
			address = net.JoinHostPort(absolute(host), portText)
		}
	}
	return dialer.DialContext(ctx, network, address)
}

// judge refuses an address that is not public, and that the operator does not allow.
func (c *Client) judge(to netip.AddrPort) error {
	if a := to.Addr().Unmap(); !c.allowed.address(a, to.Port()) && !Public(a) {
		return ErrForbidden
	}
	return nil
}

// body is what is read of an answer.
type body struct {
	ctx  context.Context
	from io.ReadCloser
	left int64
}

func (b *body) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, ErrTooLarge
	}
	// One byte more than may come tells whether it would.
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.from.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n - 1, ErrTooLarge
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = told(b.ctx, err)
	}
	return n, err
}

func (b *body) Close() error {
	if err := b.from.Close(); err != nil {
		return told(b.ctx, err)
	}
	return nil
}

// told says which of this package's errors another one is. The other's text is
// dropped: it holds the URL and the addresses.
func told(ctx context.Context, err error) error {
	var (
		name    *net.DNSError
		timeout net.Error
	)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return context.Canceled
	case errors.Is(err, ErrForbidden):
		return ErrForbidden
	case errors.Is(err, ErrTLS):
		return ErrTLS
	case errors.As(err, &name) && !name.IsTimeout:
		return ErrName
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return ErrTimeout
	}
	return ErrUnreachable
}
