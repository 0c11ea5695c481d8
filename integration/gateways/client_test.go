package gateways

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/integration/program"
)

// site is the host that the configurations serve.
const site = "api.example.com"

// request is a request as it goes over the wire: nothing tidies up its target or
// its headers.
type request struct {
	method, target, host, body string
	// headers are lines without their end.
	headers []string
}

// get is a request for an interview with a key.
func get(h holder, headers ...string) request {
	return request{method: "GET", target: "/api/v1/interviews/7", headers: append([]string{"Authorization: Bearer " + h.secret}, headers...)}
}

// with is the request with another target.
func (r request) with(method, target string) request {
	r.method, r.target = method, target
	return r
}

// wire is what is sent.
func (r request) wire(name string) string {
	var b strings.Builder
	host := r.host
	if host == "" {
		host = site
	}
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n%s: %s\r\n", r.method, r.target, host, caseHeader, name)
	for _, h := range r.headers {
		b.WriteString(h + "\r\n")
	}
	if r.body != "" {
		b.WriteString("Content-Length: " + strconv.Itoa(len(r.body)) + "\r\n")
	}
	return b.String() + "\r\n" + r.body
}

// response is what a request came back with.
type response struct {
	status int
	header http.Header
	body   string
}

func (r response) String() string { return fmt.Sprintf("%d %v %s", r.status, r.header, r.body) }

// connection is a client's, kept alive.
type connection struct {
	conn net.Conn
	in   *bufio.Reader
	// patience bounds the wait for an answer.
	patience time.Duration
}

// connect connects; the caller closes.
func connect(address string) (*connection, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return &connection{conn, bufio.NewReader(conn), program.Patience}, nil
}

// dial is connect for the length of a test.
func dial(t testing.TB, address string) *connection {
	t.Helper()
	c, err := connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.conn.Close() })
	return c
}

// exchange sends text and reads one response.
func (c *connection) exchange(method, text string) (response, error) {
	if err := c.conn.SetDeadline(time.Now().Add(c.patience)); err != nil {
		return response{}, err
	}
	if _, err := io.WriteString(c.conn, text); err != nil {
		return response{}, err
	}
	return c.read(method)
}

// read reads one response.
func (c *connection) read(method string) (response, error) {
	res, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		return response{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return response{res.StatusCode, res.Header, string(body)}, err
}
