package redis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	goredis "github.com/redis/go-redis/v9"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const (
	// testFee is what a message costs.
	testFee pricing.Micros = 1000
	// short is the timeout of stores whose Redis goes away, and soon is by when they have
	// answered at the latest, on the busiest machine.
	short = time.Second
	soon  = 10 * short
)

// roomy are limits that no test reaches.
var roomy = tenant.RateLimit{PerSecond: 1_000_000, PerMinute: 10_000_000}

// books are an account with money, and how a test looks at it: through a store of
// its own, which waits for Redis as long as it takes.
type books struct {
	*Store
	t       testing.TB
	account tenant.AccountID
	app     tenant.AppID
}

// newBooks opens an account. The options are those of the store to look through.
func newBooks(t testing.TB, o Options) *books {
	t.Helper()
	o.Timeout, o.Serving = patience, false
	return openBooks(t, open(t, o), tenant.AccountID(tenant.NewID("acct")), 1_000_000*testFee)
}

// openBooks opens an account with so much money.
func openBooks(t testing.TB, s *Store, account tenant.AccountID, money pricing.Micros) *books {
	t.Helper()
	b := &books{s, t, account, tenant.AppID(tenant.NewID("app"))}
	noError(t, b.CreateAccount(t.Context(), tenant.Account{ID: account, Name: "books", Currency: "USD", CreatedAt: time.Now()}))
	_, err := b.Credit(t.Context(), account, money, "books of "+string(account))
	noError(t, err)
	return b
}

// neighbour opens another account, in the same place or in another one.
func (b *books) neighbour(same bool, money pricing.Micros) *books {
	b.t.Helper()
	for {
		account := tenant.AccountID(tenant.NewID("acct"))
		if (placeOf(account) == placeOf(b.account)) == same {
			return openBooks(b.t, b.Store, account, money)
		}
	}
}

// admission is a request to send a message.
func (b *books) admission() store.Admission {
	return store.Admission{
		Mode: store.Hold, App: b.app, Account: b.account, Limits: roomy, Fee: testFee, HoldID: store.NewHoldIDFor(b.account),
	}
}

// hold makes a hold through a store.
func (b *books) hold(s *Store) store.HoldID {
	b.t.Helper()
	a := b.admission()
	d, err := s.Admit(b.t.Context(), a)
	if err != nil || d.Verdict != store.Admitted {
		b.t.Fatalf("a hold was answered %+v, %v", d, err)
	}
	return a.HoldID
}

// wantRefusal admits through a store that cannot, and returns the hold that was not made.
func (b *books) wantRefusal(s *Store) (store.HoldID, store.Decision, error) {
	b.t.Helper()
	a := b.admission()
	began := time.Now()
	d, err := s.Admit(b.t.Context(), a)
	took := time.Since(began)
	if err == nil || errors.Is(err, context.Canceled) {
		b.t.Fatalf("it was admitted: %+v, %v", d, err)
	}
	if took > soon {
		b.t.Errorf("it was refused after %v", took)
	}
	b.t.Logf("refused after %v: %v", took.Round(time.Millisecond), err)
	return a.HoldID, d, err
}

// wantAway is a refusal for which the gateway's own share of the limits was looked at.
func (b *books) wantAway(s *Store) store.HoldID {
	b.t.Helper()
	id, d, _ := b.wantRefusal(s)
	if !d.ByShare || d.Minute.Limit != roomy.PerMinute || d.Minute.Remaining <= 0 || d.Second.Limit != roomy.PerSecond {
		b.t.Errorf("the decision is %+v", d)
	}
	return id
}

// standing is how the holds of an account stand, by what the ledger tells.
type standing struct {
	// Captured has the messages of what was captured.
	Captured map[store.HoldID]string
	Released map[store.HoldID]bool
	Open     map[store.HoldID]bool
}

// wantHolds compares how many holds stand in which way.
func (b *books) wantHolds(captured, released, open int) standing {
	b.t.Helper()
	st := b.audit()
	if len(st.Captured) != captured || len(st.Released) != released || len(st.Open) != open {
		b.t.Errorf("%d were captured, %d released and %d are open; want %d, %d and %d",
			len(st.Captured), len(st.Released), len(st.Open), captured, released, open)
	}
	return st
}

// audit derives the balance from the ledger and compares it with the wallet, with the
// holds and with the list of those that are open. Anything that does not agree fails the test.
func (b *books) audit() standing {
	b.t.Helper()
	ctx := b.t.Context()
	st := standing{make(map[store.HoldID]string), make(map[store.HoldID]bool), make(map[store.HoldID]bool)}
	var credits pricing.Micros
	var derived store.Balance
	fees := make(map[store.HoldID]pricing.Micros)
	seen := make(map[string]bool)
	holdOf := func(e store.Entry) store.HoldID { return store.HoldID("hold" + e.ID[len(e.Kind):]) }
	for e, err := range b.Ledger(ctx, b.account, time.Time{}) {
		noError(b.t, err)
		if seen[e.ID] {
			b.t.Errorf("%s is in the ledger twice", e.ID)
		}
		seen[e.ID] = true
		switch e.Kind {
		case store.KindCredit:
			credits += e.Amount
			derived.Available += e.Amount
		case store.KindHold:
			derived.Available, derived.Held = derived.Available-e.Amount, derived.Held+e.Amount
			st.Open[holdOf(e)], fees[holdOf(e)] = true, e.Amount
		case store.KindCapture:
			derived.Held, derived.Captured = derived.Held-e.Amount, derived.Captured+e.Amount
			b.settled(&st, holdOf(e), fees, e)
			st.Captured[holdOf(e)] = e.MessageID
		case store.KindRelease:
			derived.Held, derived.Available = derived.Held-e.Amount, derived.Available+e.Amount
			b.settled(&st, holdOf(e), fees, e)
			st.Released[holdOf(e)] = true
		case store.KindTemplateFee:
			derived.Available, derived.Captured = derived.Available-e.Amount, derived.Captured+e.Amount
		}
		if e.Balance != derived.Available {
			b.t.Fatalf("after %s the balance is %d, and %d is derived", e.ID, e.Balance, derived.Available)
		}
	}
	balance, err := b.Balance(ctx, b.account)
	noError(b.t, err)
	if diff := cmp.Diff(derived, balance); diff != "" {
		b.t.Errorf("the wallet is not what the ledger makes of it (-ledger +wallet):\n%s", diff)
	}
	if credits != balance.Available+balance.Held+balance.Captured {
		b.t.Errorf("credits of %d, and %+v", credits, balance)
	}
	b.agrees(st)
	return st
}

// settled notes that a hold has an outcome.
func (b *books) settled(st *standing, id store.HoldID, fees map[store.HoldID]pricing.Micros, e store.Entry) {
	b.t.Helper()
	if !st.Open[id] || fees[id] != e.Amount {
		b.t.Errorf("%s of %d, and the hold is open: %v, of %d", e.ID, e.Amount, st.Open[id], fees[id])
	}
	delete(st.Open, id)
}

// agrees compares what the ledger tells of the holds with what their records say.
func (b *books) agrees(st standing) {
	b.t.Helper()
	open, err := b.client.HKeys(b.t.Context(), b.base(placeOf(b.account))+"open").Result()
	open = slices.DeleteFunc(open, func(id string) bool { return id == "" })
	noError(b.t, err)
	want := make([]string, 0, len(st.Open))
	for id := range st.Open {
		want = append(want, string(id))
	}
	slices.Sort(open)
	slices.Sort(want)
	if !slices.Equal(open, want) {
		b.t.Errorf("%d holds are in the list of those that are open, %d in the ledger", len(open), len(want))
	}
	states := make(map[store.HoldID]string)
	for id := range st.Captured {
		states[id] = "capture"
	}
	for id := range st.Released {
		states[id] = "release"
	}
	pipe := b.client.Pipeline()
	got := make(map[store.HoldID]*goredis.StringCmd)
	for id := range states {
		got[id] = pipe.HGet(b.t.Context(), b.pastOf(id), string(id))
	}
	_, _ = pipe.Exec(b.t.Context()) // its error is the first of the commands'
	for id, state := range states {
		if got[id].Err() != nil || stateIn(got[id].Val()) != state {
			b.t.Errorf("the state of a hold is %q (%v), in the ledger %q", stateIn(got[id].Val()), got[id].Err(), state)
		}
	}
}

// pastOf is the key that a hold is under once it is settled, and its message.
func (b *books) pastOf(id store.HoldID) string {
	return b.base(placeOf(b.account)) + pastKey(id)
}

// pastKey is that without what all keys of the place begin with.
func pastKey(id store.HoldID) string {
	period, _ := strconv.ParseInt(string(id[5:9]), 32, 64) // an id that tells of no time is in 0
	return fmt.Sprintf("past:%d", period)
}

// stateIn is what the record of a settled hold says.
func stateIn(record string) string {
	if record == "" {
		return ""
	}
	return map[byte]string{'c': "capture", 'r': "release", 'a': "release", 'f': "forsaken"}[record[0]]
}

// state is what the records say of a hold.
func (b *books) state(id store.HoldID) string {
	b.t.Helper()
	ctx := b.t.Context()
	record, err := b.client.HGet(ctx, b.pastOf(id), string(id)).Result()
	if err != nil && !errors.Is(err, goredis.Nil) {
		b.t.Fatal(err)
	}
	if record != "" {
		return stateIn(record)
	}
	open, err := b.client.HExists(ctx, b.base(placeOf(b.account))+"open", string(id)).Result()
	noError(b.t, err)
	if open {
		return "open"
	}
	return ""
}

// contents is everything that lies under a prefix, as DUMP shows it, by key.
func contents(t testing.TB, server *redistest.Server, prefix string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for _, key := range texts(command(t, server, "KEYS", prefix+":*")) {
		all[key] = fmt.Sprint(command(t, server, "DUMP", key))
	}
	return all
}

// changed are the keys in which two contents differ.
func changed(before, after map[string]string) []string {
	differ := make(map[string]bool)
	for key := range before {
		differ[key] = before[key] != after[key]
	}
	for key := range after {
		differ[key] = before[key] != after[key]
	}
	maps.DeleteFunc(differ, func(_ string, differs bool) bool { return !differs })
	return slices.Sorted(maps.Keys(differ))
}

// connectionTo is how to reach a server.
func connectionTo(t testing.TB, server *redistest.Server) *goredis.UniversalOptions {
	t.Helper()
	return testOptions(t, "single", "", server.URL()).Connection
}
