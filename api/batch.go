package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
)

// verifyBatch answers POST /v1/verify/batch.
func (s *Server) verifyBatch(w http.ResponseWriter, r *http.Request) {
	t := trackOf(w)
	b := s.batches.get()
	defer s.batches.put(b)
	if err := s.verdicts(t, r, b); err != nil {
		t.fail(writeProblem(w, err, t.requestID), err)
		return
	}
	writeVerdict(t, b)
}

// verdicts refuses all or answers all: no key is judged, and no use recorded,
// before every question makes sense and is the caller's to ask.
func (s *Server) verdicts(t *track, r *http.Request, b *buffers) error {
	var caller verify.Decision
	if err := s.admitVerifier(t, r, b, MaxVerifyBatchBytes, &caller); err != nil {
		return err
	}
	var err error
	if b.batch, err = readBatch(b.in, b.batch[:0]); err != nil {
		return err
	}
	if n := len(b.batch); n == 0 || n > MaxVerifyBatch {
		return domain.Refuse(domain.ErrInvalid, "requests", "must have 1 to %d members", MaxVerifyBatch)
	}
	b.questions = b.questions[:0]
	waits := false
	for i := range b.batch {
		q, err := s.question(&b.batch[i])
		if err != nil {
			return inBatch(i, err)
		}
		waits = waits || q.AtLeast != 0
		b.questions = append(b.questions, q)
	}
	if err := s.readmit(r, &caller); err != nil {
		return err
	}
	for i := range b.questions {
		if err := mayAsk(&caller, b.questions[i].Workspace); err != nil {
			return inBatch(i, err)
		}
	}
	if err := s.judge(r.Context(), b, within(&caller)); err != nil {
		return err
	}
	if waits {
		return s.readmit(r, &caller)
	}
	return nil
}

// judge answers the questions one after another, each as if it were alone.
// Together they wait for positions no longer than one may.
func (s *Server) judge(ctx context.Context, b *buffers, org events.OrgID) error {
	waiting, cancel := context.WithTimeout(ctx, batchWait)
	defer cancel()
	b.out = append(b.out[:0], `{"verdicts":[`...)
	for i := range b.questions {
		// Who has gone needs no verdict, and his keys were not used.
		if err := ctx.Err(); err != nil {
			return err
		}
		q := &b.questions[i]
		q.Within = org
		begin := time.Now()
		d := s.cfg.Verifier.Verify(waiting, q)
		s.metrics.verdict(doorVerify, d.Code, time.Since(begin))
		if i > 0 {
			b.out = append(b.out, ',')
		}
		b.out = s.appendVerdict(b.out, &d)
	}
	b.out = append(b.out, "]}"...)
	return nil
}

// inBatch says of a refusal which of the requests it is about.
func inBatch(i int, err error) error {
	at := func(field string) string {
		if field == "" {
			return fmt.Sprintf("requests[%d]", i)
		}
		return fmt.Sprintf("requests[%d].%s", i, field)
	}
	var ours *refusal
	var theirs *domain.Refusal
	switch {
	case errors.As(err, &ours):
		told := *ours
		told.field = at(ours.field)
		return &told
	case errors.As(err, &theirs):
		return domain.Refuse(theirs.Err, at(theirs.Field), "%s", theirs.Detail)
	case errors.Is(err, events.ErrInvalidPosition):
		return refuse(events.ErrInvalidPosition, at("at_least"), "%s", strings.TrimPrefix(err.Error(), events.ErrInvalidPosition.Error()+": "))
	default:
		return err
	}
}

func (s *Server) verifyBatchEndpoint() endpoint {
	return endpoint{
		method: "POST", path: "/v1/verify/batch", id: "verify-batch", tag: "Verification", summary: "Ask for the verdicts on up to 100 keys",
		description: "Each request is one of /v1/verify, and each verdict stands where its request did. They are given one after another, each as if it were alone, and each use is recorded; all together they wait for the positions that they ask for no longer than one would. A request that makes no sense refuses them all, and the field names it, such as requests[3].permission; no key is judged then.",
		who:         "A management key of any role, of the organization or of the installation. One that is limited to workspaces must ask about a workspace among them in every request; anything else is forbidden.",
		takes:       wire.VerifyBatch{}, answers: wire.Verdicts{}, status: 200, codes: []string{"invalid_position", "invalid_value"},
		example: wire.VerifyBatch{Requests: []wire.VerifyRequest{
			{Secret: "kl_live_…", Permission: "interview:start", Workspace: "support"},
			{Secret: "kl_live_…", Permission: "interview:read AND (interview:start OR report:*)", Workspace: "support"},
		}},
		raw: http.HandlerFunc(s.verifyBatch),
	}
}
