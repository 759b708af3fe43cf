package gateway

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// testRoot is the command line without a configuration of its own.
func testRoot(args ...string) (*cobra.Command, *bytes.Buffer) {
	root := &cobra.Command{Use: "whatsapp-gateway"}
	addCommands(root)
	stderr := new(bytes.Buffer)
	root.SetOut(new(bytes.Buffer))
	root.SetErr(stderr)
	root.SetArgs(args)
	return root, stderr
}

func TestDemoIsMadeOnceAndPrintedAlways(t *testing.T) {
	t.Setenv("GATEWAY_ADDRESS", "")
	l := newCommandLine(t)
	first := l.do("demo")
	data := l.record("demo")
	everything := func() []any {
		return []any{l.records("account", "list"), l.records("account", "ledger", "acct_demo"), l.records("app", "list"), l.records("key", "list", "--app", "app_demo")}
	}
	before := everything()
	diff(t, first, l.do("demo"))
	diff(t, data, l.record("demo"))
	diff(t, before, everything())

	diff(t, []record{{"id": "acct_demo", "name": "Demo", "currency": "USD", "available": "10.00", "held": "0.00", "captured": "0.00"}},
		l.records("account", "list"), "created_at")
	diff(t, record{
		"id": "app_demo", "name": "Demo", "account_id": "acct_demo", "per_second": nil, "per_minute": nil,
		"waba_id": "200000000000001", "phone_number_id": "100000000000001", "has_access_token": true, "access_token_key_id": "k1",
		"webhook_url": nil, "has_webhook_secret": false, "events": nil, "header_names": []any{}, "webhook_disabled_at": nil,
	}, l.record("app", "show", "app_demo"), "created_at")

	key := data["key"].(string)
	if k, err := tenant.ParseKey(key); err != nil || k.Sandbox() {
		t.Errorf("the demo's key is none: %v", err)
	}
	body := ` -H 'Authorization: Bearer ` + key + `' -H 'Content-Type: application/json' -d '{"messaging_product":"whatsapp","to":"12025550100","type":"text","text":{"body":"Hello"}}'`
	want := []any{
		"curl -sS 'http://127.0.0.1:8080/v1/wa/message?is_fake=true'" + body,
		"curl -sS 'http://127.0.0.1:8080/v1/wa/message'" + body,
	}
	diff(t, record{"account_id": "acct_demo", "app_id": "app_demo", "key": key, "commands": want, "webhook_url": nil}, data)
	lines := strings.Split(first, "\n")
	for _, line := range []string{key, want[0].(string), want[1].(string), "The app's events go nowhere: it has no webhook."} {
		if !slices.Contains(lines, line) {
			t.Errorf("%q is not a line of %q", line, first)
		}
	}
	info, err := os.Stat(l.database + ".demo_key")
	if err != nil || info.Mode() != fs.FileMode(0o600) {
		t.Errorf("the file with the key has mode %v, error %v", info.Mode(), err)
	}
}

func TestDemoWorksOnRedis(t *testing.T) {
	server := redistest.Start(t)
	l := newCommandLine(t)
	folder := filepath.Join(t.TempDir(), "journal")
	config := fmt.Sprintf("{\n\twhatsapp_gateway {\n\t\tstore redis %s {\n\t\t\tjournal %s\n\t\t}\n\t\tkey_pepper p\n\t\tencryption_key k1 %s\n\t}\n}\n",
		server.URL(), folder, encryptionKey1)
	if err := os.WriteFile(l.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	first := l.do("demo")
	diff(t, first, l.do("demo"))
	diff(t, []record{{"id": "acct_demo", "name": "Demo", "currency": "USD", "available": "10.00", "held": "0.00", "captured": "0.00"}},
		l.records("account", "list"), "created_at")
	info, err := os.Stat(filepath.Join(folder, demoKeyFile))
	if err != nil || info.Mode() != fs.FileMode(0o600) {
		t.Errorf("the file with the key has mode %v, error %v", info.Mode(), err)
	}
}

func TestDemoMakesANewKeyInPlaceOfOneThatIsOfNoUse(t *testing.T) {
	l := newCommandLine(t)
	file := l.database + ".demo_key"
	for name, spoil := range map[string]func() error{
		"lost":    func() error { return os.Remove(file) },
		"damaged": func() error { return os.WriteFile(file, []byte("x"), 0o600) },
		"foreign": func() error {
			return os.WriteFile(file, []byte(tenant.NewKey(false).Hint()+strings.Repeat("x", 30)), 0o600)
		},
		"revoked": func() error {
			keys := l.records("key", "list", "--app", "app_demo")
			l.do("key", "revoke", keys[len(keys)-1]["id"].(string))
			return nil
		},
	} {
		before := l.record("demo")["key"]
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		after := l.record("demo")["key"]
		if before == after {
			t.Errorf("%s: the key is the same", name)
		}
		diff(t, after, l.record("demo")["key"])
		keys := l.records("key", "list", "--app", "app_demo")
		for i, key := range keys {
			if active := key["state"] == "active"; active != (i == len(keys)-1) {
				t.Errorf("%s: key %d of %d is %v", name, i+1, len(keys), key["state"])
			}
		}
	}
	diff(t, "10.00", l.record("account", "show", "acct_demo")["available"])
}

func TestDemoGetsANewTokenWhereTheEncryptionKeyIsLost(t *testing.T) {
	l := newCommandLine(t, "encryption_key k1 "+encryptionKey1)
	l.do("demo")
	l.configure("encryption_key k2 " + encryptionKey2)
	l.do("demo")
	diff(t, record{"rotated": 0.0, "current": 1.0, "unreadable": []any{}}, l.record("token", "rotate"))
	ring, err := newRing([]EncryptionKey{{"k2", encryptionKey2}})
	if err != nil {
		t.Fatal(err)
	}
	app, err := l.open(false).App(t.Context(), demoApp)
	if err != nil {
		t.Fatal(err)
	}
	token, err := ring.Open(app.ID, app.AccessToken)
	if err != nil || !strings.HasPrefix(token, "EAA") || strings.Contains(l.printed.String(), token) {
		t.Errorf("the token is not of Meta's form, or was printed; error %v", err)
	}
}

func TestDemoGetsAWebhookWhereItMay(t *testing.T) {
	allow := []string{"delivery {", "allow_private_targets", "}"}
	t.Setenv("WEBHOOK_RECEIVER_ADDRESS", "")
	l := newCommandLine(t)
	l.do("demo")
	l.configure(allow...)
	diff(t, "http://127.0.0.1:8082/", l.record("demo")["webhook_url"])
	app := l.record("app", "show", "app_demo")
	diff(t, []any{"http://127.0.0.1:8082/", true, everyEvent}, []any{app["webhook_url"], app["has_webhook_secret"], app["events"]})
	secret := func() tenant.Secret {
		t.Helper()
		app, err := l.open(false).App(t.Context(), demoApp)
		if err != nil {
			t.Fatal(err)
		}
		return app.Webhook.Secret
	}
	first := secret()
	if encoded, ok := strings.CutPrefix(string(first), "whsec_"); !ok || len(encoded) != 44 || strings.Contains(l.printed.String(), encoded) {
		t.Error("the secret is not of the right form, or was printed")
	}

	// A webhook that is there is left alone, whoever made it.
	t.Setenv("WEBHOOK_RECEIVER_ADDRESS", "127.0.0.1:9999")
	if text := l.do("demo"); !strings.HasSuffix(text, "\n\nThe app's events go to http://127.0.0.1:8082/\n") {
		t.Errorf("it prints %q", text)
	}
	if secret() != first {
		t.Error("the secret is another one")
	}
	for address, want := range map[string]any{"": nil, "https://hooks.example/?key=x": "https://hooks.example/?***"} {
		l.do("app", "set", "app_demo", "--webhook-url", address)
		diff(t, want, l.record("demo")["webhook_url"])
	}
}

func TestDemoWebhookGoesToTheReceiver(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:9999": "http://127.0.0.1:9999/",
		":9999":          "http://127.0.0.1:9999/",
		"localhost:9999": "http://localhost:9999/",
	} {
		t.Setenv("WEBHOOK_RECEIVER_ADDRESS", address)
		l := newCommandLine(t, "delivery {", "allow_private_targets", "}")
		diff(t, any(want), l.record("demo")["webhook_url"])
	}
	t.Setenv("WEBHOOK_RECEIVER_ADDRESS", "127.0.0.1:port")
	r := newCommandLine(t, "delivery {", "allow_private_targets", "}").run("", "demo")
	if r.code != 1 || !strings.HasPrefix(r.stderr, "WEBHOOK_RECEIVER_ADDRESS: ") {
		t.Errorf("exit status %d, standard error %q", r.code, r.stderr)
	}
}

func TestGatewayURL(t *testing.T) {
	for address, want := range map[string]string{
		"":                       "http://127.0.0.1:8080",
		":8080":                  "http://127.0.0.1:8080",
		":443":                   "https://127.0.0.1:443",
		"0.0.0.0:80":             "http://127.0.0.1:80",
		"http://localhost:9":     "http://localhost:9",
		"http://gw.example":      "http://gw.example",
		"gw.example":             "https://gw.example",
		"localhost:8443":         "https://localhost:8443",
		"https://gw.example:444": "https://gw.example:444",
		"http://[::1]:8080":      "http://[::1]:8080",
		"http://[::]:8080":       "http://127.0.0.1:8080",
	} {
		if got, err := gatewayURL(address); got != want || err != nil {
			t.Errorf("%q is reached at %q, want %q, error %v", address, got, want, err)
		}
	}
	t.Setenv("GATEWAY_ADDRESS", ":port")
	r := newCommandLine(t).run("", "demo")
	if r.code != 1 || !strings.HasPrefix(r.stderr, "GATEWAY_ADDRESS: ") {
		t.Errorf("exit status %d, standard error %q", r.code, r.stderr)
	}
}
