package gateway

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/google/go-cmp/cmp"
)

// parsed reads these lines of the global option.
func parsed(lines string) (*App, error) {
	a := new(App)
	return a, a.UnmarshalCaddyfile(caddyfile.NewTestDispenser("whatsapp_gateway {\n" + lines + "\n}"))
}

func TestCoreServiceIsConfigured(t *testing.T) {
	a, err := parsed("core https://core.example/gateway {\ntoken {env.CORE_TOKEN}\ntimeout 3s\n}\nkey_cache_stale 5m")
	if err != nil {
		t.Fatal(err)
	}
	want := &CoreService{URL: "https://core.example/gateway", Token: "{env.CORE_TOKEN}", Timeout: caddy.Duration(3 * time.Second)}
	if d := cmp.Diff(want, a.Core); d != "" || a.KeyCacheStale != caddy.Duration(5*time.Minute) {
		t.Errorf("stale for %v\n%s", a.KeyCacheStale, d)
	}
	var words map[string]json.RawMessage
	if err := json.Unmarshal(caddyconfig.JSON(a, nil), &words); err != nil {
		t.Fatal(err)
	}
	const json = `{"url":"https://core.example/gateway","token":"{env.CORE_TOKEN}","timeout":3000000000}`
	if string(words["core"]) != json || string(words["key_cache_stale"]) != "300000000000" {
		t.Errorf("%s, %s", words["core"], words["key_cache_stale"])
	}
}

func TestMistakesAboutTheCoreServiceAreFoundInTheirLine(t *testing.T) {
	for lines, want := range map[string]string{
		"core {\ntoken x\n}":                                         "core has 0 arguments and takes 1, at Testfile:2",
		"core https://a https://b {\ntoken x\n}":                     "core has 2 arguments and takes 1, at Testfile:2",
		"core https://core.example":                                  "core needs a token, at Testfile:2",
		"core https://core.example {\ntimeout 1s\n}":                 "core needs a token, at Testfile:2",
		"core https://core.example {\ntoken \"\"\n}":                 "token is empty, at Testfile:3",
		"core https://core.example {\ntoken\n}":                      "token has 0 arguments and takes 1, at Testfile:3",
		"core https://core.example {\ntoken x y\n}":                  "token has 2 arguments and takes 1, at Testfile:3",
		"core https://core.example {\ntoken x\ntoken y\n}":           "token stands twice, at Testfile:4",
		"core https://core.example {\ntoken x\ntimeout soon\n}":      "at Testfile:4",
		"core https://core.example {\ntoken x\ntimeout 0\n}":         "a duration must be positive, not 0, at Testfile:4",
		"core https://core.example {\ntoken x\nretries 3\n}":         "unrecognized option: retries, at Testfile:4",
		"core https://a {\ntoken x\n}\ncore https://b {\ntoken x\n}": "core stands twice, at Testfile:5",
		"key_cache_stale":                                            "key_cache_stale has 0 arguments and takes 1, at Testfile:2",
		"key_cache_stale never":                                      "at Testfile:2",
		"key_cache_stale -1s":                                        "a duration must be positive, not -1s, at Testfile:2",
		"store redis redis://127.0.0.1 {\nshards 3\n}":               "shards",
		"store redis": "redis",
		"store redis redis://127.0.0.1 redis://127.0.0.2":              "mode",
		"store redis redis://127.0.0.1 {\nmode single\nmode single\n}": "twice",
	} {
		if _, err := parsed(lines); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", lines, err, want)
		}
	}
}

// provisioned returns what is wrong with a configuration as a whole.
func provisioned(t *testing.T, a *App) error {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	if err := a.Provision(ctx); err != nil {
		return err
	}
	return a.Validate()
}

func TestCoreServiceIsCheckedAsAWhole(t *testing.T) {
	t.Setenv("R_CORE_TOKEN", "a-token")
	t.Setenv("R_CORE_EMPTY", "")
	keys := []EncryptionKey{{ID: "k1", Secret: encryptionKey1}}
	sqlite, redis := stored{dir: t.TempDir()}.backend(1), json.RawMessage(`{"backend":"redis","urls":["redis://127.0.0.1:1"]}`)
	core := func(url, token string) *CoreService { return &CoreService{URL: url, Token: token} }
	for name, tc := range map[string]struct {
		app  *App
		want string // empty: nothing is wrong
	}{
		"all there":          {&App{StoreRaw: sqlite, KeyPepper: "p", EncryptionKeys: keys, Core: core("https://core.example", "{env.R_CORE_TOKEN}")}, ""},
		"no token":           {&App{StoreRaw: sqlite, KeyPepper: "p", EncryptionKeys: keys, Core: core("https://core.example", "")}, "token"},
		"token unset":        {&App{StoreRaw: sqlite, KeyPepper: "p", EncryptionKeys: keys, Core: core("https://core.example", "{env.R_CORE_UNSET}")}, "R_CORE_UNSET"},
		"token empty":        {&App{StoreRaw: sqlite, KeyPepper: "p", EncryptionKeys: keys, Core: core("https://core.example", "{env.R_CORE_EMPTY}")}, "R_CORE_EMPTY"},
		"token with a brace": {&App{StoreRaw: sqlite, KeyPepper: "p", EncryptionKeys: keys, Core: core("https://core.example", "a{b}")}, "core: token"},
		"no URL":             {&App{StoreRaw: sqlite, KeyPepper: "p", EncryptionKeys: keys, Core: core("", "t")}, "URL"},
		"another scheme":     {&App{StoreRaw: sqlite, KeyPepper: "p", EncryptionKeys: keys, Core: core("ftp://core.example", "t")}, "URL"},
		"no pepper":          {&App{StoreRaw: sqlite, EncryptionKeys: keys, Core: core("https://core.example", "t")}, "key_pepper is required with core"},
		"no encryption key":  {&App{StoreRaw: sqlite, KeyPepper: "p", Core: core("https://core.example", "t")}, "encryption_key is required with core"},
		"redis":              {&App{StoreRaw: redis, KeyPepper: "p", EncryptionKeys: keys}, ""},
		"redis, no pepper":   {&App{StoreRaw: redis, EncryptionKeys: keys}, "key_pepper is required with this store"},
		"redis, no key":      {&App{StoreRaw: redis, KeyPepper: "p"}, "encryption_key is required with this store"},
		"stale":              {&App{StoreRaw: sqlite, KeyCacheStale: -1}, "key_cache_stale"},
	} {
		err := provisioned(t, tc.app)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// TestExampleShowsBlocksThatWork takes the marks of a comment off the example's
// settings, all but those for which there is another.
func TestExampleShowsBlocksThatWork(t *testing.T) {
	t.Setenv("REDIS_PASSWORD", "secret")
	t.Setenv("CORE_TOKEN", "a-token")
	t.Setenv("KEY_PEPPER", "a pepper")
	t.Setenv("ENCRYPTION_KEY", encryptionKey1)
	t.Setenv("WEBHOOK_VERIFY_TOKEN", "v")
	t.Setenv("META_APP_SECRET", "s")
	// The site needs modules that are not part of this test program.
	example, _, found := strings.Cut(readDoc(t, "Caddyfile.example"), "{$GATEWAY_ADDRESS")
	if !found {
		t.Fatal("the example has no site")
	}
	example = strings.TrimSpace(example) + "\n"
	inBlock := false
	for _, line := range strings.Split(example, "\n") {
		text, ok := strings.CutPrefix(line, "\t\t# ")
		text = strings.TrimRight(text, " ")
		begins := ok && (strings.HasPrefix(text, "store redis ") || strings.HasPrefix(text, "core ") ||
			strings.HasPrefix(text, "key_pepper ") || strings.HasPrefix(text, "encryption_key ") || strings.HasPrefix(text, "key_cache_stale "))
		if !begins && !inBlock {
			continue
		}
		example = strings.Replace(example, line, "\t\t"+text, 1)
		inBlock = strings.HasSuffix(text, "{") || inBlock && text != "}"
	}
	file := t.TempDir() + "/Caddyfile"
	must(t, os.WriteFile(file, []byte(example), 0o600))
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(example), map[string]any{"filename": file})
	if err != nil {
		t.Fatalf("%v\n%s", err, example)
	}
	if len(warnings) > 0 {
		t.Errorf("%v", warnings)
	}
	var parts struct {
		Apps map[string]json.RawMessage `json:"apps"`
	}
	must(t, json.Unmarshal(config, &parts))
	a := new(App)
	must(t, caddy.StrictUnmarshalJSON(parts.Apps[moduleName], a))
	if a.Core == nil || a.KeyCacheStale == 0 || !strings.Contains(string(a.StoreRaw), "redis") {
		t.Errorf("not all blocks were found in\n%s", example)
	}
	must(t, provisioned(t, a))
}
