package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api/wire"
)

// What a receipt does not know it does not claim.
func TestReceiptFields(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 10, 0, time.UTC)
	live := `{"verifier":"edge-1","state":"live","applied":true}`
	for name, c := range map[string]struct {
		more string
		says []string
		not  []string
	}{
		"all have applied it": {
			`"complete":true,"uses_complete":true,"applied_by":1,"verifiers":1,"last_applied_at":"2026-11-21T12:00:00.0042Z","denied_everywhere_by":"2026-11-21T12:00:00.0042Z","items":[` + live + `]`,
			[]string{"applied by: 1 of 1 verifier that is live, the last by 2026-11-21 12:00:00.004 UTC (4.2ms after)", "denied: everywhere", "last accepted use: none"},
			[]string{"may"},
		},
		"one is lost": {
			`"complete":true,"uses_complete":true,"applied_by":2,"verifiers":2,"denied_everywhere_by":"2026-11-21T12:00:35Z","last_accepted_use":{"at":"2026-11-21T11:59:59.5Z","verifier":"edge-1","number":7},"items":[{"verifier":"edge-2","state":"lost"},` + live + `]`,
			[]string{"2 of 2 verifiers that are live", "by all that are live, and by the others, should they still answer, by 2026-11-21 12:00:35.000 UTC, in 25 seconds", "by edge-1, number 7 of its run; one that is lost may have accepted it later"},
			[]string{"the last by"},
		},
		"one is missing": {
			`"applied_by":0,"verifiers":1,"denied_everywhere_by":"2026-11-21T12:00:35Z","items":[{"verifier":"edge-2","state":"live"}]`,
			[]string{"denied: everywhere by 2026-11-21 12:00:35.000 UTC", "none; later ones may still turn up"},
			[]string{"the others"},
		},
		"one serves stale": {
			`"applied_by":0,"verifiers":1,"items":[{"verifier":"edge-2","state":"live","serves_stale":true}]`,
			[]string{"denied: everywhere at no time that is known"},
			nil,
		},
		"the organization ended": {
			`"items":[]`, []string{"with its organization", "denied: everywhere at no time that is known"}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			kind := "key.revoked"
			if name == "the organization ended" {
				kind = "organization.deleted"
			}
			var r wire.Receipt
			text := `{"key_id":"k","revoked":{"at":"2026-11-21T12:00:00Z","type":"` + kind + `","by":"system/expiry"},` + c.more + `}`
			if err := json.Unmarshal([]byte(text), &r); err != nil {
				t.Fatal(err)
			}
			var lines strings.Builder
			for _, f := range receiptFields(r, now) {
				lines.WriteString(f.name + ": " + f.value + "\n")
			}
			got := lines.String()
			for _, want := range c.says {
				if !strings.Contains(got, want) {
					t.Errorf("it does not say %q:\n%s", want, got)
				}
			}
			for _, no := range c.not {
				if strings.Contains(got, no) {
					t.Errorf("it says %q:\n%s", no, got)
				}
			}
		})
	}
}
