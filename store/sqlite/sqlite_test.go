package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

var limits = tenant.RateLimit{PerSecond: 1_000_000, PerMinute: 1_000_000}

// funded opens a database with one account that has credit, as a gateway.
func funded(t testing.TB, path string, credit pricing.Micros) (*Store, tenant.AccountID) {
	t.Helper()
	s := open(t, path, time.Now)
	account := tenant.Account{ID: "acct_1", Name: "Test", Currency: "USD", CreatedAt: time.Now()}
	if err := s.CreateAccount(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Credit(t.Context(), account.ID, credit, "credit_1"); err != nil {
		t.Fatal(err)
	}
	return s, account.ID
}

// openTool opens the database at path as a command does.
func openTool(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func holdOf(account tenant.AccountID) store.Admission {
	return store.Admission{Mode: store.Hold, App: "app_1", Account: account, Limits: limits, Fee: 1_000, HoldID: store.NewHoldID()}
}

// inWriter runs f where nothing else is written.
func inWriter(t *testing.T, s *Store, f func(*writer) error) {
	t.Helper()
	if err := s.writer.do(t.Context(), &operation{apply: f}); err != nil {
		t.Fatal(err)
	}
}

func TestFullDiskLosesNothing(t *testing.T) {
	s, account := funded(t, filepath.Join(t.TempDir(), "gateway.db"), 100_000_000)
	open := holdOf(account)
	if _, err := s.Admit(t.Context(), open); err != nil {
		t.Fatal(err)
	}
	limitPages := func(n string) {
		inWriter(t, s, func(w *writer) error {
			_, err := w.conn.ExecContext(context.Background(), "PRAGMA max_page_count = "+n)
			return err
		})
	}
	limitPages("1") // SQLite takes the pages that there are
	admitted := 1
	for {
		_, err := s.Admit(t.Context(), holdOf(account))
		if err != nil {
			if !strings.Contains(err.Error(), "full") {
				t.Fatal(err)
			}
			break
		}
		admitted++
	}
	want := store.Balance{Available: pricing.Micros(100_000_000 - admitted*1_000), Held: pricing.Micros(admitted * 1_000)}
	if b, err := s.Balance(t.Context(), account); err != nil || b != want {
		t.Fatalf("on a full disk %+v, %v, want %+v", b, err, want)
	}
	limitPages("1000000")
	if err := s.Capture(t.Context(), open.HoldID, "wamid.1"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Admit(t.Context(), holdOf(account)); err != nil {
		t.Fatal(err)
	}
	want = store.Balance{Available: want.Available - 1_000, Held: want.Held, Captured: 1_000}
	if b, err := s.Balance(t.Context(), account); err != nil || b != want {
		t.Fatalf("with room again %+v, %v, want %+v", b, err, want)
	}
}

func TestFailedGroupGivesItsWindowsBack(t *testing.T) {
	s, account := funded(t, filepath.Join(t.TempDir(), "gateway.db"), 1_000_000)
	a := holdOf(account)
	a.Limits = tenant.RateLimit{PerSecond: 1, PerMinute: 1}
	allow := refuse(t, s, "ledger_tail")
	if _, err := s.Admit(t.Context(), a); err == nil {
		t.Fatal("admitted without a hold")
	}
	allow()
	if d, err := s.Admit(t.Context(), a); err != nil || d.Verdict != store.Admitted {
		t.Fatalf("%+v, %v", d, err)
	}
}

func TestCreditOfAnotherProcessIsSeenByTheNextRequest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, account := funded(t, path, 0)
	tool := openTool(t, path)
	for i := range 20 {
		if d, err := s.Admit(t.Context(), holdOf(account)); err != nil || d.Verdict != store.NoBalance {
			t.Fatalf("without credit: %+v, %v", d, err)
		}
		if _, err := tool.Credit(t.Context(), account, 1_000, tenant.NewID("credit")); err != nil {
			t.Fatal(err)
		}
		if d, err := s.Admit(t.Context(), holdOf(account)); err != nil || d.Verdict != store.Admitted {
			t.Fatalf("credit %d: %+v, %v", i, d, err)
		}
	}
	if b, err := tool.Balance(t.Context(), account); err != nil || b != (store.Balance{Held: 20_000}) {
		t.Fatalf("%+v, %v", b, err)
	}
}

func TestTwoProcessesWriteWithoutLosingMoney(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, account := funded(t, path, 0)
	tool := openTool(t, path)
	const credits = 200
	var workers sync.WaitGroup
	workers.Go(func() {
		for range credits {
			if _, err := tool.Credit(t.Context(), account, 1_000, tenant.NewID("credit")); err != nil {
				t.Error(err)
			}
		}
	})
	var admitted atomic.Int64
	for range 4 {
		workers.Go(func() {
			for range credits {
				d, err := s.Admit(t.Context(), holdOf(account))
				if err != nil {
					t.Error(err)
				}
				if d.Verdict == store.Admitted {
					admitted.Add(1)
				}
			}
		})
	}
	workers.Wait()
	held := pricing.Micros(admitted.Load() * 1_000)
	want := store.Balance{Available: credits*1_000 - held, Held: held}
	if b, err := s.Balance(t.Context(), account); err != nil || b != want {
		t.Fatalf("%+v, %v, want %+v", b, err, want)
	}
}

func TestChangesOfAnotherProcessAreNoticed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, _ := funded(t, path, 0)
	tool := openTool(t, path)
	before := s.Generation()
	if err := tool.CreateAccount(t.Context(), tenant.Account{ID: "acct_2", Name: "Two", Currency: "USD"}); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	for s.Generation() == before {
		select {
		case <-deadline:
			t.Fatal("the change went unnoticed")
		case <-time.After(time.Millisecond):
		}
	}
}

func TestOneGatewayServesFromADatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s := open(t, path, time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	second := make(chan error)
	go func() {
		_, err := Open(ctx, path, Options{Exclusive: true})
		second <- err
	}()
	// It waits a moment, for a gateway that is about to end.
	if err := <-second; err == nil || !strings.Contains(err.Error(), "another gateway") {
		t.Fatalf("a second gateway: %v", err)
	}
	cancel()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + "-wal"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("closing left the write-ahead log behind: %v", err)
	}
	open(t, path, time.Now)
}

// A gateway and commands may be started at the same moment where there is no
// database yet.
func TestManyOpenersMakeOneDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "gateway.db")
	stores := make([]*Store, 6)
	var wg sync.WaitGroup
	for i := range stores {
		wg.Go(func() {
			var err error
			if stores[i], err = Open(t.Context(), path, Options{Exclusive: i == 0}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, s := range stores {
		if s == nil {
			continue // and the test has failed
		}
		defer s.Close()
		if err := s.CreateAccount(t.Context(), tenant.Account{ID: tenant.AccountID(fmt.Sprint("acct_", i)), Currency: "USD"}); err != nil {
			t.Error(err)
		}
	}
}

func TestOnlyTheServingGatewayAdmits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	_, account := funded(t, path, 1_000)
	tool := openTool(t, path)
	if _, err := tool.Admit(t.Context(), holdOf(account)); !errors.Is(err, errShared) {
		t.Fatal(err)
	}
}

func TestForeignAndNewerDatabasesAreRefused(t *testing.T) {
	for script, want := range map[string]string{
		"CREATE TABLE t (x)": "another program",
		"PRAGMA application_id = 2002872183; CREATE TABLE t (x); PRAGMA user_version = 1000": "newer release",
	} {
		path := filepath.Join(t.TempDir(), "gateway.db")
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(script); err != nil {
			t.Fatal(err)
		}
		db.Close()
		if _, err := Open(t.Context(), path, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", script, err, want)
		}
	}
}

func TestLedgerIsAppendOnlyForAnyone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	funded(t, path, 1_000)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, query := range []string{"UPDATE ledger SET amount = 1", "DELETE FROM ledger"} {
		if _, err := db.Exec(query); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v", query, err)
		}
	}
	if _, err := db.Exec("UPDATE accounts SET available = available + 1"); err == nil {
		t.Error("a wallet could be put out of balance")
	}
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "new folder % with ? odd # name")
	path := filepath.Join(folder, "gateway.db")
	funded(t, path, 1_000)
	b := &Backend{Path: path}
	if _, err := b.Secret("key_pepper"); err != nil {
		t.Fatal(err)
	}
	seen := 0
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is %v", filepath.Base(path), info.Mode())
		}
		seen++
		return err
	})
	if err != nil || seen < 4 { // database, -wal, -shm, pepper
		t.Fatalf("%d files, %v", seen, err)
	}
}

func TestSecretIsMadeOnceHoweverManyAskAtOnce(t *testing.T) {
	b := &Backend{Path: filepath.Join(t.TempDir(), "data", "gateway.db")}
	secrets := make([]string, 16)
	var askers sync.WaitGroup
	for i := range secrets {
		askers.Go(func() {
			var err error
			if secrets[i], err = b.Secret("key_pepper"); err != nil {
				t.Error(err)
			}
		})
	}
	askers.Wait()
	for _, secret := range secrets {
		if secret != secrets[0] || len(secret) != 44 {
			t.Fatal("different secrets")
		}
	}
	left, err := os.ReadDir(filepath.Dir(b.Path))
	if err != nil || len(left) != 1 {
		t.Fatalf("%d files are left, %v", len(left), err)
	}
}

// BenchmarkHoldAndCapture is the store's part of a send, of one account and of many.
func BenchmarkHoldAndCapture(b *testing.B) {
	for _, accounts := range []int{1, 1_000} {
		b.Run(fmt.Sprintf("accounts=%d", accounts), func(b *testing.B) {
			const credit = 1 << 50
			s, first := funded(b, filepath.Join(b.TempDir(), "gateway.db"), credit)
			all := []tenant.AccountID{first}
			for i := range accounts - 1 {
				a := tenant.Account{ID: tenant.AccountID(tenant.NewID("acct")), Currency: "USD", CreatedAt: time.Now()}
				err := s.CreateAccount(b.Context(), a)
				if err == nil {
					_, err = s.Credit(b.Context(), a.ID, credit, "credit of "+strconv.Itoa(i))
				}
				if err != nil {
					b.Fatal(err)
				}
				all = append(all, a.ID)
			}
			b.ReportAllocs()
			b.SetParallelism(32) // of 2 processors: 64 senders
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					a := holdOf(all[rand.IntN(accounts)])
					a.Limits = tenant.RateLimit{PerSecond: 1 << 30, PerMinute: 1 << 30}
					if d, err := s.Admit(b.Context(), a); err != nil || d.Verdict != store.Admitted {
						b.Fatalf("%+v, %v", d, err)
					}
					if err := s.Capture(b.Context(), a.HoldID, "wamid."+strconv.FormatUint(rand.Uint64(), 36)+"AA=="); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// BenchmarkGrant is the look-up of a key that is not in the cache: of one that is
// unknown, and of one that is stored.
func BenchmarkGrant(b *testing.B) {
	s, account := funded(b, filepath.Join(b.TempDir(), "gateway.db"), 1)
	app := tenant.App{ID: "app_1", AccountID: account, Name: "App", PhoneNumberID: "1", AccessToken: "v1.k1.x"}
	if err := s.CreateApp(b.Context(), app); err != nil {
		b.Fatal(err)
	}
	known := tenant.KeyDigest{1}
	if err := s.CreateKey(b.Context(), tenant.APIKey{ID: "key_1", AppID: app.ID, Digest: known}); err != nil {
		b.Fatal(err)
	}
	for name, digest := range map[string]tenant.KeyDigest{"unknown": {2}, "known": known} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
			defer cancel()
			for b.Loop() {
				if _, err := s.Grant(ctx, digest); (err == nil) != (name == "known") {
					b.Fatal(err)
				}
			}
		})
	}
}
