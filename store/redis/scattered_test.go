package redis

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// sendAll has one hold made for each account, all of them together, and then captured.
func (b *books) sendAll(s *Store, w *wire, payers []*books) {
	t := b.t
	t.Helper()
	var holds, captures []func()
	for _, payer := range payers {
		_, err := s.home(t.Context(), payer.admission()) // looked up once
		noError(t, err)
		a := payer.admission()
		holds = append(holds, func() {
			_, err := s.Admit(t.Context(), a)
			succeeds(t, err)
		})
		captures = append(captures, func() { succeeds(t, s.Capture(t.Context(), a.HoldID, messageOf(a.HoldID))) })
	}
	b.together(s, w, holds)
	b.together(s, w, captures)
}

// neighbours are accounts of which each is in another place.
func (b *books) neighbours(n int, money pricing.Micros) (all []*books) {
	taken := []place{placeOf(b.account)}
	for len(all) < n {
		account := tenant.AccountID(tenant.NewID("acct"))
		if p := placeOf(account); !slices.Contains(taken, p) {
			taken, all = append(taken, p), append(all, openBooks(b.t, b.Store, account, money))
		}
	}
	return all
}

// charged wants each of the accounts to have been charged so often.
func charged(payers []*books, each int) {
	for _, payer := range payers {
		payer.wantHolds(each, 0, 0)
	}
}

func TestRequestsOfSeveralPlacesAreOneRun(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "appendfsync no")
	b, s, w := onLaneOf(t, server, patience, time.Hour)
	payers := b.neighbours(8, 100*testFee)
	for _, payer := range payers {
		id := payer.hold(s) // the first one in a place begins what others share
		noError(t, s.Capture(t.Context(), id, messageOf(id)))
	}
	server.ResetCommandStats()
	b.sendAll(s, w, payers)
	// Behind one that they wait for, the holds are one run, and so are the captures.
	stats := server.CommandStats()
	if runs := stats["evalsha"] + stats["eval"]; runs != 4 {
		t.Errorf("holds and captures of %d accounts took %d runs, want 4", len(payers), runs)
	}
	charged(payers, 2)
}

// What is spoilt in one place does not hold up the others for longer than it takes to find out.
func TestBehindARunOfSeveralPlacesThatFailedEachIsOfOne(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "appendfsync no")
	b, s, w := onLaneOf(t, server, patience, time.Hour)
	const others = 3
	payers := append(b.neighbours(others, 100*testFee), b)
	s.theLane().spoiltFor = time.Hour
	for _, payer := range payers {
		payer.hold(s)
	}
	repair := spoil(t, server, s.wallet(payers[0].account))
	admit := func(payer *books) func() {
		a := payer.admission()
		return func() {
			if _, err := s.Admit(t.Context(), a); (err != nil) != (payer == payers[0]) {
				t.Errorf("an admission is answered %v", err)
			}
		}
	}
	// The first time all are asked for again, each alone, and then none.
	for _, again := range []int64{1 + others, 0} {
		server.ResetCommandStats()
		var steps []func()
		for _, payer := range payers {
			steps = append(steps, admit(payer))
		}
		b.together(s, w, steps)
		if n := server.CommandStats()["eval"]; n < again || n > again+1 { // a hold that may have been made is given back
			t.Errorf("%d were asked for again, want %d", n, again)
		}
	}
	repair()
	s.nothingLeft(t)
	b.wantHolds(1, 0, 3)
}

// A server may be all of a Cluster, and be used like one that is none. It refuses a run of several places, which
// then are asked for by themselves.
func TestAClusterOfOneServerIsNotAskedForSeveralPlacesAgain(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "appendfsync no", "cluster-enabled yes")
	command(t, server, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
	eventually(t, "it serves all slots", func() bool {
		return strings.Contains(command(t, server, "CLUSTER", "INFO").(string), "cluster_state:ok")
	})
	b, s, w := onLaneOf(t, server, patience, time.Hour)
	payers := b.neighbours(8, 100*testFee)
	b.sendAll(s, w, payers)
	errors := parseInfo(command(t, server, "INFO", "errorstats").(string))
	if refused := errors["errorstat_CROSSSLOT"]; refused != "count=1" {
		t.Errorf("%q runs were refused, want the first one alone", refused)
	}
	charged(payers, 1)
}
