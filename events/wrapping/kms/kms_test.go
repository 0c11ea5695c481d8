package kms_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v2 "k8s.io/kms/apis/v2"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/wrapping"
	"github.com/keyledger/keyledger/events/wrapping/kms"
	"github.com/keyledger/keyledger/events/wrapping/wrappingtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is for what must not end by itself.
const patience = time.Minute

// service is a key management service and its plugin in one. Its cipher is malleable
// on purpose: the protocol asks for no better.
type service struct {
	v2.UnimplementedKeyManagementServiceServer

	mu      sync.Mutex
	keys    map[string][]byte
	current string
	// seen are the plaintexts that it was given.
	seen [][]byte
	// The rest is how it misbehaves.
	fails       error
	hangs       bool
	healthz     string
	version     string
	answer      func(*v2.EncryptResponse)
	annotations map[string][]byte
}

func newService() *service {
	s := &service{keys: map[string][]byte{}, healthz: "ok", version: "v2", annotations: map[string][]byte{"version.kms.example": []byte("7"), "a.kms.example": {}}}
	s.rotate()
	return s
}

func (s *service) rotate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := make([]byte, 32)
	rand.Read(key)
	s.current = rand.Text()
	s.keys[s.current] = key
}

// set changes how it behaves.
func (s *service) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *service) begin(ctx context.Context) error {
	s.mu.Lock()
	hangs, fails := s.hangs, s.fails
	s.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return fails
}

func (s *service) Status(ctx context.Context, _ *v2.StatusRequest) (*v2.StatusResponse, error) {
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return &v2.StatusResponse{Version: s.version, Healthz: s.healthz, KeyId: s.current}, nil
}

func (s *service) Encrypt(ctx context.Context, req *v2.EncryptRequest) (*v2.EncryptResponse, error) {
	if err := s.begin(ctx); err != nil {
		return nil, fmt.Errorf("%w: %x", err, req.Plaintext)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, bytes.Clone(req.Plaintext))
	iv := make([]byte, aes.BlockSize)
	rand.Read(iv)
	out := &v2.EncryptResponse{Ciphertext: append(iv, s.xor(s.current, iv, req.Plaintext)...), KeyId: s.current, Annotations: s.annotations}
	if s.answer != nil {
		s.answer(out)
	}
	return out, nil
}

func (s *service) Decrypt(ctx context.Context, req *v2.DecryptRequest) (*v2.DecryptResponse, error) {
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys[req.KeyId] == nil {
		return nil, status.Error(codes.NotFound, "no such key")
	}
	if len(req.Ciphertext) < aes.BlockSize || len(req.Annotations) != len(s.annotations) || string(req.Annotations["version.kms.example"]) != "7" {
		return nil, status.Error(codes.InvalidArgument, "not mine")
	}
	if req.Uid == "" {
		return nil, status.Error(codes.InvalidArgument, "no uid")
	}
	return &v2.DecryptResponse{Plaintext: s.xor(req.KeyId, req.Ciphertext[:aes.BlockSize], req.Ciphertext[aes.BlockSize:])}, nil
}

func (s *service) xor(id string, iv, in []byte) []byte {
	block, err := aes.NewCipher(s.keys[id])
	if err != nil {
		panic(err)
	}
	out := make([]byte, len(in))
	cipher.NewCTR(block, iv).XORKeyStream(out, in)
	return out
}

// socket is a path that is short enough for a socket.
func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kms")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// listen has a service answer at a path until it is stopped, or the test ends.
func listen(t *testing.T, path string, register func(*grpc.Server)) (stop func()) {
	t.Helper()
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	register(server)
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(ln) }()
	stop = sync.OnceFunc(func() { server.Stop(); <-done })
	t.Cleanup(stop)
	return stop
}

func open(t *testing.T, path string, timeout time.Duration) *kms.Key {
	t.Helper()
	k, err := kms.New(kms.Config{Endpoint: "unix://" + path, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// start returns a service and the key that it wraps with.
func start(t *testing.T) (*service, *kms.Key) {
	t.Helper()
	s, path := newService(), socket(t)
	listen(t, path, func(g *grpc.Server) { v2.RegisterKeyManagementServiceServer(g, s) })
	return s, open(t, path, patience)
}

func TestContract(t *testing.T) {
	wrappingtest.Run(t, func(t *testing.T) wrappingtest.Bench {
		s, k := start(t)
		_, foreign := start(t)
		return wrappingtest.Bench{Key: k, Foreign: foreign, Rotate: func() wrapping.Key { s.rotate(); return k }}
	})
}

// The service sees keys that were drawn for one wrapping, and never what is wrapped.
func TestTheServiceSeesNothingOfWhatIsWrapped(t *testing.T) {
	s, k := start(t)
	plain := bytes.Repeat([]byte("data key "), 500)
	for range 2 {
		wrapped, err := k.Wrap(t.Context(), plain, []byte("bound"))
		if err != nil || bytes.Contains(wrapped, []byte("data key")) {
			t.Fatal(err)
		}
	}
	if len(s.seen) != 2 || len(s.seen[0]) != 32 || len(s.seen[1]) != 32 || bytes.Equal(s.seen[0], s.seen[1]) {
		t.Errorf("it saw %d plaintexts", len(s.seen))
	}
}

func TestAServiceThatIsAway(t *testing.T) {
	s, path := newService(), socket(t)
	register := func(g *grpc.Server) { v2.RegisterKeyManagementServiceServer(g, s) }
	k := open(t, path, patience)
	away := func(when string) {
		t.Helper()
		for what, err := range attempts(t, k, []byte("never opened")) {
			if !errors.Is(err, events.ErrUnavailable) || errors.Is(err, wrapping.ErrWrongKey) {
				t.Errorf("%s, %s: got %v", when, what, err)
			}
		}
	}
	back := func(when string) {
		t.Helper()
		for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			err := k.Check(t.Context())
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: got %v", when, err)
			}
		}
	}
	away("before it is there")
	stop := listen(t, path, register)
	back("once it is there")
	wrapped, err := k.Wrap(t.Context(), []byte("data key"), []byte("bound"))
	if err != nil {
		t.Fatal(err)
	}
	stop()
	away("after it was stopped")
	if _, err := k.Unwrap(t.Context(), wrapped, []byte("bound")); !errors.Is(err, events.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	listen(t, path, register)
	back("after it was started again")
	if plain, err := k.Unwrap(t.Context(), wrapped, []byte("bound")); err != nil || string(plain) != "data key" {
		t.Errorf("got %q, %v", plain, err)
	}
}

// attempts does everything that asks the service but open.
func attempts(t *testing.T, k *kms.Key, plain []byte) map[string]error {
	_, wrap := k.Wrap(t.Context(), plain, nil)
	return map[string]error{"wrap": wrap, "check": k.Check(t.Context())}
}

func TestAServiceThatFails(t *testing.T) {
	s, k := start(t)
	wrapped, err := k.Wrap(t.Context(), []byte("data key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		s.set(func() { s.fails = status.Error(code, "words of the plugin") })
		_, opened := k.Unwrap(t.Context(), wrapped, nil)
		var want error
		switch code {
		case codes.InvalidArgument, codes.NotFound, codes.DataLoss:
			want = wrapping.ErrWrongKey
		case codes.Unimplemented:
			want = kms.ErrPlugin
		default:
			want = events.ErrUnavailable
		}
		if !errors.Is(opened, want) {
			t.Errorf("%s: got %v, want %v", code, opened, want)
		}
		for what, err := range attempts(t, k, []byte("data key")) {
			if errors.Is(err, wrapping.ErrWrongKey) || err == nil || strings.Contains(err.Error(), "words") {
				t.Errorf("%s: %s: got %v", code, what, err)
			}
		}
	}
}

func TestAServiceThatHangs(t *testing.T) {
	s, path := newService(), socket(t)
	listen(t, path, func(g *grpc.Server) { v2.RegisterKeyManagementServiceServer(g, s) })
	s.set(func() { s.hangs = true })
	for what, err := range attempts(t, open(t, path, 200*time.Millisecond), []byte("data key")) {
		if !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	// Whoever asks may have less patience.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := open(t, path, patience).Check(ctx); !errors.Is(err, events.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestAPluginThatBreaksTheRules(t *testing.T) {
	s, k := start(t)
	id := s.current
	for what, change := range map[string]func(*v2.EncryptResponse){
		"no key id":            func(r *v2.EncryptResponse) { r.KeyId = "" },
		"a long key id":        func(r *v2.EncryptResponse) { r.KeyId = strings.Repeat("k", 1<<10+1) },
		"no ciphertext":        func(r *v2.EncryptResponse) { r.Ciphertext = nil },
		"a long ciphertext":    func(r *v2.EncryptResponse) { r.Ciphertext = make([]byte, 1<<10+1) },
		"too many annotations": func(r *v2.EncryptResponse) { r.Annotations = map[string][]byte{"a": make([]byte, 32<<10)} },
	} {
		s.set(func() { s.answer = change })
		if wrapped, err := k.Wrap(t.Context(), []byte("data key"), nil); !errors.Is(err, kms.ErrPlugin) || wrapped != nil {
			t.Errorf("%s: got %v", what, err)
		}
	}
	s.set(func() {
		s.answer = func(r *v2.EncryptResponse) { r.Annotations = map[string][]byte{"a": make([]byte, 64<<10)} }
	})
	if _, err := k.Wrap(t.Context(), []byte("data key"), nil); !errors.Is(err, events.ErrUnavailable) {
		t.Errorf("more than is read: got %v", err)
	}
	for what, test := range map[string]struct {
		version, healthz, id string
		want                 error
	}{
		"well":              {"v2", "ok", id, nil},
		"an older name":     {"v2beta1", "ok", id, nil},
		"version 1":         {"v1beta1", "ok", id, kms.ErrPlugin},
		"no version":        {"", "ok", id, kms.ErrPlugin},
		"unwell":            {"v2", "the token is gone", id, events.ErrUnavailable},
		"no health":         {"v2", "", id, events.ErrUnavailable},
		"no key":            {"v2", "ok", "", kms.ErrPlugin},
		"a key's long name": {"v2", "ok", strings.Repeat("k", 1<<10+1), kms.ErrPlugin},
	} {
		s.set(func() { s.version, s.healthz, s.current = test.version, test.healthz, test.id })
		if err := k.Check(t.Context()); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", what, err, test.want)
		}
	}
}

// What is no such plugin at all.
func TestAnotherProgram(t *testing.T) {
	path := socket(t)
	listen(t, path, func(*grpc.Server) {})
	if err := open(t, path, patience).Check(t.Context()); !errors.Is(err, kms.ErrPlugin) {
		t.Errorf("got %v", err)
	}
}

// A service whose cipher can be bent does not bend what is wrapped, nor which key it
// says that it was.
func TestWhatIsWrappedCannotBeBent(t *testing.T) {
	s, k := start(t)
	wrapped, err := k.Wrap(t.Context(), []byte("data key"), []byte("bound"))
	if err != nil {
		t.Fatal(err)
	}
	before := s.current
	s.rotate()
	// The same key under another name: the service opens it, and it does not open.
	s.set(func() { s.keys[s.current] = s.keys[before] })
	renamed := bytes.Replace(wrapped, []byte(before), []byte(s.current), 1)
	if got, err := k.Unwrap(t.Context(), renamed, []byte("bound")); !errors.Is(err, wrapping.ErrWrongKey) || got != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := k.Unwrap(t.Context(), wrapped, []byte("bound")); err != nil || string(got) != "data key" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestEndpoints(t *testing.T) {
	for _, endpoint := range []string{"unix:///run/kms.sock", "unix:///a"} {
		if err := (kms.Config{Endpoint: endpoint}).Validate(); err != nil {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
	for _, endpoint := range []string{"", "unix://", "unix:///", "unix://run/kms.sock", "unix:/run/kms.sock", "/run/kms.sock", "tcp://127.0.0.1:1", "unix:///run/../kms.sock", "unix:///run/"} {
		if k, err := kms.New(kms.Config{Endpoint: endpoint}); err == nil || k != nil {
			t.Errorf("%q is an endpoint", endpoint)
		}
	}
	err := kms.Config{Endpoint: "x", Timeout: -1}.Validate()
	if err == nil || len(strings.Split(err.Error(), "\n")) != 2 {
		t.Errorf("got %v", err)
	}
}
