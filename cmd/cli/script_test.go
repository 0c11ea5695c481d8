package cli_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keyledger/keyledger/cmd/cli"
	"github.com/keyledger/keyledger/cmd/serve"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/relay/providers/providertest"
)

// TestMain lets scripts run this very binary as keyledger.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"keyledger": func() { os.Exit(cli.Main(context.Background(), cli.Process("v0.0.0-test"))) },
	})
}

// TestScripts runs the scripts in testdata/script against one real server. Each
// works in an organization of its own, and begins in an empty folder.
func TestScripts(t *testing.T) {
	providers := providertest.Start(t)
	url, owner := startServer(t, providers)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Chdir(here); err != nil {
			t.Error(err)
		}
	})
	keyledger := &program{}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join(here, "testdata", "script"),
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			// The race detector would let every process wait a second at its end.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("SERVER", url)
			env.Setenv("OWNER", owner)
			env.Setenv("GATEWAY", providers.URL(events.ProviderOpenAICompatible))
			env.Setenv("KEYLEDGER_URL", url)
			env.Setenv("KEYLEDGER_KEY_FILE", owner)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"kl":       keyledger.runs,
			"piped":    piped,
			"tells":    keyledger.tells,
			"capture":  captures,
			"await":    awaits,
			"mode":     hasMode,
			"nosecret": holdsNoSecret,
			"provider": brings,
		},
	})
}

// startServer runs a server on a free port, in an empty folder, until the test
// has ended. The AI providers that it asks are those given.
func startServer(t *testing.T, providers *providertest.Server) (url, owner string) {
	t.Helper()
	ca, err := providers.WriteCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	asked := serve.Providers{Allow: []string{providers.Host()}, CA: ca}
	for _, id := range slices.Sorted(maps.Keys(providers.Endpoints())) {
		asked.Endpoints = append(asked.Endpoints, string(id)+"="+providers.URL(id))
	}
	for _, id := range []events.ProviderID{events.ProviderOpenAI, events.ProviderAnthropic} {
		asked.Models = append(asked.Models, string(id)+"="+strings.Join(providertest.Models(id)[:2], ","))
	}
	ctx, cancel := context.WithCancel(context.Background())
	data := filepath.Join(t.TempDir(), "data")
	ready, stopped := make(chan string, 1), make(chan error, 1)
	go func() {
		stopped <- serve.Run(ctx, serve.Config{
			Listen: "127.0.0.1:0", Data: data, Version: "test", Providers: asked,
			Ready:  func(url string) { ready <- url },
			Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("the server stopped with %v", err)
		}
	})
	select {
	case url = <-ready:
	case err := <-stopped:
		stopped <- nil
		t.Fatalf("the server did not start: %v", err)
	}
	return url, filepath.Join(data, serve.OwnerFile)
}

// program runs keyledger for scripts in this very process: to begin one takes longer
// than most commands. Whatever a script starts by exec or piped is a process.
type program struct {
	// mu lets one command run at a time: each has its script's folder for its own.
	mu sync.Mutex
}

// run runs a command as its script would have it, and returns its exit code and what
// it wrote.
func (p *program) run(ts *testscript.TestScript, args []string) (code int, stdout, stderr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ts.Check(os.Chdir(ts.MkAbs(".")))
	var out, errs strings.Builder
	code = cli.Main(context.Background(), cli.Env{
		Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Version: "v0.0.0-test",
		LookupEnv: func(name string) (string, bool) { v := ts.Getenv(name); return v, v != "" },
	})
	return code, out.String(), errs.String()
}

// show leaves to the script what a command wrote.
func show(ts *testscript.TestScript, stdout, stderr string) {
	for w, text := range map[io.Writer]string{ts.Stdout(): stdout, ts.Stderr(): stderr} {
		_, err := io.WriteString(w, text)
		ts.Check(err)
	}
}

// runs is "kl CODE ARGS…": keyledger, ended with that exit code, and with no key
// on its standard error.
func (p *program) runs(ts *testscript.TestScript, neg bool, args []string) {
	want, args := ending(ts, neg, args)
	got, stdout, stderr := p.run(ts, args)
	show(ts, stdout, stderr)
	wantEnding(ts, want, got, stderr)
}

// piped is "piped CODE ARGS…": the same as a process, which reads what the script's
// last stdin named.
func piped(ts *testscript.TestScript, neg bool, args []string) {
	want, args := ending(ts, neg, args)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec("keyledger", args...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	wantEnding(ts, want, got, ts.ReadFile("stderr"))
}

// ending reads the exit code that a command is to have.
func ending(ts *testscript.TestScript, neg bool, args []string) (want int, command []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: kl or piped CODE ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	return want, args[1:]
}

func wantEnding(ts *testscript.TestScript, want, got int, stderr string) {
	if keystring.Contains(stderr) || holdsProviderKey(stderr) {
		ts.Fatalf("a key stands on standard error")
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// tells is "tells REGEXP ARGS…": keyledger, run until its standard output matches,
// as it does soon.
func (p *program) tells(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: tells REGEXP ARGS…")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		code, stdout, stderr := p.run(ts, args[1:])
		if code != 0 {
			show(ts, stdout, stderr)
			ts.Fatalf("exit code %d", code)
		}
		if want.MatchString(stdout) {
			show(ts, stdout, stderr)
			return
		} else if time.Now().After(deadline) {
			ts.Fatalf("%s does not match\n%s", want, stdout)
		}
	}
}

// captures is "capture NAME FILE REGEXP": the first group of what matches in the
// file (or stdout, stderr) becomes a variable.
func captures(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: capture NAME FILE REGEXP")
	}
	found := regexp.MustCompile(args[2]).FindStringSubmatch(ts.ReadFile(args[1]))
	if len(found) != 2 {
		ts.Fatalf("%s matches nothing in %s", args[2], args[1])
	}
	ts.Setenv(args[0], found[1])
}

// awaits is "await FILE REGEXP": it returns when the file has a match.
func awaits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await FILE REGEXP")
	}
	want := regexp.MustCompile(args[1])
	for {
		text, err := os.ReadFile(ts.MkAbs(args[0]))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			ts.Fatalf("%v", err)
		}
		if want.Match(text) {
			return
		}
		// The test's own deadline ends what never comes.
		time.Sleep(5 * time.Millisecond)
	}
}

// hasMode is "mode FILE 0600".
func hasMode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode FILE MODE")
	}
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	want, err := strconv.ParseUint(args[1], 8, 32)
	ts.Check(err)
	if uint64(info.Mode().Perm()) != want {
		ts.Fatalf("%s has mode %04o, want %04o", args[0], info.Mode().Perm(), want)
	}
}

// holdsNoSecret is "nosecret FILE…".
func holdsNoSecret(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		if text := ts.ReadFile(name); keystring.Contains(strings.TrimSpace(text)) || holdsProviderKey(text) {
			ts.Fatalf("%s holds a key", name)
		}
	}
}

// holdsProviderKey reports whether a text holds a key of any provider.
func holdsProviderKey(text string) bool {
	for _, p := range events.Providers() {
		for c := range providertest.Conditions(p) {
			if strings.Contains(text, providertest.Key(p, c)) {
				return true
			}
		}
	}
	return false
}

// brings is "provider PROVIDER CONDITION FILE [BEFORE [AFTER]]": the provider's key of
// that condition, in a file, perhaps with something pasted around it.
func brings(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 || len(args) > 5 {
		ts.Fatalf("usage: provider PROVIDER CONDITION FILE [BEFORE [AFTER]]")
	}
	p, err := events.ParseProviderID(args[0])
	ts.Check(err)
	if _, known := providertest.Conditions(p)[providertest.Condition(args[1])]; !known {
		ts.Fatalf("%s knows no condition %s", p, args[1])
	}
	around := append(args[3:], "", "")
	text := around[0] + providertest.Key(p, providertest.Condition(args[1])) + around[1] + "\n"
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte(text), 0o600))
}
