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

// TestClaim: of two who change a file one waits for the other, and nothing of it stays.
func TestClaim(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	release, err := Claim(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Claim(path); !errors.Is(err, ErrBusy) {
		t.Errorf("claimed twice: %v", err)
	}
	release()
	release, err = Claim(path)
	if err != nil {
		t.Fatal(err)
	}
	release()
	if left, err := os.ReadDir(filepath.Dir(path)); len(left) != 0 || err != nil {
		t.Errorf("left there: %v, %v", left, err)
	}
}
