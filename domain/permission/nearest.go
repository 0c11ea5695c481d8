package permission

// Nearest returns which of have was most likely meant by want, for an error
// that says "unknown permission, did you mean …". The distance is the number of
// characters inserted, left out, replaced or swapped with their neighbour
// (Damerau-Levenshtein, each stretch edited once), without regard to ASCII case;
// of equals the first in alphabetical order wins. It gives nothing when the
// nearest is so far that naming it would only puzzle: 1 for want up to 5
// characters, 2 up to 11, 3 beyond.
func Nearest(want string, have []string) (string, bool) {
	// Longer is no typo of a name, and the bound keeps the work for one
	// candidate constant.
	if want == "" || len(want) > MaxNameLen+3 {
		return "", false
	}
	limit := min(1+len(want)/6, 3)
	best, found := "", false
	for _, candidate := range have {
		d := distance(want, candidate, limit)
		// The limit falls to the best distance so far.
		if d < limit || d == limit && (!found || candidate < best) {
			best, found, limit = candidate, true, d
		}
	}
	return best, found
}

// distance is the optimal string alignment distance of a and b, or limit+1 when
// it is more than limit.
func distance(a, b string, limit int) int {
	const width = MaxNameLen + 3 + 3 + 1 // longest want, furthest candidate
	if max(len(a), len(b)) >= width || max(len(a)-len(b), len(b)-len(a)) > limit {
		return limit + 1
	}
	// Three rows of the table: before previous, previous, current. Cells
	// further than limit from the diagonal cannot matter and count as limit+1.
	var rows [3][width]uint8
	far := uint8(limit + 1)
	prev2, prev, cur := &rows[0], &rows[1], &rows[2]
	for j := range len(b) + 1 {
		prev[j] = uint8(min(j, limit+1))
	}
	for i := 1; i <= len(a); i++ {
		lo, hi := max(1, i-limit), min(len(b), i+limit)
		cur[lo-1] = far
		if lo == 1 {
			cur[0] = uint8(min(i, limit+1))
		}
		for j := lo; j <= hi; j++ {
			ca, cb := lower(a[i-1]), lower(b[j-1])
			d := prev[j-1]
			if ca != cb {
				d++
			}
			d = min(d, prev[j]+1, cur[j-1]+1)
			if i > 1 && j > 1 && ca == lower(b[j-2]) && lower(a[i-2]) == cb {
				d = min(d, prev2[j-2]+1)
			}
			cur[j] = min(d, far)
		}
		if hi < len(b) {
			cur[hi+1] = far
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return int(prev[len(b)])
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
