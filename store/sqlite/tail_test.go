package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// crash opens a copy of a database as it is on disk, while its gateway is between
// two commits, as the next gateway would after the first was killed.
func crash(t *testing.T, s *Store, path string) (*Store, string) {
	t.Helper()
	var copied string
	inWriter(t, s, func(*writer) (err error) {
		copied, err = copyDatabase(t, path)
		return err
	})
	return open(t, copied, time.Now), copied
}

// copyDatabase copies a database as it is on disk, which nobody is writing to, and returns the copy's path.
func copyDatabase(t *testing.T, path string) (copied string, err error) {
	copied = filepath.Join(t.TempDir(), "gateway.db")
	for _, suffix := range []string{"", "-wal"} {
		content, err := os.ReadFile(path + suffix)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(copied+suffix, content, 0o600)
		}
		if err != nil {
			return "", err
		}
	}
	return copied, nil
}

// allEntries reads an account's ledger.
func allEntries(t *testing.T, s *Store, account tenant.AccountID) (entries []store.Entry) {
	t.Helper()
	for e, err := range s.Ledger(t.Context(), account, time.Time{}) {
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	return entries
}

// sends is what a ledger and a balance have to be after random steps.
type sends struct {
	t       *testing.T
	s       *Store
	path    string
	account tenant.AccountID
	ids     []string // of the entries, in their order
	balance store.Balance
	open    []store.HoldID
	settled []store.HoldID
}

func (m *sends) admit() {
	a := holdOf(m.account)
	if d, err := m.s.Admit(m.t.Context(), a); err != nil || d.Verdict != store.Admitted {
		m.t.Fatalf("%+v, %v", d, err)
	}
	m.open = append(m.open, a.HoldID)
	m.ids = append(m.ids, a.HoldID.EntryID(store.KindHold))
	m.balance.Available -= a.Fee
	m.balance.Held += a.Fee
}

func (m *sends) settle() {
	if len(m.open) == 0 {
		return
	}
	i := rand.IntN(len(m.open))
	id := m.open[i]
	m.open = append(m.open[:i], m.open[i+1:]...)
	m.settled = append(m.settled, id)
	m.balance.Held -= 1_000
	kind, outcome := store.KindCapture, store.Captured
	if rand.IntN(3) == 0 {
		kind, outcome = store.KindRelease, store.Released
		m.balance.Available += 1_000
	} else {
		m.balance.Captured += 1_000
	}
	if err := m.s.settle(m.t.Context(), id, outcome, "wamid."+string(id)); err != nil {
		m.t.Fatal(err)
	}
	m.ids = append(m.ids, id.EntryID(kind))
}

// repeat repeats what has taken effect.
func (m *sends) repeat() {
	for _, id := range slices.Concat(m.open, m.settled) {
		if rand.IntN(20) > 0 {
			continue
		}
		a := holdOf(m.account)
		a.HoldID = id
		if d, err := m.s.Admit(m.t.Context(), a); err != nil || d.Verdict != store.Admitted {
			m.t.Fatalf("again: %+v, %v", d, err)
		}
	}
	for _, id := range m.settled {
		if rand.IntN(20) > 0 {
			continue
		}
		if err := m.s.Capture(m.t.Context(), id, "wamid.x"); err != nil && !errors.Is(err, store.ErrConflict) {
			m.t.Fatal(err)
		}
	}
}

func (m *sends) credit() {
	tool := openTool(m.t, m.path)
	id := tenant.NewID("credit")
	if _, err := tool.Credit(m.t.Context(), m.account, 500, id); err != nil {
		m.t.Fatal(err)
	}
	if err := tool.Close(); err != nil {
		m.t.Fatal(err)
	}
	m.ids = append(m.ids, id)
	m.balance.Available += 500
}

func (m *sends) check() {
	m.t.Helper()
	if b, err := m.s.Balance(m.t.Context(), m.account); err != nil || b != m.balance {
		m.t.Fatalf("balance %+v, %v, want %+v", b, err, m.balance)
	}
	ids := slices.Concat(m.open, m.settled)
	rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	ids = ids[:min(len(ids), 10)]
	if senders, err := m.s.Holds(m.t.Context(), ids); err != nil || len(senders) != len(ids) {
		m.t.Fatalf("%d senders of %d, %v", len(senders), len(ids), err)
	}
}

func (m *sends) checkLedger(s *Store) {
	m.t.Helper()
	var ids []string
	var available pricing.Micros
	for _, e := range allEntries(m.t, s, m.account) {
		ids = append(ids, e.ID)
		available += balance{}.after(e).Available
		if e.Balance != available {
			m.t.Errorf("entry %d has the balance %d, want %d", e.Seq, e.Balance, available)
		}
	}
	if diff := cmp.Diff(m.ids, ids); diff != "" {
		m.t.Fatalf("ledger (-want +got):\n%s", diff)
	}
	if b, err := s.Balance(m.t.Context(), m.account); err != nil || b != m.balance {
		m.t.Fatalf("balance %+v, %v, want %+v", b, err, m.balance)
	}
}

// Whatever is done in whatever order, and wherever the gateway is killed, the books
// are those of one step after the other.
func TestTheTailIsPartOfTheBooks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, account := funded(t, path, 1_000_000)
	m := &sends{t: t, s: s, path: path, account: account, ids: []string{"credit_1"}, balance: store.Balance{Available: 1_000_000}}
	weighted := []func(){
		m.admit, m.admit, m.admit, m.admit, m.settle, m.settle, m.settle, m.check,
	}
	for i := range 1_200 {
		weighted[rand.IntN(len(weighted))]()
		switch {
		case i%200 == 50:
			m.repeat()
		case i%150 == 100:
			m.credit()
		case i%300 == 200:
			m.checkLedger(s)
		case i%250 == 240: // the next gateway goes on
			m.s, m.path = crash(t, m.s, m.path)
			s = m.s
		}
	}
	m.check()
	m.checkLedger(s)
}

// tables reads what the tables have, without the tail.
func tables(t *testing.T, s *Store) (rows, holds, tail int) {
	t.Helper()
	err := s.reading.QueryRowContext(t.Context(), `SELECT (SELECT count(*) FROM ledger), (SELECT count(*) FROM holds),
		(SELECT count(*) FROM ledger_tail)`).Scan(&rows, &holds, &tail)
	if err != nil {
		t.Fatal(err)
	}
	return rows, holds, tail
}

func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for !condition() {
		select {
		case <-deadline:
			t.Fatalf("waiting for %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

func TestTheTailIsEnteredByItself(t *testing.T) {
	var ahead atomic.Int64
	s := open(t, filepath.Join(t.TempDir(), "gateway.db"), func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	if err := s.CreateAccount(t.Context(), tenant.Account{ID: "acct_1", Currency: "USD"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Credit(t.Context(), "acct_1", 1_000_000, "credit_1"); err != nil {
		t.Fatal(err)
	}
	open, captured := holdOf("acct_1"), holdOf("acct_1")
	for _, a := range []store.Admission{open, captured} {
		if _, err := s.Admit(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Capture(t.Context(), captured.HoldID, "wamid.1"); err != nil {
		t.Fatal(err)
	}
	await(t, "the captured hold to be entered", func() bool { rows, _, _ := tables(t, s); return rows == 2 })
	if _, holds, tail := tables(t, s); holds != 0 || tail == 0 {
		t.Errorf("%d holds, %d rows of the tail", holds, tail)
	}
	ahead.Store(int64(2 * tailAge))
	await(t, "the open hold to be entered", func() bool { _, holds, tail := tables(t, s); return holds == 1 && tail == 0 })
	if err := s.Capture(t.Context(), open.HoldID, "wamid.2"); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"credit_1", open.HoldID.EntryID(store.KindHold), captured.HoldID.EntryID(store.KindHold),
		captured.HoldID.EntryID(store.KindCapture), open.HoldID.EntryID(store.KindCapture),
	}
	var got []string
	for _, e := range allEntries(t, s, "acct_1") {
		got = append(got, e.ID)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ledger (-want +got):\n%s", diff)
	}
}

func TestAHoldAndItsOutcomeThatAreFarApartAreEnteredApart(t *testing.T) {
	s, account := funded(t, filepath.Join(t.TempDir(), "gateway.db"), 1_000_000)
	a := holdOf(account)
	if _, err := s.Admit(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	inWriter(t, s, func(w *writer) error { w.seq += tailSpan; return nil })
	if err := s.Release(t.Context(), a.HoldID); err != nil {
		t.Fatal(err)
	}
	if rows, holds, _ := tables(t, s); rows != 3 || holds != 0 {
		t.Errorf("%d entries, %d holds", rows, holds)
	}
	if entries := allEntries(t, s, account); len(entries) != 3 || entries[2].Balance != 1_000_000 {
		t.Errorf("%+v", entries)
	}
}

func TestWhoGivesUpOnTheTailLeavesItToTheWriter(t *testing.T) {
	s, account := funded(t, filepath.Join(t.TempDir(), "gateway.db"), 1_000_000)
	if _, err := s.Admit(t.Context(), holdOf(account)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.enterTail(ctx, func(w *writer) error {
		cancel()
		for w.current.state.Load() != forsaken {
			runtime.Gosched()
		}
		return w.enterAll()
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("it fails with %v", err)
	}
	if entries := allEntries(t, s, account); len(entries) != 2 {
		t.Errorf("%+v", entries)
	}
}

func TestAClosedStoreHasNoTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, account := funded(t, path, 1_000_000)
	for range 10 {
		if _, err := s.Admit(t.Context(), holdOf(account)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if rows, holds, tail := tables(t, open(t, path, time.Now)); rows != 11 || holds != 10 || tail != 0 {
		t.Errorf("%d entries, %d holds, %d rows of the tail", rows, holds, tail)
	}
}

func TestATailThatCannotBeReadIsNotServedFrom(t *testing.T) {
	for _, records := range []string{"", "\x02", "\x01x", "\x01h\x05hold"} {
		path := filepath.Join(t.TempDir(), "gateway.db")
		s, _ := funded(t, path, 1_000_000)
		inWriter(t, s, func(w *writer) error {
			if _, err := w.begin(); err != nil {
				return err
			}
			_, err := w.commands.insertTail.exec(int64(1_000), []byte(records))
			return err
		})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if again, err := Open(t.Context(), path, Options{Exclusive: true}); err == nil {
			again.Close()
			t.Errorf("%q is taken for a tail", records)
		}
	}
}

func FuzzRecords(f *testing.F) {
	for _, r := range []record{
		{kind: store.KindHold, hold: store.NewHoldID(), account: "acct_1", app: "app_1", amount: 1_000, seq: 1, balance: -5, at: 7},
		{kind: store.KindCapture, hold: "hold_x", messageID: "wamid.1", seq: 2},
		{kind: store.KindRelease, at: -1},
	} {
		f.Add(r.append(nil))
	}
	f.Add([]byte("h\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var written []byte
		if readRecords(b, func(r *record) error { written = r.append(written); return nil }) != nil {
			return
		}
		var again []byte
		if err := readRecords(written, func(r *record) error { again = r.append(again); return nil }); err != nil || !bytes.Equal(written, again) {
			t.Errorf("what was read is not what is written: %v", fmt.Sprint(err))
		}
	})
}
