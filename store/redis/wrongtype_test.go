package redis

import (
	"cmp"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// step is one that a wrong type stops. Made again, it has one effect.
type step func() error

// moneySteps prepare the steps that move money, and tell for which hold.
var moneySteps = map[string]func(*books) (step, store.HoldID){
	"admit": func(b *books) (step, store.HoldID) {
		return func() error {
			_, err := b.Admit(b.t.Context(), b.admission())
			return err
		}, ""
	},
	"capture": func(b *books) (step, store.HoldID) {
		id := b.hold(b.Store)
		return func() error { return b.Capture(b.t.Context(), id, messageOf(id)) }, id
	},
	"capture of a lost hold": func(b *books) (step, store.HoldID) {
		a := b.admission()
		b.held.add(a)
		return func() error { return b.Capture(b.t.Context(), a.HoldID, messageOf(a.HoldID)) }, a.HoldID
	},
	"release": func(b *books) (step, store.HoldID) {
		id := b.hold(b.Store)
		return func() error { return b.Release(b.t.Context(), id) }, id
	},
	"status": func(b *books) (step, store.HoldID) {
		id := b.hold(b.Store)
		return b.receive(id), id
	},
	"status of a released hold": func(b *books) (step, store.HoldID) {
		id := b.hold(b.Store)
		noError(b.t, b.Release(b.t.Context(), id))
		return b.receive(id), id
	},
	"in doubt": func(b *books) (step, store.HoldID) {
		b.hold(b.Store)
		return func() error {
			_, err := b.InDoubt(b.t.Context(), time.Now().Add(time.Hour), store.Captured)
			return err
		}, ""
	},
	"credit": func(b *books) (step, store.HoldID) {
		return func() error {
			_, err := b.Credit(b.t.Context(), b.account, testFee, "another")
			return err
		}, ""
	},
	"follow": func(b *books) (step, store.HoldID) {
		return func() error {
			return b.Follow(b.t.Context(), store.Total{Account: b.account, Currency: "USD", Credited: testFee, Version: 1})
		}, ""
	},
}

func messageOf(id store.HoldID) string { return "wamid." + string(id) }

// receive prepares a status with a template fee.
func (b *books) receive(id store.HoldID) step {
	return func() error {
		_, err := b.Receive(b.t.Context(), nil, delivered(messageOf(id), id))
		return err
	}
}

// moneyKeys are the keys that money lies under, in the place of an account.
var moneyKeys = map[string]func(b *books, id store.HoldID) string{
	"wallet":     func(b *books, _ store.HoldID) string { return "wallet:" + string(b.account) },
	"ledger":     func(b *books, _ store.HoldID) string { return "ledger:" + string(b.account) },
	"open":       func(*books, store.HoldID) string { return "open" },
	"unreported": func(*books, store.HoldID) string { return "unreported" },
	"credits":    func(b *books, _ store.HoldID) string { return "credits:" + string(b.account) },
	"windows":    func(b *books, _ store.HoldID) string { return "windows:" + string(b.app) },
	"past":       func(b *books, id store.HoldID) string { return b.inPlace(b.pastOf(cmp.Or(id, store.NewHoldID()))) },
	"again":      func(b *books, id store.HoldID) string { return b.inPlace(b.pastOf(id.Again())) },
	"early":      func(_ *books, id store.HoldID) string { return "early:" + messageOf(id) },
}

// inPlace is a key without what all of its place begin with.
func (b *books) inPlace(key string) string {
	return strings.TrimPrefix(key, b.base(placeOf(b.account)))
}

// Each step meets each key once. It either does not need the key and is made, or fails
// and has written nothing; then the key is repaired and it is made, once.
func TestAWrongTypeStopsAStepBeforeItWrites(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "appendfsync no")
	for name, prepare := range moneySteps {
		t.Run(name, func(t *testing.T) {
			for what, keyOf := range moneyKeys {
				t.Run(what, func(t *testing.T) {
					b := newBooks(t, testOptions(t, "single", "", server.URL()))
					take, id := prepare(b)
					b.meets(server, b.base(placeOf(b.account))+keyOf(b, id), take)
				})
			}
		})
	}
}

// spoil puts something of another type under a key, and returns how to put things right.
func spoil(t *testing.T, server *redistest.Server, key string) (repair func()) {
	t.Helper()
	aside := key + " aside"
	was := command(t, server, "TYPE", key)
	if was != "none" {
		command(t, server, "RENAME", key, aside)
	}
	if was == "string" || strings.Contains(key, ":windows:") || strings.Contains(key, ":home:") || strings.Contains(key, ":early:") {
		command(t, server, "RPUSH", key, "spoilt")
	} else {
		command(t, server, "SET", key, "spoilt")
	}
	return func() {
		if was == "none" {
			command(t, server, "DEL", key)
			return
		}
		command(t, server, "RENAME", aside, key) // at once, for others are at work
	}
}

// messages is how many messages the place of the account knows.
func (b *books) messages() (n int) {
	ctx := b.t.Context()
	for _, key := range b.client.Keys(ctx, b.base(placeOf(b.account))+"past:*").Val() {
		for _, field := range b.client.HKeys(ctx, key).Val() { // none of another type
			if strings.HasPrefix(field, "@") {
				n++
			}
		}
	}
	return n
}

// meets takes a step while a key is spoilt, and again when it is not.
func (b *books) meets(server *redistest.Server, key string, take step) {
	repair := spoil(b.t.(*testing.T), server, key)
	before := contents(b.t, server, b.prefix)
	named := b.messages()
	err := take()
	b.nothingLeft(b.t)
	after := contents(b.t, server, b.prefix)
	if err != nil && b.messages() != named {
		b.t.Errorf("whose a message is was written, and then: %v", err)
	}
	if err == nil {
		if before[key] != after[key] {
			b.t.Error("the step has written over what it did not know")
		}
	} else {
		if ours(err) {
			b.t.Errorf("the error is %v", err)
		}
		for _, changed := range changed(before, after) {
			// These are steps of their own: an app's place, an operation's id, and giving up a
			// hold that may have been made.
			if !strings.Contains(changed, ":past:") && !strings.HasSuffix(changed, ":operation:another") && !strings.Contains(changed, ":home:") {
				b.t.Errorf("%s was written, and then: %v", changed, err)
			}
		}
	}
	repair()
	if err != nil {
		noError(b.t, take())
	}
	b.audit()
}

func TestAWrongTypeInTheDirectoryIsCorrupt(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "appendfsync no")
	b := newBooks(t, testOptions(t, "single", "", server.URL()))
	app, key := someApp(t, b.Store)
	digest := key.Digest.String()
	grant := func() error { _, err := b.Grant(t.Context(), key.Digest); return err }
	for name, row := range map[string]struct {
		key  string
		take step
	}{
		"copy of a grant": {b.grantKey(digest), func() error { _, err := b.FindGrant(t.Context(), key.Digest); return err }},
		"key":             {b.keyKey(digest), grant},
		"app":             {b.appKey(app.ID), grant},
		"number":          {b.numberIndex(app.PhoneNumberID), func() error { _, err := b.AppsWithNumber(t.Context(), app.PhoneNumberID); return err }},
		"apps":            {b.key("apps"), func() error { _, err := b.Apps(t.Context()); return err }},
		"account":         {b.base(placeOf(b.account)) + "wallet:" + string(b.account), func() error { _, err := b.Account(t.Context(), b.account); return err }},
	} {
		t.Run(name, func(t *testing.T) {
			repair := spoil(t, server, row.key)
			if err := row.take(); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("error %v, want %v", err, store.ErrCorrupt)
			}
			repair()
			if err := row.take(); err != nil && !errors.Is(err, store.ErrNotFound) {
				t.Error(err)
			}
		})
	}
	t.Run("place of an app's windows", func(t *testing.T) {
		b.app = app.ID
		repair := spoil(t, server, b.key("home:"+string(app.ID)))
		if d, err := b.Admit(t.Context(), b.admission()); err == nil || ours(err) {
			t.Errorf("an admission is answered %+v, %v", d, err)
		}
		repair()
		b.hold(b.Store)
	})
	b.nothingLeft(t)
	b.wantHolds(0, 0, 1)
}

func TestBrokenHoldInDoubtHoldsUpNoOther(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, testOptions(t, "single", "", server.URL()))
	ctx := t.Context()
	var accounts []tenant.AccountID
	for len(accounts) < 2 { // in one place
		id := tenant.AccountID(tenant.NewID("acct"))
		if len(accounts) == 0 || placeOf(id) == placeOf(accounts[0]) {
			accounts = append(accounts, id)
		}
	}
	for _, id := range accounts {
		if err := s.CreateAccount(ctx, tenant.Account{ID: id, Currency: "USD"}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Credit(ctx, id, 1_000, tenant.NewID("credit")); err != nil {
			t.Fatal(err)
		}
		d, err := s.Admit(ctx, store.Admission{
			Mode: store.Hold, App: tenant.AppID("app_of_" + id), Account: id, Fee: 100, HoldID: store.NewHoldIDFor(id),
			Limits: tenant.RateLimit{PerSecond: 10, PerMinute: 10},
		})
		if err != nil || d.Verdict != store.Admitted {
			t.Fatalf("%+v, %v", d, err)
		}
	}
	if err := s.client.Rename(ctx, s.wallet(accounts[0]), "away").Err(); err != nil {
		t.Fatal(err)
	}
	n, err := s.InDoubt(ctx, time.Now().Add(time.Hour), store.Captured)
	if n != 1 || !errors.Is(err, errBroken) {
		t.Errorf("%d were settled, error %v", n, err)
	}
	if err := s.client.Rename(ctx, "away", s.wallet(accounts[0])).Err(); err != nil {
		t.Fatal(err)
	}
	if n, err := s.InDoubt(ctx, time.Now().Add(time.Hour), store.Captured); n != 1 || err != nil {
		t.Errorf("%d were settled after the repair, error %v", n, err)
	}
}
