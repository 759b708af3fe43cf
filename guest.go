package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// defaultUpstream is where Meta's Graph API is dialled.
const defaultUpstream = "graph.facebook.com:443"

// keptConnections is how many connections without a request are kept for the next
// ones, unless that is configured. Caddy's 32 are few where each send waits a
// tenth of a second for Meta: the others would dial for every send.
const keptConnections = 512

// object is a JSON object that is read for a few of its members and otherwise
// left as it is.
type object = map[string]any

// guestConfig completes the configuration of the embedded reverse_proxy: the
// upstream, where none is given, and what keeps the gateway's promises whatever
// else is configured. Nothing of the client reaches Meta, and nothing is sent
// twice.
func guestConfig(raw json.RawMessage) (json.RawMessage, error) {
	guest, err := canonicalGuest(raw)
	if err != nil {
		return nil, err
	}
	balancing, _ := guest["load_balancing"].(object)
	if balancing["retry_match"] != nil {
		return nil, errors.New("retry_match (lb_retry_match) would send a message twice; only failed dials may be retried")
	}
	inner, err := member(guest, "transport")
	if err != nil {
		return nil, err
	}
	if inner["protocol"] == nil {
		inner["protocol"] = "http"
	}
	http := inner["protocol"] == "http"
	if guest["upstreams"] == nil && guest["dynamic_upstreams"] == nil {
		guest["upstreams"] = []any{object{"dial": defaultUpstream}}
		if http && inner["tls"] == nil {
			inner["tls"] = object{}
		}
	}
	if http && inner["compression"] == nil {
		// With compression the transport would ask for it in a header of its own.
		inner["compression"] = false
	}
	if http {
		kept, err := member(inner, "keep_alive")
		if err != nil {
			return nil, err
		}
		if kept["max_idle_conns_per_host"] == nil {
			kept["max_idle_conns_per_host"] = keptConnections
		}
	}
	guest["transport"] = object{"protocol": transportName, "transport": inner}
	if err := setHost(guest); err != nil {
		return nil, err
	}
	return json.Marshal(guest)
}

// setHost has Meta addressed by its own name where the configuration works on headers,
// perhaps on this one. [Transport] does so for the others, which costs less.
func setHost(guest object) error {
	if headers, _ := guest["headers"].(object); headers["request"] == nil {
		return nil
	}
	headers, err := member(guest, "headers")
	if err != nil {
		return err
	}
	request, err := member(headers, "request")
	if err != nil {
		return err
	}
	set, err := member(request, "set")
	if err == nil && set["Host"] == nil {
		set["Host"] = []any{"{http.reverse_proxy.upstream.hostport}"}
	}
	return err
}

// canonicalGuest returns a reverse_proxy's configuration with its members in
// their own letter case, of which Go's decoder takes any: what is looked for
// would else be missed.
func canonicalGuest(raw json.RawMessage) (object, error) {
	given := object{}
	if raw != nil {
		if err := unmarshalNumbers(raw, &given); err != nil {
			return nil, err
		}
	}
	if handler, ok := given["handler"]; ok && handler != "reverse_proxy" {
		return nil, fmt.Errorf("the handler must be reverse_proxy, not %v", handler)
	}
	delete(given, "handler")
	stripped, err := json.Marshal(given)
	if err != nil {
		return nil, err
	}
	var typed reverseproxy.Handler
	if err := caddy.StrictUnmarshalJSON(stripped, &typed); err != nil {
		return nil, err
	}
	canonical := object{}
	if err := unmarshalNumbers(caddyconfig.JSONModuleObject(&typed, "handler", "reverse_proxy", nil), &canonical); err != nil {
		return nil, err
	}
	return canonical, nil
}

// unmarshalNumbers decodes JSON and keeps numbers as they are written.
func unmarshalNumbers(raw json.RawMessage, into *object) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	return decoder.Decode(into)
}

// member returns the object of this name in o, which it makes where there is none.
func member(o object, name string) (object, error) {
	if o[name] == nil {
		o[name] = object{}
	}
	m, ok := o[name].(object)
	if !ok {
		return nil, fmt.Errorf("%s must be an object", name)
	}
	return m, nil
}

// reportsConnections tells whether the guest's transport says when a request got
// a connection, which is what makes sure that one without was not sent. The
// transport module "http" does, for HTTP/1.1 and HTTP/2.
func reportsConnections(guest json.RawMessage) bool {
	var config struct {
		Transport struct {
			Inner struct {
				Protocol string   `json:"protocol"`
				Versions []string `json:"versions"`
			} `json:"transport"`
		} `json:"transport"`
	}
	err := json.Unmarshal(guest, &config)
	inner := config.Transport.Inner
	return err == nil && inner.Protocol == "http" && !slices.Contains(inner.Versions, "3")
}
