package api

import (
	"io"
	"net/http"
	"slices"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
)

// verify answers POST /v1/verify.
func (s *Server) verify(w http.ResponseWriter, r *http.Request) {
	t := trackOf(w)
	b := s.buffers.Get()
	defer s.buffers.Put(b)
	if err := s.verdict(t, r, b); err != nil {
		t.fail(writeProblem(w, err, t.requestID), err)
		return
	}
	writeVerdict(t, b)
}

func writeVerdict(t *track, b *gate.Buffers) {
	t.quiet = true
	h := t.Header()
	h["Content-Type"] = jsonType
	h["Cache-Control"] = noStore
	t.WriteHeader(http.StatusOK)
	// The client may have gone; there is nobody to tell.
	_, _ = t.Write(b.Out)
}

var (
	jsonType = []string{"application/json"}
	noStore  = []string{"no-store"}
)

func (s *Server) verdict(t *track, r *http.Request, b *gate.Buffers) error {
	var caller verify.Decision
	if err := s.admitVerifier(t, r, b, MaxVerifyBytes, &caller); err != nil {
		return err
	}
	if err := s.gate.ReadOne(b); err != nil {
		return err
	}
	if err := s.readmit(r, &caller); err != nil {
		return err
	}
	if err := mayAsk(&caller, b.Questions[0].Workspace); err != nil {
		return err
	}
	b.Questions[0].Within = within(&caller)
	s.gate.AnswerOne(r.Context(), b)
	if b.Waits() {
		// It may have waited for that, and a caller may have gone meanwhile.
		return s.readmit(r, &caller)
	}
	return nil
}

// admitVerifier lets a caller in who asks for verdicts, and reads the body.
func (s *Server) admitVerifier(t *track, r *http.Request, b *gate.Buffers, limit int, caller *verify.Decision) error {
	if err := s.admitAsker(t, r, caller); err != nil {
		return err
	}
	if err := readInto(b, r, limit); err != nil {
		return err
	}
	return checkMediaType(r)
}

// admitAsker lets a caller in who asks something in a body alone.
func (s *Server) admitAsker(t *track, r *http.Request, caller *verify.Decision) error {
	if r.URL.RawQuery != "" {
		return refuse(errRequest, "", "%s", gate.NoParameters)
	}
	if err := s.admit(r.Context(), r, t.requestID, caller); err != nil {
		return err
	}
	t.actor = events.Actor{Type: events.ActorKey, Org: caller.Org, Key: caller.Key}
	return nil
}

// within is the one organization whose keys exist for a caller.
func within(caller *verify.Decision) events.OrgID {
	if caller.Org == events.System {
		return ""
	}
	return caller.Org
}

// mayAsk keeps a caller that is limited to workspaces within them: a verdict
// tells of a key what only those may know who see it.
func mayAsk(caller *verify.Decision, asked events.WorkspaceID) error {
	switch {
	case caller.Scope.AllWorkspaces || slices.Contains(caller.Scope.Workspaces, asked):
		return nil
	case asked == "":
		return domain.Refuse(domain.ErrForbidden, "workspace", "is needed: the management key is limited to workspaces, and asks about one of those")
	default:
		return domain.Refuse(domain.ErrForbidden, "workspace", "lies outside the workspaces that the management key is limited to")
	}
}

// readInto reads a body of bounded size into the buffer.
func readInto(b *gate.Buffers, r *http.Request, limit int) error {
	b.In = b.In[:0]
	for {
		if len(b.In) == cap(b.In) {
			b.In = append(b.In, 0)[:len(b.In)]
		}
		n, err := r.Body.Read(b.In[len(b.In):cap(b.In)])
		b.In = b.In[:len(b.In)+n]
		switch {
		case len(b.In) > limit:
			return refuse(errTooLarge, "", "the body may be %d bytes long", limit)
		case err == io.EOF:
			return nil
		case err != nil:
			return refuse(errRequest, "", "the body broke off")
		}
	}
}

// asksQueries says what a permission that is asked for may be.
const asksQueries = "The permission may be a query such as interview:read AND (interview:start OR report:*): AND binds tighter than OR, and resource:* asks for everything that the catalog has of a resource, which must be something. A query has at most 512 bytes, 32 names and 8 parentheses within each other, and is recorded with the use as it was asked."

func (s *Server) verifyEndpoint() endpoint {
	return endpoint{
		method: "POST", path: "/v1/verify", id: "verify", tag: "Verification", summary: "Ask for the verdict on a key",
		description: "Always 200, with the verdict, whatever it is. A key of another organization than the caller's is NOT_FOUND. For MALFORMED and NOT_FOUND the answer holds valid, code, position and staleness alone. Give at_least the position of a change to be sure that the verdict rests on it. Leave out what is not asked: an empty permission, workspace or at_least is refused, so that a variable that was never set makes no yes. " + asksQueries,
		who:         "A management key of any role, of the organization or of the installation. One that is limited to workspaces must ask about a workspace among them; anything else is forbidden.",
		takes:       wire.VerifyRequest{}, answers: wire.Verdict{}, status: 200, codes: []string{"invalid_position", "invalid_value"},
		example: wire.VerifyRequest{Secret: "kl_live_…", Permission: "interview:start", Workspace: "support"},
		raw:     http.HandlerFunc(s.verify),
	}
}
