package redis

import "github.com/connexease/caddy-whatsapp-gateway/store"

// awayError means that Redis could not be reached, or would not serve.
type awayError struct {
	cause error
	// sent: a script may have been sent, so it may have run, or run yet.
	sent     bool
	describe func(error) string
}

// Error implements error.
func (e awayError) Error() string {
	if e.describe == nil {
		return e.cause.Error()
	}
	return e.describe(e.cause)
}

func (e awayError) Unwrap() error { return e.cause }

// fullError is a [store.ErrFull]: Redis has no room for what is to be written.
type fullError struct {
	cause error
	sent  bool // as of [awayError], before that answer
}

// Error implements error.
func (e fullError) Error() string { return store.ErrFull.Error() + ": " + e.cause.Error() }

func (e fullError) Unwrap() []error { return []error{store.ErrFull, e.cause} }
