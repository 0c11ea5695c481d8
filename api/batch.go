package api

import (
	"net/http"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/verify"
)

// verifyBatch answers POST /v1/verify/batch.
func (s *Server) verifyBatch(w http.ResponseWriter, r *http.Request) {
	t := trackOf(w)
	b := s.batches.Get()
	defer s.batches.Put(b)
	if err := s.verdicts(t, r, b); err != nil {
		t.fail(writeProblem(w, err, t.requestID), err)
		return
	}
	writeVerdict(t, b)
}

// verdicts refuses all or answers all: no key is judged, and no use recorded,
// before every question makes sense and is the caller's to ask.
func (s *Server) verdicts(t *track, r *http.Request, b *gate.Buffers) error {
	var caller verify.Decision
	if err := s.admitVerifier(t, r, b, MaxVerifyBatchBytes, &caller); err != nil {
		return err
	}
	if err := s.gate.ReadBatch(b); err != nil {
		return err
	}
	if err := s.readmit(r, &caller); err != nil {
		return err
	}
	for i := range b.Questions {
		if err := mayAsk(&caller, b.Questions[i].Workspace); err != nil {
			return gate.InBatch(i, err)
		}
		b.Questions[i].Within = within(&caller)
	}
	if err := s.gate.AnswerBatch(r.Context(), b); err != nil {
		return err
	}
	if b.Waits() {
		return s.readmit(r, &caller)
	}
	return nil
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
