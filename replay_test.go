package gateway

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/core/coretest"
	"github.com/connexease/caddy-whatsapp-gateway/journal"
	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// newWallet adds an account with a credit of 10,000.
func (s *station) newWallet(account tenant.AccountID) {
	s.t.Helper()
	must(s.t, s.store.CreateAccount(s.t.Context(), tenant.Account{ID: account, Currency: "USD", CreatedAt: now()}))
	must1(s.store.Credit(s.t.Context(), account, 10_000, "credit_"+string(account)))
}

// newHold returns a hold of 1,000.
func (s *station) newHold(account tenant.AccountID) store.HoldID {
	s.t.Helper()
	a := admission(account, store.Hold)
	s.wantVerdict(a, store.Admitted)
	return a.HoldID
}

func (s *station) wantBalance(account tenant.AccountID, available, held, captured pricing.Micros) {
	s.t.Helper()
	b, err := s.store.Balance(s.t.Context(), account)
	if want := (store.Balance{Available: available, Held: held, Captured: captured}); err != nil || b != want {
		s.t.Errorf("balance %+v, error %v; want %+v", b, err, want)
	}
}

func (s *station) wantWaiting(want int) {
	s.t.Helper()
	if n := must1(s.store.journal.Len(context.Background())); n != want {
		s.t.Errorf("%d records are in the journal, want %d", n, want)
	}
	if n := count(journalRecords); n != float64(want) {
		s.t.Errorf("the metric says %v", n)
	}
}

// replayAll replays until the store has taken n records.
func (s *station) replayAll(n int) {
	s.t.Helper()
	done := 0
	await(s.t, "the store to take what is in the journal", func() bool {
		replayed, _ := s.replay(s.t.Context())
		done += replayed
		return done >= n
	})
}

// deliver posts a webhook of Meta's and returns the answer's status.
func (s *station) deliver(body signedBody) int {
	r := httptest.NewRequest(http.MethodPost, webhookPath, bytes.NewReader(body.body))
	r.Header.Set(signatureHeader, body.signature)
	r = r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer()))
	w := httptest.NewRecorder()
	if err := (&Handler{app: s.App, logger: zap.NewNop()}).ServeHTTP(w, r, nil); err != nil {
		s.t.Error(err)
	}
	return w.Code
}

// outbox is what is in the store's outbox.
func (s *station) outbox() (events []store.Event) {
	s.t.Helper()
	for e, err := range s.store.Events(s.t.Context(), store.EventFilter{}) {
		must(s.t, err)
		events = append(events, e)
	}
	return events
}

// newReceiver adds an app with a webhook, for what [sign] makes.
func (s *station) newReceiver() {
	s.t.Helper()
	must(s.t, s.store.CreateApp(s.t.Context(), tenant.App{
		ID: "app_receiver", PhoneNumberID: "100000000", CreatedAt: now(), Webhook: &tenant.Webhook{URL: "https://customer.example/hook"},
	}))
}

func TestStartWithAWrongPasswordFailsAndOneWithoutRedisDoesNot(t *testing.T) {
	s := stored{redis: redistest.Start(t, "requirepass "+redisPassword), dir: t.TempDir()}
	gateway := newStation(t, s, 1, nil)
	reloaded := newApp(t, s, 1, nil, func(a *App) {
		a.StoreRaw = bytes.ReplaceAll(a.StoreRaw, []byte(redisPassword), []byte("wrong"+redisPassword))
	})
	err := reloaded.acquire()
	if err == nil {
		reloaded.release()
		t.Fatal("started with a wrong password")
	}
	said := err.Error()
	if !strings.Contains(said, "redis at "+s.redis.Addr()+" refuses the user or password") || strings.ContainsAny(said, "\n;") {
		t.Errorf("the error is %q", strings.ReplaceAll(said, redisPassword, "…"))
	}
	if strings.Contains(said, redisPassword) {
		t.Error("the error repeats the password")
	}
	gateway.newWallet("acct_1") // it goes on

	s.redis.Kill()
	started := newApp(t, s, 2, nil)
	if err := started.acquire(); err != nil {
		t.Fatalf("without redis: %v", err)
	}
	started.release()
}

func TestOutcomesWaitInTheJournalAcrossARestart(t *testing.T) {
	s := onRedis(t)
	gateway := newStation(t, s, 1, nil)
	gateway.newWallet("acct_1")
	accepted, refused := gateway.newHold("acct_1"), gateway.newHold("acct_1")
	gateway.store.begin(accepted)
	s.redis.Kill()
	gateway.store.settleNow(settlement{hold: accepted, outcome: store.Captured, messageID: "wamid.1"})
	gateway.store.settleNow(settlement{hold: refused, outcome: store.Released})
	gateway.wantWaiting(2)
	if n := len(gateway.store.underWay); n != 0 {
		t.Errorf("%d sends are under way", n)
	}
	if n, err := gateway.replay(t.Context()); n != 0 || !storeAway(err) {
		t.Errorf("replayed %d, error %v", n, err)
	}
	gateway.wantWaiting(2)
	gateway.stop()

	s.redis.Start()
	gateway = newStation(t, s, 1, nil)
	gateway.replayAll(2)
	gateway.wantWaiting(0)
	gateway.wantBalance("acct_1", 9000, 0, 1000)
}

// A server that takes over may not have the last writes of the one before it.
func TestAcceptedSendIsChargedAlthoughItsHoldWasLost(t *testing.T) {
	s := onRedis(t)
	gateway := newStation(t, s, 1, nil)
	gateway.newWallet("acct_1")
	lost := store.NewHoldIDFor("acct_1")
	must(t, gateway.store.journalSettlement(settlement{
		hold: lost, app: "app_1", account: "acct_1", fee: 1000, outcome: store.Captured, messageID: "wamid.1",
	}))
	gateway.stop()
	gateway = newStation(t, s, 1, nil)
	gateway.replayAll(1)
	gateway.wantBalance("acct_1", 9000, 0, 1000)
}

// A store forgets a settled hold after a while, and would take it for one that was lost:
// a journal that lay on a machine that was down for long would charge for it again.
func TestOldRecordDoesNotBringAHoldBack(t *testing.T) {
	s := onRedis(t)
	gateway := newStation(t, s, 1, nil)
	for _, row := range []struct {
		account tenant.AccountID
		age     time.Duration
		charged pricing.Micros
		told    int
	}{
		{"acct_young", 29 * 24 * time.Hour, 1000, 0},
		{"acct_old", 31 * 24 * time.Hour, 0, 2},
	} {
		gateway.newWallet(row.account)
		must(t, gateway.store.journalSettlement(settlement{
			hold: store.NewHoldIDFor(row.account), app: "app_1", account: row.account, fee: 1000, outcome: store.Captured, messageID: "wamid.1",
		}))
		record := must1(gateway.store.journal.Next(t.Context(), 1))[0]
		must(t, gateway.store.journal.Done(t.Context(), record.ID))
		record.At = time.Now().Add(-row.age)
		before := gateway.logs.FilterMessage("a hold could not be settled").Len()
		for range 2 {
			must(t, gateway.replayRecord(t.Context(), record))
		}
		if n := gateway.logs.FilterMessage("a hold could not be settled").Len() - before; n != row.told {
			t.Errorf("%s: that the hold is unknown was logged %d times, want %d", row.account, n, row.told)
		}
		gateway.wantBalance(row.account, 10_000-row.charged, 0, row.charged)
	}
}

func TestStartedGatewayReplaysByItself(t *testing.T) {
	s := onRedis(t)
	gateway := newStation(t, s, 1, nil)
	gateway.newWallet("acct_1")
	hold := gateway.newHold("acct_1")
	must(t, gateway.Start())
	t.Cleanup(func() { _ = gateway.Stop() })
	s.redis.Kill()
	gateway.store.settleNow(settlement{hold: hold, outcome: store.Captured, messageID: "wamid.1"})
	gateway.wantWaiting(1)
	s.redis.Start()
	await(t, "the capture", func() bool {
		b, err := gateway.store.Balance(t.Context(), "acct_1")
		return err == nil && b.Captured == 1000
	})
	await(t, "the journal to be empty", func() bool { return gateway.store.journal.Waiting() == 0 })
}

func TestAcceptedSendIsChargedAlthoughItsHoldWasReleased(t *testing.T) {
	eachStore(t, func(t *testing.T, s stored) {
		gateway := newStation(t, s, 1, nil)
		gateway.newWallet("acct_1")
		hold := gateway.newHold("acct_1")
		must(t, gateway.store.Release(t.Context(), hold))
		for range 2 {
			must(t, gateway.store.trySettle(settlement{hold: hold, outcome: store.Captured, messageID: "wamid.1"}))
			gateway.wantBalance("acct_1", 9000, 0, 1000)
		}
	})
}

func TestWebhookWaitsInTheJournalAndIsStoredOnce(t *testing.T) {
	s := onRedis(t)
	gateway := newStation(t, s, 1, nil)
	gateway.newReceiver()
	body := sign(1, userMessages(3))
	s.redis.Kill()
	if status := gateway.deliver(body); status != http.StatusOK {
		t.Errorf("answered %d", status)
	}
	gateway.wantWaiting(1)
	records := must1(gateway.store.journal.Next(t.Context(), 1))
	s.redis.Start()
	gateway.replayAll(1)
	gateway.wantWaiting(0)
	if n := len(gateway.outbox()); n != 3 {
		t.Errorf("%d events", n)
	}
	// As if the gateway had been killed before it could tick off the record.
	must(t, gateway.store.append(records[0]))
	gateway.replayAll(1)
	if n := len(gateway.outbox()); n != 3 {
		t.Errorf("%d events after a repetition", n)
	}
	// Whatever Meta sends again is another webhook.
	if status := gateway.deliver(body); status != http.StatusOK || len(gateway.outbox()) != 6 {
		t.Errorf("answered %d, %d events", status, len(gateway.outbox()))
	}
}

func TestWebhookIsRefusedWhereItCannotWait(t *testing.T) {
	core := newCore(t)
	s := onRedis(t)
	gateway := newStation(t, s, 1, core)
	body := sign(1, userMessages(1))
	core.Set(coretest.Down)
	if status := gateway.deliver(body); status != http.StatusInternalServerError {
		t.Errorf("while only the core service is away: answered %d", status)
	}
	core.Set(coretest.HTML)
	if status := gateway.deliver(body); status != http.StatusInternalServerError {
		t.Errorf("with a core service that cannot be understood: answered %d", status)
	}
	gateway.wantWaiting(0)
	s.redis.Kill()
	core.Heal()
	must(t, gateway.store.journal.Close())
	if status := gateway.deliver(body); status != http.StatusInternalServerError {
		t.Errorf("without a journal: answered %d", status)
	}
}

func TestRecordThatCannotBeReplayedHoldsUpNothing(t *testing.T) {
	s := onRedis(t)
	gateway := newStation(t, s, 1, nil)
	gateway.newWallet("acct_1")
	hold := gateway.newHold("acct_1")
	for _, r := range []journal.Record{
		{Kind: "of a later release"}, {Kind: journaledCapture, Body: []byte("{")}, {Kind: journaledWebhook, Body: []byte("no line")},
	} {
		must(t, gateway.store.append(r))
	}
	must(t, gateway.store.journalSettlement(settlement{hold: hold, outcome: store.Captured, messageID: "wamid.1"}))
	if n, err := gateway.replay(t.Context()); n != 1 || err != nil {
		t.Errorf("replayed %d, error %v", n, err)
	}
	gateway.wantBalance("acct_1", 9000, 0, 1000)
	gateway.wantWaiting(3)
	if n, err := gateway.replay(t.Context()); n != 0 || err != nil {
		t.Errorf("replayed %d while they rest, error %v", n, err)
	}
	if n := gateway.logs.FilterMessage("a record of the journal cannot be replayed now and is kept").Len(); n != 3 {
		t.Errorf("%d log lines", n)
	}
}

func TestRecordThatIsTooMuchForTheStoreIsPutOff(t *testing.T) {
	s := onRedis(t)
	gateway := newStation(t, s, 1, nil)
	first, second := journal.Record{ID: 1}, journal.Record{ID: 2}
	for range maxStuck - 1 {
		if gateway.isStuck(t.Context(), first) {
			t.Fatal("too early")
		}
	}
	if gateway.isStuck(t.Context(), second) {
		t.Error("another record counts with it")
	}
	for range maxStuck - 1 {
		if gateway.isStuck(t.Context(), first) {
			t.Fatal("too early")
		}
	}
	s.redis.Kill()
	for range maxStuck {
		if gateway.isStuck(t.Context(), first) {
			t.Fatal("although the store is away")
		}
	}
	s.redis.Start()
	await(t, "the store to answer", func() bool { return gateway.isStuck(t.Context(), first) })
}

func TestOtherGatewaysSendsUnderWayAreNotInDoubt(t *testing.T) {
	eager := func(a *App) { a.InDoubt.After, a.longestSend = caddy.Duration(time.Second), time.Minute }
	alone := newStation(t, stored{dir: t.TempDir()}, 1, nil, eager)
	if age := alone.doubtAge(); age != time.Second {
		t.Errorf("alone: %v", age)
	}
	gateway := newStation(t, onRedis(t), 1, nil, eager)
	if age := gateway.doubtAge(); age < time.Minute+store.AdmitTimeout+settleTimeout {
		t.Errorf("among others: %v", age)
	}
}

func TestOutcomesInTheJournalComeBeforeTheInDoubtPolicy(t *testing.T) {
	s := onRedis(t)
	gateway := newStation(t, s, 1, nil)
	gateway.newWallet("acct_1")
	refused := gateway.newHold("acct_1")
	gateway.newHold("acct_1") // whose outcome is not known
	s.redis.Kill()
	gateway.store.settleNow(settlement{hold: refused, outcome: store.Released})
	gateway.wantWaiting(1)
	if n, err := gateway.settleInDoubt(t.Context(), 0, store.Captured); n != 0 || err == nil {
		t.Errorf("without redis %d holds are settled, error %v", n, err)
	}
	s.redis.Start()
	await(t, "the policy to be applied", func() bool {
		_, err := gateway.settleInDoubt(t.Context(), 0, store.Captured)
		return err == nil
	})
	gateway.wantBalance("acct_1", 9000, 0, 1000)
	gateway.wantWaiting(0)
}

func TestShareOfTheLimitsIsToldOnceAndCounted(t *testing.T) {
	s := onRedis(t)
	gateway := newStation(t, s, 1, nil)
	gateway.newWallet("acct_1")
	gateway.newHold("acct_1")
	before := count(metrics.admissionsByShare)
	s.redis.Kill()
	for range 3 {
		if d, err := gateway.admit(t.Context(), admission("acct_1", store.Hold)); err == nil || !d.ByShare {
			t.Errorf("%+v, error %v", d, err)
		}
	}
	if n := count(metrics.admissionsByShare) - before; n != 3 {
		t.Errorf("%v were counted", n)
	}
	s.redis.Start()
	await(t, "an admission", func() bool {
		d, err := gateway.admit(t.Context(), admission("acct_1", store.Hold))
		return err == nil && !d.ByShare
	})
	for message, want := range map[string]int{
		"the store is away: rates are judged by this gateway's share of the limits, and nothing is charged": 1,
		"the store is back: rates are judged by the whole limits":                                           1,
	} {
		if n := gateway.logs.FilterMessage(message).Len(); n != want {
			t.Errorf("%q was logged %d times", message, n)
		}
	}
}
