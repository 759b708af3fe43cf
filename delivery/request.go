package delivery

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const (
	// maxAnswer is how much of an answer is read, in bytes, and drainTime for how
	// long: reading to its end only serves to use the connection again.
	maxAnswer = 64 << 10
	drainTime = 500 * time.Millisecond

	userAgent = "caddy-whatsapp-gateway"
)

// post sends an event to its endpoint. It returns nil once the endpoint has answered with any
// 2xx; what follows the status does not matter. A redirect is not followed.
func (w *Worker) post(hook *tenant.Webhook, e *store.Event) *failure {
	if err := CheckWebhook(hook, w.config.AllowPrivateTargets); err != nil {
		return &failure{reason: bounded(err.Error())}
	}
	// The worker's end does not end an attempt.
	ctx, cancel := context.WithTimeout(context.Background(), w.config.Timeout)
	defer cancel()
	r, err := newRequest(ctx, hook, e, time.Now())
	if err != nil {
		return &failure{reason: "the request cannot be made"}
	}
	answer, err := w.transport.RoundTrip(r)
	if err != nil {
		return &failure{reason: describe(err, w.config.Timeout)}
	}
	defer answer.Body.Close()
	if answer.ContentLength != 0 {
		defer time.AfterFunc(drainTime, cancel).Stop()
		_, _ = io.CopyN(io.Discard, answer.Body, maxAnswer)
	}
	if answer.StatusCode/100 == 2 {
		return nil
	}
	return statusFailure(answer, time.Now())
}

// newRequest returns the request that delivers an event. Its webhook has been
// checked.
func newRequest(ctx context.Context, hook *tenant.Webhook, e *store.Event, now time.Time) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.URL, bytes.NewReader(e.Payload))
	if err != nil {
		return nil, err
	}
	h := r.Header
	for name, value := range hook.Headers {
		h.Set(name, string(value))
	}
	h.Set("Content-Type", "application/json")
	h.Set("User-Agent", userAgent)
	h.Set("X-Gateway-Event", string(e.Name))
	h.Set(standardwebhooks.HeaderWebhookID, string(e.ID))
	h.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	// Without a value it is not sent. It has net/http repeat a request where the
	// endpoint closed a connection kept for reuse, which is no failure of an
	// event that is delivered at least once.
	h["Idempotency-Key"] = nil
	if hook.Secret == "" {
		return r, nil
	}
	h.Set("Authorization", "Bearer "+string(hook.Secret))
	signature, err := sign(hook.Secret, e, now)
	if err != nil {
		return nil, err
	}
	h.Set(standardwebhooks.HeaderWebhookSignature, signature)
	return r, nil
}

// sign returns the signature of an event as Standard Webhooks has it.
func sign(s tenant.Secret, e *store.Event, now time.Time) (string, error) {
	key, err := signingKey(s)
	if err != nil {
		return "", err
	}
	signer, err := standardwebhooks.NewWebhookRaw(key)
	if err != nil {
		return "", err
	}
	return signer.Sign(string(e.ID), now, e.Payload)
}

// bounded returns text, cut to what a reason may have.
func bounded(text string) string { return text[:min(len(text), maxReason)] }
