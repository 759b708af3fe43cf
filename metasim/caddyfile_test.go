package metasim

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/google/go-cmp/cmp"
)

func adapt(config string) ([]byte, error) {
	out, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
	return out, err
}

func TestCaddyfileBecomesJSON(t *testing.T) {
	for _, test := range []struct{ name, config, want string }{
		{
			"defaults, before respond", ":8080\nrespond 404\nmeta_simulator\n",
			`{"apps":{"http":{"servers":{"srv0":{"listen":[":8080"],"routes":[{"handle":[` +
				`{"handler":"meta_simulator"},{"handler":"static_response","status_code":404}]}]}}}}}`,
		},
		{
			"every option", ":8080\nmeta_simulator /v23.0/* {\n\taccess_token EAA1 {env.TOKEN}\n\taccess_token EAA2\n\tslow_answer 1m30s\n" +
				"\twebhook {env.BASE}/v1/wa/webhook {file./run/secret}\n}\n",
			`{"apps":{"http":{"servers":{"srv0":{"listen":[":8080"],"routes":[{"match":[{"path":["/v23.0/*"]}],"handle":[` +
				`{"access_token":["EAA1","{env.TOKEN}","EAA2"],"handler":"meta_simulator","slow_answer":90000000000,` +
				`"webhook":{"app_secret":"{file./run/secret}","url":"{env.BASE}/v1/wa/webhook"}}]}]}}}}}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := adapt(test.config)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCaddyfileErrorsNameTheLine(t *testing.T) {
	for _, test := range []struct{ name, block, want string }{
		{"unknown word", "{\n\tslow_answer 1s\n\tfrobnicate 1\n}", `meta_simulator does not know "frobnicate", at Caddyfile:4`},
		{"webhook without secret", "{\n\twebhook https://example.com\n}", "wrong argument count or unexpected line ending after 'https://example.com', at Caddyfile:3"},
		{"webhook with an empty secret", "{\n\twebhook https://example.com \"\"\n}", "webhook: app_secret is empty, at Caddyfile:3"},
		{"webhook with too much", "{\n\twebhook https://example.com a b\n}", "wrong argument count or unexpected line ending after 'a', at Caddyfile:3"},
		{"webhook twice", "{\n\twebhook https://example.com a\n\twebhook https://example.com b\n}", "webhook is already set, at Caddyfile:4"},
		{"webhook without scheme", "{\n\twebhook example.com/hook a\n}", errWebhookURL.Error() + ", at Caddyfile:3"},
		{"webhook that is no URL", "{\n\twebhook http://%zz a\n}", errWebhookURL.Error() + ", at Caddyfile:3"},
		{"argument", "now", "wrong argument count or unexpected line ending after 'now', at Caddyfile:2"},
		{"no token", "{\n\taccess_token\n}", "wrong argument count or unexpected line ending after 'access_token', at Caddyfile:3"},
		{"no duration", "{\n\tslow_answer\n}", "wrong argument count or unexpected line ending after 'slow_answer', at Caddyfile:3"},
		{"two durations", "{\n\tslow_answer 1s 2s\n}", "wrong argument count or unexpected line ending after '1s', at Caddyfile:3"},
		{"bad duration", "{\n\tslow_answer soon\n}", "at Caddyfile:3"},
		{"no time at all", "{\n\tslow_answer 0s\n}", "slow_answer must be positive, at Caddyfile:3"},
		{"set twice", "{\n\tslow_answer 1s\n\tslow_answer 2s\n}", "slow_answer is already set, at Caddyfile:4"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := adapt(":8080\nmeta_simulator " + test.block + "\n")
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

// caddyWith is a running Caddy with a simulator and with an access log, which
// wraps the connection.
type caddyWith struct {
	t            *testing.T
	dir, address string
}

// startCaddy runs a Caddy until the end of the test.
func startCaddy(t *testing.T, block string) *caddyWith {
	t.Helper()
	c := &caddyWith{t: t, dir: t.TempDir(), address: freeAddress(t)}
	c.load(block)
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	// The count is the process's, so that another run of this test may have left something.
	if resp, err := c.do(http.MethodDelete, "/_simulator/accepted", ""); err != nil || resp.StatusCode != http.StatusNoContent {
		t.Fatalf("got %v, %v", resp, err)
	}
	return c
}

// load gives the simulator another configuration.
func (c *caddyWith) load(block string) {
	c.t.Helper()
	config, err := adapt(fmt.Sprintf(`{
	admin off
	persist_config off
	auto_https off
	storage file_system %[1]s
	log {
		output file %[1]s/caddy.log
		level DEBUG
	}
}
http://%[2]s {
	bind 127.0.0.1
	log {
		output file %[1]s/access.log
	}
	meta_simulator {
		%[3]s
	}
}
`, c.dir, c.address, block))
	if err != nil {
		c.t.Fatal(err)
	}
	if err := caddy.Load(config, true); err != nil {
		c.t.Fatal(err)
	}
}

func (c *caddyWith) do(method, path, body string) (*http.Response, error) {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, "http://"+c.address+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+goodToken)
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err == nil {
		resp.Body.Close()
	}
	return resp, err
}

// logsWithout fails the test where a log contains one of the secrets.
func (c *caddyWith) logsWithout(secrets ...string) {
	c.t.Helper()
	for _, name := range []string{"caddy.log", "access.log"} {
		logged, err := os.ReadFile(filepath.Join(c.dir, name))
		if err != nil {
			c.t.Fatal(err)
		}
		for i, secret := range secrets {
			if strings.Contains(string(logged), secret) {
				c.t.Errorf("%s contains secret %d", name, i)
			}
		}
	}
}

func TestReloadKeepsTheCount(t *testing.T) {
	c := startCaddy(t, "slow_answer 1s")
	if resp, err := c.do(http.MethodPost, sendPath, textTo("15550104477")); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("got %v, %v", resp, err)
	}
	if _, err := c.do(http.MethodPost, sendPath, textTo("15550109102")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset by TCP", err)
	}
	c.load("slow_answer 2s")
	if got := counted(t, http.DefaultClient, "http://"+c.address); got.Accepted != 2 {
		t.Errorf("%d accepted messages after a reload, want 2", got.Accepted)
	}
	c.logsWithout(goodToken, "15550104477", "15550109102", "hello")
}

// TestReloadKeepsWhatWaits gives a message to one configuration and has its
// statuses taken while there is another one.
func TestReloadKeepsWhatWaits(t *testing.T) {
	hook := newReceiver(t)
	hook.answer.Store(http.StatusServiceUnavailable)
	t.Setenv("METASIM_SECRET", appSecret)
	t.Setenv("METASIM_HOOK", hook.URL)
	const block = "webhook {env.METASIM_HOOK}/hook {env.METASIM_SECRET}"
	c := startCaddy(t, block)
	if resp, err := c.do(http.MethodPost, sendPath, textTo("15550104477")); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("got %v, %v", resp, err)
	}
	hook.next()
	c.load(block + "\nslow_answer 2s")
	hook.answer.Store(http.StatusOK)
	taken := map[string]bool{}
	for len(taken) < 3 {
		if got := hook.next(); got.answered == http.StatusOK {
			taken[got.status(t).Status] = true
		}
	}
	waitFor(t, func() bool { return counted(t, http.DefaultClient, "http://"+c.address).Webhooks.Pending == 0 })
	if got := counted(t, http.DefaultClient, "http://"+c.address).Webhooks; got.Sent != 3 || got.Failed != 0 || got.Retried == 0 {
		t.Errorf("counted %+v", got)
	}
	c.logsWithout(goodToken, appSecret, "15550104477", "hello", profileName, strings.TrimPrefix(hook.URL, "http://"))
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
