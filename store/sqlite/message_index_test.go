package sqlite

import (
	"errors"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// failing has a transaction fail at its end, with whatever else write has written.
func failing(t *testing.T, s *Store, write ...func(*writer) error) {
	t.Helper()
	err := s.writer.do(t.Context(), &operation{apply: func(w *writer) error {
		_, err := w.begin()
		for _, write := range write {
			err = errors.Join(err, write(w))
		}
		return errors.Join(err, errors.New("the disk fails"))
	}})
	if err == nil {
		t.Fatal("nothing has failed")
	}
}

// Wherever a message stands on its way to the index, before and after a crash, a
// status finds it by its id, and charges for it once.
func TestEveryMessageIsFoundByItsID(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, account := funded(t, path, 1_000_000)
	smallBatches := func() {
		inWriter(t, s, func(w *writer) error { w.messages.size, w.accounts.size = 7, 7; return nil })
	}
	smallBatches()
	var sent, charged []string
	chargeFor := func(ids ...string) {
		t.Helper()
		for _, id := range ids {
			status := store.Status{MessageID: id, TemplateFee: map[string]pricing.Micros{"USD": 1}}
			results, err := s.Receive(t.Context(), nil, []store.Status{status})
			if err != nil || results[0].Fee != store.FeeCharged {
				t.Fatalf("message %s: %+v, %v", id, results, err)
			}
		}
	}
	for i := range 300 {
		a := holdOf(account)
		if _, err := s.Admit(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		id := "wamid." + strconv.FormatUint(rand.Uint64(), 36)
		if err := s.Capture(t.Context(), a.HoldID, id); err != nil {
			t.Fatal(err)
		}
		if sent = append(sent, id); i%3 == 0 {
			last := rand.IntN(len(sent))
			chargeFor(sent[last])
			charged = append(charged, sent[last])
			sent = append(sent[:last], sent[last+1:]...)
		}
		switch i % 100 {
		case 30:
			tool := openTool(t, path)
			if _, err := tool.Credit(t.Context(), account, 1, tenant.NewID("credit")); err != nil {
				t.Fatal(err)
			}
			allEntries(t, tool, account) // which enters the tail
			failing(t, s)                // what notices that
		case 60:
			s, path = crash(t, s, path)
			smallBatches()
		case 90: // what is in the tail is entered, and some of it indexed
			await(t, "the tail", func() bool { _, _, tail := tables(t, s); return tail == 0 })
		}
	}
	chargeFor(sent...)
	for _, id := range charged {
		status := store.Status{MessageID: id, TemplateFee: map[string]pricing.Micros{"USD": 1}}
		if results, err := s.Receive(t.Context(), nil, []store.Status{status}); err != nil || results[0].Fee != store.FeeRepeated {
			t.Fatalf("again: %+v, %v", results, err)
		}
	}
	var rows int
	if err := s.reading.QueryRowContext(t.Context(), "SELECT count(*) FROM messages").Scan(&rows); err != nil || rows == 0 {
		t.Errorf("%d messages are indexed, %v", rows, err)
	}
}

// A ledger of a release that had another index is indexed at the start.
func TestALedgerWithoutAnIndexIsIndexed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, account := funded(t, path, 1_000_000)
	const sends = messageBatch + 100
	inWriter(t, s, func(w *writer) error {
		if _, err := w.begin(); err != nil {
			return err
		}
		_, err := w.write(`WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?)
			INSERT INTO ledger (id, account_id, kind, amount, balance, app_id, message_id, at)
			SELECT 'capture_' || i, ?, 'capture', 0, 0, 'app_1', 'wamid.' || i, 0 FROM n`, sends, account)
		return err
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s = open(t, path, time.Now)
		var rows int
		if err := s.reading.QueryRowContext(t.Context(), "SELECT count(*) FROM messages").Scan(&rows); err != nil || rows != messageBatch {
			t.Errorf("%d messages are indexed, %v", rows, err)
		}
		for _, n := range []int{1, messageBatch, messageBatch + 1, sends} {
			status := store.Status{MessageID: "wamid." + strconv.Itoa(n), TemplateFee: map[string]pricing.Micros{"USD": 1}}
			results, err := s.Receive(t.Context(), nil, []store.Status{status})
			if err != nil || results[0].Fee == store.FeeUnknownMessage {
				t.Errorf("message %d: %+v, %v", n, results, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A command settles what a gateway that was killed has left behind, and another gateway may run by then.
func TestAMessageOfACommandIsFoundByItsID(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, account := funded(t, path, 1_000_000)
	inWriter(t, s, func(w *writer) error { w.messages.size = 1; return nil })
	a := holdOf(account)
	if _, err := s.Admit(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	allEntries(t, s, account) // which enters the hold alone
	if err := openTool(t, path).Capture(t.Context(), a.HoldID, "wamid.1"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []store.FeeResult{store.FeeCharged, store.FeeRepeated} {
		status := store.Status{MessageID: "wamid.1", TemplateFee: map[string]pricing.Micros{"USD": 1}}
		if results, err := s.Receive(t.Context(), nil, []store.Status{status}); err != nil || results[0].Fee != want {
			t.Errorf("%+v, %v, want %d", results, err, want)
		}
		await(t, "the index", func() bool {
			indexed, err := indexedUpTo(t.Context(), s.reading, messagesIndexed)
			return err != nil || indexed > 0
		})
	}
}

// A batch is sorted bucket by bucket, so that buckets have to be in the order of their keys.
func TestBucketsAreInTheOrderOfTheKeys(t *testing.T) {
	if first, last := bucketOf(math.MinInt64), bucketOf(math.MaxInt64); first != 0 || last != messageBuckets-1 {
		t.Errorf("from %d to %d", first, last)
	}
	keys := []int64{-1, 0, 1}
	for range 10_000 {
		keys = append(keys, int64(rand.Uint64()))
	}
	slices.Sort(keys)
	for i := range keys[1:] {
		if before, bucket := bucketOf(keys[i]), bucketOf(keys[i+1]); bucket < before || bucket-before > 3 {
			t.Fatalf("%d follows %d", bucket, before)
		}
	}
}
