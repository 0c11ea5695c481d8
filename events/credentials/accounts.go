package credentials

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
)

// Account is an account as the broker is told of it.
type Account struct {
	// Public is its public key, which is what the broker knows it by.
	Public string
	// JWT is its claims, signed by the operator.
	JWT string
}

const (
	// nowhere is a subject of LEDGER that nobody answers at.
	nowhere = "keyledger.nowhere"
	// apiInfo is the one subject that tells the broker whether an account reaches
	// streams through another: where it is imported, the broker keeps its own
	// answers to everything under $JS.API out of the account. With those, every
	// request would have two answers, and the wrong one first.
	apiInfo = "$JS.API.INFO"
	// answers is how long an answer that comes in parts may pause before the
	// broker forgets where it goes. A request for messages is open for half a
	// minute at most, and shows signs of life in between.
	answers = time.Minute
)

// ServerInbox is where answers to the server's connections arrive; they subscribe
// to nothing else.
const ServerInbox = "_INBOX_server"

// Limits of a credential's account. The broker's own defaults are "none".
const (
	// maxConnections lets a program reconnect before its old connections are
	// found dead, and no more: a credential is for one program.
	maxConnections = 16
	// maxSubscriptions is its inboxes, and some room.
	maxSubscriptions = 256
	// maxPayload is a block of uses at its largest, with its headers.
	maxPayload = events.MaxFactBytes + 4*1024
)

// Accounts are those that are there from the beginning.
func (a *Authority) Accounts() ([]Account, error) {
	return a.accounts(false)
}

// accounts are those, for the installation's own broker or for a leaf node of it.
func (a *Authority) accounts(leaf bool) ([]Account, error) {
	system := jwt.NewAccountClaims(a.system.public)
	system.Name = "SYS"
	closed(system)

	ledger := jwt.NewAccountClaims(a.ledger.public)
	ledger.Name = "LEDGER"
	closed(ledger)
	ledger.Limits.WildcardExports, ledger.Limits.Exports = true, jwt.NoLimit
	ledger.Limits.JetStreamLimits = jwt.JetStreamLimits{
		MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit,
	}
	for _, subject := range exports() {
		ledger.Exports.Add(export(subject))
	}
	ledger.Exports.Add(&jwt.Export{Name: "copies", Subject: jwt.Subject(jetstream.LeafSubject("*")), Type: jwt.Stream})
	if leaf {
		// By it the leaf node hangs on an account of its own at the broker.
		ledger.Limits.LeafNodeConn = 1
		ledger.Exports.Add(export(hubStored + "snapshots.>"))
	}

	server := jwt.NewAccountClaims(a.server.public)
	server.Name = "SERVER"
	closed(server)
	a.imports(server, jetstream.Subjects(), itself)
	// Nothing else goes anywhere from there. Said here as well, a fault in this
	// program shows as a violation, and not as silence.
	server.DefaultPermissions.Pub.Allow.Add(jetstream.Subjects()...)
	server.DefaultPermissions.Sub.Allow.Add(ServerInbox + ".>")

	var out []Account
	for _, claims := range []*jwt.AccountClaims{system, ledger, server} {
		token, err := a.sign(claims)
		if err != nil {
			return nil, err
		}
		out = append(out, Account{claims.Subject, token})
	}
	return out, nil
}

// closed shuts what nobody here has a use for. A leaf node above all: the broker
// refuses a reply below $JS.ACK from clients, and not from leaf nodes.
func closed(claims *jwt.AccountClaims) {
	claims.Limits.LeafNodeConn = 0
	claims.Limits.Imports, claims.Limits.Exports, claims.Limits.WildcardExports = jwt.NoLimit, 0, false
	claims.Limits.DisallowBearer = true
}

// exports are what LEDGER offers to other accounts. Which account has it is said
// by the operator alone, who signs every account's imports.
func exports() []string {
	out := []string{nowhere, acks("*"), stored + "snapshots.>"}
	out = append(out, flow("*")...)
	// Of any stream, because mirrors are made later.
	for _, verb := range []string{"MSG.NEXT", "INFO", "RESET"} {
		out = append(out, consumerAPI(verb, "*", "*"))
	}
	for _, subject := range jetstream.Subjects() {
		within := func(other string) bool { return jwt.Subject(subject).IsContainedIn(jwt.Subject(other)) }
		if !slices.ContainsFunc(out, within) {
			out = append(out, subject)
		}
	}
	return out
}

func export(subject string) *jwt.Export {
	out := &jwt.Export{Name: subject, Subject: jwt.Subject(subject), Type: jwt.Service}
	switch {
	// A request for messages is answered by many, and by remarks between them; an
	// acknowledgement may ask for the next message.
	case jwt.Subject(subject).IsContainedIn("$JS.API.CONSUMER.MSG.NEXT.>"), jwt.Subject(subject).IsContainedIn("$JS.ACK.>"):
		out.ResponseType, out.ResponseThreshold = jwt.ResponseTypeStream, answers
	default:
		out.ResponseType = jwt.ResponseTypeSingleton
	}
	return out
}

// imports lets an account reach subjects of LEDGER, each by the name that it has there
// or by the one that target leads from.
func (a *Authority) imports(claims *jwt.AccountClaims, subjects []string, target func(string) string) {
	for _, subject := range subjects {
		in := &jwt.Import{Name: subject, Subject: jwt.Subject(target(subject)), Account: a.ledger.public, Type: jwt.Service}
		if in.Subject != jwt.Subject(subject) {
			in.LocalSubject = jwt.RenamingSubject(subject)
		}
		claims.Imports.Add(in)
	}
	claims.Imports.Add(&jwt.Import{
		Name: nowhere, Subject: nowhere, LocalSubject: apiInfo, Account: a.ledger.public, Type: jwt.Service,
	})
}

func itself(subject string) string { return subject }

func (a *Authority) sign(claims *jwt.AccountClaims) (string, error) {
	found := jwt.CreateValidationResults()
	claims.Validate(found)
	if faults := found.Errors(); len(faults) > 0 {
		return "", fmt.Errorf("credentials: account %s: %w", claims.Name, errors.Join(faults...))
	}
	token, err := claims.Encode(a.operator.key)
	if err != nil {
		return "", fmt.Errorf("credentials: sign account %s: %w", claims.Name, err)
	}
	return token, nil
}

// Issued is a credential that was just drawn.
type Issued struct {
	// Account is the public key of its account.
	Account string
	// Creds is what its holder connects with: a secret.
	Creds []byte
}

// Draw draws a credential. It opens nothing until the broker knows its account:
// see [Authority.Account]. The account's own key is not kept, so that nobody can
// let more users into it.
func Draw(g Grant) (Issued, error) {
	if err := g.Validate(); err != nil {
		return Issued{}, err
	}
	account, err := nkeys.CreateAccount()
	if err != nil {
		return Issued{}, fmt.Errorf("credentials: draw key: %w", err)
	}
	defer account.Wipe()
	public, err := account.PublicKey()
	if err != nil {
		return Issued{}, fmt.Errorf("credentials: %w", err)
	}
	claims := userClaims(string(g.Name))
	if g.For == events.CredentialLeaf {
		// What crosses is a broker's, and not a user's: the account alone is the wall.
		claims.AllowedConnectionTypes.Add(jwt.ConnectionTypeLeafnode)
	} else {
		claims.Permissions.Pub.Allow.Add(g.publishes()...)
		claims.Permissions.Sub.Allow.Add("_INBOX.>")
		claims.AllowedConnectionTypes.Add(jwt.ConnectionTypeStandard)
	}
	claims.Tags.Add(kindTag(g.For))
	content, err := creds(account, claims)
	if err != nil {
		return Issued{}, err
	}
	return Issued{Account: public, Creds: content}, nil
}

// Held is what a credential says of itself.
type Held struct {
	Name events.CredentialName
	For  events.CredentialKind
	// Account is the public key of its account.
	Account string
}

// Holder tells whom a credential was drawn for.
func Holder(content []byte) (Held, error) {
	none := errors.New("credentials: the file holds no credentials of this program")
	token, err := jwt.ParseDecoratedJWT(content)
	if err != nil {
		return Held{}, none
	}
	claims, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return Held{}, none
	}
	held := Held{Account: claims.Issuer}
	if held.Name, err = events.ParseCredentialName(claims.Name); err != nil {
		return Held{}, none
	}
	for _, kind := range kinds {
		if claims.Tags.Contains(kindTag(kind)) {
			held.For = kind
		}
	}
	return held, nil
}

// kindTag is how a credential says what it is for.
func kindTag(kind events.CredentialKind) string { return "for:" + string(kind) }

// Account is a credential's account, to be made known to the broker, or to the leaf
// node that it is at. That of a leaf node lets through what those behind it may record
// and ask for.
func (a *Authority) Account(g Grant, public string, behind ...Grant) (Account, error) {
	if err := g.Validate(); err != nil {
		return Account{}, err
	}
	claims, err := outsider(g.Name, public)
	if err != nil {
		return Account{}, err
	}
	claims.Limits.Conn, claims.Limits.Subs, claims.Limits.Payload = maxConnections, maxSubscriptions, maxPayload
	if g.For == events.CredentialLeaf {
		a.leaf(claims, g.Name, behind)
	} else {
		a.imports(claims, g.imports(), g.target)
	}
	token, err := a.sign(claims)
	return Account{public, token}, err
}

// Revoked is a credential's account with nothing in it and nobody let in. The
// broker throws out who is connected when it hears of it.
func (a *Authority) Revoked(name events.CredentialName, public string) (Account, error) {
	claims, err := outsider(name, public)
	if err != nil {
		return Account{}, err
	}
	claims.Limits.Conn = 0
	claims.RevokeAt(jwt.All, time.Now().Add(time.Hour))
	token, err := a.sign(claims)
	return Account{public, token}, err
}

// outsider begins the claims of a credential's account.
func outsider(name events.CredentialName, public string) (*jwt.AccountClaims, error) {
	if !nkeys.IsValidPublicAccountKey(public) {
		return nil, errors.New("credentials: not an account's public key")
	}
	claims := jwt.NewAccountClaims(public)
	claims.Name = string(name)
	closed(claims)
	return claims, nil
}
