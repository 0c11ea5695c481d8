package gate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
)

// ReadOne reads the body of /v1/verify into one question.
func (g *Gate) ReadOne(b *Buffers) error {
	b.asked, b.Questions = append(b.asked[:0], asked{}), append(b.Questions[:0], verify.Question{})
	if err := b.asked[0].read(b.In); err != nil {
		return err
	}
	return g.question(&b.asked[0], &b.Questions[0])
}

// ReadBatch reads the body of /v1/verify/batch. It refuses all or none.
func (g *Gate) ReadBatch(b *Buffers) error {
	var err error
	if b.asked, err = readBatch(b.In, b.asked[:0]); err != nil {
		return err
	}
	if n := len(b.asked); n == 0 || n > MaxVerifyBatch {
		return domain.Refuse(domain.ErrInvalid, "requests", "must have 1 to %d members", MaxVerifyBatch)
	}
	b.Questions = b.Questions[:0]
	for i := range b.asked {
		b.Questions = append(b.Questions, verify.Question{})
		if err := g.question(&b.asked[i], &b.Questions[i]); err != nil {
			return InBatch(i, err)
		}
	}
	return nil
}

// AnswerOne asks for the verdict on the one question, and writes it.
func (g *Gate) AnswerOne(ctx context.Context, b *Buffers) {
	d := g.Judge(ctx, DoorVerify, &b.Questions[0])
	b.Out = g.AppendVerdict(b.Out[:0], &d)
}

// AnswerBatch answers the questions one after another, each as if it were alone.
// Together they wait for positions no longer than one may.
func (g *Gate) AnswerBatch(ctx context.Context, b *Buffers) error {
	waiting, cancel := context.WithTimeout(ctx, batchWait)
	defer cancel()
	b.Out = append(b.Out[:0], `{"verdicts":[`...)
	for i := range b.Questions {
		// Who has gone needs no verdict, and his keys were not used.
		if err := ctx.Err(); err != nil {
			return err
		}
		d := g.Judge(waiting, DoorVerify, &b.Questions[i])
		if i > 0 {
			b.Out = append(b.Out, ',')
		}
		b.Out = g.AppendVerdict(b.Out, &d)
	}
	b.Out = append(b.Out, "]}"...)
	return nil
}

// InBatch says of a refusal which of the requests it is about.
func InBatch(i int, err error) error {
	at := func(field string) string {
		if field == "" {
			return fmt.Sprintf("requests[%d]", i)
		}
		return fmt.Sprintf("requests[%d].%s", i, field)
	}
	var ours *Refusal
	var theirs *domain.Refusal
	switch {
	case errors.As(err, &ours):
		told := *ours
		told.Field = at(ours.Field)
		return &told
	case errors.As(err, &theirs):
		return domain.Refuse(theirs.Err, at(theirs.Field), "%s", theirs.Detail)
	case errors.Is(err, events.ErrInvalidPosition):
		return Refuse(events.ErrInvalidPosition, at("at_least"), "%s", strings.TrimPrefix(err.Error(), events.ErrInvalidPosition.Error()+": "))
	default:
		return err
	}
}

// question makes the verifier's question of what was asked.
func (g *Gate) question(a *asked, q *verify.Question) error {
	*q = verify.Question{Secret: a.secret, Permission: a.permission, Workspace: events.WorkspaceID(a.workspace)}
	switch {
	case a.secret == "":
		return domain.Refuse(domain.ErrInvalid, "secret", "is needed: the key to be judged")
	case keystring.Contains(a.permission):
		return SecretIn("permission")
	case keystring.Contains(a.workspace):
		return SecretIn("workspace")
	case keystring.Contains(a.atLeast):
		return SecretIn("at_least")
	}
	if err := g.cfg.Verifier.Check(q); err != nil {
		return NotAsked(err)
	}
	if a.atLeast != "" {
		pos, err := g.cfg.Positions().Parse(events.StreamLedger, a.atLeast)
		if err != nil {
			return err
		}
		q.AtLeast = pos
	}
	q.From = a.context.ClientIP
	q.Context = g.contextOf(a.context)
	return nil
}

// NotAsked refuses a permission that is none.
func NotAsked(err error) error {
	return domain.Refuse(domain.ErrInvalid, "permission", "%s", noQuery(err))
}

// noQuery says what is wrong with a permission.
func noQuery(err error) string {
	detail := "is no permission and no query of permissions"
	var fault *permission.QueryError
	if errors.As(err, &fault) {
		detail = "is no query such as interview:read AND (interview:start OR report:*); " + fault.Detail()
	}
	return detail
}

// contextOf is what is recorded of the context that a caller sent. A query
// may hold anything and is left out; keys elsewhere are masked, and never a
// reason to leave a use without a verdict.
func (g *Gate) contextOf(c recording.Context) recording.Context {
	c.Path, _, _ = strings.Cut(c.Path, "?")
	c.RequestID, c.Method, c.Path = keystring.Redact(c.RequestID), keystring.Redact(c.Method), keystring.Redact(c.Path)
	c.UserAgent, c.ClientIP = keystring.Redact(c.UserAgent), keystring.Redact(c.ClientIP)
	if !g.cfg.RecordClientIP {
		c.ClientIP = ""
	}
	return c
}

// AppendVerdict writes a verdict as [wire.Verdict] says.
func (g *Gate) AppendVerdict(b []byte, d *verify.Decision) []byte {
	b = append(b, `{"valid":`...)
	b = strconv.AppendBool(b, d.Valid())
	b = append(b, `,"code":"`...)
	b = append(b, d.Code.String()...)
	b = append(b, '"')
	if !d.Key.IsZero() {
		b = appendKeyOf(b, d)
	}
	b = append(b, `,"position":"`...)
	b = append(b, g.Position(d.Position)...)
	b = append(b, `","staleness":`...)
	b = appendSeconds(b, d.Staleness)
	if d.Stale {
		b = append(b, `,"stale":true`...)
	}
	if d.Asked {
		b = append(b, `,"asked":true`...)
	}
	return append(b, '}')
}

func appendKeyOf(b []byte, d *verify.Decision) []byte {
	// Ids, levels and grants are of grammars that JSON need not escape.
	b = append(b, `,"key_id":"`...)
	b = d.Key.Append(b)
	b = append(b, `","organization":"`...)
	b = append(b, d.Org...)
	b = append(b, '"')
	if d.Kind == events.KindManagement {
		b = append(b, `,"kind":"management","role":"`...)
		b = append(b, d.Role...)
		b = append(b, '"')
	}
	if p := d.Profile; p != nil && !p.Gone {
		b = append(b, `,"profile":{"id":"`...)
		b = append(b, p.ID...)
		b = append(b, `","name":`...)
		b = appendQuoted(b, p.Name.String())
		b = append(b, `,"settings":`...)
		b = append(b, p.Settings...)
		b = append(b, '}')
	}
	if d.Permissions.Level != "" {
		b = append(b, `,"permissions":{"level":"`...)
		b = append(b, d.Permissions.Level...)
		b = append(b, '"')
		b = appendTexts(b, `,"grants":[`, d.Permissions.Grants)
		b = append(b, '}')
	}
	b = append(b, `,"scope":{`...)
	if d.Scope.AllWorkspaces {
		b = append(b, `"all_workspaces":true`...)
	} else {
		b = appendTexts(b, `"workspaces":[`, d.Scope.Workspaces)
	}
	b = append(b, '}')
	if !d.ExpiresAt.IsZero() {
		b = append(b, `,"expires_at":"`...)
		b = d.ExpiresAt.Std().AppendFormat(b, time.RFC3339Nano)
		b = append(b, '"')
	}
	b = append(b, `,"scope_checked":`...)
	return strconv.AppendBool(b, d.ScopeChecked)
}

func appendTexts[T ~string](b []byte, begin string, list []T) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(b, begin...)
	for i, v := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, v...)
		b = append(b, '"')
	}
	return append(b, ']')
}

// appendQuoted writes a JSON string; what is not UTF-8 becomes U+FFFD.
func appendQuoted(b []byte, text string) []byte {
	out, err := jsontext.AppendQuote(b, text)
	if err != nil && len(out) == 0 {
		return append(b, `""`...)
	}
	return out
}

// appendSeconds writes a duration as a decimal number of seconds, by the
// millisecond. One that was never known to be short is as long as can be said.
func appendSeconds(b []byte, d time.Duration) []byte {
	if d == math.MaxInt64 {
		d = maxStaleness
	}
	ms := d.Milliseconds()
	b = strconv.AppendInt(b, ms/1000, 10)
	if ms %= 1000; ms == 0 {
		return b
	}
	b = append(b, '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10))
	for b[len(b)-1] == '0' {
		b = b[:len(b)-1]
	}
	return b
}

// NoParameters is said of a URL with a query where a key might end up in one.
const NoParameters = "this request takes no parameters: a key in a URL ends up in logs"
