package caddytest

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/core/coretest"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
)

// redisTimeout is that of gateways whose Redis fails: long enough for a busy machine.
const redisTimeout = 500 * time.Millisecond

// onFailing is a Redis in common that gateways do not wait long for.
func onFailing(server *redistest.Server) *common {
	c := onRedis(server)
	c.redis = []string{"timeout " + redisTimeout.String()}
	return c
}

// tellNobody is a line of Redis's configuration: nobody may subscribe. Its gateways forget no
// key because of what they are told, which may come late.
const tellNobody = "user default on nopass ~* resetchannels +@all"

// redisFault is a way in which Redis fails a gateway that runs.
type redisFault struct {
	name string
	// begin makes it fail, and end makes it well again, for an account.
	begin, end func(t *testing.T, server *redistest.Server, account string)
	// share: the gateway judges the rate by its own share meanwhile.
	share bool
}

// commands are sent to the server in this order.
func commands(all ...string) func(*testing.T, *redistest.Server, string) {
	return func(t *testing.T, server *redistest.Server, _ string) {
		for _, line := range all {
			var args []any
			for word := range strings.FieldsSeq(line) {
				args = append(args, word)
			}
			if _, err := server.Command(args...); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// walletOf is the key of an account's wallet.
func walletOf(t *testing.T, server *redistest.Server, account string) string {
	t.Helper()
	answer, err := server.Command("KEYS", "*wallet:"+account)
	keys, _ := answer.([]any)
	if err != nil || len(keys) != 1 {
		t.Fatalf("%v wallets, %v", len(keys), err)
	}
	return fmt.Sprint(keys[0])
}

var redisFaults = []redisFault{
	{
		"killed",
		func(_ *testing.T, server *redistest.Server, _ string) { server.Kill() },
		func(_ *testing.T, server *redistest.Server, _ string) { server.Start() },
		true,
	},
	{
		"frozen",
		func(_ *testing.T, server *redistest.Server, _ string) { server.Freeze() },
		func(_ *testing.T, server *redistest.Server, _ string) { server.Thaw() },
		true,
	},
	{"read-only replica", commands("REPLICAOF 127.0.0.1 1"), commands("REPLICAOF NO ONE"), true},
	{"no permission", commands("ACL SETUSER default -evalsha -eval"), commands("ACL SETUSER default +evalsha +eval"), true},
	{"full memory", commands("CONFIG SET maxmemory 1"), commands("CONFIG SET maxmemory 0"), false},
	{
		"wallet of another type",
		func(t *testing.T, server *redistest.Server, account string) {
			wallet := walletOf(t, server, account)
			commands("RENAME "+wallet+" aside", "SET "+wallet+" spoilt")(t, server, account)
		},
		func(t *testing.T, server *redistest.Server, account string) {
			wallet := walletOf(t, server, account)
			commands("DEL "+wallet, "RENAME aside "+wallet)(t, server, account)
		},
		false,
	},
}

// TestWhatIsAnsweredWhileRedisFails has two messages at Meta when Redis begins to fail,
// one of which is accepted and one refused, and sends more meanwhile.
func TestWhatIsAnsweredWhileRedisFails(t *testing.T) {
	t.Parallel()
	const refusal = `{"error":{"message":"no","type":"OAuthException","code":100}}`
	for _, f := range redisFaults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, tellNobody)
			meta := startArrivals(t)
			s := settings{common: onFailing(server), proxy: "reverse_proxy " + meta.address, app: "key_cache 1h"}
			g := startGateway(t, s)
			who := g.tenant(t, profile{perMinute: 1000})
			var waits []func() (answer, error)
			for _, answer := range []script{withJSON("200 OK", acceptance), withJSON("400 Bad Request", refusal)} {
				meta.hold(t, who, answer)
				waits = append(waits, g.asynchronously(t, who.key, g.message(accepted)))
				<-meta.arrived
			}

			f.begin(t, server, who.account)
			var longest time.Duration
			for range 3 {
				began := time.Now()
				a := g.send(t, who.key, g.message(accepted))
				longest = max(longest, time.Since(began))
				a.want(t, http.StatusInternalServerError, bill003)
				if a.header.Get("X-RateLimit-min-Limit") != "1000" || a.remaining(t) >= 1000 || a.header.Get("X-RateLimit-sec-Remaining") == "" {
					t.Errorf("the quotas are %v", a.header)
				}
			}
			if n := g.metric(t, "admissions_by_share_total"); f.share != (n == 3) || !f.share && n != 0 {
				t.Errorf("%v admissions were judged by the gateway's share", n)
			}
			for i, wait := range waits {
				<-meta.answer
				a, err := wait()
				if err != nil || a.status != []int{http.StatusOK, http.StatusBadGateway}[i] {
					t.Errorf("what was at Meta is answered %d with %s, %v", a.status, a.Errors.Code, err)
				}
			}
			t.Logf("BILL_003 after %v at most", longest.Round(time.Millisecond))
			if longest > 10*redisTimeout {
				t.Errorf("an answer took %v", longest)
			}
			if n := len(meta.received(who)); n != len(waits) {
				t.Errorf("%d messages have reached Meta, want %d", n, len(waits))
			}

			f.end(t, server, who.account)
			g.awaitSettled(t, who, 1)
			meta.play(who, withJSON("200 OK", acceptance))
			eventually(t, "sends to go on", func() error {
				if a := g.send(t, who.key, g.message(accepted)); a.status != http.StatusOK {
					return fmt.Errorf("code %s", a.Errors.Code)
				}
				return nil
			})
			g.awaitSettled(t, who, 2)
			g.wantBalance(t, who.account, balance{available: 1_000_000 - 2*fee, captured: 2 * fee})
		})
	}
}

// awaitSettled waits until so many sends have been captured and none is open, and checks the
// sums of the ledger.
func (g *gateway) awaitSettled(t *testing.T, who tenant, want int) {
	t.Helper()
	eventually(t, "all sends to be settled", func() error {
		if _, stderr, status := g.tryRun(t, "account", "show", who.account); status != 0 {
			return errors.New(g.masked(stderr))
		}
		if open := len(g.openHolds(t, who.account)); open > 0 {
			return fmt.Errorf("%d holds are open", open)
		}
		fates, _ := readLedger(t, g.ledger(t, who.account))
		captures := 0
		for _, fate := range fates {
			if fate == captured {
				captures++
			}
		}
		if captures != want {
			return fmt.Errorf("%d were captured", captures)
		}
		return nil
	})
	g.checkSums(t, who.account, g.ledger(t, who.account), nil)
}

// What Meta has accepted is charged once, whoever dies before Redis is back.
func TestAnAcceptedSendIsChargedWhenRedisReturns(t *testing.T) {
	t.Parallel()
	for name, meanwhile := range map[string]func(*testing.T, *gateway, *redistest.Server){
		"the gateway runs on": func(_ *testing.T, _ *gateway, server *redistest.Server) { server.Start() },
		"the gateway is killed first": func(t *testing.T, g *gateway, server *redistest.Server) {
			g.kill()
			server.Start()
			g.start(t)
		},
		"the gateway is killed and started without redis": func(t *testing.T, g *gateway, server *redistest.Server) {
			g.kill()
			g.client.CloseIdleConnections()
			g.start(t)
			server.Start()
		},
		"the gateway is stopped first": func(t *testing.T, g *gateway, server *redistest.Server) {
			g.stop()
			server.Start()
			g.start(t)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			meta := startArrivals(t)
			s := settings{common: onFailing(server), proxy: "reverse_proxy " + meta.address}
			g := startGateway(t, s)
			who := g.tenant(t, profile{})
			meta.hold(t, who, withJSON("200 OK", acceptance))
			wait := g.asynchronously(t, who.key, g.message(accepted))
			<-meta.arrived
			server.Kill()
			<-meta.answer
			if a, err := wait(); err != nil || a.messageID() != "wamid.accepted" {
				t.Errorf("status %d, %v", a.status, err)
			}
			meanwhile(t, g, server)
			g.client.CloseIdleConnections()
			g.awaitSettled(t, who, 1)
			g.wantBalance(t, who.account, balance{available: 1_000_000 - fee, captured: fee})
		})
	}
}

// A gateway that finds no Redis serves, and works as soon as there is one.
func TestAGatewayStartsWithoutRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := onFailing(server)
	first := startGateway(t, settings{common: c}.withWebhooks())
	endpoint := startReceiver(t)
	who := first.tenant(t, profile{endpoint: endpoint})
	first.stop()
	server.Kill()

	g := startGateway(t, settings{common: c}.withWebhooks())
	began := time.Now()
	g.send(t, who.key, g.message(accepted)).want(t, http.StatusInternalServerError, auth004)
	t.Logf("AUTH_004 after %v", time.Since(began).Round(time.Millisecond))
	g.report(t, notification(who.waba, g.userMessage(who)))
	if n := g.metric(t, "journal_records"); n != 1 {
		t.Errorf("%v records are in the journal, want the webhook", n)
	}
	if n := g.tally(t).sends(who); n != 0 {
		t.Errorf("%d sends have reached Meta", n)
	}

	server.Start()
	eventually(t, "sends to go on", func() error {
		if a := g.send(t, who.key, g.message(accepted)); a.status != http.StatusOK {
			return fmt.Errorf("code %s", a.Errors.Code)
		}
		return nil
	})
	endpoint.one(t)
	g.awaitSettled(t, who, 1)
	if n := g.tally(t).sends(who); n != 1 {
		t.Errorf("%d sends have reached Meta, want 1", n)
	}
}

// Whether an account is there to pay needs no store to be known.
func TestAnAppWithoutAccountIsToldSoWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, tellNobody)
	g := startGateway(t, settings{common: onFailing(server), app: "key_cache 1h"})
	who := g.tenant(t, profile{noAccount: true, perMinute: 2})
	g.send(t, who.key, g.message(accepted)).want(t, http.StatusBadRequest, bill002)
	server.Kill()
	for range 2 {
		a := g.send(t, who.key, g.message(accepted))
		a.want(t, http.StatusBadRequest, bill002)
		if a.header.Get("X-RateLimit-min-Limit") != "2" {
			t.Errorf("the quotas are %v", a.header)
		}
	}
	g.client.CloseIdleConnections()
}

func TestTheCoreServiceStandsInForRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := onFailing(server)
	c.startCore(t)
	known, later := c.coreTenant(t, profile{}), c.coreTenant(t, profile{})
	g := startGateway(t, settings{common: c, app: "key_cache 1s 1s"})
	g.send(t, known.key, g.message(accepted)).wantCode(t, "")
	server.Kill()

	for _, who := range []tenant{known, later} {
		began := time.Now()
		a := g.send(t, who.key, g.message(accepted))
		a.want(t, http.StatusInternalServerError, bill003)
		if a.remaining(t) <= 0 {
			t.Errorf("the quotas are %v", a.header)
		}
		t.Logf("BILL_003 after %v", time.Since(began).Round(time.Millisecond))
	}
	c.core.Set(coretest.Down)
	unknown := c.coreTenant(t, profile{})
	g.send(t, unknown.key, g.message(accepted)).want(t, http.StatusInternalServerError, auth004)
	eventually(t, "what is known of the key to be too old", func() error {
		if a := g.send(t, known.key, g.message(accepted)); a.body != auth004 {
			return fmt.Errorf("code %s", a.Errors.Code)
		}
		return nil
	})
	c.core.Set(coretest.HTML)
	g.send(t, unknown.key, g.message(accepted)).want(t, http.StatusInternalServerError, auth005)

	c.core.Heal()
	server.Start()
	for _, who := range []tenant{known, later, unknown} {
		eventually(t, "sends to go on", func() error {
			if a := g.send(t, who.key, g.message(accepted)); a.status != http.StatusOK {
				return fmt.Errorf("code %s", a.Errors.Code)
			}
			return nil
		})
	}
	g.awaitSettled(t, known, 2)
	g.awaitSettled(t, later, 1)
	if n := g.tally(t).sends(known); n != 2 {
		t.Errorf("%d sends have reached Meta, want 2", n)
	}
}

func TestForgottenScriptsAreNotNoticed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	g := startGateway(t, settings{common: onRedis(server)}.withWebhooks())
	endpoint := startReceiver(t)
	who := g.tenant(t, profile{endpoint: endpoint})
	for i := range 3 {
		server.FlushScripts()
		g.send(t, who.key, g.message(accepted)).wantCode(t, "")
		server.FlushScripts()
		g.report(t, notification(who.waba, g.userMessage(who)))
		endpoint.await(t, i+1)
	}
	g.awaitSettled(t, who, 3)
	g.awaitDelivered(t)
}
