package sqlite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connexease/caddy-whatsapp-gateway/sqlitefile"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/storetest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// put puts an event of an app into the outbox and returns its id.
func put(t testing.TB, s *Store, app tenant.AppID) store.EventID {
	t.Helper()
	e := store.Event{ID: store.NewEventID(), App: app, Name: tenant.EventMessages, State: store.Pending, Payload: []byte("{}")}
	if _, err := s.Receive(t.Context(), []store.Event{e}, nil); err != nil {
		t.Fatal(err)
	}
	return e.ID
}

// The claims of a gateway end with it: nobody has to wait for them to run out.
func TestRestartEndsClaims(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	clock := storetest.NewClock()
	s := open(t, path, clock.Now)
	id := put(t, s, "app_1")
	claimed, _, err := s.Claim(t.Context(), "app_1", 10, time.Hour)
	if err != nil || len(claimed) != 1 {
		t.Fatalf("claimed %d events, error %v", len(claimed), err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path, clock.Now)
	claimed, _, err = s.Claim(t.Context(), "app_1", 10, time.Hour)
	if err != nil || len(claimed) != 1 || claimed[0].ID != id {
		t.Errorf("after a restart %d events were claimed, error %v", len(claimed), err)
	}
}

func TestCommandsDoNotClaim(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	open(t, path, time.Now)
	command, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer command.Close()
	if _, _, err := command.Claim(t.Context(), "app_1", 10, time.Hour); err == nil {
		t.Error("a store that was opened to administer claims events")
	}
}

func TestSweepForgetsOldDeadLetters(t *testing.T) {
	clock := storetest.NewClock()
	s := open(t, filepath.Join(t.TempDir(), "gateway.db"), clock.Now)
	put(t, s, "app_1")
	old := put(t, s, "app_2")
	if n, err := s.Bury(t.Context(), "app_2", clock.Now().Add(time.Second), "gone"); n != 1 || err != nil {
		t.Fatalf("buried %d, error %v", n, err)
	}
	sweep := func() {
		err := s.writer.do(t.Context(), &operation{apply: func(w *writer) error { w.sweep(); return nil }})
		if err != nil {
			t.Fatal(err)
		}
	}
	clock.Advance(store.DeadLetterLifetime)
	sweep()
	if _, err := s.Event(t.Context(), old); err != nil {
		t.Errorf("a dead letter is gone before its time: %v", err)
	}
	clock.Advance(time.Second)
	sweep()
	count := 0
	for e, err := range s.Events(t.Context(), store.EventFilter{}) {
		if err != nil || e.State != store.Pending {
			t.Errorf("%s is left, error %v", e.State, err)
		}
		count++
	}
	if count != 1 {
		t.Errorf("%d events are left, want the pending one", count)
	}
}

// A database of the first schema keeps what it has.
func TestOutboxComesToAnOlderDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	script, err := os.ReadFile("migrations/0001_directory_and_wallet.sql")
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqlitefile.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{string(script), `
		INSERT INTO accounts (id, name, currency, created_at, credited, available) VALUES ('acct_1', 'A', 'USD', '2026-01-01T00:00:00Z', 5, 5);
		INSERT INTO apps (id, name, account_id, phone_number_id, created_at) VALUES ('app_1', 'B', 'acct_1', '111', '2026-01-01T00:00:00Z');
		PRAGMA user_version = 1`,
		fmt.Sprintf("PRAGMA application_id = %d", applicationID),
	} {
		if _, err := db.ExecContext(context.Background(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, time.Now)
	apps, err := s.AppsWithNumber(t.Context(), "111")
	if err != nil {
		t.Fatal(err)
	}
	want := []tenant.App{{ID: "app_1", Name: "B", AccountID: "acct_1", PhoneNumberID: "111", CreatedAt: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}}
	if diff := cmp.Diff(want, apps); diff != "" {
		t.Error(diff)
	}
	put(t, s, "app_1")
}

// Sends wait for the writer, and so for every step of it that reads a whole table.
func TestStatementsOfTheWriterUseIndexes(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "gateway.db"), time.Now)
	queries := []string{
		"DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE state = 'dead' AND due_at < ? LIMIT ?)",
		"DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE state = 'dead' AND app_id = ? LIMIT ?)",
		trimQuarantine,
	}
	for query := range s.writer.statements.all() {
		queries = append(queries, query)
	}
	for query := range s.reads.all() {
		queries = append(queries, query)
	}
	for query := range s.writer.commands.all() {
		queries = append(queries, query)
	}
	for _, query := range queries {
		if strings.HasPrefix(query, "PRAGMA") || !strings.Contains(query, " ") || strings.HasPrefix(query, "BEGIN") {
			continue
		}
		rows, err := s.reading.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, make([]any, strings.Count(query, "?"))...)
		plan, err := collect(rows, err, func(scan func(...any) error) (detail string, err error) {
			var skip int
			return detail, scan(&skip, &skip, &skip, &detail)
		})
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		for _, detail := range plan {
			for _, table := range []string{"outbox", "ledger", "holds", "accounts"} {
				if strings.HasPrefix(detail, "SCAN "+table) && !strings.Contains(detail, "outbox_quarantined") {
					t.Errorf("%s: %s", query, detail)
				}
			}
		}
	}
}

// many returns events of an app.
func many(app tenant.AppID, n int) []store.Event {
	events := make([]store.Event, n)
	for i := range events {
		events[i] = store.Event{ID: store.NewEventID(), App: app, Name: tenant.EventRead, State: store.Pending, Payload: []byte("{}")}
	}
	return events
}

// Meta floods after an outage, and customers go on sending.
func TestSendsGetThroughAFloodOfWebhooks(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "gateway.db"), time.Now)
	if err := s.CreateAccount(t.Context(), tenant.Account{ID: "acct_1", Name: "A", Currency: "USD"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Credit(t.Context(), "acct_1", 1_000_000_000, "credit"); err != nil {
		t.Fatal(err)
	}
	const webhooks = 24
	received := make(chan error, webhooks)
	for range webhooks {
		go func() {
			_, err := s.Receive(t.Context(), many("app_1", 4*outboxGroup), nil)
			received <- err
		}()
	}
	admitted := 0
	for len(received) < webhooks {
		_, err := s.Admit(t.Context(), store.Admission{
			Mode: store.Hold, App: "app_1", Account: "acct_1", Fee: 1, HoldID: store.NewHoldID(),
			Limits: tenant.RateLimit{PerSecond: 1_000_000, PerMinute: 1_000_000},
		})
		if err != nil {
			t.Fatal(err)
		}
		admitted++
	}
	for range webhooks {
		if err := <-received; err != nil {
			t.Error(err)
		}
	}
	// In one commit there would be room for none or two.
	if admitted < webhooks/2 {
		t.Errorf("%d sends got through between %d webhooks", admitted, webhooks)
	}
}

func TestListsAreReadToTheirEnd(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "gateway.db"), time.Now)
	var want []store.EventID
	for _, n := range []int{eventPage, eventPage + 1} {
		events := many("app_1", n)
		if _, err := s.Receive(t.Context(), slices.Concat(events, many("app_2", 3)), nil); err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			want = append(want, e.ID)
		}
	}
	for _, filter := range []store.EventFilter{{App: "app_1"}, {App: "app_1", State: store.Pending}} {
		var got []store.EventID
		for e, err := range s.Events(t.Context(), filter) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e.ID)
			// A reader that takes its time keeps nobody from writing.
			if len(got) == 1 {
				if _, err := s.writing.ExecContext(t.Context(), "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
					t.Error(err)
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// An endpoint may be found gone while a command replays what it has not got.
func TestReplayTakesNoDeadLetterTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	gateway := open(t, path, time.Now)
	const letters = 3*outboxGroup + 7
	if _, err := gateway.Receive(t.Context(), many("app_1", letters), nil); err != nil {
		t.Fatal(err)
	}
	bury := func() error {
		_, err := gateway.Bury(t.Context(), "app_1", time.Now().Add(time.Hour), "gone")
		return err
	}
	if err := bury(); err != nil {
		t.Fatal(err)
	}
	command, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer command.Close()
	replayed := make(chan int, 1)
	go func() {
		n, err := command.Replay(t.Context(), nil, "app_1")
		if err != nil {
			t.Error(err)
		}
		replayed <- n
	}()
	for len(replayed) == 0 {
		if err := bury(); err != nil {
			t.Fatal(err)
		}
	}
	if n := <-replayed; n != letters {
		t.Errorf("%d letters were replayed, of %d", n, letters)
	}
}
