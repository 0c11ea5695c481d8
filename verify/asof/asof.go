// Package asof answers what a verdict would have been at a time that has gone,
// and which event made it so, with the code that gives verdicts now: an index is
// fed with the events up to there, one by one, and asked after each.
//
//	answers, err := asof.Ask{Question: verify.Question{Permission: "interview:start"}, At: then, Leads: v.Leads}.Of(past)
//
// It records nothing, and nothing that it does touches the index that verdicts
// are given from.
package asof

import (
	"context"
	"iter"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/index"
	"github.com/keyledger/keyledger/verify"
)

// Ask is a question to the past.
type Ask struct {
	// Question is what is asked about each key. Its Secret, AtLeast and Context
	// are passed over: keys are known by their ids.
	Question verify.Question
	// At is the time that keys are judged at, whatever the events' own.
	At events.Time
	// Leads tells which key a digest leads to, such as [verify.Verifier.Leads]. A
	// digest is for ever that of the first key which came with it, and that one may
	// belong to another organization; without this every key is taken to have its
	// digest to itself.
	Leads func(events.Digest) (events.OrgID, events.KeyID, bool)
}

// Answer is the verdict on one key.
type Answer struct {
	ID events.KeyID
	verify.Decision
	// MadeBy is the position of the last event with which the code became what it
	// is, at the time that is asked about. Events that were appended as one count
	// as one: what was so between them was never so.
	MadeBy events.Position
}

// Of answers for every key whose creation is among the events, in that order. It
// takes the events of one organization that bear on them, the oldest first: all of
// those keys', and all of the organization's configuration. Its error is theirs.
func (a Ask) Of(past iter.Seq2[events.Recorded, error]) ([]Answer, error) {
	x, err := index.New(index.Config{})
	if err != nil {
		return nil, err
	}
	f := fold{ask: a, index: x, places: map[events.KeyID]int{}}
	for r, err := range past {
		if err != nil {
			return nil, err
		}
		if err := x.Apply(context.Background(), []events.Recorded{r}); err != nil {
			return nil, err
		}
		f.look(&r)
	}
	answers := make([]Answer, len(f.keys))
	for i := range f.keys {
		answers[i] = f.keys[i].Answer
	}
	return answers, nil
}

// fold is the index on its way through the past, with what was answered so far.
type fold struct {
	ask    Ask
	index  *index.Index
	keys   []asked
	places map[events.KeyID]int
}

// asked is a key with the answer of the moment.
type asked struct {
	Answer
	digest events.Digest
	// elsewhere says that the digest leads to another key.
	elsewhere bool
	code      Trace[events.Code]
}

// look judges the keys that an event may bear on: the one that it is about, or
// all of them.
func (f *fold) look(r *events.Recorded) {
	switch r.Subject.Aggregate {
	case events.AggregateKey, events.AggregateRevoked:
		if r.Subject.ID == events.RevokedAll {
			break
		}
		id, ok := r.Subject.Key()
		if !ok {
			return
		}
		at, known := f.places[id]
		if e, creates := r.Event.(events.KeyCreated); creates && !known {
			at, known = len(f.keys), true
			f.places[id] = at
			f.keys = append(f.keys, f.begin(r, id, e.Digest))
		}
		if known {
			f.judge(&f.keys[at], r)
		}
		return
	default:
	}
	for i := range f.keys {
		f.judge(&f.keys[i], r)
	}
}

func (f *fold) begin(r *events.Recorded, id events.KeyID, d events.Digest) asked {
	k := asked{Answer: Answer{ID: id}, digest: d, code: NewTrace(events.CodeNotFound, sameCode)}
	k.Code, k.At = events.CodeNotFound, f.ask.At
	if f.ask.Leads != nil {
		org, first, ok := f.ask.Leads(d)
		k.elsewhere = ok && (org != r.Subject.Org || first != id)
	}
	if k.elsewhere {
		k.MadeBy = r.Position
	}
	return k
}

func sameCode(a, b events.Code) bool { return a == b }

func (f *fold) judge(k *asked, r *events.Recorded) {
	if k.elsewhere {
		return
	}
	k.Decision = verify.Judge(f.index, k.digest, &f.ask.Question, f.ask.At)
	k.code.Look(r, k.Code)
	k.MadeBy = k.code.MadeBy()
}
