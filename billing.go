package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

// admitTimeout is how long the store may take to admit a request.
const admitTimeout = 5 * time.Second

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
		admission.HoldID = store.NewHoldID()
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
	ctx, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	decision, err := h.app.store.Admit(ctx, admission)
	if decision != (store.Decision{}) {
		writeQuota(w, decision)
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
	settlement := settlement{hold: s.hold, outcome: store.Released}
	if s.fate == accepted {
		settlement.outcome = store.Captured
		settlement.messageID = s.messageID
	}
	h.app.store.settle(settlement)
}
