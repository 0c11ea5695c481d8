package house

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Rule names what a violation breaks.
type Rule string

// The rules of the house.
const (
	RuleSource    Rule = "source"    // every file parses and the module has a name
	RuleRoom      Rule = "room"      // every package lies in a known top-level folder
	RuleName      Rule = "name"      // a package is named for what it provides
	RuleImport    Rule = "import"    // imports point down only
	RulePure      Rule = "pure"      // the domain has no clock, dice, I/O or locks
	RuleComment   Rule = "comment"   // exactly one package comment, in its form
	RuleInit      Rule = "init"      // no init functions
	RuleExit      Rule = "exit"      // only main ends the process
	RulePrint     Rule = "print"     // only doors for people print
	RuleLength    Rule = "length"    // a function fits on a page
	RuleUnplanned Rule = "unplanned" // no note that work is left
)

// Rules lists every rule, in the order in which they are explained above.
func Rules() []Rule {
	return []Rule{
		RuleSource, RuleRoom, RuleName, RuleImport, RulePure, RuleComment,
		RuleInit, RuleExit, RulePrint, RuleLength, RuleUnplanned,
	}
}

// Violation is one place where the house is broken.
type Violation struct {
	Rule Rule
	Path string // slash-separated, relative to the module's root
	Line int    // 0 when the whole file or folder is meant
	Text string // what is wrong, and why it matters where that is not plain
}

// String formats the violation as compilers do: path:line: rule: text.
func (v Violation) String() string {
	if v.Line == 0 {
		return fmt.Sprintf("%s: %s: %s", v.Path, v.Rule, v.Text)
	}
	return fmt.Sprintf("%s:%d: %s: %s", v.Path, v.Line, v.Rule, v.Text)
}

// Check reads the module whose root is fsys and returns every violation,
// ordered by path and line. It returns none for a house in order.
//
// Folders that the module's .gitignore names from the root ("/bin/"), testdata
// folders, and what the go tool ignores ("_x", ".x") are not looked into.
func Check(fsys fs.FS) []Violation {
	c := &checker{fsys: fsys, fset: token.NewFileSet(), packages: map[pkgKey]*pkg{}}
	c.module = c.modulePath()
	c.walk(ignored(fsys))
	c.comments()
	slices.SortStableFunc(c.found, func(a, b Violation) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Text, b.Text))
	})
	return c.found
}

// pkgKey tells packages apart: a folder holds at most one beside its external
// test package.
type pkgKey struct{ dir, name string }

// pkg is what is known of one package once all its files are read.
type pkg struct {
	files []file
}

// file is one parsed source file.
type file struct {
	path string // relative to the root
	dir  string // the package, relative to the root
	ast  *ast.File
	test bool // its name ends in _test.go
	own  map[string]string
}

// room is the top-level folder the file lies in.
func (f file) room() string {
	r, _, _ := strings.Cut(f.dir, "/")
	return r
}

type checker struct {
	fsys     fs.FS
	fset     *token.FileSet
	module   string
	packages map[pkgKey]*pkg
	found    []Violation
}

func (c *checker) add(rule Rule, path string, line int, format string, args ...any) {
	c.found = append(c.found, Violation{Rule: rule, Path: path, Line: line, Text: fmt.Sprintf(format, args...)})
}

func (c *checker) at(rule Rule, f file, pos token.Pos, format string, args ...any) {
	c.add(rule, f.path, c.fset.Position(pos).Line, format, args...)
}

// modulePath reads the module's name from go.mod.
func (c *checker) modulePath() string {
	b, err := fs.ReadFile(c.fsys, "go.mod")
	if err != nil {
		c.add(RuleSource, "go.mod", 0, "%v", err)
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "module "); ok {
			return strings.TrimSpace(name)
		}
	}
	c.add(RuleSource, "go.mod", 0, "names no module")
	return ""
}

// ignored returns the folders that .gitignore names from the root: what builds
// and servers leave behind is nobody's source.
func ignored(fsys fs.FS) []string {
	dirs := []string{".git"}
	b, err := fs.ReadFile(fsys, ".gitignore")
	if err != nil {
		return dirs
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "/") && strings.HasSuffix(line, "/") {
			dirs = append(dirs, strings.Trim(line, "/"))
		}
	}
	return dirs
}

func (c *checker) walk(skip []string) {
	err := fs.WalkDir(c.fsys, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			c.add(RuleSource, p, 0, "%v", err)
			return nil
		case d.IsDir():
			return c.folder(p, skip)
		case path.Ext(p) == ".go":
			c.file(p)
		}
		return nil
	})
	if err != nil {
		c.add(RuleSource, ".", 0, "%v", err)
	}
}

// folder judges a folder by its name and says whether to look inside.
func (c *checker) folder(p string, skip []string) error {
	name := path.Base(p)
	if p == "." {
		return nil
	}
	if slices.Contains(skip, p) || name == "testdata" {
		return fs.SkipDir
	}
	if !strings.Contains(p, "/") && floor(p) < 0 && !slices.Contains(plain, p) {
		c.add(RuleRoom, p, 0, "no such room: a new top-level folder is a decision of the whole house")
	}
	if slices.Contains(nameless, name) {
		c.add(RuleName, p, 0, "a package is named for what it provides, and %q says nothing", name)
	}
	if strings.HasPrefix(name, "_") || strings.HasPrefix(name, ".") {
		return fs.SkipDir
	}
	return nil
}

// file reads one source file and judges what can be judged of it alone.
func (c *checker) file(p string) {
	if name := path.Base(p); strings.HasPrefix(name, "_") || strings.HasPrefix(name, ".") {
		return
	}
	src, err := fs.ReadFile(c.fsys, p)
	if err != nil {
		c.add(RuleSource, p, 0, "%v", err)
		return
	}
	tree, err := parser.ParseFile(c.fset, p, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		c.add(RuleSource, p, 0, "%v", err)
		return
	}
	f := file{path: p, dir: path.Dir(p), ast: tree, test: strings.HasSuffix(p, "_test.go")}
	if f.dir == "." {
		c.add(RuleRoom, p, 0, "the root holds no package: every package lies in a room")
		return
	}
	key := pkgKey{f.dir, tree.Name.Name}
	if c.packages[key] == nil {
		c.packages[key] = &pkg{}
	}
	c.packages[key].files = append(c.packages[key].files, f)

	c.imports(&f)
	c.pure(f)
	c.habits(f)
	if !ast.IsGenerated(tree) {
		c.lengths(f)
		c.unplanned(f)
	}
}
