package sqlite

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/storetest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// wantClaimed claims all that an app has, among which is to be an event.
func wantClaimed(t *testing.T, s *Store, app tenant.AppID, id store.EventID) {
	t.Helper()
	for _, c := range claimSome(t, s, app, 10) {
		if c.ID == id {
			return
		}
	}
	t.Error("the event is durable, and nobody who asks for it gets it")
}

// newOpenStore opens a database of which nothing rests: what is found was not entered by itself.
func newOpenStore(t *testing.T) (*Store, *storetest.Clock) {
	t.Helper()
	clock := storetest.NewClock()
	return open(t, filepath.Join(t.TempDir(), "gateway.db"), clock.Now), clock
}

func TestAClaimThatIsGivenUpLeavesItsEventsToBeClaimed(t *testing.T) {
	s, _ := newOpenStore(t)
	id := put(t, s, "app_1")
	s.claims.giveUp("app_1", claimSome(t, s, "app_1", 1)) // as where the look-up fails that follows
	wantClaimed(t, s, "app_1", id)
}

func TestAClaimThatHasRunOutLongAgoLeavesItsEventToBeClaimed(t *testing.T) {
	s, clock := newOpenStore(t)
	id := put(t, s, "app_1")
	claimSome(t, s, "app_1", 1)
	s.claims.of("app_1", clock.Now().Add(time.Minute+2*claimMemory))
	if !s.claims.hides() {
		t.Error("an event is neither claimed nor in the outbox, and nobody looks for it")
	}
	clock.Advance(time.Minute)
	wantClaimed(t, s, "app_1", id)
}

// Others look in the outbox while a transaction enters what is hidden.
func TestEventsAreHiddenUntilTheirRowsAreCommitted(t *testing.T) {
	s, _ := newOpenStore(t)
	id := put(t, s, "app_1")
	claimed := claimSome(t, s, "app_1", 1)
	if err := s.Settle(t.Context(), claimed[0], store.Attempt{Result: store.Returned}); err != nil {
		t.Fatal(err)
	}
	inWriter(t, s, func(w *writer) error {
		err := w.showAll()
		if !s.claims.hides() {
			t.Error("an event counts as entered, and nobody can read its row yet")
		}
		return err
	})
	if s.claims.hides() {
		t.Error("an event counts as hidden, and is entered")
	}
	wantClaimed(t, s, "app_1", id)
}

// What memory has lost is entered by the first operation of a group, and another only asks.
func TestWhoAsksForAllEventsFailsWithTheTransactionThatEntersThem(t *testing.T) {
	s, _ := newOpenStore(t)
	put(t, s, "app_1")
	inWriter(t, s, func(w *writer) error { w.forget(); return nil })
	inWriter(t, s, func(w *writer) error {
		if _, err := w.begin(); err != nil {
			return err
		}
		if err := w.recoverArrivals(); err != nil {
			return err
		}
		asker := &operation{apply: (*writer).showAll}
		was := w.current
		w.current = asker
		defer func() { w.current = was }()
		if err := asker.apply(w); err != nil || !asker.wrote {
			t.Errorf("wrote %t, %v: it is told that all is entered, whatever becomes of the transaction", asker.wrote, err)
		}
		return nil
	})
}
