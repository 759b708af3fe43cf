package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// defaultUpstream is where Meta's Graph API is dialled.
const defaultUpstream = "graph.facebook.com:443"

// object is a JSON object that is read for a few of its members and otherwise
// left as it is.
type object = map[string]any

// guestConfig completes the configuration of the embedded reverse_proxy: the
// upstream, where none is given, and what keeps the gateway's promises whatever
// else is configured. Nothing of the client reaches Meta, and nothing is sent
// twice.
func guestConfig(raw json.RawMessage) (json.RawMessage, error) {
	guest := object{}
	if raw != nil {
		decoder := json.NewDecoder(bytes.NewReader(raw))
		decoder.UseNumber()
		if err := decoder.Decode(&guest); err != nil {
			return nil, err
		}
	}
	if handler, ok := guest["handler"]; ok && handler != "reverse_proxy" {
		return nil, fmt.Errorf("the handler must be reverse_proxy, not %v", handler)
	}
	guest["handler"] = "reverse_proxy"

	balancing, _ := guest["load_balancing"].(object)
	if balancing["retry_match"] != nil {
		return nil, errors.New("retry_match (lb_retry_match) would send a message twice; only failed dials may be retried")
	}

	transport, err := member(guest, "transport")
	if err != nil {
		return nil, err
	}
	if transport["protocol"] == nil {
		transport["protocol"] = "http"
	}
	http := transport["protocol"] == "http"
	if guest["upstreams"] == nil && guest["dynamic_upstreams"] == nil {
		guest["upstreams"] = []any{object{"dial": defaultUpstream}}
		if http && transport["tls"] == nil {
			transport["tls"] = object{}
		}
	}
	if http && transport["compression"] == nil {
		// With compression the transport would ask for it in a header of its own.
		transport["compression"] = false
	}
	if err := setHeaders(guest); err != nil {
		return nil, err
	}
	return json.Marshal(guest)
}

// setHeaders takes out the one header that reverse_proxy adds and that cannot be
// kept out of the request, and has Meta addressed by its own name.
func setHeaders(guest object) error {
	headers, err := member(guest, "headers")
	if err != nil {
		return err
	}
	request, err := member(headers, "request")
	if err != nil {
		return err
	}
	remove, _ := request["delete"].([]any)
	request["delete"] = append(slices.Clone(remove), "Via")
	set, err := member(request, "set")
	if err != nil {
		return err
	}
	if set["Host"] == nil {
		set["Host"] = []any{"{http.reverse_proxy.upstream.hostport}"}
	}
	return nil
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
			Protocol string   `json:"protocol"`
			Versions []string `json:"versions"`
		} `json:"transport"`
	}
	err := json.Unmarshal(guest, &config)
	return err == nil && config.Transport.Protocol == "http" && !slices.Contains(config.Transport.Versions, "3")
}
