package redis

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
)

const (
	// maxTogether is how many jobs are sent in one write. Redis serves nobody else
	// while it runs what it has read from one connection.
	maxTogether = 128
	// maxQueued is how long a job waits for the answers to those before it. Then it is
	// sent on another connection: on a long way to Redis, or where one connection hangs,
	// jobs overtake one another as they would without a lane. It is longer than goroutines
	// wait for a processor on a busy machine, where overtaking would make many small runs.
	maxQueued = 4 * time.Millisecond
	// maxAlone is how long a job for which nobody waits stays until one comes for which somebody does, and
	// maxPatient is how many of them need no such company.
	maxAlone   = 2 * time.Millisecond
	maxPatient = 32
)

// lane is the way to one server of the scripts that every send needs, or of look-ups of keys. What comes while
// others wait for their answers is sent with all that has come by then, in one write: the
// server then reads once, writes to its disk once and answers once; see [convoy]. A job that is
// alone is sent at once, unless nobody waits for it. One of those who wait does the sending, so that there are no
// goroutines to end, and nothing is sent twice.
//
// go-redis's AutoPipeline is experimental and sends under a context of its own, so that a deadline
// of a caller's bounds its wait, and neither the command's time in the queue nor on the way; who
// gave up is not told whether it was sent. In full duplex it repeats what a broken connection
// has left unanswered.
type lane struct {
	// maxQueued and maxAlone are the constants, but for tests.
	maxQueued, maxAlone time.Duration

	mu sync.Mutex
	// waiting are the jobs that are not sent yet.
	waiting []*job
	// leaders is how many jobs send, or have been told to.
	leaders int
	// relieved are the convoys that are sent by a goroutine of their own; see lead.
	relieved sync.WaitGroup
}

// answer is what became of a job.
type answer struct {
	reply string
	// read is what a job that asks questions was answered to each.
	read []reading
	err  error
	// sent: it may have run, or run yet, although err is no answer of Redis's.
	sent bool
}

// run has a job done, together with others where there are some, and releases it.
func (l *lane) run(ctx context.Context, j *job) answer {
	l.mu.Lock()
	j.queued = true
	l.waiting = append(l.waiting, j)
	if l.leaders == 0 && l.urgent() {
		l.appoint(j)
	}
	l.mu.Unlock()
	queued := l.maxQueued
	if j.patient {
		queued = l.maxAlone
	}
	j.timer.Reset(min(queued, time.Until(j.deadline)))
	for {
		select {
		case done := <-j.turn:
			if done || l.lead(j) {
				return j.release()
			}
		case <-j.timer.C:
			left := time.Until(j.deadline)
			if left <= 0 {
				return l.leave(j, context.DeadlineExceeded)
			}
			if l.overtake(j) {
				left = min(l.maxQueued, left)
			}
			j.timer.Reset(left)
		case <-ctx.Done():
			return l.leave(j, ctx.Err())
		}
	}
}

// appoint tells a job that waits to lead.
func (l *lane) appoint(j *job) {
	l.leaders++
	j.leads = true
	j.turn <- false
}

// appointNext has the job lead that has the most time left, since a convoy has the time of
// whoever in it has most.
func (l *lane) appointNext() {
	var next *job
	for _, j := range l.waiting {
		if !j.leads && (next == nil || j.deadline.After(next.deadline)) {
			next = j
		}
	}
	if next != nil {
		l.appoint(next)
	}
}

// urgent tells whether what waits is to be sent by itself.
func (l *lane) urgent() bool {
	return len(l.waiting) >= maxPatient || slices.ContainsFunc(l.waiting, func(j *job) bool { return !j.patient })
}

// overtake has those that wait sent although others are under way, and tells whether the job
// is one of them.
func (l *lane) overtake(j *job) (queued bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if j.queued && !j.leads {
		l.appointNext()
	}
	return j.queued
}

// leave ends the wait for a job. One that was not sent never will be.
func (l *lane) leave(j *job, err error) answer {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !j.queued {
		select {
		case <-j.turn:
			return j.release() // it is done after all
		default:
			j.timer.Stop()
			return answer{err: err, sent: true} // whoever sends it still has it
		}
	}
	l.waiting = slices.DeleteFunc(l.waiting, func(other *job) bool { return other == j })
	j.queued = false
	if j.leads {
		<-j.turn
		l.resign(j)
	}
	j.release()
	return answer{err: err}
}

// resign ends a job's lead. Where nobody else leads, the next one does, if there is one that does not wait for company.
func (l *lane) resign(j *job) {
	j.leads = false
	if l.leaders--; l.leaders == 0 && l.urgent() {
		l.appointNext()
	}
}

// lead sends a job and those that wait with it, and tells whether it is done. A job with
// less time than one of the others does not wait until theirs is over.
func (l *lane) lead(j *job) (done bool) {
	runtime.Gosched() // who is about to come, comes along
	l.mu.Lock()
	b := l.take(j)
	l.mu.Unlock()
	if b.deadline.Sub(j.deadline) > maxQueued {
		l.relieved.Go(func() {
			b.send()
			l.arrived(j, b, nil)
		})
		return false
	}
	b.send()
	l.arrived(j, b, j)
	return true
}

// arrived tells the jobs of a convoy that they are done, but for the one that knows.
func (l *lane) arrived(leader *job, b *convoy, knows *job) {
	l.mu.Lock()
	l.resign(leader)
	l.mu.Unlock()
	for _, j := range b.jobs {
		if j != knows {
			j.turn <- true
		}
	}
	b.release()
}

// take takes the jobs that a leader sends: its own, and those to the same server that
// nobody else has been told to send.
func (l *lane) take(leader *job) *convoy {
	b := convoys.Get().(*convoy)
	b.deadline = leader.deadline
	kept := l.waiting[:0]
	b.jobs = append(b.jobs, leader)
	for _, j := range l.waiting {
		switch {
		case j == leader:
		case j.leads || j.node != leader.node || len(b.jobs) == maxTogether:
			kept = append(kept, j)
			continue
		default:
			b.jobs = append(b.jobs, j)
		}
		j.queued = false
		if j.deadline.After(b.deadline) {
			b.deadline = j.deadline
		}
	}
	clear(l.waiting[len(kept):])
	l.waiting = kept
	return b
}
