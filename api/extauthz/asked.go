package extauthz

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/mem"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
)

// asked is what is read of a CheckRequest. Its texts may lie in the message that was
// received, which is held until done.
type asked struct {
	// held is the message.
	held mem.Buffer

	authorization, apiKey, requestID, userAgent header
	// claimed are headers of the client's that begin as ours do.
	claimed []string

	id, method, path string
	source           string

	permission, workspace optional
	// stray says that a context extension is none of ours.
	stray bool
}

// forget forgets all but the message.
func (a *asked) forget() {
	clear(a.claimed)
	*a = asked{held: a.held, claimed: a.claimed[:0]}
}

// done gives the message back. The texts are gone then.
func (a *asked) done() {
	if a.held != nil {
		a.held.Free()
		a.held = nil
	}
	a.forget()
}

// optional tells an empty text from none.
type optional struct {
	text string
	set  bool
}

// header is one header of a request. Envoy sends all headers either by name, where
// the last one of a name counts and those of one request are joined already, or as
// a list. Where there are several they are joined as HTTP joins them, which leaves
// no key that anybody has.
type header struct{ named, listed optional }

func (h *header) name(value string) { h.named = optional{value, true} }

func (h *header) list(value string) { h.listed = joined(h.listed, optional{value, true}) }

func (h *header) value() string { return joined(h.named, h.listed).text }

func joined(a, b optional) optional {
	switch {
	case !a.set:
		return b
	case !b.set:
		return a
	default:
		return optional{a.text + "," + b.text, true}
	}
}

// ours is how the headers begin that verdicts are told in.
const ours = "x-keyledger-"

// header returns where the value of a header is kept, nil when only its name is, and
// whether anything of it is. Names come in lower case.
func (a *asked) header(name string) (kept *header, mine bool) {
	switch name {
	case "authorization":
		return &a.authorization, true
	case "x-api-key":
		return &a.apiKey, true
	case "x-request-id":
		return &a.requestID, true
	case "user-agent":
		return &a.userAgent, true
	}
	if len(name) >= len(ours) && strings.EqualFold(name[:len(ours)], ours) {
		a.claimed = append(a.claimed, name)
		return nil, true
	}
	return nil, false
}

// extension takes a context extension.
func (a *asked) extension(name, value string) {
	switch name {
	case "permission":
		a.permission = optional{value, true}
	case "workspace":
		a.workspace = optional{value, true}
	default:
		a.stray = true
	}
}

// from reads the generated type.
func (a *asked) from(r *authv3.CheckRequest) {
	attributes := r.GetAttributes()
	a.source = attributes.GetSource().GetAddress().GetSocketAddress().GetAddress()
	request := attributes.GetRequest().GetHttp()
	a.id, a.method, a.path = request.GetId(), request.GetMethod(), request.GetPath()
	for name, value := range request.GetHeaders() {
		if h, _ := a.header(name); h != nil {
			h.name(value)
		}
	}
	for _, header := range request.GetHeaderMap().GetHeaders() {
		if h, _ := a.header(header.GetKey()); h != nil {
			h.list(valueOf(header))
		}
	}
	for name, value := range attributes.GetContextExtensions() {
		a.extension(name, value)
	}
}

// valueOf is the one of the two values that is there.
func valueOf(h *corev3.HeaderValue) string {
	if raw := h.GetRawValue(); len(raw) > 0 {
		return string(raw)
	}
	return h.GetValue()
}

// secret is the key that a request carries, empty when there is none.
func (a *asked) secret() string {
	if secret := gate.Bearer(a.authorization.value()); secret != "" {
		return secret
	}
	return a.apiKey.value()
}

// nothingAsked stands in the use for a question that was there and empty: a
// variable that was never set must not become a yes.
const nothingAsked = "(empty)"

func (o optional) question() string {
	switch {
	case !o.set:
		return ""
	case o.text == "":
		return nothingAsked
	default:
		return keystring.Redact(o.text)
	}
}

// ask makes the verifier's question.
func (a *asked) ask(q *verify.Question, secret, requestID string, withIP bool) {
	path, _, _ := strings.Cut(a.path, "?")
	*q = verify.Question{
		Secret: secret, Permission: a.permission.question(), Workspace: events.WorkspaceID(a.workspace.question()),
		From: a.source,
		Context: recording.Context{
			RequestID: requestID, Method: keystring.Redact(a.method), Path: keystring.Redact(path),
			UserAgent: keystring.Redact(a.userAgent.value()),
		},
	}
	if withIP {
		q.Context.ClientIP = gate.AddressIn(a.source)
	}
	if q.Permission == "" {
		// Never without a method: a catalog with routes then denies what does not
		// say which route it is for.
		q.Method, q.Path = a.method, path
		if q.Method == "" {
			q.Method, q.Path = "GET", ""
		}
	}
}

// requested is the id of the request, as the gateway names it, or one that is drawn.
func (a *asked) requested() string {
	for _, id := range [...]string{a.requestID.value(), a.id} {
		if gate.KeepsRequestID(id) {
			return id
		}
	}
	return gate.RequestID("")
}
