package credentials

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// The files of an authority's folder.
const (
	// ConfFile is what the conf of a nats-server includes.
	ConfFile = "auth.conf"
	// ClusterFile is what it includes in its block `cluster`, if there is one.
	ClusterFile = "cluster.conf"
	// ServerCreds is what `keyledger serve` works with.
	ServerCreds = "server.creds"
	// OperatorCreds opens the account that holds the streams.
	OperatorCreds = "operator.creds"
	// SystemCreds opens the system account, by which accounts are made known.
	SystemCreds = "system.creds"
	// operatorFile is the operator's public half, for other tools.
	operatorFile = "operator.jwt"

	operatorSeed = "operator.nk"
	systemSeed   = "system.nk"
	ledgerSeed   = "ledger.nk"
	serverSeed   = "server.nk"
	// routesFile is the password that the nodes of a cluster know each other by.
	routesFile = "cluster.password"
)

// ErrNoAuthority says that a folder holds no root of trust.
var ErrNoAuthority = errors.New("credentials: no root of trust there")

// Authority is an installation's root of trust at the broker: who has its folder
// can let anybody in. It never changes once it is made.
type Authority struct {
	dir                              string
	operator, system, ledger, server pair
}

// pair is a key pair with its public half written out.
type pair struct {
	key    nkeys.KeyPair
	public string
}

// Create makes a root of trust in a folder, or opens the one that is there. Made
// again it finishes what a crash left undone, and brings what the broker has to
// know to what this version of the program needs.
func Create(dir string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("credentials: make folder: %w", err)
	}
	a := &Authority{dir: dir}
	_, err := os.Stat(filepath.Join(dir, operatorSeed))
	if errors.Is(err, fs.ErrNotExist) {
		err = drawSeeds(dir)
	}
	if err != nil {
		return nil, err
	}
	if err := a.load(); err != nil {
		return nil, err
	}
	return a, a.write()
}

// drawSeeds draws the keys. The operator's comes last: where it is, the others were,
// and one that is missing beside it was lost, and must not be drawn anew. Another
// LEDGER would be an empty one.
func drawSeeds(dir string) error {
	for _, k := range []struct {
		file string
		make func() (nkeys.KeyPair, error)
	}{
		{systemSeed, nkeys.CreateAccount},
		{ledgerSeed, nkeys.CreateAccount},
		{serverSeed, nkeys.CreateAccount},
		{operatorSeed, nkeys.CreateOperator},
	} {
		err := once(filepath.Join(dir, k.file), func() ([]byte, error) {
			key, err := k.make()
			if err != nil {
				return nil, err
			}
			return key.Seed()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Open opens the root of trust that a folder holds; [ErrNoAuthority] if none.
func Open(dir string) (*Authority, error) {
	_, err := os.Stat(filepath.Join(dir, operatorSeed))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s has no %s", ErrNoAuthority, dir, operatorSeed)
	}
	a := &Authority{dir: dir}
	if err := a.load(); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *Authority) load() error {
	for _, k := range []struct {
		file string
		into *pair
	}{{operatorSeed, &a.operator}, {systemSeed, &a.system}, {ledgerSeed, &a.ledger}, {serverSeed, &a.server}} {
		seed, err := os.ReadFile(filepath.Join(a.dir, k.file))
		if err != nil {
			return fmt.Errorf("credentials: read key: %w", err)
		}
		key, err := nkeys.FromSeed(bytes.TrimSpace(seed))
		if err != nil {
			// The library's error does not repeat the seed.
			return fmt.Errorf("credentials: %s holds no key: %w", k.file, err)
		}
		public, err := key.PublicKey()
		if err != nil {
			return fmt.Errorf("credentials: %s: %w", k.file, err)
		}
		*k.into = pair{key, public}
	}
	if !nkeys.IsValidPublicOperatorKey(a.operator.public) {
		return fmt.Errorf("credentials: %s holds a key of another kind", operatorSeed)
	}
	return nil
}

// write writes everything that follows from the keys.
func (a *Authority) write() error {
	for name, user := range map[string]struct {
		of   pair
		name string
	}{
		ServerCreds: {a.server, "server"}, OperatorCreds: {a.ledger, "operator"}, SystemCreds: {a.system, "system"},
	} {
		err := once(filepath.Join(a.dir, name), func() ([]byte, error) { return insider(user.of, user.name) })
		if err != nil {
			return err
		}
	}
	operator, err := a.operatorJWT()
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(a.dir, operatorFile), []byte(operator+"\n")); err != nil {
		return err
	}
	conf, err := a.conf(operator)
	if err != nil {
		return err
	}
	return replace(filepath.Join(a.dir, ConfFile), conf)
}

// insider makes a credential for one of the installation's own accounts. What its
// user may do, the account may: the server's reaches nothing but its imports, and
// the others are for operators.
func insider(of pair, name string) ([]byte, error) {
	claims := userClaims(name)
	claims.AllowedConnectionTypes.Add(jwt.ConnectionTypeStandard, jwt.ConnectionTypeInProcess)
	return creds(of.key, claims)
}

// userClaims begins a user's claims; creds names the key.
func userClaims(name string) *jwt.UserClaims {
	claims := jwt.NewUserClaims("later")
	claims.Name = name
	return claims
}

// creds draws a user's key, signs its claims by the account's, and returns both as
// the file that a client takes.
func creds(account nkeys.KeyPair, claims *jwt.UserClaims) ([]byte, error) {
	user, err := nkeys.CreateUser()
	if err != nil {
		return nil, fmt.Errorf("credentials: draw key: %w", err)
	}
	defer user.Wipe()
	if claims.Subject, err = user.PublicKey(); err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	token, err := claims.Encode(account)
	if err != nil {
		return nil, fmt.Errorf("credentials: sign user: %w", err)
	}
	seed, err := user.Seed()
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	return jwt.FormatUserConfig(token, seed)
}

func (a *Authority) operatorJWT() (string, error) {
	claims := jwt.NewOperatorClaims(a.operator.public)
	claims.Name, claims.SystemAccount = "keyledger", a.system.public
	token, err := claims.Encode(a.operator.key)
	if err != nil {
		return "", fmt.Errorf("credentials: sign operator: %w", err)
	}
	return token, nil
}

// Operator is the operator as a broker trusts it.
func (a *Authority) Operator() (*jwt.OperatorClaims, error) {
	token, err := a.operatorJWT()
	if err != nil {
		return nil, err
	}
	return jwt.DecodeOperatorClaims(token)
}

// conf is what a nats-server has to be told: whom to trust, and the accounts that
// are there from the beginning. Where it keeps those that come later is its own.
func (a *Authority) conf(operator string) ([]byte, error) {
	accounts, err := a.Accounts()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("# Made by `keyledger nats-auth operator`. Include it, and give the server a\n" +
		"# resolver of type full with a folder of its own.\n")
	fmt.Fprintf(&b, "operator: %s\nsystem_account: %s\nresolver_preload {\n", operator, a.system.public)
	for _, account := range accounts {
		fmt.Fprintf(&b, "  %s: %s\n", account.Public, account.JWT)
	}
	b.WriteString("}\n")
	return b.Bytes(), nil
}

// Dir is the authority's folder.
func (a *Authority) Dir() string { return a.dir }

// SystemAccount is the public key of the system account.
func (a *Authority) SystemAccount() string { return a.system.public }

// LedgerAccount is the public key of the account that holds the streams, and the
// name of their folder at a broker.
func (a *Authority) LedgerAccount() string { return a.ledger.public }

// Creds returns the content of one of the folder's .creds files.
func (a *Authority) Creds(name string) ([]byte, error) {
	content, err := os.ReadFile(filepath.Join(a.dir, name))
	if err != nil {
		return nil, fmt.Errorf("credentials: read credentials: %w", err)
	}
	return content, nil
}

// ErrNode says that something is no node's address.
var ErrNode = errors.New("credentials: a node's address must be host:port")

// CheckNodes says whether all of these are addresses of nodes' routes.
func CheckNodes(nodes []string) error {
	for _, node := range nodes {
		// Written into a conf, so it must be what it says it is.
		if host, port, err := net.SplitHostPort(node); err != nil || host == "" || port == "" || !plainNode.MatchString(node) {
			return fmt.Errorf("%w: %q", ErrNode, node)
		}
	}
	return nil
}

// WriteCluster writes down how the nodes of a cluster know each other, which are
// given by the addresses of their routes.
func (a *Authority) WriteCluster(nodes []string) error {
	if err := CheckNodes(nodes); err != nil {
		return err
	}
	path := filepath.Join(a.dir, routesFile)
	err := once(path, func() ([]byte, error) { return []byte(rand.Text()), nil })
	if err != nil {
		return err
	}
	password, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("credentials: read password: %w", err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Made by `keyledger nats-auth operator`. Include it in the block cluster.\n"+
		"authorization { user: node, password: %q }\nroutes: [\n", password)
	for _, node := range nodes {
		fmt.Fprintf(&b, "  \"nats-route://node:%s@%s\"\n", password, node)
	}
	b.WriteString("]\n")
	return replace(filepath.Join(a.dir, ClusterFile), b.Bytes())
}

var plainNode = regexp.MustCompile(`^[A-Za-z0-9_.:\[\]-]+$`)
