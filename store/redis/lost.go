package redis

import (
	"context"
	"errors"
	"net"

	goredis "github.com/redis/go-redis/v9"
)

// lostError is that of a command that may have run, or may run yet. It hides what it
// is made of: the client of a Cluster, which has no setting for that, repeats by itself
// whatever looks like a connection that broke.
type lostError struct{ err error }

func (e lostError) Error() string { return e.err.Error() }

// watch tells, on the client of each node, the commands that may have run from those that
// cannot have.
type watch struct{}

func (watch) DialHook(next goredis.DialHook) goredis.DialHook { return next }

// ProcessPipelineHook sees the commands of a node together. A Cluster's client sends a
// single command in this way, too, where it asks another node that a slot is moving to.
func (watch) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []goredis.Cmder) error {
		err := next(ctx, cmds)
		if err != nil && cmds[0].Name() == "asking" && !unsent(err) {
			return lostError{err}
		}
		notSent(cmds, err)
		return err
	}
}

func (watch) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		err := next(ctx, cmd)
		if inner := (lostError{}); errors.As(err, &inner) {
			return inner.err // of a command that sets the connection up: this one was not sent
		}
		if err == nil || unsent(err) {
			return err
		}
		return lostError{err}
	}
}

// unsent tells that a command cannot have run: there was no connection to send it on, or
// Redis has answered.
func unsent(err error) bool {
	var answer goredis.Error
	var dial *net.OpError
	return errors.As(err, &answer) || errors.Is(err, goredis.ErrPoolTimeout) || errors.Is(err, goredis.ErrPoolExhausted) ||
		errors.As(err, &dial) && dial.Op == "dial"
}

// Interface guards
var _ goredis.Hook = watch{}
