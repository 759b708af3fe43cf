package caddytest

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
)

// failovers are the kinds of Redis that replace a master. kill kills the one that has a
// key, once its replicas have all that it has, and returns how to wait for the next one.
var failovers = []struct {
	name  string
	start func(t *testing.T) (c *common, kill func(t *testing.T, key string) (wait func()))
}{
	{"sentinel", func(t *testing.T) (*common, func(*testing.T, string) func()) {
		sentinel := redistest.StartSentinel(t)
		return onSentinel(sentinel), func(t *testing.T, _ string) func() {
			master := sentinel.Master()
			for _, node := range sentinel.Nodes {
				if node != master {
					replicated(t, master, node)
				}
			}
			master.Kill()
			return func() { sentinel.WaitForFailover(master) }
		}
	}},
	{"cluster", func(t *testing.T) (*common, func(*testing.T, string) func()) {
		cluster := redistest.StartCluster(t)
		return onCluster(cluster), func(t *testing.T, key string) func() {
			master := cluster.MasterOf(key)
			replicated(t, master, cluster.ReplicaOf(key))
			master.Kill()
			return func() { cluster.WaitForFailover(key, master) }
		}
	}},
}

// replicated waits until a replica has all that its master has just now.
func replicated(t *testing.T, master, replica *redistest.Server) {
	t.Helper()
	offset := func(server *redistest.Server, place int) (n int64) {
		answer, err := server.Command("ROLE")
		if err != nil {
			t.Fatal(err)
		}
		if role, ok := answer.([]any); ok && len(role) > place {
			n, _ = role[place].(int64)
		}
		return n
	}
	wanted := offset(master, 1)
	eventually(t, "the replica to have what its master has", func() error {
		if got := offset(replica, 4); got < wanted {
			return fmt.Errorf("it is at %d of %d", got, wanted)
		}
		return nil
	})
}

// walletKey is the key of an account's wallet, wherever it is.
func (c *common) walletKey(t *testing.T, account string) string {
	t.Helper()
	client := c.client(t)
	for place := range 32 {
		key := fmt.Sprintf("wagw:{%02d}:wallet:%s", place, account)
		n, err := client.Exists(t.Context(), key).Result()
		if err != nil {
			t.Fatal(err)
		}
		if n == 1 {
			return key
		}
	}
	t.Fatal("there is no wallet")
	return ""
}

// A master is replaced while a message is at Meta: it is charged, once, and sends go on.
func TestAFailoverWhileAMessageIsAtMeta(t *testing.T) {
	t.Parallel()
	for _, kind := range failovers {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			c, kill := kind.start(t)
			c.redis = []string{"timeout " + redisTimeout.String()}
			meta := startArrivals(t)
			gs := startGateways(t, 2, settings{common: c, proxy: "reverse_proxy " + meta.address, app: "key_cache 1h"})
			who := gs[0].tenant(t, profile{})
			for _, g := range gs {
				g.send(t, who.key, g.message(accepted), "is_fake=true").wantCode(t, "")
			}
			meta.hold(t, who, withJSON("200 OK", acceptance))
			wait := gs[0].asynchronously(t, who.key, gs[0].message(accepted))
			<-meta.arrived
			next := kill(t, c.walletKey(t, who.account))
			killed := time.Now()
			<-meta.answer
			if a, err := wait(); err != nil || a.messageID() != "wamid.accepted" {
				t.Errorf("status %d, %v", a.status, err)
			}
			gs[1].send(t, who.key, gs[1].message(accepted)).want(t, http.StatusInternalServerError, bill003)
			next()
			replaced := time.Now()
			meta.play(who, withJSON("200 OK", acceptance))
			for _, g := range gs {
				eventually(t, "sends to go on", func() error {
					if a := g.send(t, who.key, g.message(accepted)); a.status != http.StatusOK {
						return fmt.Errorf("code %s", a.Errors.Code)
					}
					return nil
				})
			}
			t.Logf("the next master was there after %v, and sends went on %v later",
				replaced.Sub(killed).Round(time.Millisecond), time.Since(replaced).Round(time.Millisecond))
			gs[1].awaitSettled(t, who, 1+len(gs))
			if n := len(meta.received(who)); n != 1+len(gs) {
				t.Errorf("%d messages have reached Meta, want %d", n, 1+len(gs))
			}
		})
	}
}
