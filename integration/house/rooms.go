package house

import "strings"

// room is a top-level folder that holds Go packages, and what its packages may
// import of ours. Importing within the room itself is always allowed.
type room struct {
	name string
	may  []string // rooms or single packages, with everything below them
}

// pure are the two value packages of the domain that views may share. The rest
// of the domain is rules, and a view that knows the rules starts to apply them.
var pure = []string{"domain/permission", "domain/keystring"}

// anything stands for every room.
const anything = "*"

// rooms is the table, lowest room first: imports point down only. A room that
// stands further down in this list lies higher in the house.
var rooms = []room{
	{"events", nil},
	{"domain", []string{"events"}},
	{"commands", []string{"domain", "events"}},
	{"projections", append([]string{"events"}, pure...)},
	{"verify", append([]string{"projections", "events"}, pure...)},
	// To append a fact (a webhook that is switched off) relay takes an
	// interface of one method, which cmd wires. It knows of AI providers what there
	// is to know without asking them.
	{"relay", []string{"projections", "events", "domain/provider"}},
	{"api", []string{"commands", "projections", "verify", "relay", "domain", "events"}},
	{"console", []string{"api"}},
	{"cmd", []string{anything}},
	{"integration", []string{anything}},
	{"examples", []string{anything}},
	{"tools", nil},
}

// heavy are the lines that hold for tests as well. Any other room's tests may
// import every room below their own, to be driven by real facts.
var heavy = []struct {
	from   string
	never  string
	except []string
	why    string
}{
	{"projections", "commands", nil, "a view never decides"},
	{"projections", "domain", pure, "a view that knows the rules starts to apply them"},
	{"commands", "projections", nil, "a decision is made on the aggregate's own facts, never on a lagging view"},
}

// plain are the top-level folders that are no rooms.
var plain = []string{"docs", "deploy", ".ci"}

// nameless are folder and package names that say nothing of what is provided.
var nameless = []string{
	"util", "utils", "common", "helper", "helpers", "model", "models",
	"type", "types", "misc", "shared", "internal",
}

// impure are the standard packages the domain may not import outside its
// tests, with everything below them: the time and all random bytes arrive
// inside the command, and what is pure needs no lock.
var impure = []string{
	"context", "crypto/rand", "database", "log", "math/rand", "net", "os",
	"runtime", "sync", "syscall",
}

// pureAfterAll are exceptions from impure: values and their syntax, no I/O.
// A type that must not be logged in clear says so in terms of log/slog.
var pureAfterAll = []string{"log/slog", "net/netip", "net/url"}

// dice are the functions of otherwise pure packages that read a clock or throw
// dice, by import path.
var dice = map[string][]string{
	"time": {"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTicker", "NewTimer"},
	"github.com/google/uuid": {
		"New", "NewString", "NewRandom", "NewUUID", "NewV6", "NewV7", "NewDCESecurity",
	},
	"log/slog": {
		"Debug", "Info", "Warn", "Error", "Log", "LogAttrs",
		"DebugContext", "InfoContext", "WarnContext", "ErrorContext", "Default", "New",
	},
}

// printers are the functions that write where only cmd may write.
var printers = map[string][]string{
	"fmt": {"Print", "Printf", "Println"},
	"log": {"Print", "Printf", "Println", "Panic", "Panicf", "Panicln"},
	"os":  {"Stdout", "Stderr"},
}

// exits are the functions that end the process.
var exits = map[string][]string{
	"os":  {"Exit"},
	"log": {"Fatal", "Fatalf", "Fatalln"},
}

// mayPrint are the rooms whose packages talk to a terminal, mayExit those whose
// main packages may end their process.
var (
	mayPrint = []string{"cmd", "integration", "examples", "tools"}
	mayExit  = []string{"cmd", "integration", "examples", "tools"}
)

// maxLines is the longest a function may be, from its first line to its last.
// What is longer does more than one thing, or is a table.
const maxLines = 80

// within reports whether pkg is one of the given folders or lies below one.
func within(pkg string, folders ...string) bool {
	for _, f := range folders {
		if f == anything || pkg == f || strings.HasPrefix(pkg, f+"/") {
			return true
		}
	}
	return false
}

// floor is the height of a room in the house, or -1 for what is no room.
func floor(name string) int {
	for i, r := range rooms {
		if r.name == name {
			return i
		}
	}
	return -1
}

// refuse says why a file of package from may not import package to, both
// relative to the module's root, or returns "".
func refuse(from, to string, test bool) string {
	fromRoom, _, _ := strings.Cut(from, "/")
	toRoom, _, _ := strings.Cut(to, "/")
	if fromRoom == toRoom {
		return ""
	}
	for _, h := range heavy {
		if fromRoom == h.from && within(to, h.never) && !within(to, h.except...) {
			return h.why
		}
	}
	i := floor(fromRoom)
	if i < 0 {
		return from + " lies in no room"
	}
	if within(to, rooms[i].may...) {
		return ""
	}
	if j := floor(toRoom); test && j >= 0 && j < i {
		return ""
	}
	if len(rooms[i].may) == 0 {
		return fromRoom + " imports no other room"
	}
	return fromRoom + " may import " + strings.Join(rooms[i].may, ", ")
}
