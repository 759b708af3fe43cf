package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// admitScript and settleScript are one script, which does all that a send needs. Only the second also runs where Redis's
// memory is full, and so what a run with a request to admit was refused for that reason is done by it.
var (
	admitScript  = newScript(header, sendFiles...)
	settleScript = newScript(headerAlways, sendFiles...)
	sendFiles    = []string{"scripts/records.lua", "scripts/windows.lua", "scripts/bundles.lua", "scripts/send.lua", "scripts/money.lua", "scripts/send_else.lua"}
)

// modes are how the script knows the modes.
var modes = map[store.Mode]byte{store.Check: kindCheck, store.Count: kindCount, store.Hold: kindHold}

// verdicts are the script's, and of whom a hold is that was made before.
var verdicts = [...]struct {
	word byte
	store.Verdict
}{
	{admitted, store.Admitted}, {repeated, store.Admitted},
	{'s', store.OverSecond}, {'m', store.OverMinute},
	{'n', store.NoAccount}, {'b', store.NoBalance},
}

// Words of the script's that are more than a verdict.
const (
	admitted      = 'a'
	repeated      = 'r'
	wordForsaken  = 'f'
	lengthOfReply = 1 + 7 + 7
	// lengthIfFull is that of an answer that a window is full.
	lengthIfFull = lengthOfReply + 7
)

// errForsaken means that an earlier attempt to make this hold was given up.
var errForsaken = errors.New("the hold was given up before")

// Admit implements [store.Store]. The windows are where the account was that the
// app had when it was first seen, so that an app has one pair of them, whoever pays.
// That is the place of the account but for apps that were given to another one.
func (s *Store) Admit(ctx context.Context, a store.Admission) (store.Decision, error) {
	if err := ctx.Err(); err != nil {
		return store.Decision{}, err
	}
	asked := s.localTime()
	if d, ok := s.fullWindows.refuse(a, asked); ok && !s.away.Load() && s.closing.Err() == nil {
		return d, nil
	}
	d, err := s.admit(s.asOne(ctx), a, asked)
	maybeMade := true
	switch {
	case err == nil:
		if a.Mode == store.Hold && d.Verdict == store.Admitted {
			s.held.add(a)
		}
		return d, nil
	case ctx.Err() != nil || errors.Is(err, store.ErrClosed):
		d = store.Decision{}
	default:
		var away awayError
		var full fullError
		isAway := errors.As(err, &away)
		switch {
		case isAway:
			maybeMade = away.sent
		case errors.As(err, &full):
			maybeMade = full.sent
		}
		d, err = s.share.admit(a, s.localTime(), err)
		d.ByShare = isAway // otherwise it is this account that cannot be served, or a full memory
	}
	if a.Mode == store.Hold && maybeMade && !s.held.has(a.HoldID) {
		s.forsake.add(a.HoldID, placeOf(a.Account))
	}
	return d, err
}

func (s *Store) localTime() time.Time {
	if s.clock != nil {
		return s.clock()
	}
	return time.Now()
}

func (s *Store) admit(ctx context.Context, a store.Admission, asked time.Time) (store.Decision, error) {
	home, err := s.home(ctx, a)
	if err != nil {
		if away := (awayError{}); errors.As(err, &away) {
			away.sent = false // no hold was asked for yet
			err = away
		}
		return store.Decision{}, err
	}
	money := placeOf(a.Account)
	if home == money {
		d, err := s.decide(ctx, home, a.Mode, true, true, a)
		if err == nil {
			s.fullWindows.note(a, d, asked)
		}
		return d.Decision, err
	}
	d, err := s.admitApart(ctx, home, money, a)
	return d.Decision, err
}

// admitApart admits where the windows are in another place than the money.
func (s *Store) admitApart(ctx context.Context, home, money place, a store.Admission) (decision, error) {
	d, err := s.decide(ctx, home, store.Check, true, false, a)
	if err != nil {
		return d, err
	}
	paid, err := s.decide(ctx, money, store.Check, false, true, a)
	switch {
	case err != nil:
		return d, err
	case paid.repeated:
		d.Verdict = store.Admitted
		return d, nil
	case d.Verdict != store.Admitted:
		return d, nil
	case paid.Verdict != store.Admitted || a.Mode == store.Check:
		d.Verdict = paid.Verdict
		return d, nil
	}
	// From here on both are written, the windows first: whoever comes between
	// finds less room than there is, and not more.
	d, err = s.decide(ctx, home, store.Count, true, false, a)
	if err != nil || d.Verdict != store.Admitted || a.Mode == store.Count {
		return d, err
	}
	paid, err = s.decide(ctx, money, store.Hold, false, true, a)
	// Where somebody else took the last of the balance since, the windows count one too
	// many: to take one out again could make room for one too many.
	d.Verdict = paid.Verdict
	return d, err
}

// decision is what the script decided.
type decision struct {
	store.Decision
	// repeated means that the hold was made before.
	repeated bool
	// fullFor is for how long, from when it was decided, Redis would decide the same, because a window is full.
	fullFor time.Duration
}

// decide runs the script in one place, for the windows, the money or both.
func (s *Store) decide(ctx context.Context, p place, mode store.Mode, windows, money bool, a store.Admission) (decision, error) {
	reply, err := s.send(ctx, admitScript, p, toAdmit(mode, windows, money, a))
	if err != nil {
		return decision{}, err
	}
	if len(reply) != lengthOfReply && len(reply) != lengthIfFull {
		return decision{}, unexpected(reply)
	}
	d := decision{Decision: store.Decision{
		Second: store.Quota{Limit: a.Limits.PerSecond, Remaining: number(reply[1:8])},
		Minute: store.Quota{Limit: a.Limits.PerMinute, Remaining: number(reply[8:lengthOfReply])},
	}, repeated: reply[0] == repeated, fullFor: time.Duration(number(reply[lengthOfReply:])) * time.Microsecond}
	if reply[0] == wordForsaken {
		return d, errForsaken
	}
	for _, v := range verdicts {
		if v.word == reply[0] {
			d.Verdict = v.Verdict
			return d, nil
		}
	}
	return d, unexpected(reply)
}

// toAdmit is a request to admit.
func toAdmit(mode store.Mode, windows, money bool, a store.Admission) request {
	q := append(make(packed, 0, 112), flag(windows), flag(money)).number(a.Limits.PerSecond).number(a.Limits.PerMinute)
	r := request{kind: modes[mode], terms: q.record(a)}
	if money {
		r.hold = a.HoldID
	}
	return r
}

func flag(on bool) byte {
	if on {
		return 1
	}
	return 0
}

// errUnexpected means that what lies in Redis, or what it answers, is not this
// package's.
var errUnexpected = errors.New("redis has answered in an unexpected form")

func unexpected(reply any) error { return fmt.Errorf("%w: %T", errUnexpected, reply) }

const (
	// maxHomes bounds the places of apps in memory; they are looked up again when needed.
	maxHomes = 100_000
	// homeLifetime is for how long an app's place is remembered that does not send.
	// A process asks again before that, which renews it.
	homeLifetime      = 38 * 24 * time.Hour
	homeCacheLifetime = 24 * time.Hour
)

// homes are the places of the apps' windows.
type homes struct {
	cache *lru.Cache[tenant.AppID, knownHome]
}

type knownHome struct {
	place
	expires time.Time
}

func newHomes() homes {
	cache, _ := lru.New[tenant.AppID, knownHome](maxHomes) // an error means a size that is not positive
	return homes{cache}
}

// home is the place of an app's windows. An app that was never seen gets that of
// the account, unless nobody pays for it.
func (s *Store) home(ctx context.Context, a store.Admission) (place, error) {
	if h, ok := s.homes.cache.Get(a.App); ok && time.Now().Before(h.expires) {
		return h.place, nil
	}
	p := placeOf(a.Account)
	key := s.key("home:" + string(a.App))
	asked := question{command: "get", key: key}
	if a.Account != "" {
		asked = question{"set", key, []any{int(p), "NX", "GET", "EX", int(homeLifetime.Seconds())}}
	}
	r, err := s.ask(ctx, key, asked)
	if err != nil {
		return p, err
	}
	switch known, err := r.text(); {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return p, err
	default:
		n, err := strconv.Atoi(known)
		if err != nil || n < 0 || n >= places {
			return p, unexpected(known)
		}
		p = place(n)
		if a.Account != "" {
			if _, err := s.ask(ctx, key, question{"expire", key, []any{int(homeLifetime.Seconds())}}); err != nil {
				return p, err
			}
		}
	}
	if a.Account != "" {
		s.homes.cache.Add(a.App, knownHome{p, time.Now().Add(homeCacheLifetime)})
	}
	return p, nil
}
