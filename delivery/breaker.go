package delivery

import (
	"sync"
	"time"
)

const (
	// breakAfter is how many attempts in a row must have failed for an endpoint
	// to get only one at a time, and breakPatience for how long: an endpoint that
	// refuses each event once is not dead, and the first retries have to come.
	// Until then it gets one new attempt in strainPause at the most.
	breakAfter    = 10
	breakPatience = time.Minute
	strainPause   = 20 * time.Millisecond
	// minPause and maxPause bound the growing pause between the attempts that a
	// broken endpoint gets.
	minPause = time.Second
	maxPause = 30 * time.Second
)

// passage is what a breaker lets through.
type passage uint8

const (
	// closedPassage lets nothing through for now.
	closedPassage passage = iota
	// probePassage lets one attempt through, whose outcome is waited for.
	probePassage
	// openPassage lets everything through.
	openPassage
)

// breaker makes a dead endpoint cost one attempt a pause. The zero value lets
// everything through, and has no patience.
type breaker struct {
	mu       sync.Mutex
	patience time.Duration
	// url is whose failures these are: another endpoint begins anew.
	url      string
	failures int       // in a row
	since    time.Time // when the first of them was
	open     bool
	probing  bool
	pause    time.Duration
	until    time.Time // no attempt before
}

// ask tells what may begin now. After [probePassage] the next call must be
// one of succeeded, failed and spared.
func (b *breaker) ask(url string, now time.Time) passage {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.url != url {
		b.reset()
		b.url = url
	}
	switch {
	case !b.open:
		return openPassage
	case b.probing || now.Before(b.until):
		return closedPassage
	}
	b.probing = true
	return probePassage
}

// paused tells whether nothing may begin for now.
func (b *breaker) paused(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open && (b.probing || now.Before(b.until))
}

// broken tells whether only one attempt at a time may be under way.
func (b *breaker) broken() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}

// strained tells whether the endpoint may be about to break.
func (b *breaker) strained() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.open && b.failures >= breakAfter
}

// spared says that a probe did not take place.
func (b *breaker) spared(url string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.url == url {
		b.probing = false
	}
}

// succeeded notes a success and tells whether it ended a row of failures that
// had been too long.
func (b *breaker) succeeded(url string) (mended bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.url != url {
		return false
	}
	mended = b.open
	b.reset()
	return mended
}

// failed notes a failure and tells whether the row has become too long with it.
// What was under way when it did makes the pause no longer.
func (b *breaker) failed(url string, passed passage, now time.Time) (broke bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.url != url {
		return false
	}
	if b.failures++; b.failures == 1 {
		b.since = now
	}
	broke = !b.open && b.failures >= breakAfter && now.Sub(b.since) >= b.patience
	switch {
	case broke:
		b.open = true
		b.pause = minPause
	case passed == probePassage:
		b.probing = false
		b.pause = min(2*b.pause, maxPause)
	default:
		return false
	}
	b.until = now.Add(jitter(b.pause))
	return broke
}

func (b *breaker) reset() {
	b.failures, b.since, b.open, b.probing, b.pause, b.until = 0, time.Time{}, false, false, 0, time.Time{}
}
