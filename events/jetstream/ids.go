package jetstream

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/keyledger/keyledger/events"
)

// IDs lists the ids of one kind of aggregate of an organization, in order: of
// each there is at least one fact. The stream's leader answers.
func (l *Ledger) IDs(ctx context.Context, org events.OrgID, aggregate events.Aggregate) ([]string, error) {
	all := strings.TrimSuffix(events.Subject{Org: org, Aggregate: aggregate, ID: "x"}.String(), "x")
	var ids []string
	for {
		var answer struct {
			Error *apiError `json:"error"`
			Total int       `json:"total"`
			State struct {
				Subjects map[string]uint64 `json:"subjects"`
			} `json:"state"`
		}
		request := struct {
			Filter string `json:"subjects_filter"`
			Offset int    `json:"offset"`
		}{all + "*", len(ids)}
		if err := l.ask(ctx, "$JS.API.STREAM.INFO."+StreamLedger, request, &answer); err != nil {
			return nil, err
		}
		if answer.Error != nil {
			return nil, answer.Error.read(StreamLedger)
		}
		for subject := range answer.State.Subjects {
			id, ok := strings.CutPrefix(subject, all)
			if !ok {
				return nil, fmt.Errorf("%w: %s was answered when %s* was asked for", events.ErrCorrupt, subject, all)
			}
			ids = append(ids, id)
		}
		if len(answer.State.Subjects) == 0 || len(ids) >= answer.Total {
			slices.Sort(ids)
			return ids, nil
		}
	}
}
