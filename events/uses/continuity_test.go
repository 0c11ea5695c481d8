package uses

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keyledger/keyledger/events"
)

const (
	edge  = events.VerifierID("edge-1")
	other = events.VerifierID("edge-2")
	acme  = events.OrgID("acme")
	beta  = events.OrgID("beta")
)

func boot(v events.VerifierID, id byte, at events.Time, bound uint64) Header {
	return Header{Kind: KindBoot, Org: events.System, Verifier: v, Boot: BootID{id}, From: at, To: at, Bound: bound}
}

func block(org events.OrgID, v events.VerifierID, id byte, first, last uint64, from, to events.Time) Header {
	return Header{Kind: KindUses, Org: org, Verifier: v, Boot: BootID{id}, First: first, Last: last, From: from, To: to}
}

func end(org events.OrgID, v events.VerifierID, id byte, last uint64, at events.Time) Header {
	return Header{Kind: KindEnd, Org: org, Verifier: v, Boot: BootID{id}, Last: last, From: at, To: at}
}

func endAll(v events.VerifierID, id byte, last, total, orgs uint64, at events.Time) Header {
	h := end(events.System, v, id, last, at)
	h.Total, h.Organizations = total, orgs
	return h
}

func TestContinuity(t *testing.T) {
	find := func(kind FindingKind, org events.OrgID, first, last, count uint64, from, to events.Time) Finding {
		return Finding{Kind: kind, Verifier: edge, Boot: BootID{1}, Org: org, First: first, Last: last, Count: count, From: from, To: to}
	}
	unended := find(FindingUnended, events.System, 0, 0, 100, 10, 40)
	for _, tt := range []struct {
		name    string
		c       Continuity
		blocks  []Header
		want    []Finding
		unended []Finding
	}{
		{
			name: "a clean boot of two organizations",
			blocks: []Header{
				boot(edge, 1, 10, 100), block(acme, edge, 1, 1, 5, 11, 12), block(beta, edge, 1, 1, 1, 12, 12),
				block(acme, edge, 1, 6, 6, 13, 13), end(acme, edge, 1, 6, 20), end(beta, edge, 1, 1, 20), endAll(edge, 1, 0, 7, 2, 20),
			},
		},
		{
			name: "a block is missing",
			blocks: []Header{
				boot(edge, 1, 10, 100), block(acme, edge, 1, 1, 5, 11, 12), block(acme, edge, 1, 9, 9, 30, 40),
			},
			want:    []Finding{find(FindingMissing, acme, 6, 8, 3, 12, 30)},
			unended: []Finding{unended},
		},
		{
			name:    "the first block is missing",
			blocks:  []Header{boot(edge, 1, 10, 100), block(acme, edge, 1, 6, 9, 30, 40)},
			want:    []Finding{find(FindingMissing, acme, 1, 5, 5, 10, 30)},
			unended: []Finding{unended},
		},
		{
			name: "the last block is missing",
			blocks: []Header{
				boot(edge, 1, 10, 100), block(acme, edge, 1, 1, 5, 11, 12), end(acme, edge, 1, 7, 20), endAll(edge, 1, 0, 7, 1, 20),
			},
			want: []Finding{find(FindingMissing, acme, 6, 7, 2, 12, 20)},
		},
		{
			name:   "all of an organization is missing",
			blocks: []Header{boot(edge, 1, 10, 100), block(acme, edge, 1, 1, 5, 11, 12), end(acme, edge, 1, 5, 20), endAll(edge, 1, 0, 9, 2, 20)},
			want:   []Finding{find(FindingTotal, events.System, 0, 0, 4, 20, 20)},
		},
		{
			name: "blocks come again",
			blocks: []Header{
				boot(edge, 1, 10, 100), block(acme, edge, 1, 1, 5, 11, 12), block(acme, edge, 1, 1, 5, 11, 12), block(acme, edge, 1, 4, 7, 12, 40),
			},
			want:    []Finding{find(FindingRepeated, acme, 1, 5, 5, 11, 12), find(FindingRepeated, acme, 4, 5, 2, 12, 40)},
			unended: []Finding{unended},
		},
		{
			name: "marks come again",
			blocks: []Header{
				boot(edge, 1, 10, 100), boot(edge, 1, 10, 100), block(acme, edge, 1, 1, 5, 11, 12),
				end(acme, edge, 1, 5, 20), end(acme, edge, 1, 5, 20), endAll(edge, 1, 0, 5, 1, 20), end(acme, edge, 1, 5, 20), endAll(edge, 1, 0, 5, 1, 20),
			},
		},
		{
			name: "uses after the end",
			blocks: []Header{
				boot(edge, 1, 10, 100), end(acme, edge, 1, 0, 12), block(acme, edge, 1, 1, 5, 13, 14), endAll(edge, 1, 0, 0, 0, 20), block(beta, edge, 1, 1, 1, 30, 30),
			},
			want: []Finding{find(FindingAfterEnd, acme, 1, 5, 5, 13, 14), find(FindingAfterEnd, beta, 1, 1, 1, 30, 30)},
		},
		{
			name:   "an end before what was seen",
			blocks: []Header{boot(edge, 1, 10, 100), block(acme, edge, 1, 1, 5, 11, 12), end(acme, edge, 1, 3, 20), endAll(edge, 1, 0, 5, 1, 20)},
			want:   []Finding{find(FindingAfterEnd, acme, 4, 5, 2, 20, 20)},
		},
		{
			name:   "a crash and a new boot",
			blocks: []Header{boot(edge, 1, 10, 100), block(acme, edge, 1, 1, 5, 11, 40), boot(edge, 2, 50, 100), block(acme, edge, 2, 1, 1, 51, 51)},
			unended: []Finding{
				{Kind: FindingUnended, Verifier: edge, Boot: BootID{1}, Org: events.System, Count: 100, From: 10, To: 40, Superseded: true},
				{Kind: FindingUnended, Verifier: edge, Boot: BootID{2}, Org: events.System, Count: 100, From: 50, To: 51},
			},
		},
		{
			name:   "two verifiers do not mix",
			blocks: []Header{boot(edge, 1, 10, 100), boot(other, 1, 10, 100), block(acme, edge, 1, 1, 5, 11, 40), block(acme, other, 1, 1, 5, 11, 40)},
			unended: []Finding{
				unended,
				{Kind: FindingUnended, Verifier: other, Boot: BootID{1}, Org: events.System, Count: 100, From: 10, To: 40},
			},
		},
		{
			name:   "no mark",
			blocks: []Header{block(acme, edge, 1, 1, 5, 11, 12), endAll(edge, 1, 0, 5, 1, 20)},
			want:   []Finding{find(FindingUnmarked, acme, 0, 0, 0, 11, 12)},
		},
		{
			name: "a trimmed stream",
			c:    Continuity{Trimmed: true},
			blocks: []Header{
				block(acme, edge, 1, 7, 9, 11, 12), block(acme, edge, 1, 11, 11, 13, 13), end(acme, edge, 1, 11, 20), end(beta, edge, 1, 3, 20), endAll(edge, 1, 0, 14, 2, 20),
			},
			want: []Finding{find(FindingMissing, acme, 10, 10, 1, 12, 13)},
		},
		{
			name:   "a trimmed stream and a new boot",
			c:      Continuity{Trimmed: true},
			blocks: []Header{boot(edge, 1, 10, 100), block(acme, edge, 1, 2, 2, 11, 11), endAll(edge, 1, 0, 2, 1, 20)},
			want:   []Finding{find(FindingMissing, acme, 1, 1, 1, 10, 11)},
		},
		{
			name:    "a filtered stream",
			c:       Continuity{Filtered: true},
			blocks:  []Header{block(acme, edge, 1, 2, 3, 11, 12), end(acme, edge, 1, 3, 20)},
			want:    []Finding{find(FindingMissing, acme, 1, 1, 1, 11, 11)},
			unended: []Finding{find(FindingUnended, events.System, 0, 0, 0, 11, 20)},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []Finding
			for _, h := range tt.blocks {
				_, findings := tt.c.Add(h)
				got = append(got, findings...)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Error("findings", diff)
			}
			if diff := cmp.Diff(tt.unended, tt.c.Unended(), cmpopts.EquateEmpty()); diff != "" {
				t.Error("unended", diff)
			}
		})
	}
}

func TestFresh(t *testing.T) {
	var c Continuity
	for i, tt := range []struct {
		h    Header
		want uint64
	}{
		{boot(edge, 1, 10, 100), 0},
		{block(acme, edge, 1, 1, 5, 11, 12), 1},
		{block(acme, edge, 1, 1, 5, 11, 12), 0},
		{block(acme, edge, 1, 4, 7, 11, 12), 6},
		{block(acme, edge, 1, 10, 11, 11, 12), 10},
		{end(acme, edge, 1, 11, 20), 0},
		{block(acme, edge, 1, 12, 12, 11, 12), 0},
	} {
		if got, _ := c.Add(tt.h); got != tt.want {
			t.Errorf("block %d: new from %d, want %d", i, got, tt.want)
		}
	}
}

// TestRestore stops after every block and goes on with what was kept.
func TestRestore(t *testing.T) {
	stream := []Header{
		boot(edge, 1, 10, 100), block(acme, edge, 1, 1, 5, 11, 12), block(beta, edge, 1, 2, 3, 12, 12), boot(edge, 2, 15, 100),
		block(acme, edge, 2, 1, 5, 11, 12), block(acme, edge, 1, 4, 8, 13, 13), end(acme, edge, 1, 9, 20), endAll(edge, 1, 0, 99, 3, 20), boot(edge, 3, 21, 100),
	}
	var whole Continuity
	var want, got []Finding
	for _, h := range stream {
		_, findings := whole.Add(h)
		want = append(want, findings...)
	}
	kept := map[BootID]Boot{}
	var order []BootID
	for _, h := range stream {
		var c Continuity
		for _, id := range order {
			c.Restore(kept[id])
		}
		_, findings := c.Add(h)
		got = append(got, findings...)
		b, ok := c.Boot(h.Verifier, h.Boot)
		if !ok {
			t.Fatal("a boot is not known")
		}
		if _, ok := kept[h.Boot]; !ok {
			order = append(order, h.Boot)
		}
		kept[h.Boot] = b
		if len(order) == 3 {
			if diff := cmp.Diff(whole.Unended(), c.Unended()); diff != "" {
				t.Error(diff)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
