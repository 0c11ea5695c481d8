package integration

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// step is a command of a document and what it says comes back.
type step struct {
	line    int
	command string
	want    []string
}

// steps reads the ```console blocks of a document: a line that begins with `$ `
// is a command, those after it are its output, in which `…` stands for anything
// and a line of `…` alone for any number of lines.
func steps(t *testing.T, path string) []step {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []step
	inside := false
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		text := lines.Text()
		switch {
		case strings.HasPrefix(text, "```"):
			inside = text == "```console"
		case !inside:
		case strings.HasPrefix(text, "$ "):
			out = append(out, step{line: n, command: text[2:]})
		case len(out) == 0:
			t.Fatalf("%s:%d: output before a command", path, n)
		default:
			last := &out[len(out)-1]
			last.want = append(last.want, text)
		}
	}
	return out
}

// matches compares output with what a document shows.
func (s step) matches(got string) bool {
	var pattern strings.Builder
	pattern.WriteString(`^`)
	for _, line := range s.want {
		if line == "…" {
			pattern.WriteString(`(?s:.*?)`)
			continue
		}
		pattern.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), "…", `.*?`) + `[ ]*\n`)
	}
	pattern.WriteString(`$`)
	return regexp.MustCompile(pattern.String()).MatchString(got)
}

// The README's walk, as written, in an empty folder, with what it says comes.
func TestREADME(t *testing.T) { walk(t, "../README.md", t.TempDir()) }

// walk runs the commands of a document in a folder, one after the other in one shell,
// and compares what they print with what the document shows.
func walk(t *testing.T, path, dir string, env ...string) {
	t.Helper()
	shell := exec.Command("bash", "--norc")
	shell.Dir = dir
	shell.Env = append(append(os.Environ(), env...), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"), "HOME="+dir,
		"KEYLEDGER_KEY=", "KEYLEDGER_URL=", "NO_COLOR=1", "TERM=dumb")
	in, err := shell.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	shell.Stderr = shell.Stdout
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		scan := bufio.NewScanner(out)
		for scan.Scan() {
			lines <- scan.Text()
		}
	}()
	defer func() {
		_, _ = fmt.Fprintln(in, "kill $(jobs -p) 2>/dev/null; wait; exit")
		_ = in.Close()
		for range lines {
		}
		_ = shell.Wait()
	}()
	for i, s := range steps(t, path) {
		mark := fmt.Sprintf("--- end of step %d ---", i)
		if _, err := fmt.Fprintf(in, "%s\n", s.command); err != nil {
			t.Fatal(err)
		}
		// What runs in the background says what it has to say in its own time.
		awaited := 0
		if strings.HasSuffix(s.command, "&") {
			awaited = len(s.want)
		}
		var got strings.Builder
		deadline := time.After(60 * time.Second)
	read:
		for {
			if awaited == 0 {
				awaited--
				if _, err := fmt.Fprintf(in, "echo '%s'\n", mark); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case line, ok := <-lines:
				if !ok || line == mark {
					break read
				}
				got.WriteString(line + "\n")
				awaited--
			case <-deadline:
				t.Fatalf("%s:%d: %s: no end\n%s", path, s.line, s.command, got.String())
			}
		}
		if os.Getenv("KEYLEDGER_README_SHOW") != "" {
			t.Logf("$ %s\n%s", s.command, got.String())
		}
		if !s.matches(got.String()) {
			t.Errorf("%s:%d: %s\ngot:\n%s\nwant:\n%s", path, s.line, s.command, got.String(), strings.Join(s.want, "\n"))
		}
	}
}
