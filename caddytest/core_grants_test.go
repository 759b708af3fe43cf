package caddytest

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/core/coretest"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
)

// What one gateway has learnt from the Core Service the others find in Redis.
func TestTheCoreServiceIsAskedOnceForAKey(t *testing.T) {
	t.Parallel()
	c := onRedis(redistest.Start(t))
	c.startCore(t)
	gs := startGateways(t, 3, settings{common: c, app: "key_cache 1h 1h"})
	known, other, unknown := c.coreTenant(t, plenty), c.coreTenant(t, plenty), tenant{key: "nobody-has-this-key-5"}
	asked := func(want int, what string, who tenant, code string) {
		t.Helper()
		before := c.core.Requests(coretest.Grants)
		for range 2 {
			for _, g := range gs {
				g.send(t, who.key, g.message(accepted), "is_fake=true").wantCode(t, code)
			}
		}
		if n := c.core.Requests(coretest.Grants) - before; n != want {
			t.Errorf("%d requests for %s, want %d", n, what, want)
		}
	}
	asked(1, "a key that it knows", known, "")
	asked(1, "a key that nobody has", unknown, "AUTH_001")

	// The copy is the published document, in the published place, for as long as published.
	client := c.client(t)
	key := "wagw:grant:" + c.digest(known).String()
	left, err := client.TTL(t.Context(), key).Result()
	if err != nil || left <= 0 || left > time.Hour {
		t.Errorf("the copy lives for %v: %v", left, err)
	}
	document, err := client.Get(t.Context(), key).Result()
	if err != nil {
		t.Fatal(err)
	}
	// Another program may put it there, too: an app that cannot send, as a proof.
	for _, who := range []tenant{other, unknown} {
		key := "wagw:grant:" + c.digest(who).String()
		if err := client.Set(t.Context(), key, `{"key_id":"k","app":{"id":"a"}}`, time.Minute).Err(); err != nil {
			t.Fatal(err)
		}
	}
	asked(0, "a key whose grant lies in Redis", other, "BILL_002")
	asked(0, "a key that is remembered as nobody's", unknown, "AUTH_001")

	// Many who want the same are one look-up in each gateway.
	crowd := c.coreTenant(t, plenty)
	before := c.core.Requests(coretest.Grants)
	all := race(t, gs, crowd, gs[0].message(accepted), 60, func(attempt) bool { return false })
	if ok, n := count(all, http.StatusOK), c.core.Requests(coretest.Grants)-before; ok != len(all) || n < 1 || n > len(gs) {
		t.Errorf("%d of %d sends were answered with 200, after %d requests", ok, len(all), n)
	}

	for i, garbage := range []string{"", "<!doctype html>", document[:len(document)/2], "{}", "null null"} {
		t.Run(fmt.Sprint("garbage ", i), func(t *testing.T) {
			who := c.coreTenant(t, plenty)
			key := "wagw:grant:" + c.digest(who).String()
			if err := client.Set(t.Context(), key, garbage, time.Minute).Err(); err != nil {
				t.Fatal(err)
			}
			asked(0, "a key whose copy cannot be parsed", who, "AUTH_005")
			if err := client.Del(t.Context(), key).Err(); err != nil {
				t.Fatal(err)
			}
			asked(1, "a key whose broken copy is gone", who, "")
		})
	}
}
