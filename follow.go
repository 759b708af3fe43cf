package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const (
	// followEvery is how seldom the Core Service is asked for one account.
	followEvery = 5 * time.Second
	// followInUseEvery is how often it is asked for those in use, and followers how
	// many of them at the same time.
	followInUseEvery = time.Minute
	followers        = 8
	// maxFollowed bounds what is remembered. An account that is forgotten may be
	// asked for sooner.
	maxFollowed = 100_000
)

// totals has the wallets follow the totals of the Core Service.
type totals struct {
	core   *coreService // nil: there is none, and none of this is called
	now    func() time.Time
	learnt *lru.Cache[tenant.AccountID, learnt]
	asking singleflight.Group

	mu sync.Mutex
	// inUse are the accounts that a request was admitted for since they were last
	// asked for together.
	inUse map[tenant.AccountID]struct{}
}

// learnt is what came of asking for an account.
type learnt struct {
	at time.Time
	// err is nil where the wallet has what the Core Service said. [store.ErrNotFound]:
	// there is no such account there.
	err error
}

func newTotals(core *coreService) *totals {
	t := &totals{core: core, now: time.Now, inUse: make(map[tenant.AccountID]struct{})}
	t.learnt, _ = lru.New[tenant.AccountID, learnt](maxFollowed) // an error means a size that is not positive
	return t
}

// use notes that an account is in use.
func (t *totals) use(account tenant.AccountID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inUse[account] = struct{}{}
}

// follow asks the Core Service for an account and has its wallet follow, unless
// that was done a moment ago: then it returns what was learnt. Many who want it
// wait for one answer.
func (t *totals) follow(ctx context.Context, follower store.Follower, account tenant.AccountID) learnt {
	if l, ok := t.recent(account); ok {
		return l
	}
	result := t.asking.DoChan(string(account), func() (any, error) {
		if l, ok := t.recent(account); ok { // it ended just before
			return l, nil
		}
		l := learnt{err: t.ask(context.WithoutCancel(ctx), follower, account)}
		l.at = t.now()
		t.learnt.Add(account, l)
		return l, nil
	})
	select {
	case r := <-result:
		return r.Val.(learnt)
	case <-ctx.Done():
		return learnt{t.now(), ctx.Err()}
	}
}

func (t *totals) recent(account tenant.AccountID) (learnt, bool) {
	l, ok := t.learnt.Peek(account)
	return l, ok && t.now().Sub(l.at) < followEvery
}

// ask does so without looking back.
func (t *totals) ask(ctx context.Context, follower store.Follower, account tenant.AccountID) error {
	total, err := t.core.Account(ctx, account)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, settleTimeout)
		defer cancel()
		err = follower.Follow(ctx, total)
	}
	if err != nil && gotAnswer(err) && !errors.Is(err, store.ErrNotFound) {
		t.core.logger.Error("a wallet cannot follow the core service", zap.String("account_id", string(account)), zap.Error(err))
	}
	return err
}

// followInUse keeps the wallets in use up to date until ctx is done.
func (t *totals) followInUse(ctx context.Context, follower store.Follower) {
	ticker := time.NewTicker(followInUseEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			t.followUsed(ctx, follower)
		case <-ctx.Done():
			return
		}
	}
}

// followUsed asks for all accounts in use, until the Core Service or the store
// turns out to be away: those left are asked for when they have been used again.
func (t *totals) followUsed(ctx context.Context, follower store.Follower) {
	t.mu.Lock()
	used := t.inUse
	t.inUse = make(map[tenant.AccountID]struct{})
	t.mu.Unlock()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(followers)
	for account := range used {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			if l := t.follow(ctx, follower, account); !gotAnswer(l.err) {
				return l.err
			}
			return nil
		})
	}
	_ = group.Wait() // it only ends the round
}
