package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/seal"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// A phone number id has its group of tenants in front, so that the stub can count by
// group without looking anything up.
const (
	phoneLength = 11
	firstGroup  = 10
	groups      = 100
)

func phoneNumber(group, n int) string { return fmt.Sprintf("%02d%09d", group, n) }

// Tokens are as long as Meta's, and can be told from the phone number that they are for.
const tokenPrefix = "EAAJZCbench"

var tokenSuffix = bytes.Repeat([]byte("ZBq7"), 40)

func tokenOf(phone string) string { return tokenPrefix + phone + string(tokenSuffix) }

// isTokenOf is for the stub, which makes no garbage.
func isTokenOf(token, phone []byte) bool {
	rest, ok := bytes.CutPrefix(token, []byte(tokenPrefix))
	if !ok {
		return false
	}
	rest, ok = bytes.CutPrefix(rest, phone)
	return ok && bytes.Equal(rest, tokenSuffix)
}

// customer is one tenant of a target: the key that it presents, and the number
// whose token the target has to put in its place.
type customer struct {
	key   tenant.Key
	phone string
}

// tenants are those of one target.
type tenants struct {
	group int
	// active send; strict may send one message a minute, and poor can pay for one
	// alone.
	active       []customer
	strict, poor customer
}

// newTenants makes n active tenants and those for the checks.
func (r *rig) newTenants(n int) *tenants {
	t := &tenants{group: r.group(), active: make([]customer, n)}
	next := 0
	for _, c := range []*customer{&t.strict, &t.poor} {
		*c, next = newCustomer(t.group, next), next+1
	}
	for i := range t.active {
		t.active[i] = newCustomer(t.group, next+i)
	}
	return t
}

func newCustomer(group, n int) customer {
	return customer{tenant.NewKey(false), phoneNumber(group, n)}
}

const (
	baseFee = pricing.Micros(1000)
	// plenty is more than any run charges.
	plenty = pricing.Micros(1_000_000_000_000)
)

// generous is a limit that no run reaches, and strict one that the second request does.
var (
	generous    = tenant.RateLimit{PerSecond: 100_000, PerMinute: 6_000_000}
	ordinary    = tenant.RateLimit{PerSecond: 80, PerMinute: 4_800}
	strictLimit = tenant.RateLimit{PerSecond: 1, PerMinute: 1}
)

// secrets are what a gateway's configuration and its records share.
type secrets struct {
	pepper, encryption string
}

func newSecrets() secrets {
	key := make([]byte, seal.KeySize)
	rand.Read(key) // never fails, see crypto/rand
	return secrets{"bench-" + rand.Text(), base64.StdEncoding.EncodeToString(key)}
}

// seed gives a store these tenants, each with an account of its own; hook, unless it is
// empty, is where the events of the active ones go.
func (t *tenants) seed(ctx context.Context, st store.Store, s secrets, limits tenant.RateLimit, hook string) error {
	ring := new(seal.Ring)
	if err := ring.Add("k1", s.encryption); err != nil {
		return err
	}
	pepper := tenant.NewPepper(s.pepper)
	if err := st.BindPepper(ctx, pepper.Fingerprint()); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(64) // they share commits
	add := func(c customer, limits tenant.RateLimit, credit pricing.Micros, hook string) {
		g.Go(func() error { return c.create(ctx, st, ring, pepper, limits, credit, hook) })
	}
	add(t.strict, strictLimit, plenty, "")
	add(t.poor, generous, baseFee, "")
	for _, c := range t.active {
		add(c, limits, plenty, hook)
	}
	return g.Wait()
}

// create adds account, app and key of a tenant.
func (c customer) create(ctx context.Context, st store.Store, ring *seal.Ring, pepper *tenant.Pepper, limits tenant.RateLimit, credit pricing.Micros, hook string) error {
	now := time.Now()
	account := tenant.Account{ID: tenant.AccountID(tenant.NewID("acct")), Name: "Bench", Currency: "USD", CreatedAt: now}
	if err := st.CreateAccount(ctx, account); err != nil {
		return err
	}
	if _, err := st.Credit(ctx, account.ID, credit, tenant.NewID("credit")); err != nil {
		return err
	}
	app := tenant.App{
		ID: tenant.AppID(tenant.NewID("app")), Name: "Bench", AccountID: account.ID, RateLimit: &limits,
		WABAID: "9" + c.phone, PhoneNumberID: c.phone, CreatedAt: now,
	}
	var err error
	if app.AccessToken, err = ring.Seal(app.ID, tokenOf(c.phone)); err != nil {
		return err
	}
	if hook != "" {
		app.Webhook = &tenant.Webhook{URL: hook, Secret: "bench-webhook-secret"}
	}
	if err := st.CreateApp(ctx, app); err != nil {
		return err
	}
	return st.CreateKey(ctx, tenant.APIKey{
		ID: tenant.KeyID(tenant.NewID("key")), AppID: app.ID, Digest: pepper.Digest(c.key), Hint: c.key.Hint(), CreatedAt: now,
	})
}
