package serve

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/cmd/nodes"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/embedded"
)

// certificate writes a certificate of this machine that signs itself.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "broker"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: encoded}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// lonely is a cluster of one node, which speaks TLS alone.
func lonely(t *testing.T) (operator, server Cluster) {
	t.Helper()
	cert, key := certificate(t)
	b, err := startEmbedded(t.Context(), Config{Data: t.TempDir(), NATSListen: "127.0.0.1:0", TLSCert: cert, TLSKey: key, Logger: discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.stop)
	if !strings.HasPrefix(b.address(), "tls://") {
		t.Errorf("others come in at %s", b.address())
	}
	creds := func(name string) Cluster {
		secret, err := b.Authority().Creds(name)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, secret, 0o600); err != nil {
			t.Fatal(err)
		}
		return Cluster{URL: b.address(), Creds: path, CA: cert, Replicas: 1}
	}
	return creds(credentials.OperatorCreds), creds(credentials.ServerCreds)
}

// With TLS on its side a broker is reached by those who trust its certificate,
// and by nobody in clear.
func TestClusterThatSpeaksTLS(t *testing.T) {
	operator, server := lonely(t)
	begun, err := Init(t.Context(), InitConfig{Data: t.TempDir(), Cluster: operator, Logger: discard})
	if err != nil {
		t.Fatal(err)
	}
	join := func(cluster Cluster) (opened, error) {
		t.Helper()
		cfg := Config{Data: t.TempDir(), Cluster: cluster, InstallationKey: begun.InstallationKey, Logger: discard}
		b, err := startBroker(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer b.stop()
		o, err := open(t.Context(), cfg, b)
		o.close()
		if _, seen, _ := folderOf(cfg.Data, "").begun(); seen != (err == nil) {
			t.Errorf("joined: %t, and %v", seen, err)
		}
		return o, err
	}
	if o, err := join(server); err != nil || o.positions.Ledger != begun.Ledger || o.positions.Epoch != 1 {
		t.Errorf("%v, %v", o.positions, err)
	}
	stranger, _ := certificate(t)
	for _, ca := range []string{"", stranger} {
		for _, scheme := range []string{"tls://", "nats://"} {
			other := server
			other.CA, other.URL = ca, scheme+strings.TrimPrefix(server.URL, "tls://")
			if _, err := join(other); !errors.Is(err, nodes.ErrUntrusted) {
				t.Errorf("%s, trusting %q: %v", other.URL, filepath.Base(ca), err)
			}
		}
	}
	nobody := server
	nobody.Creds = ""
	if _, err := join(nobody); !errors.Is(err, nodes.ErrRefused) {
		t.Errorf("without credentials: %v", err)
	}
}

// An installation key may be put where it is wanted before the beginning.
func TestInitTakesAnInstallationKey(t *testing.T) {
	operator, _ := lonely(t)
	cfg := InitConfig{Data: t.TempDir(), Cluster: operator, InstallationKey: filepath.Join(t.TempDir(), "kept.key"), Logger: discard}
	if _, err := folderOf(cfg.Data, cfg.InstallationKey).newInstallationKey(); err != nil {
		t.Fatal(err)
	}
	if err := promote(cfg.InstallationKey); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(cfg.InstallationKey)
	if err != nil {
		t.Fatal(err)
	}
	begun, err := Init(t.Context(), cfg)
	if err != nil || begun.InstallationKey != cfg.InstallationKey || begun.Again {
		t.Fatalf("%+v, %v", begun, err)
	}
	if after, err := os.ReadFile(cfg.InstallationKey); err != nil || string(after) != string(before) {
		t.Errorf("the key that was there was changed (%v)", err)
	}
	if _, err := os.Stat(filepath.Join(cfg.Data, InstallationKeyFile)); err == nil {
		t.Error("there are two installation keys")
	}
	again, err := Init(t.Context(), cfg)
	if err != nil || !again.Again || again.Ledger != begun.Ledger {
		t.Errorf("%+v, %v", again, err)
	}
	// Without it the folder is a stranger's, whatever it began.
	if err := os.Remove(cfg.InstallationKey); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(t.Context(), cfg); !errors.Is(err, ErrInstallationKey) {
		t.Errorf("without the key: %v", err)
	}
}

// The key-encryption key is drawn with the beginning, where it is wanted, and never again
// once something is kept with it.
func TestInitDrawsAKEK(t *testing.T) {
	operator, server := lonely(t)
	cfg := InitConfig{Data: t.TempDir(), Cluster: operator, Logger: discard}
	begins := func(want string) []byte {
		t.Helper()
		begun, err := Init(t.Context(), cfg)
		if err != nil || begun.KEK != want {
			t.Fatalf("%+v, %v", begun, err)
		}
		text, err := os.ReadFile(want)
		if want != "" && err != nil {
			t.Error(err)
		}
		return text
	}
	path := filepath.Join(cfg.Data, KEKFile)
	first := begins(path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if again := begins(path); string(again) != string(first) {
		t.Error("a key that was there was changed")
	}
	cfg.KEKs = []string{"env:KEK"}
	begins("")
	elsewhere := filepath.Join(t.TempDir(), "kept.kek")
	cfg.KEKs = []string{"file:" + elsewhere, "file:" + path}
	begins(elsewhere)

	// A server is given it; without one there are no provider keys.
	var sealed events.SealedSecret
	join := func(keks ...string) error {
		joined := Config{
			Data: t.TempDir(), Listen: "127.0.0.1:0", Cluster: server, KEKs: keks, Logger: discard,
			InstallationKey: filepath.Join(cfg.Data, InstallationKeyFile),
		}
		b, err := startBroker(t.Context(), joined)
		if err != nil {
			return err
		}
		defer b.stop()
		o, err := open(t.Context(), joined, b)
		if err != nil {
			return err
		}
		defer o.close()
		if err := o.envelop(t.Context(), joined, b); err != nil {
			return err
		}
		switch _, err := os.Stat(filepath.Join(joined.Data, KEKFile)); {
		case err == nil:
			t.Error("a server on a cluster drew a key that the others do not have")
		case len(keks) == 0 && o.envelopes != nil:
			t.Error("it keeps provider keys without a key")
		case len(keks) > 0 && sealed.DataKey.IsZero():
			stores(t, &sealed)(&o)
		case len(keks) > 0:
			reveals(t, &sealed)(&o)
		}
		return nil
	}
	for _, keks := range [][]string{nil, {"file:" + elsewhere}, {"file:" + elsewhere}} {
		if err := join(keks...); err != nil {
			t.Fatal(err)
		}
	}
	if err := join("file:" + path); !errors.Is(err, ErrKEK) {
		t.Errorf("with a key that opens nothing: %v", err)
	}
	cfg.KEKs = nil
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	begins("")
	if _, err := os.Stat(path); err == nil {
		t.Error("another key was drawn for what is kept already")
	}
}

func TestClusterFlags(t *testing.T) {
	authority, err := credentials.Create(filepath.Join(t.TempDir(), "auth"))
	if err != nil {
		t.Fatal(err)
	}
	creds := filepath.Join(authority.Dir(), credentials.ServerCreds)
	certificate, _ := certificate(t)
	for _, c := range []struct {
		cluster Cluster
		ok      bool
	}{
		{Cluster{}, true},
		{Cluster{Replicas: 1}, true},
		{Cluster{Replicas: 3}, false},
		{Cluster{Creds: creds}, false},
		{Cluster{CA: creds}, false},
		{Cluster{URL: "nats://127.0.0.1:4222", Replicas: 3}, true},
		{Cluster{URL: "127.0.0.1:4222", Replicas: 3}, true},
		{Cluster{URL: "nats://a:4222,nats://b:4222", Replicas: 5, Creds: creds}, true},
		{Cluster{URL: "nats://a:4222,", Replicas: 3}, false},
		{Cluster{URL: "nats://a:4222", Replicas: 0}, false},
		{Cluster{URL: "nats://a:4222", Replicas: 2}, false},
		{Cluster{URL: "nats://a:4222", Replicas: 3, Creds: creds + ".absent"}, false},
		{Cluster{URL: "nats://a:4222", Replicas: 3, Creds: certificate}, false},
		{Cluster{URL: "nats://a:4222", Replicas: 3, CA: creds + ".absent"}, false},
	} {
		if err := errors.Join(c.cluster.validate()...); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.cluster, err)
		}
	}
	secret := Cluster{URL: "nats://user:secret@a:4222,nats://token@b:4222,c:4222"}
	if shown := secret.Shown(); shown != "nats://xxxxx@a:4222,nats://xxxxx@b:4222,c:4222" {
		t.Errorf("shown as %s", shown)
	}
}

// Two processes in one folder would write over each other's views, whoever has
// the broker.
func TestFolderOnAClusterIsOneServers(t *testing.T) {
	cfg := Config{Data: t.TempDir(), Cluster: Cluster{URL: "nats://127.0.0.1:1", Replicas: 3}, Logger: discard}
	b, err := startBroker(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := startBroker(t.Context(), cfg); !errors.Is(err, embedded.ErrLocked) {
		t.Errorf("a second server: %v", err)
	}
	b.stop()
	if b, err = startBroker(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	b.stop()
	if _, seen, err := folderOf(cfg.Data, "").begun(); seen || err != nil {
		t.Error(seen, err)
	}
}
