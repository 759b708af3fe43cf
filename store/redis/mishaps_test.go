package redis

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// A capture looks for its message in other periods, too, and must not find out after it has written
// that it cannot.
func TestAWrongTypeInAnotherPeriodStopsACaptureBeforeItWrites(t *testing.T) {
	server := redistest.Start(t, "appendfsync no")
	b := newBooks(t, testOptions(t, "single", "", server.URL()))
	id := b.hold(b.Store)
	// A template fee that comes before the capture, without a hold.
	st := delivered(messageOf(id), id)
	for i := range st {
		st[i].Hold = ""
	}
	results, err := b.Receive(t.Context(), nil, st)
	noError(t, err)
	if len(results) != 1 {
		t.Errorf("the early fee is answered %+v", results)
	}
	key := b.pastOf(id)
	at := strings.LastIndex(key, ":") + 1
	period, err := strconv.Atoi(key[at:])
	noError(t, err)
	other := key[:at] + strconv.Itoa(period-2)
	command(t, server, "SET", other, "spoilt")
	before := contents(t, server, b.prefix)
	err = b.Capture(t.Context(), id, messageOf(id))
	if err != nil {
		for _, c := range changed(before, contents(t, server, b.prefix)) {
			t.Errorf("%s was written, and then: %v", c, err)
		}
	}
	command(t, server, "DEL", other)
	noError(t, b.Capture(t.Context(), id, messageOf(id)))
	balance, err := b.Balance(t.Context(), b.account)
	noError(t, err)
	if balance.Captured <= testFee {
		t.Errorf("the early template fee is lost: captured %d", balance.Captured)
	}
	if command(t, server, "HEXISTS", key, "@"+messageOf(id)) != int64(1) {
		t.Error("nobody knows whose the message is")
	}
}

// Of what is refused because memory is full nothing was made, and nothing need be given back.
func TestRefusalsOfAFullMemoryTakeNoMemory(t *testing.T) {
	server := redistest.Start(t, "appendfsync no")
	b := newBooks(t, testOptions(t, "single", "", server.URL()))
	b.hold(b.Store)
	noError(t, b.client.ConfigSet(t.Context(), "maxmemory", "1").Err())
	const n = 500
	for range n {
		if _, err := b.Admit(t.Context(), b.admission()); !errors.Is(err, store.ErrFull) {
			t.Fatal(err)
		}
	}
	b.nothingLeft(t)
	for _, key := range texts(command(t, server, "KEYS", b.prefix+":*:past:*")) {
		count, _ := command(t, server, "HLEN", key).(int64)
		if count > 1 {
			t.Errorf("%s has %d tombstones", key, count-1)
		}
	}
}

// numberAhead has the newest entry of an account's ledger be numbered with a time to come.
func (s *Store) numberAhead(t *testing.T, account tenant.AccountID) {
	t.Helper()
	wallet := s.wallet(account)
	money, err := s.client.HGet(t.Context(), wallet, "money").Result()
	noError(t, err)
	f := strings.Fields(money)
	f[3] = strconv.FormatInt(time.Now().Add(300*24*time.Hour).UnixMicro(), 10)
	noError(t, s.client.HSet(t.Context(), wallet, "money", strings.Join(f, " ")).Err())
}

// The clock was set back, after one account had a send.
func TestALedgerThatIsAheadMovesNoOther(t *testing.T) {
	b, s, w := onLane(t, patience, time.Hour)
	s.numberAhead(t, b.account)
	b.hold(s) // its clock was a year ahead once
	var others []*books
	var steps []func()
	for range 6 {
		o := b.neighbour(true, 100*testFee)
		_, err := s.home(t.Context(), o.admission())
		noError(t, err)
		others = append(others, o)
		steps = append(steps, func() { _, err := s.Admit(t.Context(), o.admission()); succeeds(t, err) })
	}
	steps = append(steps, func() { _, err := s.Admit(t.Context(), b.admission()); succeeds(t, err) })
	b.together(s, w, steps)
	for i, o := range others {
		for e, err := range o.Ledger(t.Context(), o.account, time.Time{}) {
			noError(t, err)
			if e.At.After(time.Now().Add(time.Hour)) {
				t.Errorf("neighbour %d has a %s at %v", i, e.Kind, e.At)
			}
		}
	}
}

// The set of unreported accounts was spoilt, and is begun anew.
func TestChargesAreReportedAfterTheListWasLost(t *testing.T) {
	server := redistest.Start(t, "appendfsync no")
	b := newBooks(t, testOptions(t, "single", "", server.URL()))
	key := b.base(placeOf(b.account)) + "unreported"
	command(t, server, "SET", key, "spoilt")
	command(t, server, "DEL", key)
	for range 3 {
		id := b.hold(b.Store)
		noError(t, b.Capture(t.Context(), id, messageOf(id)))
	}
	r, err := b.Unreported(t.Context(), 100)
	noError(t, err)
	if len(r.Entries) == 0 {
		t.Error("three charges are never reported")
	}
}

// at has the id of a hold tell of another time.
func at(id store.HoldID, when time.Time) store.HoldID {
	hours := strconv.FormatInt(when.UnixMilli()>>23, 32)
	return store.HoldID("hold_" + strings.Repeat("0", 5-len(hours)) + hours + string(id[10:]))
}

// A gateway whose clock was ahead once has begun the hash of days to come.
func TestHashesOfDaysToComeLastAsLong(t *testing.T) {
	server := redistest.Start(t, "appendfsync no")
	b := newBooks(t, testOptions(t, "single", "", server.URL()))
	a := b.admission()
	begins := time.Now().Add(37 * 24 * time.Hour)
	a.HoldID = at(a.HoldID, begins)
	_, err := b.Admit(t.Context(), a)
	noError(t, err)
	ttl, _ := command(t, server, "TTL", b.pastOf(a.HoldID)).(int64)
	goes := time.Now().Add(time.Duration(ttl+1) * time.Second)
	if after := goes.Sub(begins); after < 38*24*time.Hour {
		t.Errorf("%s goes %v after its days have begun", b.pastOf(a.HoldID), after)
	}
}

// A hold that was open for long, or made by a gateway whose clock is behind, is settled in a hash that is past. Its own message,
// and what is settled behind it, begin others, and that one stays.
func TestWhatIsSettledLateIsRememberedAllTheSame(t *testing.T) {
	server := redistest.Start(t, "appendfsync no")
	b := newBooks(t, testOptions(t, "single", "", server.URL()))
	for _, days := range []int{45, 60, 80} {
		a := b.admission()
		a.HoldID = at(a.HoldID, time.Now().Add(-time.Duration(days)*24*time.Hour))
		_, err := b.Admit(t.Context(), a)
		noError(t, err)
		for range 2 {
			noError(t, b.Capture(t.Context(), a.HoldID, messageOf(a.HoldID)))
		}
		if ttl, _ := command(t, server, "TTL", b.pastOf(a.HoldID)).(int64); ttl < 38*24*3600 {
			t.Errorf("what was settled %d days late is forgotten in %d s", days, ttl)
		}
	}
	b.wantHolds(3, 0, 0)
}
