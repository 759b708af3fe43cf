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
			"every option", ":8080\nmeta_simulator /v23.0/* {\n\taccess_token EAA1 {env.TOKEN}\n\taccess_token EAA2\n\tslow_answer 1m30s\n}\n",
			`{"apps":{"http":{"servers":{"srv0":{"listen":[":8080"],"routes":[{"match":[{"path":["/v23.0/*"]}],"handle":[` +
				`{"access_token":["EAA1","{env.TOKEN}","EAA2"],"handler":"meta_simulator","slow_answer":90000000000}]}]}}}}}`,
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
		{"webhook", "{\n\twebhook https://example.com secret\n}", `meta_simulator does not know "webhook", at Caddyfile:3`},
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

// TestInCaddy runs the simulator in a Caddy with an access log, which wraps the
// connection, and reloads it.
func TestInCaddy(t *testing.T) {
	dir := t.TempDir()
	address := freeAddress(t)
	load := func(slow string) {
		t.Helper()
		config, err := adapt(fmt.Sprintf(`{
	admin off
	persist_config off
	auto_https off
	storage file_system %[1]s
	log {
		output file %[1]s/caddy.log
	}
}
http://%[2]s {
	bind 127.0.0.1
	log {
		output file %[1]s/access.log
	}
	meta_simulator {
		slow_answer %[3]s
	}
}
`, dir, address, slow))
		if err != nil {
			t.Fatal(err)
		}
		if err := caddy.Load(config, true); err != nil {
			t.Fatal(err)
		}
	}
	load("1s")
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	do := func(method, path, body string) (*http.Response, error) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+goodToken)
		r.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(r)
		if err == nil {
			resp.Body.Close()
		}
		return resp, err
	}
	// The count is the process's, so that another run of this test may have left something.
	if resp, err := do(http.MethodDelete, "/_simulator/accepted", ""); err != nil || resp.StatusCode != http.StatusNoContent {
		t.Fatalf("got %v, %v", resp, err)
	}
	if resp, err := do(http.MethodPost, sendPath, textTo("15550104477")); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("got %v, %v", resp, err)
	}
	if _, err := do(http.MethodPost, sendPath, textTo("15550109102")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset by TCP", err)
	}
	load("2s")
	if got := counted(t, http.DefaultClient, "http://"+address); got.Accepted != 2 {
		t.Errorf("%d accepted messages after a reload, want 2", got.Accepted)
	}

	for _, name := range []string{"caddy.log", "access.log"} {
		logged, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{goodToken, "15550104477", "15550109102", "hello"} {
			if strings.Contains(string(logged), secret) {
				t.Errorf("%s contains %q", name, secret)
			}
		}
	}
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
