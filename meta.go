package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// userAgent is what Meta knows the gateway by.
const userAgent = "caddy-whatsapp-gateway"

// maxAnswerSize is how much of Meta's answer is read; its answers to a message
// are a few hundred bytes.
const maxAnswerSize = 1 << 20

// answerHeaders are those of Meta's that a client gets.
var answerHeaders = []string{"X-Fb-Trace-Id", "X-Business-Use-Case-Usage", "X-App-Usage", "Retry-After"}

// exchange is one send's exchange with Meta, and the context of the guest's part in
// it: all that it takes in one piece of memory.
type exchange struct {
	// The timeout. That the client goes away is not in it.
	context.Context
	// client is where to find what Caddy's server knows of the request.
	client context.Context
	send   *send
	// replacer is the guest's own: its placeholders know nothing of the client's request.
	replacer *caddy.Replacer
	// connected: the request may have touched a connection.
	connected atomic.Bool
	trace     httptrace.ClientTrace
	// tried: there was an attempt that may have brought the request to Meta.
	tried    bool
	url      url.URL
	headers  headerValues
	body     sendBody
	outgoing bytes.Reader // of what is sent
	recorder recorder
}

// exchangeKey is where the context of a request to Meta has its exchange.
type exchangeKey struct{}

// Value implements context.Context.
func (x *exchange) Value(key any) any {
	switch key {
	case caddy.ReplacerCtxKey:
		return x.replacer
	case exchangeKey{}:
		return x
	}
	if value := x.Context.Value(key); value != nil { // the context package's own
		return value
	}
	return x.client.Value(key)
}

// sendBody is a body for the guest. What goes to Meta is put in by [Transport].
type sendBody struct{ bytes.Reader }

// Close implements io.Closer.
func (*sendBody) Close() error { return nil }

// forward sends the message to Meta and reads the answer. From here on the
// client's going away changes nothing: what has begun is finished and settled.
func (h *Handler) forward(w http.ResponseWriter, r *http.Request, s *send) *failure {
	ctx := h.deadlines.Next()
	x := &exchange{Context: ctx, client: r.Context(), send: s, replacer: caddy.NewReplacer()}
	x.recorder.header = make(http.Header)
	err := x.run(h.meta, h.metaRequest(x, r))
	switch {
	case x.recorder.overflow:
		err = errOversize
	case err != nil && ctx.Err() != nil:
		err = ctx.Err() // however it showed, time is up
	}
	if err != nil || x.recorder.status == 0 {
		return h.undelivered(s, err, x.recorder.status, x.connected.Load())
	}
	for _, name := range answerHeaders {
		if values := x.recorder.header[name]; values != nil {
			w.Header()[name] = values
		}
	}
	return s.judge(&x.recorder)
}

// metaRequest is the request to Meta: made anew, so that nothing of the
// client's comes along but what is put here. [Transport] adds the access token.
func (h *Handler) metaRequest(x *exchange, r *http.Request) *http.Request {
	s := x.send
	if s.hold != "" {
		s.message.body = s.message.withHold(s.hold)
	}
	endpoint := "/messages"
	if s.lite {
		endpoint = "/marketing_messages"
	}
	path := "/" + h.GraphVersion + "/" + s.grant.App.PhoneNumberID + endpoint
	x.url.Path = path
	x.body.Reset(s.message.body)
	req := noRequest.WithContext(x.traced())
	req.Method, req.URL, req.RequestURI = http.MethodPost, &x.url, path
	req.Proto, req.ProtoMajor, req.ProtoMinor = "HTTP/1.1", 1, 1
	req.Header = http.Header{
		"Accept":       x.headers.of("application/json"),
		"Content-Type": x.headers.of("application/json"),
		"User-Agent":   x.headers.of(userAgent),
		// A name without a value keeps reverse_proxy from setting it.
		"X-Forwarded-For":   nil,
		"X-Forwarded-Host":  nil,
		"X-Forwarded-Proto": nil,
	}
	req.Body, req.ContentLength = &x.body, int64(len(s.message.body))
	req.RemoteAddr = r.RemoteAddr
	return req
}

// noRequest is what a request is made from that has a context from the beginning: net/http copies it.
var noRequest = new(http.Request)

// traced is the context with a trace that notes when the request may have touched
// a connection. An established connection has its TLS handshake behind it, so a
// request that never got one was not sent. GotConn is called before any
// byte is written; the others are there should it ever not be.
func (x *exchange) traced() context.Context {
	touched := func() { x.connected.Store(true) }
	x.trace = httptrace.ClientTrace{
		GotConn:              func(httptrace.GotConnInfo) { x.connected.Store(true) },
		WroteHeaders:         touched,
		GotFirstResponseByte: touched,
	}
	return httptrace.WithClientTrace(x, &x.trace)
}

// errAborted means that the answer broke off.
var errAborted = errors.New("the answer broke off")

// run has the guest serve req. An answer that breaks off makes the guest
// panic with http.ErrAbortHandler, as net/http asks of proxies.
func (x *exchange) run(guest caddyhttp.MiddlewareHandler, req *http.Request) (err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			err = errAborted
		default:
			panic(p)
		}
	}()
	return guest.ServeHTTP(&x.recorder, req, emptyHandler)
}

// emptyHandler is what comes behind the guest.
var emptyHandler = caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })

// The descriptions of what went wrong on the way to Meta. They tell nothing of
// addresses or of what the other side wrote.
const (
	metaUnreachable = "Meta could not be reached. The message was not sent."
	metaInsecure    = "No secure connection to Meta could be made. The message was not sent."
	metaTimeout     = "Meta did not answer in time. The message may have been sent."
	metaBroke       = "The connection to Meta broke. The message may have been sent."
	metaOversize    = "Meta's answer is too large. The message may have been sent."
	metaUnclear     = "Meta's answer could not be understood. The message may have been sent."
)

// undelivered is the failure of an exchange that brought no whole answer. status
// is that of the answer's beginning, 0 where there was none.
func (h *Handler) undelivered(s *send, err error, status int, connected bool) *failure {
	dialFailed := errors.As(err, new(reverseproxy.DialError))
	if dialFailed || !connected && status == 0 && h.reportsConnections {
		s.fate = refused
		f := upstreamFailed.because(metaUnreachable)
		if !dialFailed && isTLSError(err) {
			f.description = metaInsecure
		}
		f.params = &upstreamParams{RetrySafe: true}
		f.cause = err // before a connection stands, the other side has no word in it
		return f
	}
	description := metaBroke
	switch {
	case errors.Is(err, errOversize):
		description = metaOversize
	case isTimeout(err):
		description = metaTimeout
	}
	return unclear(description, status)
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

func isTLSError(err error) bool {
	return errors.As(err, new(*tls.CertificateVerificationError)) ||
		errors.As(err, new(tls.RecordHeaderError)) || errors.As(err, new(tls.AlertError))
}
