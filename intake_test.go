package gateway

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/sqlite"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// observed is a store that counts how often it is asked whose holds are, and how often
// within the step in which it receives what follows.
type observed struct {
	*sqlite.Store
	apart, within int
}

func (o *observed) Holds(ctx context.Context, ids []store.HoldID) (map[store.HoldID]store.Sender, error) {
	o.apart++
	return o.Store.Holds(ctx, ids)
}

func (o *observed) ReceiveHeld(ctx context.Context, ids []store.HoldID, size int, follows func(map[store.HoldID]store.Sender) ([]store.Event, []store.Status)) ([]store.StatusResult, error) {
	o.within++
	return o.Store.ReceiveHeld(ctx, ids, size, follows)
}

// The writer of the store admits nobody while it looks holds up.
func TestManyHoldsOfAWebhookAreLookedUpBeforeItIsReceived(t *testing.T) {
	s := newStation(t, stored{dir: t.TempDir()}, 1, nil)
	must(t, s.store.CreateAccount(t.Context(), tenant.Account{ID: "acct_held", Currency: "USD"}))
	must(t, s.store.CreateApp(t.Context(), tenant.App{ID: "app_held", AccountID: "acct_held", PhoneNumberID: "1000000"}))
	_, err := s.store.Credit(t.Context(), "acct_held", 1_000_000, "op_held")
	must(t, err)
	o := &observed{Store: s.store.Store.(*sqlite.Store)}
	s.store.Store = o
	for _, row := range []struct{ statuses, apart, within int }{{1, 0, 1}, {maxHeldAtOnce, 0, 1}, {maxHeldAtOnce + 1, 1, 0}} {
		*o = observed{Store: o.Store}
		var statuses []string
		for i := range row.statuses {
			a := admission("acct_held", store.Hold)
			a.App, a.HoldID, a.Limits = "app_held", store.NewHoldIDFor("acct_held"), tenant.RateLimit{PerSecond: 10_000, PerMinute: 10_000}
			d, err := s.store.Admit(t.Context(), a)
			if err != nil || d.Verdict != store.Admitted {
				t.Fatalf("%+v, %v", d, err)
			}
			statuses = append(statuses, fmt.Sprintf(`{"id":"wamid.%d.%d","status":"sent","timestamp":"1760000000","recipient_id":"491510000001","biz_opaque_callback_data":%q}`,
				row.statuses, i, string(a.HoldID)))
		}
		body := `{"object":"whatsapp_business_account","entry":[{"id":"2000000","changes":[{"value":{"messaging_product":"whatsapp",` +
			`"metadata":{"display_phone_number":"15550001111","phone_number_id":"1000000"},"statuses":[` + strings.Join(statuses, ",") + `]},"field":"messages"}]}]}`
		in, err := s.takeIn(t.Context(), []byte(body), "")
		must(t, err)
		if in.settled != row.statuses || o.apart != row.apart || o.within != row.within {
			t.Errorf("of %d sends %d were settled; holds were looked up %d times before and %d times meanwhile, want %d and %d",
				row.statuses, in.settled, o.apart, o.within, row.apart, row.within)
		}
	}
}
