package gateway

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap/zapcore"
)

func init() {
	caddy.RegisterModule(Transport{})
}

// Transport is the last hop to Meta. It stands around the transport of the
// embedded reverse_proxy, puts in the access token on the way out, and takes out
// of an answer the headers that nobody may have: reverse_proxy logs requests and
// answers at level DEBUG, and Meta repeats tokens in its headers. The gateway
// configures it by itself.
type Transport struct {
	// The transport that it stands around.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	inner http.RoundTripper
	// quiet: what reverse_proxy logs at level DEBUG is not written.
	quiet bool
}

// transportName is what the module is called among transports.
const transportName = moduleName

// CaddyModule returns the Caddy module information.
func (Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport." + transportName,
		New: func() caddy.Module { return new(Transport) },
	}
}

// Provision loads the transport within.
func (t *Transport) Provision(ctx caddy.Context) error {
	inner, err := ctx.LoadModule(t, "TransportRaw")
	if err != nil {
		return err
	}
	t.inner = inner.(http.RoundTripper)
	t.quiet = !ctx.Logger(new(reverseproxy.Handler)).Core().Enabled(zapcore.DebugLevel)
	return nil
}

// errOnce means that a message was to be sent that may have been sent.
var errOnce = errors.New("a message is sent once")

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	x, ok := r.Context().Value(exchangeKey{}).(*exchange)
	if !ok { // a health check
		return t.inner.RoundTrip(r)
	}
	if x.tried {
		return nil, errOnce
	}
	answer, err := t.inner.RoundTrip(x.asSent(r))
	if err != nil {
		// What was not dialled may be tried with the next upstream.
		x.tried = !errors.As(err, new(reverseproxy.DialError))
		return nil, err
	}
	x.tried = true
	x.send.clean(answer.Header)
	if t.quiet {
		// reverse_proxy would encode them for each answer, in case it has to log something. Of that nothing but a
		// warning of an answer that broke off is left, which then has none.
		r.Header = nil
	}
	return answer, nil
}

// asSent is the request as Meta gets it. The original is logged.
func (x *exchange) asSent(r *http.Request) *http.Request {
	out := *r
	out.Header = make(http.Header, len(r.Header)+1)
	for name, values := range r.Header {
		if name != "Via" && len(values) > 0 {
			out.Header[name] = values
		}
	}
	out.Header["Authorization"] = x.headers.of(x.send.grant.authorization)
	if out.Host == "" {
		upstream, _ := reverseproxy.GetDialInfo(r.Context())
		out.Host = upstream.Address
	}
	// Of a reader that net/http knows it sends headers and body in one piece. It
	// cannot send this one twice, as there is no GetBody.
	if body := x.send.message.body; r.Body != nil && r.ContentLength == int64(len(body)) {
		x.outgoing.Reset(body)
		out.Body = io.NopCloser(&x.outgoing)
		// A handler behind the guest finds nothing left that it could send once more.
		_, _ = x.body.Seek(0, io.SeekEnd) // a reader of memory does not fail
	}
	return &out
}

// codingHeaders are those of an answer that it takes to read it.
var codingHeaders = []string{"Content-Encoding", "Content-Length", "Content-Type"}

// clean takes out of an answer's headers what nobody may have.
func (s *send) clean(header http.Header) {
	for name, values := range header {
		switch {
		case slices.Contains(codingHeaders, name):
		case slices.Contains(answerHeaders, name):
			for i := range values {
				values[i] = s.mask(values[i])
			}
		default:
			delete(header, name)
		}
	}
}

// OverrideHealthCheckScheme implements reverseproxy.HealthCheckSchemeOverriderTransport.
func (t *Transport) OverrideHealthCheckScheme(base *url.URL, port string) {
	if inner, ok := t.inner.(reverseproxy.HealthCheckSchemeOverriderTransport); ok {
		inner.OverrideHealthCheckScheme(base, port)
	}
}

// ProxyProtocolEnabled implements reverseproxy.ProxyProtocolTransport.
func (t *Transport) ProxyProtocolEnabled() bool {
	inner, ok := t.inner.(reverseproxy.ProxyProtocolTransport)
	return ok && inner.ProxyProtocolEnabled()
}

// Interface guards
var (
	_ caddy.Provisioner                                = (*Transport)(nil)
	_ http.RoundTripper                                = (*Transport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*Transport)(nil)
	_ reverseproxy.ProxyProtocolTransport              = (*Transport)(nil)
)
