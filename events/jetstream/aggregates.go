package jetstream

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/keyledger/keyledger/events"
)

// Aggregates returns the subjects of an organization's aggregates of one kind, in
// order, as the stream's leader knows them: of each there is at least one fact.
// It is for those of which there are few, since each stands in the answer.
func (l *Ledger) Aggregates(ctx context.Context, org events.OrgID, aggregate events.Aggregate) ([]events.Subject, error) {
	filter := fmt.Sprintf("ledger.%04d.%s.%s.*", events.Partition(org), org, aggregate)
	texts, err := l.subjects(ctx, StreamLedger, filter)
	if err != nil {
		return nil, err
	}
	var out []events.Subject
	for _, text := range texts {
		subject, err := events.ParseSubject(text)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", events.ErrCorrupt, err)
		}
		out = append(out, subject)
	}
	slices.SortFunc(out, func(a, b events.Subject) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// subjects returns the subjects of a stream that a filter lets through, as its leader
// knows them.
func (l *Ledger) subjects(ctx context.Context, stream, filter string) ([]string, error) {
	var out []string
	// The broker tells so many at a time.
	for total := 1; len(out) < total; {
		var answer struct {
			Error *apiError `json:"error"`
			State struct {
				Subjects map[string]uint64 `json:"subjects"`
			} `json:"state"`
			Total int `json:"total"`
		}
		request := struct {
			Filter string `json:"subjects_filter"`
			Offset int    `json:"offset"`
		}{filter, len(out)}
		if err := l.ask(ctx, "$JS.API.STREAM.INFO."+stream, request, &answer); err != nil {
			return nil, err
		}
		if answer.Error != nil {
			return nil, answer.Error.read(stream)
		}
		if total = answer.Total; len(answer.State.Subjects) == 0 {
			break
		}
		out = slices.AppendSeq(out, maps.Keys(answer.State.Subjects))
	}
	return out, nil
}
