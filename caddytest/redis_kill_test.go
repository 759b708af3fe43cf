package caddytest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"testing"

	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
)

// redisKills is how often Redis or a gateway is killed, in turn.
const redisKills = 30

// killing are gateways on one Redis under load, and a simulator that counts and
// reports what becomes of messages to all of them in turn.
type killing struct {
	t       *testing.T
	random  *rand.Rand
	server  *redistest.Server
	meta    *gateway
	gs      []*gateway
	loads   []*load // nil: none
	who     tenant
	answers map[int]int
	// known are the messages that clients have the ids of.
	known map[string]bool
}

// TestNothingIsLostOrChargedTwiceByKillsOfRedis kills Redis and gateways in turn.
// REDIS_KILL_SEED repeats when.
func TestNothingIsLostOrChargedTwiceByKillsOfRedis(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	if given := os.Getenv("REDIS_KILL_SEED"); given != "" {
		var err error
		if seed, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("REDIS_KILL_SEED=%d", seed)
	k := startKilling(t, rand.New(rand.NewPCG(seed, 0)))
	for kill := range redisKills {
		for i := range k.gs {
			k.await(i, k.random.IntN(6))
		}
		if victim := kill % (len(k.gs) + 1); victim < len(k.gs) {
			k.killGateway(victim)
		} else {
			k.killRedis()
		}
		if kill%10 == 9 {
			k.rest()
			a := k.gs[0].audit(t, k.meta, k.who)
			t.Logf("after %d kills: %d messages accepted, %d captured, %d released, %d in doubt", kill+1, a.accepted, a.captured, a.released, a.inDoubt)
			if t.Failed() {
				return
			}
			k.work()
		}
	}
	k.rest()
	k.settled()
}

// startKilling starts everything.
func startKilling(t *testing.T, random *rand.Rand) *killing {
	t.Helper()
	k := &killing{t: t, random: random, server: redistest.Start(t), answers: make(map[int]int), known: make(map[string]bool)}
	c := onFailing(k.server)
	k.meta = newGateway(t, settings{env: []string{"APP_SECRET=" + c.appSecret}})
	s := settings{common: c, proxy: "reverse_proxy " + k.meta.simulator, app: "key_cache 1h"}.withWebhooks()
	for range 3 {
		k.gs = append(k.gs, newGateway(t, s))
	}
	balancer := freeAddress(t)
	k.meta.configure(t, settings{
		simulator: fmt.Sprintf("slow_answer 150ms\nwebhook http://%s%s {env.APP_SECRET}", balancer, webhookPath),
		sites: fmt.Sprintf("http://%s {\nbind 127.0.0.1\nreverse_proxy %s %s %s {\nlb_policy round_robin\n}\n}",
			balancer, k.gs[0].site, k.gs[1].site, k.gs[2].site),
	})
	startAll(t, append([]*gateway{k.meta}, k.gs...)...)
	k.who = k.gs[0].tenant(t, plenty)
	for _, g := range k.gs { // from now on each knows the key
		g.send(t, k.who.key, g.message(accepted), "is_fake=true").wantCode(t, "")
	}
	k.loads = make([]*load, len(k.gs))
	k.work()
	return k
}

// work starts clients of every gateway that has none.
func (k *killing) work() {
	for i, g := range k.gs {
		if k.loads[i] == nil {
			k.loads[i] = g.startLoad(k.t, g.client, k.who, append(repeat(3, g.message("9109")), g.message(refused))...)
		}
	}
}

// await waits until a gateway has given so many answers more.
func (k *killing) await(i, n int) { k.loads[i].await(k.t, k.loads[i].count()+n) }

// done takes the books of a load whose clients have ended.
func (k *killing) done(i int) {
	l := k.loads[i]
	for id := range l.messages {
		k.known[id] = true
	}
	for status, n := range l.answers {
		k.answers[status] += n
	}
	k.loads[i] = nil
}

// killGateway kills a gateway in the midst of its sends, and starts it again.
func (k *killing) killGateway(i int) {
	g := k.gs[i]
	g.kill()
	k.loads[i].running.Wait()
	k.done(i)
	g.client.CloseIdleConnections()
	g.start(k.t)
	k.work()
}

// killRedis kills Redis, sometimes a gateway while it is away, and starts it again.
func (k *killing) killRedis() {
	k.server.Kill()
	for i := range k.gs {
		k.await(i, 1+k.random.IntN(4))
	}
	also := k.random.IntN(2 * len(k.gs))
	if also < len(k.gs) {
		// It has grants of nobody when it starts, and the journal of before.
		k.killGateway(also)
	}
	k.server.Start()
	for i, l := range k.loads {
		before := l.with(http.StatusOK)
		eventually(k.t, fmt.Sprintf("gateway %d to send again", i+1), func() error {
			if l.with(http.StatusOK) == before {
				return errors.New("it does not")
			}
			return nil
		})
	}
}

// rest has all clients end, and waits until nothing waits for Redis.
func (k *killing) rest() {
	k.t.Helper()
	for i, l := range k.loads {
		if l != nil {
			l.stop()
			k.done(i)
		}
	}
	for i, g := range k.gs {
		eventually(k.t, fmt.Sprintf("the journal of gateway %d to be empty", i+1), func() error {
			if n := g.metric(k.t, "journal_records"); n != 0 {
				return fmt.Errorf("%v records are left", n)
			}
			return nil
		})
	}
}

// settled waits for the last status, and checks that what Meta has accepted is captured,
// and nothing else.
func (k *killing) settled() {
	t := k.t
	t.Helper()
	k.meta.awaitReports(t, 1)
	k.rest()
	a := k.gs[1].audit(t, k.meta, k.who)
	t.Logf("answers %v; %d messages accepted, %d captured, %d released, %d that Meta has never accepted in doubt",
		k.answers, a.accepted, a.captured, a.released, a.inDoubt)
	if a.captured != a.accepted || a.unnamed != 0 {
		t.Errorf("%d were captured of %d that were accepted, %d without a message", a.captured, a.accepted, a.unnamed)
	}
	// Some of these were captured by the gateway that was killed before its client had the
	// answer, the others because of their status.
	if unanswered := a.captured - len(k.known); unanswered == 0 {
		t.Error("no kill has kept the answer to a message that was accepted from its client")
	} else {
		t.Logf("%d were captured that no client has an answer to", unanswered)
	}
	for id := range k.known {
		if !a.messages[id] {
			t.Error("a client has the id of a message that is not in the ledger")
		}
	}
	if k.answers[http.StatusOK] < redisKills || k.answers[http.StatusInternalServerError] == 0 {
		t.Errorf("the answers were %v", k.answers)
	}
}
