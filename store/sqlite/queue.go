package sqlite

import "sync"

// queue has the operations that wait for the writer.
type queue struct {
	mu      sync.Mutex
	waiting []*operation
	awaited int // how many of them somebody waits for
	taken   int // how many of those that were taken last somebody waits for
	// expected is for how many operations somebody is likely to wait soon: those who were answered last
	// may well be back soon, and are waited for with those who were there already.
	expected int
	closed   bool
	// filled has something in it once there is an operation, urgent once somebody waits for
	// one, crowded once as many are waited for as are expected, and enough once there are so many that
	// no more need be waited for.
	filled, urgent, crowded, enough chan struct{}
}

const (
	// enoughAwaited are operations that share the cost of a commit well: with another one they gain
	// little.
	enoughAwaited = 16
	// enoughOperations are a group for which nobody has to wait.
	enoughOperations = 32
)

func newQueue() queue {
	return queue{
		filled: make(chan struct{}, 1), urgent: make(chan struct{}, 1),
		crowded: make(chan struct{}, 1), enough: make(chan struct{}, 1),
	}
}

// add puts an operation at the end, unless the queue is closed.
func (q *queue) add(op *operation) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.waiting = append(q.waiting, op)
	q.count(op, 1)
	q.tell()
	return true
}

// count adds n for an operation that somebody waits for.
func (q *queue) count(op *operation, n int) {
	if op.after == nil {
		q.awaited += n
	}
}

// tell wakes the writer where it has something to wake for.
func (q *queue) tell() {
	if n := len(q.waiting); n > 0 {
		notify(q.filled)
		if q.awaited > 0 {
			notify(q.urgent)
		}
		if q.awaited >= min(q.expected, enoughAwaited) {
			notify(q.crowded)
		}
		if n >= enoughOperations {
			notify(q.enough)
		}
	}
}

// expect is called when those that were taken last are about to be answered.
func (q *queue) expect() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.expected = q.taken + q.awaited
	drain(q.crowded)
	q.tell()
}

// take moves the first operations, at most so many, behind those in group.
func (q *queue) take(group []*operation, most int) []*operation {
	q.mu.Lock()
	defer q.mu.Unlock()
	drain(q.filled)
	drain(q.urgent)
	drain(q.crowded)
	drain(q.enough)
	n, awaited := min(most, len(q.waiting)), q.awaited
	for _, op := range q.waiting[:n] {
		q.count(op, -1)
	}
	q.taken = awaited - q.awaited
	group = append(group, q.waiting[:n]...)
	rest := copy(q.waiting, q.waiting[n:])
	clear(q.waiting[rest:])
	q.waiting = q.waiting[:rest]
	q.tell()
	return group
}

// close lets nothing more in. It tells whether there is something left.
func (q *queue) close() (left bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	return len(q.waiting) > 0
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func drain(c chan struct{}) {
	select {
	case <-c:
	default:
	}
}
