// Package redis is the store that any number of gateways share: one Redis or
// Valkey, alone, watched over by Sentinel, or a Cluster.
//
// An account and all that its money touches lie in one of 32 places, each of which
// is a hash tag and so one slot of a Cluster; an app's events lie in one, too. A step that has to be
// atomic is one script in one place, under Redis's clock (the steps of sends may share a run of it, see [group]), and every step can be
// repeated: it is known by the id of its operation. go-redis repeats no single command by
// itself here, because a script whose answer is lost may have run; what goes in a
// pipeline, which a Cluster's client may send again, can be repeated. The two runs of the script of
// a send share round trips with those of others, and look-ups of keys with one another: see lane.
//
// Whatever is not money has a lifetime. Keys are described in docs/redis.md.
package redis

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/linger"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// DefaultTimeout bounds one round trip, or one admission, and DefaultKeyPrefix is what keys begin with.
const (
	DefaultTimeout   = 200 * time.Millisecond
	DefaultKeyPrefix = "wagw"
)

// Options say how to reach Redis.
type Options struct {
	// Connection is what [ParseURLs] returns.
	Connection *goredis.UniversalOptions
	// Cluster says that it is one. (A Sentinel's master is named in Connection.)
	Cluster bool
	// KeyPrefix is what every key begins with. Default: [DefaultKeyPrefix].
	KeyPrefix string
	// Timeout bounds one round trip, and all of an admission's together. Default: [DefaultTimeout].
	Timeout time.Duration
	// Serving makes this a gateway among the others: without, the store is
	// opened to administer.
	Serving bool
	// Clock replaces Redis's clock in tests.
	Clock func() time.Time
	// Describe puts into words for an operator that Redis is away. Default: the error's
	// own.
	Describe func(error) string
}

// Store is a [store.Store] on Redis.
type Store struct {
	client goredis.UniversalClient
	prefix string
	// declared are the keys that a script declares, by its place; see [declare].
	declared [places][]string
	// boxed are the same, as arguments of a command.
	boxed   [places][2]any
	timeout time.Duration
	clock   func() time.Time // nil: Redis's own
	// describe is [Options.Describe], or nil.
	describe func(error) string
	serving  bool
	// id tells this store from those of other gateways.
	id     string
	logger atomic.Pointer[zap.Logger]

	generation atomic.Uint64
	// reports: it may have the lease on reporting.
	reports atomic.Bool
	// away: the last round trip failed.
	away        atomic.Bool
	homes       homes
	held        held
	fullWindows fullWindows
	lanes       lanes
	// readLanes are those of what only reads.
	readLanes lanes
	share     share
	forsake   forsaken

	trips      trips
	closing    context.Context
	cancel     context.CancelFunc
	background sync.WaitGroup
	closeOnce  sync.Once
	closeErr   error
}

// places is how many places there are. It cannot change once there is data.
const places = 32

// place is one of them.
type place int

// placeOf is where an account and its money are, or the events of an app.
func placeOf[T ~string](id T) place { return placeOfHint(store.AccountHint(tenant.AccountID(id))) }

// placeOfHint is the place of an account whose hint is known.
func placeOfHint(hint byte) place { return place(hint % places) }

// allPlaces are all there are.
func allPlaces() []place {
	all := make([]place, places)
	for i := range all {
		all[i] = place(i)
	}
	return all
}

// base is what the keys of a place begin with, such as "wagw:{07}:".
func (s *Store) base(p place) string { return s.declared[p][0] }

// declare returns the keys that a script declares, by its place: the base of that, which
// is no key, and another one that is none either. A Cluster that moves the place's slot
// to another node sends a script there whose declared keys it does not have, and the
// other node runs one with a single key on whatever of the place it has by then. With
// two it answers TRYAGAIN: the place is away until all of it has been moved.
func declare(prefix string) (keys [places][]string) {
	for p := range keys {
		base := fmt.Sprintf("%s:{%02d}:", prefix, p)
		keys[p] = []string{base, base + "-"}
	}
	return keys
}

// key is a key that is in no place: in a Cluster it is in a slot of its own.
func (s *Store) key(name string) string { return s.prefix + ":" + name }

// connect returns a client that repeats no single command and heeds deadlines.
func connect(o Options) goredis.UniversalClient {
	c := *o.Connection
	c.MaxRetries = -1
	c.ContextTimeoutEnabled = true
	c.DialTimeout, c.ReadTimeout, c.WriteTimeout = o.Timeout, o.Timeout, o.Timeout
	c.PoolTimeout = o.Timeout * 9 / 10 // so that who has waited for a connection alone is told so
	c.DialerRetries = 1
	c.PipelinePoolSize = -1 // none apart: pool_size is that of all connections
	c.IsClusterMode = o.Cluster
	c.ClientName = "whatsapp_gateway"
	c.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	switch {
	case o.Cluster:
		cluster := goredis.NewClusterClient(c.Cluster())
		cluster.OnNewNode(func(node *goredis.Client) { node.AddHook(watch{}) })
		return cluster
	case c.MasterName != "":
		client := goredis.NewFailoverClient(c.Failover())
		client.AddHook(watch{})
		return client
	default:
		client := goredis.NewClient(c.Simple())
		client.AddHook(watch{})
		return client
	}
}

// Open connects to Redis. Without one that answers it succeeds all the same: the
// gateway then works as it does whenever Redis is away.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.KeyPrefix == "" {
		o.KeyPrefix = DefaultKeyPrefix
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	s := &Store{
		client: connect(o), prefix: o.KeyPrefix, declared: declare(o.KeyPrefix), timeout: o.Timeout, clock: o.Clock, describe: o.Describe, serving: o.Serving, id: rand.Text(),
		homes: newHomes(), forsake: newForsaken(), fullWindows: fullWindows{most: maxFull}, lanes: newLanes(linger.New(minApart, maxApart)), readLanes: newLanes(linger.Linger{}),
	}
	_, cluster := s.client.(*goredis.ClusterClient)
	s.lanes.mayScatter = !cluster
	for p, keys := range s.declared {
		s.boxed[p] = [2]any{keys[0], keys[1]}
	}
	s.logger.Store(zap.NewNop())
	s.closing, s.cancel = context.WithCancel(context.Background())
	s.background.Go(s.giveBack)
	if s.serving {
		s.background.Go(s.countGateways)
		s.background.Go(s.subscribe)
		s.background.Go(s.inspect)
	}
	return s, nil
}

// SetLogger says where to log from now on.
func (s *Store) SetLogger(l *zap.Logger) { s.logger.Store(l) }

func (s *Store) log() *zap.Logger { return s.logger.Load() }

// Close implements [store.Store].
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.trips.close()
		s.cancel()
		s.background.Wait()
		if s.reports.Load() {
			s.endReporting()
		}
		s.closeErr = s.client.Close()
		s.lanes.wait()
		s.readLanes.wait()
	})
	return s.closeErr
}

// now is the time for a script: nothing, where it is to ask Redis.
func (s *Store) now() string {
	if s.clock == nil {
		return ""
	}
	return strconv.FormatInt(s.clock().UnixMicro(), 10)
}

// trips are the round trips under way, for which closing waits.
type trips struct {
	mu       sync.Mutex
	closed   bool
	underWay sync.WaitGroup
}

// begin tells whether a round trip may begin; then end ends it.
func (t *trips) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.underWay.Add(1)
	}
	return !t.closed
}

func (t *trips) end() { t.underWay.Done() }

// close waits for those under way and lets none begin.
func (t *trips) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.underWay.Wait()
}

// stepContext is that of a step, all round trips of which have to be over by until.
type stepContext struct {
	context.Context
	until time.Time
}

// stepKey is where the context of a round trip has its step.
type stepKey struct{}

// Value implements context.Context.
func (s *stepContext) Value(key any) any {
	if key == (stepKey{}) {
		return s
	}
	return s.Context.Value(key)
}

// maxStep is how long a step may take, however long a round trip may.
const maxStep = store.AdmitTimeout

// asOne has the round trips of a step take no longer than one together.
func (s *Store) asOne(ctx context.Context) context.Context {
	return &stepContext{ctx, time.Now().Add(min(s.timeout, maxStep))}
}

// deadline is when a round trip that begins now has to be over.
func (s *Store) deadline(ctx context.Context) time.Time {
	deadline := time.Now().Add(s.timeout)
	if step, ok := ctx.Value(stepKey{}).(*stepContext); ok && step.until.Before(deadline) {
		deadline = step.until
	}
	if own, ok := ctx.Deadline(); ok && own.Before(deadline) {
		deadline = own
	}
	return deadline
}

// try makes one round trip within the timeout, as attempts does.
func (s *Store) try(ctx context.Context, do func(context.Context) error) error {
	deadline := s.deadline(ctx)
	trip, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	return s.attempts(ctx, deadline, func() error { return do(trip) })
}

// attempts makes one round trip. Where it failed at once and can be
// expected to succeed a moment later, on a new connection or another node, it
// is made again in what is left of the time, but not while Redis is known to be
// away; so do must be safe to repeat.
func (s *Store) attempts(ctx context.Context, deadline time.Time, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !s.trips.begin() {
		return store.ErrClosed
	}
	defer s.trips.end()
	sent := false
	var cause error // of the last failure that was more than the end of the time
	for delay := 5 * time.Millisecond; ; delay *= 2 {
		err := do()
		if err != nil {
			if lost := (lostError{}); errors.As(err, &lost) {
				sent, err = true, lost.err
			}
		}
		if err == nil || answered(err) {
			s.away.Store(false)
			if err != nil && hasCode(err, noRoom) {
				err = fullError{err, sent}
			}
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err() // what the caller gave up on says nothing
		}
		if cluster, ok := s.client.(*goredis.ClusterClient); ok {
			cluster.ReloadState(ctx) // the node may have been replaced; by itself it would look again in a minute
		}
		if cause == nil || !timedOut(err) {
			cause = err
		}
		if passing(err) && !s.away.Load() && time.Until(deadline) > delay {
			select {
			case <-time.After(delay):
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		s.away.Store(true)
		return awayError{cause, sent, s.describe}
	}
}

// passingRefusals are what Redis answers for a while after a failover, a reshard or
// a start, and refusals are what it answers besides when it does not serve us at all.
var (
	passingRefusals = []string{"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "BUSY"}
	refusals        = []string{"NOAUTH", "WRONGPASS", "NOPERM"}
	// noRoom are its answers when its memory, or its disk, is full.
	noRoom = []string{"OOM", "MISCONF"}
)

// answered tells whether Redis has answered and would answer the same again.
func answered(err error) bool {
	var answer goredis.Error
	return errors.As(err, &answer) && !hasCode(err, refusals) && !hasCode(err, passingRefusals) || ours(err)
}

// ours tells the errors that a step of this package has made of an answer.
func ours(err error) bool { return store.Answered(err) || errors.Is(err, errUnexpected) }

// passing tells whether an error may be gone in a moment: a connection that broke,
// or a node that is no master any more.
func passing(err error) bool {
	var answer goredis.Error
	if errors.As(err, &answer) {
		return hasCode(err, passingRefusals)
	}
	return !timedOut(err) && !errors.Is(err, context.Canceled) &&
		!errors.As(err, new(*tls.CertificateVerificationError)) && !errors.As(err, new(tls.RecordHeaderError))
}

func timedOut(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

func hasCode(err error, codes []string) bool {
	for _, code := range codes {
		if goredis.HasErrorPrefix(err, code) {
			return true
		}
	}
	return false
}

// Interface guards
var (
	_ store.Store           = (*Store)(nil)
	_ store.Follower        = (*Store)(nil)
	_ store.HoldRememberer  = (*Store)(nil)
	_ store.GrantKeeper     = (*Store)(nil)
	_ store.PatientCapturer = (*Store)(nil)
)
