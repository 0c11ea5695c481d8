package images_test

import (
	"bufio"
	"bytes"
	"debug/elf"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyledger/keyledger/integration/natstest"
)

// nobody is the image's user.
const nobody = 65532

// image is what the Dockerfile says of its last stage, and how it is built.
type image struct {
	build       []string // the RUN lines of the stages before
	env         []string
	user        string
	entrypoint  []string
	command     []string
	healthcheck []string
	base        string // of the last stage
	builder     string // of the first
}

// dockerfile reads the instructions that this test goes by.
func dockerfile(t *testing.T, root string) image {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	var i image
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch name {
		case "FROM":
			words := slices.DeleteFunc(strings.Fields(rest), func(w string) bool { return strings.HasPrefix(w, "--") })
			if i.base = words[0]; i.builder == "" {
				i.builder = words[0]
			}
		case "RUN":
			i.build = append(i.build, rest)
		case "ENV":
			i.env = append(i.env, strings.Fields(rest)...)
		case "USER":
			i.user = rest
		case "ENTRYPOINT":
			i.entrypoint = list(t, rest)
		case "CMD":
			i.command = list(t, rest)
		case "HEALTHCHECK":
			_, check, _ := strings.Cut(rest, "CMD ")
			i.healthcheck = list(t, check)
		}
	}
	return i
}

func list(t *testing.T, text string) (words []string) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &words); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return words
}

// The image's program is built by the command that the Dockerfile gives, is static,
// and serves in an empty root folder as a user without rights, where the image's
// health check tells that it does.
//
// Breaking it, and what showed it: CGO_ENABLED=1 in the Makefile's build; a health
// check through a shell; a folder of the sources in .dockerignore.
func TestImage(t *testing.T) {
	root := natstest.Root(t)
	i := dockerfile(t, root)
	if i.base != "scratch" || i.user != "65532:65532" {
		t.Errorf("the image is made from %s and runs as %s", i.base, i.user)
	}
	goVersion := read(t, root, "go.mod", "go ")
	if release, ok := strings.CutPrefix(i.builder, "golang:"); !ok || !strings.HasPrefix(goVersion, strings.Split(release, "-")[0]+".") {
		t.Errorf("the image is built by %s, and go.mod wants Go %s", i.builder, goVersion)
	}
	leaves(t, root)

	cage := t.TempDir()
	build(t, root, cage, i)
	static(t, filepath.Join(cage, "keyledger"))
	serve(t, cage, i)
}

// build makes the image's files by the Dockerfile's own commands.
func build(t *testing.T, root, cage string, i image) {
	t.Helper()
	at := slices.IndexFunc(i.build, func(c string) bool { return strings.Contains(c, "make build") })
	if at < 0 {
		t.Fatal("the Dockerfile does not build by make build")
	}
	cmd := exec.Command("sh", "-euc", i.build[at])
	cmd.Dir = root
	// What a build without a target platform is told.
	cmd.Env = append(os.Environ(), "TARGETOS=", "TARGETARCH=", "VERSION=test", "BIN="+cage)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", i.build[at], err, out)
	}
	for _, name := range []string{"data", "tmp"} {
		dir := filepath.Join(cage, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if os.Getuid() == 0 {
			if err := os.Chown(dir, nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Whoever serves must come through the folders above too.
	if err := os.Chmod(cage, 0o755); err != nil {
		t.Fatal(err)
	}
}

// static expects a program that needs no loader and no libraries.
func static(t *testing.T, path string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_DYNAMIC || p.Type == elf.PT_INTERP {
			t.Errorf("the program is not static: it has a segment %s", p.Type)
		}
	}
	if f.Section(".dynamic") != nil {
		t.Error("the program is not static: it has a section .dynamic")
	}
}

// caged is a program with the cage as its root folder and the image's user, or, for
// a tester without rights, the only user of a space of its own.
func caged(cage string, i image, more []string, words ...string) *exec.Cmd {
	cmd := &exec.Cmd{Path: words[0], Args: words, Dir: "/data", Env: append(slices.Clone(i.env), more...)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: cage}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	} else {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return cmd
}

func serve(t *testing.T, cage string, i image) {
	t.Helper()
	// The image listens where only a container may.
	local := []string{"KEYLEDGER_LISTEN=127.0.0.1:0", "KEYLEDGER_NATS_LISTEN=127.0.0.1:0"}
	cmd := caged(cage, i, local, append(slices.Clone(i.entrypoint), i.command...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	url := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if words := strings.Fields(lines.Text()); len(words) > 1 && words[0] == "ready" {
				url <- words[1]
			}
		}
		close(url)
		_, _ = io.Copy(io.Discard, out)
	}()
	select {
	case at, ok := <-url:
		if !ok {
			t.Fatalf("it does not serve: %v\n%s", cmd.Wait(), said.String())
		}
		healthy(t, cage, i, at)
	case <-time.After(time.Minute):
		t.Fatal("it is not ready")
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ends with %v\n%s", err, said.String())
	}
}

// healthy asks as the image's health check does, of the server and of nobody.
func healthy(t *testing.T, cage string, i image, url string) {
	t.Helper()
	for at, want := range map[string]int{url: 0, "http://127.0.0.1:1": 1} {
		cmd := caged(cage, i, []string{"KEYLEDGER_URL=" + at}, i.healthcheck...)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != want {
			t.Errorf("%v of %s: %v, want exit code %d\n%s", i.healthcheck, at, err, want, out)
		}
	}
}

// read returns what follows a word at the beginning of a line of a file.
func read(t *testing.T, root, file, word string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), word); ok {
			return rest
		}
	}
	t.Fatalf("%s has no line %q", file, word)
	return ""
}

// leaves expects .dockerignore to leave all that the program is made of.
func leaves(t *testing.T, root string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-deps", "-json=Standard,Module,Dir,GoFiles,EmbedFiles", "./cmd/keyledger")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	files := []string{"go.mod", "go.sum", "Makefile"}
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p struct {
			Standard            bool
			Module              struct{ Main bool }
			Dir                 string
			GoFiles, EmbedFiles []string
		}
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		if p.Standard || !p.Module.Main {
			continue
		}
		dir, err := filepath.Rel(root, p.Dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range slices.Concat(p.GoFiles, p.EmbedFiles) {
			files = append(files, path.Join(filepath.ToSlash(dir), name))
		}
	}
	for pattern := range strings.Lines(string(text)) {
		if pattern = strings.TrimSpace(pattern); pattern == "" || strings.HasPrefix(pattern, "#") {
			continue
		}
		for _, file := range files {
			if ignores(t, pattern, file) {
				t.Errorf(".dockerignore: %s keeps %s out of the build", pattern, file)
			}
		}
	}
}

// ignores tells whether a pattern meets a file or a folder above it: at the root, or
// anywhere with two stars before it. Other forms are not in use.
func ignores(t *testing.T, pattern, file string) bool {
	t.Helper()
	name, anywhere := strings.CutPrefix(pattern, "**/")
	if strings.ContainsAny(name, "/!") {
		t.Fatalf(".dockerignore: %s is a form that this test cannot judge", pattern)
	}
	for n, part := range strings.Split(file, "/") {
		match, err := path.Match(name, part)
		if err != nil {
			t.Fatal(err)
		}
		if match && (anywhere || n == 0) {
			return true
		}
	}
	return false
}
