package redis

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	goredis "github.com/redis/go-redis/v9"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
)

// packedEntry is one of the ledger, as a script packs it.
func packedEntry(letter byte, app, amount, about, message string) string {
	return string(packed{letter}.text(app).text(amount).text(about).text(message))
}

// packedEntries are some that have app and amount in common, as a run of the script packs them.
func packedEntries(letter byte, app, amount string, about, messages []string) string {
	q := packed{letter}.text(app).text(amount)
	q = append(q, 0, byte(len(about)))
	for _, text := range append(slices.Clone(about), messages...) {
		q = q.text(text)
	}
	return string(q)
}

// Entries of the ledger that are packed together are those that they are one by one.
func TestEntriesThatArePackedTogether(t *testing.T) {
	holds, messages, none := []string{"hold_1", "hold_2", "hold_3"}, []string{"wamid.1", "wamid.2", "wamid.3"}, make([]string, 3)
	together := packedEntries('H', "app_1", "1000", holds, none) + packedEntries('C', "app_1", "1000", holds[:2], messages[:2]) +
		packedEntries('R', "app_1", "1000", holds[2:], none[2:])
	oneByOne := ""
	for _, hold := range holds {
		oneByOne += packedEntry('h', "app_1", "1000", hold, "")
	}
	for i, hold := range holds[:2] {
		oneByOne += packedEntry('c', "app_1", "1000", hold, messages[i])
	}
	oneByOne += packedEntry('r', "app_1", "1000", holds[2], "")
	read := func(items string) []store.Entry {
		entries, err := parseEntries(goredis.XMessage{ID: "1795366000000000-0", Values: map[string]any{"b": "5000", "e": items}}, 7)
		noError(t, err)
		return entries
	}
	if diff := cmp.Diff(read(oneByOne), read(together)); diff != "" {
		t.Errorf("(-one by one +together):\n%s", diff)
	}
}

// Whatever lies in a stream, it is entries or corrupt; those of one of its entries have numbers and times
// that follow one another, and balances that follow from their amounts.
func FuzzEntriesOfTheStream(f *testing.F) {
	hold := packedEntry('h', "app_1", "1000", "hold_1", "")
	capture := packedEntry('c', "app_1", "1000", "hold_1", "wamid.1")
	f.Add("1795366000000000-0", "5000", hold, "")
	f.Add("1795366000000000-0", "-5000", hold+capture+packedEntry('r', "app_1", "1000", "hold_2", ""), "1795366000000000")
	f.Add("1795366000000000-0", "9223372036854775807", packedEntry('d', "", "-9223372036854775808", "op", ""), "")
	f.Add("1795366000000000-0", "0", packedEntry('t', "app_1", "7", "", "wamid.1"), "")
	f.Add("1795366000000000-0", "0", "", "")
	f.Add("1795366000000000-0", "0", packedEntries('H', "app_1", "1000", []string{"hold_1", "hold_2"}, []string{"", ""})+capture, "")
	f.Add("1795366000000000-0", "0", hold+packedEntries('C', "app_1", "1000", nil, nil), "")
	f.Add("-1", "0", hold, "")
	f.Add("", "", "h\xff\xff\xff\xff", "x")
	f.Add("9223372036854775807-0", "0", hold+hold[:len(hold)-1], "")
	f.Add("1-1", "0", "x"+hold[1:], "")
	f.Fuzz(func(t *testing.T, id, balance, items, set string) {
		values := map[string]any{"b": balance, "e": items}
		if set != "" {
			values["t"] = set
		}
		entries, err := parseEntries(goredis.XMessage{ID: id, Values: values}, 7)
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) || len(entries) > 0 {
				t.Fatalf("%d entries and the error %v", len(entries), err)
			}
			return
		}
		if len(entries) == 0 {
			t.Fatal("there are neither entries nor an error")
		}
		again := ""
		for i, e := range entries {
			if i > 0 && (e.Seq != entries[i-1].Seq+places || e.At.Before(entries[i-1].At)) {
				t.Errorf("%d at %v stands behind %d at %v", e.Seq, e.At, entries[i-1].Seq, entries[i-1].At)
			}
			if place(e.Seq&(places-1)) != 7 {
				t.Errorf("number %d is not of its place", e.Seq)
			}
			again += string(e.Kind[0])
		}
		if !strings.ContainsAny(items, again[:1]+strings.ToUpper(again[:1])) && entries[0].Kind != store.KindCredit {
			t.Errorf("an entry of kind %s is not in what was read", entries[0].Kind)
		}
	})
}

func FuzzUnpacker(f *testing.F) {
	f.Add([]byte(packed(nil).text("a").text("").text("bc")))
	f.Add([]byte("\x00\x00\x00\x05abc"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		u := unpacker{rest: string(b)}
		var again packed
		for u.rest != "" {
			if text := u.text(); !u.short {
				again = again.text(text)
			}
		}
		if !strings.HasPrefix(string(b), string(again)) || !u.short && len(again) != len(b) {
			t.Errorf("%q is read as %q", b, again)
		}
		if u.text() != "" || u.byte() != 0 {
			t.Error("there is something behind the end")
		}
	})
}

// Whatever comes together, about the same hold or message even, comes to what it comes to one by one.
func TestRepetitionsInOneRunHaveOneEffect(t *testing.T) {
	t.Parallel()
	b, s, w := onLane(t, patience, time.Hour)
	twice, captured, released, shared := b.admission(), b.hold(s), b.hold(s), b.hold(s)
	admit := func() {
		d, err := s.Admit(t.Context(), twice)
		if succeeds(t, err); d.Verdict != store.Admitted {
			t.Errorf("a hold that is made twice is answered %+v", d)
		}
	}
	capture := func() { succeeds(t, s.Capture(t.Context(), captured, messageOf(captured))) }
	release := func() { succeeds(t, s.Release(t.Context(), released)) }
	other := func() { succeeds(t, s.Capture(t.Context(), shared, messageOf(captured))) }
	b.together(s, w, []func(){admit, capture, release, other, admit, capture, release, other, admit})
	st := b.wantHolds(3, 1, 1)
	if !st.Open[twice.HoldID] || !st.Released[released] || st.Captured[shared] != messageOf(captured) {
		t.Errorf("the holds are %+v", st)
	}
	results, err := s.Receive(t.Context(), nil, append(delivered(messageOf(captured), captured), delivered(messageOf(captured), shared)...))
	noError(t, err)
	if results[0].Fee != store.FeeCharged || results[1].Fee != store.FeeRepeated {
		t.Errorf("the template fee of one message is answered %+v", results)
	}
	b.audit()
}

func TestAFullMemoryRefusesOnlyWhatAdmitsInARun(t *testing.T) {
	t.Parallel()
	b, s, _ := onLane(t, patience, time.Hour)
	captured, released, refused := b.hold(s), b.hold(s), b.neighbour(false, testFee).admission()
	_, err := s.home(t.Context(), refused) // looked up once
	noError(t, err)
	noError(t, s.client.ConfigSet(t.Context(), "maxmemory", "1").Err())
	l := s.theLane()
	l.mu.Lock()
	l.leaders++ // nobody sends yet
	l.mu.Unlock()
	var running sync.WaitGroup
	running.Go(func() {
		if _, err := s.Admit(t.Context(), refused); !errors.Is(err, store.ErrFull) {
			t.Errorf("an admission is answered %v", err)
		}
	})
	running.Go(func() { succeeds(t, s.Capture(t.Context(), captured, messageOf(captured))) })
	running.Go(func() { succeeds(t, s.Release(t.Context(), released)) })
	eventually(t, "all wait", func() bool { return l.queued() == 3 })
	l.mu.Lock()
	l.leaders--
	l.appointNext()
	l.mu.Unlock()
	running.Wait()
	b.wantHolds(2, 1, 0)
}

// What is remembered for a time has it from the first on, and what is past goes when something new begins.
func TestWhatIsSettledAndNamedIsForgottenInTime(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "appendfsync no")
	b := newBooks(t, testOptions(t, "single", "", server.URL()))
	key := b.pastOf(store.NewHoldIDFor(b.account))
	at := strings.LastIndex(key, ":") + 1
	period, err := strconv.Atoi(key[at:])
	noError(t, err)
	const kept = 14 // periods, the newest included
	past, left := key[:at]+strconv.Itoa(period-kept), key[:at]+strconv.Itoa(period-kept+1)
	for _, old := range []string{past, left} {
		command(t, server, "HSET", old, "", "1")
	}
	id := b.hold(b.Store)
	noError(t, b.Capture(t.Context(), id, messageOf(id)))
	const lifetime = 38 * 24 * 3600
	if ttl, _ := command(t, server, "TTL", key).(int64); ttl < lifetime || ttl > lifetime*3/2 {
		t.Errorf("%s is forgotten in %d s", key, ttl)
	}
	if there := command(t, server, "EXISTS", past); there != int64(0) {
		t.Error("what is past is still there")
	}
	if there := command(t, server, "EXISTS", left); there != int64(1) {
		t.Error("what is not past yet is gone")
	}
}

// An amount, or a record, that somebody has spoilt is an error, and nothing else is done.
func FuzzMoney(f *testing.F) {
	for _, seed := range []string{"0 0 0 0", "-5 7 9223372036854775807 1795366000000000", "", "1 2 3", "a b c d", "1  2 3 4"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		balance, err := parseMoney(text)
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("the error is %v", err)
			}
			return
		}
		again := fmt.Sprintf("%d %d %d ", int64(balance.Available), int64(balance.Held), int64(balance.Captured))
		if rest, err := parseMoney(again + "0"); err != nil || rest != balance {
			t.Errorf("%q is read as %+v", text, balance)
		}
	})
}
