package caddytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// configured prepares a gateway whose configuration is this one.
func configured(t testing.TB, caddyfile string, env ...string) *gateway {
	t.Helper()
	g := newGateway(t, settings{env: env})
	if err := os.WriteFile(g.config, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	return g
}

func TestCaddyfilesAdaptToTheJSONBesideThem(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			caddyfile, want, ok := strings.Cut(string(content), "\n----------\n")
			if !ok {
				t.Fatal("no line of hyphens")
			}
			g := configured(t, caddyfile+"\n")
			got, stderr, status := g.caddy(t, "adapt", "--pretty", "--config", g.config)
			if status != 0 {
				t.Fatal(stderr)
			}
			if diff := cmp.Diff(strings.TrimSpace(want), strings.TrimSpace(got)); diff != "" {
				t.Error(diff)
			}
			if strings.Contains(stderr, "not formatted") {
				t.Error("the Caddyfile is not formatted")
			}
		})
	}
}

// option is a Caddyfile with line in the global option, directive one with line
// in the directive: it is the third line of both.
func option(line string) string    { return "{\n\twhatsapp_gateway {\n\t\t" + line + "\n\t}\n}\n" }
func directive(line string) string { return ":0 {\n\twhatsapp_gateway {\n\t\t" + line + "\n\t}\n}\n" }

// mistakes are in the third line, and message is in the error.
var mistakes = []struct{ caddyfile, message string }{
	{option("webhook_verify_token x"), "unrecognized option: webhook_verify_token"},
	{option("meta_app_secret x"), "unrecognized option: meta_app_secret"},
	{option("delivery {\n}"), "unrecognized option: delivery"},
	{option("rate_card rates.csv"), "unrecognized option: rate_card"},
	{option("core https://core.example"), "unrecognized option: core"},
	{option("store redis redis://127.0.0.1"), "redis"},
	{option("store"), "store"},
	{option("store sqlite a b"), "b"},
	{option("store sqlite {\nmode single\n}"), "mode"},
	{option("key_cache"), "key_cache"},
	{option("key_cache 1s 1s 1s"), "key_cache has 3 arguments and takes 1 or 2"},
	{option("key_cache soon"), "soon"},
	{option("key_cache -1s"), "-1s"},
	{option("key_cache 0"), "0"},
	{option("key_pepper"), "key_pepper"},
	{option("key_pepper a b"), "key_pepper has 2 arguments and takes 1"},
	{option("encryption_key k1"), "encryption_key has 1 arguments and takes 2"},
	{option("rate_limit 80"), "rate_limit has 1 arguments and takes 2"},
	{option("rate_limit 0 0"), "rate_limit"},
	{option("rate_limit 80 many"), "rate_limit"},
	{option("rate_limit 80 1e3"), "rate_limit"},
	{option("base_fee a"), "a"},
	{option("base_fee -0.001"), "base_fee"},
	{option("base_fee 0.0000001"), "0.0000001"},
	{option("in_doubt 24h"), "in_doubt has 1 arguments and takes 2"},
	{option("in_doubt 24h forget"), "forget"},
	{option("in_doubt soon capture"), "soon"},
	{option("Store sqlite"), "unrecognized option: Store"},
	{"{\n\twhatsapp_gateway\n\twhatsapp_gateway\n}\n", "twice"},
	{"{\n\n\twhatsapp_gateway x\n}\n", "x"},
	{directive("graph_version 23"), "graph_version"},
	{directive("graph_version v23.0/../v1.0"), "graph_version"},
	{directive("graph_version"), "graph_version"},
	{directive("graph_version v23.0 v24.0"), "graph_version has 2 arguments and takes 1"},
	{directive("max_body_size 0"), "max_body_size"},
	{directive("max_body_size 1TiB"), "max_body_size"},
	{directive("max_body_size large"), "max_body_size"},
	{directive("upstream_timeout 0s"), "upstream_timeout"},
	{directive("upstream_timeout -1s"), "upstream_timeout"},
	{directive("upstream_timeout soon"), "soon"},
	{directive("reverse_proxy https://graph.facebook.com/v23.0"), "scheme, host, and port"},
	{directive("reverse_proxy {\nnonsense\n}"), "nonsense"},
	{directive("rate_limit 1 1"), "unrecognized option: rate_limit"},
	{directive("unknown"), "unrecognized option: unknown"},
	{":0 {\n\n\twhatsapp_gateway /v1/* /v2/*\n}\n", "/v2/*"},
}

func TestMistakesInACaddyfileAreNamedWithFileAndLine(t *testing.T) {
	t.Parallel()
	g := configured(t, "")
	for _, c := range mistakes {
		lines := strings.Split(c.caddyfile, "\n")
		t.Run(strings.TrimSpace(lines[2]), func(t *testing.T) {
			file := g.file(t, "Caddyfile", c.caddyfile)
			_, stderr, status := g.caddy(t, "adapt", "--adapter", "caddyfile", "--config", file)
			if status != 1 {
				t.Errorf("exit status %d", status)
			}
			// Blocks that ought not be there are named at their own line.
			where := []string{file + ":3", file + ":4"}
			if !strings.Contains(stderr, c.message) || !strings.Contains(stderr, where[0]) && !strings.Contains(stderr, where[1]) {
				t.Errorf("the error does not name file, line and %q: %s", c.message, stderr)
			}
		})
	}
}

func TestAnOptionThatStandsTwiceIsNamedWithFileAndLine(t *testing.T) {
	t.Parallel()
	g := configured(t, "")
	for _, word := range []string{"key_cache 1s", "key_pepper x", "rate_limit 1 1", "base_fee 1", "in_doubt 1h capture", "store sqlite"} {
		file := g.file(t, "Caddyfile", "{\n\twhatsapp_gateway {\n\t\t"+word+"\n\t\t"+word+"\n\t}\n}\n")
		_, stderr, status := g.caddy(t, "adapt", "--adapter", "caddyfile", "--config", file)
		if status != 1 || !strings.Contains(stderr, "twice") || !strings.Contains(stderr, file+":4") {
			t.Errorf("%s twice: exit status %d: %s", word, status, stderr)
		}
	}
}

// files are the paths of everything under dir.
func files(t testing.TB, dir string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestValidatingDialsNothingAndCreatesNoFile(t *testing.T) {
	t.Parallel()
	var dialled atomic.Int64
	meta := listen(t, func(net.Conn) { dialled.Add(1) })
	g := newGateway(t, settings{proxy: "reverse_proxy https://" + meta})
	before := files(t, g.dir)
	if _, stderr, status := g.caddy(t, "validate", "--config", g.config); status != 0 {
		t.Fatalf("exit status %d: %s", status, stderr)
	}
	if diff := cmp.Diff(before, files(t, g.dir)); diff != "" {
		t.Error(diff)
	}
	if dialled.Load() != 0 {
		t.Error("the upstream was dialled")
	}
}

func TestConfigurationsThatAreRefusedWhenTheyAreValidated(t *testing.T) {
	t.Parallel()
	const key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
	for _, c := range []struct {
		name     string
		settings settings
		messages []string
	}{
		{"unset pepper", settings{app: "key_pepper {env.NOT_SET_PEPPER}"}, []string{"key_pepper", "env.NOT_SET_PEPPER"}},
		{"empty pepper", settings{app: "key_pepper {env.EMPTY}", env: []string{"EMPTY="}}, []string{"key_pepper", "env.EMPTY"}},
		{"pepper from a missing file", settings{app: "key_pepper {file./does/not/exist}"}, []string{"key_pepper", "/does/not/exist"}},
		{"unset encryption key", settings{app: "encryption_key k1 {env.NOT_SET_KEY}"}, []string{"encryption_key", "k1", "env.NOT_SET_KEY"}},
		{"encryption key from a missing file", settings{app: "encryption_key k1 {file./does/not/exist}"}, []string{"encryption_key", "/does/not/exist"}},
		{"unset database", settings{app: "store sqlite {env.NOT_SET_PATH}"}, []string{"store", "env.NOT_SET_PATH"}},
		{"unknown placeholder", settings{app: "key_pepper {http.request.host}"}, []string{"key_pepper", "brace"}},
		{"encryption key too short", settings{app: "encryption_key k1 c2hvcnQ="}, []string{"encryption key", "k1", "32 bytes"}},
		{"encryption key no base64", settings{app: "encryption_key k1 !"}, []string{"encryption key", "k1", "base64"}},
		{"encryption key id", settings{app: "encryption_key a.b " + key}, []string{"encryption key", "a.b"}},
		{"encryption key twice", settings{app: "encryption_key k1 " + key + "\nencryption_key k1 " + key}, []string{"encryption key", "k1", "twice"}},
		{"retries of what may have been sent", settings{proxy: "reverse_proxy 127.0.0.1:1 {\nlb_try_duration 5s\nlb_retry_match method POST\n}"}, []string{"retry_match"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, c.settings)
			g.hide("encryption key", key)
			_, stderr, status := g.caddy(t, "validate", "--config", g.config)
			if status != 1 {
				t.Errorf("exit status %d", status)
			}
			lines := strings.Split(strings.TrimSpace(stderr), "\n")
			for _, message := range c.messages {
				if !strings.Contains(lines[len(lines)-1], message) {
					t.Errorf("the error does not have %q: %s", message, lines[len(lines)-1])
				}
			}
		})
	}
}

func TestConfigurationsInJSON(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, app, handler, message string }{
		{"empty", `{}`, `{"handler":"whatsapp_gateway"}`, ""},
		{"whole reverse proxy", `{}`, `{"handler":"whatsapp_gateway","reverse_proxy":{"upstreams":[{"dial":"127.0.0.1:1"}]}}`, ""},
		{"unknown option", `{"core":{}}`, `{"handler":"whatsapp_gateway"}`, "core"},
		{"unknown store", `{"store":{"backend":"redis"}}`, `{"handler":"whatsapp_gateway"}`, "redis"},
		{"unknown option of the store", `{"store":{"backend":"sqlite","mode":1}}`, `{"handler":"whatsapp_gateway"}`, "mode"},
		{"limit of zero", `{"rate_limit":{"per_second":0,"per_minute":1}}`, `{"handler":"whatsapp_gateway"}`, "rate_limit"},
		{"negative fee", `{"base_fee":"-1"}`, `{"handler":"whatsapp_gateway"}`, "base_fee"},
		{"outcome", `{"in_doubt":{"outcome":"forget"}}`, `{"handler":"whatsapp_gateway"}`, "forget"},
		{"graph version", `{}`, `{"handler":"whatsapp_gateway","graph_version":"v1/x"}`, "graph_version"},
		{"body size", `{}`, `{"handler":"whatsapp_gateway","max_body_size":-1}`, "max_body_size"},
		{"another handler", `{}`, `{"handler":"whatsapp_gateway","reverse_proxy":{"handler":"static_response"}}`, "static_response"},
		{"unknown option of the handler", `{}`, `{"handler":"whatsapp_gateway","webhook":{}}`, "webhook"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := configured(t, "")
			config := g.file(t, "caddy.json", fmt.Sprintf(
				`{"apps":{"whatsapp_gateway":%s,"http":{"servers":{"a":{"listen":["127.0.0.1:0"],"routes":[{"handle":[%s]}]}}}}}`, c.app, c.handler))
			var compact bytes.Buffer
			if content, err := os.ReadFile(config); err != nil || json.Compact(&compact, content) != nil {
				t.Fatal("the test's configuration is not JSON")
			}
			_, stderr, status := g.caddy(t, "validate", "--config", config)
			if want := map[bool]int{false: 1}[c.message == ""]; status != want || !strings.Contains(stderr, c.message) {
				t.Errorf("exit status %d, want %d and %q: %s", status, want, c.message, stderr)
			}
		})
	}
}

func TestTheShippedCaddyfilesAreValid(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Caddyfile.example", "Caddyfile.demo"} {
		path, err := filepath.Abs(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		g := configured(t, "")
		for _, command := range []string{"adapt", "validate"} {
			if _, stderr, status := g.caddy(t, command, "--adapter", "caddyfile", "--config", path); status != 0 {
				t.Errorf("%s %s: exit status %d: %s", command, name, status, stderr)
			}
		}
	}
}
