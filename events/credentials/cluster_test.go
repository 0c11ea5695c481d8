package credentials_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/events/credentials"
)

// The nodes' password is drawn once, and nobody but the folder's owner reads it. What
// would break the conf, or lead a node elsewhere, is refused.
func TestWriteCluster(t *testing.T) {
	dir := t.TempDir()
	a, err := credentials.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	write := func(addresses ...string) string {
		if err := a.WriteCluster(addresses); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, credentials.ClusterFile))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	few, more := write("a:6222", "b:6222"), write("a:6222", "b:6222", "10.0.0.3:6222", "[::1]:6222")
	if !strings.HasPrefix(few, strings.Split(more, "]")[0][:strings.Index(few, "]")-1]) {
		t.Errorf("with more nodes the password is another:\n%s%s", few, more)
	}
	if n := strings.Count(more, "nats-route://node:"); n != 4 {
		t.Errorf("%d routes:\n%s", n, more)
	}
	for _, name := range []string{credentials.ClusterFile, "cluster.password"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	for _, address := range []string{"", "a", "a:", ":6222", `a:1"]`, "a:6222/b", "node@a:6222", "a b:1", "a:6222\nroutes: []"} {
		if err := a.WriteCluster([]string{address}); !errors.Is(err, credentials.ErrNode) {
			t.Errorf("%q is taken for a node: %v", address, err)
		}
	}
}
