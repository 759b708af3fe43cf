// Package gateway is a Caddy plugin that stands between customers' programs and
// Meta's WhatsApp Cloud API: it authenticates a request by its API key, limits
// and charges it, puts the tenant's own Meta token in its place, forwards it
// through Caddy's reverse_proxy, and turns every failure into one JSON envelope.
package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/connexease/caddy-whatsapp-gateway/deadline"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// messagePath is where customers send messages.
const messagePath = "/v1/wa/message"

// Handler answers the gateway's routes; any other path goes to the next handler.
//
// It adds `app_id`, `account_id` and `code` to the access log.
type Handler struct {
	// The version of Meta's Graph API. Default: v23.0.
	GraphVersion string `json:"graph_version,omitempty"`

	// The size limit of a request body in bytes. Default: 131072.
	MaxBodySize int64 `json:"max_body_size,omitempty"`

	// How long a whole exchange with Meta may take. Default: 30s.
	UpstreamTimeout caddy.Duration `json:"upstream_timeout,omitempty"`

	// The reverse proxy that reaches Meta, a reverse_proxy handler. Default: one
	// with the upstream https://graph.facebook.com.
	ReverseProxyRaw json.RawMessage `json:"reverse_proxy,omitempty" caddy:"namespace=http.handlers inline_key=handler"`

	app    *App
	meta   caddyhttp.MiddlewareHandler
	logger *zap.Logger
	// refusals bounds the lines about refused sends.
	refusals *lineLimit
	// deadlines are those of exchanges with Meta.
	deadlines *deadline.Shared
	// reportsConnections: a request that got no connection is known not to be sent.
	reportsConnections bool
}

const (
	defaultGraphVersion    = "v23.0"
	defaultMaxBodySize     = 128 << 10
	maxBodySize            = 16 << 20
	defaultUpstreamTimeout = 30 * time.Second
)

var graphVersion = regexp.MustCompile(`^v[0-9]{1,3}\.[0-9]{1,2}$`)

func checkGraphVersion(version string) error {
	if !graphVersion.MatchString(version) {
		return fmt.Errorf("graph_version is a version such as %s, not %s", defaultGraphVersion, version)
	}
	return nil
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.whatsapp_gateway",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets up the handler.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger, h.refusals = ctx.Logger(), new(lineLimit)
	setDefault(&h.GraphVersion, defaultGraphVersion)
	setDefault(&h.MaxBodySize, defaultMaxBodySize)
	setDefault(&h.UpstreamTimeout, caddy.Duration(defaultUpstreamTimeout))
	h.deadlines = deadline.New(time.Duration(h.UpstreamTimeout))
	app, err := ctx.App(moduleName)
	if err != nil {
		return err
	}
	h.app = app.(*App)
	h.app.longestSend = max(h.app.longestSend, time.Duration(h.UpstreamTimeout))
	if h.ReverseProxyRaw, err = guestConfig(h.ReverseProxyRaw); err != nil {
		return fmt.Errorf("reverse_proxy: %w", err)
	}
	h.reportsConnections = reportsConnections(h.ReverseProxyRaw)
	guest, err := ctx.LoadModule(h, "ReverseProxyRaw")
	if err != nil {
		return fmt.Errorf("loading reverse_proxy: %w", err)
	}
	h.meta = guest.(caddyhttp.MiddlewareHandler)
	return nil
}

// Validate refuses settings that make no sense.
func (h *Handler) Validate() error {
	if err := checkGraphVersion(h.GraphVersion); err != nil {
		return err
	}
	switch {
	case h.MaxBodySize < 0 || h.MaxBodySize > maxBodySize:
		return fmt.Errorf("max_body_size must be between 1 and %d bytes", maxBodySize)
	case h.UpstreamTimeout < 0:
		return fmt.Errorf("upstream_timeout cannot be negative")
	}
	return nil
}

// send is one request on its way through the gateway.
type send struct {
	requestID string
	start     time.Time
	key       tenant.Key
	grant     *openedGrant
	message   message
	// fake: nothing is sent or charged, by query or by a sandbox key.
	fake bool
	// lite: marketing messages have an endpoint of their own.
	lite bool
	// hold is the base fee put aside; empty where the request costs nothing.
	hold store.HoldID
	// fate is what is known of the message at Meta.
	fate      fate
	messageID string
	answer    []byte // Meta's JSON, once it has accepted
	// code is that of the failure, if it has failed.
	code    string
	headers headerValues // of the answer
	room    [320]byte    // for the answer, if it is a usual one
}

// MarshalLogObject implements zapcore.ObjectMarshaler: whose the request was, for
// the access log, if there is one.
func (s *send) MarshalLogObject(line zapcore.ObjectEncoder) error {
	if s.grant != nil {
		line.AddString("app_id", string(s.grant.App.ID))
		line.AddString("account_id", string(s.grant.App.AccountID))
	}
	if s.code != "" {
		line.AddString("code", s.code)
	}
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.URL.Path != messagePath && r.URL.Path != webhookPath {
		return next.ServeHTTP(w, r)
	}
	start := time.Now()
	replacer := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	requestID, _ := replacer.GetString("http.request.uuid")
	if r.URL.Path == webhookPath {
		w.Header().Set("X-Request-Id", requestID)
		return h.answerWebhook(w, r, &webhook{requestID: requestID, start: start})
	}
	s := &send{requestID: requestID, start: start}
	w.Header()["X-Request-Id"] = s.headers.of(requestID)
	refusal := h.serve(w, r, s)
	h.log(r, s, refusal)
	if refusal != nil {
		return refusal.write(w)
	}
	return s.writeSuccess(w)
}

// serve keeps the store open for as long as the request needs it.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, s *send) *failure {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return methodRefused.as(nil)
	}
	if r.TLS != nil && !r.TLS.HandshakeComplete {
		return earlyData.as(nil) // it can be replayed, and the message sent again (RFC 8470)
	}
	if err := h.app.acquire(); err != nil {
		return authFailed.as(err)
	}
	defer h.app.release()
	return h.process(w, r, s)
}

// process is the pipeline. The checks behind the admission are made before it
// and reported after it, so that a request that any of them refuses takes
// nothing from a window or a wallet.
func (h *Handler) process(w http.ResponseWriter, r *http.Request, s *send) *failure {
	if refusal := h.authenticate(r, s); refusal != nil {
		return refusal
	}
	refusal := h.examine(w, r, s)
	if refused := h.admit(w, r, s, refusal); refused != nil {
		return refused
	}
	if refusal != nil {
		return refusal
	}
	if s.fake {
		s.answer = fakeAnswer()
		return nil
	}
	defer h.settle(s)
	return h.forward(w, r, s)
}

// examine makes the checks that need neither the store nor Meta: the request,
// then the credentials.
func (h *Handler) examine(w http.ResponseWriter, r *http.Request, s *send) *failure {
	body, refusal := readBody(w, r, h.MaxBodySize, bodyTimeout)
	if refusal != nil {
		return refusal
	}
	var err error
	if s.message, err = parseMessage(body); err != nil {
		return bodyRefused.because(err.Error())
	}
	if err := s.parseQuery(r.URL.RawQuery); err != nil {
		return bodyRefused.because(err.Error())
	}
	if s.fake = s.fake || s.key.Sandbox(); s.fake {
		return nil
	}
	return s.grant.refusal
}

// parseQuery reads the switches of the query. Who writes is_fake=1 does not mean
// to send, and must not find out by the bill that it was not understood.
func (s *send) parseQuery(raw string) error {
	if raw == "" {
		return nil
	}
	query, err := url.ParseQuery(raw)
	if err != nil {
		return sentence("The query string is malformed.")
	}
	for name, on := range map[string]*bool{"mmlite": &s.lite, "is_fake": &s.fake} {
		for _, value := range query[name] {
			if value != "true" && value != "false" || len(query[name]) > 1 {
				return sentence(fmt.Sprintf("The query parameter %q must be true or false, once.", name))
			}
			*on = value == "true"
		}
	}
	return nil
}

// lastFake is the number in the id of the last sandbox send.
var lastFake atomic.Int64

// fakeAnswer is what a sandbox send is answered. Its id is the time in
// nanoseconds, or the next number where that is taken.
func fakeAnswer() []byte {
	for {
		last := lastFake.Load()
		id := max(time.Now().UnixNano(), last+1)
		if lastFake.CompareAndSwap(last, id) {
			return []byte(`{"messaging_product":"whatsapp","messages":[{"id":"wamid.FAKE_` + strconv.FormatInt(id, 10) + `"}]}`)
		}
	}
}

// appID is who sends; empty where the key is unknown.
func (s *send) appID() tenant.AppID {
	if s.grant == nil {
		return ""
	}
	return s.grant.App.ID
}

// log writes one line about a request that did not succeed, and tells the
// access log whose it was.
func (h *Handler) log(r *http.Request, s *send, f *failure) {
	// A server without an access log needs no fields for it, which are not for nothing.
	if server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok && server.Logs != nil {
		extra := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
		extra.Add(zap.Inline(s))
	}
	if f == nil {
		return
	}
	s.code = f.code
	level, message := zapcore.InfoLevel, "send refused"
	switch {
	case errors.Is(f.cause, context.Canceled):
		message = "client went away"
	case f.problem == upstreamFailed:
		level, message = zapcore.WarnLevel, "send failed at meta"
	case f.status >= http.StatusInternalServerError:
		level, message = zapcore.ErrorLevel, "send failed"
	}
	entry := h.logger.Check(level, message)
	if entry == nil {
		return
	}
	suppressed := 0
	if level == zapcore.InfoLevel {
		var ok bool
		if suppressed, ok = h.refusals.allow(refusals{s.appID(), f.code}, time.Now()); !ok {
			return
		}
	}
	fields := []zap.Field{
		zap.String("code", f.code),
		zap.String("request_id", s.requestID),
		zap.Duration("duration", time.Since(s.start)),
	}
	if s.grant != nil {
		fields = append(fields, zap.String("app_id", string(s.grant.App.ID)), zap.String("key_id", string(s.grant.KeyID)))
	}
	if s.hold != "" {
		fields = append(fields, zap.String("hold_id", string(s.hold)))
	}
	if params, ok := f.params.(*upstreamParams); ok {
		fields = append(fields, zap.Intp("meta_code", params.Code), zap.Int("meta_status", params.Status), zap.Bool("retry_safe", params.RetrySafe))
	}
	if f.cause != nil {
		fields = append(fields, zap.Error(f.cause))
	}
	if suppressed > 0 {
		fields = append(fields, zap.Int("suppressed", suppressed))
	}
	entry.Write(fields...)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
