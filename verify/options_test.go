package verify

import (
	"runtime/debug"
	"testing"
	"time"
)

// TestDefaults: who says nothing announces this module's version, and is no fault.
func TestDefaults(t *testing.T) {
	o := newOptions(nil)
	if err := o.validate(); err != nil {
		t.Error(err)
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Path == module && o.version != info.Main.Version {
		t.Errorf("announces version %q of %q", o.version, info.Main.Version)
	}
}

// TestOfflineBound: nobody starts without the broker for longer than receipts count with.
func TestOfflineBound(t *testing.T) {
	for age, good := range map[time.Duration]bool{MaxOfflineStart: true, MaxOfflineStart + 1: false} {
		o := newOptions([]Option{SnapshotFolder("x"), OfflineStart(age)})
		if err := o.validate(); (err == nil) != good {
			t.Errorf("%s: %v", age, err)
		}
	}
}
