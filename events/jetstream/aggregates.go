package jetstream

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/keyledger/keyledger/events"
)

// Aggregates returns the subjects of an organization's aggregates of one kind, in
// order, as the stream's leader knows them. It is for those of which there are
// few: each stands in the answer.
func (l *Ledger) Aggregates(ctx context.Context, org events.OrgID, aggregate events.Aggregate) ([]events.Subject, error) {
	var answer struct {
		Error *apiError `json:"error"`
		State struct {
			Subjects map[string]uint64 `json:"subjects"`
		} `json:"state"`
		Total int `json:"total"`
	}
	filter := fmt.Sprintf("ledger.%04d.%s.%s.*", events.Partition(org), org, aggregate)
	if err := l.ask(ctx, "$JS.API.STREAM.INFO."+StreamLedger, map[string]string{"subjects_filter": filter}, &answer); err != nil {
		return nil, err
	}
	if answer.Error != nil {
		return nil, answer.Error.read(StreamLedger)
	}
	if n := len(answer.State.Subjects); n < answer.Total {
		return nil, fmt.Errorf("jetstream: %d of %d subjects of %s were told", n, answer.Total, filter)
	}
	out := make([]events.Subject, 0, len(answer.State.Subjects))
	for text := range answer.State.Subjects {
		subject, err := events.ParseSubject(text)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", events.ErrCorrupt, err)
		}
		out = append(out, subject)
	}
	slices.SortFunc(out, func(a, b events.Subject) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}
