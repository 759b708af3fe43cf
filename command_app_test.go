package gateway

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func TestAppCommands(t *testing.T) {
	l := newCommandLine(t)
	account := l.record("account", "create", "--name", "Acme")["id"].(string)
	bare := l.record("app", "create", "--account", "none", "--name", "Bare")
	diff(t, record{
		"name": "Bare", "account_id": nil, "per_second": nil, "per_minute": nil, "waba_id": nil, "phone_number_id": nil,
		"has_access_token": false, "access_token_key_id": nil,
		"webhook_url": nil, "has_webhook_secret": false, "events": nil, "header_names": []any{}, "webhook_disabled_at": nil,
	}, bare, "id", "created_at")

	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(operatorToken+"\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	secretFile := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secretFile, []byte(webhookSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	whole := l.record("app", "create", "--account", account, "--name", "Whole", "--phone-number-id", "111", "--waba-id", "222",
		"--access-token-file", file, "--per-second", "5", "--per-minute", "50", "--webhook-url", "https://hooks.example/in",
		"--webhook-secret-file", secretFile, "--events", "read,messages", "--header", "X-Team: a", "--header", "X-Region: eu")
	diff(t, record{
		"name": "Whole", "account_id": account, "per_second": 5.0, "per_minute": 50.0, "waba_id": "222", "phone_number_id": "111",
		"has_access_token": true, "access_token_key_id": "k1",
		"webhook_url": "https://hooks.example/in", "has_webhook_secret": true, "events": []any{"messages", "read"},
		"header_names": []any{"X-Region", "X-Team"}, "webhook_disabled_at": nil,
	}, whole, "id", "created_at")
	diff(t, whole, l.record("app", "show", whole["id"].(string)))
	diff(t, []record{bare, whole}, l.records("app", "list"))

	table := l.do("app", "list") + l.do("app", "show", whole["id"].(string))
	sealed, err := l.open(false).App(t.Context(), tenant.AppID(whole["id"].(string)))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{operatorToken, string(sealed.AccessToken), webhookSecret} {
		if strings.Contains(l.printed.String()+table, secret) {
			t.Error("a token was printed")
		}
	}
}

func TestAppSetChangesOnlyWhatIsGiven(t *testing.T) {
	l := newCommandLine(t, "encryption_key k2 "+encryptionKey2)
	account := l.record("account", "create", "--name", "Acme")["id"].(string)
	before := l.record("app", "create", "--account", account, "--name", "A")
	id := before["id"].(string)
	for _, step := range []struct {
		flag, value string
		changes     record
	}{
		{"--name", "B", record{"name": "B"}},
		{"--phone-number-id", "111", record{"phone_number_id": "111"}},
		{"--waba-id", "222", record{"waba_id": "222"}},
		{"--access-token-file", "-", record{"has_access_token": true, "access_token_key_id": "k2"}},
		{"--per-second", "5", record{"per_second": 5.0, "per_minute": 4800.0}},
		{"--per-minute", "50", record{"per_minute": 50.0}},
		{"--account", "none", record{"account_id": nil}},
		{"--account", account, record{"account_id": account}},
		{"--per-minute", "0", record{"per_second": nil, "per_minute": nil}},
		{"--phone-number-id", "", record{"phone_number_id": nil}},
		{"--waba-id", "", record{"waba_id": nil}},
		{"--events", "read, messages,read", record{}},
		{"--webhook-url", "https://hooks.example/in?key=x", record{"webhook_url": "https://hooks.example/in?***", "events": []any{"messages", "read"}}},
		{"--events", "all", record{"events": everyEvent}},
		{"--events", "account", record{"events": []any{"account"}}},
		{"--header", "X-Team: a", record{"header_names": []any{"X-Team"}}},
		{"--header", "X-Region:eu", record{"header_names": []any{"X-Region"}}},
		{"--webhook-secret-file", "-", record{"has_webhook_secret": true}},
		{"--webhook-url", "", record{"webhook_url": nil, "events": nil}},
		{"--webhook-url", "https://hooks.example", record{"webhook_url": "https://hooks.example", "events": []any{"account"}}},
		{"--header", "", record{"header_names": []any{}}},
	} {
		maps.Copy(before, step.changes)
		printed := decode[record](t, l.doWith(operatorToken+"\n", "app", "set", id, step.flag, step.value, "--json"))
		diff(t, before, printed)
		diff(t, before, l.record("app", "show", id))
	}

	app, err := l.open(false).App(t.Context(), tenant.AppID(id))
	if err != nil {
		t.Fatal(err)
	}
	ring, err := newRing([]EncryptionKey{{"k2", encryptionKey2}})
	if err != nil {
		t.Fatal(err)
	}
	if token, err := ring.Open(app.ID, app.AccessToken); token != operatorToken || err != nil {
		t.Errorf("the stored token does not open to the given one, error %v", err)
	}
}

func TestLimitsAreCompletedFromTheConfiguration(t *testing.T) {
	l := newCommandLine(t, "rate_limit 7 70")
	app := l.record("app", "create", "--account", "none", "--name", "A", "--per-second", "3")
	diff(t, []any{3.0, 70.0}, []any{app["per_second"], app["per_minute"]})
	app = l.record("app", "create", "--account", "none", "--name", "A", "--per-minute", "30")
	diff(t, []any{7.0, 30.0}, []any{app["per_second"], app["per_minute"]})
}

func TestKeyCommands(t *testing.T) {
	l := newCommandLine(t, "key_pepper secret")
	app := l.record("app", "create", "--account", "none", "--name", "A")["id"].(string)
	create := func(args ...string) record {
		t.Helper()
		return l.record(append([]string{"key", "create", "--app", app}, args...)...)
	}
	plain, sandbox := create("--name", "till"), create("--sandbox")
	soon, later := create("--expires", "30d"), create("--expires", "2999-01-01T00:00:00+01:00")
	for _, test := range []struct {
		created record
		prefix  string
	}{{plain, "pk_"}, {sandbox, "sk_"}, {soon, "pk_"}, {later, "pk_"}} {
		text := test.created["key"].(string)
		key, err := tenant.ParseKey(text)
		if err != nil || !strings.HasPrefix(text, test.prefix) {
			t.Errorf("%v is not a key with prefix %s: %v", test.created["id"], test.prefix, err)
		}
		grant, err := l.open(false).Grant(t.Context(), tenant.NewPepper("secret").Digest(key))
		if err != nil || string(grant.KeyID) != test.created["id"] || string(grant.App.ID) != app {
			t.Errorf("the store grants %+v, error %v", grant, err)
		}
	}
	diff(t, record{"app_id": app, "name": "till", "expires_at": nil}, plain, "id", "key", "hint")
	expires, err := time.Parse(time.RFC3339, soon["expires_at"].(string))
	if off := time.Until(expires) - 30*24*time.Hour; err != nil || off > time.Minute || off < -time.Minute {
		t.Errorf("30 days from now are %v", soon["expires_at"])
	}

	l.printed.Reset()
	diff(t, record{"id": plain["id"], "state": "revoked"}, l.record("key", "revoke", plain["id"].(string)))
	revoked := l.records("key", "list", "--app", app)[0]["revoked_at"]
	l.do("key", "revoke", plain["id"].(string))
	list := l.records("key", "list", "--app", app)
	diff(t, []record{
		{"name": "till", "state": "revoked", "expires_at": nil, "revoked_at": revoked},
		{"name": "", "state": "active", "expires_at": nil, "revoked_at": nil},
		{"name": "", "state": "active", "expires_at": soon["expires_at"], "revoked_at": nil},
		{"name": "", "state": "active", "expires_at": "2998-12-31T23:00:00Z", "revoked_at": nil},
	}, list, "id", "hint", "created_at")
	l.do("key", "list", "--app", app)
	for _, created := range []record{plain, sandbox, soon, later} {
		if strings.Contains(l.printed.String(), created["key"].(string)) {
			t.Error("a key was shown again")
		}
	}
	if text := l.do("key", "create", "--app", app); !strings.Contains(text, "not shown again") {
		t.Errorf("people are told %q", text)
	}
}

func TestExpiredKeyIsListedAsSuch(t *testing.T) {
	expired := tenant.APIKey{ExpiresAt: time.Now().Add(-time.Second)}
	diff(t, "expired", keyState(expired))
	expired.RevokedAt = time.Now()
	diff(t, "revoked", keyState(expired))
}

func TestImportedKeyWorksAndIsNotShown(t *testing.T) {
	const imported = "key-made-elsewhere-0123456789"
	l := newCommandLine(t, "key_pepper secret")
	app := l.record("app", "create", "--account", "none", "--name", "A")["id"].(string)
	text := l.doWith(imported+"\n", "key", "create", "--app", app, "--key-file", "-")
	if strings.Contains(text, imported) || strings.Contains(text, "not shown again") {
		t.Error("the key was shown")
	}
	grant, err := l.open(false).Grant(t.Context(), tenant.NewPepper("secret").Digest(imported))
	if err != nil || string(grant.App.ID) != app {
		t.Errorf("the store grants %+v, error %v", grant, err)
	}
	r := l.run(imported, "key", "create", "--app", app, "--key-file", "-")
	diff(t, result{1, "", "this key is in the store already\n"}, r)
}

func TestKeysAreMadeUnderOnePepper(t *testing.T) {
	l := newCommandLine(t, "key_pepper first")
	app := l.record("app", "create", "--account", "none", "--name", "A")["id"].(string)
	l.do("key", "create", "--app", app)
	l.configure("key_pepper second")
	r := l.run("", "key", "create", "--app", app)
	diff(t, result{1, "", store.ErrPepper.Error() + "\n"}, r)
}

func TestRevokedKeyIsRefusedByARunningGateway(t *testing.T) {
	l := newCommandLine(t, "key_pepper secret", "encryption_key k1 "+encryptionKey1)
	app := l.record("app", "create", "--account", "none", "--name", "A")["id"].(string)
	created := l.record("key", "create", "--app", app)
	ring, err := newRing([]EncryptionKey{{"k1", encryptionKey1}})
	if err != nil {
		t.Fatal(err)
	}
	gateway := l.open(true)
	cache := newGrantCache(tenant.NewPepper("secret"), ring, nil, cacheLifetimes{lifetime: time.Hour, negativeLifetime: time.Hour})
	known := func() error {
		_, err := cache.get(t.Context(), gateway, tenant.Key(created["key"].(string)))
		return err
	}
	if err := known(); err != nil {
		t.Fatal(err)
	}
	l.do("key", "revoke", created["id"].(string))
	deadline := time.After(time.Second)
	for !errors.Is(known(), store.ErrNotFound) {
		select {
		case <-deadline:
			t.Fatal("the key still works after a second")
		case <-time.After(time.Millisecond):
		}
	}
}

func TestTokenRotate(t *testing.T) {
	l := newCommandLine(t, "encryption_key k1 "+encryptionKey1)
	create := func(name string) string {
		t.Helper()
		return decode[record](t, l.doWith(operatorToken, "app", "create", "--account", "none", "--name", name, "--access-token-file", "-", "--json"))["id"].(string)
	}
	old := []string{create("A"), create("B")}
	l.do("app", "create", "--account", "none", "--name", "without a token")
	l.configure("encryption_key k2 "+encryptionKey2, "encryption_key k1 "+encryptionKey1)
	old = append(old, create("C"))
	diff(t, record{"rotated": 2.0, "current": 1.0, "unreadable": []any{}}, l.record("token", "rotate"))
	diff(t, record{"rotated": 0.0, "current": 3.0, "unreadable": []any{}}, l.record("token", "rotate"))

	ring, err := newRing([]EncryptionKey{{"k2", encryptionKey2}})
	if err != nil {
		t.Fatal(err)
	}
	s := l.open(false)
	for _, id := range old {
		app, err := s.App(t.Context(), tenant.AppID(id))
		if err != nil {
			t.Fatal(err)
		}
		if token, err := ring.Open(app.ID, app.AccessToken); token != operatorToken || err != nil {
			t.Errorf("app %s: the token does not open under the new key alone: %v", app.Name, err)
		}
	}

	// k2 is another key now, so that nothing opens under its name, which is current.
	l.configure("encryption_key k2 " + encryptionKey1)
	fresh := create("D")
	r := l.run("", "token", "rotate", "--json")
	diff(t, 1, r.code)
	diff(t, "3 of 4 access tokens cannot be opened with the configured encryption keys\n", r.stderr)
	diff(t, record{"rotated": 0.0, "current": 1.0, "unreadable": []any{old[0], old[1], old[2]}}, decode[record](t, r.stdout))
	diff(t, "k2", l.record("app", "show", fresh)["access_token_key_id"])
	if strings.Contains(l.printed.String()+r.stdout+r.stderr, operatorToken) {
		t.Error("a token was printed")
	}
}
