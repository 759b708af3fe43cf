package redis

import (
	"context"
	"slices"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// convoy is jobs that are sent together. It has until the latest of their deadlines; each of
// those who wait leaves at its own.
type convoy struct {
	jobs   []*job
	urgent int // how many of them were not patient
	// mayScatter: a run may be of several places.
	mayScatter bool
	// crossSlot: such a run was refused, because the server is one of a Cluster.
	crossSlot bool
	// failed: such a run has answered nothing, because something in one of the places is spoilt.
	failed   bool
	deadline time.Time
	groups   []group
	commands []goredis.Cmder
}

// group is those jobs of a convoy that are one run of a script, in the same place or, where there is no Cluster, in several. What
// it reads and writes for all those of a place, it reads and writes once.
type group struct {
	bundles []bundle
	// names are the holds and messages that they are about.
	names map[name]struct{}
	// scattered: they are of several places.
	scattered bool
	// args and command are those of several jobs. One alone has its own.
	args    []any
	command *goredis.StringSliceCmd
}

var convoys = sync.Pool{New: func() any { return new(convoy) }}

func (b *convoy) release() {
	for i := range b.groups {
		g := &b.groups[i]
		for i := range g.bundles {
			g.bundles[i].clear()
		}
		clear(g.args)
		clear(g.names)
		g.bundles, g.args, g.command, g.scattered = g.bundles[:0], g.args[:0], nil, false
	}
	clear(b.jobs)
	clear(b.commands)
	b.crossSlot, b.failed = false, false
	b.jobs, b.groups, b.commands = b.jobs[:0], b.groups[:0], b.commands[:0]
	convoys.Put(b)
}

// name is that of a hold or of a message.
type name struct {
	text    string
	message bool
}

// join adds a job to its group.
func (b *convoy) join(j *job) {
	j.written = false
	for i := range b.groups {
		g := &b.groups[i]
		first := g.bundles[0].jobs[0]
		elsewhere := first.args[argBase] != j.args[argBase]
		if elsewhere && !b.mayScatter || first.args[argNow] != j.args[argNow] || g.isAbout(&j.request) {
			continue
		}
		g.scattered = g.scattered || elsewhere
		g.join(j)
		return
	}
	b.groups = another(b.groups)
	b.groups[len(b.groups)-1].join(j)
}

// isAbout tells whether a job of the group is about the same hold or message as a request.
func (g *group) isAbout(r *request) bool {
	_, hold := g.names[name{string(r.hold), false}]
	_, message := g.names[name{r.message, true}]
	return hold || message
}

// join adds a job to its bundle.
func (g *group) join(j *job) {
	if g.names == nil {
		g.names = make(map[name]struct{})
	}
	if j.request.hold != "" {
		g.names[name{string(j.request.hold), false}] = struct{}{}
	}
	if j.request.message != "" {
		g.names[name{j.request.message, true}] = struct{}{}
	}
	for i := range g.bundles {
		if b := &g.bundles[i]; b.takes(j) {
			b.jobs = append(b.jobs, j)
			return
		}
	}
	g.bundles = another(g.bundles)
	b := &g.bundles[len(g.bundles)-1]
	b.jobs = append(b.jobs, j)
}

// another adds an element, with what it was made of before.
func another[T any](all []T) []T {
	if n := len(all); n < cap(all) {
		return all[:n+1]
	}
	return append(all, *new(T))
}

// alone is the only job of a group, or nil.
func (g *group) alone() *job {
	if len(g.bundles) == 1 && len(g.bundles[0].jobs) == 1 {
		return g.bundles[0].jobs[0]
	}
	return nil
}

// asCommand is what a group is sent as. Behind the keys that every script declares it has the bases of all bundles, where they differ.
func (g *group) asCommand() goredis.Cmder {
	if j := g.alone(); j != nil {
		return j.command
	}
	first := g.bundles[0].jobs[0]
	g.args = append(g.args, first.args[:argNow]...)
	if g.scattered {
		for i := range g.bundles {
			g.args = append(g.args, g.bundles[i].jobs[0].args[argBase])
		}
		g.args[argKeys] = len(g.args) - argBase
	}
	g.args = append(g.args, first.args[argNow])
	for i := range g.bundles {
		b := &g.bundles[i]
		g.args = append(g.args, b)
		if b.jobs[0].script == admitScript {
			g.args[argSHA] = admitScript.boxed
		}
	}
	g.command = goredis.NewStringSliceCmd(context.Background(), g.args...)
	return g.command
}

// share gives each job of a group that was sent its answer, and tells of each whether
// it is to be sent again by itself.
func (b *convoy) share(g *group, again func(*job)) {
	if j := g.alone(); j != nil {
		if j.err = j.command.Err(); noScript(j.err) {
			again(j)
		}
		return
	}
	replies, err := g.command.Result()
	if err == nil && len(replies) != len(g.bundles) {
		err = unexpected(replies)
	}
	crossSlot := g.scattered && goredis.HasErrorPrefix(err, "CROSSSLOT")
	b.crossSlot = b.crossSlot || crossSlot
	b.failed = b.failed || g.scattered && err == nil && !slices.ContainsFunc(replies, func(reply string) bool { return reply != "" })
	for i := range g.bundles {
		if err == nil {
			g.bundles[i].answer(replies[i], again)
			continue
		}
		for _, j := range g.bundles[i].jobs {
			j.err = err
			// A full memory refuses what admits, and whatever came with it.
			if crossSlot || noScript(err) || j.script == settleScript && hasCode(err, noRoom) {
				again(j)
			}
		}
	}
}

// send sends a convoy and reads the answers. Scripts that the server does not know
// (yet, or since its cache was flushed) are sent again with their text, each for one job. So is a job
// that the script has left out of its group, because it needs more than what is usual, and so are those of a run of
// several places that a Cluster's server has refused. Nothing was written for any of them.
func (b *convoy) send() {
	ctx, cancel := context.WithDeadline(context.Background(), b.deadline)
	defer cancel()
	node := b.jobs[0].node
	known := node.Pipeline()
	for _, j := range b.jobs {
		if j.reads == nil {
			b.join(j)
		}
		for _, command := range j.reads {
			b.commands = append(b.commands, command)
		}
	}
	for i := range b.groups {
		b.commands = append(b.commands, b.groups[i].asCommand())
	}
	_ = known.BatchProcess(ctx, b.commands...) // it only notes them
	execute(ctx, known)
	var alone goredis.Pipeliner
	for i := range b.groups {
		b.share(&b.groups[i], func(j *job) {
			if alone == nil {
				alone = node.Pipeline()
			}
			j.again = alone.Eval(ctx, j.script.source, []string{j.args[argBase].(string), j.args[argNoKey].(string)}, j.args[argNow], j)
		})
	}
	if alone == nil {
		return
	}
	for _, j := range b.jobs {
		if j.again != nil {
			j.written = false
		}
	}
	execute(ctx, alone)
	for _, j := range b.jobs {
		if j.again != nil {
			text, err := j.again.Text()
			j.command.SetVal(text)
			j.err, j.again = err, nil
		}
	}
}
