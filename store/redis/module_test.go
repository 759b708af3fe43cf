package redis

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	goredis "github.com/redis/go-redis/v9"

	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
)

// secret stands wherever a password could in what must not repeat it.
const secret = "hunter2"

func parseCaddyfile(text string) (*Backend, error) {
	b := new(Backend)
	return b, b.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text))
}

func TestCaddyfile(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Backend{
		`redis redis://localhost`:                            {URLs: []string{"redis://localhost"}},
		"redis redis://localhost {\n}":                       {URLs: []string{"redis://localhost"}},
		"redis {env.REDIS_URL}":                              {URLs: []string{"{env.REDIS_URL}"}},
		"redis rediss://:{env.PW}@a {\nmode single\n}":       {URLs: []string{"rediss://:{env.PW}@a"}, Mode: "single"},
		"redis redis://a redis://b:7000 {\nmode cluster\n}":  {URLs: []string{"redis://a", "redis://b:7000"}, Mode: "cluster"},
		"redis redis://a redis://b {\nmode sentinel main\n}": {URLs: []string{"redis://a", "redis://b"}, Mode: "sentinel", Master: "main"},
		"redis redis://a {\nkey_prefix prod:wagw\ntimeout 50ms\njournal /var/x\n}": {
			URLs: []string{"redis://a"}, KeyPrefix: "prod:wagw", Timeout: caddy.Duration(50 * time.Millisecond), Journal: "/var/x",
		},
	} {
		got, err := parseCaddyfile(text)
		if diff := cmp.Diff(&want, got, cmpopts.IgnoreUnexported(Backend{})); diff != "" || err != nil {
			t.Errorf("%s: error %v (-want +got):\n%s", text, err, diff)
		}
	}
}

func TestCaddyfileErrors(t *testing.T) {
	t.Parallel()
	block := func(options string) string { return "redis redis://:" + secret + "@a {\n" + options + "\n}" }
	for text, want := range map[string]string{
		"redis": "at least one URL",
		"redis redis://:" + secret + "@a redis://:" + secret + "@b": "several URLs need a mode",
		"redis {env.A} {env.B}":                   "several URLs need a mode",
		"redis {env.A} {env.B} {\nmode single\n}": "mode single takes one URL",
		"redis redis://:" + secret + "@a redis://:" + secret + "@b {\nmode single\n}":   "mode single takes one URL",
		"redis redis://:" + secret + "@a redis://:x" + secret + "@b {\nmode cluster\n}": "differs from the first",
		"redis localhost:6379":                       "neither redis:// nor rediss://",
		"redis redis://:" + secret + "#x@a":          "port|parsed|fragment",
		"redis redis://u:" + secret + "@a:x":         "cannot be parsed",
		"redis redis://" + secret + "@a":             "user and no password",
		"redis redis://:" + secret + "@a?protocol=2": "other than pool_size",
		block("speed fast"):                          "unrecognized option: speed",
		block("mode"):                                "mode has 0 arguments",
		block("mode sentinel"):                       "needs the master's name",
		block("mode cluster x"):                      "mode cluster takes nothing else",
		block("mode single x"):                       "mode single takes nothing else",
		block("mode sentinel a b"):                   "mode has 3 arguments",
		block("mode auto"):                           "not auto",
		block("mode single\nmode single"):            "mode stands twice",
		block("mode single {\nx\n}"):                 "takes no block",
		block("key_prefix"):                          "key_prefix has 0 arguments and takes 1",
		block("key_prefix a b"):                      "key_prefix has 2 arguments and takes 1",
		block("key_prefix a{b}"):                     "braces",
		block("key_prefix \"a b\""):                  "white space",
		block("key_prefix \"\""):                     "key_prefix is empty",
		block("timeout"):                             "timeout has 0 arguments",
		block("timeout 0s"):                          "must be positive",
		block("timeout -1s"):                         "must be positive",
		block("timeout soon"):                        "invalid duration",
		block("journal"):                             "journal has 0 arguments",
		block("journal \"\""):                        "journal is empty",
	} {
		_, err := parseCaddyfile(text)
		if err == nil {
			t.Errorf("%s: no error", text)
			continue
		}
		said := err.Error()
		if !containsAny(said, strings.Split(want, "|")) || !strings.Contains(said, "Testfile:") {
			t.Errorf("%s: error %q, want %q with file and line", text, said, want)
		}
		if strings.Contains(said, secret) {
			t.Errorf("the error about %q repeats the password", want)
		}
	}
}

func containsAny(s string, parts []string) bool {
	for _, part := range parts {
		if strings.Contains(s, part) {
			return true
		}
	}
	return false
}

func TestParseURLs(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		urls         []string
		mode, master string
		want         goredis.UniversalOptions
		tls          bool
	}{
		{[]string{"redis://localhost"}, "", "", goredis.UniversalOptions{Addrs: []string{"localhost:6379"}}, false},
		{[]string{"rediss://u:p%40%2F@[::1]:7000/3?pool_size=7&min_idle_conns=2"}, "single", "", goredis.UniversalOptions{
			Addrs: []string{"[::1]:7000"}, Username: "u", Password: "p@/", DB: 3, PoolSize: 7, MinIdleConns: 2,
		}, true},
		{[]string{"redis://:p@b", "redis://:p@a:1/0"}, "cluster", "", goredis.UniversalOptions{Addrs: []string{"b:6379", "a:1"}, Password: "p"}, false},
		{[]string{"redis://u:p@a:26379/1"}, "sentinel", "main", goredis.UniversalOptions{
			Addrs: []string{"a:26379"}, Username: "u", Password: "p", SentinelUsername: "u", SentinelPassword: "p", DB: 1, MasterName: "main",
		}, false},
	} {
		got, err := ParseURLs(tc.urls, tc.mode, tc.master)
		if err != nil {
			t.Errorf("%v: %v", tc.urls, err)
			continue
		}
		if (got.TLSConfig != nil) != tc.tls {
			t.Errorf("%v: TLS is %v", tc.urls, got.TLSConfig != nil)
		}
		if tc.tls && (got.TLSConfig.InsecureSkipVerify || got.TLSConfig.MinVersion == 0) {
			t.Errorf("%v: TLS that proves nothing", tc.urls)
		}
		got.TLSConfig = nil
		if diff := cmp.Diff(&tc.want, got, cmpopts.IgnoreFields(goredis.UniversalOptions{}, "Dialer", "OnConnect", "CredentialsProvider", "CredentialsProviderContext")); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tc.urls, diff)
		}
	}
}

func TestParseURLsErrors(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		urls         []string
		mode, master string
		want         string
	}{
		{nil, "single", "", "no URL"},
		{[]string{"redis://a", "redis://b"}, "", "", "need a mode"},
		{[]string{"redis://a"}, "sentinel", "", "master's name"},
		{[]string{"redis://a"}, "single", "main", "only mode sentinel"},
		{[]string{"redis://a"}, "guess", "", "mode is"},
		{[]string{"http://a"}, "", "", "neither"},
		{[]string{"unix:///tmp/" + secret}, "", "", "neither"},
		{[]string{"redis:///1"}, "", "", "no host"},
		{[]string{"redis:" + secret}, "", "", "no host"},
		{[]string{"redis://:" + secret + "%zz@a"}, "", "", "cannot be parsed"},
		{[]string{"redis://:" + secret + " x@a"}, "", "", "cannot be parsed"},
		{[]string{"redis://a:99999"}, "", "", "port"},
		{[]string{"redis://a:0"}, "", "", "port"},
		{[]string{"redis://a/" + secret}, "", "", "database"},
		{[]string{"redis://a/-1"}, "", "", "database"},
		{[]string{"redis://a/1/2"}, "", "", "database"},
		{[]string{"redis://a#" + secret}, "", "", "fragment"},
		{[]string{"redis://a/1"}, "cluster", "", "no database but 0"},
		{[]string{"redis://a/1", "redis://b"}, "sentinel", "main", "differs"},
		{[]string{"redis://a", "rediss://b"}, "cluster", "", "differs"},
		{[]string{"redis://a", "redis://:" + secret + "@b"}, "cluster", "", "differs"},
		{[]string{"redis://a?pool_size=2", "redis://b"}, "cluster", "", "differs"},
		{[]string{"redis://a?max_retries=3"}, "", "", "other than"},
		{[]string{"redis://a?read_timeout=0"}, "", "", "other than"},
		{[]string{"redis://a?skip_verify=true"}, "", "", "other than"},
		{[]string{"redis://a?" + secret + "=1"}, "", "", "other than"},
		{[]string{"redis://a?pool_size=0"}, "", "", "at least 1"},
		{[]string{"redis://a?pool_size=" + secret}, "", "", "at least 1"},
		{[]string{"redis://a?pool_size=1&pool_size=2"}, "", "", "one whole number"},
	} {
		_, err := ParseURLs(tc.urls, tc.mode, tc.master)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: error %v, want %q", tc.urls, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("the error about %q repeats what may be a password", tc.want)
		}
	}
}

// resolved is a backend from JSON, resolved.
func resolved(t *testing.T, document string) *Backend {
	t.Helper()
	b := new(Backend)
	noError(t, json.Unmarshal([]byte(document), b))
	noError(t, b.Resolve())
	return b
}

func TestPlaceholdersOfURLsAreFilledIn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	noError(t, os.WriteFile(file, []byte(secret), 0o600))
	const odd = "p@ss:/?#%40 [x]"
	t.Setenv("TEST_REDIS_PASSWORD", odd)
	t.Setenv("TEST_REDIS_URL", "redis://u:p%40@h:1/2")
	t.Setenv("TEST_REDIS_HOST", "h2")
	for url, want := range map[string][3]string{
		"{env.TEST_REDIS_URL}":                                  {"h:1", "u", "p@"},
		"redis://:{env.TEST_REDIS_PASSWORD}@h":                  {"h:6379", "", odd},
		"redis://{env.TEST_REDIS_PASSWORD}:x@h":                 {"h:6379", odd, "x"},
		"redis://u:{file." + file + "}@{env.TEST_REDIS_HOST}:2": {"h2:2", "u", secret},
	} {
		b := &Backend{URLs: []string{url}}
		noError(t, b.Resolve())
		if got := [3]string{b.connection.Addrs[0], b.connection.Username, b.connection.Password}; got != want {
			t.Errorf("%s is not resolved to %q, %q", url, want[0], want[1])
		}
		if b.URLs[0] != url {
			t.Errorf("%s: the configuration itself was changed", url)
		}
	}
	for url, want := range map[string]string{
		"redis://:{env.TEST_REDIS_NONE}@h":              "{env.TEST_REDIS_NONE}",
		"redis://:{http.request.host}" + secret + "@h":  "a brace can only belong to",
		"redis://:{" + secret + "}@h":                   "a brace can only belong to",
		"redis://:" + secret + "@{env.TEST_REDIS_NONE}": "{env.TEST_REDIS_NONE}",
	} {
		err := (&Backend{URLs: []string{url}}).Resolve()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: error %v, want one with %s and without password", strings.ReplaceAll(url, secret, "…"), err, want)
		}
	}
}

func TestResolveRefusesWhatJSONCanSay(t *testing.T) {
	t.Parallel()
	for document, want := range map[string]string{
		`{}`:                                 "no URL",
		`{"urls":["redis://a","redis://b"]}`: "need a mode",
		`{"urls":["redis://a"],"mode":"x"}`:  "mode is",
		`{"urls":["redis://a"],"key_prefix":"a b"}`:          "key_prefix",
		`{"urls":["redis://a"],"timeout":-1}`:                "timeout",
		`{"urls":["redis://a"],"journal":"{env.TEST_NONE}"}`: "journal",
	} {
		b := new(Backend)
		noError(t, json.Unmarshal([]byte(document), b))
		if err := b.Resolve(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", document, err, want)
		}
	}
}

func TestKeyTellsConnectionsApart(t *testing.T) {
	t.Parallel()
	base := resolved(t, `{"urls":["redis://u:`+secret+`@a"],"mode":"single"}`)
	for _, same := range []string{
		`{"urls":["redis://u:` + secret + `@a:6379/0"]}`,
		`{"urls":["redis://u:` + secret + `@a"],"key_prefix":"wagw","timeout":200000000}`,
	} {
		if b := resolved(t, same); b.Key() != base.Key() || b.JournalDir() != base.JournalDir() {
			t.Error("one Redis, two keys")
		}
	}
	if strings.Contains(base.Key(), secret) || !strings.Contains(base.Key(), "a:6379") {
		t.Error("the key shows the password or not the address")
	}
	seen := map[string]bool{base.Key(): true}
	for _, other := range []string{
		`{"urls":["redis://u:x@a"]}`, `{"urls":["redis://v:` + secret + `@a"]}`, `{"urls":["rediss://u:` + secret + `@a"]}`,
		`{"urls":["redis://u:` + secret + `@b"]}`, `{"urls":["redis://u:` + secret + `@a/1"]}`,
		`{"urls":["redis://u:` + secret + `@a"],"key_prefix":"x"}`, `{"urls":["redis://u:` + secret + `@a"],"timeout":1000000}`,
		`{"urls":["redis://u:` + secret + `@a"],"journal":"/x"}`, `{"urls":["redis://u:` + secret + `@a"],"mode":"cluster"}`,
		`{"urls":["redis://u:` + secret + `@a"],"mode":"sentinel","master":"m"}`, `{"urls":["redis://u:` + secret + `@a?pool_size=3"]}`,
	} {
		key := resolved(t, other).Key()
		if seen[key] {
			t.Errorf("%s has the key of another", strings.ReplaceAll(other, secret, "…"))
		}
		seen[key] = true
	}
	one := resolved(t, `{"urls":["redis://a","redis://b"],"mode":"cluster"}`)
	if turned := resolved(t, `{"urls":["redis://b","redis://a"],"mode":"cluster"}`); one.Key() != turned.Key() || one.JournalDir() != turned.JournalDir() {
		t.Error("the order of the addresses makes another store")
	}
}

func TestJournal(t *testing.T) {
	t.Parallel()
	if dir := resolved(t, `{"urls":["redis://a"],"journal":"x/y"}`).JournalDir(); !filepath.IsAbs(dir) || !strings.HasSuffix(dir, "/x/y") {
		t.Errorf("journal in %s", dir)
	}
	b := resolved(t, `{"urls":["redis://a"]}`)
	if !strings.HasPrefix(b.JournalDir(), filepath.Join(caddy.AppDataDir(), "whatsapp_gateway", "redis-")) {
		t.Errorf("journal in %s", b.JournalDir())
	}
	if filepath.Dir(b.SecretFile("demo_key")) != b.JournalDir() {
		t.Errorf("secret in %s", b.SecretFile("demo_key"))
	}
}

func TestOpeningToAdministerSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	server, protected := redistest.Start(t), redistest.Start(t)
	command(t, protected, "ACL", "SETUSER", "narrow", "on", ">"+secret, "~other:*", "+@all")
	command(t, protected, "ACL", "SETUSER", "wide", "on", ">"+secret, "~wagw:*", "&wagw:*", "+@all")
	away := redistest.Start(t)
	away.Stop()
	at := func(credentials string, s *redistest.Server) string { return "redis://" + credentials + s.Addr() }
	for _, tc := range []struct{ url, mode, want string }{
		{at("", away), "single", "cannot be used: dial tcp"},
		{at("nobody:"+secret+"@", protected), "single", "refuses the user or password"},
		{at("narrow:"+secret+"@", protected), "single", "does not let this user"},
		{at("", server), "cluster", "is no Cluster"},
	} {
		b := &Backend{URLs: []string{tc.url}, Mode: tc.mode, Timeout: caddy.Duration(2 * time.Second)}
		noError(t, b.Resolve())
		s, err := b.Open(t.Context(), false)
		if err == nil {
			s.Close()
			t.Errorf("opened in spite of %q", tc.want)
			continue
		}
		if said := err.Error(); !strings.Contains(said, tc.want) || strings.Contains(said, secret) || strings.Contains(said, "\n") {
			t.Errorf("error %q, want one sentence with %q", strings.ReplaceAll(said, secret, "…"), tc.want)
		}
		s, err = b.Open(t.Context(), true)
		if err != nil {
			t.Errorf("a gateway does not start: %v", err)
			continue
		}
		noError(t, s.Close())
	}
	for _, url := range []string{at("", server), at("wide:"+secret+"@", protected)} {
		b := &Backend{URLs: []string{url}, Timeout: caddy.Duration(2 * time.Second)}
		noError(t, b.Resolve())
		s, err := b.Open(t.Context(), false)
		noError(t, err)
		noError(t, s.Close())
	}
}
