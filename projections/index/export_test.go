package index

// LongestProbe returns the longest run of taken slots of every shard.
func (x *Index) LongestProbe() [shards]int {
	var out [shards]int
	for i := range x.table.shards {
		run := 0
		for j := range x.table.shards[i].Load().slots {
			if run++; x.table.shards[i].Load().slots[j].state() == 0 {
				run = 0
			}
			out[i] = max(out[i], run)
		}
	}
	return out
}

// LimitGrants lowers the number of grants there is room for.
func (x *Index) LimitGrants(n uint32) { x.grants.limit = n }
