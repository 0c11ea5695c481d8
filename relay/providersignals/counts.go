package providersignals

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
)

// name names a provider key.
type name struct {
	org      events.OrgID
	provider events.ProviderID
}

// boot is one run of a server: the number of its last record, and when that came.
type boot struct {
	last uint64
	seen time.Time
}

// counts are what was counted of a provider key.
type counts struct {
	// minutes are those in which something was, in their order.
	minutes []minute
	// Nothing is told of what was before these.
	nextSpike, nextFailing events.Time
	// doubt is how long the next try waits after one that failed.
	doubt time.Duration
}

// minute is what was counted within a minute.
type minute struct {
	from     events.Time
	resolves int
	// failures are how many resolves were refused or failed, since and until when, and
	// why the last of them.
	failures     int
	since, until events.Time
	code         string
}

// Apply counts records, in their stream's order. What cannot be read is passed over,
// as is what is stored twice, or old.
func (k *Keeper) Apply(records []access.Message) {
	now := time.Now()
	oldest, newest := events.TimeOf(now.Add(-Window-late)), events.TimeOf(now.Add(late))
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, m := range records {
		if m.Stored < oldest {
			continue
		}
		r, err := access.Decode(k.cfg.Ledger, m)
		if err != nil || r.Kind != access.ProviderKeyResolved || r.Minute < oldest || r.Minute > newest {
			continue
		}
		if k.boots[r.Boot].last < r.Number {
			k.boots[r.Boot] = boot{r.Number, now}
			k.add(&r)
		}
	}
	if len(k.due) > 0 {
		select {
		case k.news <- struct{}{}:
		default: // it is awake already
		}
	}
}

// add counts a record.
func (k *Keeper) add(r *access.Record) {
	id, err := events.ParseProviderID(r.What)
	if err != nil || r.Code == "" && r.Answer != access.AnswerCustomer {
		return // the others, or the built-in allocation
	}
	n := name{r.Org, id}
	c := k.counts[n]
	if c == nil {
		if len(k.counts) >= maxCounted {
			k.dropped.Add(1)
			return
		}
		c = &counts{}
		k.counts[n] = c
	}
	count := int(min(r.Count, math.MaxInt32))
	m := c.minute(r.Minute)
	if r.Code == "" {
		m.resolves += count
	} else {
		if m.failures == 0 {
			m.since = r.FirstAt
		}
		if m.since = min(m.since, r.FirstAt); r.LastAt >= m.until {
			m.until, m.code = r.LastAt, r.Code
		}
		m.failures += count
	}
	if _, waits := k.due[n]; !waits {
		k.due[n] = time.Time{}
	}
}

// minute finds a minute, or makes it.
func (c *counts) minute(from events.Time) *minute {
	i, there := slices.BinarySearchFunc(c.minutes, from, func(m minute, from events.Time) int { return cmp.Compare(m.from, from) })
	if !there {
		c.minutes = slices.Insert(c.minutes, i, minute{from: from})
	}
	return &c.minutes[i]
}

// take returns those whose time has come.
func (k *Keeper) take(now time.Time) []name {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []name
	for n, from := range k.due {
		if !from.After(now) {
			delete(k.due, n)
			out = append(out, n)
		}
	}
	return out
}

// putBack has some tried again as soon as the ledger can be asked.
func (k *Keeper) putBack(names []name) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, n := range names {
		k.due[n] = time.Time{}
	}
}

// doubt has one tried again later, and ever later.
func (k *Keeper) doubt(ctx context.Context, n name, err error) {
	k.cfg.Logger.WarnContext(ctx, "what was seen of a provider key cannot be recorded", "organization", string(n.org), "provider", string(n.provider), "error", err)
	k.mu.Lock()
	defer k.mu.Unlock()
	if c := k.counts[n]; c != nil {
		c.doubt = min(max(2*c.doubt, firstDoubt), longestDoubt)
		k.due[n] = time.Now().Add(c.doubt)
	}
}

// candidates are what there may be to tell of a provider key: minutes with as many
// resolves as the threshold or more, and the failures of an hour that are enough.
func (k *Keeper) candidates(n name, threshold int) ([]Spike, *Failing) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.counts[n]
	if c == nil {
		return nil, nil
	}
	var spikes []Spike
	for _, m := range c.minutes {
		if threshold > 0 && m.resolves >= threshold && m.from >= c.nextSpike {
			spikes = append(spikes, Spike{n.org, n.provider, m.from, m.resolves})
		}
	}
	return spikes, c.failing(n)
}

// failing is the first hour with enough failures that were not told of.
func (c *counts) failing(n name) *Failing {
	for i, last := range c.minutes {
		if last.failures == 0 {
			continue
		}
		out := Failing{Org: n.org, Provider: n.provider, Code: last.code}
		for _, m := range c.minutes[:i+1] {
			if m.failures == 0 || m.since < c.nextFailing || m.from.Add(Window) <= last.from {
				continue
			}
			if out.Failures == 0 {
				out.Since = m.since
			}
			out.Failures += m.failures
		}
		if out.Failures >= events.FailingResolvesPerHour {
			return &out
		}
	}
	return nil
}

// silence leaves a provider key alone for as long as nothing is told of it again, or
// for an hour where that is for another reason: a policy that has just changed, or a
// provider that is not connected. It returns until when.
func (k *Keeper) silence(n name, of, next events.Time, which func(*counts) *events.Time) events.Time {
	if next <= of {
		next = of.Add(events.SpikeEvery)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.counts[n]
	if c == nil {
		return next
	}
	c.doubt = 0
	until := which(c)
	*until = max(*until, next)
	return *until
}

// forget forgets what counts no more: a minute's resolves soon, failures after the
// window, and runs of servers that have ended.
func (k *Keeper) forget(now time.Time) {
	soon, oldest := events.TimeOf(now.Add(-late)), events.TimeOf(now.Add(-Window-late))
	k.mu.Lock()
	defer k.mu.Unlock()
	for n, c := range k.counts {
		if _, waits := k.due[n]; waits {
			continue
		}
		c.minutes = slices.DeleteFunc(c.minutes, func(m minute) bool { return m.from < oldest || m.failures == 0 && m.from < soon })
		if len(c.minutes) == 0 && max(c.nextSpike, c.nextFailing) < oldest {
			delete(k.counts, n)
		}
	}
	for id, b := range k.boots {
		if now.Sub(b.seen) > Window+late {
			delete(k.boots, id)
		}
	}
}
