package kms

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/integration/natstest"
	"github.com/keyledger/keyledger/integration/program"
)

// pin is the user's of every token here, and soPIN its security officer's.
const (
	pin   = "314159"
	soPIN = "271828"
)

// token is one of SoftHSM, in a folder of its own, and the plugin that uses it.
type token struct {
	t       testing.TB
	env     []string
	command []string
	// socket is where the plugin answers.
	socket string
	plugin *program.Process
}

// newToken readies a token with one key, and starts its plugin.
func newToken(t testing.TB) *token {
	t.Helper()
	// What t.TempDir returns is too long for a socket's name.
	dir, err := os.MkdirTemp("", "kms")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	conf, pinFile, tokens := filepath.Join(dir, "conf"), filepath.Join(dir, "pin"), filepath.Join(dir, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		conf:    fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", tokens),
		pinFile: pin,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k := &token{
		t: t, env: []string{"SOFTHSM2_CONF=" + conf}, socket: filepath.Join(dir, "s"),
		command: []string{filepath.Join(natstest.Root(t), "bin", "pkcs11kms"), "-module", library(t), "-token", "keyledger", "-pin-file", pinFile},
	}
	for _, needed := range []string{"softhsm2-util", k.command[0]} {
		if _, err := os.Stat(needed); filepath.IsAbs(needed) && err != nil {
			t.Fatalf("%v (make setup)", err)
		}
	}
	if out, said, code := program.Run(t, k.env, "", "softhsm2-util", "--init-token", "--free", "--label", "keyledger", "--pin", pin, "--so-pin", soPIN); code != 0 {
		t.Fatalf("softhsm2-util: exit code %d\n%s%s", code, out, said)
	}
	k.rotate()
	k.start()
	return k
}

// library is SoftHSM's, wherever a distribution has put it.
func library(t testing.TB) string {
	t.Helper()
	for _, pattern := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib*/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so", "/usr/lib*/pkcs11/libsofthsm2.so"} {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	t.Fatal("SoftHSM is missing (make setup)")
	return ""
}

// start starts the plugin.
func (k *token) start() {
	k.t.Helper()
	k.plugin = program.Start(k.t, append(append([]string{"env"}, k.env...), append(k.command, "serve", k.socket)...)...).Ready()
}

// run runs the plugin's program beside the plugin.
func (k *token) run(args ...string) string {
	k.t.Helper()
	out, said, code := program.Run(k.t, k.env, "", append(k.command, args...)...)
	if code != 0 {
		k.t.Fatalf("pkcs11kms %s: exit code %d\n%s", strings.Join(args, " "), code, said)
	}
	return strings.TrimSpace(out)
}

// rotate has the token draw another key, and returns its id.
func (k *token) rotate() string { k.t.Helper(); return k.run("rotate") }

// keys are the ids of those there are.
func (k *token) keys() []string { k.t.Helper(); return strings.Fields(k.run("list")) }

// destroy destroys one.
func (k *token) destroy(id string) { k.t.Helper(); k.run("destroy", id) }

// endpoint is what keyledger is given.
func (k *token) endpoint() string { return "unix://" + k.socket }
