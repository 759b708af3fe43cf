package storetest

import (
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// The limits here are as small as [small], so that decisions can be compared.
var quotaChecks = []check{
	{"the quota is what is left after the decision", quotaIsLeft},
	{"a window slides", windowSlides},
	{"a full minute is full for a minute", minuteSlides},
	{"windows belong to the app", windowsBelongToApp},
	{"limits can be raised and lowered", limitsChange},
	{"large limits can be raised and lowered", largeLimitsChange},
	{"a window that was not used for long is empty", longGap},
}

func (f *fixture) wantDecision(a store.Admission, want store.Decision) {
	f.Helper()
	f.wantSame("decision", f.admit(a), want)
}

// decision writes a decision on one line.
func decision(v store.Verdict, l tenant.RateLimit, second, minute int) store.Decision {
	return store.Decision{
		Verdict: v,
		Second:  store.Quota{Limit: l.PerSecond, Remaining: second},
		Minute:  store.Quota{Limit: l.PerMinute, Remaining: minute},
	}
}

func quotaIsLeft(f *fixture) {
	app, payer := newAppID(), f.account(2*fee)
	limits := tenant.RateLimit{PerSecond: 3, PerMinute: 4}
	f.wantDecision(ask(store.Check, app, payer, limits), decision(store.Admitted, limits, 3, 4))
	f.wantDecision(ask(store.Count, app, payer, limits), decision(store.Admitted, limits, 2, 3))
	f.wantDecision(ask(store.Check, app, payer, limits), decision(store.Admitted, limits, 2, 3))
	f.wantDecision(ask(store.Count, app, "", limits), decision(store.NoAccount, limits, 2, 3))
	hold := ask(store.Hold, app, payer, limits)
	f.wantDecision(hold, decision(store.Admitted, limits, 1, 2))
	f.wantDecision(hold, decision(store.Admitted, limits, 1, 2))
	f.wantDecision(ask(store.Hold, app, payer, limits), decision(store.Admitted, limits, 0, 1))
	f.wantDecision(ask(store.Count, app, payer, limits), decision(store.OverSecond, limits, 0, 1))
	f.Advance(time.Second)
	f.wantDecision(ask(store.Count, app, payer, limits), decision(store.NoBalance, limits, 3, 1))
	f.credit(payer, 1)
	f.wantDecision(ask(store.Count, app, payer, limits), decision(store.Admitted, limits, 2, 0))
	f.wantDecision(ask(store.Count, app, payer, limits), decision(store.OverMinute, limits, 2, 0))
}

func windowSlides(f *fixture) {
	app, payer := newAppID(), f.account(1)
	limits := tenant.RateLimit{PerSecond: 2, PerMinute: 15}
	count := ask(store.Count, app, payer, limits)
	f.wantDecision(count, decision(store.Admitted, limits, 1, 14))
	f.Advance(600 * time.Millisecond)
	f.wantDecision(count, decision(store.Admitted, limits, 0, 13))
	f.Advance(300 * time.Millisecond)
	f.wantDecision(count, decision(store.OverSecond, limits, 0, 13))
	f.Advance(200 * time.Millisecond) // at 1.1 s, the first is out
	f.wantDecision(count, decision(store.Admitted, limits, 0, 12))
	f.wantDecision(count, decision(store.OverSecond, limits, 0, 12))
	f.Advance(600 * time.Millisecond) // at 1.7 s, the second is out
	f.wantDecision(count, decision(store.Admitted, limits, 0, 11))
	f.Advance(1100 * time.Millisecond)
	f.wantDecision(count, decision(store.Admitted, limits, 1, 10))
}

func minuteSlides(f *fixture) {
	app, payer := newAppID(), f.account(1)
	limits := tenant.RateLimit{PerSecond: 10, PerMinute: 3}
	count := ask(store.Count, app, payer, limits)
	f.fill(app, payer, limits, 1)
	f.Advance(30 * time.Second)
	f.fill(app, payer, limits, 2)
	f.wantVerdict(count, store.OverMinute)
	f.Advance(29 * time.Second)
	f.wantVerdict(count, store.OverMinute)
	f.Advance(2 * time.Second)
	f.wantDecision(count, decision(store.Admitted, limits, 9, 0))
	f.wantVerdict(count, store.OverMinute)
	f.Advance(30 * time.Second)
	f.wantDecision(count, decision(store.Admitted, limits, 9, 1))
}

func windowsBelongToApp(f *fixture) {
	one, other := newAppID(), newAppID()
	payer, second := f.account(1), f.account(1)
	limits := tenant.RateLimit{PerSecond: 2, PerMinute: 2}
	f.fill(one, payer, limits, 2)
	f.wantVerdict(ask(store.Count, one, second, limits), store.OverMinute)
	f.fill(other, payer, limits, 2)
	f.wantVerdict(ask(store.Count, other, payer, limits), store.OverMinute)
}

func limitsChange(f *fixture) {
	app, payer := newAppID(), f.account(1)
	low, high := tenant.RateLimit{PerSecond: 3, PerMinute: 12}, tenant.RateLimit{PerSecond: 5, PerMinute: 12}
	f.fill(app, payer, low, 3)
	f.wantDecision(ask(store.Count, app, payer, low), decision(store.OverSecond, low, 0, 9))
	f.fill(app, payer, high, 2)
	f.wantDecision(ask(store.Count, app, payer, high), decision(store.OverSecond, high, 0, 7))
	f.wantDecision(ask(store.Count, app, payer, low), decision(store.OverSecond, low, 0, 7))
	f.Advance(time.Second)
	f.fill(app, payer, low, 3)
	f.wantDecision(ask(store.Count, app, payer, low), decision(store.OverSecond, low, 0, 4))

	tight := tenant.RateLimit{PerSecond: 5, PerMinute: 4}
	f.wantDecision(ask(store.Count, app, payer, tight), decision(store.OverMinute, tight, 2, 0))
	f.Advance(59500 * time.Millisecond) // the first five are out, three are left
	f.wantDecision(ask(store.Count, app, payer, tight), decision(store.Admitted, tight, 4, 0))
	f.wantVerdict(ask(store.Count, app, payer, tight), store.OverMinute)
}

func largeLimitsChange(f *fixture) {
	payer := f.account(1)
	low, high := tenant.RateLimit{PerSecond: 100, PerMinute: 6_000}, tenant.RateLimit{PerSecond: 400, PerMinute: 6_000}
	admitted := func(app tenant.AppID, l tenant.RateLimit) (n int) {
		for range 500 {
			if f.admit(ask(store.Count, app, payer, l)).Verdict == store.Admitted {
				n++
			}
		}
		return n
	}
	within := func(what string, got, most int) {
		f.Helper()
		if got > most || got*20 < most*19 {
			f.Errorf("%s: %d admitted, want %d or at most 5 %% less", what, got, most)
		}
	}
	raised := newAppID()
	first := admitted(raised, low)
	within("low limit", first, low.PerSecond)
	within("low limit and then a high one", first+admitted(raised, high), high.PerSecond)

	lowered := newAppID()
	within("high limit", admitted(lowered, high), high.PerSecond)
	if n := admitted(lowered, low); n > 0 {
		f.Errorf("%d admitted under a limit that was passed before it was lowered", n)
	}
	f.Advance(time.Second)
	within("low limit a second later", admitted(lowered, low), low.PerSecond)
}

func longGap(f *fixture) {
	app, payer := newAppID(), f.account(1)
	limits := tenant.RateLimit{PerSecond: 2, PerMinute: 2}
	gaps := []time.Duration{61 * time.Second, time.Hour, 400 * 24 * time.Hour}
	if f.realTime {
		gaps = gaps[:1]
	}
	for _, gap := range gaps {
		f.fill(app, payer, limits, 2)
		f.wantVerdict(ask(store.Count, app, payer, limits), store.OverMinute)
		f.Advance(gap)
	}
	f.fill(app, payer, limits, 2)
}
