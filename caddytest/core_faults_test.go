package caddytest

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/connexease/caddy-whatsapp-gateway/core/coretest"
)

// coreFaults are the ways in which the Core Service fails, each with what a send is
// answered whose key, or whose account, has to be looked up there.
var coreFaults = []struct {
	name         string
	fault        coretest.Fault
	key, account string
}{
	{"down", coretest.Down, "AUTH_004", "BILL_003"},
	{"silent", coretest.Fault{Until: make(chan struct{})}, "AUTH_004", "BILL_003"},
	{"500", coretest.Error, "AUTH_004", "BILL_003"},
	{"another token", coretest.Fault{Status: http.StatusUnauthorized, Body: `{}`}, "AUTH_004", "BILL_003"},
	{"HTML", coretest.HTML, "AUTH_005", "BILL_003"},
	{"half a JSON", coretest.HalfJSON, "AUTH_005", "BILL_003"},
	{"404", coretest.NotFound, "AUTH_001", "BILL_002"},
}

func TestWhatIsAnsweredWhileTheCoreServiceFails(t *testing.T) {
	t.Parallel()
	onEachStore(t, settings{app: "key_cache 1h 1s"}, func(t *testing.T, c *common, gs []*gateway) {
		known := c.coreTenant(t, profile{})
		for _, g := range gs {
			g.send(t, known.key, g.message(accepted)).wantCode(t, "")
		}
		sent := len(gs)
		var unpaid []tenant
		for i, f := range coreFaults {
			t.Run(f.name, func(t *testing.T) {
				g := turn(gs, i)
				newKey, newAccount := c.coreTenant(t, profile{}), c.coreTenant(t, profile{})
				unpaid = append(unpaid, newKey, newAccount)
				c.core.Set(f.fault)
				g.send(t, newKey.key, g.message(accepted)).wantCode(t, f.key)
				for _, g := range gs {
					g.send(t, known.key, g.message(accepted)).wantCode(t, "")
					sent++
				}
				c.core.Heal(coretest.Grants)
				g.send(t, newAccount.key, g.message(accepted)).wantCode(t, f.account)
				c.core.Heal()
			})
		}
		// Nobody was charged, and everything goes on by itself.
		for i, who := range unpaid {
			if n := gs[0].tally(t).sends(who); n != 0 {
				t.Errorf("%d sends of a tenant that was refused have reached Meta", n)
			}
			g := turn(gs, i)
			eventually(t, "the sends of a tenant that was refused", func() error {
				if a := g.send(t, who.key, g.message(accepted), "is_fake=true"); a.status != http.StatusOK {
					return fmt.Errorf("code %s", a.Errors.Code)
				}
				return nil
			})
		}
		gs[0].wantBalance(t, known.account, balance{available: 1_000_000 - int64(sent)*fee, captured: int64(sent) * fee})
		gs[0].wantBalance(t, unpaid[0].account, balance{available: 1_000_000})
	})
}
