package house

import (
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// imports judges what a file imports of ours, and notes under which name each
// import goes in it.
func (c *checker) imports(f *file) {
	f.own = make(map[string]string, len(f.ast.Imports))
	for _, spec := range f.ast.Imports {
		target, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			c.at(RuleSource, *f, spec.Pos(), "import %s: %v", spec.Path.Value, err)
			continue
		}
		name := localName(target)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		f.own[name] = target

		to, ours := strings.CutPrefix(target, c.module+"/")
		if target == c.module {
			to, ours = ".", true
		}
		if !ours || c.module == "" {
			continue
		}
		if why := refuse(f.dir, to, f.test); why != "" {
			c.at(RuleImport, *f, spec.Pos(), "%s imports %s: %s", f.dir, to, why)
		}
	}
}

var majorVersion = regexp.MustCompile(`^v[0-9]+$`)

// localName is the name an import goes by when it is given none: the last
// element of its path, or the one before a major version.
func localName(target string) string {
	if base := path.Base(target); !majorVersion.MatchString(base) {
		return base
	}
	return path.Base(path.Dir(target))
}

// pure keeps clocks, dice, I/O and locks out of the domain.
func (c *checker) pure(f file) {
	if f.room() != "domain" || f.test {
		return
	}
	for _, spec := range f.ast.Imports {
		target, err := strconv.Unquote(spec.Path.Value)
		if err == nil && within(target, impure...) && !within(target, pureAfterAll...) {
			c.at(RulePure, f, spec.Pos(), "the domain is pure and does not import %s", target)
		}
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if name := uses(f, n, dice); name != "" {
			c.at(RulePure, f, n.Pos(), "the domain does not call %s: the time and all random bytes arrive inside the command", name)
		}
		return true
	})
}

// uses returns the qualified name when n selects one of the listed members of
// an imported package, else "".
func uses(f file, n ast.Node, members map[string][]string) string {
	sel, ok := n.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	x, ok := sel.X.(*ast.Ident)
	if !ok {
		return ""
	}
	if target := f.own[x.Name]; slices.Contains(members[target], sel.Sel.Name) {
		return localName(target) + "." + sel.Sel.Name
	}
	return ""
}

// habits finds init functions, ends of the process, and printing.
func (c *checker) habits(f file) {
	isMain := f.ast.Name.Name == "main"
	exitAllowed := isMain && within(f.room(), mayExit...)
	// An example test shows its output by printing it.
	printAllowed := f.test || within(f.room(), mayPrint...)

	for _, decl := range f.ast.Decls {
		fn, isFunc := decl.(*ast.FuncDecl)
		if isFunc && fn.Recv == nil && fn.Name.Name == "init" {
			c.at(RuleInit, f, fn.Pos(), "what happens before main cannot be ordered, configured or tested")
		}
		// The entry point of a test binary is its main.
		testMain := isFunc && f.test && fn.Recv == nil && fn.Name.Name == "TestMain"
		ast.Inspect(decl, func(n ast.Node) bool {
			if name := uses(f, n, exits); name != "" && !exitAllowed && !testMain {
				c.at(RuleExit, f, n.Pos(), "%s skips every defer on the way out: return an error", name)
			}
			if name := uses(f, n, printers); name != "" && !printAllowed {
				c.at(RulePrint, f, n.Pos(), "%s: outside the terminal's doors, log with slog or return", name)
			}
			if call, ok := n.(*ast.CallExpr); ok && !printAllowed {
				if fun, ok := call.Fun.(*ast.Ident); ok && (fun.Name == "print" || fun.Name == "println") {
					c.at(RulePrint, f, n.Pos(), "%s is for debugging the runtime", fun.Name)
				}
			}
			return true
		})
	}
}

// lengths finds functions that do not fit on a page.
func (c *checker) lengths(f file) {
	if f.test {
		return
	}
	for _, decl := range f.ast.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Body != nil {
				c.length(f, d.Name.Name, d, d.Body)
			}
		case *ast.GenDecl:
			// A function kept in a variable is a function; those inside
			// other functions count as lines of these.
			ast.Inspect(d, func(n ast.Node) bool {
				lit, ok := n.(*ast.FuncLit)
				if ok {
					c.length(f, "a function literal", lit, lit.Body)
				}
				return !ok
			})
		}
	}
}

func (c *checker) length(f file, name string, n ast.Node, body *ast.BlockStmt) {
	lines := c.fset.Position(n.End()).Line - c.fset.Position(n.Pos()).Line + 1
	if lines > maxLines && !tableOnly(body) {
		c.at(RuleLength, f, n.Pos(), "%s has %d lines, more than %d", name, lines, maxLines)
	}
}

// tableOnly reports whether a body does nothing but write down one value: a
// long table is easier to read in one piece.
func tableOnly(body *ast.BlockStmt) bool {
	if len(body.List) != 1 {
		return false
	}
	ret, ok := body.List[0].(*ast.ReturnStmt)
	if !ok || len(ret.Results) != 1 {
		return false
	}
	value := ret.Results[0]
	if ref, ok := value.(*ast.UnaryExpr); ok && ref.Op == token.AND {
		value = ref.X
	}
	lit, ok := value.(*ast.CompositeLit)
	if !ok {
		return false
	}
	plain := true
	ast.Inspect(lit, func(n ast.Node) bool {
		if _, isFunc := n.(*ast.FuncLit); isFunc {
			plain = false
		}
		return plain
	})
	return plain
}

var unplannedWords = regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`)

// unplanned finds comments that leave work for somebody.
func (c *checker) unplanned(f file) {
	for _, group := range f.ast.Comments {
		for _, comment := range group.List {
			if word := unplannedWords.FindString(comment.Text); word != "" {
				c.at(RuleUnplanned, f, comment.Pos(), "%s: do it, or write down as a limit that it is not done", word)
			}
		}
	}
}

// comments judges how packages introduce themselves, and what they are called.
func (c *checker) comments() {
	for key, p := range c.packages {
		if slices.Contains(nameless, key.name) {
			c.at(RuleName, p.files[0], p.files[0].ast.Name.Pos(), "package %s says nothing of what it provides", key.name)
		}
		external := strings.HasSuffix(key.name, "_test")
		if inner := (pkgKey{key.dir, strings.TrimSuffix(key.name, "_test")}); external && c.packages[inner] != nil {
			continue
		}
		c.comment(key, p.documented())
	}
}

// documented returns the files in which a package's comment belongs: its tests
// only when it has nothing else, and no file the build always ignores.
func (p *pkg) documented() []file {
	var source, tests []file
	for _, f := range p.files {
		switch {
		case alwaysIgnored(f.ast):
		case f.test:
			tests = append(tests, f)
		default:
			source = append(source, f)
		}
	}
	if len(source) > 0 {
		return source
	}
	return tests
}

// alwaysIgnored reports whether a file is a program of its own beside a
// package, started by "go run file.go".
func alwaysIgnored(f *ast.File) bool {
	for _, group := range f.Comments {
		if group.Pos() > f.Package {
			return false
		}
		for _, comment := range group.List {
			if strings.TrimSpace(comment.Text) == "//go:build ignore" {
				return true
			}
		}
	}
	return false
}

func (c *checker) comment(key pkgKey, files []file) {
	if len(files) == 0 {
		return
	}
	var with []file
	for _, f := range files {
		if f.ast.Doc.Text() != "" {
			with = append(with, f)
		}
	}
	if len(with) == 0 {
		c.add(RuleComment, key.dir, 0, "package %s has no package comment", key.name)
		return
	}
	for _, f := range with[1:] {
		c.at(RuleComment, f, f.ast.Doc.Pos(), "package %s has another package comment in %s", key.name, path.Base(with[0].path))
	}
	starts := []string{"Package " + key.name + " "}
	switch {
	case key.name == "main":
		starts = []string{"Command " + path.Base(key.dir) + " "}
	case strings.HasSuffix(key.name, "_test"):
		starts = append(starts, "Package "+strings.TrimSuffix(key.name, "_test")+" ")
	}
	text := strings.ReplaceAll(with[0].ast.Doc.Text(), "\n", " ")
	if !slices.ContainsFunc(starts, func(s string) bool { return strings.HasPrefix(text, s) }) {
		c.at(RuleComment, with[0], with[0].ast.Doc.Pos(), "the package comment starts with %q", starts[0])
	}
}
