package caddytest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/connexease/caddy-whatsapp-gateway/store/redis"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
)

// common is what gateways have to have in common to serve the same tenants. It is a
// member of [settings]; make one with newCommon, onRedis, onCluster or onSentinel.
type common struct {
	// urls, mode and master say where Redis is. Without URLs there is none, and
	// each gateway has a database of its own.
	urls         []string
	mode, master string
	// redis are lines for the block of the store. The default is a timeout that
	// a busy machine does not reach.
	redis []string
	// core is the Core Service, or nil.
	core *coreService

	// pepper and encryptionKey are the gateways' own secrets.
	pepper, encryptionKey string
	// verifyToken and appSecret are Meta's part.
	verifyToken, appSecret string
	// secrets are those of all that is in common: none of them may be in the log of
	// any of the gateways.
	secrets *secrets
}

// newCommon is what gateways have in common that share no store.
func newCommon() *common {
	c := &common{secrets: new(secrets), redis: []string{"timeout 10s"}}
	c.pepper, c.encryptionKey = newSecret(c.secrets, "pepper"), newSecret(c.secrets, "encryption key")
	c.verifyToken, c.appSecret = "verify-"+rand.Text(), "secret-"+rand.Text()
	return c
}

// onRedis is one server in common.
func onRedis(server *redistest.Server) *common {
	return newCommon().at("single", "", server.URL())
}

// onCluster is a Cluster in common.
func onCluster(cluster *redistest.Cluster) *common {
	return newCommon().at("cluster", "", cluster.URLs()...)
}

// onSentinel is a master in common that Sentinels watch over.
func onSentinel(sentinel *redistest.Sentinel) *common {
	return newCommon().at("sentinel", sentinel.Name, sentinel.URLs()...)
}

func (c *common) at(mode, master string, urls ...string) *common {
	c.urls, c.mode, c.master = urls, mode, master
	return c
}

// caddyfile are the lines for the global option whatsapp_gateway.
func (c *common) caddyfile() string {
	lines := []string{"key_pepper {env.PEPPER}", "encryption_key shared {env.ENCRYPTION_KEY}"}
	if len(c.urls) > 0 {
		lines = append(lines, "store redis "+strings.Join(c.urls, " ")+" {", "mode "+c.mode+" "+c.master)
		lines = append(append(lines, c.redis...), "}")
	}
	if c.core != nil {
		lines = append(lines, "core "+c.core.url+" {", "token {env.CORE_TOKEN}")
		lines = append(append(lines, c.core.lines...), "}")
	}
	return strings.Join(lines, "\n")
}

// environment is for the processes of a gateway.
func (c *common) environment() []string {
	env := []string{"PEPPER=" + c.pepper, "ENCRYPTION_KEY=" + c.encryptionKey}
	if c.core != nil {
		env = append(env, "CORE_TOKEN="+c.core.token)
	}
	return env
}

// client is a client of the Redis in common.
func (c *common) client(t testing.TB) goredis.UniversalClient {
	t.Helper()
	options, err := redis.ParseURLs(c.urls, c.mode, c.master)
	if err != nil {
		t.Fatal(err)
	}
	options.IsClusterMode = c.mode == "cluster"
	client := goredis.NewUniversalClient(options)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// openHolds returns the holds of an account that have no outcome, as Redis has them.
func (c *common) openHolds(t testing.TB, account string) map[string]bool {
	t.Helper()
	const places = 32
	client := c.client(t)
	open := make(map[string]bool)
	for place := range places {
		base := fmt.Sprintf("%s:{%02d}:", redis.DefaultKeyPrefix, place)
		holds, err := client.HGetAll(t.Context(), base+"open").Result()
		if err != nil {
			t.Fatal(err)
		}
		for id, made := range holds { // the time, in seven bytes, and the account behind its length
			if text := strings.TrimPrefix(made[min(7, len(made)):], string(binary.BigEndian.AppendUint32(nil, uint32(len(account))))); id != "" && strings.HasPrefix(text, account) {
				open[strings.TrimPrefix(id, "hold_")] = true
			}
		}
	}
	return open
}

// startGateways starts n gateways with the same settings, which should have
// something in common. Each has a directory, addresses and logs of its own. All
// send to the simulator of the first, unless the settings say otherwise.
func startGateways(t testing.TB, n int, s settings) []*gateway {
	t.Helper()
	gs := make([]*gateway, n)
	for i := range gs {
		if i > 0 && s.proxy == "" {
			s.proxy = "reverse_proxy " + gs[0].simulator
		}
		gs[i] = newGateway(t, s)
	}
	startAll(t, gs...)
	return gs
}

// startAll starts the processes of gateways and returns when all serve.
func startAll(t testing.TB, gs ...*gateway) {
	t.Helper()
	errs := make([]error, len(gs))
	var starting sync.WaitGroup
	for i, g := range gs {
		starting.Go(func() { errs[i] = g.launch(context.WithoutCancel(t.Context())) })
	}
	starting.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("starting gateway %d: %v\n%s", i+1, err, gs[i].masked(gs[i].output()))
		}
	}
}

// redisKinds are the ways in which Redis can be run.
var redisKinds = []struct {
	name  string
	start func(testing.TB) *common
}{
	{"single", func(t testing.TB) *common { return onRedis(redistest.Start(t)) }},
	{"cluster", func(t testing.TB) *common { return onCluster(redistest.StartCluster(t)) }},
	{"sentinel", func(t testing.TB) *common { return onSentinel(redistest.StartSentinel(t)) }},
}

// onEachRedis runs a test on every kind of Redis.
func onEachRedis(t *testing.T, test func(*testing.T, *common)) {
	for _, kind := range redisKinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			test(t, kind.start(t))
		})
	}
}

// onRedis tells whether the store is Redis.
func (g *gateway) onRedis() bool { return g.settings.common != nil && len(g.settings.common.urls) > 0 }
