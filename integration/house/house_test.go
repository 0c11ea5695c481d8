package house_test

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/keyledger/keyledger/integration/house"
)

// TestHouse holds this codebase to its own rules.
func TestHouse(t *testing.T) {
	root := os.DirFS("../..")
	if _, err := fs.Stat(root, "go.mod"); err != nil {
		t.Fatalf("the module's root is not where this test expects it: %v", err)
	}
	for _, v := range house.Check(root) {
		t.Error(v)
	}
}

// sound is a small house in order; every planted case is built into it.
func sound() fstest.MapFS {
	return fstest.MapFS{
		"go.mod":              text("module example.org/ledger\n\ngo 1.26\n"),
		".gitignore":          text("/bin/\n*.prof\n"),
		".git/config":         text("[core]\n"),
		"README.md":           text("# ledger\n"),
		"events/event.go":     text("// Package events is the vocabulary.\npackage events\n"),
		"domain/key/key.go":   text("// Package key holds the rules of a key.\npackage key\n\nimport _ \"example.org/ledger/events\"\n"),
		"commands/append.go":  text("// Package commands appends.\npackage commands\n\nimport (\n\t_ \"example.org/ledger/domain/key\"\n\t_ \"example.org/ledger/events\"\n)\n"),
		"cmd/ledger/main.go":  text("// Command ledger runs it.\npackage main\n\nimport \"os\"\n\nfunc main() { os.Exit(0) }\n"),
		"docs/adr/README.md":  text("# Decisions\n"),
		"tools/go.mod":        text("module example.org/ledger/tools\n"),
		"integration/doc.go":  text("// Package integration shows it.\npackage integration\n"),
		"events/testdata/a.x": text("{}\n"),
	}
}

func text(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }

// source is a package p with its comment, and the given text below it.
func source(name, below string) string {
	return fmt.Sprintf("// Package %s is planted.\npackage %s\n\n%s\n", name, name, below)
}

// importing is a package that imports the given paths of the planted module.
func importing(name string, rooms ...string) string {
	var b strings.Builder
	for _, r := range rooms {
		fmt.Fprintf(&b, "import _ %q\n", "example.org/ledger/"+r)
	}
	return source(name, b.String())
}

// function is a function of the given number of lines.
func function(lines int) string {
	return "func long() {\n" + strings.Repeat("\tprintNothing()\n", lines-2) + "}\n"
}

// table is a function of the given number of lines that only writes down a value.
func table(lines int) string {
	return "func long() []int {\n\treturn []int{\n" + strings.Repeat("\t\t1,\n", lines-4) + "\t}\n}\n"
}

type tree map[string]string

// planted holds, for each rule, what must be caught and what must not.
var planted = []struct {
	name   string
	rule   house.Rule
	caught tree
	spared tree
}{
	{
		"a file that does not parse", house.RuleSource,
		tree{"events/broken.go": "package events\n\nfunc {"},
		tree{"events/testdata/broken.go": "package events\n\nfunc {"},
	},
	{
		"a module without a name", house.RuleSource,
		tree{"go.mod": "go 1.26\n"},
		tree{"go.mod": "// comment\nmodule example.org/ledger\n"},
	},
	{
		"a new top-level folder", house.RuleRoom,
		tree{"queue/queue.go": source("queue", "")},
		tree{"verify/verify.go": source("verify", ""), "bin/ledger": "", ".ci/run": "", "deploy/compose.yml": ""},
	},
	{
		"a package at the root", house.RuleRoom,
		tree{"ledger.go": source("ledger", "")},
		tree{"integration/ledger/ledger.go": source("ledger", "")},
	},
	{
		"a folder that says nothing", house.RuleName,
		tree{"events/internal/codec/codec.go": source("codec", "")},
		tree{"events/codec/codec.go": source("codec", "")},
	},
	{
		"a package that says nothing", house.RuleName,
		tree{"events/codec/codec.go": source("utils", "")},
		tree{"events/codec/utils.go": source("codec", "")},
	},
	{
		"events imports a room", house.RuleImport,
		tree{"events/memory/memory.go": importing("memory", "domain/key")},
		tree{"events/memory/memory.go": importing("memory", "events")},
	},
	{
		"the domain imports commands", house.RuleImport,
		tree{"domain/org/org.go": importing("org", "commands")},
		tree{"domain/org/org.go": importing("org", "events", "domain/key")},
	},
	{
		"commands import projections", house.RuleImport,
		tree{"commands/guard.go": "package commands\n\nimport _ \"example.org/ledger/projections/catalog\"\n"},
		tree{"commands/guard.go": "package commands\n\nimport _ \"example.org/ledger/domain/key\"\n"},
	},
	{
		"a test of commands imports projections", house.RuleImport,
		tree{"commands/guard_test.go": "package commands_test\n\nimport _ \"example.org/ledger/projections/catalog\"\n"},
		tree{"commands/guard_test.go": "package commands_test\n\nimport _ \"example.org/ledger/events/ledgertest\"\n"},
	},
	{
		"projections import commands", house.RuleImport,
		tree{"projections/index/index.go": importing("index", "commands")},
		tree{"projections/index/index.go": importing("index", "events/jetstream")},
	},
	{
		"projections import the rules", house.RuleImport,
		tree{"projections/index/index.go": importing("index", "domain/key")},
		tree{"projections/index/index.go": importing("index", "domain/permission", "domain/keystring")},
	},
	{
		"a package whose name only begins like a pure one", house.RuleImport,
		tree{"projections/index/index.go": importing("index", "domain/permissions")},
		tree{"projections/index/index.go": importing("index", "domain/permission/catalog")},
	},
	{
		"a test of projections imports the rules", house.RuleImport,
		tree{"projections/index/index_test.go": importing("index_test", "domain/key")},
		tree{"projections/index/index_test.go": importing("index_test", "events/memory")},
	},
	{
		"verify imports commands", house.RuleImport,
		tree{"verify/verify.go": importing("verify", "commands")},
		tree{
			"verify/verify.go":      importing("verify", "projections/index", "events", "domain/keystring"),
			"verify/verify_test.go": "package verify_test\n\nimport _ \"example.org/ledger/commands\"\n",
		},
	},
	{
		"relay imports the rules", house.RuleImport,
		tree{"relay/webhook/webhook.go": importing("webhook", "domain/org")},
		tree{"relay/webhook/webhook.go": importing("webhook", "projections", "events")},
	},
	{
		"a test imports a room above its own", house.RuleImport,
		tree{"relay/relay_test.go": importing("relay_test", "api")},
		tree{"relay/relay_test.go": importing("relay_test", "commands")},
	},
	{
		"api imports the console", house.RuleImport,
		tree{"api/api.go": importing("api", "console")},
		tree{"api/api.go": importing("api", "commands", "projections", "verify", "relay", "domain/key", "events")},
	},
	{
		"the console goes past api", house.RuleImport,
		tree{"console/console.go": importing("console", "projections/catalog")},
		tree{"console/console.go": importing("console", "api")},
	},
	{
		"a room imports cmd", house.RuleImport,
		tree{"api/api.go": importing("api", "cmd/ledger")},
		tree{"integration/all.go": "package integration\n\nimport _ \"example.org/ledger/console\"\n"},
	},
	{
		"the domain takes a context", house.RulePure,
		tree{"domain/org/org.go": source("org", "import \"context\"\n\nvar _ context.Context")},
		tree{"domain/org/org_test.go": source("org", "import \"context\"\n\nvar _ context.Context")},
	},
	{
		"the domain throws dice", house.RulePure,
		tree{"domain/org/org.go": source("org", "import _ \"math/rand/v2\"")},
		tree{"domain/org/org.go": source("org", "import _ \"math/bits\"")},
	},
	{
		"the domain reads a secret from the system", house.RulePure,
		tree{"domain/org/org.go": source("org", "import _ \"crypto/rand\"")},
		tree{"domain/org/org.go": source("org", "import _ \"crypto/sha256\"")},
	},
	{
		"the domain locks", house.RulePure,
		tree{"domain/org/org.go": source("org", "import _ \"sync/atomic\"")},
		tree{"commands/lock.go": "package commands\n\nimport _ \"sync/atomic\"\n"},
	},
	{
		"the domain touches files", house.RulePure,
		tree{"domain/org/org.go": source("org", "import _ \"os\"")},
		tree{"domain/org/org.go": source("org", "import _ \"path\"")},
	},
	{
		"the domain dials", house.RulePure,
		tree{"domain/org/org.go": source("org", "import _ \"net/http\"")},
		tree{"domain/org/org.go": source("org", "import _ \"net/netip\"")},
	},
	{
		"the domain reads the clock, by whatever name", house.RulePure,
		tree{"domain/org/org.go": source("org", "import clock \"time\"\n\nvar born = clock.Now()")},
		tree{"domain/org/org.go": source("org", "import \"time\"\n\nvar born time.Time")},
	},
	{
		"the domain makes an id", house.RulePure,
		tree{"domain/org/org.go": source("org", "import \"github.com/google/uuid\"\n\nvar id, _ = uuid.NewV7()")},
		tree{"domain/org/org.go": source("org", "import \"github.com/google/uuid\"\n\nvar id uuid.UUID")},
	},
	{
		"no package comment", house.RuleComment,
		tree{"events/codec/codec.go": "package codec\n"},
		tree{"events/codec/codec.go": "package codec\n", "events/codec/doc.go": source("codec", "")},
	},
	{
		"two package comments", house.RuleComment,
		tree{"events/other.go": source("events", "")},
		tree{"events/other.go": "// A note, apart from the package clause.\n\npackage events\n"},
	},
	{
		"a package comment in another form", house.RuleComment,
		tree{"events/codec/codec.go": "// Codec encodes.\npackage codec\n"},
		tree{"events/codec/codec.go": "// Package codec\n// encodes.\npackage codec\n"},
	},
	{
		"a command introduced as a package", house.RuleComment,
		tree{"cmd/other/main.go": "// Package main runs.\npackage main\n"},
		tree{"cmd/other/main.go": "// Command other runs.\npackage main\n"},
	},
	{
		"a directive is no comment", house.RuleComment,
		tree{"events/codec/codec.go": "//go:generate true\npackage codec\n"},
		tree{"events/gen.go": "//go:build ignore\n\n// Anything.\npackage events\n"},
	},
	{
		"tests alone, without a word", house.RuleComment,
		tree{"integration/crash/crash_test.go": "package crash_test\n"},
		tree{
			"integration/crash/crash_test.go": "// Package crash kills servers.\npackage crash_test\n",
			"events/event_test.go":            "package events_test\n",
		},
	},
	{
		"an init function", house.RuleInit,
		tree{"integration/init.go": "package integration\n\nfunc init() {}\n"},
		tree{"integration/init.go": "package integration\n\ntype t struct{}\n\nfunc (t) init() {}\n"},
	},
	{
		"an end outside main", house.RuleExit,
		tree{"api/api.go": source("api", "import \"os\"\n\nfunc stop() { os.Exit(1) }")},
		tree{"api/api_test.go": source("api", "import (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestMain(m *testing.M) { os.Exit(m.Run()) }")},
	},
	{
		"an end in a package of cmd", house.RuleExit,
		tree{"cmd/ledger/serve/serve.go": source("serve", "import \"log\"\n\nfunc stop() { log.Fatal(1) }")},
		tree{"integration/hammer/main.go": "// Command hammer hammers.\npackage main\n\nimport \"log\"\n\nfunc main() { log.Fatal(1) }\n"},
	},
	{
		"printing", house.RulePrint,
		tree{"api/api.go": source("api", "import \"fmt\"\n\nfunc hi() { fmt.Println(1) }")},
		tree{
			"api/api.go":               source("api", "import (\n\t\"fmt\"\n\t\"io\"\n)\n\nfunc hi(w io.Writer) { fmt.Fprintln(w, 1) }"),
			"api/example_test.go":      "package api_test\n\nimport \"fmt\"\n\nfunc Example() { fmt.Println(1) }\n",
			"cmd/ledger/print.go":      "package main\n\nimport \"fmt\"\n\nfunc hi() { fmt.Println(1) }\n",
			"examples/hello/main.go":   "// Command hello greets.\npackage main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(1) }\n",
			"integration/bench/fmt.go": source("bench", "import \"fmt\"\n\nfunc hi() { fmt.Println(1) }"),
		},
	},
	{
		"printing by other means", house.RulePrint,
		tree{"relay/relay.go": source("relay", "import \"os\"\n\nvar w = os.Stderr")},
		tree{"relay/relay.go": source("relay", "import \"os\"\n\nvar f, err = os.Open(\"x\")")},
	},
	{
		"printing with the runtime", house.RulePrint,
		tree{"relay/relay.go": source("relay", "func hi() { println(1) }")},
		tree{"relay/relay.go": source("relay", "type t struct{}\n\nfunc (t) println() {}\n\nfunc hi() { t{}.println() }")},
	},
	{
		"a function longer than a page", house.RuleLength,
		tree{"events/long.go": "package events\n\n" + function(81)},
		tree{
			"events/long.go":      "package events\n\n" + function(80),
			"events/long_test.go": "package events\n\n" + function(200),
			"events/made.go":      "// Code generated by hand. DO NOT EDIT.\n\npackage events\n\n" + function(200),
		},
	},
	{
		"a long function in a variable", house.RuleLength,
		tree{"events/long.go": "package events\n\nvar f = func() {\n" + strings.Repeat("\tg()\n", 90) + "}\n"},
		tree{"events/long.go": "package events\n\n" + table(200)},
	},
	{
		"work left", house.RuleUnplanned,
		tree{"events/todo_test.go": "package events\n\n// TO" + "DO(me): later.\n"},
		tree{"events/todo.go": "package events\n\n// Todo lists are kept elsewhere, and so is FIXMEUP.\nvar s = \"TO" + "DO\"\n"},
	},
}

func TestPlanted(t *testing.T) {
	if found := house.Check(sound()); len(found) > 0 {
		t.Fatalf("the sound house is not in order: %v", found)
	}
	for _, p := range planted {
		t.Run(p.name, func(t *testing.T) {
			var caught bool
			for _, v := range house.Check(build(p.caught)) {
				if v.Rule == p.rule {
					caught = true
				} else {
					t.Errorf("caught by another rule: %v", v)
				}
			}
			if !caught {
				t.Errorf("rule %q let pass: %v", p.rule, p.caught)
			}
			for _, v := range house.Check(build(p.spared)) {
				t.Errorf("should be allowed: %v", v)
			}
		})
	}
}

func build(add tree) fstest.MapFS {
	built := sound()
	for path, s := range add {
		built[path] = text(s)
	}
	return built
}

// TestEveryRuleIsPlanted fails when a rule is added without its two cases.
func TestEveryRuleIsPlanted(t *testing.T) {
	seen := make(map[house.Rule]bool)
	for _, p := range planted {
		seen[p.rule] = len(p.caught) > 0 && len(p.spared) > 0
	}
	for _, rule := range house.Rules() {
		if !seen[rule] {
			t.Errorf("rule %q has no planted case", rule)
		}
		delete(seen, rule)
	}
	for rule := range maps.Keys(seen) {
		t.Errorf("planted for rule %q, which Rules does not list", rule)
	}
}

// TestPosition checks that a violation can be clicked on.
func TestPosition(t *testing.T) {
	found := house.Check(build(tree{"integration/init.go": "package integration\n\nfunc init() {}\n"}))
	if len(found) != 1 {
		t.Fatalf("found %d violations, want 1: %v", len(found), found)
	}
	const want = "integration/init.go:3: init: "
	if got := found[0].String(); !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want it to start with %q", got, want)
	}
}
