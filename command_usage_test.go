package gateway

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func testAccount(id string) tenant.Account {
	return tenant.Account{
		ID: tenant.AccountID(id), Name: "bad\tname", Currency: "USD",
		CreatedAt: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC),
	}
}

func amount(t *testing.T, s string) pricing.Micros {
	t.Helper()
	m, err := pricing.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestEveryCommandExplainsItself(t *testing.T) {
	l := newCommandLine(t)
	for _, words := range []string{
		"", "account", "account create", "account list", "account show", "account credit", "account ledger",
		"app", "app create", "app set", "app list", "app show",
		"key", "key create", "key list", "key revoke", "event", "event list", "event show", "event replay", "token", "token rotate", "demo",
	} {
		r := l.run("", append(strings.Fields(words), "--help")...)
		if r.code != 0 || r.stderr != "" || !strings.Contains(r.stdout, strings.TrimSpace("caddy whatsapp-gateway "+words)) {
			t.Errorf("%q: exit status %d, printed %q, %q", words, r.code, r.stdout, r.stderr)
		}
	}
	if _, err := os.Stat(l.database); err == nil {
		t.Error("help opened the store")
	}
}

func TestWrongUsage(t *testing.T) {
	l := newCommandLine(t)
	for _, args := range []string{
		"frob", "account frob", "account frob --name x", "--frob", "account --frob",
		"account create", "account create --name", "account create --name=", "account create --name a\x07b",
		"account create --name " + strings.Repeat("x", maxName+1),
		"account create --name a --currency usd", "account create --name a --currency EURO",
		"account create --name a --credit 1e3", "account create --name a --credit 0.0000001", "account create a",
		"account list all", "account list --app x", "account show", "account show a b",
		"account credit", "account credit a", "account credit a b", "account credit a 1 2", "account credit a -1 -2",
		"account credit a -1x", "account credit a 1 --frob", "account credit a 1 --id=",
		"account ledger", "account ledger a --since yesterday", "account ledger a --since -24h", "account ledger a --since=",
		"app create", "app create --name a", "app create --account a", "app create --name a --account=",
		"app create --name a --account b --webhook-secret s", "app create --name a --account b --access-token t",
		"app create --name a --account b --access-token-file=", "app create --name a --account b --phone-number-id 1/2",
		"app create --name a --account b --waba-id x", "app create --name a --account b --per-second x",
		"app create --name a --account b --per-minute -1", "app create --name a --account b --per-minute 99999999999",
		"app set", "app set a", "app set --name b", "app set a --per-second 1.5", "app list x", "app show",
		"app set a --webhook-url", "app set a --webhook-secret-file=", "app set a --access-token-file - --webhook-secret-file -",
		"app set a --config - --webhook-secret-file -", "app set a --events=", "app set a --events frob", "app set a --events all,frob",
		"app set a --events messages,,read", "app set a --header X-Team", "app set a --header X-Team:a --header x-team:b",
		"app set a --header X-Team:a --header=", "app set a --header= --header X-Team:a", "app set a --header Content-Length:1", "app set a -HX-Team:a",
		"key create", "key create --app=", "key create --app a --expires soon", "key create --app a --expires 2001-01-01",
		"key create --app a --expires -1h", "key create --app a --sandbox --key-file f", "key create --app a --sandbox=perhaps",
		"key list", "key list --app", "key revoke", "key revoke a b",
		"event frob", "event list x", "event list --app=", "event list --state frob", "event list --state=", "event show", "event show a b",
		"event show a --payload=perhaps", "event replay", "event replay a --app b", "event replay --app=",
		"token frob", "token rotate now", "demo now", "demo --app a", "account list --adapter frob",
	} {
		r := l.run("", strings.Split(args, " ")...)
		if r.code != 2 || r.stdout != "" || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, "--help)") {
			t.Errorf("%q: exit status %d, printed %q, %q", args, r.code, r.stdout, r.stderr)
		}
	}
	if _, err := os.Stat(l.database); err == nil {
		t.Error("wrong usage opened the store")
	}
}

func TestFailures(t *testing.T) {
	l := newCommandLine(t)
	account := l.record("account", "create", "--name", "Acme", "--credit", "1")["id"].(string)
	app := l.record("app", "create", "--account", account, "--name", "Support")["id"].(string)
	for _, test := range []struct{ args, stdin, stderr string }{
		{"account show acct_x", "", "no account with id acct_x"},
		{"account credit acct_x 1", "", "no account with id acct_x"},
		{"account credit " + account + " 9223372036854.775807", "", "amount is out of range"},
		{"account ledger acct_x", "", "no account with id acct_x"},
		{"account ledger acct_x --json", "", "no account with id acct_x"},
		{"app create --account acct_x --name a", "", "no account with id acct_x"},
		{"app create --account none --name a --per-second 1 --per-minute 0", "", "rate limits must be at least 1, not 1 a second and 0 a minute"},
		{"app create --account none --name a --access-token-file -", " \n", "an access token is 1 to 4096 visible ASCII characters without spaces"},
		{"app create --account none --name a --access-token-file " + operatorToken, "", "the file with the access token cannot be read: no such file or directory"},
		{"app create --account none --name a --webhook-secret-file -", "\n", "a webhook secret must be 1 to 512 ASCII characters without spaces"},
		{"app create --account none --name a --webhook-secret-file " + webhookSecret, "", "the file with the webhook secret cannot be read: no such file or directory"},
		{"app show app_x", "", "no app with id app_x"},
		{"event list --app app_x", "", "no app with id app_x"},
		{"event show evt_x", "", "no event with id evt_x"},
		{"event replay evt_x", "", "no event with id evt_x"},
		{"event replay --app app_x", "", "no app with id app_x"},
		{"app set app_x --name a", "", "no app with id app_x"},
		{"app set " + app + " --account acct_x", "", "no account with id acct_x"},
		{"key create --app app_x", "", "no app with id app_x"},
		{"key create --app " + app + " --key-file -", "short", "the key is not 16 to 512 visible ASCII characters, or it is one of ours and mistyped"},
		{"key list --app app_x", "", "no app with id app_x"},
		{"key revoke key_x", "", "no key with id key_x"},
	} {
		r := l.run(test.stdin, strings.Split(test.args, " ")...)
		if r.code != 1 || r.stdout != "" {
			t.Errorf("%q: exit status %d, printed %q", test.args, r.code, r.stdout)
		}
		diff(t, test.stderr+"\n", r.stderr)
	}
	diff(t, 1, len(l.records("app", "list")))
	diff(t, "Support", l.record("app", "show", app)["name"])
}

func TestSecretInPlaceOfSomethingElseIsNotRepeated(t *testing.T) {
	l := newCommandLine(t)
	key := string(tenant.NewKey(false))
	for i, args := range [][]string{
		{"key", "revoke", key}, {"key", "list", "--app", key}, {"app", "show", operatorToken}, {key}, {"account", operatorToken},
		{"app", "set", "a", operatorToken}, {"app", "create", "--account", "a", "--name", "a", "--waba-id", operatorToken},
		{"app", "set", "a", "--access-token", operatorToken}, {"app", "set", "a", "--access-token=" + operatorToken},
		{"app", "set", "a", "-t" + operatorToken}, {"app", "set", "a", "--access-token-file", operatorToken},
		{"key", "create", "--app", "a", "--key-file", key},
	} {
		r := l.run("", args...)
		if r.code == 0 || strings.Contains(r.stdout+r.stderr, key) || strings.Contains(r.stdout+r.stderr, operatorToken) {
			t.Errorf("case %d: exit status %d, or the secret was printed", i, r.code)
		}
	}
}

func TestConfigurations(t *testing.T) {
	dir := t.TempDir()
	database := filepath.Join(dir, "gateway.db")
	for _, test := range []struct{ file, content, stderr string }{
		{"caddy.json", `{"apps":{"whatsapp_gateway":{"@id":"gw","store":{"backend":"sqlite","path":"` + database + `"}}}}`, ""},
		{"caddyfile.example", "{\n whatsapp_gateway {\n store sqlite " + database + "\n }\n}\n", ""},
		{"site.caddyfile", "{\n whatsapp_gateway {\n store sqlite " + database + "\n }\n}\n", ""},
		{"other", "{\n whatsapp_gateway {\n store sqlite " + database + "\n }\n}\n", "other is not a configuration in JSON, and --adapter names no other form: "},
		{"words.json", `{"apps":{"whatsapp_gateway":{"frob":1}}}`, `words.json: apps.whatsapp_gateway: json: unknown field "frob"`},
		{"Caddyfile.words", "{\n whatsapp_gateway {\n frob\n }\n}\n", "Caddyfile.words:3"},
		{"store.json", `{"apps":{"whatsapp_gateway":{"store":{"backend":"frob"}}}}`, "unknown module"},
		{"folder.json", `{"apps":{"whatsapp_gateway":{"store":{"backend":"sqlite","path":"` + dir + `"}}}}`, dir + ": is a directory"},
	} {
		l := &commandLine{t: t, config: filepath.Join(dir, test.file)}
		if err := os.WriteFile(l.config, []byte(test.content), 0o600); err != nil {
			t.Fatal(err)
		}
		r := l.run("", "account", "list", "--json")
		if test.stderr == "" && (r.code != 0 || r.stdout != "[]\n") || test.stderr != "" && (r.code != 1 || r.stdout != "") {
			t.Errorf("%s: exit status %d, printed %q", test.file, r.code, r.stdout)
		}
		if !strings.Contains(r.stderr, test.stderr) || strings.Count(r.stderr, "\n") != r.code {
			t.Errorf("%s: standard error %q, want %q", test.file, r.stderr, test.stderr)
		}
	}
}

func TestConfigurationWithoutTheGatewayMeansItsDefaults(t *testing.T) {
	data := t.TempDir()
	t.Setenv("XDG_DATA_HOME", data)
	l := newCommandLine(t)
	if err := os.WriteFile(l.config, []byte("http://localhost {\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.do("account", "create", "--name", "Acme")
	if _, err := os.Stat(filepath.Join(data, "caddy", "whatsapp_gateway", "gateway.db")); err != nil {
		t.Error(err)
	}
}

func TestMissingCaddyfileIsNotAnEmptyOne(t *testing.T) {
	t.Chdir(t.TempDir())
	root, stderr := testRoot("account", "list")
	if err := root.Execute(); err == nil {
		t.Error("the command succeeded")
	}
	diff(t, "there is no Caddyfile here: name the gateway's configuration with --config\n", stderr.String())
}

func TestSecretsAreNeededOnlyWhereTheyAreUsed(t *testing.T) {
	l := newCommandLine(t, "key_pepper {env.GATEWAY_TEST_UNSET_PEPPER}", "encryption_key k1 {env.GATEWAY_TEST_UNSET_KEY}")
	account := l.record("account", "create", "--name", "Acme", "--credit", "1")["id"].(string)
	app := l.record("app", "create", "--account", account, "--name", "Support")["id"].(string)
	for _, args := range []string{
		"account list", "account show " + account, "account credit " + account + " 1", "account ledger " + account,
		"app list", "app show " + app, "app set " + app + " --per-second 5", "key list --app " + app,
	} {
		l.do(strings.Fields(args)...)
	}
	for _, args := range []string{"key create --app " + app, "token rotate", "demo", "app set " + app + " --access-token-file -"} {
		r := l.run(operatorToken, strings.Fields(args)...)
		if r.code != 1 || !strings.Contains(r.stderr, "GATEWAY_TEST_UNSET_PEPPER") || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("%q: exit status %d, %q", args, r.code, r.stderr)
		}
	}
	diff(t, false, l.record("app", "show", app)["has_access_token"])
}
