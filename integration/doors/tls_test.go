package doors

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
)

// certificate makes one for this machine that signs for itself.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "broker"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1")}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// With a certificate nobody talks to the broker in clear, nor by an old version, and
// who does not know the certificate's authority hangs up before he says who he is.
// The server itself is not on the wire.
func TestTLS(t *testing.T) {
	cert, pool := certificate(t)
	b, err := embedded.Start(t.Context(), embedded.Config{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", TLS: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS10},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Shutdown()
	if err := b.Setup(t.Context(), func(conn *nats.Conn) error { return jetstream.EnsureStreams(t.Context(), conn, 1) }); err != nil {
		t.Fatal(err)
	}
	g := grant("ver", "verifier")
	issued, err := credentials.Draw(g)
	if err != nil {
		t.Fatal(err)
	}
	account, err := b.Authority().Account(g, issued.Account)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Push(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	creds := nats.UserCredentialBytes(issued.Creds)
	url := "nats://" + b.Addr().String()
	conn, err := nats.Connect(url, creds, nats.Secure(&tls.Config{RootCAs: pool}))
	if err != nil {
		t.Fatal(err)
	}
	state, err := conn.TLSConnectionState()
	if err != nil || state.Version < tls.VersionTLS12 {
		t.Errorf("talks TLS %x, %v", state.Version, err)
	}
	conn.Close()
	for name, config := range map[string]*tls.Config{
		"does not know the authority": {},
		"talks TLS 1.1":               {RootCAs: pool, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11},
		"expects another":             {RootCAs: pool, ServerName: "other.example"},
	} {
		if conn, err := nats.Connect(url, creds, nats.Secure(config)); err == nil {
			conn.Close()
			t.Errorf("let in who %s", name)
		}
	}
	// A client that asks for no TLS has to talk it all the same.
	if conn, err := nats.Connect(url, creds); err == nil {
		conn.Close()
		t.Error("let in who asks for no TLS")
	}
	// One that talks in clear is not heard.
	raw, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Write([]byte("CONNECT {\"verbose\":true}\r\nPING\r\n")); err != nil {
		t.Fatal(err)
	}
	var heard []byte
	for buf := make([]byte, 4096); ; {
		n, err := raw.Read(buf)
		heard = append(heard, buf[:n]...)
		if err != nil {
			break
		}
	}
	if len(heard) == 0 || string(heard[:5]) != "INFO " {
		t.Errorf("heard %q", heard)
	}
	for _, word := range []string{"+OK", "PONG"} {
		if bytes.Contains(heard, []byte(word)) {
			t.Errorf("answered %s in clear", word)
		}
	}
}
