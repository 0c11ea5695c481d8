package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/cmd/access"
	"github.com/keyledger/keyledger/cmd/nodes"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/verify"
)

// fault is an error with what helps against it.
type fault struct {
	err  error
	hint string
	code int
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// usage makes the error of a command that was not understood. Without a format
// there is no hint.
func usage(text, format string, args ...any) error {
	return &fault{err: errors.New(text), hint: fmt.Sprintf(format, args...), code: exitUsage}
}

// hinted adds a hint to an error.
func hinted(err error, format string, args ...any) error {
	return &fault{err: err, hint: fmt.Sprintf(format, args...), code: exitFault}
}

var (
	// errNo says that the answer was given, and that it is no.
	errNo = errors.New("the answer is no")
	// errSecretArgument says that a key stands on the command line.
	errSecretArgument = &fault{
		err:  errors.New("a key stands on the command line, where every user of this machine can read it, and the shell remembers it"),
		hint: "Keys are read from standard input or a file; what commands take is a key's id. Consider rotating this one.",
		code: exitUsage,
	}
)

// holdsSecret reports whether a text holds what is beyond doubt a key of this ledger,
// or of an AI provider.
func holdsSecret(text string) bool { return keystring.Contains(text) || provider.Contains(text) }

// redact masks them.
func redact(text string) string { return provider.Redact(keystring.Redact(text)) }

// conclude prints what went wrong and returns the exit code.
func (a *app) conclude(ctx context.Context, cmd *cobra.Command, err error) int {
	if err == nil {
		return exitYes
	}
	if errors.Is(err, errNo) {
		return exitNo
	}
	if errors.Is(err, syscall.EPIPE) {
		// Whoever read has had enough.
		return exitFault
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	err = asUsage(cmd, err)
	var f *fault
	if !errors.As(err, &f) {
		f = a.explain(cmd, err)
	}
	if a.out.format == formatJSON && cmd.Flags().Lookup("output") != nil {
		a.concludeJSON(err, f)
		return f.code
	}
	fmt.Fprintf(a.env.Stderr, "Error: %s\n", redact(plain(strip(f.err))))
	if f.hint != "" {
		fmt.Fprintf(a.env.Stderr, "Hint: %s\n", redact(plain(f.hint)))
	}
	return f.code
}

// concludeJSON prints an error as a problem document: the API's own where the
// API refused.
func (a *app) concludeJSON(err error, f *fault) {
	p, ours := problemOf(err)
	if !ours {
		p = wire.Problem{Type: "about:blank", Title: "The command failed", Code: "cli_failed", Detail: strip(f.err)}
		if f.code == exitUsage {
			p.Title, p.Code = "The command was not understood", "cli_usage"
		}
	}
	p.Detail = redact(p.Detail)
	body, err := json.Marshal(p, jsontext.WithIndent("  "), jsontext.EscapeForHTML(false))
	if err != nil {
		return
	}
	fmt.Fprintf(a.env.Stderr, "%s\n", body)
}

// explain finds what helps against an error that nobody gave a hint yet.
func (a *app) explain(cmd *cobra.Command, err error) *fault {
	if p, ok := problemOf(err); ok {
		f := a.explainProblem(cmd, p)
		if wait := waitOf(err); f.hint == "" && wait > 0 {
			f.hint = "The server asks to wait " + plural(int(wait/time.Second), "second") + "."
		}
		return f
	}
	f := &fault{err: err, code: exitFault}
	server := a.link.found.url
	var (
		dns  *net.DNSError
		cert *tls.CertificateVerificationError
		sent *url.Error
	)
	switch {
	case errors.Is(err, embedded.ErrLocked):
		f.hint = "--data names another folder."
	case errors.Is(err, access.ErrNobodyListens):
		f.hint = "Stop the server, or run it with --nats-listen."
	case errors.Is(err, access.ErrNoBroker):
		f.hint = "--nats names the cluster's nodes, and --nats-ca the authorities of their certificates."
	case errors.Is(err, access.ErrNotBegun):
		f.hint = "--data names the folder of a server; for a cluster there are --nats and --auth."
	case errors.Is(err, credentials.ErrNoAuthority):
		f.hint = "keyledger nats-auth operator --out DIR makes one."
	case errors.Is(err, nodes.ErrNone):
		f.hint = "--nats names the cluster's nodes."
	case errors.Is(err, nodes.ErrUntrusted):
		f.hint = "--nats-ca names the file with the authorities that signed it."
	case errors.Is(err, nodes.ErrRefused) && cmd.Name() == "init":
		f.hint = "--nats-creds names the file: operator.creds of the folder that nats-auth operator made."
	case errors.Is(err, nodes.ErrRefused):
		f.hint = "--nats-creds names the file with the credentials."
	case errors.Is(err, verify.ErrCredential):
		f.hint = "keyledger nats-auth verifier NAME --out FILE issues credentials; --orgs tells what these must be narrowed to."
	case errors.Is(err, jetstream.ErrReplicas):
		f.hint = "--replicas says on how many nodes the streams lie: what the installation began with."
	case errors.Is(err, events.ErrCorrupt):
		f.err = errors.New(oneLine(strip(err)))
		f.hint = "Keep the folder as it is, and restore a backup into another one."
	case server == "" && errors.Is(err, events.ErrUnavailable):
		f.hint = "The broker may be electing a leader. Run the command again: it goes on where it was."
	case server == "":
	case errors.Is(err, syscall.ECONNREFUSED):
		f.err = fmt.Errorf("no server answers at %s", server)
		f.hint = "keyledger serve starts one on this machine; --url, KEYLEDGER_URL or a context names another."
	case errors.As(err, &dns):
		f.err = fmt.Errorf("there is no machine called %s", dns.Name)
		f.hint = "The server's URL came from " + a.link.found.urlFrom + "."
	case errors.Is(err, context.DeadlineExceeded), os.IsTimeout(err):
		f.err = fmt.Errorf("%s did not answer in time", server)
		f.hint = "What was asked for may have been done: look before you repeat it."
	case errors.As(err, &cert):
		f.err = fmt.Errorf("the certificate of %s is not trusted: %w", server, cert.Err)
		f.hint = "SSL_CERT_FILE may name the authority that signed it."
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		f.err = fmt.Errorf("%s speaks http, not https", server)
		f.hint = "The server's URL came from " + a.link.found.urlFrom + "."
	case errors.As(err, &sent):
		f.err = fmt.Errorf("no answer from %s: %w", server, sent.Err)
	}
	return f
}

// explainProblem writes a refusal of the API as a sentence.
func (a *app) explainProblem(cmd *cobra.Command, p wire.Problem) *fault {
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	if p.Code == "unauthenticated" {
		// How a key is sent is not what a person did wrong.
		p.Field = ""
		if a.link.found.key.IsZero() {
			text = "this needs a management key, and none was found"
		}
	}
	if strings.HasPrefix(p.Code, "http_") {
		text = fmt.Sprintf("%s answered %d %s", a.link.found.url, p.Status, p.Title)
	}
	if p.Field != "" {
		text = asked(cmd, p.Field) + ": " + text
	}
	for _, e := range p.Errors {
		text += "\n  " + strings.TrimPrefix(asked(cmd, e.Field)+": "+e.Detail, ": ")
	}
	tail := p.Code
	if p.RequestID != "" {
		tail += ", request " + p.RequestID
	}
	return &fault{err: fmt.Errorf("%s (%s)", text, tail), hint: a.hintFor(cmd, p), code: exitFault}
}

// asked calls a member of a request, or its header, by the flag that set it.
func asked(cmd *cobra.Command, field string) string {
	parts := strings.Split(field, ".")
	last := parts[len(parts)-1]
	names := []string{strings.Join(parts, "-"), "signal-" + last, last, parts[0]}
	switch parts[0] {
	case "scope":
		names = []string{"workspaces"}
	case "as_of":
		names = []string{"at"}
	case "q":
		names = []string{"search"}
	}
	for _, name := range names {
		name = strings.ToLower(strings.ReplaceAll(name, "_", "-"))
		if cmd.Flags().Changed(name) {
			return "--" + name
		}
	}
	return field
}

// hintFor says what to do about a refusal, where the API cannot know it.
func (a *app) hintFor(cmd *cobra.Command, p wire.Problem) string {
	key := "The key came from " + a.link.found.keyFrom + "."
	switch p.Code {
	case "unauthenticated":
		if a.link.found.key.IsZero() {
			return "Set KEYLEDGER_KEY, name a file with --key-file, or run this where ./" + ownerKey + " is."
		}
		return key + " It is no key of this ledger, or no longer one."
	case "forbidden":
		if cmd.Name() == "whoami" {
			return key
		}
		return key + " keyledger whoami tells what it may do."
	case "unknown_permission":
		return "keyledger permissions get lists the permissions there are."
	case "policy_violation":
		return "keyledger orgs get shows the organization's policy."
	case "key_limit_reached":
		return "Revoke a key that nobody needs (keyledger keys list), or raise the limit (keyledger orgs update ORG --max-active-keys N)."
	case "stale_revision":
		return "Somebody changed it since. Look at it again, and repeat with the --if-match that is shown then."
	case "outcome_unknown":
		return "Repeat the command with --idempotency-key " + a.link.idempotencyKey + " to learn what became of it."
	case "already_exists":
		return "Ids are for ever: choose another one, or change what is there with update."
	case "in_use":
		if cmd.Flags().Lookup("force") != nil {
			return "--force detaches it from all of them first."
		}
		return ""
	case "plan_required":
		return "An owner of the installation raises the plan: keyledger orgs update ORG --plan growth."
	case "provider_key_exists":
		return "keyledger provider-keys replace puts another key in its place."
	case "provider_key_malformed":
		switch p.Problem {
		case "missing_prefix", "too_short", "too_long":
			return "If it is right all the same, --force goes on."
		default:
			return ""
		}
	case "base_url_required":
		return "Name it by --base-url."
	case "not_found":
		if strings.Contains(p.Detail, "provider key") {
			return "keyledger provider-keys list shows those that are connected, add connects another one."
		}
		return ""
	case "kek_missing":
		return "Start the server with --kek."
	case "already_rotated":
		return "Rotate the key that succeeds it (rotated to, in keyledger keys get)."
	default:
		if strings.HasPrefix(p.Code, "http_") {
			return "Is " + a.link.found.url + " a keyledger server? The URL came from " + a.link.found.urlFrom + "."
		}
		return ""
	}
}

var roomPrefix = regexp.MustCompile(`(^|: |\n)(?:cli|serve|sidecar|verify|nodes|recording|snapshot|listen|client|embedded|jetstream|seals|wrapping|kms|access|credentials|events|commands|domain|api|projections): `)

// strip takes the names of packages out of an error's text: they are for readers
// of code.
func strip(err error) string {
	text := err.Error()
	for {
		short := roomPrefix.ReplaceAllString(text, "$1")
		if short == text {
			return text
		}
		text = short
	}
}

// oneLine puts the lines of joined errors behind each other, each once.
func oneLine(text string) string {
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

// excluded finds the flags that cobra says exclude each other.
var excluded = regexp.MustCompile(`^if any flags in the group .*; \[(.*)\] were all set$`)

// asUsage writes a fault that cobra itself found in a command line as ours.
func asUsage(cmd *cobra.Command, err error) error {
	if found := excluded.FindStringSubmatch(err.Error()); found != nil {
		return usage("--"+strings.Join(strings.Fields(found[1]), " and --")+" exclude each other", "See %s --help.", cmd.CommandPath())
	}
	return err
}

// waitOf is how long the API asks to wait, rounded up, 0 when it does not.
func waitOf(err error) time.Duration {
	var p *client.Problem
	if !errors.As(err, &p) {
		return 0
	}
	return (p.RetryAfter + time.Second - 1).Truncate(time.Second)
}

// problemOf is the API's own word on what went wrong, if it said one.
func problemOf(err error) (wire.Problem, bool) {
	var p *client.Problem
	if !errors.As(err, &p) {
		return wire.Problem{}, false
	}
	return p.Problem, true
}
