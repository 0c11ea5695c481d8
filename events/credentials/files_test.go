package credentials

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// What this user wrote is read; what others can read, or may have put there, is not.
func TestReadOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if _, err := ReadOwn(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("secret")); err != nil {
		t.Fatal(err)
	}
	if text, err := ReadOwn(path); err != nil || string(text) != "secret" {
		t.Fatalf("%q, %v", text, err)
	}
	link := path + ".link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadOwn(link); !errors.Is(err, ErrNotOwn) {
		t.Errorf("a link: %v", err)
	}
	for _, mode := range []os.FileMode{0o604, 0o640, 0o620, 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadOwn(path); !errors.Is(err, ErrNotOwn) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}
