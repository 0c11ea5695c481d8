package verify_test

import (
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
)

// TestLateVerdictIsMadeAnew has a verdict come to the recorder after all uses of its
// time were said to be stored, and its key revoked meanwhile: whoever was told that no
// use of before is missing must not see one come.
func TestLateVerdictIsMadeAnew(t *testing.T) {
	sink := &kept{}
	rec := newRecorder(t, sink, recording.Config{})
	v := newVerifier(t, verify.Config{Index: fixture(t), Recorder: rec})
	told := rec.StoredThrough()
	if told == 0 {
		t.Fatal("nothing is told")
	}
	v.StandStill(time.Minute)
	if d := v.Verify(t.Context(), &verify.Question{Secret: secret(t, 1)}); d.Code != events.CodeValid || d.At < told {
		t.Errorf("%s at %s, told through %s", d.Code, d.At, told)
	}
	if err := rec.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(sink.uses) != 1 || sink.uses[0].At < told {
		t.Errorf("%+v, told through %s", sink.uses, told)
	}
}
