package caddytest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// plenty is a tenant that neither limits nor balance ever stop.
var plenty = profile{credit: "1000.00", perSecond: 1_000_000, perMinute: 10_000_000}

// startMeta starts a simulator in a process of its own, which counts on when
// the gateway in front of it ends. It returns the settings of such a gateway, too.
func startMeta(t testing.TB, simulator string) (*gateway, settings) {
	t.Helper()
	meta := startGateway(t, settings{simulator: simulator})
	return meta, settings{proxy: "reverse_proxy " + meta.simulator}
}

// configure writes other settings for the next start.
func (g *gateway) configure(t testing.TB, s settings) {
	t.Helper()
	if err := os.WriteFile(g.config, []byte(g.caddyfile(s)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// kills is how often the gateway is killed in a row.
const kills = 24

func TestNothingIsLostOrChargedTwiceByRandomKills(t *testing.T) {
	t.Parallel()
	meta, s := startMeta(t, "slow_answer 50ms")
	g := startGateway(t, s)
	who := g.tenant(t, plenty)
	bodies := slices.Concat(repeat(6, g.message(accepted)), repeat(2, g.message(refused)), repeat(4, g.message("9109")))
	answered := make(map[string]bool) // the ids that clients know
	requests := 0
	for kill := range kills {
		load := g.startLoad(t, g.client, who, bodies...)
		load.await(t, rand.N(80))
		g.kill()
		load.running.Wait()
		for id := range load.messages {
			answered[id] = true
		}
		requests += load.count()
		g.client.CloseIdleConnections()
		g.start(t)
		a := g.audit(t, meta, who)
		for id := range answered {
			if !a.messages[id] {
				t.Errorf("after kill %d: a client has the id of a message that is not in the ledger", kill+1)
			}
		}
		if a.unnamed != 0 {
			t.Errorf("after kill %d: %d captures without a message", kill+1, a.unnamed)
		}
		if t.Failed() {
			return
		}
	}
	a := g.audit(t, meta, who)
	t.Logf("%d kills, %d answers, %d messages accepted: %d captured, %d released, %d in doubt",
		kills, requests, a.accepted, a.captured, a.released, a.inDoubt)
	// What is in doubt is what some client was waiting for.
	if a.inDoubt == 0 || a.inDoubt > kills*len(bodies) || len(answered) < kills {
		t.Errorf("%d in doubt after %d kills and %d answers", a.inDoubt, kills, requests)
	}
	g.settleInDoubt(t, meta, who, s, a)
}

// settleInDoubt restarts the gateway with a short in_doubt and checks that what
// stood as before is all captured, once.
func (g *gateway) settleInDoubt(t *testing.T, meta *gateway, who tenant, s settings, before accounts) {
	t.Helper()
	const after = 11 * time.Second // about the shortest that is allowed
	s.app, s.handler = fmt.Sprintf("in_doubt %v capture", after), "upstream_timeout 1s"
	g.configure(t, s)
	eventually(t, "the last hold to be older than the policy asks for", func() error {
		if youngest := g.youngestHold(t, who.account); time.Since(youngest) <= after {
			return fmt.Errorf("it was made at %v", youngest)
		}
		return nil
	})
	g.restart(t)
	eventually(t, "what is in doubt to be settled", func() error {
		if open := len(g.openHolds(t, who.account)); open > 0 {
			return fmt.Errorf("%d holds are open", open)
		}
		return nil
	})
	want := before
	want.captured, want.unnamed, want.inDoubt = before.captured+before.inDoubt, before.inDoubt, 0
	if diff := cmp.Diff(want, g.audit(t, meta, who), cmp.AllowUnexported(accounts{})); diff != "" {
		t.Error(diff)
	}
	ledger := g.ledger(t, who.account)
	g.restart(t)
	g.send(t, who.key, g.message(accepted)).wantCode(t, "")
	if again := g.ledger(t, who.account); len(again) != len(ledger)+2 || !slices.Equal(again[:len(ledger)], ledger) {
		t.Errorf("another start and a send made %d entries of %d", len(again), len(ledger))
	}
}

// youngestHold is when the youngest hold without an outcome was made.
func (g *gateway) youngestHold(t testing.TB, account string) time.Time {
	t.Helper()
	g.ledger(t, account) // which has the ledger's tail entered
	db := g.open(t)
	defer db.Close()
	var micros int64
	if err := db.QueryRowContext(t.Context(), "SELECT ifnull(max(made_at), 0) FROM holds").Scan(&micros); err != nil {
		t.Fatal(err)
	}
	return time.UnixMicro(micros)
}

// A gateway that is killed while it starts leaves the books as they were.
func TestAKillDuringTheStart(t *testing.T) {
	t.Parallel()
	meta, s := startMeta(t, "")
	g := startGateway(t, s)
	who := g.tenant(t, plenty)
	load := g.startLoad(t, g.client, who, repeat(4, g.message(accepted))...)
	load.await(t, 100)
	g.kill()
	load.running.Wait()
	before := g.audit(t, meta, who)
	for range 5 {
		started := make(chan error, 1)
		go func() { started <- g.launch(t.Context()) }()
		size := len(g.output()) + rand.N(3000)
		eventually(t, "the start to get somewhere", func() error {
			if g.running() == nil || len(g.output()) < size && len(started) == 0 {
				return errors.New("it has not got that far")
			}
			return nil
		})
		g.kill()
		<-started
		if diff := cmp.Diff(before, g.audit(t, meta, who), cmp.AllowUnexported(accounts{})); diff != "" {
			t.Error(diff)
		}
	}
	g.client.CloseIdleConnections()
	g.start(t)
	g.send(t, who.key, g.message(accepted)).wantCode(t, "")
}

func TestAWindowThatWasFullBeforeAKillIsFullAfterIt(t *testing.T) {
	t.Parallel()
	const limit = 10
	g := startGateway(t, settings{})
	full := g.tenant(t, profile{perMinute: limit})
	half := g.tenant(t, profile{perMinute: limit})
	for i := range limit {
		// Sends that cost nothing count like those that do.
		g.send(t, full.key, g.message(accepted), fmt.Sprintf("is_fake=%v", i%2 == 0)).wantCode(t, "")
		if i < limit/2 {
			g.send(t, half.key, g.message(accepted), fmt.Sprintf("is_fake=%v", i%2 == 0)).wantCode(t, "")
		}
	}
	refusedOf := func(who tenant) {
		t.Helper()
		a := g.send(t, who.key, g.message(accepted))
		a.want(t, http.StatusTooManyRequests, rate001("min", "60s"))
		if a.remaining(t) != 0 {
			t.Errorf("%d remain", a.remaining(t))
		}
	}
	refusedOf(full)
	for range 3 {
		g.kill()
		g.client.CloseIdleConnections()
		g.start(t)
		refusedOf(full)
	}
	for i := range limit - limit/2 {
		a := g.send(t, half.key, g.message(accepted))
		a.wantCode(t, "")
		if want := limit - limit/2 - 1 - i; a.remaining(t) != want {
			t.Errorf("%d remain, want %d", a.remaining(t), want)
		}
	}
	refusedOf(half)
}
