package sqlite

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// Whatever is done in whatever order, each id has the value that it was given, and its
// place to itself.
func TestEachOfACrowdHasAPlaceOfItsOwn(t *testing.T) {
	var c crowd[string, int]
	want := make(map[string]int)
	ids := []string{"", "\x00", strings.Repeat("x", 30), strings.Repeat("x", 31), strings.Repeat("x", 32), strings.Repeat("x", 33)}
	for len(ids) < 5*crowdChunk {
		ids = append(ids, strings.Repeat(string(rune('a'+rand.IntN(26))), rand.IntN(60))+string(rune(len(ids))))
	}
	for step := range 20_000 {
		id := ids[rand.IntN(len(ids))]
		v := c.get(id)
		if number, ok := want[id]; ok != (v != nil) || ok && *v != number {
			t.Fatalf("%q: %v, want %d", id, v, number)
		}
		if v == nil {
			if v = c.add(id); *v != 0 {
				t.Fatalf("a new one has the value of another")
			}
		}
		*v = step + 1
		want[id] = step + 1
		switch rand.IntN(2_000) {
		case 0:
			c.clear()
			clear(want)
		case 1, 2, 3:
			odd := func(n int) bool { return n%2 == 1 }
			c.deleteFunc(func(v *int) bool { return odd(*v) })
			for id, n := range want {
				if odd(n) {
					delete(want, id)
				}
			}
		}
		if c.len() != len(want) || len(c.chunks) > len(ids)/crowdChunk+1 {
			t.Fatalf("%d ids in %d chunks, want %d", c.len(), len(c.chunks), len(want))
		}
	}
}

// What somebody has in hand while all is forgotten is nobody else's.
func TestWhatWasForgottenIsNobodyElses(t *testing.T) {
	var c crowd[string, int]
	old := c.add("a")
	c.clear()
	*c.add("b") = 1
	if *old = 2; *c.get("b") != 1 {
		t.Error("b has the place of a")
	}
}
