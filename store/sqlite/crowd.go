package sqlite

import "crypto/sha256"

// crowd has a value for each of very many ids. The garbage collector, which goes through all
// memory that has pointers time and again, finds few objects in it and none in its map: with
// a map of pointers by text, it would take a seventh of what sends cost while 100,000
// apps send.
type crowd[ID ~string, V any] struct {
	places map[crowdKey]int32
	chunks []*[crowdChunk]V
	free   []int32 // places of what was deleted
}

// crowdChunk is how many values share a piece of memory.
const crowdChunk = 128

// crowdKey is an id of less than 32 bytes and its length, or otherwise its hash.
type crowdKey [32]byte

func crowdKeyOf(id string) (k crowdKey) {
	last := len(k) - 1
	if len(id) <= last {
		copy(k[:], id)
		k[last] = byte(len(id))
		return k
	}
	hash := sha256.Sum256([]byte(id))
	copy(k[:last], hash[:])
	k[last] = 0xff
	return k
}

// get returns the value of an id, or nil where there is none.
func (c *crowd[ID, V]) get(id ID) *V {
	if place, ok := c.places[crowdKeyOf(string(id))]; ok {
		return c.at(place)
	}
	return nil
}

func (c *crowd[ID, V]) at(place int32) *V { return &c.chunks[place/crowdChunk][place%crowdChunk] }

// add returns a zero value for an id that has none. It stays where it is until it is deleted.
func (c *crowd[ID, V]) add(id ID) *V {
	if c.places == nil {
		c.places = make(map[crowdKey]int32)
	}
	place := int32(len(c.places) + len(c.free)) // which are all that were given out
	if last := len(c.free) - 1; last >= 0 {
		place, c.free = c.free[last], c.free[:last]
	}
	if int(place) == len(c.chunks)*crowdChunk {
		c.chunks = append(c.chunks, new([crowdChunk]V))
	}
	c.places[crowdKeyOf(string(id))] = place
	return c.at(place)
}

// len is how many there are.
func (c *crowd[ID, V]) len() int { return len(c.places) }

// deleteFunc deletes those of which del is true. Their places are given to others.
func (c *crowd[ID, V]) deleteFunc(del func(*V) bool) {
	for key, place := range c.places {
		if v := c.at(place); del(v) {
			*v = *new(V)
			delete(c.places, key)
			c.free = append(c.free, place)
		}
	}
}

// clear deletes all. Nothing takes the places of what somebody may still have in hand.
func (c *crowd[ID, V]) clear() { *c = crowd[ID, V]{} }
