package caddytest

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// soon is how long a change at the command line may take to show; it is long,
// for a busy machine, and what it took is logged.
const soon = 10 * time.Second

func TestARevokedKeyIsRefusedWithinASecond(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{app: "key_cache 1h 1h"})
	who := g.tenant(t, profile{})
	id, key := g.newKey(t, who.app)
	g.send(t, key, g.message(accepted), "is_fake=true").wantCode(t, "")
	g.run(t, "key", "revoke", id)
	began := time.Now()
	a := g.sendUntil(t, http.StatusUnauthorized, key, g.message(accepted), "is_fake=true")
	took := time.Since(began)
	t.Logf("refused %v after the command", took)
	a.wantCode(t, "AUTH_001")
	if took > soon {
		t.Errorf("that took %v", took)
	}
	// Only that one, and for good.
	g.send(t, who.key, g.message(accepted)).wantCode(t, "")
	g.run(t, "key", "revoke", id)
	g.restart(t)
	g.send(t, key, g.message(accepted)).wantCode(t, "AUTH_001")
}

func TestAKeyThatWasUnknownWorksOnceItIsMade(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{app: "key_cache 1h 1h"})
	who := g.tenant(t, profile{})
	imported := "legacy-" + rand.Text() + "!#$%&'()*+,-./:;<=>?@[]^_`{|}~"
	g.hide("imported key", imported)
	g.send(t, imported, g.message(accepted)).wantCode(t, "AUTH_001")
	id, shown := g.newKey(t, who.app, "--key-file", g.file(t, "key", imported+"\n"))
	if shown != "" {
		t.Error("an imported key is shown")
	}
	g.sendUntil(t, http.StatusOK, imported, g.message(accepted), "is_fake=true")
	_, stderr, status := g.tryRun(t, "key", "create", "--app", who.app, "--key-file", g.file(t, "key", imported))
	if status != 1 || strings.Count(strings.TrimSpace(stderr), "\n") != 0 {
		t.Errorf("importing it again: exit status %d: %s", status, stderr)
	}
	g.run(t, "key", "revoke", id)
	g.sendUntil(t, http.StatusUnauthorized, imported, g.message(accepted), "is_fake=true")
}

func TestAnExpiredKeyIsRefusedThoughItIsRemembered(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{app: "key_cache 1h 1h\nrate_limit 100000 1000000"})
	who := g.tenant(t, profile{})
	_, long := g.newKey(t, who.app, "--expires", "1h")
	_, short := g.newKey(t, who.app, "--expires", "10s")
	g.send(t, short, g.message(accepted), "is_fake=true").wantCode(t, "")
	g.send(t, long, g.message(accepted), "is_fake=true").wantCode(t, "")
	g.sendUntil(t, http.StatusUnauthorized, short, g.message(accepted), "is_fake=true").want(t, http.StatusUnauthorized, auth001)
	g.send(t, long, g.message(accepted)).wantCode(t, "")
}

// With the default times, too: the first request after the command must see it.
func TestWhatTheCommandLineChangesIsSeenByTheNextRequest(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{app: "key_cache 1h 1h"})
	who := g.tenant(t, profile{credit: "0", noCredentials: true})
	g.send(t, who.key, g.message(accepted)).wantCode(t, "BILL_001")

	g.run(t, "account", "credit", who.account, "0.002")
	g.send(t, who.key, g.message(accepted)).wantCode(t, "WABA_001")

	token := "EAAtest" + rand.Text()
	g.hide("access token", token)
	g.run(t, "app", "set", who.app, "--phone-number-id", "15550000", "--access-token-file", g.file(t, "token", token))
	g.next(t, who.key, "")
	g.send(t, who.key, g.message(accepted)).wantCode(t, "")
	g.send(t, who.key, g.message(accepted)).wantCode(t, "")
	g.send(t, who.key, g.message(accepted)).wantCode(t, "BILL_001")

	g.run(t, "account", "credit", who.account, "1", "--id", "invoice-1")
	g.run(t, "account", "credit", who.account, "1", "--id", "invoice-1")
	g.send(t, who.key, g.message(accepted)).wantCode(t, "")
	g.wantBalance(t, who.account, balance{available: 1_000_000 - fee, captured: 3 * fee})

	g.run(t, "app", "set", who.app, "--account", "none")
	g.next(t, who.key, "BILL_002")
	g.run(t, "app", "set", who.app, "--account", who.account, "--per-minute", "1")
	g.next(t, who.key, "RATE_001")
}

// next waits until a fake send is answered with this code. The directory, unlike
// the wallet, is polled.
func (g *gateway) next(t testing.TB, key, code string) {
	t.Helper()
	began := time.Now()
	eventually(t, "code "+code, func() error {
		if got := g.send(t, key, g.message(accepted), "is_fake=true").Errors.Code; got != code {
			return fmt.Errorf("code %s", got)
		}
		return nil
	})
	if took := time.Since(began); took > soon {
		t.Errorf("that took %v", took)
	}
}

// newSecret is a secret as an operator makes it: 32 random bytes in base64.
func newSecret(s *secrets, kind string) string {
	var b [32]byte
	rand.Read(b[:])
	secret := base64.StdEncoding.EncodeToString(b[:])
	s.hide(kind, secret)
	return secret
}

func TestAnotherPepperIsRefused(t *testing.T) {
	t.Parallel()
	g := newGateway(t, settings{app: "key_pepper {env.PEPPER}"})
	first := "PEPPER=" + newSecret(g.secrets, "pepper")
	g.settings.env = []string{first}
	g.start(t)
	who := g.tenant(t, profile{})
	g.send(t, who.key, g.message(accepted)).wantCode(t, "")
	g.stop()

	g.settings.env = []string{"PEPPER=" + newSecret(g.secrets, "pepper")}
	if out := g.startFails(t); !strings.Contains(out, "the key pepper is not the one that the store's keys were made with") {
		t.Errorf("the error does not say what is wrong: %s", g.masked(out))
	}
	if _, stderr, status := g.tryRun(t, "key", "create", "--app", who.app); status != 1 || !strings.Contains(stderr, "pepper") {
		t.Errorf("creating a key: exit status %d: %s", status, stderr)
	}

	g.settings.env = []string{first}
	g.start(t)
	g.send(t, who.key, g.message(accepted)).wantCode(t, "")
}

func TestEncryptionKeysRotate(t *testing.T) {
	t.Parallel()
	g := newGateway(t, settings{app: "encryption_key old {env.OLD}"})
	old, fresh := "OLD="+newSecret(g.secrets, "encryption key"), "NEW="+newSecret(g.secrets, "encryption key")
	g.settings.env = []string{old, fresh}
	g.start(t)
	who := g.tenant(t, profile{})
	g.send(t, who.key, g.message(accepted)).wantCode(t, "")

	// Under another key of the same name, or under one that is not there, it
	// does not open.
	for _, lines := range []string{"encryption_key old {env.NEW}", "encryption_key new {env.NEW}"} {
		g.reload(t, settings{app: lines})
		g.send(t, who.key, g.message(accepted)).want(t, http.StatusInternalServerError, sec001)
	}
	both := settings{app: "encryption_key new {env.NEW}\nencryption_key old {env.OLD}", env: g.settings.env}
	g.reload(t, both)
	g.send(t, who.key, g.message(accepted)).wantCode(t, "")
	if err := os.WriteFile(g.config, []byte(g.caddyfile(both)), 0o600); err != nil {
		t.Fatal(err)
	}
	g.run(t, "token", "rotate")
	g.reload(t, settings{app: "encryption_key new {env.NEW}"})
	g.send(t, who.key, g.message(accepted)).wantCode(t, "")
	g.reload(t, settings{app: "encryption_key old {env.OLD}"})
	g.send(t, who.key, g.message(accepted)).want(t, http.StatusInternalServerError, sec001)

	// A token belongs to its app: copied to another one it does not open.
	g.reload(t, both)
	thief := g.tenant(t, profile{})
	g.exec(t, "UPDATE apps SET access_token = (SELECT access_token FROM apps WHERE id = ?) WHERE id = ?", who.app, thief.app)
	g.send(t, thief.key, g.message(accepted)).want(t, http.StatusInternalServerError, sec001)
}

func TestASecondGatewayOnTheSameDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	who := g.tenant(t, profile{})
	second := newGateway(t, settings{app: "store sqlite " + g.database})
	if out := second.startFails(t); !strings.Contains(out, "another gateway is running on this database") {
		t.Errorf("the error does not say what is wrong: %s", out)
	}
	g.send(t, who.key, g.message(accepted)).wantCode(t, "")
	g.kill()
	second.start(t)
	second.hide("API key", who.key)
	second.send(t, who.key, second.message(accepted)).wantCode(t, "")
}

// The files that hold secrets or tenants are nobody's but the gateway's.
func TestFilesAreReadableByTheirOwnerAlone(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	who := g.tenant(t, profile{})
	g.send(t, who.key, g.message(accepted)).wantCode(t, "")
	for _, file := range []string{"", "-wal", "-shm", ".lock", ".key_pepper", ".encryption_key"} {
		info, err := os.Stat(g.database + file)
		if errors.Is(err, os.ErrNotExist) && file == "-shm" {
			continue // a matter of how SQLite shares memory
		}
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode&0o077 != 0 {
			t.Errorf("gateway.db%s has mode %v", file, mode)
		}
		content, err := os.ReadFile(g.database + file)
		if err != nil {
			t.Fatal(err)
		}
		for kind, secret := range map[string]string{"key": who.key, "token": who.token} {
			if strings.Contains(string(content), secret) {
				t.Errorf("the %s is in gateway.db%s in the clear", kind, file)
			}
		}
	}
}
