package delivery

import (
	"container/list"
	"context"
	"sync"
)

// slots are what attempts need to be under way: so many in all, and so many of
// each endpoint. One that is given back goes to whoever waits and has the fewest,
// and among those to who has waited longest. So an endpoint that is slow, and has
// many under way all the time, gets what the others leave.
type slots struct {
	mu   sync.Mutex
	free int
	// waiting are the shares that wait, by how many slots they have; those that
	// have all they may are not in there but come back with their next one.
	waiting []list.List
}

// share is what one endpoint has of the slots. The zero value has none. Only
// one goroutine at a time may acquire for it.
type share struct {
	held    int           // guarded by slots.mu
	waiter  chan struct{} // gets a value once a slot is there; nil if nobody waits
	element *list.Element // its place among the waiting; nil where it has all it may
}

func newSlots(total, perEndpoint int) *slots {
	return &slots{free: total, waiting: make([]list.List, perEndpoint)}
}

// acquire waits for a slot and returns how many it took: as many as are free at
// that time, up to most. It returns 0 once ctx is done.
func (s *slots) acquire(ctx context.Context, sh *share, most int) int {
	if ctx.Err() != nil {
		return 0
	}
	s.mu.Lock()
	if n := min(most, s.free, len(s.waiting)-sh.held); n > 0 { // then nobody else can be waiting
		s.take(sh, n)
		s.mu.Unlock()
		return n
	}
	granted := make(chan struct{}, 1)
	sh.waiter = granted
	s.enqueue(sh)
	s.mu.Unlock()
	select {
	case <-granted:
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		if sh.waiter == nil { // it came at the same time
			s.put(sh, 1)
			return 0
		}
		s.dequeue(sh)
		sh.waiter = nil
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	more := max(0, min(most-1, s.free, len(s.waiting)-sh.held))
	s.take(sh, more)
	return 1 + more
}

// release gives n slots back.
func (s *slots) release(sh *share, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(sh, n)
}

// heldBy returns how many slots a share has.
func (s *slots) heldBy(sh *share) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sh.held
}

func (s *slots) take(sh *share, n int) {
	s.free -= n
	sh.held += n
}

func (s *slots) put(sh *share, n int) {
	if sh.waiter != nil {
		s.dequeue(sh)
	}
	s.take(sh, -n)
	if sh.waiter != nil {
		s.enqueue(sh)
	}
	for s.free > 0 && s.grant() {
	}
}

// grant gives one slot to the first who waits.
func (s *slots) grant() bool {
	for i := range s.waiting {
		first := s.waiting[i].Front()
		if first == nil {
			continue
		}
		sh := first.Value.(*share)
		s.dequeue(sh)
		s.take(sh, 1)
		sh.waiter <- struct{}{}
		sh.waiter = nil
		return true
	}
	return false
}

func (s *slots) enqueue(sh *share) {
	if sh.held < len(s.waiting) {
		sh.element = s.waiting[sh.held].PushBack(sh)
	}
}

func (s *slots) dequeue(sh *share) {
	if sh.element != nil {
		s.waiting[sh.held].Remove(sh.element)
		sh.element = nil
	}
}
