package storetest

import (
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var randomChecks = []check{
	{"random sequences do what a plain model does", randomSequences},
	{"random sequences of many at once keep the books", randomConcurrently},
	{"racing statuses and captures make the books of a plain model", racingBooks},
}

// player makes random moves, each of which may repeat or contradict an earlier
// one, on a store and on the model.
type player struct {
	*fixture
	*rand.Rand
	m        *model
	apps     []tenant.AppID
	asked    []store.Admission
	credited []modelCredit
	ids      []string // of credited
}

func pick[T any](r *rand.Rand, s []T) T { return s[r.IntN(len(s))] }

func randomSequences(f *fixture) {
	p := &player{fixture: f, Rand: Rand(f), apps: []tenant.AppID{newAppID(), newAppID(), newAppID()}}
	accounts := []tenant.AccountID{f.account(0), f.accountIn("EUR", 0), f.accountIn("TRY", 0)}
	p.m = newModel(map[tenant.AccountID]string{accounts[0]: "USD", accounts[1]: "EUR", accounts[2]: "TRY"})
	moves := []struct {
		weight int
		name   string
		move   func()
	}{
		{30, "hold", p.newHold},
		{12, "repeated hold", func() { p.hold(pick(p.Rand, p.asked)) }},
		{20, "capture", func() { p.settle(store.KindCapture) }},
		{14, "release", func() { p.settle(store.KindRelease) }},
		{24, "statuses", p.someStatuses},
		{14, "credit", p.newCredit},
		{8, "repeated credit", p.repeatedCredit},
		{3, "in doubt", p.settleInDoubt},
		{12, "time", func() { p.Advance(time.Duration(p.IntN(50)) * time.Millisecond) }},
		{1, "restart", p.restartEarly},
	}
	var deck []int
	for i, m := range moves {
		for range m.weight {
			deck = append(deck, i)
		}
	}
	p.newCredit()
	for len(p.asked) == 0 {
		p.newHold()
	}
	for step := range p.steps(500) {
		m := moves[pick(p.Rand, deck)]
		m.move()
		for _, account := range accounts {
			p.compare(account)
		}
		if f.Failed() {
			f.Fatalf("step %d, %s, went wrong", step, m.name)
		}
	}
}

func (f *fixture) steps(n int) int {
	if testing.Short() || f.realTime {
		return max(1, n/5)
	}
	return n
}

// compare compares an account with the model's, and its ledger with itself.
func (p *player) compare(account tenant.AccountID) {
	p.Helper()
	w := p.m.wallets[account]
	got := make(map[string]store.Entry)
	for _, e := range p.audit(account) {
		e.Seq, e.Balance, e.At = 0, 0, time.Time{}
		got[e.ID] = e
	}
	if !maps.Equal(got, w.entries) {
		p.wantSame("ledger", got, w.entries)
	}
	p.wantSame("balance", p.balance(account), w.balance)
}

func (p *player) newHold() {
	a := ask(store.Hold, pick(p.Rand, p.apps), pick(p.Rand, p.accounts), roomy)
	switch p.IntN(12) {
	case 0:
		a.Account = pick(p.Rand, []tenant.AccountID{"", "acct_unknown"})
	case 1:
		a.Mode, a.HoldID, a.Fee = store.Count, "", 0
	}
	if a.Mode == store.Hold {
		a.Fee = pricing.Micros(p.Int64N(5_000))
		p.asked = append(p.asked, a)
	}
	p.hold(a)
}

func (p *player) hold(a store.Admission) {
	p.Helper()
	known := p.m.holds[a.HoldID] != nil
	d, err := p.Admit(p.Context(), a)
	p.must(err)
	var at time.Time
	if !known && a.Mode == store.Hold && d.Verdict == store.Admitted {
		at = p.last(a.Account).At
	}
	if want := p.m.admit(a, at); d.Verdict != want {
		p.Errorf("Admit: %s, want %s", verdictName(d.Verdict), verdictName(want))
	}
}

// settle takes any hold that was asked for, be it open, settled or refused.
func (p *player) settle(kind store.Kind) {
	id := p.someHold()
	var err error
	message := ""
	if kind == store.KindCapture {
		if p.IntN(4) > 0 {
			message = p.messageOf(id)
		}
		err = p.Capture(p.Context(), id, message)
	} else {
		err = p.Release(p.Context(), id)
	}
	if want := p.m.settle(id, kind, message); !errors.Is(err, want) {
		p.Errorf("%s: error %v, want %v", kind, err, want)
	}
}

func (p *player) newCredit() {
	c := modelCredit{pick(p.Rand, p.accounts), pricing.Micros(p.Int64N(20_000) - 8_000)}
	if p.IntN(12) == 0 {
		c.account = "acct_unknown"
	}
	p.credited, p.ids = append(p.credited, c), append(p.ids, tenant.NewID("op"))
	p.credit(c, p.ids[len(p.ids)-1])
}

func (p *player) repeatedCredit() {
	i := p.IntN(len(p.ids))
	c := p.credited[i]
	if _, taken := p.m.credits[p.ids[i]]; taken && p.IntN(3) == 0 {
		c.amount++
	}
	p.credit(c, p.ids[i])
}

func (p *player) credit(c modelCredit, operation string) {
	p.Helper()
	got, err := p.Credit(p.Context(), c.account, c.amount, operation)
	want, wantErr := p.m.credit(c, operation)
	if !errors.Is(err, wantErr) {
		p.Errorf("Credit: error %v, want %v", err, wantErr)
	}
	if err == nil {
		p.wantSame("balance after Credit", got, want)
	}
}

func (p *player) settleInDoubt() {
	outcome, kind := store.Captured, store.KindCapture
	if p.IntN(2) == 0 {
		outcome, kind = store.Released, store.KindRelease
	}
	before := p.Now().Add(-time.Duration(p.IntN(3_000)) * time.Millisecond)
	if h := p.m.holds[pick(p.Rand, p.asked).HoldID]; h != nil {
		before = h.at.Add(time.Duration(p.IntN(3)-1) * time.Millisecond)
	}
	p.inDoubt(before, outcome, p.m.inDoubt(before, kind))
}

// Many play on the same accounts, holds and credits; what each is answered
// depends on the others, but the books must balance (which every check ends
// with), and each yes must stand in them once.
func randomConcurrently(f *fixture) {
	seed := Rand(f)
	accounts := []tenant.AccountID{f.account(20 * fee), f.account(20 * fee)}
	var holds []store.HoldID
	var credits []string
	for range 60 {
		holds = append(holds, store.NewHoldID())
		credits = append(credits, tenant.NewID("op"))
	}
	yes := make(map[string]*atomic.Bool)
	for i, id := range holds {
		for _, entry := range []string{string(id), id.EntryID(store.KindCapture), id.EntryID(store.KindRelease), credits[i]} {
			yes[entry] = new(atomic.Bool)
		}
	}
	var wg sync.WaitGroup
	for range 12 {
		r := rand.New(rand.NewPCG(seed.Uint64(), 0))
		wg.Go(func() {
			for range f.steps(200) {
				i := r.IntN(len(holds))
				account := accounts[i%len(accounts)]
				id, err := f.randomMove(r, account, holds[i], credits[i])
				if err == nil && id != "" {
					yes[id].Store(true)
				}
				if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrConflict) {
					f.Error(err)
				}
			}
		})
	}
	wg.Wait()
	f.restart()
	for _, account := range accounts {
		for _, e := range f.audit(account) {
			if said, ours := yes[e.ID]; ours && !said.Load() {
				f.Errorf("%s took effect and nobody was told so", e.ID)
			}
			delete(yes, e.ID)
		}
	}
	for id, said := range yes {
		if said.Load() {
			f.Errorf("%s was answered with success and did not take effect", id)
		}
	}
}

// randomMove returns the id of the entry that stands in the ledger if there is
// no error; it is empty if there should be none.
func (f *fixture) randomMove(r *rand.Rand, account tenant.AccountID, id store.HoldID, operation string) (string, error) {
	switch r.IntN(10) {
	case 0, 1, 2, 3:
		a := ask(store.Hold, "app_1", account, roomy)
		a.HoldID = id
		d, err := f.Admit(f.Context(), a)
		if d.Verdict != store.Admitted {
			return "", err
		}
		return string(id), err
	case 4, 5, 6:
		return id.EntryID(store.KindCapture), f.Capture(f.Context(), id, "wamid.1")
	case 7, 8:
		return id.EntryID(store.KindRelease), f.Release(f.Context(), id)
	default:
		_, err := f.Credit(f.Context(), account, fee, operation)
		return operation, err
	}
}
