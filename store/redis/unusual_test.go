package redis

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// What the scripts of a send leave to money.lua comes to the same.

func TestTheLedgerGoesOnWhereTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "appendfsync no")
	b := newBooks(t, testOptions(t, "single", "", server.URL()))
	ledger := b.base(placeOf(b.account)) + "ledger:" + string(b.account)
	ahead := time.Now().Add(time.Hour).UnixMicro()
	command(t, server, "XADD", ledger, strconv.FormatInt(ahead, 10)+"-0", "b", "0", "e", packedEntry('r', "", "0", "hold_1", ""))
	captured, released := b.hold(b.Store), b.hold(b.Store)
	noError(t, b.Capture(t.Context(), captured, messageOf(captured)))
	noError(t, b.Release(t.Context(), released))
	entries, _ := command(t, server, "XRANGE", ledger, strconv.FormatInt(ahead, 10), "+").([]any)
	if len(entries) != 5 { // each a run of its own
		t.Fatalf("there are %d entries from the newest on, want 5", len(entries))
	}
	for i, entry := range entries {
		id, _ := entry.([]any)[0].(string)
		if digits, _, _ := strings.Cut(id, "-"); digits != strconv.FormatInt(ahead+int64(i), 10) {
			t.Errorf("entry %d has the id %s", i, id)
		}
	}
	if balance, err := b.Balance(t.Context(), b.account); err != nil || balance.Captured != testFee || balance.Held != 0 {
		t.Errorf("the balance is %+v, %v", balance, err)
	}
}

func TestSendsCostTheSameWhateverThereIs(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "appendfsync no")
	for _, money := range []pricing.Micros{
		10 * testFee, 99_999_999_999_999, 100_000_000_000_000, 999_999_999_999_999, 1 << 53, 1<<53 + 1, 9_000_000_000_000_000_001,
	} {
		s := open(t, testOptions(t, "single", "", server.URL()))
		b := openBooks(t, s, tenant.AccountID(tenant.NewID("acct")), money)
		captured, released := b.hold(s), b.hold(s)
		b.hold(s)
		noError(t, s.Capture(t.Context(), captured, messageOf(captured)))
		noError(t, s.Release(t.Context(), released))
		b.wantHolds(1, 1, 1)
		balance, err := s.Balance(t.Context(), b.account)
		noError(t, err)
		if balance.Available != money-2*testFee || balance.Held != testFee || balance.Captured != testFee {
			t.Errorf("of %d there is left %+v", money, balance)
		}
	}
}
