package verify_test

import (
	"go/build"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestClosure: a program that verifies holds nothing that decides on changes, no
// server and no database. It parses sources, so that a cached result cannot be of
// sources that have changed.
func TestClosure(t *testing.T) {
	const module = "github.com/keyledger/keyledger"
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatal(err)
	}
	// The domain's pure values, and what a test alone takes.
	allowed := func(path string) bool {
		own, ours := strings.CutPrefix(path, module+"/")
		if !ours {
			for _, never := range []string{"github.com/nats-io/nats-server", "modernc.org", "github.com/ThreeDotsLabs", "github.com/danielgtaylor", "github.com/spf13", "net/http/pprof", "database/sql"} {
				if path == never || strings.HasPrefix(path, never+"/") {
					return false
				}
			}
			return true
		}
		room, _, _ := strings.Cut(own, "/")
		switch room {
		case "verify", "projections", "events":
			return !strings.HasSuffix(own, "test") && own != "events/embedded" && own != "projections/sqlview"
		case "domain":
			return own == "domain/permission" || own == "domain/keystring"
		default:
			return false
		}
	}
	via := map[string]string{}
	var walk func(path, from string)
	walk = func(path, from string) {
		if _, seen := via[path]; seen || path == "C" || path == "unsafe" {
			return
		}
		via[path] = from
		if !allowed(path) {
			chain := path
			for p := from; p != ""; p = via[p] {
				chain = p + " → " + chain
			}
			t.Errorf("a verifier holds %s", chain)
			return
		}
		own, ours := strings.CutPrefix(path, module+"/")
		if !ours {
			return
		}
		pkg, err := build.ImportDir(filepath.Join(root, filepath.FromSlash(own)), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, imported := range pkg.Imports {
			walk(imported, path)
		}
	}
	for _, path := range []string{"verify", "verify/middleware", "verify/grpcauth"} {
		walk(module+"/"+path, "")
	}
	if len(via) < 20 {
		t.Errorf("only %d packages were looked at", len(via))
	}
}
