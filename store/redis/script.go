package redis

import (
	"context"
	"crypto/sha1"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"

	goredis "github.com/redis/go-redis/v9"
)

//go:embed scripts/*.lua
var scriptFiles embed.FS

// script is a Lua script of scripts/. KEYS[1] is the base of a place, and the keys that
// it builds from that are all in the same slot; or the one key that it is about. For many sends
// it may be given several places, see [group]. ARGV[1] is
// the time in microseconds, or nothing for Redis's own.
type script struct {
	source, sha string
	// boxed is sha, as a command's argument.
	boxed any
}

// Scripts that give back or write down what has been decided elsewhere run even
// when Redis's memory is full, which a refusal would not make better; any other
// script is refused then before it begins.
const (
	header        = "#!lua\n"
	headerAlways  = "#!lua flags=allow-oom\n"
	commonLibrary = "scripts/common.lua"
)

func newScript(header string, files ...string) *script {
	source := header
	for _, file := range append([]string{commonLibrary}, files...) {
		text, err := scriptFiles.ReadFile(file)
		if err != nil {
			panic(err) // it is part of the program
		}
		source += string(text)
	}
	sum := sha1.Sum([]byte(source)) // what Redis knows scripts by
	sha := hex.EncodeToString(sum[:])
	return &script{source, sha, sha}
}

// run runs a script in one place, as one round trip. It may run more than once.
func (s *Store) run(ctx context.Context, sc *script, p place, args ...any) (any, error) {
	var reply any
	err := s.try(ctx, func(ctx context.Context) (err error) {
		reply, err = s.eval(ctx, sc, p, args)
		return err
	})
	return reply, err
}

// eval sends a script's name and, where Redis does not know it (yet, or since its
// cache was flushed), the script.
func (s *Store) eval(ctx context.Context, sc *script, p place, args []any) (any, error) {
	keys, args := s.declared[p], append([]any{s.now()}, args...)
	reply, err := s.client.EvalSha(ctx, sc.sha, keys, args...).Result()
	if noScript(err) {
		reply, err = s.client.Eval(ctx, sc.source, keys, args...).Result()
	}
	if errors.Is(err, goredis.Nil) {
		return nil, nil
	}
	return reply, err
}

func noScript(err error) bool { return err != nil && goredis.HasErrorPrefix(err, "NOSCRIPT") }

// call is one run of a script.
type call struct {
	keys []string
	args []any
}

// evalEach runs a script once for each call, in one round trip or, where a node does
// not know the script, two.
func (s *Store) evalEach(ctx context.Context, sc *script, calls []call) []*goredis.Cmd {
	known, unknown := s.client.Pipeline(), s.client.Pipeline()
	commands := make([]*goredis.Cmd, len(calls))
	for i, c := range calls {
		commands[i] = known.EvalSha(ctx, sc.sha, c.keys, append([]any{s.now()}, c.args...)...)
	}
	execute(ctx, known)
	for i, c := range calls {
		if noScript(commands[i].Err()) {
			commands[i] = unknown.Eval(ctx, sc.source, c.keys, append([]any{s.now()}, c.args...)...)
		}
	}
	execute(ctx, unknown)
	return commands
}

// runIn runs a script in several places at the same time, with the arguments
// that are given for each, and returns the answers in the order of the places. With an
// error, those that have none are nil.
func (s *Store) runIn(ctx context.Context, sc *script, in []place, args func(place) []any) ([]any, error) {
	calls, replies := make([]call, len(in)), make([]any, len(in))
	for i, p := range in {
		calls[i] = call{s.declared[p], args(p)}
	}
	err := s.try(ctx, func(ctx context.Context) (failure error) {
		for i, command := range s.evalEach(ctx, sc, calls) {
			var err error
			replies[i], err = command.Result()
			if err != nil && !errors.Is(err, goredis.Nil) {
				replies[i], failure = nil, err
			}
		}
		return failure
	})
	return replies, err
}

// errNotSent means that a command of a pipeline was not sent.
var errNotSent = errors.New("no connection for it")

// execute sends the commands of a pipeline, each of which then has its answer or an
// error. go-redis gives none to those whose connection could not be set up.
func execute(ctx context.Context, pipe goredis.Pipeliner) {
	commands := pipe.Cmds()
	for _, command := range commands {
		command.SetErr(errNotSent)
	}
	_, err := pipe.Exec(ctx)
	notSent(commands, err)
}

// notSent says of commands that were not sent why: err is that of them all.
func notSent(commands []goredis.Cmder, err error) {
	if err == nil || errors.Is(err, errNotSent) {
		return
	}
	for _, command := range commands {
		switch {
		case command.Err() != errNotSent:
		case answered(err) || errors.Is(err, goredis.Nil): // of another command
			command.SetErr(fmt.Errorf("%w: %v", errNotSent, err))
		default:
			command.SetErr(fmt.Errorf("%w: %w", errNotSent, err))
		}
	}
}
