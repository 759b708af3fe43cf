package redis

import (
	"context"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/connexease/caddy-whatsapp-gateway/store/linger"
)

// send runs a script that every send needs in one place, as one round trip that is shared with
// others under way. It may run more than once.
func (s *Store) send(ctx context.Context, sc *script, p place, r request) (reply string, err error) {
	deadline := s.deadline(ctx)
	err = s.attempts(ctx, deadline, func() (err error) {
		reply, err = s.sendOnce(ctx, sc, p, r, deadline)
		return err
	})
	return reply, err
}

func (s *Store) sendOnce(ctx context.Context, sc *script, p place, r request, deadline time.Time) (string, error) {
	j, err := s.newJob(ctx, sc, p, r, deadline)
	if err != nil {
		return "", err
	}
	a := s.lanes.to(j.node).run(ctx, j)
	switch {
	case a.err == nil:
		return a.reply, nil
	case moved(a.err): // to another node, which the client of the Cluster knows how to find
		ctx, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		reply, err := s.eval(ctx, sc, p, []any{[]byte(r.packed(nil))})
		text, _ := reply.(string)
		return text, err
	case a.sent && !unsent(a.err):
		return "", lostError{a.err}
	}
	return "", a.err
}

func (s *Store) newJob(ctx context.Context, sc *script, p place, r request, deadline time.Time) (*job, error) {
	node, err := s.nodeOf(ctx, s.base(p), deadline)
	if err != nil {
		return nil, err
	}
	j := jobs.Get().(*job)
	j.node, j.script, j.request, j.deadline = node, sc, r, deadline
	j.args[argSHA], j.args[argBase], j.args[argNoKey], j.args[argNow] = sc.boxed, s.boxed[p][0], s.boxed[p][1], s.now()
	return j, nil
}

// nodeOf is the client of the server that a key is on.
func (s *Store) nodeOf(ctx context.Context, key string, deadline time.Time) (*goredis.Client, error) {
	cluster, ok := s.client.(*goredis.ClusterClient)
	if !ok {
		return s.client.(*goredis.Client), nil
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	return cluster.MasterForKey(ctx, key)
}

// moved tells that another node of a Cluster is to be asked: nothing was run here.
func moved(err error) bool {
	return goredis.HasErrorPrefix(err, "MOVED") || goredis.HasErrorPrefix(err, "ASK")
}

// lanes are the lanes to all servers, by their addresses: a Cluster has several, and none
// waits for another.
type lanes struct {
	byAddress sync.Map
	pace
	mayScatter bool // as in each lane
}

func newLanes(apart linger.Linger) lanes {
	return lanes{pace: pace{maxQueued, maxAlone, spoiltFor, apart}}
}

func (l *lanes) to(node *goredis.Client) *lane {
	address := node.Options().Addr
	known, ok := l.byAddress.Load(address)
	if !ok {
		known, _ = l.byAddress.LoadOrStore(address, &lane{pace: l.pace, mayScatter: l.mayScatter})
	}
	return known.(*lane)
}

// wait waits for what is under way and nobody waits for.
func (l *lanes) wait() {
	l.byAddress.Range(func(_, known any) bool {
		known.(*lane).byNobody.Wait()
		return true
	})
}
