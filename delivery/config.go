package delivery

import (
	"fmt"
	"slices"
	"time"
)

// What a zero field of a [Config] stands for.
const (
	DefaultTimeout     = 5 * time.Second
	DefaultConcurrency = 256
	DefaultPerEndpoint = 16
)

// DefaultRetry returns the delays of the published schedule: eight attempts in
// a little more than a day.
func DefaultRetry() []time.Duration {
	return []time.Duration{
		5 * time.Second, 5 * time.Minute, 30 * time.Minute,
		2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 10 * time.Hour,
	}
}

const (
	// maxTimeout bounds Timeout, which is also how long Run may take to return.
	maxTimeout = 5 * time.Minute
	// maxConcurrency bounds how many attempts may be under way.
	maxConcurrency = 10_000
	// MaxRetries and maxRetryDelay bound Retry, so that its sum fits.
	MaxRetries    = 100
	maxRetryDelay = 30 * 24 * time.Hour
)

// Config says how events are delivered. The zero value is the default.
type Config struct {
	// Timeout bounds one attempt, from looking up the name to the status of the
	// answer. Zero means [DefaultTimeout].
	Timeout time.Duration
	// Concurrency is how many attempts are under way at the most. Zero means
	// [DefaultConcurrency].
	Concurrency int
	// PerEndpoint is how many of them may be an app's. Zero means
	// [DefaultPerEndpoint].
	PerEndpoint int
	// Retry are the delays after the first, the second … failed attempt; an
	// event has one attempt more than there are delays. None means [DefaultRetry].
	Retry []time.Duration
	// AllowPrivateTargets allows every address and http.
	AllowPrivateTargets bool
}

// Validate says what is wrong with the configuration, if anything.
func (c Config) Validate() error {
	if c.Timeout < 0 || c.Timeout > maxTimeout {
		return fmt.Errorf("the timeout of a delivery must be positive and at most %v, not %v", maxTimeout, c.Timeout)
	}
	if min(c.Concurrency, c.PerEndpoint) < 0 || max(c.Concurrency, c.PerEndpoint) > maxConcurrency {
		return fmt.Errorf("the number of deliveries at the same time must be positive and at most %d", maxConcurrency)
	}
	if len(c.Retry) > MaxRetries {
		return fmt.Errorf("there may be at most %d delays between attempts, not %d", MaxRetries, len(c.Retry))
	}
	for _, delay := range c.Retry {
		if delay <= 0 || delay > maxRetryDelay {
			return fmt.Errorf("a delay between attempts must be positive and at most %v, not %v", maxRetryDelay, delay)
		}
	}
	return nil
}

// withDefaults returns the configuration with what its zero fields stand for.
func (c Config) withDefaults() Config {
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Concurrency == 0 {
		c.Concurrency = DefaultConcurrency
	}
	if c.PerEndpoint == 0 {
		c.PerEndpoint = DefaultPerEndpoint
	}
	c.PerEndpoint = min(c.PerEndpoint, c.Concurrency)
	if len(c.Retry) == 0 {
		c.Retry = DefaultRetry()
	}
	c.Retry = slices.Clone(c.Retry)
	return c
}
