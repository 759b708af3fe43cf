package redis

import (
	"fmt"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/store/storetest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// bytesUnder is what the keys that match a pattern take in Redis's memory.
func bytesUnder(t testing.TB, server *redistest.Server, pattern string) (sum int64) {
	t.Helper()
	for _, key := range texts(command(t, server, "KEYS", pattern)) {
		n, _ := command(t, server, "MEMORY", "USAGE", key, "SAMPLES", 0).(int64)
		sum += n
	}
	return sum
}

// TestMemory logs what an app, a message and an event take in Redis: the figures of
// docs/operations.md are those of go test -run TestMemory -v ./store/redis.
func TestMemory(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "appendonly no")
	version := command(t, server, "INFO", "server").(string)
	t.Log("redis_version:" + parseInfo(version)["redis_version"])

	t.Run("app", func(t *testing.T) {
		clock := storetest.NewClock()
		o := testOptions(t, "single", "", server.URL())
		o.Clock, o.Serving = clock.Now, false
		s := open(t, o)
		limits := tenant.RateLimit{PerSecond: 80, PerMinute: 4800}
		a := store.Admission{Mode: store.Count, App: tenant.AppID(tenant.NewID("app")), Account: "acct_1", Limits: limits}
		b := newBooks(t, o)
		a.Account = b.account
		admitted := 0
		for range 5000 { // at the limit for more than a minute
			d, err := s.Admit(t.Context(), a)
			noError(t, err)
			if d.Verdict == store.Admitted {
				admitted++
			}
			clock.Advance(time.Second / 80)
		}
		windows := s.base(placeOf(a.Account)) + "windows:" + string(a.App)
		length := command(t, server, "STRLEN", windows).(int64)
		t.Logf("an app at its limits of 80 and 4800 (%d of 5000 admitted): windows %d bytes, %d of them the string; place %d bytes",
			admitted, bytesUnder(t, server, windows), length, bytesUnder(t, server, s.key("home:"+string(a.App))))
		if length > 4096 {
			t.Errorf("the windows of an app are %d bytes", length)
		}
		// An app that sends now and then, at other limits, takes no more.
		a.App, a.Limits = tenant.AppID(tenant.NewID("app")), tenant.RateLimit{PerSecond: 1000, PerMinute: 60_000}
		for i := range 3000 {
			_, err := s.Admit(t.Context(), a)
			noError(t, err)
			clock.Advance(time.Duration(i%7) * time.Millisecond)
		}
		if length := command(t, server, "STRLEN", s.base(placeOf(a.Account))+"windows:"+string(a.App)).(int64); length > 4096 {
			t.Errorf("the windows of a quick app are %d bytes", length)
		}
	})
	t.Run("message", func(t *testing.T) {
		const messages = 2000
		b := newBooks(t, testOptions(t, "single", "", server.URL()))
		s := b.Store
		base := s.base(placeOf(b.account))
		for i := range messages {
			id := b.hold(s)
			// Meta's ids are about that long.
			noError(t, s.Capture(t.Context(), id, fmt.Sprintf("wamid.HBgLMTY1MDM4Nzk0MzkVAgARGBI%027d", i)))
		}
		past := bytesUnder(t, server, base+"past:*")
		ledger := bytesUnder(t, server, base+"ledger:"+string(b.account))
		t.Logf("a message, captured: hold and message %d bytes (for 40 to 44 days), ledger %d bytes (for ever)", past/messages, ledger/messages)
	})
	t.Run("event", func(t *testing.T) {
		const events, payload = 2000, 700
		s := openAt(t, server, false)
		app := tenant.AppID(tenant.NewID("app"))
		before := bytesUnder(t, server, s.prefix+":*")
		all := outboxEvents(app, events)
		for i := range all {
			all[i].Payload = make([]byte, payload)
		}
		_, err := s.Receive(t.Context(), all, nil)
		noError(t, err)
		pending := bytesUnder(t, server, s.prefix+":*") - before
		t.Logf("a pending event with a payload of %d bytes: %d bytes", payload, pending/events)
	})
}
