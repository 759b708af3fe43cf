package redis

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// openAt opens the store on a server, as a gateway or as the command line does.
func openAt(t testing.TB, server *redistest.Server, serving bool) *Store {
	t.Helper()
	connection, err := ParseURLs([]string{server.URL()}, modeSingle, "")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Options{Connection: connection, Timeout: 2 * time.Second, Serving: serving})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}

// command sends a command as an operator or another program does.
func command(t testing.TB, server *redistest.Server, args ...any) any {
	t.Helper()
	reply, err := server.Command(args...)
	if err != nil && !errors.Is(err, goredis.Nil) {
		t.Fatal(err)
	}
	return reply
}

// eventually waits for a condition that another goroutine or process brings about.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	patience := time.NewTimer(time.Minute)
	defer patience.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-patience.C:
			t.Fatalf("%s: it has not come to that", what)
		}
	}
}

// someApp creates an app and a key.
func someApp(t testing.TB, s *Store) (tenant.App, tenant.APIKey) {
	t.Helper()
	app := tenant.App{ID: "app_1", PhoneNumberID: "111", WABAID: "1001", AccessToken: "v1.k1.AAAA", CreatedAt: time.Unix(1_700_000_000, 123_456_789).UTC()}
	key := tenant.APIKey{ID: "key_1", AppID: app.ID, Digest: tenant.KeyDigest{1, 2}, CreatedAt: app.CreatedAt}
	noError(t, s.CreateApp(t.Context(), app))
	noError(t, s.CreateKey(t.Context(), key))
	return app, key
}

func TestTimesKeepNanoseconds(t *testing.T) {
	t.Parallel()
	s := openAt(t, redistest.Start(t), false)
	app, key := someApp(t, s)
	got, err := s.App(t.Context(), app.ID)
	noError(t, err)
	keys, err := s.Keys(t.Context(), app.ID)
	noError(t, err)
	if diff := cmp.Diff([]any{app, []tenant.APIKey{key}}, []any{got, keys}); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

// A creation that was cut short is not seen, and can be made again.
func TestHalfACreationIsInvisible(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := openAt(t, server, false)
	ctx := t.Context()
	for _, index := range []string{"accounts", "apps", "number:111", "waba:1001"} {
		command(t, server, "ZADD", "wagw:"+index, "0", "app_1")
	}
	digest := tenant.KeyDigest{1, 2}.String()
	command(t, server, "SET", "wagw:key_id:key_1", digest)
	command(t, server, "ZADD", "wagw:keys:app_1", "0", digest)

	accounts, err1 := s.Accounts(ctx)
	apps, err2 := s.Apps(ctx)
	number, err3 := s.AppsWithNumber(ctx, "111")
	waba, err4 := s.AppsOfWABA(ctx, "1001")
	noError(t, errors.Join(err1, err2, err3, err4))
	if n := len(accounts) + len(apps) + len(number) + len(waba); n > 0 {
		t.Errorf("%d records of half a creation", n)
	}
	wantError(t, "RevokeKey", s.RevokeKey(ctx, "key_1", time.Now()), store.ErrNotFound)

	noError(t, s.CreateAccount(ctx, tenant.Account{ID: "app_1", Currency: "USD"}))
	someApp(t, s)
	if keys, err := s.Keys(ctx, "app_1"); err != nil || len(keys) != 1 {
		t.Errorf("%d keys, error %v", len(keys), err)
	}
	if apps, err := s.AppsWithNumber(ctx, "111"); err != nil || len(apps) != 1 {
		t.Errorf("%d apps with the number, error %v", len(apps), err)
	}
}

// A script may run, and its answer be lost: the step is then made again.
func TestAStepThatRanTwiceSucceedsTwice(t *testing.T) {
	t.Parallel()
	s := openAt(t, redistest.Start(t), false)
	ctx := t.Context()
	create := func(n int) any {
		reply, err := s.run(ctx, accountScript, placeOf(tenant.AccountID("acct_1")), "acct_1", "A", "USD", "", n)
		noError(t, err)
		return reply
	}
	if got := []any{create(7), create(7), create(8)}; !cmp.Equal(got, []any{"created", "created", "exists"}) {
		t.Errorf("CreateAccount: %v", got)
	}
	take := func(value string) string {
		there, err := s.take(ctx, "k", value)
		noError(t, err)
		return there
	}
	if got := []string{take("a"), take("a"), take("b")}; !cmp.Equal(got, []string{"a", "a", "a"}) {
		t.Errorf("take: %v", got)
	}
	replace := func(before, after string) bool {
		replaced, err := s.replace(ctx, "k", before, after)
		noError(t, err)
		return replaced
	}
	if got := []bool{replace("a", "b"), replace("a", "b"), replace("a", "c"), replace("b", "c")}; !cmp.Equal(got, []bool{true, true, false, true}) {
		t.Errorf("replace: %v", got)
	}
}

func TestWhatCannotBeReadIsCorrupt(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := openAt(t, server, false)
	ctx := t.Context()
	app, key := someApp(t, s)
	digest := key.Digest.String()
	command(t, server, "DEL", "wagw:grant:"+digest) // the tombstone of the creation
	noError(t, s.KeepGrant(ctx, key.Digest, &tenant.Grant{KeyID: key.ID, App: app}, time.Hour))
	reads := map[string]func() error{
		"app:app_1": func() error { _, err := s.App(ctx, app.ID); return err },
		"apps":      func() error { _, err := s.Apps(ctx); return err },
		"number:111": func() error {
			_, err := s.AppsWithNumber(ctx, "111")
			return err
		},
		"key:" + digest:   func() error { _, err := s.Grant(ctx, key.Digest); return err },
		"key_id:key_1":    func() error { return s.RevokeKey(ctx, key.ID, time.Now()) },
		"keys:app_1":      func() error { _, err := s.Keys(ctx, app.ID); return err },
		"grant:" + digest: func() error { _, err := s.FindGrant(ctx, key.Digest); return err },
		"pepper":          func() error { return s.BindPepper(ctx, "00112233aabbccdd") },
	}
	noError(t, s.BindPepper(ctx, "00112233aabbccdd"))
	for name, read := range reads {
		t.Run(strings.TrimRight(name, "0123456789abcdef"), func(t *testing.T) {
			if name != "key_id:key_1" { // to revoke it changes the rest
				noError(t, read())
			}
			was := command(t, server, "DUMP", "wagw:"+name)
			command(t, server, "DEL", "wagw:"+name)
			command(t, server, "LPUSH", "wagw:"+name, "x")
			wantError(t, "a list instead", read(), store.ErrCorrupt)
			command(t, server, "RESTORE", "wagw:"+name, "0", was, "REPLACE")
		})
	}
	const secret = "s3cret"
	for name, read := range map[string]func() error{"app:app_1": reads["app:app_1"], "key:" + digest: reads["key:"+digest], "grant:" + digest: reads["grant:"+digest]} {
		was := command(t, server, "DUMP", "wagw:"+name)
		for _, document := range []string{"", `{"id":"app_1"`, `<html>` + secret, `null`, `[]`, `{"id":"app_2","app_id":"` + secret, `{"id":7}`, `{"id":"app_1","rate_limit":{"per_second":0}}`} {
			if document == "null" && strings.HasPrefix(name, "grant:") {
				continue // it says that the key is unknown
			}
			command(t, server, "SET", "wagw:"+name, document)
			err := read()
			wantError(t, name+" with "+document, err, store.ErrCorrupt)
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Error("the error repeats what cannot be read")
			}
		}
		command(t, server, "RESTORE", "wagw:"+name, "0", was, "REPLACE")
	}
}

func TestAnUpdateThatChangesNothingTellsNobody(t *testing.T) {
	t.Parallel()
	s := openAt(t, redistest.Start(t), false)
	app, _ := someApp(t, s)
	before := s.Generation()
	got, err := s.UpdateApp(t.Context(), app.ID, func(a *tenant.App) error { a.PhoneNumberID = "111"; return nil })
	noError(t, err)
	if s.Generation() != before || !cmp.Equal(got, app) {
		t.Errorf("the generation grew by %d; app %+v", s.Generation()-before, got)
	}
}

// Without revocation nothing else could be done about a key that is known to be stolen.
func TestKeysCanBeRevokedInAFullMemory(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := openAt(t, server, false)
	app, key := someApp(t, s)
	command(t, server, "DEL", "wagw:grant:"+key.Digest.String()) // the tombstone of the creation
	noError(t, s.KeepGrant(t.Context(), key.Digest, &tenant.Grant{KeyID: key.ID, App: app}, time.Hour))
	command(t, server, "CONFIG", "SET", "maxmemory", "1")
	noError(t, s.RevokeKey(t.Context(), key.ID, time.Now()))
	_, err := s.Grant(t.Context(), key.Digest)
	wantError(t, "Grant", err, store.ErrNotFound)
	wantNoCopy(t, s, key.Digest)
}

func TestAGatewayBindsThePepperOnceRedisIsThere(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	server.Stop()
	const ours, other = "00112233aabbccdd", "ffffffffffffffff"
	if err := openAt(t, server, false).BindPepper(t.Context(), ours); err == nil {
		t.Error("the command line binds a pepper without Redis")
	}
	first := openAt(t, server, true)
	noError(t, first.BindPepper(t.Context(), ours))
	server.Start()
	eventually(t, "the pepper is bound", func() bool { return command(t, server, "GET", "wagw:pepper") == ours })

	server.Stop()
	second := openAt(t, server, true)
	core, logs := observer.New(zap.ErrorLevel)
	second.SetLogger(zap.New(core))
	noError(t, second.BindPepper(t.Context(), other))
	server.Start()
	eventually(t, "the other pepper is logged", func() bool { return logs.Len() > 0 })
	wantError(t, "BindPepper now", second.BindPepper(t.Context(), other), store.ErrPepper)
}
