package credentials

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/nats-io/jwt/v2"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
)

// The files of a leaf node's folder.
const (
	// LeafAuthFile is what the conf of a leaf node includes: whom it trusts.
	LeafAuthFile = "auth.conf"
	// LeafRemoteFile is what it includes among its remotes: where it hangs.
	LeafRemoteFile = "remote.conf"
	// LeafCreds is what it comes in with.
	LeafCreds = "leaf.creds"
)

// maxLeafConnections lets a leaf node come back before its old connection is found
// dead.
const maxLeafConnections = 2

// flow are where the copies of the ledger at leaf nodes say that they have kept up, in
// the two forms that brokers use.
func flow(leaf events.CredentialName) []string {
	tail := jetstream.StreamLedger + "." + string(leaf) + ".*"
	return []string{"$JS.FC." + tail, "$JS.FC.*.*." + tail}
}

// leaf is what crosses between a leaf node and the broker: the ledger one way, by the
// one consumer that was made for it; and the other way what those behind it record
// under their names, say of themselves, and ask of the snapshots of their scopes. It
// names each of them, and none of their organizations, of which there may be too many:
// those are kept apart by their own accounts, at the leaf node.
func (a *Authority) leaf(claims *jwt.AccountClaims, name events.CredentialName, behind []Grant) {
	// Leaf nodes count among connections too; its user may be nothing else.
	claims.Limits.Conn, claims.Limits.LeafNodeConn, claims.Limits.Subs = maxLeafConnections, maxLeafConnections, jwt.NoLimit
	claims.Imports.Add(&jwt.Import{
		Name: "copy", Subject: jwt.Subject(jetstream.LeafSubject(name)), Account: a.ledger.public, Type: jwt.Stream,
	})
	reset := consumerAPI("RESET", jetstream.StreamLedger, name)
	hub := func(subject string) string { return strings.Replace(subject, "$JS.API", jetstream.HubPrefix, 1) }
	targets := map[string]string{hub(reset): reset}
	subjects := append(flow(name), hub(reset))
	seen := map[string]bool{}
	for _, g := range behind {
		for _, subject := range g.imports() {
			local := subject
			switch {
			case strings.HasPrefix(subject, "uses."):
				local = uses(g.Name)
			case strings.HasPrefix(subject, stored):
				local = hub(subject)
				targets[local] = subject
			case strings.HasPrefix(subject, "$JS."):
				// It reads the copy.
				continue
			}
			if !seen[local] {
				seen[local] = true
				subjects = append(subjects, local)
			}
		}
	}
	a.imports(claims, subjects, func(subject string) string {
		if target, ok := targets[subject]; ok {
			return target
		}
		return subject
	})
}

// ErrHub says that something is no address where leaf nodes come in.
var ErrHub = errors.New("credentials: where leaf nodes come in must be nats-leaf://host:port or tls://host:port")

// WriteLeaf writes down for a leaf node whom it trusts and where it hangs, beside its
// credentials. None of it is a key that could let anybody in.
func (a *Authority) WriteLeaf(dir string, hubs []string) error {
	if err := CheckHubs(hubs); err != nil {
		return err
	}
	operator, err := a.operatorJWT()
	if err != nil {
		return err
	}
	accounts, err := a.accounts(true)
	if err != nil {
		return err
	}
	var auth bytes.Buffer
	fmt.Fprintf(&auth, "# Made by `keyledger nats-auth leaf`. Include it, and give the server a\n"+
		"# resolver of type full with a folder of its own.\n"+
		"operator: %s\nsystem_account: %s\nresolver_preload {\n", operator, a.system.public)
	for _, account := range accounts {
		// Servers of the installation are at its own broker.
		if account.Public != a.server.public {
			fmt.Fprintf(&auth, "  %s: %s\n", account.Public, account.JWT)
		}
	}
	auth.WriteString("}\n")
	if err := replace(filepath.Join(dir, LeafAuthFile), auth.Bytes()); err != nil {
		return err
	}
	var remote bytes.Buffer
	fmt.Fprintf(&remote, "# Made by `keyledger nats-auth leaf`. Include it in one of the remotes.\nurls: [\n")
	for _, hub := range hubs {
		fmt.Fprintf(&remote, "  %q\n", hub)
	}
	fmt.Fprintf(&remote, "]\naccount: %s\n", a.ledger.public)
	return replace(filepath.Join(dir, LeafRemoteFile), remote.Bytes())
}

// CheckHubs says whether all of these are addresses where leaf nodes come in.
func CheckHubs(hubs []string) error {
	for _, hub := range hubs {
		// Written into a conf, so it must be what it says it is.
		u, err := url.Parse(hub)
		if err != nil || u.Scheme != "nats-leaf" && u.Scheme != "tls" || u.Port() == "" || u.User != nil || hub != u.Scheme+"://"+u.Host || !plainNode.MatchString(u.Host) {
			return fmt.Errorf("%w: %q", ErrHub, hub)
		}
	}
	if len(hubs) == 0 {
		return ErrHub
	}
	return nil
}
