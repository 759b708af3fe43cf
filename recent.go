package gateway

import "sync"

// recent is a bounded cache that keeps what was used last. It has two maps: when the young
// one is full, the old one is dropped and the young one grows old. So nothing has to be
// written down when something is used, there are no lists for the garbage collector to go
// through, and what is dropped is not in order, but old.
type recent[K comparable, V any] struct {
	half       int // what each map may have
	mu         sync.RWMutex
	young, old map[K]V
}

// newRecent returns a cache of at most so many entries. It keeps at least the half of them
// that were used last.
func newRecent[K comparable, V any](most int) *recent[K, V] {
	return &recent[K, V]{half: max(1, most/2), young: make(map[K]V)}
}

// get returns what was added last under a key, and uses it.
func (c *recent[K, V]) get(k K) (v V, ok bool) {
	c.mu.RLock()
	v, ok = c.young[k]
	c.mu.RUnlock()
	if ok {
		return v, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok = c.peekLocked(k); ok {
		c.addLocked(k, v)
	}
	return v, ok
}

// peek is get without the use.
func (c *recent[K, V]) peek(k K) (v V, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.peekLocked(k)
}

func (c *recent[K, V]) peekLocked(k K) (v V, ok bool) {
	if v, ok = c.young[k]; !ok {
		v, ok = c.old[k]
	}
	return v, ok
}

// add puts something under a key, in the place of what was there.
func (c *recent[K, V]) add(k K, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addLocked(k, v)
}

func (c *recent[K, V]) addLocked(k K, v V) {
	if _, ok := c.young[k]; !ok && len(c.young) >= c.half {
		c.old, c.young = c.young, make(map[K]V)
	}
	c.young[k] = v
	delete(c.old, k)
}

// remove forgets what is under a key.
func (c *recent[K, V]) remove(k K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.young, k)
	delete(c.old, k)
}
