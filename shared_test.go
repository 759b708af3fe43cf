package gateway

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/sqlite"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// full is a store whose disk is full when the outcome of a hold is to be written, for the
// first time.
type full struct {
	*sqlite.Store
	answer chan struct{}
}

func (s full) SettleHold(_ store.HoldID, _ store.Outcome, _ string, done func(error)) {
	go func() {
		<-s.answer
		done(errors.New("the disk is full"))
	}()
}

func TestAStoreIsClosedWhenAllOutcomesAreWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	opened, err := sqlite.Open(t.Context(), path, sqlite.Options{Exclusive: true})
	must(t, err)
	must(t, opened.CreateAccount(t.Context(), tenant.Account{ID: "acct_1", Currency: "USD"}))
	_, err = opened.Credit(t.Context(), "acct_1", 5_000, "credit_1")
	must(t, err)
	hold := store.NewHoldID()
	_, err = opened.Admit(t.Context(), store.Admission{
		Mode: store.Hold, App: "app_1", Account: "acct_1", Limits: tenant.RateLimit{PerSecond: 1, PerMinute: 1}, Fee: 1_000, HoldID: hold,
	})
	must(t, err)

	s := &sharedStore{Store: full{opened, make(chan struct{})}, underWay: make(map[store.HoldID]time.Time), deadlines: newDeadlines(settleTimeout)}
	s.setLogger(zap.NewNop())
	s.closing, s.close = context.WithCancel(context.Background())
	s.settle(settlement{hold: hold, outcome: store.Captured, messageID: "wamid.1"})
	destructed := make(chan error)
	go func() { destructed <- s.Destruct() }()
	<-s.closing.Done()
	close(s.Store.(full).answer)
	must(t, <-destructed)

	again, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	must(t, err)
	defer again.Close()
	if b, err := again.Balance(t.Context(), "acct_1"); err != nil || b.Captured != 1_000 {
		t.Errorf("%+v, %v", b, err)
	}
}
