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
	{option("webhook_verify_token"), "webhook_verify_token has 0 arguments and takes 1"},
	{option("webhook_verify_token a b"), "webhook_verify_token has 2 arguments and takes 1"},
	{option(`webhook_verify_token ""`), "webhook_verify_token is empty"},
	{option("webhook_verify_token a {\nb\n}"), "webhook_verify_token takes no block"},
	{option("meta_app_secret"), "meta_app_secret has 0 arguments and takes 1"},
	{option("meta_app_secret" + strings.Repeat(" x", 65)), "meta_app_secret has 65 arguments"},
	{option("rate_card"), "rate_card has 0 arguments and takes 1"},
	{option("rate_card a.csv b.csv"), "rate_card has 2 arguments and takes 1"},
	{option("delivery 5s"), "5s"},
	{option("delivery {\nproxy http://127.0.0.1\n}"), "unrecognized option: proxy"},
	{option("delivery {\ntimeout\n}"), "timeout has 0 arguments and takes 1"},
	{option("delivery {\ntimeout 0\n}"), "a duration must be positive, not 0"},
	{option("delivery {\ntimeout soon\n}"), "soon"},
	{option("delivery {\nconcurrency\n}"), "concurrency has 0 arguments and takes 1 or 2"},
	{option("delivery {\nconcurrency 0\n}"), "concurrency takes whole numbers of at least 1, not 0"},
	{option("delivery {\nconcurrency 1 2 3\n}"), "concurrency has 3 arguments and takes 1 or 2"},
	{option("delivery {\nconcurrency 256 many\n}"), "concurrency takes whole numbers of at least 1, not many"},
	{option("delivery {\nretry\n}"), "retry has 0 arguments"},
	{option("delivery {\nretry 5s -1s\n}"), "a duration must be positive, not -1s"},
	{option("delivery {\nretry 5s, 5m\n}"), "5s,"},
	{option("delivery {\nretry" + strings.Repeat(" 1s", 101) + "\n}"), "retry has 101 arguments"},
	{option("delivery {\nallow_private_targets yes\n}"), "allow_private_targets has 1 arguments and takes 0"},
	{option("core"), "core"},
	{option("core https://core.example"), "core needs a token"},
	{option("core https://core.example {\ntoken\n}"), "token"},
	{option("core https://core.example {\ntimeout 0\n}"), "a duration must be positive, not 0"},
	{option("core https://core.example {\npassword p\n}"), "unrecognized option: password"},
	{option("key_cache_stale"), "key_cache_stale"},
	{option("store redis"), "redis"},
	{option("store redis http://127.0.0.1"), "redis"},
	{option("store redis redis://127.0.0.1 redis://127.0.0.2"), "mode"},
	{option("store redis redis://127.0.0.1 {\nmode sentinel\n}"), "master"},
	{option("store redis redis://127.0.0.1 {\nmode many\n}"), "many"},
	{option("store redis redis://127.0.0.1 {\nkey_prefix a{b}\n}"), "key_prefix"},
	{option("store redis redis://127.0.0.1 {\ntimeout 0\n}"), "0"},
	{option("store redis redis://127.0.0.1 {\npassword p\n}"), "password"},
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
	inApp := func(word string) string { return "\n" + word + "\n" + word }
	inDelivery := func(word string) string { return "delivery {\n" + word + "\n" + word + "\n}" }
	for word, twice := range map[string]func(string) string{
		"key_cache 1s": inApp, "key_pepper x": inApp, "rate_limit 1 1": inApp, "base_fee 1": inApp, "in_doubt 1h capture": inApp, "store sqlite": inApp,
		"webhook_verify_token x": inApp, "meta_app_secret x": inApp, "rate_card x": inApp, "delivery": inApp,
		"timeout 1s": inDelivery, "concurrency 1": inDelivery, "retry 1s": inDelivery, "allow_private_targets": inDelivery,
	} {
		file := g.file(t, "Caddyfile", "{\n\twhatsapp_gateway {\n"+twice(word)+"\n\t}\n}\n")
		_, stderr, status := g.caddy(t, "adapt", "--adapter", "caddyfile", "--config", file)
		if status != 1 || !strings.Contains(stderr, "twice") || !strings.Contains(stderr, file+":5") {
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
		{"unset verify token", settings{app: "webhook_verify_token {env.NOT_SET_TOKEN}"}, []string{"webhook_verify_token", "env.NOT_SET_TOKEN"}},
		{"empty verify token", settings{app: "webhook_verify_token {env.EMPTY}", env: []string{"EMPTY="}}, []string{"webhook_verify_token", "env.EMPTY"}},
		{"verify token with a brace", settings{app: "webhook_verify_token a{b}"}, []string{"webhook_verify_token", "brace"}},
		{"unset app secret", settings{app: "meta_app_secret {env.NOT_SET_SECRET}"}, []string{"meta_app_secret", "env.NOT_SET_SECRET"}},
		{"unset second app secret", settings{app: "meta_app_secret {env.APP_SECRET} {env.NOT_SET_SECRET}"}, []string{"meta_app_secret", "env.NOT_SET_SECRET"}},
		{"empty app secret", settings{app: `meta_app_secret ""`}, []string{"meta_app_secret is empty"}},
		{"empty second app secret", settings{app: `meta_app_secret {env.APP_SECRET} {env.EMPTY}`, env: []string{"EMPTY="}}, []string{"meta_app_secret", "env.EMPTY"}},
		{"app secret from a missing file", settings{app: "meta_app_secret {file./does/not/exist}"}, []string{"meta_app_secret", "/does/not/exist"}},
		{"missing rate card", settings{app: "rate_card /does/not/exist.csv"}, []string{"rate_card", "/does/not/exist.csv"}},
		{"unset rate card", settings{app: "rate_card {env.NOT_SET_CARD}"}, []string{"rate_card", "env.NOT_SET_CARD"}},
		{"rate card that is a directory", settings{app: "rate_card /tmp"}, []string{"rate_card", "/tmp"}},
		{"delivery that takes too long", settings{app: "delivery {\ntimeout 1h\n}"}, []string{"delivery", "5m0s"}},
		{"retry after a year", settings{app: "delivery {\nretry 5s 365d\n}"}, []string{"delivery", "720h0m0s"}},
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
		{"unknown option of delivery", `{"delivery":{"proxy":"x"}}`, `{"handler":"whatsapp_gateway"}`, "proxy"},
		{"negative timeout", `{"delivery":{"timeout":-1}}`, `{"handler":"whatsapp_gateway"}`, "delivery"},
		{"negative concurrency", `{"delivery":{"concurrency":-1}}`, `{"handler":"whatsapp_gateway"}`, "delivery"},
		{"retry at once", `{"delivery":{"retry":[0]}}`, `{"handler":"whatsapp_gateway"}`, "delivery"},
		{"empty app secret", `{"meta_app_secret":[""]}`, `{"handler":"whatsapp_gateway"}`, "meta_app_secret"},
		{"one app secret", `{"meta_app_secret":"x"}`, `{"handler":"whatsapp_gateway"}`, "meta_app_secret"},
		{"whole delivery", `{"webhook_verify_token":"x","meta_app_secret":["x","y"],"delivery":{"timeout":"1s","concurrency":1,` +
			`"concurrency_per_endpoint":1,"retry":["1s",1000000000],"allow_private_targets":true}}`, `{"handler":"whatsapp_gateway"}`, ""},
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

// badCards are rate cards that are refused with this message, which follows the
// name of the file.
var badCards = []struct{ name, card, message string }{
	{"empty", "", "empty"},
	{"no header", "Germany,49,marketing,0.1,USD,2024-01-01\n", "line 1"},
	{"header alone", "market,calling_codes,category,price,currency,effective_from\n", "no line"},
	{"price", "PRICES\nGermany,49,marketing,free,USD,2024-01-01\n", `line 3: price "free"`},
	{"negative price", "PRICES\nGermany,49,marketing,-1,USD,2024-01-01\n", `line 3: price "-1"`},
	{"price below a millionth", "PRICES\nGermany,49,marketing,0.0000001,USD,2024-01-01\n", `line 3: price "0.0000001"`},
	{"calling code", "PRICES\nGermany,+49,marketing,0.1,USD,2024-01-01\n", `line 3: calling_codes "+49"`},
	{"no calling code", "PRICES\nGermany,,marketing,0.1,USD,2024-01-01\n", "line 3"},
	{"calling code twice", "PRICES\nGermany,49,marketing,0.1,USD,2024-01-01\nFrance,33 49,marketing,0.1,USD,2024-01-01\n", "line 4"},
	{"currency", "PRICES\nGermany,49,marketing,0.1,dollars,2024-01-01\n", `line 3: currency "dollars"`},
	{"date", "PRICES\nGermany,49,marketing,0.1,USD,2024-02-30\n", `line 3: effective_from "2024-02-30"`},
	{"no market", "PRICES\n,49,marketing,0.1,USD,2024-01-01\n", "line 3"},
	{"no category", "PRICES\nGermany,49,,0.1,USD,2024-01-01\n", "line 3"},
	{"a field less", "PRICES\nGermany,49,marketing,0.1,USD\n", "line 3"},
	{"a line twice", "PRICES\nGermany,49,marketing,0.1,USD,2024-01-01\n# a comment\nGermany,49,marketing,0.2,USD,2024-01-01\n", "line 5"},
	{"a quote that does not end", "PRICES\n\"Germany,49,marketing,0.1,USD,2024-01-01\n", "line 3"},
}

func TestMistakesInARateCardAreNamedWithFileAndLine(t *testing.T) {
	t.Parallel()
	g := newGateway(t, settings{})
	for _, c := range badCards {
		t.Run(c.name, func(t *testing.T) {
			file := g.file(t, "rates.csv", strings.Replace(c.card, "PRICES", "# 1\nmarket,calling_codes,category,price,currency,effective_from", 1))
			g.configure(t, settings{app: "rate_card " + file})
			_, stderr, status := g.caddy(t, "validate", "--config", g.config)
			stderr = strings.ReplaceAll(stderr, `\"`, `"`) // it is in a line of JSON
			if status != 1 || !strings.Contains(stderr, "rate_card: "+file+": ") || !strings.Contains(stderr, c.message) {
				t.Errorf("exit status %d, want %q: %s", status, c.message, stderr)
			}
		})
	}
}

func TestTheShippedCaddyfilesAreValid(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Caddyfile.example", "Caddyfile.demo"} {
		for _, targets := range []string{"", "allow_private_targets"} {
			path, err := filepath.Abs(filepath.Join("..", name))
			if err != nil {
				t.Fatal(err)
			}
			g := newGateway(t, settings{env: []string{"WEBHOOK_VERIFY_TOKEN=x", "META_APP_SECRET=x", "DELIVERY_TARGETS=" + targets}})
			for _, command := range []string{"adapt", "validate"} {
				if _, stderr, status := g.caddy(t, command, "--adapter", "caddyfile", "--config", path); status != 0 {
					t.Errorf("%s %s: exit status %d: %s", command, name, status, stderr)
				}
			}
		}
	}
}

// Nobody gets a gateway by mistake that takes no events, or anybody's.
func TestTheExampleNeedsTheSecretsThatItNames(t *testing.T) {
	t.Parallel()
	path, err := filepath.Abs(filepath.Join("..", "Caddyfile.example"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		env  []string
		name string
	}{
		{nil, "env.WEBHOOK_VERIFY_TOKEN"},
		{[]string{"META_APP_SECRET=x"}, "env.WEBHOOK_VERIFY_TOKEN"},
		{[]string{"META_APP_SECRET=x", "WEBHOOK_VERIFY_TOKEN="}, "env.WEBHOOK_VERIFY_TOKEN"},
		{[]string{"WEBHOOK_VERIFY_TOKEN=x"}, "env.META_APP_SECRET"},
		{[]string{"WEBHOOK_VERIFY_TOKEN=x", "META_APP_SECRET="}, "env.META_APP_SECRET"},
	} {
		g := newGateway(t, settings{env: c.env})
		_, stderr, status := g.caddy(t, "validate", "--adapter", "caddyfile", "--config", path)
		if status != 1 || !strings.Contains(stderr, c.name) {
			t.Errorf("%q: exit status %d, want %s: %s", c.env, status, c.name, stderr)
		}
	}
}
