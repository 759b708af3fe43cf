package gateway

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGuestKeepsWhatIsConfiguredAndAddsWhatIsPromised(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"nothing": {
			``,
			`{"handler":"reverse_proxy","upstreams":[{"dial":"graph.facebook.com:443"}],
			"transport":{"protocol":"whatsapp_gateway","transport":{"protocol":"http","tls":{},"compression":false,"keep_alive":{"max_idle_conns_per_host":512}}}}`,
		},
		"an upstream in the clear": {
			`{"handler":"reverse_proxy","upstreams":[{"dial":"127.0.0.1:1"}]}`,
			`{"handler":"reverse_proxy","upstreams":[{"dial":"127.0.0.1:1"}],
			"transport":{"protocol":"whatsapp_gateway","transport":{"protocol":"http","compression":false,"keep_alive":{"max_idle_conns_per_host":512}}}}`,
		},
		"everything already, in another letter case": {
			`{"Upstreams":[{"dial":"a:1"}],"Transport":{"protocol":"http","compression":true,"keep_alive":{"max_idle_conns_per_host":7}},"Headers":{"request":{"set":{"Host":["h"]},"delete":["X"]}}}`,
			`{"handler":"reverse_proxy","upstreams":[{"dial":"a:1"}],
			"transport":{"protocol":"whatsapp_gateway","transport":{"protocol":"http","compression":true,"keep_alive":{"max_idle_conns_per_host":7}}},
			"headers":{"request":{"delete":["X"],"set":{"Host":["h"]}}}}`,
		},
		"work on headers": {
			`{"upstreams":[{"dial":"a:1"}],"headers":{"request":{"replace":{"Host":[{"search":":1","replace":""}]}}}}`,
			`{"handler":"reverse_proxy","upstreams":[{"dial":"a:1"}],
			"transport":{"protocol":"whatsapp_gateway","transport":{"protocol":"http","compression":false,"keep_alive":{"max_idle_conns_per_host":512}}},
			"headers":{"request":{"set":{"Host":["{http.reverse_proxy.upstream.hostport}"]},"replace":{"Host":[{"search":":1"}]}}}}`,
		},
		"another transport": {
			`{"upstreams":[{"dial":"a:1"}],"transport":{"protocol":"fastcgi"}}`,
			`{"handler":"reverse_proxy","upstreams":[{"dial":"a:1"}],"transport":{"protocol":"whatsapp_gateway","transport":{"protocol":"fastcgi"}}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var raw json.RawMessage
			if tc.in != "" {
				raw = json.RawMessage(tc.in)
			}
			got, err := guestConfig(raw)
			if err != nil {
				t.Fatal(err)
			}
			var gotValue, wantValue any
			if err := json.Unmarshal(got, &gotValue); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(tc.want), &wantValue); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(wantValue, gotValue); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestGuestsThatWouldBreakAPromiseAreRefused(t *testing.T) {
	for in, want := range map[string]string{
		`{"handler":"static_response"}`:                                    "must be reverse_proxy",
		`{"load_balancing":{"retry_match":[{"method":["POST"]}]}}`:         "send a message twice",
		`{"load_balancing":{"Retry_Match":[{"method":["POST"]}]}}`:         "send a message twice",
		`{"Load_Balancing":{"retries":3,"RETRY_MATCH":[{"path":["/*"]}]}}`: "send a message twice",
		`{"upstream":[]}`:   "unknown field",
		`{"transport":"x"}`: "must be an object",
		`{"transport":{"protocol":"http","keep_alive":1}}`: "must be an object",
		`[]`: "cannot unmarshal",
	} {
		if _, err := guestConfig(json.RawMessage(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
}

func TestOnlyTheStandardTransportReportsConnections(t *testing.T) {
	for in, want := range map[string]bool{
		`{}`:                                true,
		`{"transport":{"protocol":"http"}}`: true,
		`{"transport":{"protocol":"http","versions":["3"]}}`: false,
		`{"transport":{"protocol":"http","Versions":["3"]}}`: false,
		`{"transport":{"protocol":"fastcgi"}}`:               false,
	} {
		config, err := guestConfig(json.RawMessage(in))
		if err != nil {
			t.Fatal(err)
		}
		if got := reportsConnections(config); got != want {
			t.Errorf("%s: %v", in, got)
		}
	}
}
