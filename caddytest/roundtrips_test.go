package caddytest

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
)

// cost is what a server did meanwhile: scripts are those that clients had it run,
// reads how often it has read what a client sent, which is once a round trip where
// they are made one after the other. The commands within scripts are neither.
type cost struct{ scripts, reads int64 }

// costOf counts what a server does while something else is done, which includes
// the counting, and whatever gateways do in the background.
func costOf(t *testing.T, server *redistest.Server, do func()) cost {
	t.Helper()
	from := costSoFar(t, server)
	do()
	to := costSoFar(t, server)
	return cost{to.scripts - from.scripts, to.reads - from.reads}
}

func costSoFar(t *testing.T, server *redistest.Server) (c cost) {
	t.Helper()
	stats := server.CommandStats()
	for _, command := range []string{"evalsha", "eval", "evalsha_ro", "eval_ro", "fcall", "fcall_ro"} {
		c.scripts += stats[command]
	}
	info, err := server.Command("INFO", "stats")
	if err != nil {
		t.Fatal(err)
	}
	_, found, _ := strings.Cut(fmt.Sprint(info), "total_reads_processed:")
	found, _, _ = strings.Cut(found, "\r\n")
	if c.reads, err = strconv.ParseInt(found, 10, 64); err != nil {
		t.Fatal(err)
	}
	return c
}

// What is done in the background only adds to what is counted, so the cheapest of
// several batches is what the sends themselves cost at most. A charge is not waited for, and
// may be one run with the hold of the next send.
func TestASendCostsTwoRoundTrips(t *testing.T) {
	t.Parallel()
	const sends = 20
	for _, c := range []struct {
		name string
		who  func(*testing.T, *common, *gateway) tenant
	}{
		{"a tenant of the store's", func(t *testing.T, _ *common, g *gateway) tenant { return g.tenant(t, plenty) }},
		{"a tenant of the Core Service's", func(t *testing.T, c *common, _ *gateway) tenant { return c.coreTenant(t, plenty) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			shared := onRedis(server)
			shared.startCore(t)
			g := startGateway(t, settings{common: shared, app: "key_cache 1h"})
			who := c.who(t, shared, g)
			body := g.message(accepted)
			send := func() { g.send(t, who.key, body).wantCode(t, "") }
			send() // what is looked up once is looked up

			idle := costOf(t, server, func() {})
			var cheapest cost
			eventually(t, "a batch of sends with nothing beside it", func() error {
				idle.reads = min(idle.reads, costOf(t, server, func() {}).reads)
				got := costOf(t, server, func() {
					for range sends {
						send()
					}
				})
				got.reads -= idle.reads
				if cheapest.reads == 0 || got.reads < cheapest.reads {
					cheapest = got
				}
				if got.scripts > 2*sends || got.reads > 2*sends {
					return fmt.Errorf("%d sends cost %d scripts and %d round trips", sends, got.scripts, got.reads)
				}
				return nil
			})
			t.Logf("%d sends cost %d scripts and %d round trips", sends, cheapest.scripts, cheapest.reads)
			if cheapest.scripts < sends {
				t.Errorf("%d sends cost %d scripts: not all were counted", sends, cheapest.scripts)
			}
		})
	}
}
