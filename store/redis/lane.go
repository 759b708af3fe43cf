package redis

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store/linger"
)

const (
	// maxTogether is how many jobs are sent in one write. Redis serves nobody else
	// while it runs what it has read from one connection.
	maxTogether = 128
	// maxQueued is how long a job waits for the answers to those before it. Then it is
	// sent on another connection: on a long way to Redis, or where one connection hangs,
	// jobs overtake one another as they would without a lane. On a busy machine, where goroutines wait for a
	// processor, overtaking would only make many small runs: so twice that wait is added, up to maxLag of it.
	maxQueued = 4 * time.Millisecond
	maxLag    = 25 * time.Millisecond
	// maxAlone is for how long an unattended job is patient: it stays until one comes that somebody waits for. As many as
	// maxPatient need no such company.
	maxAlone   = 2 * time.Millisecond
	maxPatient = 32
	// minApart and maxApart bound how long after the beginning of one convoy the next begins at the latest, where crowd jobs
	// and more are expected: it begins when they are there, or enough. To run a script costs Redis as much as what it does
	// for several sends.
	minApart = time.Millisecond
	maxApart = 4 * time.Millisecond
	crowd    = 4
	enough   = 16
	// spoiltFor is for how long runs are of one place each after one of several has failed.
	spoiltFor = time.Second
)

// pace is for how long jobs wait: the constants, but for tests.
type pace struct {
	maxQueued, maxAlone, spoiltFor time.Duration
	apart                          linger.Linger
}

// lane is the way to one server of the scripts that every send needs, or of look-ups of keys. What comes while
// others wait for their answers is sent with all that has come by then, in one write: the
// server then reads once, writes to its disk once and answers once; see [convoy]. A job that is
// alone is sent at once, unless it is unattended. One of those who wait does the sending, and only where all are unattended
// does a goroutine of its own, so that hardly any has to be started, and nothing is sent twice.
//
// go-redis's AutoPipeline is experimental and sends under a context of its own, so that a deadline
// of a caller's bounds its wait, and neither the command's time in the queue nor on the way; who
// gave up is not told whether it was sent. In full duplex it repeats what a broken connection
// has left unanswered.
type lane struct {
	pace

	mu sync.Mutex
	// waiting are the jobs that are not sent yet, and urgent how many of them are not patient.
	waiting []*job
	urgent  int
	// resting is the job that is to lead when others have come, or at a time: see minApart. began is when the last
	// convoy was sent.
	resting *job
	until   time.Time
	began   time.Time
	// expected is how many jobs that are not patient are likely to wait soon: whoever was answered last may well be back
	// soon, and is waited for with those who were there already.
	expected int
	// lag is for how long the last leader waited for a processor.
	lag time.Duration
	// leaders is how many jobs send, or have been told to.
	leaders int
	// mayScatter: a run of a script may be of several places, because no Cluster keeps them apart. spoiltUntil is until when it is
	// not, all the same, since one has failed: something in one place is spoilt, and should not hold up the others.
	mayScatter  bool
	spoiltUntil time.Time
	// byNobody are the convoys that none of those who wait sends, but a goroutine of its own.
	byNobody sync.WaitGroup
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
	l.urgent++
	l.queue(j)
	queued := l.maxQueued + 2*l.lag
	l.mu.Unlock()
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
			if wait, queued := l.overtake(j); queued {
				left = min(wait, left)
			}
			j.timer.Reset(left)
		case <-ctx.Done():
			return l.leave(j, ctx.Err())
		}
	}
}

// entrust has a job done that nobody waits for, soon and together with others. done is told what became of it, and must not block: by
// whoever sends it, and who has other jobs to tell, too. It gets the time of those that are sent with it, be it less than its own.
func (l *lane) entrust(j *job, done func(answer)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	j.done, j.patient, j.lane = done, true, l
	if j.patience == nil {
		j.patience = time.AfterFunc(l.maxAlone, j.hurry)
	} else {
		j.patience.Reset(l.maxAlone)
	}
	l.queue(j)
}

// hurry has an unattended job sent that has been patient, or has waited since.
func (j *job) hurry() {
	if wait, queued := j.lane.overtake(j); queued {
		j.patience.Reset(wait)
	}
}

// queue has a job wait to be sent.
func (l *lane) queue(j *job) {
	j.queued = true
	l.waiting = append(l.waiting, j)
	switch {
	case l.leaders == 0 && l.due():
		l.appoint(j)
	case l.crowded():
		l.wake(true)
	}
}

// appoint tells a job that waits to lead, or has it told in a moment.
func (l *lane) appoint(j *job) {
	l.leaders++
	j.leads = true
	if l.expected < crowd {
		l.tell(j)
		return
	}
	until := l.began.Add(l.apart.Limit())
	rest := time.Until(until)
	switch {
	case l.crowded():
		l.apart.Learn(true)
		l.tell(j)
	case rest <= 0: // a convoy that took as long itself teaches nothing
		l.tell(j)
	default:
		l.resting, l.until = j, until
		time.AfterFunc(rest, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if !time.Now().Before(l.until) { // else another one rests by now, be it the same job
				l.wake(false)
			}
		})
	}
}

// wake has the job lead that rests, if there is one. came tells whether as many have come as it waits for.
func (l *lane) wake(came bool) {
	if l.resting != nil {
		l.apart.Learn(came)
		l.tell(l.resting)
		l.resting = nil
	}
}

// tell tells a job to lead.
func (l *lane) tell(j *job) {
	j.told = time.Now()
	if j.unattended() {
		l.byNobody.Go(func() { l.lead(j) })
	} else {
		j.turn <- false
	}
}

// appointNext has the job lead that has the most time left, since a convoy has the time of
// whoever in it has most: one that somebody waits for, if there is one.
func (l *lane) appointNext() {
	var next *job
	for _, j := range l.waiting {
		switch {
		case j.leads:
		case next == nil, next.unattended() && !j.unattended(),
			next.unattended() == j.unattended() && j.deadline.After(next.deadline):
			next = j
		}
	}
	if next != nil {
		l.appoint(next)
	}
}

// due tells whether what waits is to be sent by itself.
func (l *lane) due() bool { return l.urgent > 0 || len(l.waiting) >= maxPatient }

// crowded tells whether what waits is to be sent although it is early.
func (l *lane) crowded() bool {
	return l.urgent >= min(l.expected, enough) || len(l.waiting) >= maxTogether
}

// overtake has those that wait sent although others are under way, unless one of them is about to do so, and
// returns for how long the job may wait yet: for its answer, or to be sent. One that was patient
// so far overtakes nobody yet.
func (l *lane) overtake(j *job) (wait time.Duration, queued bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !j.queued {
		return 0, false
	}
	patient := j.patient
	if patient {
		j.patient = false
		l.urgent++
	}
	switch {
	case l.resting != nil: // it goes along when that is over
		if l.crowded() {
			l.wake(true)
		}
	case patient && l.leaders > 0 || slices.ContainsFunc(l.waiting, func(j *job) bool { return j.leads }):
	default:
		l.appointNext()
	}
	return l.maxQueued + 2*l.lag, true
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
	l.gone(j)
	if j.leads {
		if l.resting == j {
			l.resting = nil
		} else {
			<-j.turn
		}
		l.resign(j)
	}
	j.release()
	return answer{err: err}
}

// gone notes that a job waits no longer to be sent.
func (l *lane) gone(j *job) {
	j.queued = false
	if !j.patient {
		l.urgent--
	}
}

// resign ends a job's lead. Where nobody else leads, the next one does, if there is one that does not wait for company.
func (l *lane) resign(j *job) {
	j.leads = false
	if l.leaders--; l.leaders == 0 && l.due() {
		l.appointNext()
	}
}

// lead sends a job and those that wait with it, and tells whether it is done. Somebody who waits and has
// less time than one of the others does not wait until theirs is over.
func (l *lane) lead(j *job) (done bool) {
	runtime.Gosched() // who is about to come, comes along
	l.mu.Lock()
	b := l.take(j)
	l.mu.Unlock()
	if !j.unattended() && b.deadline.Sub(j.deadline) > maxQueued {
		l.byNobody.Go(func() {
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
	l.expected = b.urgent + l.urgent
	l.mayScatter = l.mayScatter && !b.crossSlot
	if b.failed {
		l.spoiltUntil = time.Now().Add(l.spoiltFor)
	}
	l.resign(leader)
	l.mu.Unlock()
	unattended := b.jobs[:0]
	for _, j := range b.jobs {
		switch {
		case j.unattended():
			unattended = append(unattended, j)
		case j != knows:
			j.turn <- true // and it may be another's at once
		}
	}
	for _, j := range unattended {
		done := j.done
		done(j.release())
	}
	b.release()
}

// take takes the jobs that a leader sends: its own, and those to the same server that
// nobody else has been told to send.
func (l *lane) take(leader *job) *convoy {
	b := convoys.Get().(*convoy)
	b.deadline = leader.deadline
	urgent := l.urgent
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
		l.gone(j)
		if !j.unattended() && j.deadline.After(b.deadline) {
			b.deadline = j.deadline
		}
	}
	clear(l.waiting[len(kept):])
	l.waiting = kept
	l.began, b.urgent = time.Now(), urgent-l.urgent
	b.mayScatter = l.mayScatter && !l.began.Before(l.spoiltUntil)
	l.lag = min(l.began.Sub(leader.told), maxLag)
	return b
}
