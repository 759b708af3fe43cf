package storetest

import (
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var directoryChecks = []check{
	{"an empty store has no records", emptyDirectory},
	{"records come back as they were created", recordsComeBack},
	{"lists are oldest first", listsAreOldestFirst},
	{"ids and digests are taken once", idsAreTakenOnce},
	{"a record needs the one that it belongs to", recordsNeedTheirOwner},
	{"an update changes an app", updateChangesApp},
	{"a failed update writes nothing", failedUpdateWritesNothing},
	{"concurrent updates lose nothing", concurrentUpdatesLoseNothing},
	{"records that were read are copies", recordsAreCopies},
	{"the pepper is bound once", pepperIsBoundOnce},
}

// created is a time with the precision that a store must keep.
var created = time.Date(2026, 3, 4, 5, 6, 7, 89_000_000, time.UTC)

func newAccount(i int) tenant.Account {
	return tenant.Account{
		ID: tenant.AccountID(tenant.NewID("acct")), Name: "Größe 'A' \"B\" -- ;\n", Currency: "EUR",
		CreatedAt: created.Add(time.Duration(i) * time.Millisecond),
	}
}

func newApp(account tenant.AccountID, i int) tenant.App {
	return tenant.App{
		ID: newAppID(), Name: "İstanbul", AccountID: account, RateLimit: &tenant.RateLimit{PerSecond: 3, PerMinute: 70},
		WABAID: "1000001", PhoneNumberID: "111", AccessToken: "v1.k1.AAAA",
		CreatedAt: created.Add(time.Duration(i) * time.Millisecond),
	}
}

func newKey(app tenant.AppID, i int) tenant.APIKey {
	id := tenant.KeyID(tenant.NewID("key"))
	return tenant.APIKey{
		ID: id, AppID: app, Name: "shop", Digest: sha256.Sum256([]byte(id)), Hint: "pk_ab1…",
		CreatedAt: created.Add(time.Duration(i) * time.Millisecond), ExpiresAt: created.Add(time.Hour),
	}
}

// addApp creates an app with a new account and returns both records.
func (f *fixture) addApp() (tenant.Account, tenant.App) {
	f.Helper()
	account := newAccount(0)
	app := newApp(account.ID, 0)
	f.must(f.CreateAccount(f.Context(), account))
	f.must(f.CreateApp(f.Context(), app))
	return account, app
}

func (f *fixture) wantSame(what string, got, want any) {
	f.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		f.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func emptyDirectory(f *fixture) {
	ctx := f.Context()
	accounts, err := f.Accounts(ctx)
	f.must(err)
	apps, err := f.Apps(ctx)
	f.must(err)
	if len(accounts)+len(apps) > 0 {
		f.Errorf("a new store has %d accounts and %d apps", len(accounts), len(apps))
	}
	_, err = f.Account(ctx, "acct_none")
	f.wantError("Account", err, store.ErrNotFound)
	_, err = f.App(ctx, "app_none")
	f.wantError("App", err, store.ErrNotFound)
	_, err = f.Keys(ctx, "app_none")
	f.wantError("Keys", err, store.ErrNotFound)
	_, err = f.Grant(ctx, tenant.KeyDigest{1})
	f.wantError("Grant", err, store.ErrNotFound)
	f.wantError("RevokeKey", f.RevokeKey(ctx, "key_none", f.Now()), store.ErrNotFound)
	_, err = f.UpdateApp(ctx, "app_none", func(*tenant.App) error { return nil })
	f.wantError("UpdateApp", err, store.ErrNotFound)
	_, err = f.Balance(ctx, "acct_none")
	f.wantError("Balance", err, store.ErrNotFound)
	_, err = f.Credit(ctx, "acct_none", 1, "op")
	f.wantError("Credit", err, store.ErrNotFound)
	n := 0
	for _, err := range f.Ledger(ctx, "acct_none", time.Time{}) {
		f.wantError("Ledger", err, store.ErrNotFound)
		n++
	}
	if n != 1 {
		f.Errorf("the ledger of an unknown account yields %d times, want its error once", n)
	}
}

func recordsComeBack(f *fixture) {
	ctx := f.Context()
	account, app := f.addApp()
	bare := tenant.App{ID: newAppID(), CreatedAt: created}
	f.must(f.CreateApp(ctx, bare))
	key := newKey(app.ID, 0)
	f.must(f.CreateKey(ctx, key))
	forever := tenant.APIKey{ID: "key_bare", AppID: app.ID, Digest: tenant.KeyDigest{1}, CreatedAt: created.Add(time.Second)}
	f.must(f.CreateKey(ctx, forever))

	for range 2 { // the second time after a restart
		gotAccount, err := f.Account(ctx, account.ID)
		f.must(err)
		f.wantSame("account", gotAccount, account)
		for _, want := range []tenant.App{app, bare} {
			got, err := f.App(ctx, want.ID)
			f.must(err)
			f.wantSame("app", got, want)
		}
		keys, err := f.Keys(ctx, app.ID)
		f.must(err)
		f.wantSame("keys", keys, []tenant.APIKey{key, forever})
		none, err := f.Keys(ctx, bare.ID)
		f.must(err)
		f.wantSame("keys of an app without any", none, []tenant.APIKey{})
		if b := f.balance(account.ID); b != (store.Balance{}) {
			f.Errorf("a new account's balance is %+v", b)
		}
		f.restart()
	}
}

func listsAreOldestFirst(f *fixture) {
	ctx := f.Context()
	var accounts []tenant.Account
	var apps []tenant.App
	var keys []tenant.APIKey
	for i := range 12 {
		accounts = append(accounts, newAccount(i))
		f.must(f.CreateAccount(ctx, accounts[i]))
		apps = append(apps, newApp(accounts[i].ID, i))
		f.must(f.CreateApp(ctx, apps[i]))
		keys = append(keys, newKey(apps[0].ID, i))
		f.must(f.CreateKey(ctx, keys[i]))
	}
	gotAccounts, err := f.Accounts(ctx)
	f.must(err)
	f.wantSame("accounts", gotAccounts, accounts)
	gotApps, err := f.Apps(ctx)
	f.must(err)
	f.wantSame("apps", gotApps, apps)
	gotKeys, err := f.Keys(ctx, apps[0].ID)
	f.must(err)
	f.wantSame("keys", gotKeys, keys)
}

func idsAreTakenOnce(f *fixture) {
	ctx := f.Context()
	account, app := f.addApp()
	key := newKey(app.ID, 0)
	f.must(f.CreateKey(ctx, key))

	second := account
	second.Name = "second"
	f.wantError("CreateAccount again", f.CreateAccount(ctx, second), store.ErrExists)
	secondApp := app
	secondApp.Name = "second"
	f.wantError("CreateApp again", f.CreateApp(ctx, secondApp), store.ErrExists)

	sameID, sameDigest := newKey(app.ID, 1), newKey(app.ID, 1)
	sameID.ID, sameDigest.Digest = key.ID, key.Digest
	f.wantError("CreateKey with a taken id", f.CreateKey(ctx, sameID), store.ErrExists)
	f.wantError("CreateKey with a taken digest", f.CreateKey(ctx, sameDigest), store.ErrExists)
	f.must(f.RevokeKey(ctx, key.ID, created))
	f.wantError("CreateKey with the digest of a revoked key", f.CreateKey(ctx, sameDigest), store.ErrExists)

	got, err := f.Account(ctx, account.ID)
	f.must(err)
	f.wantSame("account", got, account)
	gotApp, err := f.App(ctx, app.ID)
	f.must(err)
	f.wantSame("app", gotApp, app)
	keys, err := f.Keys(ctx, app.ID)
	f.must(err)
	key.RevokedAt = created
	f.wantSame("keys", keys, []tenant.APIKey{key})
}

func recordsNeedTheirOwner(f *fixture) {
	ctx := f.Context()
	app := newApp("acct_none", 0)
	f.wantError("CreateApp for an unknown account", f.CreateApp(ctx, app), store.ErrNotFound)
	_, err := f.App(ctx, app.ID)
	f.wantError("App", err, store.ErrNotFound)
	key := newKey("app_none", 0)
	f.wantError("CreateKey for an unknown app", f.CreateKey(ctx, key), store.ErrNotFound)
	_, err = f.Grant(ctx, key.Digest)
	f.wantError("Grant", err, store.ErrNotFound)
}

func updateChangesApp(f *fixture) {
	_, app := f.addApp()
	want := app
	want.Name, want.AccountID, want.RateLimit, want.PhoneNumberID, want.AccessToken = "new", "", nil, "222", "v1.k2.BBBB"
	got, err := f.UpdateApp(f.Context(), app.ID, func(a *tenant.App) error {
		f.wantSame("what change gets", *a, app)
		*a = want
		return nil
	})
	f.must(err)
	f.wantSame("what UpdateApp returns", got, want)
	f.restart()
	got, err = f.App(f.Context(), app.ID)
	f.must(err)
	f.wantSame("app", got, want)
}

func failedUpdateWritesNothing(f *fixture) {
	_, app := f.addApp()
	refused := errors.New("refused")
	_, err := f.UpdateApp(f.Context(), app.ID, func(a *tenant.App) error {
		a.Name = "never"
		a.RateLimit.PerSecond = 99
		return refused
	})
	f.wantError("UpdateApp", err, refused)
	got, err := f.App(f.Context(), app.ID)
	f.must(err)
	f.wantSame("app", got, app)
}

func concurrentUpdatesLoseNothing(f *fixture) {
	_, app := f.addApp()
	const writers, updates = 8, 12
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range updates {
				if _, err := f.UpdateApp(f.Context(), app.ID, func(a *tenant.App) error {
					a.RateLimit.PerSecond++
					return nil
				}); err != nil {
					f.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got, err := f.App(f.Context(), app.ID)
	f.must(err)
	if want := app.RateLimit.PerSecond + writers*updates; got.RateLimit.PerSecond != want {
		f.Errorf("%d increments made %d out of %d", writers*updates, got.RateLimit.PerSecond, app.RateLimit.PerSecond)
	}
}

func recordsAreCopies(f *fixture) {
	ctx := f.Context()
	_, app := f.addApp()
	key := newKey(app.ID, 0)
	f.must(f.CreateKey(ctx, key))
	want := app
	want.RateLimit = new(tenant.RateLimit)
	*want.RateLimit = *app.RateLimit

	app.RateLimit.PerSecond = 1_001 // what was given to CreateApp
	got, err := f.App(ctx, app.ID)
	f.must(err)
	f.wantSame("app", got, want)
	got.RateLimit.PerSecond = 1_002
	apps, err := f.Apps(ctx)
	f.must(err)
	f.wantSame("apps", apps, []tenant.App{want})
	apps[0].RateLimit.PerSecond = 1_003
	got, err = f.UpdateApp(ctx, app.ID, func(*tenant.App) error { return nil })
	f.must(err)
	got.RateLimit.PerSecond = 1_004
	grant, err := f.Grant(ctx, key.Digest)
	f.must(err)
	f.wantSame("limits in the grant", grant.App.RateLimit, want.RateLimit)
}

func pepperIsBoundOnce(f *fixture) {
	ctx := f.Context()
	f.must(f.BindPepper(ctx, "00112233aabbccdd"))
	for range 2 { // the second time after a restart
		f.must(f.BindPepper(ctx, "00112233aabbccdd"))
		f.wantError("BindPepper with another", f.BindPepper(ctx, "ffffffffffffffff"), store.ErrPepper)
		f.restart()
	}
}
