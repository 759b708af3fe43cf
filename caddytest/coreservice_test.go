package caddytest

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"net/http/httptest"
	"testing"

	"github.com/connexease/caddy-whatsapp-gateway/core/coretest"
	"github.com/connexease/caddy-whatsapp-gateway/seal"
	owner "github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// coreService is the reference Core Service, in the process of the tests.
type coreService struct {
	*coretest.Service
	server *httptest.Server
	url    string
	token  string
	// lines are for the block of the option core. The default is a timeout that a
	// busy machine hardly reaches.
	lines []string
}

// startCore starts a Core Service that these gateways, yet to be started, ask. It
// ends with the test.
func (c *common) startCore(t testing.TB) *coreService {
	t.Helper()
	token := newSecret(c.secrets, "token of the Core Service")
	s := &coreService{Service: coretest.New(token), token: token, lines: []string{"timeout 3s"}}
	s.server = httptest.NewServer(s.Service)
	s.url = s.server.URL
	t.Cleanup(func() {
		s.Close()
		s.server.CloseClientConnections()
		s.server.Close()
	})
	c.core = s
	return s
}

// coreTenant makes a tenant that only the Core Service knows. Of a profile's
// members noAccount, credit, noCredentials, the limits, phone, waba, currency and the
// endpoint count.
func (c *common) coreTenant(t testing.TB, p profile) tenant {
	t.Helper()
	who := tenant{app: owner.NewID("app"), keyID: owner.NewID("key")}
	app := owner.App{ID: owner.AppID(who.app), Name: "B"}
	if !p.noAccount {
		who.account = owner.NewID("acct")
		app.AccountID = owner.AccountID(who.account)
		if err := c.core.PutAccount(app.AccountID, cmp.Or(p.currency, "USD")); err != nil {
			t.Fatal(err)
		}
		if p.credit != "0" {
			c.credit(t, who, micros(t, cmp.Or(p.credit, "1.00")))
		}
	}
	if !p.noCredentials {
		who.token, who.phone = "EAAtest"+rand.Text(), cmp.Or(p.phone, fmt.Sprintf("1%09d0000", phones.Add(1)))
		who.waba = cmp.Or(p.waba, "2"+who.phone[1:])
		c.secrets.hide("access token", who.token)
		app.PhoneNumberID, app.WABAID, app.AccessToken = who.phone, who.waba, c.sealed(t, who)
	}
	if p.perSecond != 0 || p.perMinute != 0 {
		app.RateLimit = &owner.RateLimit{PerSecond: cmp.Or(p.perSecond, 80), PerMinute: cmp.Or(p.perMinute, 4800)}
	}
	if e := p.endpoint; e != nil {
		c.secrets.hide("webhook secret", e.secret)
		app.Webhook = &owner.Webhook{URL: e.url, Secret: owner.Secret(e.secret)}
	}
	if err := c.core.PutApp(app); err != nil {
		t.Fatal(err)
	}
	key := owner.NewKey(p.sandbox)
	who.key = string(key)
	c.secrets.hide("API key", who.key)
	if err := c.core.PutKey(c.digest(who), coretest.Key{ID: owner.KeyID(who.keyID), AppID: app.ID}); err != nil {
		t.Fatal(err)
	}
	return who
}

// digest is what a tenant's key is known by.
func (c *common) digest(who tenant) owner.KeyDigest {
	return owner.NewPepper(c.pepper).Digest(owner.Key(who.key))
}

// sealed is a tenant's access token as it is stored.
func (c *common) sealed(t testing.TB, who tenant) owner.SealedToken {
	t.Helper()
	ring := new(seal.Ring)
	if err := ring.Add("shared", c.encryptionKey); err != nil {
		t.Fatal(err)
	}
	token, err := ring.Seal(owner.AppID(who.app), who.token)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// credit credits a tenant's account at the Core Service, in micro-units.
func (c *common) credit(t testing.TB, who tenant, amount int64) {
	t.Helper()
	if _, err := c.core.Credit(owner.AccountID(who.account), amount); err != nil {
		t.Fatal(err)
	}
}
