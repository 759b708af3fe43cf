package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var (
	inDoubtScript = newScript(headerAlways, "scripts/records.lua", "scripts/money.lua", "scripts/in_doubt.lua")
	creditScript  = newScript(header, "scripts/records.lua", "scripts/money.lua", "scripts/credit.lua")
)

// outcomes are how the scripts know outcomes.
var outcomes = map[store.Outcome]string{store.Captured: "capture", store.Released: "release"}

// settled is what the script of a send answers where it has settled a hold.
const settled = "settled"

// settles are how the script of a send knows them.
var settles = map[store.Outcome]byte{store.Captured: kindCapture, store.Released: kindRelease}

// Capture implements [store.Store].
func (s *Store) Capture(ctx context.Context, id store.HoldID, messageID string) error {
	return s.settle(ctx, id, store.Captured, messageID)
}

// errNotCaptured means that the script of a send has not captured a hold by itself.
var errNotCaptured = errors.New("the hold is not known where it was looked for, or has another outcome")

// CapturePatiently implements [store.PatientCapturer]. It makes one attempt.
func (s *Store) CapturePatiently(id store.HoldID, messageID string, done func(error)) {
	if len(id) != store.HoldIDLength {
		done(store.ErrNotFound)
		return
	}
	if !s.trips.begin() {
		done(store.ErrClosed)
		return
	}
	p, _, _ := s.placeOfHold(id)
	r := request{kind: kindCapture, hold: id, message: messageID}
	j, err := s.newJob(s.closing, settleScript, p, r, time.Now().Add(s.timeout))
	if err != nil {
		s.trips.end()
		done(err)
		return
	}
	s.lanes.to(j.node).entrust(j, func(a answer) {
		defer s.trips.end()
		if a.err == nil && isSettled(a.reply) {
			s.away.Store(false)
			s.held.drop(id)
		} else if a.err == nil {
			a.err = errNotCaptured
		}
		done(a.err)
	})
}

// placeOfHold is where a hold should be, and what it was, if this gateway has made it.
func (s *Store) placeOfHold(id store.HoldID) (p place, own store.Admission, known bool) {
	if own, known = s.held.get(id); known {
		return placeOf(own.Account), own, true
	}
	return placeOfHint(id.Hint()), own, false
}

// isSettled tells of an answer that the hold has the outcome that was asked for.
func isSettled(reply string) bool { return reply == settled || reply == "same" }

// Release implements [store.Store].
func (s *Store) Release(ctx context.Context, id store.HoldID) error {
	return s.settle(ctx, id, store.Released, "")
}

func (s *Store) settle(ctx context.Context, id store.HoldID, outcome store.Outcome, messageID string) error {
	if len(id) != store.HoldIDLength {
		return store.ErrNotFound
	}
	p, own, known := s.placeOfHold(id)
	r := request{kind: settles[outcome], hold: id, message: messageID}
	reply, err := s.send(ctx, settleScript, p, r)
	if err == nil && reply == "unknown" {
		switch {
		case !known:
			p, known, err = s.findHold(ctx, id)
		case outcome == store.Captured: // a failover has lost it: told what it was, the script makes it anew
			r.terms = packed(nil).record(own)
		default:
			known = false
		}
		if known {
			reply, err = s.send(ctx, settleScript, p, r)
		}
	}
	if err != nil {
		return err
	}
	switch {
	case isSettled(reply):
		s.held.drop(id)
		return nil
	case reply == "conflict":
		return store.ErrConflict
	case reply == "unknown":
		return store.ErrNotFound
	}
	return unexpected(reply)
}

// doubtGroup is about how many open holds one script looks at.
const doubtGroup = 200

// errBroken means that records of open holds, or of their wallets, are not what they
// should be.
var errBroken = errors.New("holds that cannot be settled because of what lies in redis")

// InDoubt implements [store.Store].
func (s *Store) InDoubt(ctx context.Context, before time.Time, outcome store.Outcome) (int, error) {
	total, broken, in := 0, int64(0), allPlaces()
	var cursors [places]string // where to go on
	for p := range cursors {
		cursors[p] = "0"
	}
	for len(in) > 0 {
		replies, err := s.runIn(ctx, inDoubtScript, in, func(p place) []any {
			return []any{before.UnixMicro(), outcomes[outcome], doubtGroup, cursors[p]}
		})
		var more []place
		for i, reply := range replies {
			if reply == nil {
				continue // it is away
			}
			f, ok := reply.([]any)
			if !ok || len(f) != 3 {
				return total, unexpected(reply)
			}
			settled, _ := f[0].(int64)
			failed, _ := f[1].(int64)
			total, broken = total+int(settled), broken+failed
			if cursors[in[i]], _ = f[2].(string); cursors[in[i]] != "0" {
				more = append(more, in[i])
			}
		}
		if err != nil {
			return total, err
		}
		in = more
	}
	if broken > 0 {
		return total, fmt.Errorf("%d %w", broken, errBroken)
	}
	return total, nil
}

// Credit implements [store.Store]. An operation's id is first taken for the account
// and the amount, and then applied, so that it stands for one thing wherever accounts are.
func (s *Store) Credit(ctx context.Context, account tenant.AccountID, amount pricing.Micros, operation string) (store.Balance, error) {
	if store.ReservedEntryID(operation) {
		return store.Balance{}, store.ErrConflict
	}
	if _, err := s.Balance(ctx, account); err != nil {
		return store.Balance{}, err
	}
	content := fmt.Sprintf("%d %s", int64(amount), account)
	key := s.key("operation:" + operation)
	taken, err := s.take(ctx, key, content)
	if err == nil && taken != content {
		err = store.ErrConflict
	}
	if err != nil {
		return store.Balance{}, err
	}
	reply, err := s.run(ctx, creditScript, placeOf(account), string(account), int64(amount), operation)
	if err != nil {
		return store.Balance{}, err
	}
	f, _ := reply.([]any)
	switch {
	case len(f) == 4 && f[0] == "credited":
		return parseBalance(texts(f[1:]))
	case len(f) == 1 && f[0] == "no_account":
		err = store.ErrNotFound
	case len(f) == 1 && f[0] == "conflict":
		err = store.ErrConflict
	case len(f) == 1 && f[0] == "overflow":
		// Nobody can have applied it: it is free for another amount.
		err = s.try(ctx, func(ctx context.Context) error { return s.client.Del(ctx, key).Err() })
		err = errors.Join(pricing.ErrOverflow, err)
	default:
		err = unexpected(reply)
	}
	return store.Balance{}, err
}

// Balance implements [store.Store].
func (s *Store) Balance(ctx context.Context, account tenant.AccountID) (store.Balance, error) {
	var f []any
	err := s.try(ctx, func(ctx context.Context) (err error) {
		f, err = s.client.HMGet(ctx, s.wallet(account), "currency", "money").Result()
		return err
	})
	if err != nil {
		return store.Balance{}, err
	}
	if f[0] == nil {
		return store.Balance{}, store.ErrNotFound
	}
	money, _ := f[1].(string)
	return parseMoney(money)
}

// parseMoney reads the field of a wallet that has all of an account's money.
func parseMoney(text string) (store.Balance, error) {
	f := strings.Split(text, " ")
	if len(f) != 4 {
		return store.Balance{}, fmt.Errorf("%w: a wallet's money", store.ErrCorrupt)
	}
	return parseBalance(f[:3])
}

// parseBalance reads what is available, held and captured.
func parseBalance(f []string) (b store.Balance, err error) {
	for i, amount := range []*pricing.Micros{&b.Available, &b.Held, &b.Captured} {
		n, parseErr := strconv.ParseInt(f[i], 10, 64)
		if parseErr != nil {
			return store.Balance{}, fmt.Errorf("%w: a wallet's amount is no number", store.ErrCorrupt)
		}
		*amount = pricing.Micros(n)
	}
	return b, nil
}
