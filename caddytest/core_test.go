package caddytest

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connexease/caddy-whatsapp-gateway/core/coretest"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	owner "github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// onEachStore runs a test with a Core Service: on one gateway with a database of
// its own, and on three that share a Redis.
func onEachStore(t *testing.T, s settings, test func(*testing.T, *common, []*gateway)) {
	for _, kind := range []struct {
		name     string
		gateways int
		common   func(testing.TB) *common
	}{
		{"sqlite", 1, func(testing.TB) *common { return newCommon() }},
		{"redis", 3, func(t testing.TB) *common { return onRedis(redistest.Start(t)) }},
	} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			s := s
			s.common = kind.common(t)
			s.common.startCore(t)
			test(t, s.common, startGateways(t, kind.gateways, s))
		})
	}
}

// turn returns the gateway whose turn it is.
func turn(gs []*gateway, i int) *gateway { return gs[i%len(gs)] }

func TestTheCoreServiceKnowsKeysAppsAndAccounts(t *testing.T) {
	t.Parallel()
	onEachStore(t, settings{}, func(t *testing.T, c *common, gs []*gateway) {
		who := c.coreTenant(t, profile{})
		const each = 2
		for i := range each * len(gs) {
			turn(gs, i).send(t, who.key, gs[0].message(accepted)).wantCode(t, "")
		}
		spent := int64(each*len(gs)) * fee
		turn(gs, 1).wantBalance(t, who.account, balance{available: 1_000_000 - spent, captured: spent})
		if got := gs[0].tally(t).sends(who); got != each*len(gs) {
			t.Errorf("%d sends have reached Meta", got)
		}
		for _, c := range []struct {
			who  tenant
			code string
		}{
			{c.coreTenant(t, profile{noAccount: true}), "BILL_002"},
			{c.coreTenant(t, profile{credit: "0"}), "BILL_001"},
			{c.coreTenant(t, profile{noCredentials: true}), "WABA_001"},
			{tenant{key: "nobody-has-this-key-4"}, "AUTH_001"},
		} {
			for _, g := range gs {
				g.send(t, c.who.key, g.message(accepted)).wantCode(t, c.code)
			}
		}
		// The limits are the app's, and those of all gateways together.
		limited := c.coreTenant(t, profile{perMinute: 3})
		for i := range 4 {
			code := map[bool]string{true: "RATE_001"}[i == 3]
			turn(gs, i).send(t, limited.key, gs[0].message(accepted), "is_fake=true").wantCode(t, code)
		}
	})
}

// followEvery is how seldom a gateway asks for one account.
const followEvery = 5 * time.Second

func TestACreditAtTheCoreServiceReachesTheWalletOnce(t *testing.T) {
	t.Parallel()
	onEachStore(t, settings{}, func(t *testing.T, c *common, gs []*gateway) {
		who := c.coreTenant(t, profile{credit: "0.003", perSecond: 1_000_000, perMinute: 10_000_000})
		began, body := time.Now(), gs[0].message(accepted)
		sent := 0
		// spend sends through all gateways at once, until so many were paid for in all.
		spend := func(total int) {
			t.Helper()
			eventually(t, fmt.Sprint(total, " sends to be paid for"), func() error {
				all := race(t, gs, who, body, len(gs), func(attempt) bool { return false })
				ok := count(all, http.StatusOK)
				if ok+count(all, http.StatusPaymentRequired) != len(gs) {
					t.Errorf("the answers to %d sends are %+v", len(gs), all)
				}
				if sent += ok; sent < total {
					return fmt.Errorf("%d were", sent)
				}
				return nil
			})
		}
		broke := func() {
			t.Helper()
			for _, g := range gs {
				g.send(t, who.key, body).wantCode(t, "BILL_001")
			}
		}
		spend(3)
		broke()
		c.credit(t, who, 10*fee)
		c.credit(t, who, -5*fee)
		spend(8)
		broke()
		// Every gateway has asked when it had to refuse, and not more often than it may.
		asked, most := c.core.Requests(coretest.Accounts), len(gs)*(1+int(time.Since(began)/followEvery))
		if asked < 2 || asked > most {
			t.Errorf("the Core Service was asked %d times in %v, at most %d were allowed", asked, time.Since(began), most)
		}
		turn(gs, 2).wantBalance(t, who.account, balance{captured: 8 * fee})
		if got := gs[0].tally(t).sends(who); got != 8 {
			t.Errorf("%d sends have reached Meta", got)
		}
		var credited int64
		for _, e := range gs[0].ledger(t, who.account) {
			if e.Kind == "credit" {
				credited += micros(t, e.Amount)
			}
		}
		if credited != 8*fee {
			t.Errorf("%d were credited", credited)
		}
	})
}

// reported is what the Core Service is to be told of a ledger, in its order.
func reported(t *testing.T, who tenant, ledger []ledgerEntry) (all []coretest.Entry) {
	t.Helper()
	for _, e := range ledger {
		if e.Kind == "hold" || e.Kind == "release" {
			continue
		}
		entry := coretest.Entry{
			ID: e.ID, Account: owner.AccountID(who.account), Kind: store.Kind(e.Kind),
			Amount: micros(t, e.Amount), MessageID: e.MessageID, At: e.At,
		}
		if e.Kind != "credit" {
			entry.AppID = owner.AppID(who.app)
		}
		all = append(all, entry)
	}
	return all
}

// wantReported waits until the Core Service has been told of a tenant's whole
// ledger, each entry once and in order.
func wantReported(t *testing.T, c *common, g *gateway, who tenant, entries int) {
	t.Helper()
	want := reported(t, who, g.ledger(t, who.account))
	if len(want) != entries {
		t.Errorf("there are %d entries to report, want %d", len(want), entries)
	}
	account := owner.AccountID(who.account)
	eventually(t, "the ledger to be reported", func() error {
		if n := len(c.core.EntriesOf(account)); n < len(want) {
			return fmt.Errorf("%d entries of %d are", n, len(want))
		}
		return nil
	})
	if diff := cmp.Diff(want, c.core.EntriesOf(account)); diff != "" {
		t.Error(diff)
	}
}

func TestTheLedgerIsReportedToTheCoreService(t *testing.T) {
	t.Parallel()
	onEachStore(t, settings{}.withWebhooks().withPrices(t), func(t *testing.T, c *common, gs []*gateway) {
		all := []tenant{c.coreTenant(t, rich), c.coreTenant(t, rich), gs[0].tenant(t, rich)}
		const each = 6
		sendAll := func() {
			t.Helper()
			for i := range each {
				for _, who := range all {
					turn(gs, i).send(t, who.key, gs[0].message([]string{accepted, refused}[i%2])).wantCode(t, []string{"", "GW_001"}[i%2])
				}
			}
		}
		sendAll()
		for _, who := range all {
			wantReported(t, c, gs[0], who, 1+each/2)
		}
		// While it is away, and while it does what it is asked for and says so to nobody.
		for i, fault := range []coretest.Fault{coretest.Down, {Late: true, Down: true}} {
			before := c.core.Requests(coretest.Ledger)
			c.core.Set(fault, coretest.Ledger)
			sendAll()
			eventually(t, "an attempt to report", func() error {
				if c.core.Requests(coretest.Ledger) == before {
					return fmt.Errorf("there is none with fault %d", i)
				}
				return nil
			})
		}
		for i, who := range all {
			recipient := gs[0].recipient(accepted)
			a := turn(gs, i).send(t, who.key, templateTo(recipient, "n"))
			delivered := status(a.messageID(), "delivered", recipient, priced(true, "marketing"))
			for j := range 2 { // Meta reports twice, to any of them
				turn(gs, i+j).report(t, notification(who.waba, statuses(who, delivered)))
			}
		}
		c.core.Heal(coretest.Ledger)
		for _, who := range all {
			wantReported(t, c, turn(gs, 1), who, 1+3*each/2+2)
		}
	})
}

func TestEventsGoToTheAppsOfTheCoreService(t *testing.T) {
	t.Parallel()
	onEachStore(t, settings{app: "key_cache 1s 1s"}.withWebhooks(), func(t *testing.T, c *common, gs []*gateway) {
		endpoint := startReceiver(t)
		who := c.coreTenant(t, profile{endpoint: endpoint})
		var want []string
		report := func(g *gateway) {
			t.Helper()
			body := notification(who.waba, g.userMessage(who))
			g.report(t, body)
			want = append(want, body)
		}
		for _, g := range gs {
			report(g) // before the app has sent anything
		}
		endpoint.wantDelivered(t, want)

		// What was learnt is known while the Core Service is away, after a restart, too.
		c.core.Set(coretest.Down)
		for _, g := range gs {
			report(g)
		}
		for _, g := range gs {
			g.restart(t)
		}
		for _, g := range gs {
			report(g)
		}
		endpoint.wantDelivered(t, want)

		// A change there counts once what was learnt is old.
		c.core.Heal()
		moved := startReceiver(t)
		app := owner.App{
			ID: owner.AppID(who.app), AccountID: owner.AccountID(who.account), PhoneNumberID: who.phone, WABAID: who.waba,
			Webhook: &owner.Webhook{URL: moved.url, Secret: owner.Secret(moved.secret)},
		}
		c.secrets.hide("webhook secret", moved.secret)
		if err := c.core.PutApp(app); err != nil {
			t.Fatal(err)
		}
		for _, g := range gs {
			eventually(t, "an event at the new endpoint", func() error {
				before := len(moved.received())
				g.report(t, notification(who.waba, g.userMessage(who)))
				g.awaitDelivered(t)
				if len(moved.received()) == before {
					return fmt.Errorf("it is still the old one's")
				}
				return nil
			})
		}
	})
}

// unheard is a number of nobody's.
func unheard() tenant {
	n := phones.Add(1)
	return tenant{phone: fmt.Sprintf("1%09d0000", n), waba: fmt.Sprintf("2%09d0000", n)}
}

// An event whose app only the Core Service may know is not taken while it is away.
func TestEventsOfUnknownAppsWaitForTheCoreService(t *testing.T) {
	t.Parallel()
	onEachStore(t, settings{}.withWebhooks(), func(t *testing.T, c *common, gs []*gateway) {
		for _, fault := range []coretest.Fault{coretest.Down, coretest.Error, coretest.HTML, coretest.HalfJSON} {
			c.core.Set(fault, coretest.Apps)
			for _, g := range gs {
				nobody := unheard()
				a := g.doWebhook(t, g.webhook(t, notification(nobody.waba, g.userMessage(nobody))))
				a.wantCode(t, "WH_004")
			}
		}
		if left := gs[0].outbox(t); len(left) != 0 {
			t.Errorf("%d events were stored", len(left))
		}
		c.core.Heal(coretest.Apps)
		nobody := unheard()
		gs[0].report(t, notification(nobody.waba, gs[0].userMessage(nobody)))
		states := []string{}
		for _, e := range gs[0].outbox(t) {
			states = append(states, e.State)
		}
		if !slices.Equal(states, []string{"quarantined"}) {
			t.Errorf("the event of an app that nobody knows is %q", states)
		}
	})
}
