package gateway

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Whatever is done in whatever order, a cache has what was added last, keeps the half that was
// used last, and has no more than it may.
func TestARecentCacheKeepsWhatWasUsedLast(t *testing.T) {
	const most, gone = 20, -1
	c := newRecent[int, int](most)
	last := make(map[int]int) // what was added
	var used []int            // the keys in the order of their last use; gone where they were removed
	use := func(k int) {
		if at := slices.Index(used, k); at >= 0 {
			used = slices.Delete(used, at, at+1)
		}
		used = append(used, k)
	}
	for i := range 20_000 {
		k := rand.IntN(3 * most)
		switch rand.IntN(4) {
		case 0:
			c.add(k, i)
			last[k] = i
			use(k)
		case 1:
			c.remove(k)
			delete(last, k)
			if at := slices.Index(used, k); at >= 0 {
				used[at] = gone
			}
		case 2:
			if _, ok := c.get(k); ok {
				use(k)
			}
		case 3:
			want, added := last[k]
			if v, ok := c.peek(k); ok && (!added || v != want) {
				t.Fatalf("%d is under a key, want %d", v, want)
			}
		}
		if n := len(c.young) + len(c.old); n > most {
			t.Fatalf("there are %d", n)
		}
		for _, k := range used[max(0, len(used)-most/2):] {
			if _, ok := c.peek(k); !ok && k != gone {
				t.Fatalf("one of the last %d that were used is gone", most/2)
			}
		}
	}
}
