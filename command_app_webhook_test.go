package gateway

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const webhookSecret = "whsec_c2VjcmV0LW9mLWEtdGVzdC13ZWJob29r"

// everyEvent is how all events look in JSON.
var everyEvent = []any{"messages", "message_status", "read", "message_template_status", "account"}

func TestWebhookIsStoredAsItWasGiven(t *testing.T) {
	l := newCommandLine(t)
	stored := func(id string) *tenant.Webhook {
		t.Helper()
		app, err := l.open(false).App(t.Context(), tenant.AppID(id))
		if err != nil {
			t.Fatal(err)
		}
		return app.Webhook
	}
	id := l.record("app", "create", "--account", "none", "--name", "A")["id"].(string)
	if w := stored(id); w != nil {
		t.Errorf("without a flag there is a webhook, %+v", w)
	}
	l.doWith(webhookSecret+"\r\n", "app", "set", id, "--webhook-url", "https://hooks.example/in?key=x", "--webhook-secret-file", "-",
		"--events", "read,messages,messages", "--header", "X-Team:\ta: b ", "--header", "x-empty:")
	want := &tenant.Webhook{
		URL: "https://hooks.example/in?key=x", Secret: webhookSecret, Events: []tenant.Event{tenant.EventMessages, tenant.EventRead},
		Headers: map[string]tenant.Secret{"X-Team": "a: b", "x-empty": ""},
	}
	diff(t, want, stored(id))

	l.do("app", "set", id, "--name", "B")
	diff(t, want, stored(id))
	l.do("app", "set", id, "--events", "messages,all")
	want.Events = nil
	diff(t, want, stored(id))
	l.do("app", "set", id, "--header", "X-New: c", "--webhook-url", "")
	want.URL, want.Headers = "", map[string]tenant.Secret{"X-New": "c"}
	diff(t, want, stored(id))
	l.do("app", "set", id, "--header", "")
	want.Headers = nil
	diff(t, want, stored(id))
}

func TestNamingTheURLEnablesADisabledEndpoint(t *testing.T) {
	const address = "https://hooks.example/in"
	l := newCommandLine(t)
	id := l.record("app", "create", "--account", "none", "--name", "A", "--webhook-url", address)["id"].(string)
	disabledAt := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	if _, err := l.open(true).UpdateApp(t.Context(), tenant.AppID(id), func(app *tenant.App) error {
		app.Webhook.DisabledAt = &disabledAt
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	diff(t, "2026-01-31T12:00:00Z", l.record("app", "show", id)["webhook_disabled_at"])
	diff(t, "2026-01-31T12:00:00Z", l.record("app", "set", id, "--events", "read")["webhook_disabled_at"])
	diff(t, nil, l.record("app", "set", id, "--webhook-url", address)["webhook_disabled_at"])
	diff(t, nil, l.record("app", "show", id)["webhook_disabled_at"])
}

func TestURLThatTheConfigurationForbidsIsRefused(t *testing.T) {
	l := newCommandLine(t)
	id := l.record("app", "create", "--account", "none", "--name", "A")["id"].(string)
	private := []string{"http://127.0.0.1:8082/", "https://10.0.0.1/", "http://hooks.example/"}
	for _, refused := range append(private, "hooks.example", "ftp://hooks.example/", "https://", "u", " ") {
		for _, args := range [][]string{{"app", "set", id}, {"app", "create", "--account", "none", "--name", "B"}} {
			r := l.run("", append(args, "--webhook-url", refused)...)
			if r.code != 1 || r.stdout != "" || !strings.Contains(r.stderr, "webhook URL must") || strings.Count(r.stderr, "\n") != 1 {
				t.Errorf("%q: exit status %d, printed %q, %q", refused, r.code, r.stdout, r.stderr)
			}
		}
	}
	diff(t, nil, l.record("app", "show", id)["webhook_url"])
	diff(t, 1, len(l.records("app", "list")))

	l.configure("delivery {", "allow_private_targets", "}")
	for _, allowed := range private {
		diff(t, allowed, l.record("app", "set", id, "--webhook-url", allowed)["webhook_url"])
	}

	// Where it is allowed no more, the rest can still be changed.
	l.configure()
	diff(t, []any{"read"}, l.record("app", "set", id, "--events", "read")["events"])
}

func TestWebhookCannotHaveAnyNumberOfHeaders(t *testing.T) {
	l := newCommandLine(t)
	id := l.record("app", "create", "--account", "none", "--name", "A", "--webhook-url", "https://hooks.example/")["id"].(string)
	args := []string{"app", "set", id}
	for i := range 33 {
		args = append(args, "--header", fmt.Sprintf("X-%d: a", i))
	}
	diff(t, result{1, "", "a webhook can have at most 32 headers\n"}, l.run("", args...))
	l.do(args[:len(args)-2]...)
	diff(t, 32, len(l.record("app", "show", id)["header_names"].([]any)))
}

func TestNothingSecretOfAWebhookIsRepeated(t *testing.T) {
	const secret = "hush-4711"
	l := newCommandLine(t)
	id := l.record("app", "create", "--account", "none", "--name", "A")["id"].(string)
	for i, args := range [][]string{
		{"--header", secret}, {"--header", "X Team: " + secret}, {"--header", ": " + secret}, {"--header", "X-Team: \x01" + secret},
		{"--header", "X-Team: " + secret + "\r\nX-Other: a"}, {"--header", "Content-Length: " + secret},
		{"--header", "X-Team: " + secret, "--header", "X-Team: " + secret}, {"--header", "X-Team: " + secret, "--header", ""},
		{"-HX-Team: " + secret}, {"-H", "X-Team: " + secret}, {"--headers", "X-Team: " + secret}, {"--headers=X-Team: " + secret},
		{"--events", secret}, {"--webhook-secret", secret}, {"--webhook-secret=" + secret}, {"--webhook-secret-file", secret},
		{"--webhook-secret-file", webhookSecret}, {webhookSecret}, {"--name", "B", webhookSecret},
		{"--webhook-url", "https://user:" + secret + "@hooks.example/"}, {"--webhook-url", "http://hooks.example/?key=" + secret},
		{"--webhook-url", "https://10.0.0.1/?key=" + secret}, {"--webhook-url", "https://hooks.example/%?key=" + secret},
		{"--webhook-url", "https://hooks.example:port/?key=" + secret}, {"--webhook-url", "https://hooks.example/\x7f" + secret},
		{"--webhook-url", secret}, {"--webhook-url", "://" + secret}, {"--webhook-url", "https://?" + secret},
	} {
		r := l.run("", append([]string{"app", "set", id}, args...)...)
		text := r.stdout + r.stderr
		if r.code == 0 || strings.Contains(text, secret) || strings.Contains(text, webhookSecret) {
			t.Errorf("case %d: exit status %d, or a secret was printed", i, r.code)
		}
	}
	l.doWith(secret+secret+secret, "app", "set", id, "--webhook-url", "https://hooks.example/?key="+secret, "--webhook-secret-file", "-", "--header", "X-Team: "+secret)
	text := l.do("app", "show", id) + l.do("app", "list") + fmt.Sprint(l.record("app", "show", id), l.records("app", "list"))
	if strings.Contains(l.printed.String()+text, secret) {
		t.Error("a secret was shown")
	}
}

func TestUnknownNameIsAnsweredWithThoseThatThereAre(t *testing.T) {
	l := newCommandLine(t)
	for _, test := range []struct{ args, stderr string }{
		{"app set a --events frob", "--events: the events are messages, message_status, read, message_template_status, account; or all (see caddy whatsapp-gateway app set --help)\n"},
		{"event list --state frob", "--state: the states are pending, dead, quarantined (see caddy whatsapp-gateway event list --help)\n"},
	} {
		diff(t, result{2, "", test.stderr}, l.run("", strings.Fields(test.args)...))
	}
}

func TestShownURLHasNoSecret(t *testing.T) {
	for raw, want := range map[string]string{
		"":                                     "",
		"https://hooks.example":                "https://hooks.example",
		"https://hooks.example:8443/in/a%2Fb/": "https://hooks.example:8443/in/a%2Fb/",
		"https://hooks.example/in?key=a&b=c":   "https://hooks.example/in?***",
		"https://user:word@hooks.example/in#x": "https://hooks.example/in",
		"http://[fd00::1]:80/in":               "http://[fd00::1]:80/in",
		"https://hooks.example/%":              "***",
	} {
		diff(t, want, shownURL(raw))
	}
}
