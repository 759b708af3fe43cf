package gateway

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// What comes from the cache is what a send needs, whatever there is and is not.
func TestAKeptGrantHasWhatASendNeeds(t *testing.T) {
	epoch := time.Now()
	never, soon, late := time.Time{}, epoch.Add(time.Hour), time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
	for _, g := range []openedGrant{
		{Grant: &tenant.Grant{}},
		{Grant: &tenant.Grant{}, refusal: credentialsMissing.as(nil)},
		{Grant: &tenant.Grant{KeyID: "key_1", ExpiresAt: &never, App: tenant.App{ID: "app_1", PhoneNumberID: "300"}}, expires: soon, askAgain: soon},
		{Grant: &tenant.Grant{KeyID: "key_1", ExpiresAt: &late, App: tenant.App{
			ID: "app_1", AccountID: "acct_1", RateLimit: &tenant.RateLimit{PerSecond: 1, PerMinute: 1 << 40}, PhoneNumberID: "300",
		}}, expires: soon, askAgain: epoch.Add(-time.Hour), generation: 1<<64 - 1, watched: time.Minute},
	} {
		if g.refusal == nil {
			g.token = "EAAtoken"
			g.authorization = bearer + g.token
		}
		kept := packGrant(&g, epoch).unpack(epoch)
		if d := cmp.Diff(g.Grant, kept.Grant); d != "" {
			t.Errorf("grant (-want +got):\n%s", d)
		}
		if kept.authorization != g.authorization || kept.token != g.token || kept.refusal != g.refusal {
			t.Errorf("%q has another header: %d bytes, of which %d are the token", g.KeyID, len(kept.authorization), len(kept.token))
		}
		if g.expires.IsZero() {
			continue
		}
		if !kept.expires.Equal(g.expires) || !kept.askAgain.Equal(g.askAgain) || kept.generation != g.generation || kept.watched != g.watched {
			t.Errorf("%v, %v, %d, %v are kept as %v, %v, %d, %v", g.expires, g.askAgain, g.generation, g.watched,
				kept.expires, kept.askAgain, kept.generation, kept.watched)
		}
	}
}

// Each send that finds its grant in the cache pays for this.
func BenchmarkUnpackGrant(b *testing.B) {
	epoch := time.Now()
	kept := packGrant(&openedGrant{Grant: &tenant.Grant{KeyID: "key_1", App: tenant.App{
		ID: "app_1", AccountID: "acct_1", RateLimit: &tenant.RateLimit{PerSecond: 80, PerMinute: 4800}, PhoneNumberID: "300",
	}}, authorization: bearer + "EAAtoken"}, epoch)
	b.ReportAllocs()
	for b.Loop() {
		kept.unpack(epoch)
	}
}
