package gateway

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/event"
	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// Why a change that can be read has no addressee.
const (
	noAppWithNumber = "no app has this phone number id"
	noAppOfWABA     = "no app has this WABA id"
)

// maxCategory is how much of Meta's category is logged, in bytes.
const maxCategory = 64

// maxHeldAtOnce is how many holds a webhook may return for the store to look them up in the
// step in which it receives the webhook. No send is admitted meanwhile, so those of more are
// looked up before.
const maxHeldAtOnce = 100

// intake is one genuine webhook on its way into the store: what goes to which
// app, and what its statuses mean for the wallets.
type intake struct {
	app *App
	now time.Time
	// seed, unless it is empty, is what the ids of its events are made from, so that
	// what was half stored is not stored twice when it is replayed.
	seed string
	// holds says whose the holds are that the statuses return.
	holds map[store.HoldID]store.Sender

	changes  int
	events   []store.Event
	statuses []store.Status
	fees     []chargedFee // of the statuses
	// quarantined are the reasons why parts were quarantined, each once.
	quarantined []string
	// settled is how many sends in doubt were settled.
	settled int
}

// chargedFee is what is told about the template fee of a status.
type chargedFee struct {
	pricing.Fee
	app      tenant.AppID
	category string
}

// oddFee is a kind of template fee that wants an operator's eye.
type oddFee struct {
	result           store.FeeResult
	app              tenant.AppID // empty where the status returned no hold
	market, category string
}

// addressed is a change and the apps that it is for.
type addressed struct {
	*event.Change
	apps []tenant.App
}

// takeIn stores all that a webhook says in one step. Whatever cannot be parsed or
// has no addressee is quarantined.
func (a *App) takeIn(ctx context.Context, body []byte, seed string) (*intake, error) {
	in := &intake{app: a, now: time.Now(), seed: seed}
	changes, err := event.Split(body)
	if err != nil {
		in.quarantine(len(changes), body, err.Error())
	}
	in.changes = len(changes)
	letters := make([]addressed, len(changes))
	for i := range changes {
		letters[i].Change = &changes[i]
		letters[i].apps, err = a.addressees(ctx, &changes[i])
		if err != nil {
			return in, err
		}
	}
	results, err := in.store(ctx, letters)
	if err != nil {
		return in, err
	}
	in.conclude(results)
	return in, nil
}

// store stores what these changes say.
func (in *intake) store(ctx context.Context, letters []addressed) ([]store.StatusResult, error) {
	ids, size := holdsOf(letters)
	one, ok := in.app.store.Store.(store.HoldReceiver)
	if !ok || len(ids) == 0 || len(ids) > maxHeldAtOnce {
		holds, err := in.lookUpHolds(ctx, ids)
		if err != nil {
			return nil, err
		}
		in.addAll(letters, holds)
		return in.app.store.Receive(ctx, in.events, in.statuses)
	}
	filled := *in // the store may be at it when this has returned with an error
	results, err := one.ReceiveHeld(ctx, ids, size+len(in.events), func(holds map[store.HoldID]store.Sender) ([]store.Event, []store.Status) {
		filled.addAll(letters, holds)
		return filled.events, filled.statuses
	})
	if err != nil {
		return nil, err
	}
	*in = filled
	return results, nil
}

// addAll adds all changes, of which it is known whose holds they return.
func (in *intake) addAll(letters []addressed, holds map[store.HoldID]store.Sender) {
	in.holds = holds
	for i, letter := range letters {
		in.add(i, letter)
	}
}

// addressees are the apps that a change is for: those with its number or, where
// it has none, all of its WABA.
func (a *App) addressees(ctx context.Context, c *event.Change) ([]tenant.App, error) {
	switch {
	case c.Problem != "":
		return nil, nil
	case c.PhoneNumberID != "":
		return a.appsOf(ctx, route{number: c.PhoneNumberID})
	default:
		return a.appsOf(ctx, route{waba: c.WABA})
	}
}

// holdsOf returns the holds that statuses return, and about how many events and statuses
// the changes are.
func holdsOf(letters []addressed) (ids []store.HoldID, size int) {
	for i := range letters {
		statuses := letters[i].Statuses
		size += max(1, len(letters[i].apps)) + len(statuses)
		for j := range statuses {
			if id, _ := splitHold(statuses[j].CallbackData); id != "" {
				ids = append(ids, id)
			}
		}
	}
	return ids, size
}

// lookUpHolds finds out whose holds are.
func (in *intake) lookUpHolds(ctx context.Context, ids []store.HoldID) (map[store.HoldID]store.Sender, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	return in.app.store.Holds(ctx, ids)
}

// hold returns the hold that a callback data begins with, and how many bytes of
// it are the gateway's. It has to be one of an app or account that the change is for, where
// that is known: a customer could have written somebody else's.
func (l *addressed) hold(callbackData string, holds map[store.HoldID]store.Sender) (id store.HoldID, prefix int, sender store.Sender) {
	id, prefix = splitHold(callbackData)
	sender, known := holds[id]
	if !known || len(l.apps) > 0 && !slices.ContainsFunc(l.apps, func(a tenant.App) bool {
		return a.ID == sender.App || a.AccountID == sender.Account
	}) {
		return "", 0, store.Sender{}
	}
	return id, prefix, sender
}

// accounts are those of the apps that the change is for.
func (l *addressed) accounts() []tenant.AccountID {
	var ids []tenant.AccountID
	for i := range l.apps {
		if id := l.apps[i].AccountID; id != "" && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// eventID is the id of what becomes of a change, by its number, for an app.
func (in *intake) eventID(change int, app tenant.AppID) store.EventID {
	if in.seed == "" {
		return store.NewEventID()
	}
	return store.EventID(tenant.DerivedID("evt", fmt.Sprintf("%s %d %s", in.seed, change, app)))
}

// add puts a change, by its number, into the outbox of each app that has asked for
// it, or into quarantine, and notes its statuses.
func (in *intake) add(number int, l addressed) {
	for i := range l.Statuses {
		in.addStatus(l, &l.Statuses[i])
	}
	var payload []byte
	envelope := func() []byte {
		if payload == nil {
			payload = l.Envelope(func(callbackData string) int {
				_, prefix, _ := l.hold(callbackData, in.holds)
				return prefix
			})
		}
		return payload
	}
	switch {
	case l.Problem != "":
		in.quarantine(number, envelope(), l.Problem)
	case len(l.apps) == 0 && l.PhoneNumberID != "":
		in.quarantine(number, envelope(), noAppWithNumber)
	case len(l.apps) == 0:
		in.quarantine(number, envelope(), noAppOfWABA)
	}
	for i := range l.apps {
		if name, ok := l.apps[i].Webhook.Subscription(l.Events); ok {
			in.events = append(in.events, store.Event{
				ID: in.eventID(number, l.apps[i].ID), App: l.apps[i].ID, Name: name, State: store.Pending, Payload: envelope(),
			})
		}
	}
}

// addStatus notes what a status means for the wallets, if anything: that a send
// was accepted whose hold is open, and that a template was delivered.
func (in *intake) addStatus(l addressed, st *event.Status) {
	id, _, sender := l.hold(st.CallbackData, in.holds)
	status := store.Status{Hold: id, MessageID: st.MessageID, Captured: sender.Captured, Sender: sender, Accounts: l.accounts()}
	if id != "" && len(status.Accounts) > 0 && !slices.Contains(status.Accounts, sender.Account) {
		status.Accounts = append(status.Accounts, sender.Account) // the app may have changed its account since
	}
	fee := chargedFee{app: sender.App, category: st.Category[:min(maxCategory, len(st.Category))]}
	if st.Billable && (st.State == "delivered" || st.State == "read") {
		fee.Fee = in.app.rates.Look(st.Recipient, st.Category, in.now)
		status.TemplateFee = fee.Prices
	}
	if status.TemplateFee == nil && (id == "" || sender.Captured) {
		return
	}
	in.statuses = append(in.statuses, status)
	in.fees = append(in.fees, fee)
}

// quarantine keeps what nobody can get: a change by its number, or what is behind
// the last one.
func (in *intake) quarantine(number int, payload []byte, reason string) {
	in.events = append(in.events, store.Event{
		ID: in.eventID(number, ""), State: store.Quarantined, Payload: payload, LastError: reason,
	})
	if !slices.Contains(in.quarantined, reason) {
		in.quarantined = append(in.quarantined, reason)
	}
}

// conclude counts what became of the webhook, and reports fees that want an
// operator's eye.
func (in *intake) conclude(results []store.StatusResult) {
	for _, e := range in.events {
		metrics.events.WithLabelValues(string(e.Name), string(e.State)).Inc()
	}
	odd := make(map[oddFee]int)
	for i, result := range results {
		fee := in.fees[i]
		if result.Settled {
			in.settled++
		}
		if result.Fee == store.NoFee {
			continue
		}
		metrics.templateFees.WithLabelValues(feeResults[result.Fee]).Inc()
		if result.Fee == store.FeeNotPriced || result.Fee == store.FeeCharged && fee.Default() {
			odd[oddFee{result.Fee, fee.app, fee.Market, fee.category}]++
		}
	}
	for fee, count := range odd {
		fields := []zap.Field{
			zap.String("app_id", string(fee.app)), zap.String("market", fee.market), zap.String("category", fee.category), zap.Int("count", count),
		}
		if fee.result == store.FeeNotPriced {
			in.app.logger.Error("templates have no price in the account's currency and are not charged", fields...)
			continue
		}
		metrics.defaultFees.Add(float64(count))
		in.app.logger.Warn("templates' market or category is not on the rate card; the default row was charged", fields...)
	}
	metrics.settled.Add(float64(in.settled))
}

// apps are those that have something to be delivered.
func (in *intake) apps() []tenant.AppID {
	var ids []tenant.AppID
	for _, e := range in.events {
		if e.State == store.Pending && !slices.Contains(ids, e.App) {
			ids = append(ids, e.App)
		}
	}
	return ids
}
