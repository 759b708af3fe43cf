package delivery

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

const (
	// jitterShare is by how much a delay is made longer or shorter at random, so
	// that what failed together does not come back together.
	jitterShare = 0.2
	// maxRetryAfter is how far an endpoint can put off the next attempt.
	maxRetryAfter = time.Hour
)

// jitter returns d, up to [jitterShare] longer or shorter.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((2*rand.Float64()-1)*jitterShare*float64(d))
}

// delay returns how long after a failed attempt the next one is due, where so
// many had failed before and the endpoint asked to wait for retryAfter. Not ok
// means that it was the last one.
func (c *Config) delay(failed int, retryAfter time.Duration) (delay time.Duration, ok bool) {
	if failed >= len(c.Retry) {
		return 0, false
	}
	return max(jitter(c.Retry[max(failed, 0)]), retryAfter), true
}

// lifetime is after how long an event has had all its attempts, unless they had
// to wait for others.
func (c *Config) lifetime() time.Duration {
	total := time.Duration(len(c.Retry)+1) * c.Timeout
	for _, delay := range c.Retry {
		total += delay + time.Duration(jitterShare*float64(delay))
	}
	return total
}

// retryAfter reads the header of that name (RFC 9110, section 10.2.3): whole
// seconds or a date. What it cannot be, or has passed, is 0.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := h.Get("Retry-After")
	if date, err := http.ParseTime(value); err == nil {
		return min(max(date.Sub(now), 0), maxRetryAfter)
	}
	seconds, err := strconv.ParseUint(value, 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) { // of which it returns the largest
		return 0
	}
	return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
}
