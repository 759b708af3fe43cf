package gateway

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sync/semaphore"
)

// webhookPath is where Meta delivers events.
const webhookPath = "/v1/wa/webhook"

const (
	// maxWebhookSize is how much of a webhook is read, in bytes; Meta's own limit is 3 MB.
	maxWebhookSize = 4 << 20
	// receiveTimeout bounds the storing of a webhook. Meta expects its answer
	// sooner, and delivers again.
	receiveTimeout = 10 * time.Second
	// webhookTimeout is how long Meta may take to upload a webhook.
	webhookTimeout = 10 * time.Second
	// Whose a webhook is is known when it has been read. So what comes in beyond
	// the first smallWebhook bytes of each shares largeWebhooks: many who send much
	// take a bounded part of the memory, and nothing from the small ones that
	// Meta mostly sends.
	smallWebhook  = 64 << 10
	largeWebhooks = 128 << 20
	// signatureHeader and signaturePrefix are Meta's.
	signatureHeader = "X-Hub-Signature-256"
	signaturePrefix = "sha256="
)

// webhook is one request of Meta's, and what came of it.
type webhook struct {
	requestID string
	start     time.Time
	intake    *intake // nil where it was refused unread
	journaled bool    // it waits for the store, and will be split again
}

// answerWebhook answers one request of Meta's.
func (h *Handler) answerWebhook(w http.ResponseWriter, r *http.Request, wh *webhook) error {
	refusal := h.serveWebhook(w, r, wh)
	h.logWebhook(r, wh, refusal)
	if refusal != nil {
		// With an error Caddy would log the request beside the access log and its
		// filter, the verify token in the query included.
		_ = refusal.write(w)
	}
	return nil
}

// serveWebhook does so unless it returns a failure to answer with.
func (h *Handler) serveWebhook(w http.ResponseWriter, r *http.Request, wh *webhook) *failure {
	switch r.Method {
	case http.MethodGet:
		return h.app.handshake(w, r)
	case http.MethodPost:
		return h.receive(w, r, wh)
	}
	w.Header().Set("Allow", http.MethodGet+", "+http.MethodPost)
	return methodRefused.as(nil)
}

// handshake answers Meta's verification of the webhook with the challenge, if
// it knows the token.
func (a *App) handshake(w http.ResponseWriter, r *http.Request) *failure {
	query, err := url.ParseQuery(r.URL.RawQuery)
	tokens := query["hub.verify_token"]
	if err != nil || a.WebhookVerifyToken == "" || query.Get("hub.mode") != "subscribe" ||
		len(tokens) != 1 || subtle.ConstantTimeCompare([]byte(tokens[0]), []byte(a.WebhookVerifyToken)) == 0 {
		return verifyTokenWrong.as(nil)
	}
	challenge := query.Get("hub.challenge")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Length", strconv.Itoa(len(challenge)))
	_, _ = w.Write([]byte(challenge)) // Meta's going away is Meta's affair
	return nil
}

// receive stores a webhook of Meta's, or writes it to the journal while the store is
// away, and only then says so.
func (h *Handler) receive(w http.ResponseWriter, r *http.Request, wh *webhook) *failure {
	signatures := r.Header[signatureHeader]
	if len(signatures) == 0 {
		return signatureMissing.as(nil)
	}
	signature, ok := parseSignature(signatures[0])
	if !ok || len(signatures) > 1 || len(h.app.MetaAppSecrets) == 0 {
		return signatureWrong.as(nil)
	}
	shared := &sharedMemory{ReadCloser: r.Body, ctx: r.Context(), until: wh.start.Add(webhookTimeout - time.Second)} // before the connection's time is up
	defer shared.release()
	r.Body = shared
	body, refusal := readBody(w, r, maxWebhookSize, webhookTimeout)
	if shared.err != nil {
		return eventNotStored.as(shared.err)
	}
	if refusal != nil {
		return refusal
	}
	if !h.app.signed(body, signature) {
		return signatureWrong.as(nil)
	}
	if err := h.app.acquire(); err != nil {
		return eventNotStored.as(err)
	}
	defer h.app.release()
	// Whether Meta waits for the answer makes no difference to what it has said.
	ctx := h.app.store.receiveTimes.Next()
	seed := h.app.store.webhookSeed()
	var err error
	if wh.intake, err = h.app.takeIn(ctx, body, seed); err != nil {
		if err = h.app.store.journalWebhook(seed, body, err); err != nil {
			return eventNotStored.as(err)
		}
		wh.journaled = true
		w.WriteHeader(http.StatusOK)
		return nil
	}
	h.app.wake(wh.intake.apps())
	w.WriteHeader(http.StatusOK)
	return nil
}

// webhookMemory is what large webhooks share, in bytes.
var webhookMemory = semaphore.NewWeighted(largeWebhooks)

// sharedMemory is a body that takes from [webhookMemory] what it has read beyond
// the first part, and waits where there is none left.
type sharedMemory struct {
	io.ReadCloser
	ctx         context.Context
	until       time.Time // it waits no longer; zero is for as long as ctx
	read, taken int64
	err         error // why there was none
}

// Read implements io.Reader.
func (m *sharedMemory) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	m.read += int64(n)
	for m.read-m.taken > smallWebhook && m.err == nil {
		if m.err = m.acquire(); m.err == nil {
			m.taken += smallWebhook
		}
	}
	if m.err != nil {
		return n, m.err
	}
	return n, err
}

func (m *sharedMemory) acquire() error {
	ctx := m.ctx
	if !m.until.IsZero() {
		limited, cancel := context.WithDeadline(ctx, m.until)
		defer cancel()
		ctx = limited
	}
	return webhookMemory.Acquire(ctx, smallWebhook)
}

func (m *sharedMemory) release() { webhookMemory.Release(m.taken) }

// parseSignature reads the header with the signature.
func parseSignature(header string) ([]byte, bool) {
	digits, ok := strings.CutPrefix(header, signaturePrefix)
	signature, err := hex.DecodeString(digits)
	return signature, ok && err == nil && len(signature) == sha256.Size
}

// signed tells whether any of the app secrets has made the signature. It takes
// the same time whichever it was.
func (a *App) signed(body, signature []byte) bool {
	match := false
	for _, secret := range a.MetaAppSecrets {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(body)
		match = hmac.Equal(mac.Sum(nil), signature) || match
	}
	return match
}

// logWebhook counts a request of Meta's, and writes one line about it where it
// was refused, or stored and unusual.
func (h *Handler) logWebhook(r *http.Request, wh *webhook, f *failure) {
	code := ""
	if f != nil {
		code = f.code
		if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
			extra.Set(zap.String("code", code))
		}
	}
	metrics.webhooks.WithLabelValues(code).Inc()
	level, message := zapcore.DebugLevel, "webhook stored"
	switch {
	case f != nil && f.status >= http.StatusInternalServerError:
		level, message = zapcore.ErrorLevel, "webhook not stored"
	case f != nil:
		level, message = zapcore.InfoLevel, "webhook refused"
	case wh.journaled:
		message = "webhook journaled"
	case wh.intake != nil && len(wh.intake.quarantined) > 0:
		level, message = zapcore.WarnLevel, "webhook quarantined, in part or whole"
	}
	entry := h.logger.Check(level, message)
	if entry == nil {
		return
	}
	fields := []zap.Field{zap.String("request_id", wh.requestID), zap.Duration("duration", time.Since(wh.start))}
	if f != nil {
		fields = append(fields, zap.String("code", code), zap.NamedError("error", f.cause)) // which is left out where it is nil
	}
	if in := wh.intake; in != nil {
		fields = append(fields, zap.Int("changes", in.changes), zap.Int("events", len(in.events)), zap.Int("settled", in.settled))
		if len(in.quarantined) > 0 {
			fields = append(fields, zap.Strings("quarantined", in.quarantined))
		}
	}
	entry.Write(fields...)
}
