package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

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

// forward sends the message to Meta and reads the answer. From here on the
// client's going away changes nothing: what has begun is finished and settled.
func (h *Handler) forward(w http.ResponseWriter, r *http.Request, s *send) *failure {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), time.Duration(h.UpstreamTimeout))
	defer cancel()
	connected := new(atomic.Bool)
	// The guest's placeholders know nothing of the client's request.
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx = withSend(ctx, s)
	ctx = httptrace.WithClientTrace(ctx, connectionTrace(connected))

	recorder := &recorder{header: make(http.Header)}
	err := exchange(h.meta, recorder, h.metaRequest(ctx, r, s))
	switch {
	case recorder.overflow:
		err = errOversize
	case err != nil && ctx.Err() != nil:
		err = ctx.Err() // however it showed, time is up
	}
	if err != nil || recorder.status == 0 {
		return h.undelivered(s, err, recorder.status, connected.Load())
	}
	for _, name := range answerHeaders {
		if values := recorder.header[name]; values != nil {
			w.Header()[name] = values
		}
	}
	return s.judge(recorder)
}

// metaRequest is the request to Meta: made anew, so that nothing of the
// client's comes along but what is put here. [Transport] adds the access token.
func (h *Handler) metaRequest(ctx context.Context, r *http.Request, s *send) *http.Request {
	body := s.message.body
	if s.hold != "" {
		body = s.message.withHold(s.hold)
	}
	endpoint := "/messages"
	if s.lite {
		endpoint = "/marketing_messages"
	}
	path := "/" + h.GraphVersion + "/" + s.grant.App.PhoneNumberID + endpoint
	req := &http.Request{
		Method: http.MethodPost,
		URL:    &url.URL{Path: path},
		Proto:  "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{
			"Accept":       {"application/json"},
			"Content-Type": {"application/json"},
			"User-Agent":   {userAgent},
			// A name without a value keeps reverse_proxy from setting it.
			"X-Forwarded-For":   nil,
			"X-Forwarded-Host":  nil,
			"X-Forwarded-Proto": nil,
		},
		Body:          io.NopCloser(bytes.NewReader(body)),
		ContentLength: int64(len(body)),
		RemoteAddr:    r.RemoteAddr,
		RequestURI:    path,
	}
	return req.WithContext(ctx)
}

// connectionTrace sets connected as soon as the request may have touched a
// connection. An established connection has its TLS handshake behind it, so
// a request that never got one was not sent.
func connectionTrace(connected *atomic.Bool) *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GotConn:              func(httptrace.GotConnInfo) { connected.Store(true) },
		WroteHeaderField:     func(string, []string) { connected.Store(true) },
		WroteHeaders:         func() { connected.Store(true) },
		WroteRequest:         func(httptrace.WroteRequestInfo) { connected.Store(true) },
		GotFirstResponseByte: func() { connected.Store(true) },
	}
}

// errAborted means that the answer broke off.
var errAborted = errors.New("the answer broke off")

// exchange has the guest serve req. An answer that breaks off makes the guest
// panic with http.ErrAbortHandler, as net/http asks of proxies.
func exchange(guest caddyhttp.MiddlewareHandler, w http.ResponseWriter, req *http.Request) (err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			err = errAborted
		default:
			panic(p)
		}
	}()
	return guest.ServeHTTP(w, req, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil }))
}

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
