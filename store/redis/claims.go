package redis

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var (
	claimScript    = newOutboxScript(headerAlways, "claim")
	endClaimScript = newOutboxScript(headerAlways, "settle")
)

// attemptResults are what the script calls them.
var attemptResults = map[store.AttemptResult]string{
	store.Returned:  "returned",
	store.Delivered: "delivered",
	store.Failed:    "failed",
	store.GivenUp:   "given_up",
}

// Claim implements [store.Store]. What a claim has taken whose answer got lost is
// given back when it is made again at once, and otherwise when its lease ends.
func (s *Store) Claim(ctx context.Context, app tenant.AppID, most int, lease time.Duration) (claimed []store.Claimed, next time.Time, err error) {
	token, again := rand.Text(), ""
	var reply any
	err = s.try(ctx, func(ctx context.Context) (err error) {
		reply, err = s.eval(ctx, claimScript, placeOf(app), []any{
			string(app), max(most, 0), lease.Microseconds(), store.ClaimSize, token, again,
		})
		again = "again"
		return err
	})
	if err != nil {
		return nil, next, err
	}
	answer, _ := reply.([]any)
	if len(answer) < 2 {
		return nil, next, unexpected(reply)
	}
	times := texts(answer[:2])
	until, err := microTime(times[0])
	if err != nil {
		return nil, next, err
	}
	for _, one := range answer[2:] {
		e, err := parseEvent(one)
		if err != nil {
			return nil, next, err
		}
		claimed = append(claimed, store.Claimed{Event: e.Event, Until: until, Token: token})
	}
	next, err = microTime(times[1])
	return claimed, next, err
}

// Settle implements [store.Store].
func (s *Store) Settle(ctx context.Context, c store.Claimed, a store.Attempt) error {
	_, err := s.run(ctx, endClaimScript, placeOf(c.App), string(c.ID), c.Token, attemptResults[a.Result],
		a.NextAttemptAt.UnixMicro(), a.Error, store.DeadLetterLifetime.Microseconds())
	return err
}
