package gateway

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/deadline"
	"github.com/connexease/caddy-whatsapp-gateway/delivery"
	"github.com/connexease/caddy-whatsapp-gateway/journal"
	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/redo"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// stores are the open stores of this process, so that a reload with the same
// store goes on with it.
var stores = caddy.NewUsagePool()

// appsInUse counts the apps of this process, whatever their configuration, that
// have users.
var appsInUse counter

// counter is a number that can be waited for to be zero.
type counter struct {
	mu   sync.Mutex
	n    int
	zero []chan struct{} // closed once it is
}

func (c *counter) add(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n += n; c.n > 0 {
		return
	}
	for _, waiting := range c.zero {
		close(waiting)
	}
	c.zero = nil
}

// none returns a channel that is closed once the number is zero.
func (c *counter) none() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting := make(chan struct{})
	if c.n == 0 {
		close(waiting)
	} else {
		c.zero = append(c.zero, waiting)
	}
	return waiting
}

// sharedStore is a store that outlives the configuration that opened it, with
// the settlements that it could not take yet.
type sharedStore struct {
	store.Store
	// journal keeps what the store cannot take while it is away. It is nil for a
	// store on this machine, which is away only when the disk is.
	journal *journal.Journal
	// replaying is held by the one who replays the journal, with what stuck is.
	replaying sync.Mutex
	stuck     stuck
	// byShare: the last admission was judged by this gateway's share.
	byShare atomic.Bool
	// logger is that of the newest configuration: those before are closed.
	logger  atomic.Pointer[zap.Logger]
	closing context.Context
	close   context.CancelFunc
	retries sync.WaitGroup
	// deadlines are those of settlements, receiveTimes those of webhooks.
	deadlines, receiveTimes *deadline.Shared
	// outcomes has those of sends that are answered and not settled yet. It is nil where
	// the backend has no folder for it: answers then wait for their settlement.
	outcomes  *redo.Log
	settlings sync.Pool

	// underWay are the sends that are not settled yet, and when each began: what
	// is under way is not in doubt.
	mu       sync.Mutex
	underWay map[store.HoldID]time.Time
}

// log is where to log now.
func (s *sharedStore) log() *zap.Logger { return s.logger.Load() }

// setLogger says where to log from now on, for the store itself, too.
func (s *sharedStore) setLogger(l *zap.Logger) {
	s.logger.Store(l)
	if logs, ok := s.Store.(interface{ SetLogger(*zap.Logger) }); ok {
		logs.SetLogger(l)
	}
}

// otherGateways tells whether the store may have any, whose sends under way are not
// known here.
func (s *sharedStore) otherGateways() bool {
	_, ok := s.Store.(store.GrantKeeper)
	return ok || s.journal != nil
}

// outbox returns the store for the worker, which asks what else it can do.
func (s *sharedStore) outbox() delivery.Store {
	if settler, ok := s.Store.(store.AttemptSettler); ok {
		return struct {
			*sharedStore
			store.AttemptSettler
		}{s, settler}
	}
	return s
}

// begin notes a send before its hold is made.
func (s *sharedStore) begin(id store.HoldID) { s.beginAt(id, time.Now()) }

// beginAt notes a send that began at some time. The zero time has every other wait, too, for
// its hold to be settled.
func (s *sharedStore) beginAt(id store.HoldID, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.underWay[id] = at
}

// end notes that a send's hold is settled, or in doubt from now on.
func (s *sharedStore) end(id store.HoldID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.underWay, id)
}

// settleInDoubt settles the holds that are at least as old as age, but for those
// of sends under way, and returns how many there were.
func (s *sharedStore) settleInDoubt(ctx context.Context, age time.Duration, outcome store.Outcome) (int, error) {
	before := time.Now().Add(-age)
	s.mu.Lock()
	for _, began := range s.underWay {
		if began.Before(before) {
			before = began
		}
	}
	s.mu.Unlock()
	return s.InDoubt(ctx, before, outcome)
}

const (
	// settleTimeout is how long an answer waits for its settlement.
	settleTimeout = 5 * time.Second
	// maxRetryDelay bounds the growing delay between attempts to settle.
	maxRetryDelay = 5 * time.Second
)

// openShared opens a store to serve from.
func openShared(b backend, logger *zap.Logger) (*sharedStore, error) {
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	opened, err := b.Open(ctx, true)
	if err != nil {
		return nil, err
	}
	s := &sharedStore{Store: opened, underWay: make(map[store.HoldID]time.Time), deadlines: deadline.New(settleTimeout), receiveTimes: deadline.New(receiveTimeout)}
	s.setLogger(logger)
	if err := s.openJournal(b); err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	s.closing, s.close = context.WithCancel(context.Background())
	s.openOutcomes(b)
	return s, nil
}

// Destruct closes the store when its last user has gone.
func (s *sharedStore) Destruct() error {
	s.close()
	s.retries.Wait()
	return errors.Join(s.closeOutcomes(), s.closeJournal(), s.Close())
}

// settlement is the outcome of a hold, and what the hold was.
type settlement struct {
	hold      store.HoldID
	app       tenant.AppID
	account   tenant.AccountID
	fee       pricing.Micros
	outcome   store.Outcome
	messageID string

	// slot is where it is in the log of outcomes, if it is logged.
	slot   redo.Slot
	logged bool
	at     time.Time // when its outcome was known, if it is logged or journaled
}

// settleNow records the outcome of a send and waits for that. Where the store does not
// take it, it goes into the journal or, without one, is tried again in the background for as
// long as the store is open: what Meta accepted must be charged, and the client's
// answer cannot wait for that.
func (s *sharedStore) settleNow(st settlement) {
	if err := s.trySettle(st); err != nil {
		s.settleLater(st, err)
		return
	}
	s.settled(st)
}

// settled notes that a send is settled, or waits in the journal.
func (s *sharedStore) settled(st settlement) {
	s.end(st.hold)
	if st.logged {
		s.outcomes.Done(st.slot)
	}
}

// settleLater records the outcome of a send that the store has not taken because of err.
func (s *sharedStore) settleLater(st settlement, err error) {
	if s.journal != nil {
		journalErr := s.journalSettlement(st)
		if journalErr == nil {
			s.log().Warn("settling a send waits for the store", zap.String("hold_id", string(st.hold)), zap.Error(err))
			s.settled(st)
			return
		}
		err = errors.Join(err, journalErr)
	}
	s.log().Error("settling a send failed and is tried again", zap.String("hold_id", string(st.hold)), zap.Error(err))
	s.retries.Go(func() {
		for delay := 100 * time.Millisecond; ; delay = min(2*delay, maxRetryDelay) {
			last := false
			select {
			case <-time.After(delay):
			case <-s.closing.Done():
				last = true
			}
			if err = s.trySettle(st); err == nil {
				s.settled(st)
				return
			}
			if last {
				s.end(st.hold)
				message := "a send stays in doubt"
				if st.logged {
					message = "settling a send waits for the next start"
				}
				s.log().Error(message, zap.String("hold_id", string(st.hold)), zap.Error(err))
				return
			}
		}
	})
}

// in records the outcome in a store, in one attempt.
func (st *settlement) in(ctx context.Context, wallet store.Wallet) error {
	if st.outcome == store.Captured {
		return wallet.Capture(ctx, st.hold, st.messageID)
	}
	return wallet.Release(ctx, st.hold)
}

// trySettle is one attempt. A hold that is unknown or has the other outcome
// will not change by trying again, and is only reported; but what Meta accepted is
// charged, even if somebody has given up on it and released its hold meanwhile.
func (s *sharedStore) trySettle(st settlement) error {
	ctx := s.deadlines.Next()
	err := st.in(ctx, s.Store)
	if errors.Is(err, store.ErrConflict) && st.outcome == store.Captured {
		_, err = s.Receive(ctx, nil, []store.Status{{Hold: st.hold, MessageID: st.messageID}})
	}
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) {
		s.log().Error("a hold could not be settled", zap.String("hold_id", string(st.hold)), zap.Error(err))
		return nil
	}
	return err
}

// maxInDoubtInterval is how often holds are looked over at the least.
const maxInDoubtInterval = time.Minute

// doubtAge is how old a hold without an outcome has to be for the in-doubt policy:
// where other gateways are, at least as old as one of a send that is under way there.
func (a *App) doubtAge() time.Duration {
	age := time.Duration(a.InDoubt.After)
	if a.store.otherGateways() {
		age = max(age, a.longestSend+store.AdmitTimeout+settleTimeout)
	}
	return age
}

// settleInDoubt settles what is in doubt, once the outcomes that are known and wait in
// the journal have been settled as they are.
func (a *App) settleInDoubt(ctx context.Context, age time.Duration, outcome store.Outcome) (int, error) {
	if a.store.journal != nil && a.store.journal.Waiting() > 0 {
		if _, err := a.replay(ctx); errors.Is(err, store.ErrBusy) {
			return 0, nil // they are being settled: the next round is early enough
		} else if err != nil {
			return 0, err
		}
	}
	return a.store.settleInDoubt(ctx, age, outcome)
}

// watchInDoubt applies the in-doubt policy, now and again and again.
func (a *App) watchInDoubt(ctx context.Context) {
	age := a.doubtAge()
	outcome := store.Captured
	if a.InDoubt.Outcome == inDoubtRelease {
		outcome = store.Released
	}
	ticker := time.NewTicker(min(max(age/2, time.Second), maxInDoubtInterval))
	defer ticker.Stop()
	for {
		n, err := a.settleInDoubt(ctx, age, outcome)
		if n > 0 {
			a.logger.Warn("settled sends in doubt", zap.Int("count", n), zap.String("outcome", a.InDoubt.Outcome))
		}
		if err != nil && ctx.Err() == nil {
			a.logger.Error("settling sends in doubt failed", zap.Error(err))
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}
