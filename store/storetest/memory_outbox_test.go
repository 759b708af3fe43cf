package storetest

import (
	"bytes"
	"context"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// letter is an event in the outbox and who has claimed it.
type letter struct {
	store.Event
	token string
	until time.Time
}

func (l *letter) claimed(now time.Time) bool { return now.Before(l.until) }

func (m *memory) letter(id store.EventID) *letter {
	if l := find(m.outbox, func(l **letter) bool { return (*l).ID == id }); l != nil {
		return *l
	}
	return nil
}

func (m *memory) Receive(ctx context.Context, events []store.Event, statuses []store.Status) (results []store.StatusResult, err error) {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		if m.fault == receivesHalf {
			m.insert(events)
		}
		return nil, err
	}
	m.insert(events)
	for _, s := range statuses {
		results = append(results, m.apply(s))
	}
	return results, nil
}

func (m *memory) insert(events []store.Event) {
	for _, e := range events {
		if m.letter(e.ID) != nil && m.fault != repeatsEvents {
			continue
		}
		if m.fault != sharesPayloads {
			e.Payload = bytes.Clone(e.Payload)
		}
		if e.ReceivedAt = m.now(); m.fault == backdatesEvents {
			e.ReceivedAt = e.ReceivedAt.Add(-time.Hour)
		}
		if e.NextAttemptAt = (time.Time{}); e.State == store.Pending {
			e.NextAttemptAt = e.ReceivedAt
		}
		m.outbox = append(m.outbox, &letter{Event: e})
	}
	m.evict()
}

// evict drops what is quarantined over the bounds.
func (m *memory) evict() {
	number, size := 0, 0
	slices.Reverse(m.outbox)
	m.outbox = slices.DeleteFunc(m.outbox, func(l *letter) bool {
		if l.State != store.Quarantined {
			return false
		}
		number, size = number+1, size+len(l.Payload)
		return number > store.MaxQuarantined && m.fault != keepsAnyNumber || size > store.MaxQuarantinedSize && m.fault != keepsAnySize
	})
	slices.Reverse(m.outbox)
	if m.fault == evictsNewest && number > store.MaxQuarantined {
		m.outbox = m.outbox[:store.MaxQuarantined]
	}
}

func (m *memory) Backlog(ctx context.Context) (map[tenant.AppID]time.Time, error) {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	backlog := make(map[tenant.AppID]time.Time)
	for _, l := range m.outbox {
		if l.State != store.Pending || m.fault == overlooksClaimed && l.claimed(m.now()) {
			continue
		}
		if at, ok := backlog[l.App]; !ok || l.NextAttemptAt.Before(at) {
			backlog[l.App] = l.NextAttemptAt
		}
	}
	return backlog, nil
}

func (m *memory) Claim(ctx context.Context, app tenant.AppID, most int, lease time.Duration) (claimed []store.Claimed, next time.Time, err error) {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return nil, next, err
	}
	now, size := m.now(), 0
	for _, l := range m.byDue() {
		free := !l.claimed(now) && (l.until.IsZero() || m.fault != claimsForGood) || m.fault == claimsTwice
		if l.App != app && m.fault != claimsOthers || !free && m.fault != tellsClaimed {
			continue
		}
		if m.fault == starvesLarge && len(l.Payload) > store.ClaimSize {
			continue
		}
		late := l.NextAttemptAt.After(now) && m.fault != claimsEarly
		if full := size >= store.ClaimSize && m.fault != claimsAnySize; !free || late || len(claimed) == most || full {
			if next.IsZero() && m.fault != tellsNoNext {
				next = l.NextAttemptAt
			}
			continue
		}
		if m.claims++; m.fault != reusesTokens {
			l.token = strconv.Itoa(m.claims)
		}
		l.until = now.Add(lease)
		size += len(l.Payload)
		claimed = append(claimed, store.Claimed{Event: l.copy(), Until: l.until, Token: l.token})
	}
	return claimed, next, nil
}

// byDue returns the pending events, the longest due first.
func (m *memory) byDue() []*letter {
	pending := slices.DeleteFunc(slices.Clone(m.outbox), func(l *letter) bool { return l.State != store.Pending })
	if m.fault != claimsOldest {
		slices.SortStableFunc(pending, func(a, b *letter) int { return a.NextAttemptAt.Compare(b.NextAttemptAt) })
	}
	return pending
}

func (l *letter) copy() store.Event {
	e := l.Event
	e.Payload = bytes.Clone(e.Payload)
	return e
}

func (m *memory) Settle(ctx context.Context, c store.Claimed, a store.Attempt) error {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return err
	}
	l := m.letter(c.ID)
	switch {
	case l == nil && m.fault == missesGone:
		return store.ErrNotFound
	case l == nil:
		return nil
	case l.token != c.Token && m.fault != trustsStale && (a.Result != store.Delivered || m.fault == refusesStale):
		return nil
	case m.fault == expiresClaims && !l.claimed(m.now()):
		return nil
	}
	if l.token, l.until = "", (time.Time{}); m.fault == settlesTwice {
		l.token = c.Token
	}
	if a.Result == store.Failed || a.Result == store.GivenUp || m.fault == countsReturned {
		l.Attempts++
	}
	switch a.Result {
	case store.Delivered:
		m.outbox = slices.DeleteFunc(m.outbox, func(o *letter) bool { return o == l })
	case store.Failed:
		l.NextAttemptAt, l.LastError = a.NextAttemptAt, a.Error
	case store.GivenUp:
		l.bury(a.Error)
	}
	return nil
}

func (l *letter) bury(reason string) {
	l.State, l.NextAttemptAt, l.LastError, l.token = store.Dead, time.Time{}, reason, ""
}

func (m *memory) Bury(ctx context.Context, app tenant.AppID, before time.Time, reason string) (n int, err error) {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return 0, err
	}
	for _, l := range m.outbox {
		if l.State == store.Pending && (l.App == app || m.fault == buriesOthers) &&
			(l.ReceivedAt.Before(before) || m.fault == buriesAll) && (!l.claimed(m.now()) || m.fault == buriesClaimed) {
			token := l.token
			if l.bury(reason); m.fault == keepsClaims {
				l.token = token
			}
			n++
		}
	}
	return n, nil
}

func (m *memory) Events(ctx context.Context, f store.EventFilter) iter.Seq2[store.Event, error] {
	return func(yield func(store.Event, error) bool) {
		events, err := m.filter(ctx, f)
		if err != nil {
			yield(store.Event{}, err)
			return
		}
		for _, e := range events {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (m *memory) filter(ctx context.Context, f store.EventFilter) (events []store.Event, err error) {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	for _, l := range m.outbox {
		if (f.App != "" && l.App != f.App) || (f.State != "" && l.State != f.State && m.fault != listsAllStates) {
			continue
		}
		e := l.Event
		if m.fault != listsPayloads {
			e.Payload = nil
		}
		events = append(events, e)
	}
	return events, nil
}

func (m *memory) Event(ctx context.Context, id store.EventID) (store.Event, error) {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return store.Event{}, err
	}
	l := m.letter(id)
	if l == nil {
		return store.Event{}, store.ErrNotFound
	}
	if m.fault == sharesPayloads {
		return l.Event, nil
	}
	return l.copy(), nil
}

func (m *memory) Replay(ctx context.Context, ids []store.EventID, app tenant.AppID) (n int, err error) {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return 0, err
	}
	var dead []*letter
	for _, l := range m.outbox {
		if len(ids) == 0 && l.App == app && l.State == store.Dead || slices.Contains(ids, l.ID) && (l.State == store.Dead || m.fault == replaysAny) {
			dead = append(dead, l)
		}
	}
	if len(dead) < len(ids) && m.fault != replaysKnown {
		return 0, store.ErrNotFound
	}
	for _, l := range dead {
		if l.State, l.NextAttemptAt = store.Pending, m.now(); m.fault != replaysTired {
			l.Attempts = 0
		}
		if m.fault != replaysOld {
			l.ReceivedAt = l.NextAttemptAt
		}
	}
	if len(dead) < len(ids) {
		err = store.ErrNotFound
	}
	return len(dead), err
}
