package gateway

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/deadline"
	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/redo"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// outcomeDir is the folder with the outcomes of a test's gateway.
func (s *station) outcomeDir() string { return outcomeDirOf(s.App) }

func outcomeDirOf(a *App) string { return a.backend.(outcomeKeeper).OutcomeDir() }

// leave leaves an outcome behind, as a process does that is killed.
func (s *station) leave(settlements ...settlement) {
	s.t.Helper()
	l, err := redo.Open(s.outcomeDir())
	must(s.t, err)
	for _, st := range settlements {
		if st.at.IsZero() {
			st.at = now()
		}
		_, err := l.Write(st.append(nil))
		must(s.t, err)
	}
	must(s.t, l.Close())
}

// left is how many logs there are.
func (s *station) left() int {
	s.t.Helper()
	logs, err := filepath.Glob(filepath.Join(s.outcomeDir(), "*.redo"))
	must(s.t, err)
	return len(logs)
}

// books are an account's balance and the messages of its captures.
func (s *station) books(account tenant.AccountID) (store.Balance, map[string]bool) {
	s.t.Helper()
	messages := make(map[string]bool)
	for e, err := range s.store.Ledger(s.t.Context(), account, time.Time{}) {
		must(s.t, err)
		if e.Kind == store.KindCapture {
			messages[e.MessageID] = true
		}
	}
	b, err := s.store.Balance(s.t.Context(), account)
	must(s.t, err)
	return b, messages
}

func TestOutcomesOfAKilledGatewayAreSettledAtTheNextStart(t *testing.T) {
	eachStore(t, func(t *testing.T, s stored) {
		gateway := newStation(t, s, 1, nil)
		gateway.newWallet("acct_1")
		before, _ := gateway.books("acct_1")
		accepted, refused, settled := gateway.newHold("acct_1"), gateway.newHold("acct_1"), gateway.newHold("acct_1")
		must(t, gateway.store.Capture(t.Context(), settled, "wamid.0"))
		of := func(id store.HoldID, outcome store.Outcome, message string) settlement {
			return settlement{hold: id, app: "app_core", account: "acct_1", fee: 1000, outcome: outcome, messageID: message}
		}
		gateway.leave(of(accepted, store.Captured, "wamid.1"), of(refused, store.Released, ""), of(settled, store.Captured, "wamid.0"))
		gateway.stop()
		for range 2 { // the second finds nothing
			again := newStation(t, s, 1, nil)
			b, messages := again.books("acct_1")
			want := store.Balance{Available: before.Available - 2000, Captured: before.Captured + 2000}
			if diff := cmp.Diff(want, b); diff != "" || !messages["wamid.0"] || !messages["wamid.1"] || len(messages) != 2 {
				t.Errorf("the balance is wrong: %s\n%d messages are charged", diff, len(messages))
			}
			again.stop()
			if n := again.left(); n != 0 {
				t.Errorf("%d logs are left", n)
			}
		}
	})
}

func TestACommandFindsTheOutcomesOfAKilledGateway(t *testing.T) {
	s := stored{dir: t.TempDir()}
	gateway := newStation(t, s, 1, nil)
	gateway.newWallet("acct_1")
	first, second := gateway.newHold("acct_1"), gateway.newHold("acct_1")
	gateway.leave(settlement{hold: first, outcome: store.Captured, messageID: "wamid.1"})
	opened, err := gateway.backend.Open(t.Context(), false)
	must(t, err)
	defer func() { must(t, opened.Close()) }()
	settleLeftBehind(t.Context(), gateway.backend, opened)
	if b, messages := gateway.books("acct_1"); b.Held != 1000 || !messages["wamid.1"] {
		t.Errorf("%d are held", b.Held)
	}
	// What a gateway has that runs is its own.
	st := settlement{hold: second, outcome: store.Captured, messageID: "wamid.2"}
	slot, err := gateway.store.outcomes.Write(st.append(nil))
	must(t, err)
	settleLeftBehind(t.Context(), gateway.backend, opened)
	if b, _ := gateway.books("acct_1"); b.Held != 1000 {
		t.Errorf("%d are held", b.Held)
	}
	gateway.store.outcomes.Done(slot)
}

func TestAnOutcomeIsSettledWithoutItsClientsWaiting(t *testing.T) {
	eachStore(t, func(t *testing.T, s stored) {
		gateway := newStation(t, s, 1, nil)
		gateway.newWallet("acct_1")
		must1(gateway.store.Credit(t.Context(), "acct_1", 1_000_000, "op_more"))
		for i := range 60 { // the limit is 80 a second
			id := gateway.newHold("acct_1")
			gateway.store.begin(id)
			st := settlement{hold: id, app: "app_core", account: "acct_1", fee: 1000, outcome: store.Captured, messageID: "wamid." + string(id)}
			if i%3 == 0 {
				st.outcome, st.messageID = store.Released, ""
			}
			gateway.store.settle(st)
		}
		gateway.stop() // which waits for them
		gateway = newStation(t, s, 1, nil)
		if b, messages := gateway.books("acct_1"); b.Held != 0 || len(messages) != 40 {
			t.Errorf("%d are held, %d messages charged", b.Held, len(messages))
		}
		if n := gateway.left(); n != 1 {
			t.Errorf("there are %d logs", n)
		}
	})
}

// Redis goes away for good after a message was accepted, and the journal's disk is full: what
// the gateway could not settle until its end is in the log.
func TestAnOutcomeThatCouldNotBeSettledOutlivesTheExit(t *testing.T) {
	s := onRedis(t)
	gateway := newStation(t, s, 1, nil)
	gateway.newWallet("acct_1")
	id := gateway.newHold("acct_1")
	gateway.store.begin(id)
	s.redis.Kill()
	must(t, gateway.store.journal.Close())
	gateway.store.settle(settlement{hold: id, app: "app_core", account: "acct_1", fee: 1000, outcome: store.Captured, messageID: "wamid.1"})
	await(t, "the first attempt to fail", func() bool {
		return gateway.logs.FilterMessage("settling a send failed and is tried again").Len() == 1
	})
	gateway.stop()
	if n := gateway.left(); n != 1 {
		t.Fatalf("there are %d logs", n)
	}
	s.redis.Start()
	gateway = newStation(t, s, 1, nil)
	if b, messages := gateway.books("acct_1"); b.Held != 0 || !messages["wamid.1"] {
		t.Errorf("%d are held", b.Held)
	}
}

func TestWithoutRedisAbandonedOutcomesGoIntoTheJournal(t *testing.T) {
	s := onRedis(t)
	gateway := newStation(t, s, 1, nil)
	gateway.newWallet("acct_1")
	id := gateway.newHold("acct_1")
	gateway.leave(settlement{hold: id, app: "app_core", account: "acct_1", fee: 1000, outcome: store.Captured, messageID: "wamid.1"})
	gateway.stop()
	s.redis.Kill()
	a := newApp(t, s, 1, nil)
	must(t, a.acquire())
	if n, err := a.store.journal.Len(t.Context()); n != 1 || err != nil {
		t.Errorf("%d records are in the journal, error %v", n, err)
	}
	a.release()
	s.redis.Start()
	again := newStation(t, s, 1, nil)
	again.replayAll(1)
	if b, messages := again.books("acct_1"); b.Held != 0 || !messages["wamid.1"] {
		t.Errorf("%d are held", b.Held)
	}
}

func TestManyOutcomesAreSettledAtTheNextStart(t *testing.T) {
	s := stored{dir: t.TempDir()}
	gateway := newStation(t, s, 1, nil)
	gateway.newWallet("acct_1")
	must1(gateway.store.Credit(t.Context(), "acct_1", 1_000_000, "op_more"))
	var all []settlement
	for range 3 * settleAtOnce {
		a := admission("acct_1", store.Hold)
		a.Limits = tenant.RateLimit{PerSecond: 1000, PerMinute: 1000}
		gateway.wantVerdict(a, store.Admitted)
		all = append(all, settlement{hold: a.HoldID, outcome: store.Captured, messageID: "wamid." + string(a.HoldID)})
	}
	gateway.leave(all[:100]...)
	gateway.leave(all[100:]...)
	gateway.stop()
	again := newStation(t, s, 1, nil)
	if b, messages := again.books("acct_1"); b.Held != 0 || len(messages) != len(all) {
		t.Errorf("%d are held, %d messages charged of %d", b.Held, len(messages), len(all))
	}
}

// Another release, or a broken disk, has written something else.
func TestAnOutcomeThatCannotBeReadIsSetAside(t *testing.T) {
	s := stored{dir: t.TempDir()}
	gateway := newStation(t, s, 1, nil)
	gateway.newWallet("acct_1")
	id := gateway.newHold("acct_1")
	l, err := redo.Open(gateway.outcomeDir())
	must(t, err)
	st := settlement{hold: id, outcome: store.Captured, messageID: "wamid.1"}
	for _, record := range []string{"something else", string(st.append(nil)), "\x09"} {
		_, err = l.Write([]byte(record))
		must(t, err)
	}
	must(t, l.Close())
	gateway.stop()
	again := newStation(t, s, 1, nil)
	if b, messages := again.books("acct_1"); b.Held != 0 || !messages["wamid.1"] {
		t.Errorf("%d are held", b.Held)
	}
	aside, err := filepath.Glob(filepath.Join(again.outcomeDir(), "*.aside"))
	must(t, err)
	if again.logs.FilterMessage("outcomes of sends cannot be read and are set aside").Len() != 1 || len(aside) != 1 {
		t.Errorf("%d files are set aside", len(aside))
	}
}

func TestWithoutALogAnswersWaitForTheirSettlement(t *testing.T) {
	eachStore(t, func(t *testing.T, s stored) {
		dir := outcomeDirOf(newApp(t, s, 1, nil))
		must(t, os.MkdirAll(filepath.Dir(dir), 0o700))
		must(t, os.WriteFile(dir, nil, 0o600))
		gateway := newStation(t, s, 1, nil)
		gateway.newWallet("acct_1")
		id := gateway.newHold("acct_1")
		gateway.store.begin(id)
		gateway.store.settle(settlement{hold: id, outcome: store.Captured, messageID: "wamid.1"})
		if b, messages := gateway.books("acct_1"); b.Held != 0 || !messages["wamid.1"] {
			t.Errorf("%d are held", b.Held)
		}
		if gateway.logs.FilterMessage("answers wait for their settlement, because there is no log of outcomes").Len() != 1 {
			t.Error("nobody is told")
		}
	})
}

// The disk is full, so there is no log, and the database is locked: what was left behind stays.
func TestWhatCanNeitherBeSettledNorLoggedStays(t *testing.T) {
	s := stored{dir: t.TempDir()}
	gateway := newStation(t, s, 1, nil)
	gateway.newWallet("acct_1")
	gateway.leave(settlement{hold: gateway.newHold("acct_1"), outcome: store.Captured, messageID: "wamid.1"})
	full := &sharedStore{Store: closedWallet{gateway.store.Store}, underWay: make(map[store.HoldID]time.Time), deadlines: deadline.New(time.Second)}
	full.setLogger(zap.NewNop())
	full.closing, full.close = context.WithCancel(t.Context())
	if err := full.adopt(t.Context(), gateway.outcomeDir()); err == nil {
		t.Error("nothing is said")
	}
	full.close()
	full.retries.Wait()
	gateway.stop()
	again := newStation(t, s, 1, nil)
	if b, messages := again.books("acct_1"); b.Held != 0 || !messages["wamid.1"] {
		t.Errorf("%d are held", b.Held)
	}
}

// closedWallet settles nothing.
type closedWallet struct{ store.Store }

func (closedWallet) Capture(context.Context, store.HoldID, string) error { return store.ErrClosed }

// A log may have what was settled long ago and could not be erased. Redis has forgotten it and
// would take it for lost.
func TestAStaleOutcomeIsNotChargedAgain(t *testing.T) {
	for name, away := range map[string]bool{"at the start": false, "by way of the journal": true} {
		t.Run(name, func(t *testing.T) {
			s := onRedis(t)
			gateway := newStation(t, s, 1, nil)
			gateway.newWallet("acct_1")
			before, _ := gateway.books("acct_1")
			gateway.leave(settlement{
				hold: store.NewHoldIDFor("acct_1"), app: "app_core", account: "acct_1", fee: 1000,
				outcome: store.Captured, messageID: "wamid.1", at: now().Add(-maxRemembered),
			})
			gateway.stop()
			if away {
				s.redis.Kill()
				a := newApp(t, s, 1, nil)
				must(t, a.acquire())
				a.release()
				s.redis.Start()
			}
			again := newStation(t, s, 1, nil)
			if away {
				again.replayAll(1)
			}
			if after, _ := again.books("acct_1"); after != before {
				t.Errorf("before %+v, after %+v", before, after)
			}
		})
	}
}

// A command is at the log while the gateway starts, and fails: what is in the log is not in
// doubt.
func TestWhatACommandIsSettlingIsNotInDoubt(t *testing.T) {
	s := stored{dir: t.TempDir()}
	gateway := newStation(t, s, 1, nil)
	gateway.newWallet("acct_1")
	gateway.leave(settlement{hold: gateway.newHold("acct_1"), outcome: store.Released})
	gateway.stop()
	started := make(chan *App)
	err := redo.Abandoned(t.Context(), gateway.outcomeDir(), nil, func([][]byte) error {
		go func() {
			a := newApp(t, s, 1, nil)
			if err := a.acquire(); err != nil {
				t.Error(err)
			}
			started <- a
		}()
		// The gateway's own log is there once it is about to look at the others.
		await(t, "the gateway to start", func() bool { return gateway.left() == 1 })
		return errors.New("killed")
	})
	if err == nil {
		t.Error("the command has not failed")
	}
	a := <-started
	defer a.release()
	must1(a.settleInDoubt(t.Context(), 0, store.Captured))
	if b := must1(a.store.Balance(t.Context(), "acct_1")); b.Captured != 0 || b.Held != 0 {
		t.Errorf("a message that was refused is charged: %+v", b)
	}
}

func TestTheInDoubtPolicyWaitsForWhatIsLeftBehind(t *testing.T) {
	gateway := newStation(t, stored{dir: t.TempDir()}, 1, nil)
	gateway.newWallet("acct_1")
	old := gateway.newHold("acct_1")
	gateway.store.beginAt(old, time.Time{})
	if n := must1(gateway.settleInDoubt(t.Context(), 0, store.Captured)); n != 0 {
		t.Errorf("%d were settled", n)
	}
	gateway.store.end(old)
	if n := must1(gateway.settleInDoubt(t.Context(), 0, store.Captured)); n != 1 {
		t.Errorf("%d were settled", n)
	}
}

func TestAFullLogOfOutcomesIsWaitedFor(t *testing.T) {
	s := stored{dir: t.TempDir()}
	gateway := newStation(t, s, 1, nil)
	gateway.newWallet("acct_1")
	var slots []redo.Slot
	for range redo.Slots {
		slot, err := gateway.store.outcomes.Write([]byte("taken"))
		must(t, err)
		slots = append(slots, slot)
	}
	for _, message := range []string{"wamid.1", "wamid." + strings.Repeat("x", redo.MaxSize)} {
		id := gateway.newHold("acct_1")
		gateway.store.begin(id)
		gateway.store.settle(settlement{hold: id, outcome: store.Captured, messageID: message})
		if b, messages := gateway.books("acct_1"); b.Held != 0 || !messages[message] {
			t.Errorf("%d are held", b.Held)
		}
		for _, slot := range slots {
			gateway.store.outcomes.Done(slot)
		}
		slots = nil
	}
	if info, err := os.Stat(gateway.outcomeDir()); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder's mode is %v, error %v", info.Mode(), err)
	}
}

func TestASettlementIsLoggedAsItIs(t *testing.T) {
	text := func() string { return strings.Repeat("é", rand.IntN(40)) }
	for range 1000 {
		want := settlement{
			hold: store.HoldID(text()), app: tenant.AppID(text()), account: tenant.AccountID(text()),
			fee: pricing.Micros(rand.Int64()), outcome: store.Outcome(rand.IntN(2)), messageID: text(),
			at: time.UnixMicro(rand.Int64N(1 << 60)),
		}
		if rand.IntN(2) == 0 {
			want.fee = -want.fee
		}
		if got, err := parseSettlement(want.append(nil)); err != nil || got != want {
			t.Fatalf("%+v became %+v, error %v", want, got, err)
		}
	}
}

func FuzzLoggedSettlement(f *testing.F) {
	st := settlement{hold: store.NewHoldID(), app: "app_1", account: "acct_1", fee: 1000, messageID: "wamid.1", at: time.UnixMicro(1)}
	f.Add(st.append(nil))
	f.Add([]byte{0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := parseSettlement(b)
		if err != nil {
			return
		}
		if again, err := parseSettlement(st.append(nil)); err != nil || again != st {
			t.Errorf("a settlement changes when it is logged again: %v", err)
		}
	})
}
