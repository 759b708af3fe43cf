package caddytest

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
)

// attempt is one send, with what came of it.
type attempt struct {
	began, ended time.Time
	status       int
	limit        string // limit_type of a 429
}

// race has clients send at the same time, spread over gateways, each again for as
// long as again says so, and returns all that they sent.
func race(t *testing.T, gs []*gateway, who tenant, body string, clients int, again func(attempt) bool) (all []attempt) {
	t.Helper()
	var mu sync.Mutex
	var racing sync.WaitGroup
	start := make(chan struct{})
	for i := range clients {
		racing.Go(func() {
			<-start
			for {
				sent := attempt{began: time.Now()}
				answer, err := gs[i%len(gs)].trySend(t, messagePath, who.key, body)
				if err != nil {
					t.Error(err)
					return
				}
				sent.ended, sent.status = time.Now(), answer.status
				sent.limit, _ = answer.Errors.Params["limit_type"].(string)
				mu.Lock()
				all = append(all, sent)
				mu.Unlock()
				if !again(sent) {
					return
				}
			}
		})
	}
	close(start)
	racing.Wait()
	return all
}

// count is how many attempts were answered with a status.
func count(all []attempt, status int) (n int) {
	for _, a := range all {
		if a.status == status {
			n++
		}
	}
	return n
}

// wantWindows fails the test if more sends than limit were admitted in any time of
// this length: by what the ledger says, which has the moments themselves, and by
// what clients have seen, who only know that their own lies between the request and
// its answer.
func wantWindows(t *testing.T, ledger []ledgerEntry, all []attempt, length time.Duration, limit int) {
	t.Helper()
	var holds []time.Time
	for _, e := range ledger {
		if e.Kind == "hold" {
			holds = append(holds, e.At)
		}
	}
	slices.SortFunc(holds, time.Time.Compare)
	for i := limit; i < len(holds); i++ {
		if within := holds[i].Sub(holds[i-limit]); within < length {
			t.Errorf("the ledger has %d holds within %v", limit+1, within)
			break
		}
	}
	sent := slices.DeleteFunc(slices.Clone(all), func(a attempt) bool { return a.status != http.StatusOK })
	for _, first := range sent {
		n := 0
		for _, a := range sent {
			if !a.began.Before(first.began) && a.ended.Sub(first.began) < length {
				n++
			}
		}
		if n > limit {
			t.Errorf("clients sent %d messages within %v", n, length)
			break
		}
	}
}

func TestManyGatewaysHaveOneLimitAndOneWallet(t *testing.T) {
	t.Parallel()
	const fees, clients, limit = 100, 200, 40
	onEachRedis(t, func(t *testing.T, c *common) {
		gs := startGateways(t, 3, settings{common: c})
		who := gs[0].tenant(t, profile{credit: "0.100", perSecond: limit, perMinute: 10_000})
		all := race(t, gs, who, gs[0].message(accepted), clients, func(a attempt) bool { return a.status == http.StatusTooManyRequests })

		if ok, poor := count(all, http.StatusOK), count(all, http.StatusPaymentRequired); ok != fees || poor != clients-fees {
			t.Errorf("%d answers of 200 and %d of 402, want %d and %d", ok, poor, fees, clients-fees)
		}
		if count(all, http.StatusTooManyRequests) == 0 {
			t.Error("the limit has stopped nobody")
		}
		if got := gs[0].tally(t).sends(who); got != fees {
			t.Errorf("%d sends have reached Meta, want %d", got, fees)
		}
		if a := gs[1].audit(t, gs[0], who); a.captured != fees || a.inDoubt+a.released != 0 {
			t.Errorf("%d sends were captured, %d released, %d are in doubt", a.captured, a.released, a.inDoubt)
		}
		gs[2].wantBalance(t, who.account, balance{captured: fees * fee})
		wantWindows(t, gs[2].ledger(t, who.account), all, time.Second, limit)
	})
}

func TestManyGatewaysHaveOneMinute(t *testing.T) {
	t.Parallel()
	const clients, limit = 60, 25
	gs := startGateways(t, 3, settings{common: onRedis(redistest.Start(t))})
	who := gs[0].tenant(t, profile{perSecond: 1000, perMinute: limit})
	all := race(t, gs, who, gs[0].message(accepted), clients, func(attempt) bool { return false })
	wantWindows(t, gs[0].ledger(t, who.account), all, time.Minute, limit)
	ok := count(all, http.StatusOK)
	if ok < limit || ok+count(all, http.StatusTooManyRequests) != clients {
		t.Errorf("%d of %d sends were answered with 200, the limit is %d", ok, clients, limit)
	}
	for _, a := range all {
		if a.status == http.StatusTooManyRequests && a.limit != "min" {
			t.Errorf("refused because of %q", a.limit)
		}
	}
	// What one gateway has refused the others refuse, and all say the same of it.
	for i, g := range gs {
		t.Run(fmt.Sprint("gateway ", i+1), func(t *testing.T) {
			if a := g.send(t, who.key, g.message(accepted)); a.status != http.StatusTooManyRequests || a.remaining(t) != 0 {
				t.Errorf("status %d, %d remain", a.status, a.remaining(t))
			}
		})
	}
}
