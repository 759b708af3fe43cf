package redis

import (
	"context"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// question is a command that reads one key.
type question struct{ command, key string }

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

// readers are jobs that ask questions.
var readers = sync.Pool{New: func() any {
	j := newJob()
	j.reads = make([]*goredis.Cmd, maxQuestions)
	for i := range j.reads {
		j.reads[i] = goredis.NewCmd(context.Background(), "", "")
	}
	return j
}}

// read asks one server some questions, in a round trip that is shared with others under way. They
// have a lane of their own: what sends write to the disk is nothing that a reader has to wait for.
func (s *Store) read(ctx context.Context, node *goredis.Client, deadline time.Time, ask ...question) answer {
	j := readers.Get().(*job)
	j.node, j.deadline, j.reads = node, deadline, j.reads[:len(ask)]
	for i, q := range ask {
		args := j.reads[i].Args()
		args[0], args[1] = q.command, q.key
	}
	a := s.readLanes.to(node).run(ctx, j)
	for _, r := range a.read {
		if r.err != nil && r.err != goredis.Nil && moved(r.err) {
			return s.readThrough(ctx, deadline, ask)
		}
	}
	return a
}

// readThrough has the client of the Cluster find the nodes.
func (s *Store) readThrough(ctx context.Context, deadline time.Time, ask []question) (a answer) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	pipe := s.client.Pipeline()
	for _, q := range ask {
		pipe.Do(ctx, q.command, q.key)
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
	j.node, j.err, j.reads = nil, nil, j.reads[:maxQuestions]
	readers.Put(j)
	return a
}
