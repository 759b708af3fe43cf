package redis

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

// heldLifetime is for how long a hold is remembered that this gateway has made and
// not settled. Most sends take much less; what is settled later comes from the
// journal, which tells of it again.
const heldLifetime = 15 * time.Minute

// held are the holds that this gateway has made: where they are, and what is needed to
// make them again should a failover lose them.
type held struct {
	mu    sync.Mutex
	holds map[store.HoldID]ownHold
	swept time.Time
}

type ownHold struct {
	store.Admission
	at time.Time
}

func (h *held) add(a store.Admission) {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.holds == nil {
		h.holds = make(map[store.HoldID]ownHold)
	}
	if now.Sub(h.swept) > time.Minute {
		h.swept = now
		for id, own := range h.holds {
			if now.Sub(own.at) > heldLifetime {
				delete(h.holds, id)
			}
		}
	}
	h.holds[a.HoldID] = ownHold{a, now}
}

// Remember implements [store.HoldRememberer].
func (s *Store) Remember(a store.Admission) { s.held.add(a) }

func (h *held) get(id store.HoldID) (store.Admission, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	own, ok := h.holds[id]
	return own.Admission, ok
}

func (h *held) has(id store.HoldID) bool {
	_, ok := h.get(id)
	return ok
}

func (h *held) drop(id store.HoldID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.holds, id)
}

var forsakeScript = newScript(headerAlways, "scripts/records.lua", "scripts/money.lua", "scripts/forsake.lua")

// maxForsaken is how many holds one script gives back.
const maxForsaken = 200

// forsaken are holds that may have been made although their Admit returned an
// error. They are given back in the background.
type forsaken struct {
	mu    sync.Mutex
	holds map[place][]store.HoldID
	more  chan struct{} // has one element when there is something to do
	// told: that some cannot be given back was logged. Only the one who gives back
	// reads it.
	told bool
}

func newForsaken() forsaken {
	return forsaken{holds: make(map[place][]store.HoldID), more: make(chan struct{}, 1)}
}

func (f *forsaken) add(id store.HoldID, p place) {
	f.mu.Lock()
	f.holds[p] = append(f.holds[p], id)
	f.mu.Unlock()
	select {
	case f.more <- struct{}{}:
	default:
	}
}

// take takes some holds of one place; none where there are none at all.
func (f *forsaken) take() (place, []store.HoldID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p, ids := range f.holds {
		n := min(len(ids), maxForsaken)
		if f.holds[p] = ids[n:]; n == len(ids) {
			delete(f.holds, p)
		}
		return p, ids[:n]
	}
	return 0, nil
}

// forsakenDelay is the longest delay between attempts to give back holds.
const forsakenDelay = time.Second

// giveBack gives back forsaken holds until the store is closed, and then tries
// once more.
func (s *Store) giveBack() {
	for {
		select {
		case <-s.forsake.more:
		case <-s.closing.Done():
			s.giveBackAll(context.Background())
			return
		}
		for delay := 10 * time.Millisecond; !s.giveBackAll(s.closing); delay = min(2*delay, forsakenDelay) {
			select {
			case <-time.After(delay):
			case <-s.closing.Done():
			}
			if s.closing.Err() != nil {
				break
			}
		}
	}
}

// giveBackAll tells whether nothing is left. What cannot be given back now, in one
// place, holds up nothing in the others.
func (s *Store) giveBackAll(ctx context.Context) bool {
	left := make(map[place][]store.HoldID)
	defer func() {
		for p, ids := range left {
			for _, id := range ids {
				s.forsake.add(id, p)
			}
		}
	}()
	away := make(map[place]bool)
	for {
		p, ids := s.forsake.take()
		if len(ids) == 0 {
			return len(left) == 0
		}
		if away[p] {
			left[p] = append(left[p], ids...)
			continue
		}
		broken, err := s.giveBackIn(ctx, p, ids)
		if len(broken) > 0 {
			left[p] = append(left[p], broken...)
		}
		away[p] = err != nil
		if err != nil && ctx.Err() == nil && s.closing.Err() != nil {
			s.log().Error("holds that may have been made stay in doubt", zap.Int("count", len(ids)), zap.Error(err))
		}
	}
}

// giveBackIn gives back some holds of one place, and returns those that it could not.
func (s *Store) giveBackIn(ctx context.Context, p place, ids []store.HoldID) (left []store.HoldID, err error) {
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = string(id)
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	reply, err := s.eval(ctx, forsakeScript, p, args)
	if err != nil {
		return ids, err
	}
	for _, id := range texts(reply) {
		left = append(left, store.HoldID(id))
	}
	if len(left) > 0 && !s.forsake.told {
		s.forsake.told = true
		s.log().Error("holds that may have been made cannot be given back", zap.Int("count", len(left)), zap.Error(errBroken))
	}
	return left, nil
}
