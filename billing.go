package gateway

import (
	"context"
	"errors"
	"net/http"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

// admit asks the store to let the request through: rate, balance and hold in one
// step. A request that refusal is going to answer is looked at and changes
// nothing, because only the first refusal counts.
func (h *Handler) admit(w http.ResponseWriter, r *http.Request, s *send, refusal *failure) *failure {
	app := &s.grant.App
	admission := store.Admission{App: app.ID, Account: app.AccountID, Limits: *h.app.RateLimit}
	if app.RateLimit != nil {
		admission.Limits = *app.RateLimit
	}
	switch {
	case refusal != nil:
		admission.Mode = store.Check
	case s.fake || s.message.receipt:
		admission.Mode = store.Count
	default:
		admission.Mode = store.Hold
		admission.Fee = *h.app.BaseFee
		admission.HoldID = store.NewHoldIDFor(app.AccountID)
		h.app.store.begin(admission.HoldID)
		defer func() {
			if s.hold == "" { // not admitted
				h.app.store.end(admission.HoldID)
			}
		}()
	}
	// A client that goes away takes its request back, until it is admitted.
	ctx := r.Context()
	if refusal != nil {
		ctx = context.WithoutCancel(ctx)
	}
	decision, err := h.app.admit(ctx, admission)
	if decision.Second.Limit > 0 { // it is known
		writeQuota(w, &s.headers, decision)
	}
	if err != nil && app.AccountID == "" {
		return accountMissing.as(nil) // for which the store need not be there
	}
	if err != nil {
		return walletFailed.as(err)
	}
	switch decision.Verdict {
	case store.Admitted:
		s.hold = admission.HoldID
		return nil
	case store.NoAccount:
		return accountMissing.as(nil)
	case store.NoBalance:
		return balanceTooLow.as(nil)
	default:
		return overLimit(w, decision.Verdict)
	}
}

// admit asks the store and, where that knows no account or no balance, once more if
// the wallet has followed the Core Service since. What the Core Service could not be asked
// is no verdict on an account that the store has never heard of.
func (a *App) admit(ctx context.Context, admission store.Admission) (store.Decision, error) {
	follower, ok := a.store.Store.(store.Follower)
	if !ok || a.core == nil || admission.Account == "" {
		return a.store.Admit(ctx, admission)
	}
	// All of it takes no longer than one admission may.
	ctx, cancel := context.WithTimeout(ctx, store.AdmitTimeout)
	defer cancel()
	asked := a.totals.now()
	decision, err := a.store.Admit(ctx, admission)
	if err == nil && (decision.Verdict == store.NoAccount || decision.Verdict == store.NoBalance) {
		l := a.totals.follow(ctx, follower, admission.Account)
		switch {
		case l.err == nil && !l.at.Before(asked):
			decision, err = a.store.Admit(ctx, admission)
		case l.err != nil && !errors.Is(l.err, store.ErrNotFound) && decision.Verdict == store.NoAccount:
			err = l.err
		}
	}
	if err == nil && decision.Verdict == store.Admitted {
		a.totals.use(admission.Account)
	}
	return decision, err
}

// settle records what became of the hold. A send whose fate is unknown stays in
// doubt: the hold remains until a status or the in-doubt policy ends it.
func (h *Handler) settle(s *send) {
	if s.hold == "" {
		return
	}
	if s.fate == unknown {
		h.app.store.end(s.hold)
		return
	}
	settlement := settlement{
		hold: s.hold, app: s.grant.App.ID, account: s.grant.App.AccountID, fee: *h.app.BaseFee, outcome: store.Released,
	}
	if s.fate == accepted {
		settlement.outcome = store.Captured
		settlement.messageID = s.messageID
	}
	h.app.store.settle(settlement)
}
