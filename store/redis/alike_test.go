package redis

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	goredis "github.com/redis/go-redis/v9"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/store/storetest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// alike are two stores that are asked the same: one for many requests in a run, the other for one after another, which
// leaves everything about money to money.lua.
type alike struct {
	t        *testing.T
	server   *redistest.Server
	together *Store
	oneByOne *Store
	now      time.Time
	places   []place
	accounts []tenant.AccountID // in one of the places; the last one is not there
	only     bool               // all requests of a run are of the first place
	holds    []store.HoldID     // that were asked for
	homes    map[store.HoldID]place
	open     []store.HoldID // some that are open
	message  string         // the last one that was captured for
	admits   []placed       // the last requests to admit
	bundles  int            // how many there were
}

// wealth is what the accounts have: edges of what Lua can count with, and of 64 bits.
var wealth = []pricing.Micros{
	1, 30 * testFee, 10_000_000_000_000, 1_000_000_000_000, 99_999_999_999_999, 100_000_000_000_000, 1 << 53, math.MaxInt64 - 5*testFee,
}

// oddFees are beside what a message costs.
var oddFees = []pricing.Micros{0, 1, 999_999_999_999, 1_000_000_000_000, 1_000_000_000_000_001, 1<<53 + 1, math.MaxInt64 - 6*testFee}

func newAlike(t *testing.T, server *redistest.Server) *alike {
	l := &alike{t: t, server: server, now: storetest.NewClock().Now(), homes: make(map[store.HoldID]place)}
	for _, s := range []**Store{&l.together, &l.oneByOne} {
		o := testOptions(t, "single", "", server.URL())
		o.Serving, o.Clock = false, func() time.Time { return l.now }
		*s = open(t, o)
	}
	l.places = allPlaces()
	rand.Shuffle(len(l.places), func(i, j int) { l.places[i], l.places[j] = l.places[j], l.places[i] })
	l.places = l.places[:3]
	for len(l.accounts) <= len(wealth) {
		account := tenant.AccountID(tenant.NewID("acct"))
		// The third, who has enough, is of the first place, and so is the last one, whom there is not.
		if p := placeOf(account); !slices.Contains(l.places, p) || (len(l.accounts)-2)%3 == 0 && p != l.places[0] {
			continue
		}
		if len(l.accounts) < len(wealth) {
			openBooks(t, l.together, account, wealth[len(l.accounts)])
			openBooks(t, l.oneByOne, account, wealth[len(l.accounts)])
		}
		l.accounts = append(l.accounts, account)
	}
	return l
}

// placed is a request and where it is made.
type placed struct {
	place
	request
}

// payer is an account in the place, one more often than others.
func (l *alike) payer(p place) tenant.AccountID {
	var there []tenant.AccountID
	for _, account := range l.accounts {
		if placeOf(account) == p {
			there = append(there, account)
		}
	}
	if p == l.places[0] && rand.IntN(8) > 2 {
		return l.accounts[2] // who has enough for all of it
	}
	if len(there) == 0 {
		return "acct_of_nobody"
	}
	return oneOf(there...)
}

// somewhere is one of the places.
func (l *alike) somewhere() place {
	if l.only {
		return l.places[0]
	}
	return oneOf(l.places...)
}

// oneOf is one of several, at random.
func oneOf[T any](of ...T) T { return of[rand.IntN(len(of))] }

// hold is the id of a hold that was asked for before or, mostly, of a new one. Ids tell of times at which their hashes
// are there already, begin, are gone, or can never have been.
func (l *alike) hold(p place, again int) store.HoldID {
	var asked []store.HoldID
	for _, id := range l.holds {
		if l.homes[id] == p {
			asked = append(asked, id)
		}
	}
	if len(asked) > 0 && rand.IntN(100) < again {
		return oneOf(asked[max(0, len(asked)-40):]...)
	}
	id := ""
	for id == "" || placeOfHint(store.HoldID(id).Hint()) != p {
		id = string(store.NewHoldIDFor(tenant.AccountID(tenant.NewID("acct"))))
	}
	if rand.IntN(8) == 0 {
		days := time.Duration(oneOf(-50, -20, -1, 0, 4, 400)) * 24 * time.Hour
		id = oneOf(string(at(store.HoldID(id), time.Now().Add(days))), "hold_zzzzz"+id[10:])
	}
	l.holds, l.homes[store.HoldID(id)] = append(l.holds, store.HoldID(id)), p
	return store.HoldID(id)
}

// request is one to admit or to settle.
func (l *alike) request() placed {
	p := l.somewhere()
	a := store.Admission{
		App: tenant.AppID(oneOf("app_1", "app_2", "app_3")), Account: l.payer(p), Fee: testFee,
		Limits: tenant.RateLimit{PerSecond: oneOf(2, 10, 127, 127, 127), PerMinute: oneOf(5, 60, 127, 127, 127)},
	}
	if rand.IntN(8) == 0 {
		a.Fee = oneOf(oddFees...)
	}
	if rand.IntN(5) < 3 {
		// Most are like one before them, and in a bundle with it.
		if like := oneOf(append(l.admits, placed{})...); like.terms != nil && like.hold != "" && rand.IntN(4) > 0 && (!l.only || like.place == l.places[0]) {
			like.hold = l.hold(like.place, 10)
			return like
		}
		a.HoldID = l.hold(p, 10)
		windows := rand.IntN(3) > 0
		q := placed{p, toAdmit(oneOf(store.Check, store.Count, store.Hold, store.Hold, store.Hold), windows, !windows || rand.IntN(4) > 0, a)}
		l.admits = append(l.admits[max(0, len(l.admits)-2):], q)
		return q
	}
	id := l.hold(p, 95)
	if len(l.open) > 0 && rand.IntN(4) > 0 {
		id, l.open = l.open[0], l.open[1:]
		p = l.homes[id]
	}
	if rand.IntN(4) == 0 {
		return placed{p, request{kind: settles[store.Released], hold: id}}
	}
	// It may have that of the one before it. Where that is a message of other days it is noted twice, which does no harm.
	if rand.IntN(10) > 0 || !strings.HasPrefix(l.message, messageOf(id[:9])) {
		l.message = messageOf(id)
	}
	r := request{kind: settles[store.Captured], hold: id, message: oneOf(l.message, l.message, l.message, "")}
	if rand.IntN(6) == 0 {
		r.terms = packed(nil).record(store.Admission{Account: l.payer(p), App: a.App, Fee: a.Fee})
	}
	return placed{p, r}
}

// alone runs the script for a request, which may fail.
func (l *alike) alone(s *Store, source string, q placed) string {
	text, err := s.client.Eval(l.t.Context(), source, s.declared[q.place], s.now(), []byte(q.request.packed(nil))).Text()
	if err != nil {
		text, _, _ = strings.Cut("failed: "+err.Error(), " script: ")
	}
	return text
}

// inConvoy runs the script for some requests as a convoy does. It returns them in the order in which it does them, and the answers.
func (l *alike) inConvoy(s *Store, requests []placed) (done []placed, replies []string) {
	c := convoy{mayScatter: true}
	of := make(map[*job]placed)
	for _, q := range requests {
		j := newJob()
		j.command = goredis.NewStringCmd(l.t.Context())
		j.request, j.args[argBase] = q.request, s.base(q.place)
		of[j] = q
		c.join(j)
	}
	for i := range c.groups {
		g := &c.groups[i]
		if j := g.alone(); j != nil {
			done, replies = append(done, of[j]), append(replies, l.alone(s, settleScript.source, of[j]))
			continue
		}
		keys, args := slices.Clone(s.declared[requests[0].place]), []any{s.now()}
		for i := range g.bundles {
			args = append(args, &g.bundles[i])
			if !l.only {
				keys = append(keys, g.bundles[i].jobs[0].args[argBase].(string))
			}
		}
		l.bundles += len(g.bundles)
		texts, err := s.client.Eval(l.t.Context(), settleScript.source, keys, args...).StringSlice()
		noError(l.t, err)
		for i := range g.bundles {
			b := &g.bundles[i]
			b.answer(texts[i], func(*job) {})
			for _, j := range b.jobs {
				noError(l.t, j.err)
				done, replies = append(done, of[j]), append(replies, j.command.Val())
			}
		}
	}
	return done, replies
}

// inDigits is the script with no number that is small enough to count with, so that money.lua does it all.
func inDigits(t *testing.T) string {
	const counts = "DIGITS, FEE_DIGITS = 15, 13"
	source := strings.Replace(settleScript.source, counts, "DIGITS, FEE_DIGITS = 0, 0", 1)
	if source == settleScript.source {
		t.Fatalf("the script has no %q", counts)
	}
	return source
}

// runs asks both stores. Those of a run that have no answer come again alone, and so behind all others.
func (l *alike) runs(requests []placed, source string) (answered int) {
	l.t.Helper()
	requests, got := l.inConvoy(l.together, requests)
	var order []int
	for _, again := range []bool{false, true} {
		for i := range requests {
			if (got[i] == "") == again {
				order = append(order, i)
			}
		}
		if !again {
			answered = len(order)
		}
	}
	for n, i := range order {
		if n >= answered {
			got[i] = l.alone(l.together, settleScript.source, requests[i])
		}
		if want := l.alone(l.oneByOne, source, requests[i]); got[i] != want {
			l.t.Errorf("request %d of %d, %q, is answered %q, and %q alone", n, len(order), requests[i].request.packed(nil), got[i], want)
		}
	}
	return answered
}

// meanwhile is what else happens to both stores.
func (l *alike) meanwhile(s *Store, what int, id store.HoldID, account tenant.AccountID) {
	switch what {
	case 0, 1: // which settles, or is early
		_, err := s.Receive(l.t.Context(), nil, delivered(messageOf(id), map[bool]store.HoldID{true: id}[what == 0]))
		if err != nil && !answered(err) {
			l.t.Error(err)
		}
	case 2:
		noError(l.t, s.client.SRem(l.t.Context(), s.base(placeOf(account))+"unreported", string(account)).Err())
	case 3:
		_, err := s.eval(l.t.Context(), forsakeScript, l.homes[id], []any{string(id)})
		noError(l.t, err)
	case 4:
		_, err := s.Credit(l.t.Context(), account, testFee, string(id))
		if err != nil && !errors.Is(err, pricing.ErrOverflow) && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrConflict) {
			l.t.Error(err)
		}
	}
}

// aMonth is when a hold is too old to be settled in a run, and all that was settled or named is gone.
func (l *alike) aMonth() {
	l.now = l.now.Add(31 * 24 * time.Hour)
	for _, s := range []*Store{l.together, l.oneByOne} {
		for _, key := range texts(command(l.t, l.server, "KEYS", s.key("*:past:*"))) {
			command(l.t, l.server, "DEL", key)
		}
	}
}

// spoilBoth has both stores meet another type under a key.
func (l *alike) spoilBoth(id store.HoldID, account tenant.AccountID) (repair func()) {
	key := oneOf("wallet:"+string(account), "ledger:"+string(account), "ledger:"+string(account), "ledger:"+string(account), "unreported", "open",
		pastKey(id), "windows:app_1", "early:"+messageOf(id))
	p := placeOf(account)
	if strings.HasPrefix(key, "past:") || strings.HasPrefix(key, "early:") {
		p = l.homes[id]
	}
	first := spoil(l.t, l.server, l.together.base(p)+key)
	second := spoil(l.t, l.server, l.oneByOne.base(p)+key)
	return func() { first(); second() }
}

// Whatever comes in one run of the script is answered, and leaves, what the same requests do one by one.
func TestARunOfManyIsLikeManyRuns(t *testing.T) {
	t.Parallel()
	const rounds = 80
	server := redistest.Start(t, "appendfsync no")
	l := newAlike(t, server)
	asked, answered := 0, 0
	for round := range rounds {
		l.now = l.now.Add(oneOf(0, time.Millisecond, 300*time.Millisecond, time.Second, 20*time.Second, 20*time.Second, time.Minute, time.Minute, -time.Second, -2*time.Minute))
		if round == rounds*2/3 {
			l.aMonth()
		}
		l.only = rand.IntN(3) == 0
		what, id, account := rand.IntN(10), l.hold(l.somewhere(), 90), oneOf(l.accounts...)
		if len(l.open) > 0 && rand.IntN(2) == 0 {
			id = l.open[0]
		}
		l.meanwhile(l.together, what, id, account)
		l.meanwhile(l.oneByOne, what, id, account)
		l.open = nil
		for _, p := range l.places {
			for _, id := range texts(command(t, server, "HKEYS", l.oneByOne.base(p)+"open")) {
				if id != "" && (!l.only || p == l.places[0]) {
					l.open = append(l.open, store.HoldID(id))
				}
			}
		}
		rand.Shuffle(len(l.open), func(i, j int) { l.open[i], l.open[j] = l.open[j], l.open[i] })
		requests := make([]placed, 2+rand.IntN(24))
		for i := range requests {
			requests[i] = l.request()
		}
		repair, source := func() {}, inDigits(t)
		if rand.IntN(4) == 0 {
			repair, source = l.spoilBoth(id, l.accounts[rand.IntN(5)]), settleScript.source // the other one looks at more keys
		}
		asked, answered = asked+len(requests), answered+l.runs(requests, source)
		repair()
		if diff := cmp.Diff(l.books(l.oneByOne), l.books(l.together)); diff != "" {
			t.Errorf("the books differ (-one by one +together):\n%s", diff)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	if t.Logf("%d of %d requests, of %d bundles, were answered in their run", answered, asked, l.bundles); answered < asked/4 {
		t.Errorf("only %d of %d requests were answered in their run", answered, asked)
	}
}
