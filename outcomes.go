package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/redo"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// settleAtOnce is how many outcomes of a process that has ended are settled at a time.
const settleAtOnce = 64

// outcomeKeeper is a backend with a folder for the outcomes of sends that are answered
// and not settled yet.
type outcomeKeeper interface {
	OutcomeDir() string
}

// openOutcomes opens the log of this process, and settles what processes that have ended left
// behind. What fails keeps nobody from sending: without a log answers wait for their
// settlement, and what cannot be read now is there for the next start.
func (s *sharedStore) openOutcomes(b backend) {
	keeper, ok := b.(outcomeKeeper)
	if !ok {
		return
	}
	var err error
	if s.outcomes, err = redo.Open(keeper.OutcomeDir()); err != nil {
		s.outcomes = nil
		s.log().Error("answers wait for their settlement, because there is no log of outcomes", zap.Error(err))
	}
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	if err := s.adopt(ctx, keeper.OutcomeDir()); err != nil {
		s.log().Error("outcomes of sends of an earlier run wait for the next start", zap.Error(err))
	}
}

func (s *sharedStore) closeOutcomes() error {
	if s.outcomes == nil {
		return nil
	}
	return s.outcomes.Close()
}

// adopt makes the outcomes that processes which have ended left in a folder those of this
// one, and tries to settle them. The in-doubt policy and commands wait for that.
func (s *sharedStore) adopt(ctx context.Context, dir string) error {
	return redo.Abandoned(ctx, dir, s.outcomes, func(records [][]byte) error {
		all, err := parseSettlements(records)
		if err != nil {
			s.log().Error("outcomes of sends cannot be read and are set aside", zap.String("folder", dir), zap.Error(err))
		}
		for i := range all {
			s.record(&all[i])
			s.beginAt(all[i].hold, time.Time{})
		}
		var settling errgroup.Group
		settling.SetLimit(settleAtOnce)
		for _, st := range all {
			settling.Go(func() error {
				s.remind(st)
				s.settleNow(st)
				return nil
			})
		}
		_ = settling.Wait() // what fails is tried again
		if err == nil && s.unloggedUnderWay(all) {
			err = errors.New("some are neither settled nor logged")
		}
		return err
	})
}

// unloggedUnderWay tells whether one of these is not settled and in no log of this process.
func (s *sharedStore) unloggedUnderWay(all []settlement) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(all, func(st settlement) bool {
		_, underWay := s.underWay[st.hold]
		return underWay && !st.logged
	})
}

// rooms are where outcomes are put together.
var rooms = sync.Pool{New: func() any { return new([redo.MaxSize]byte) }}

// record writes an outcome to the log. It tells whether there was room.
func (s *sharedStore) record(st *settlement) bool {
	if s.outcomes == nil {
		return false
	}
	room := rooms.Get().(*[redo.MaxSize]byte)
	defer rooms.Put(room)
	slot, err := s.outcomes.Write(st.append(room[:0]))
	st.slot, st.logged = slot, err == nil
	return st.logged
}

// settleLeftBehind settles what a gateway that was killed has left behind, before a command
// looks at the books, or waits for the gateway that does. What fails stays for the next start
// of a gateway, which tells of it.
func settleLeftBehind(ctx context.Context, b backend, opened store.Store) {
	keeper, ok := b.(outcomeKeeper)
	if !ok {
		return
	}
	_ = redo.Abandoned(ctx, keeper.OutcomeDir(), nil, func(records [][]byte) error {
		found, err := parseSettlements(records)
		if err != nil {
			return errors.New("a gateway is to set it aside")
		}
		for _, st := range found {
			if err := st.in(ctx, opened); err != nil {
				return err
			}
		}
		return nil
	})
}

// remind has a store know the hold of an outcome that is settled late, should it have lost it.
// A store forgets a settled hold after a while, and would then take it for lost.
func (s *sharedStore) remind(st settlement) {
	if rememberer, ok := s.Store.(store.HoldRememberer); ok && st.account != "" && young(st.at) {
		rememberer.Remember(store.Admission{Mode: store.Hold, App: st.app, Account: st.account, Fee: st.fee, HoldID: st.hold})
	}
}

// young tells whether a store still remembers what was settled then.
func young(at time.Time) bool {
	age := time.Since(at)
	return 0 <= age && age < maxRemembered
}

// settle records the outcome of a send that a client is about to be told of, and does not
// wait for it where the end of this process cannot lose it: the hold is durable, and its
// outcome follows within milliseconds. Should the machine itself end in between, the hold is
// settled like any other that is in doubt. What is given back, a client may spend at once: it is
// waited for where the store might see that before this.
func (s *sharedStore) settle(st settlement) {
	settler, inOrder := s.Store.(store.Settler)
	capturer, patient := s.Store.(store.PatientCapturer)
	st.at = time.Now()
	if !inOrder && !(patient && st.outcome == store.Captured) || !s.record(&st) {
		s.settleNow(st)
		return
	}
	g := s.newSettling()
	g.settlement = st
	s.retries.Add(1) // the store stays open until it has answered
	if inOrder {
		settler.SettleHold(st.hold, st.outcome, st.messageID, g.told)
	} else {
		capturer.CapturePatiently(st.hold, st.messageID, g.told)
	}
}

// settling is a settlement that a store is asked for and not waited for. It is used again
// once the store has answered.
type settling struct {
	settlement
	told func(error) // what the store is to call
}

func (s *sharedStore) newSettling() *settling {
	if g, ok := s.settlings.Get().(*settling); ok {
		return g
	}
	g := new(settling)
	g.told = func(err error) {
		defer s.retries.Done()
		st := g.settlement
		s.settlings.Put(g)
		if err == nil {
			s.settled(st)
			return
		}
		s.retries.Go(func() { s.settleNow(st) }) // for the store waits for this
	}
	return g
}

// append appends a settlement as it is logged.
func (st *settlement) append(b []byte) []byte {
	b = append(b, loggedFormat, byte(st.outcome))
	b = binary.AppendVarint(b, st.at.UnixMicro())
	b = binary.AppendVarint(b, int64(st.fee))
	for _, text := range [...]string{string(st.hold), string(st.app), string(st.account), st.messageID} {
		b = append(binary.AppendUvarint(b, uint64(len(text))), text...)
	}
	return b
}

// errLogged means that what is logged is no settlement of this release's.
var errLogged = fmt.Errorf("what is logged is no outcome of this release's: %w", redo.ErrAside)

// parseSettlements returns those that can be read, and an error if one cannot.
func parseSettlements(records [][]byte) (all []settlement, err error) {
	for _, r := range records {
		st, parseErr := parseSettlement(r)
		if parseErr != nil {
			err = parseErr
			continue
		}
		all = append(all, st)
	}
	return all, err
}

// loggedFormat is the first byte of what is logged.
const loggedFormat = 1

// parseSettlement reads what append has written.
func parseSettlement(b []byte) (st settlement, err error) {
	if len(b) < 2 || b[0] != loggedFormat || store.Outcome(b[1]) > store.Released {
		return st, errLogged
	}
	st.outcome, b = store.Outcome(b[1]), b[2:]
	var numbers [2]int64
	for i := range numbers {
		n := 0
		if numbers[i], n = binary.Varint(b); n <= 0 {
			return st, errLogged
		}
		b = b[n:]
	}
	var texts [4]string
	for i := range texts {
		length, n := binary.Uvarint(b)
		if n <= 0 || length > uint64(len(b)-n) {
			return st, errLogged
		}
		texts[i], b = string(b[n:n+int(length)]), b[n+int(length):]
	}
	if len(b) > 0 {
		return st, errLogged
	}
	st.at, st.fee = time.UnixMicro(numbers[0]), pricing.Micros(numbers[1])
	st.hold, st.app, st.account, st.messageID = store.HoldID(texts[0]), tenant.AppID(texts[1]), tenant.AccountID(texts[2]), texts[3]
	return st, nil
}
