package redis

import (
	"strings"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// delivered is a status with a template fee for a message.
func delivered(message string, id store.HoldID) []store.Status {
	return []store.Status{{Hold: id, MessageID: message, TemplateFee: map[string]pricing.Micros{"USD": testFee}}}
}

func TestAFullMemoryStopsSendingAndNothingElse(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "maxmemory-policy noeviction")
	s, b := gatewayOn(t, server)
	other := open(t, Options{Connection: connectionTo(t, server), KeyPrefix: s.prefix, Timeout: short})
	_, key := someApp(t, s)
	captured, released, seen, elsewhere := b.hold(s), b.hold(s), b.hold(s), b.hold(s)
	command(t, server, "CONFIG", "SET", "maxmemory", "1")

	for range 3 {
		if _, d, err := b.wantRefusal(s); err == nil || d.Minute.Limit == 0 || d.ByShare {
			t.Errorf("an admission is answered %+v, %v", d, err)
		}
	}
	if _, err := s.Credit(t.Context(), b.account, testFee, "too much"); err == nil || ours(err) {
		t.Errorf("credit: %v", err)
	}
	if _, err := s.Receive(t.Context(), outboxEvents("app_1", 1), nil); err == nil || ours(err) {
		t.Errorf("receiving an event: %v", err)
	}
	noError(t, s.Capture(t.Context(), captured, "wamid.1"))
	noError(t, s.Release(t.Context(), released))
	noError(t, other.Capture(t.Context(), elsewhere, "wamid.2"))
	results, err := s.Receive(t.Context(), nil, delivered("wamid.3", seen))
	if err != nil || !results[0].Settled || results[0].Fee != store.FeeCharged {
		t.Errorf("a status is answered %+v, %v", results, err)
	}
	if _, err := s.Grant(t.Context(), key.Digest); err != nil {
		t.Errorf("grant: %v", err)
	}
	noError(t, s.RevokeKey(t.Context(), key.ID, time.Now()))
	b.wantHolds(3, 1, 0)

	command(t, server, "CONFIG", "SET", "maxmemory", "0")
	b.served(s)
	_, err = s.Credit(t.Context(), b.account, testFee, "too much")
	noError(t, err)
	s.nothingLeft(t)
	b.wantHolds(4, 1, 0)
}

func TestAReadOnlyReplicaTakesNothing(t *testing.T) {
	t.Parallel()
	master, replica := redistest.StartReplicated(t)
	o := testOptions(t, "single", "", master.URL())
	b := newBooks(t, o)
	held := b.hold(b.Store)
	eventually(t, "the replica has the hold", func() bool {
		n, err := replica.Command("HEXISTS", b.base(placeOf(b.account))+"open", string(held))
		return err == nil && n == int64(1)
	})
	before := contents(t, master, o.KeyPrefix)

	o.Connection, o.Timeout, o.Serving = connectionTo(t, replica), short, false
	s := open(t, o)
	b.wantAway(s)
	for name, step := range map[string]func() error{
		"capture":  func() error { return s.Capture(t.Context(), held, "wamid.1") },
		"release":  func() error { return s.Release(t.Context(), held) },
		"credit":   func() error { _, err := s.Credit(t.Context(), b.account, testFee, "op"); return err },
		"in doubt": func() error { _, err := s.InDoubt(t.Context(), time.Now().Add(time.Hour), store.Captured); return err },
		"receive":  func() error { _, err := s.Receive(t.Context(), outboxEvents("app_1", 1), nil); return err },
		"status":   func() error { _, err := s.Receive(t.Context(), nil, delivered("wamid.1", held)); return err },
	} {
		began := time.Now()
		if err := step(); err == nil || ours(err) {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(began); took > soon {
			t.Errorf("%s was answered after %v", name, took)
		}
	}
	if balance, err := s.Balance(t.Context(), b.account); err != nil || balance.Held != testFee {
		t.Errorf("the balance is %+v, %v", balance, err)
	}
	if keys := changed(before, contents(t, master, o.KeyPrefix)); len(keys) > 0 {
		t.Errorf("%q were written", keys)
	}
	b.wantHolds(0, 0, 1)

	// It becomes the master.
	command(t, replica, "REPLICAOF", "NO", "ONE")
	o.Connection = connectionTo(t, replica)
	promoted := &books{open(t, o), t, b.account, b.app}
	noError(t, eventuallyDone(t, func() error { return s.Capture(t.Context(), held, "wamid.1") }))
	promoted.served(s)
	promoted.wantHolds(2, 0, 0)
}

func TestWithoutPermissionRedisIsAway(t *testing.T) {
	t.Parallel()
	const password = "correct-horse"
	server := redistest.Start(t, "requirepass "+password)
	o := testOptions(t, "single", "", server.URL())
	b := newBooks(t, o)
	held := b.hold(b.Store)
	command(t, server, "ACL", "SETUSER", "reader", "on", ">"+password, "~*", "&*", "+@read", "+@connection", "-@scripting")
	command(t, server, "ACL", "SETUSER", "elsewhere", "on", ">"+password, "~other:*", "&*", "+@all")
	before := contents(t, server, o.KeyPrefix)
	for name, user := range map[string][2]string{
		"no commands":    {"reader", password},
		"no keys":        {"elsewhere", password},
		"wrong password": {"default", "wrong-horse"},
		"no password":    {"", ""},
		"no such user":   {"nobody", password},
	} {
		t.Run(name, func(t *testing.T) {
			o := o
			o.Connection, o.Timeout = connectionTo(t, server), short
			o.Connection.Username, o.Connection.Password = user[0], user[1]
			s := open(t, o)
			b := &books{s, t, b.account, b.app}
			_, d, err := b.wantRefusal(s)
			if !d.ByShare || strings.Contains(err.Error(), "horse") {
				t.Errorf("the answer is %+v, %v", d, err)
			}
			if err := s.Capture(t.Context(), held, "wamid.1"); err == nil || ours(err) {
				t.Errorf("capture: %v", err)
			}
			if _, err := s.Grant(t.Context(), tenant.KeyDigest{1}); name != "no commands" && (err == nil || ours(err)) {
				t.Errorf("grant: %v", err)
			}
		})
	}
	if keys := changed(before, contents(t, server, o.KeyPrefix)); len(keys) > 0 {
		t.Errorf("%q were written", keys)
	}
	b.wantHolds(0, 0, 1)
}
