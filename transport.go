package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
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
	return nil
}

// sendKey is where the context of a request to Meta has its send.
type sendKey struct{}

// codingHeaders are those of an answer that it takes to read it.
var codingHeaders = []string{"Content-Encoding", "Content-Length", "Content-Type"}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	s, ok := r.Context().Value(sendKey{}).(*send)
	if !ok { // a health check
		return t.inner.RoundTrip(r)
	}
	outgoing := *r
	outgoing.Header = r.Header.Clone()
	outgoing.Header.Set("Authorization", bearer+s.grant.token)
	answer, err := t.inner.RoundTrip(&outgoing)
	if err != nil {
		return nil, err
	}
	kept := make(http.Header)
	for _, name := range codingHeaders {
		if values := answer.Header[name]; values != nil {
			kept[name] = values
		}
	}
	for _, name := range answerHeaders {
		for _, value := range answer.Header[name] {
			kept.Add(name, s.mask(value))
		}
	}
	answer.Header = kept
	return answer, nil
}

// withSend gives the transport what it needs to know of a send.
func withSend(ctx context.Context, s *send) context.Context {
	return context.WithValue(ctx, sendKey{}, s)
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
