package products

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/integration/program"
)

// obj is a JSON object.
type obj = map[string]any

// caller is somebody with a key at a server, by HTTP and at a shell.
type caller struct {
	t      *testing.T
	server *server
	key    string
	org    string
}

// at is the same caller at another server.
func (c caller) at(s *server) caller { c.server = s; return c }

// in is the same caller in a subtest.
func (c caller) in(t *testing.T) caller { c.t = t; return c }

// with is somebody else, who has another key.
func (c caller) with(key string) caller { c.key = key; return c }

// answer is what a request came back with.
type answer = program.Answer

// path is below the caller's organization, unless it begins with /v1/.
func (c caller) path(path string) string {
	if strings.HasPrefix(path, "/v1/") || strings.HasPrefix(path, "/oauth2/") || path == "/openapi.json" {
		return path
	}
	return "/v1/organizations/" + c.org + path
}

// ask sends a request with a JSON body, if any, until it is answered by more than
// 503; headers are name, value, name, value.
func (c caller) ask(method, path string, body any, headers ...string) answer {
	c.t.Helper()
	a, err := c.insist(method, path, body, headers...)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// form is the body of a request that takes a form.
type form = program.Form

// try is ask for a goroutine, which cannot end the test.
func (c caller) try(method, path string, body any, headers ...string) (answer, error) {
	return program.At(c.server.url, c.key).Ask(c.t.Context(), method, c.path(path), body, headers...)
}

// insist is try that tries again what was answered by 503: nothing was changed then,
// as by nodes that have no leader for a while.
func (c caller) insist(method, path string, body any, headers ...string) (answer, error) {
	for deadline := time.Now().Add(program.Patience); ; {
		a, err := c.try(method, path, body, headers...)
		if err != nil || a.Status != http.StatusServiceUnavailable || time.Now().After(deadline) {
			return a, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// must asks and expects a status.
func (c caller) must(want int, method, path string, body any, headers ...string) answer {
	c.t.Helper()
	a := c.ask(method, path, body, headers...)
	if a.Status != want {
		c.t.Fatalf("%s %s: got %s, want %d", method, path, a, want)
	}
	return a
}

// refused asks and expects a problem, by its status and its code.
func (c caller) refused(status int, code, method, path string, body any, headers ...string) answer {
	c.t.Helper()
	a := c.must(status, method, path, body, headers...)
	if a.Text("code") != code {
		c.t.Fatalf("%s %s: got %s, want %s", method, path, a, code)
	}
	return a
}

// create makes a key and returns the answer, with the members key, secret and
// position. What the wish leaves out is interview:read, everywhere.
func (c caller) create(wish obj) answer {
	c.t.Helper()
	body := obj{"permissions": []string{"interview:read"}, "scope": everywhere}
	for name, value := range wish {
		body[name] = value
	}
	return c.must(201, "POST", "/keys", body)
}

// verdict asks for a verdict on a secret. More are members of the question, such
// as permission, workspace, context, and at_least.
func (c caller) verdict(secret string, more obj) answer {
	c.t.Helper()
	question := obj{"secret": secret}
	for name, value := range more {
		question[name] = value
	}
	return c.must(200, "POST", "/v1/verify", question)
}

// code expects the code of a verdict that has seen a position, if one is given.
func (c caller) code(want, secret, permission, position string) {
	c.t.Helper()
	question := obj{}
	if permission != "" {
		question["permission"] = permission
	}
	if position != "" {
		question["at_least"] = position
	}
	if v := c.verdict(secret, question); v.Text("code") != want {
		c.t.Errorf("the verdict on %s is %s, want %s", permission, v.Body, want)
	}
}

// until waits for what comes in its own time.
func (c caller) until(what string, done func() bool) {
	c.t.Helper()
	program.Until(c.t, what, done)
}

// result is how the program ended.
type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\nstdout:\n%s\nstderr:\n%s", r.code, r.stdout, r.stderr)
}

// environment is what the caller's shell exports.
func (c caller) environment() []string {
	return []string{
		"KEYLEDGER_URL=" + c.server.url, "KEYLEDGER_KEY=" + c.key, "KEYLEDGER_ORG=" + c.org,
		"HOME=" + scratch, "PATH=" + filepath.Dir(binary) + string(os.PathListSeparator) + os.Getenv("PATH"),
	}
}

// run runs the program with a standard input that is no terminal.
func (c caller) run(stdin string, args ...string) result {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), binary, args...)
	cmd.Env, cmd.Dir, cmd.Stdin = c.environment(), scratch, strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("keyledger %s: %v", strings.Join(args, " "), err)
	}
	if keystring.Contains(stderr.String()) {
		c.t.Errorf("keyledger %s shows a key on standard error", strings.Join(args, " "))
	}
	return result{stdout: stdout.String(), stderr: stderr.String(), code: cmd.ProcessState.ExitCode()}
}

// cli runs the program, expects exit code 0, and returns what it said.
func (c caller) cli(args ...string) string {
	c.t.Helper()
	return c.exits(0, "", args...).stdout
}

// exits runs the program and expects an exit code.
func (c caller) exits(want int, stdin string, args ...string) result {
	c.t.Helper()
	r := c.run(stdin, args...)
	if r.code != want {
		c.t.Fatalf("keyledger %s: %s\nwant %d", strings.Join(args, " "), r, want)
	}
	return r
}

// document runs the program with -o json, and reads what it says as an answer.
func (c caller) document(args ...string) answer {
	c.t.Helper()
	return answer{Body: []byte(c.cli(append(args, "-o", "json")...))}
}

// verify asks for a verdict at the shell, and expects its code: VALID is exit code
// 0, any other 3.
func (c caller) verify(want, secret string, flags ...string) {
	c.t.Helper()
	exit := 3
	if want == "VALID" {
		exit = 0
	}
	if r := c.exits(exit, secret, append([]string{"verify"}, flags...)...); !lineOf(r.stdout, "verdict", want) {
		c.t.Errorf("keyledger verify says\n%s\nwant %s", r.stdout, want)
	}
}

// lineOf tells whether a table has a line that begins with these words.
func lineOf(text string, words ...string) bool {
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) >= len(words) && strings.Join(fields[:len(words)], " ") == strings.Join(words, " ") {
			return true
		}
	}
	return false
}

// says expects words in a text.
func says(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not said in\n%s", w, text)
		}
	}
}

// terminal runs a script of package testscript at a shell with a terminal: with
// `ttyin -stdin FILE` the next command is typed to what the file holds. The files
// yes and no hold these answers; what else the script needs is in variables.
func (c caller) terminal(variables obj, script string) {
	c.t.Helper()
	dir := c.t.TempDir()
	file, key := filepath.Join(dir, "terminal.txt"), filepath.Join(dir, "key")
	text := strings.ReplaceAll(script, "\t", "") + "\n-- yes --\ny\n-- no --\nn\n"
	if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.WriteFile(key, []byte(c.key), 0o600)); err != nil {
		c.t.Fatal(err)
	}
	// Scripts run in parallel with what comes behind them, but not with what comes
	// behind the test they are in.
	c.t.Run("terminal", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Files: []string{file}, RequireExplicitExec: true,
			Setup: func(env *testscript.Env) error {
				for _, v := range c.environment() {
					name, value, _ := strings.Cut(v, "=")
					env.Setenv(name, value)
				}
				// A script that fails shows its variables.
				env.Setenv("KEYLEDGER_KEY", "")
				env.Setenv("KEYLEDGER_KEY_FILE", key)
				for name, value := range variables {
					env.Setenv(name, fmt.Sprint(value))
				}
				return nil
			},
		})
	})
}
