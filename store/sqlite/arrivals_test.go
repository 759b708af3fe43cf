package sqlite

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connexease/caddy-whatsapp-gateway/sqlitefile"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/storetest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// behind is a store that is asked in the ways in which nobody waits, or asks twice.
type behind struct{ *Store }

func (b behind) Settle(ctx context.Context, c store.Claimed, a store.Attempt) error {
	if a.Result != store.Delivered || ctx.Err() != nil {
		return b.Store.Settle(ctx, c, a)
	}
	told := make(chan error, 1)
	b.SettleDelivered(c, func(err error) { told <- err })
	return <-told
}

func (b behind) Receive(ctx context.Context, events []store.Event, statuses []store.Status) ([]store.StatusResult, error) {
	if len(events)+len(statuses) == 0 {
		return b.Store.Receive(ctx, events, statuses)
	}
	var ids []store.HoldID
	for _, status := range statuses {
		ids = append(ids, status.Hold)
	}
	return b.ReceiveHeld(ctx, ids, len(events)+len(statuses), func(senders map[store.HoldID]store.Sender) ([]store.Event, []store.Status) {
		told := slices.Clone(statuses)
		for i := range told {
			if sender := senders[told[i].Hold]; sender.Captured {
				told[i].Captured, told[i].Sender = true, sender
			}
		}
		return events, told
	})
}

func TestConformanceWhereNobodyWaits(t *testing.T) {
	storetest.Run(t, storetest.Harness{Open: func(t *testing.T) *storetest.Instance {
		instance := openInstance(t)
		reopen := instance.Reopen
		instance.Store = behind{instance.Store.(*Store)}
		instance.Reopen = func() store.Store { return behind{reopen().(*Store)} }
		return instance
	}})
}

// claimSome claims what an app has.
func claimSome(t *testing.T, s *Store, app tenant.AppID, most int) []store.Claimed {
	t.Helper()
	claimed, _, err := s.Claim(t.Context(), app, most, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return claimed
}

// delivered settles a claim as the worker does, and waits.
func delivered(t *testing.T, s *Store, c store.Claimed) {
	t.Helper()
	if err := (behind{s}).Settle(t.Context(), c, store.Attempt{Result: store.Delivered}); err != nil {
		t.Fatal(err)
	}
}

// pending returns the ids of what is pending, oldest first.
func pending(t *testing.T, s *Store) (ids []store.EventID) {
	t.Helper()
	for e, err := range s.Events(t.Context(), store.EventFilter{State: store.Pending}) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, e.ID)
	}
	return ids
}

// outboxRows counts the rows of the outbox and of its newest part.
func outboxRows(t *testing.T, s *Store) (entered, recent int) {
	t.Helper()
	err := s.reading.QueryRowContext(t.Context(), "SELECT (SELECT count(*) FROM outbox), (SELECT count(*) FROM outbox_recent)").Scan(&entered, &recent)
	if err != nil {
		t.Fatal(err)
	}
	return entered, recent
}

func TestWhatIsDeliveredAtOnceIsNeverARow(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "gateway.db"), storetest.NewClock().Now) // nothing rests
	for range 100 {
		put(t, s, "app_1")
		put(t, s, "app_1")
		for _, c := range claimSome(t, s, "app_1", 10) {
			delivered(t, s, c)
		}
	}
	inWriter(t, s, func(w *writer) error {
		if w.arrivals.newest >= store.NewEventID() || len(w.arrivals.byID) > 0 || w.arrivals.next < 100 {
			t.Errorf("%d arrivals, up to row %d", len(w.arrivals.byID), w.arrivals.next)
		}
		return nil
	})
	if entered, recent := outboxRows(t, s); entered != 0 || recent != 0 {
		t.Errorf("%d and %d rows are left", entered, recent)
	}
}

func TestWhatRestsIsEntered(t *testing.T) {
	clock := storetest.NewClock()
	s := open(t, filepath.Join(t.TempDir(), "gateway.db"), clock.Now)
	put(t, s, "app_1")
	claimed := claimSome(t, s, "app_1", 1)
	clock.Advance(2 * arrivalRest)
	await(t, "the event to be entered", func() bool { entered, recent := outboxRows(t, s); return entered == 1 && recent == 0 })
	if again := claimSome(t, s, "app_1", 1); len(again) > 0 {
		t.Error("it is claimed twice")
	}
	delivered(t, s, claimed[0])
	if ids := pending(t, s); len(ids) > 0 {
		t.Errorf("%v is left", ids)
	}
}

func TestAFullOutboxKeepsWhatWasAcknowledged(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "gateway.db"), time.Now)
	first, second := put(t, s, "app_1"), put(t, s, "app_1")
	claimed := claimSome(t, s, "app_1", 2)
	for _, table := range []string{"outbox", "outbox_recent"} {
		allow := refuse(t, s, table)
		err := s.Settle(t.Context(), claimed[0], store.Attempt{Result: store.Failed, NextAttemptAt: time.Now()})
		if table == "outbox" && err == nil {
			t.Error("a failure is recorded, and there is no room for it")
		}
		if _, err := s.Receive(t.Context(), many("app_1", 1), nil); err == nil {
			t.Errorf("%s: an event is acknowledged, and there is no room for it", table)
		}
		allow()
	}
	if diff := cmp.Diff([]store.EventID{first, second}, pending(t, s)); diff != "" {
		t.Error(diff)
	}
	delivered(t, s, claimed[1])
	if diff := cmp.Diff([]store.EventID{first}, pending(t, s)); diff != "" {
		t.Error(diff)
	}
}

// The claim runs out while the outcome waits for its commit, and the event is claimed anew.
func TestAnOutcomeThatComesAfterItsClaimHasRunOutStillCounts(t *testing.T) {
	clock := storetest.NewClock()
	s := open(t, filepath.Join(t.TempDir(), "gateway.db"), clock.Now)
	put(t, s, "app_1")
	first := claimSome(t, s, "app_1", 1)
	told := make(chan error, 2)
	var second []store.Claimed
	clock.Advance(2 * time.Minute)
	second = claimSome(t, s, "app_1", 1)
	if len(second) != 1 || second[0].ID != first[0].ID {
		t.Fatalf("%d events are claimed again", len(second))
	}
	s.SettleDelivered(first[0], func(err error) { told <- err })
	s.SettleDelivered(second[0], func(err error) { told <- err })
	for range 2 {
		if err := <-told; err != nil {
			t.Error(err)
		}
	}
	if ids := pending(t, s); len(ids) > 0 || len(claimSome(t, s, "app_1", 1)) > 0 {
		t.Errorf("%v is left", ids)
	}
}

func TestOutcomesThatWaitAreCommittedWhenTheStoreCloses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s := open(t, path, time.Now)
	for range 50 {
		put(t, s, "app_1")
	}
	claimed := claimSome(t, s, "app_1", 100)
	told := make(chan error, len(claimed)+1)
	for _, c := range claimed[:49] {
		s.SettleDelivered(c, func(err error) { told <- err })
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s.SettleDelivered(claimed[49], func(err error) { told <- err })
	for i := range 50 {
		if err := <-told; err != nil && (i < 49 || !errors.Is(err, store.ErrClosed)) {
			t.Errorf("outcome %d: %v", i, err)
		}
	}
	if diff := cmp.Diff([]store.EventID{claimed[49].ID}, pending(t, open(t, path, time.Now))); diff != "" {
		t.Error(diff)
	}
}

func TestMoreEventsThanMemoryTakesAreClaimedInTheirOrder(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "gateway.db"), time.Now)
	var want []store.EventID
	for range 3 {
		events := many("app_1", maxFresh/2)
		if _, err := s.Receive(t.Context(), events, nil); err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			want = append(want, e.ID)
		}
	}
	var got []store.EventID
	for range 2 * len(want) {
		claimed := claimSome(t, s, "app_1", 100)
		if len(claimed) == 0 {
			break
		}
		for _, c := range claimed {
			got = append(got, c.ID)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d of %d events are claimed, or not in their order", len(got), len(want))
	}
}

func TestAPanicOfWhatFollowsHoldsIsItsCallersAlone(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "gateway.db"), time.Now)
	inGroup := make(chan error, 2)
	inWriter(t, s, func(*writer) error { // both are in the next group
		go func() {
			_, err := s.ReceiveHeld(context.Background(), nil, 1, func(map[store.HoldID]store.Sender) ([]store.Event, []store.Status) { panic("no") })
			if err == nil {
				err = errors.New("a panic is no error")
			} else {
				err = nil
			}
			inGroup <- err
		}()
		go func() { _, err := s.Receive(context.Background(), many("app_1", 1), nil); inGroup <- err }()
		return nil
	})
	for range 2 {
		if err := <-inGroup; err != nil {
			t.Error(err)
		}
	}
	if n := len(pending(t, s)); n != 1 {
		t.Errorf("%d events are pending, want the other one", n)
	}
}

func TestAnEventThatSomebodyAddedByHandIsNoObstacle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s := open(t, path, time.Now)
	put(t, s, "app_1")
	db, err := sqlitefile.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_, err = db.ExecContext(t.Context(), `INSERT INTO outbox (id, app_id, event, state, received_at, due_at, payload)
		VALUES ('evt_hand', 'app_1', 'read', 'pending', 1, 1, x'7b7d')`)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "app_1")
	if n := len(pending(t, s)); n != 3 {
		t.Errorf("%d events are pending, want 3", n)
	}
	if n := len(claimSome(t, s, "app_1", 10)); n != 3 {
		t.Errorf("%d events are claimed, want 3", n)
	}
}

func TestADamagedRowOfArrivalsIsQuarantinedAndHoldsUpNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, account := funded(t, path, 1_000_000)
	a := newArrivals()
	whole, cut := many("app_1", 2)[0], many("app_1", 1)[0]
	a.arrive(newFreshEvent(&whole, 1, 1_760_000_000_000_000))
	a.arrive(newFreshEvent(&cut, 2, 1_760_000_000_000_000))
	inWriter(t, s, func(w *writer) error {
		_, err := w.conn.ExecContext(context.Background(), "INSERT INTO outbox_recent (seq, records) VALUES (98, ?), (99, x'63')", a.records[:len(a.records)-1])
		return err
	})
	survivor, _ := crash(t, s, path)
	if _, err := survivor.Admit(t.Context(), holdOf(account)); err != nil {
		t.Error(err)
	}
	id := put(t, survivor, "app_1")
	if diff := cmp.Diff([]store.EventID{whole.ID, id}, pending(t, survivor)); diff != "" {
		t.Error(diff)
	}
	var set [][]byte
	for e, err := range survivor.Events(t.Context(), store.EventFilter{State: store.Quarantined}) {
		if err == nil {
			e, err = survivor.Event(t.Context(), e.ID)
		}
		if err != nil || e.LastError == "" {
			t.Errorf("%q, %v", e.LastError, err)
		}
		set = append(set, e.Payload)
	}
	if diff := cmp.Diff([][]byte{a.records[:len(a.records)-1], {0x63}}, set); diff != "" {
		t.Error(diff)
	}
	if _, recent := outboxRows(t, survivor); recent != 0 {
		t.Errorf("%d rows are left", recent)
	}
}

func TestTheLedgerDoesNotWaitForEventsThatCannotBeEntered(t *testing.T) {
	clock := storetest.NewClock()
	s := open(t, filepath.Join(t.TempDir(), "gateway.db"), clock.Now)
	put(t, s, "app_1")
	allow := refuse(t, s, "outbox")
	clock.Advance(2 * arrivalRest)
	await(t, "the event to be refused", func() (refused bool) {
		inWriter(t, s, func(w *writer) error {
			if refused = !w.arrivals.again.IsZero(); !w.tidyAgain.IsZero() {
				t.Error("the tail waits, too")
			}
			return nil
		})
		return refused
	})
	allow()
	await(t, "the event to be entered", func() bool { entered, recent := outboxRows(t, s); return entered == 1 && recent == 0 })
}

func FuzzArrivals(f *testing.F) {
	a := newArrivals()
	for i, e := range many("app_1", 3) {
		a.arrive(newFreshEvent(&e, int64(i+1), 1_760_000_000_000_000))
	}
	a.end(a.made[1])
	f.Add(slices.Clone(a.records))
	f.Add([]byte{arrivalFormat})
	f.Add([]byte{arrivalFormat, arrived, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		events := make(map[int64]freshEvent)
		if readArrivals(b, events) != nil {
			return
		}
		again, read := newArrivals(), make(map[int64]freshEvent)
		for _, e := range events {
			again.arrive(e)
		}
		if len(events) > 0 {
			if err := readArrivals(again.records, read); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(fmt.Sprint(events), fmt.Sprint(read)); diff != "" {
			t.Error(diff)
		}
	})
}
