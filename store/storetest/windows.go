package storetest

import (
	"slices"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var windowChecks = []check{
	{"windows are as exact as promised", windowsAreExact},
	{"windows are never passed while limits change", windowsWhileLimitsChange},
}

// answered is a request that a store has answered. Where the store's clock
// stands still, both times are the same.
type answered struct {
	before, after time.Time
	limits        tenant.RateLimit
	store.Decision
}

func windowsAreExact(f *fixture) {
	r := Rand(f)
	payer := f.account(1)
	for _, pattern := range patterns {
		for range f.steps(3) {
			t := pattern.trace(r, f.realTime)
			var log []answered
			f.play(t, payer, func() tenant.RateLimit { return t.limits }, func(visit []answered) {
				f.wantHonestQuotas(visit)
				log = append(log, visit...)
			})
			f.wantNeverOver(log)
			f.wantFewRefused(log)
			if f.Failed() {
				f.Fatalf("%s, %d arrivals, limits %+v, restart at %v", pattern.name, len(log), t.limits, t.restarts)
			}
		}
	}
}

// Under changing limits, only what is admitted is judged: what a store may
// refuse while a lower limit follows on a higher one is nowhere promised.
func windowsWhileLimitsChange(f *fixture) {
	r := Rand(f)
	payer := f.account(1)
	for _, pattern := range patterns {
		t := pattern.trace(r, f.realTime)
		limits := t.limits
		change := func() tenant.RateLimit {
			if r.IntN(20) == 0 {
				limits = tenant.RateLimit{
					PerSecond: 1 + r.IntN(2*t.limits.PerSecond), PerMinute: 1 + r.IntN(2*t.limits.PerMinute),
				}
			}
			return limits
		}
		var log []answered
		f.play(t, payer, change, func(visit []answered) { log = append(log, visit...) })
		f.wantNeverOver(log)
		if f.Failed() {
			f.Fatalf("%s, %d arrivals, limits about %+v", pattern.name, len(log), t.limits)
		}
	}
}

// play sends the requests of a trace to a new app, and hands over the answers
// to each visit. Those of one visit are sent concurrently, so that a store can
// write them down together.
func (f *fixture) play(t trace, payer tenant.AccountID, limits func() tenant.RateLimit, done func([]answered)) {
	f.Helper()
	app := newAppID()
	for i, v := range t.visits {
		f.Advance(v.gap)
		if slices.Contains(t.restarts, i) {
			f.restart()
		}
		l := limits()
		answers := make([]answered, v.requests)
		crowd(v.requests, func(i int) {
			a := answered{before: f.Now(), limits: l}
			var err error
			if a.Decision, err = f.Admit(f.Context(), ask(store.Count, app, payer, l)); err != nil {
				f.Error(err)
			}
			a.after = f.Now()
			answers[i] = a
		})
		slices.SortStableFunc(answers, func(a, b answered) int { return a.before.Compare(b.before) })
		done(answers)
	}
}

// window is one of the two that limits speak of.
type window struct {
	name   string
	length time.Duration
	limit  func(tenant.RateLimit) int
	quota  func(store.Decision) store.Quota
}

var windows = []window{
	{
		"second", time.Second,
		func(l tenant.RateLimit) int { return l.PerSecond }, func(d store.Decision) store.Quota { return d.Second },
	},
	{
		"minute", time.Minute,
		func(l tenant.RateLimit) int { return l.PerMinute }, func(d store.Decision) store.Quota { return d.Minute },
	},
}

// wantNeverOver looks at the window that ends with each admission, which is
// where a window holds the most.
func (f *fixture) wantNeverOver(log []answered) {
	f.Helper()
	admitted := slices.DeleteFunc(slices.Clone(log), func(a answered) bool { return a.Verdict != store.Admitted })
	for _, w := range windows {
		for i, a := range admitted {
			first := i - w.limit(a.limits)
			if first < 0 {
				continue
			}
			if span := a.after.Sub(admitted[first].before); span < w.length {
				f.Errorf("%d were admitted within %v, of which %d are allowed in a %s", i-first+1, span, i-first, w.name)
				break
			}
		}
	}
}

// wantFewRefused compares with an exact log on the same arrivals. In real time
// a call's duration is added to the windows of the log, because the store may
// have looked at its clock at any moment of it.
func (f *fixture) wantFewRefused(log []answered) {
	f.Helper()
	var leeway time.Duration
	got := 0
	for _, a := range log {
		leeway = max(leeway, a.after.Sub(a.before))
		switch a.Verdict {
		case store.Admitted:
			got++
		case store.OverSecond, store.OverMinute:
		default:
			f.Errorf("verdict %s", verdictName(a.Verdict))
		}
	}
	var exact []time.Time
	for _, a := range log {
		full := false
		for _, w := range windows {
			first := len(exact) - w.limit(a.limits)
			full = full || first >= 0 && a.before.Sub(exact[first]) < w.length+2*leeway
		}
		if !full {
			exact = append(exact, a.before)
		}
	}
	if refused := len(exact) - got; refused*20 > len(exact) {
		f.Errorf("%d admitted, of which an exact log admits %d: more than 5 %% refused", got, len(exact))
	}
}

// wantHonestQuotas checks that what was told to be left, among requests at one
// time, is what the next one met: each that is admitted sees one less, and the
// first refusal comes when nothing is left.
func (f *fixture) wantHonestQuotas(visit []answered) {
	f.Helper()
	least, refused := visit[0].limits, false
	seen := make(map[[2]int]bool)
	for _, a := range visit {
		for _, w := range windows {
			if q := w.quota(a.Decision); q.Limit != w.limit(a.limits) || q.Remaining < 0 || q.Remaining > q.Limit {
				f.Errorf("quota of the %s %+v with limits %+v", w.name, q, a.limits)
			}
		}
		left := [2]int{a.Second.Remaining, a.Minute.Remaining}
		if a.Verdict != store.Admitted {
			refused = true
			continue
		}
		if seen[left] && !f.realTime {
			f.Errorf("%v were left after each of two requests at the same time", left)
		}
		seen[left] = true
		least.PerSecond, least.PerMinute = min(least.PerSecond, left[0]), min(least.PerMinute, left[1])
	}
	if full := least.PerSecond == 0 || least.PerMinute == 0; refused && !full && len(seen) > 0 && !f.realTime {
		f.Errorf("%+v were left when a request at the same time was refused", least)
	}
}
