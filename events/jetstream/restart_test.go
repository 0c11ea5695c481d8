package jetstream_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
)

// childDir tells a process started by TestKill where to append.
const childDir = "LEDGER_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := child(dir); err != nil {
			panic(err)
		}
		return
	}
	m.Run()
}

// child appends until it is killed, and tells every position that it was
// answered.
func child(dir string) error {
	ctx := context.Background()
	b, err := embedded.Start(ctx, embedded.Config{Dir: dir})
	if err != nil {
		return err
	}
	l, err := jetstream.New(jetstream.Config{Conn: b.Conn(), Ledger: ledgerID, Replicas: 1})
	if err != nil {
		return err
	}
	if err := l.CheckStreams(ctx); err != nil {
		return err
	}
	for i := 0; ; i++ {
		wish := entries(1 + i%3)
		for k := range wish {
			// The next child writes other workspaces.
			wish[k] = entry(events.WorkspaceID(uuid.NewString()))
		}
		facts, err := l.Append(ctx, wish)
		if err != nil {
			return err
		}
		fmt.Println(facts[len(facts)-1].Position)
	}
}

// Whatever was answered is there after the process was killed, in the same
// place, and the ledger goes on behind it.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	begin(t, dir).Shutdown()
	answered := events.Position(0)
	for range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			var pos events.Position
			if _, err := fmt.Sscan(lines.Text(), &pos); err != nil || pos <= answered {
				t.Fatalf("child says %q after %d: %v", lines.Text(), answered, err)
			}
			answered = pos
			if n == 30 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
	}
	b := start(t, dir)
	l := ledger(t, b.Conn())
	if err := l.CheckStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	last, err := l.Last(t.Context())
	if err != nil || last < answered {
		t.Fatalf("last is %d: %v; %d was answered", last, err, answered)
	}
	facts, err := l.Append(t.Context(), entries(2))
	if err != nil {
		t.Fatal(err)
	}
	follow(t, l, facts[1].Position)
}

// follow reads everything up to a position.
func follow(t *testing.T, l *jetstream.Ledger, until events.Position) []events.Recorded {
	t.Helper()
	var all []events.Recorded
	err := l.Follow(t.Context(), 0, func(slice []events.Recorded) error {
		all = append(all, slice...)
		if len(all) >= int(until) {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("follow: %v", err)
	}
	return all
}

func TestRestart(t *testing.T) {
	dir := t.TempDir()
	b, err := embedded.Start(t.Context(), embedded.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := setUp(t, b); err != nil {
		t.Fatal(err)
	}
	l := ledger(t, b.Conn())
	want, err := l.Append(t.Context(), entries(5))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.PublishUses(t.Context(), []events.UsesMessage{{Subject: events.UsesSubject("acme", "v1"), ID: "a", Body: []byte("a")}}); err != nil {
		t.Fatal(err)
	}
	b.Shutdown()

	b = start(t, dir)
	l = ledger(t, b.Conn())
	if err := l.CheckStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, r := range follow(t, l, 5) {
		if r.Position != want[i].Position || string(r.Raw) != string(want[i].Raw) {
			t.Fatalf("position %d differs", r.Position)
		}
	}
	if last, err := l.LastUses(t.Context()); err != nil || last != 1 {
		t.Fatalf("last use is %d: %v", last, err)
	}
	if facts, err := l.Append(t.Context(), []events.Entry{entry("after")}); err != nil || facts[0].Position != 6 {
		t.Fatalf("append: %v %v", facts, err)
	}
}
