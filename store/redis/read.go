package redis

import (
	"cmp"
	"context"
	"strconv"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// question is a command about one key, of which more arguments may say more. It may be asked more than once.
type question struct {
	command, key string
	more         []any
}

// args are those of the command.
func (q question) args() []any {
	if q.key == "" {
		return []any{q.command}
	}
	return append([]any{q.command, q.key}, q.more...)
}

// maxQuestions is how many of them one job has at the most.
const maxQuestions = 3

// reading is Redis's answer to one.
type reading struct {
	value any
	err   error
}

// text is the value of a record. [store.ErrNotFound]: there is none. [store.ErrCorrupt]: it is of another type.
func (r reading) text() (string, error) {
	text, ok := r.value.(string)
	if r.err == nil && !ok {
		return "", unexpected(r.value)
	}
	return text, recordError(r.err)
}

// number is a whole number.
func (r reading) number() (int64, error) {
	n, ok := r.value.(int64)
	if r.err == nil && !ok {
		return 0, unexpected(r.value)
	}
	return n, recordError(r.err)
}

// time is Redis's clock.
func (r reading) time() (time.Time, error) {
	parts, _ := r.value.([]any)
	if r.err != nil || len(parts) != 2 {
		return time.Time{}, cmp.Or(r.err, unexpected(r.value))
	}
	var n [2]int64
	for i := range n {
		text, _ := parts[i].(string)
		var err error
		if n[i], err = strconv.ParseInt(text, 10, 64); err != nil {
			return time.Time{}, unexpected(parts[i])
		}
	}
	return time.Unix(n[0], n[1]*1000), nil
}

// readers are jobs that ask questions.
var readers = sync.Pool{New: func() any {
	j := newJob()
	j.reads = make([]*goredis.Cmd, 0, maxQuestions)
	for i := range j.usual {
		j.usual[i] = goredis.NewCmd(context.Background(), "", "")
	}
	return j
}}

// read asks one server some questions, in a round trip that is shared with others under way. They
// have a lane of their own: what sends write to the disk is nothing that a reader has to wait for.
func (s *Store) read(ctx context.Context, node *goredis.Client, deadline time.Time, ask ...question) answer {
	j := readers.Get().(*job)
	j.node, j.deadline = node, deadline
	for i, q := range ask {
		command := j.usual[i]
		if args := command.Args(); q.key != "" && q.more == nil {
			args[0], args[1] = q.command, q.key
		} else {
			command = goredis.NewCmd(context.Background(), q.args()...)
		}
		j.reads = append(j.reads, command)
	}
	a := s.readLanes.to(node).run(ctx, j)
	for _, r := range a.read {
		if r.err != nil && r.err != goredis.Nil && moved(r.err) {
			return s.readThrough(ctx, deadline, ask)
		}
	}
	return a
}

// ask asks the server that a key is on one question about it or, without the key, about itself.
func (s *Store) ask(ctx context.Context, key string, q question) (r reading, err error) {
	deadline := s.deadline(ctx)
	err = s.attempts(ctx, deadline, func() error {
		node, err := s.nodeOf(ctx, key, deadline)
		if err != nil {
			return err
		}
		a := s.read(ctx, node, deadline, q)
		if a.err != nil {
			return a.err
		}
		if r = a.read[0]; r.err != goredis.Nil {
			return r.err
		}
		return nil
	})
	return r, err
}

// readThrough has the client of the Cluster find the nodes.
func (s *Store) readThrough(ctx context.Context, deadline time.Time, ask []question) (a answer) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	pipe := s.client.Pipeline()
	for _, q := range ask {
		pipe.Do(ctx, q.args()...)
	}
	commands := pipe.Cmds()
	execute(ctx, pipe)
	for _, command := range commands {
		a.read = append(a.read, readingOf(command.(*goredis.Cmd)))
	}
	return a
}

func readingOf(c *goredis.Cmd) reading { return reading{c.Val(), c.Err()} }

// releaseReads returns the answers to a job's questions, and lets it be used again.
func (j *job) releaseReads() answer {
	a := answer{err: j.err, read: make([]reading, len(j.reads))}
	for i, command := range j.reads {
		a.read[i] = readingOf(command)
		command.SetVal(nil)
		command.SetErr(nil)
	}
	clear(j.reads)
	j.node, j.err, j.reads = nil, nil, j.reads[:0]
	readers.Put(j)
	return a
}
