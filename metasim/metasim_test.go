package metasim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/google/go-cmp/cmp"
)

func TestAnswersAsMetaDoes(t *testing.T) {
	const (
		marketing  = "/v23.0/" + phoneID + "/marketing_messages"
		noProduct  = `{"error":{"message":"(#100) The parameter messaging_product is required.","type":"OAuthException","code":100}}`
		noType     = `{"error":{"message":"(#100) The parameter type is required.","type":"OAuthException","code":100}}`
		badToken   = `{"error":{"message":"Invalid OAuth access token - Cannot parse access token","type":"OAuthException","code":190}}`
		noToken    = `{"error":{"message":"Authentication Error","type":"OAuthException","code":190}}`
		wrongThing = `{"error":{"message":"Unsupported %s request. Object with ID '%s' does not exist, cannot be loaded due to missing permissions, ` +
			`or does not support this operation. Please read the Graph API documentation at https://developers.facebook.com/docs/graph-api",` +
			`"type":"GraphMethodException","code":100,"error_subcode":33}}`
		accepted = `{"messaging_product":"whatsapp","contacts":[{"input":"+1 555 010 4477","wa_id":"15550104477"}],"messages":[{"id":"wamid."}]}`
		template = `{"messaging_product":"whatsapp","to":"15550104477","type":"template","template":{"name":"x"}}`
	)
	tests := []struct {
		name   string
		path   string
		body   string
		change func(*http.Request)
		status int
		want   string
	}{
		{name: "text", body: textTo("+1 555 010 4477"), status: 200, want: accepted},
		{
			name: "number as recipient", body: `{"messaging_product":"whatsapp","to":15550104477,"type":"text","text":{}}`, status: 200,
			want: `{"messaging_product":"whatsapp","contacts":[{"input":"15550104477","wa_id":"15550104477"}],"messages":[{"id":"wamid."}]}`,
		},
		{
			name: "last of repeated members", body: `{"to":"1","TO":"2","messaging_product":"whatsapp","type":"text","text":{},"to":"+1 555 010 4477"}`,
			status: 200, want: accepted,
		},
		{
			name: "business-scoped user id", body: `{"messaging_product":"whatsapp","recipient":"US.13491208655302741918","type":"text","text":{}}`,
			status: 200, want: `{"messaging_product":"whatsapp","contacts":[{"input":"US.13491208655302741918","user_id":"US.13491208655302741918"}],"messages":[{"id":"wamid."}]}`,
		},
		{
			name: "template", body: template, status: 200,
			want: `{"messaging_product":"whatsapp","contacts":[{"input":"15550104477","wa_id":"15550104477"}],"messages":[{"id":"wamid.","message_status":"accepted"}]}`,
		},
		{
			name: "marketing message", path: marketing, body: template, status: 200,
			want: `{"messaging_product":"whatsapp","contacts":[{"input":"15550104477","wa_id":"15550104477"}],"messages":[{"id":"wamid.","message_status":"accepted"}]}`,
		},
		{
			name: "marketing message that is no template", path: marketing, body: textTo("15550104477"), status: 400,
			want: `{"error":{"message":"(#100) Param type must be one of {TEMPLATE} - got \"text\".","type":"OAuthException","code":100}}`,
		},
		{name: "read", body: `{"messaging_product":"whatsapp","status":"read","message_id":"wamid.1"}`, status: 200, want: `{"success":true}`},
		{
			name: "typing", body: `{"messaging_product":"whatsapp","status":"read","message_id":"wamid.1","typing_indicator":{"type":"text"}}`,
			status: 200, want: `{"success":true}`,
		},
		{
			name: "read of nothing", body: `{"messaging_product":"whatsapp","status":"read"}`, status: 400,
			want: `{"error":{"message":"(#100) The parameter message_id is required.","type":"OAuthException","code":100}}`,
		},
		{name: "no product", body: `{"to":"1","type":"text","text":{}}`, status: 400, want: noProduct},
		{name: "product in another letter case", body: `{"Messaging_product":"whatsapp"}`, status: 400, want: noProduct},
		{name: "not JSON", body: `{"messaging_product":"whatsapp"`, status: 400, want: noProduct},
		{name: "no object", body: `["whatsapp"]`, status: 400, want: noProduct},
		{name: "empty", status: 400, want: noProduct},
		{
			name: "no JSON by its type", body: textTo("1"), status: 400, want: noProduct,
			change: func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") },
		},
		{
			name: "other product", body: `{"messaging_product":"messenger"}`, status: 400,
			want: `{"error":{"message":"(#100) Param messaging_product must be one of {WHATSAPP} - got \"messenger\".","type":"OAuthException","code":100}}`,
		},
		{
			name: "no recipient", body: `{"messaging_product":"whatsapp","type":"text","text":{}}`, status: 400,
			want: `{"error":{"message":"(#100) The parameter to is required.","type":"OAuthException","code":100}}`,
		},
		{name: "no type", body: `{"messaging_product":"whatsapp","to":"1"}`, status: 400, want: noType},
		{name: "type that is an object", body: `{"messaging_product":"whatsapp","to":"1","type":{}}`, status: 400, want: noType},
		{
			name: "unknown type", body: `{"messaging_product":"whatsapp","to":"1","type":"fax"}`, status: 400,
			want: `{"error":{"message":"(#100) Param type must be one of {AUDIO, CONTACTS, DOCUMENT, IMAGE, INTERACTIVE, LOCATION, REACTION, STICKER, TEMPLATE, TEXT, VIDEO} - got \"fax\".","type":"OAuthException","code":100}}`,
		},
		{
			name: "no content", body: `{"messaging_product":"whatsapp","to":"1","type":"text","text":"hello"}`, status: 400,
			want: `{"error":{"message":"(#100) The parameter text is required.","type":"OAuthException","code":100}}`,
		},
		{
			name: "no token", body: textTo("1"), status: 401, want: noToken,
			change: func(r *http.Request) { r.Header.Del("Authorization") },
		},
		{
			name: "other scheme", body: textTo("1"), status: 401, want: noToken,
			change: func(r *http.Request) { r.SetBasicAuth("EAA", "EAA") },
		},
		{
			name: "token that is not Meta's", body: textTo("1"), status: 401, want: badToken,
			change: func(r *http.Request) { r.Header.Set("Authorization", "Bearer pk_1") },
		},
		{name: "phone number ID with letters", path: "/v23.0/x1/messages", body: textTo("1"), status: 400, want: fmt.Sprintf(wrongThing, "post", "x1")},
		{
			name: "GET", status: 400, want: fmt.Sprintf(wrongThing, "get", phoneID),
			change: func(r *http.Request) { r.Method = http.MethodGet },
		},
		{
			name: "unknown path", path: "/v23.0/" + phoneID + "/media", status: 404,
			want: `{"error":{"message":"Unknown path components: /v23.0/` + phoneID + `/media","type":"OAuthException","code":2500}}`,
		},
		{
			name: "path without version", path: "/" + phoneID + "/messages", status: 404,
			want: `{"error":{"message":"Unknown path components: /` + phoneID + `/messages","type":"OAuthException","code":2500}}`,
		},
		{
			name: "too large", body: strings.Repeat(" ", maxBody+1), status: 413,
			want: `{"error":{"message":"The request is too large.","type":"OAuthException","code":1}}`,
		},
	}
	m := startMeta(t, new(MetaSimulator), false)
	sends, reads := 0, 0
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := test.path
			if path == "" {
				path = sendPath
			}
			r := m.post(path, test.body)
			if test.change != nil {
				test.change(r)
			}
			resp, body := m.do(r)
			switch {
			case test.want == `{"success":true}`:
				reads++
			case test.status != http.StatusNotFound && r.Method == http.MethodPost:
				sends++
			}
			if got := m.counted(); got.Reads != reads || got.Accepted+got.Refused != sends {
				t.Errorf("counted %d reads and %d sends, want %d and %d", got.Reads, got.Accepted+got.Refused, reads, sends)
			}
			if resp.StatusCode != test.status {
				t.Errorf("status is %d, want %d", resp.StatusCode, test.status)
			}
			if diff := cmp.Diff(object(t, []byte(test.want)), withoutChance(t, body)); diff != "" {
				t.Error(diff)
			}
			if got := resp.Header.Get("Content-Type"); got != "application/json; charset=UTF-8" {
				t.Errorf("Content-Type is %q", got)
			}
		})
	}
}

func TestCallbackDataOver512CharactersIsRefused(t *testing.T) {
	m := startMeta(t, new(MetaSimulator), false)
	for _, test := range []struct {
		characters, status int
	}{{512, 200}, {513, 400}} {
		data := strings.Repeat("ş", test.characters) // characters, not bytes, are counted
		resp, body := m.do(m.post(sendPath, fmt.Sprintf(
			`{"messaging_product":"whatsapp","to":"1","type":"text","text":{},"biz_opaque_callback_data":%q}`, data)))
		if resp.StatusCode != test.status {
			t.Errorf("%d characters: status %d, want %d: %s", test.characters, resp.StatusCode, test.status, body)
		}
	}
}

func TestOnlyListedTokensAreGood(t *testing.T) {
	t.Setenv("METASIM_TOKEN", "secret")
	m := startMeta(t, &MetaSimulator{AccessTokens: []string{"{env.METASIM_TOKEN}", "other"}}, false)
	for bearer, status := range map[string]int{"secret": 200, "other": 200, goodToken: 401, "{env.METASIM_TOKEN}": 401} {
		r := m.request("15550104477")
		r.Header.Set("Authorization", "bearer "+bearer)
		if resp, body := m.do(r); resp.StatusCode != status {
			t.Errorf("token %s: status %d, want %d: %s", bearer, resp.StatusCode, status, body)
		}
	}
}

func TestBadSettingsAreRefused(t *testing.T) {
	t.Setenv("METASIM_EMPTY", "")
	t.Setenv("METASIM_URL", "ftp://hidden")
	for _, test := range []struct {
		sim  *MetaSimulator
		want string
	}{
		{&MetaSimulator{AccessTokens: []string{"{env.METASIM_UNSET}"}}, "METASIM_UNSET"},
		{&MetaSimulator{AccessTokens: []string{""}}, "access_token is empty"},
		{&MetaSimulator{SlowAnswer: -1}, "slow_answer is negative"},
		{&MetaSimulator{Webhook: &Webhook{AppSecret: "hidden"}}, "webhook: url is empty"},
		{&MetaSimulator{Webhook: &Webhook{URL: "http://hidden"}}, "webhook: app_secret is empty"},
		{&MetaSimulator{Webhook: &Webhook{URL: "http://hidden", AppSecret: "{env.METASIM_UNSET}"}}, "webhook: app_secret: "},
		{&MetaSimulator{Webhook: &Webhook{URL: "http://hidden", AppSecret: "{env.METASIM_EMPTY}"}}, "webhook: app_secret: "},
		{&MetaSimulator{Webhook: &Webhook{URL: "{env.METASIM_UNSET}", AppSecret: "hidden"}}, "webhook: url: "},
		{&MetaSimulator{Webhook: &Webhook{URL: "{env.METASIM_URL}", AppSecret: "hidden"}}, errWebhookURL.Error()},
		{&MetaSimulator{Webhook: &Webhook{URL: "http://", AppSecret: "hidden"}}, errWebhookURL.Error()},
		{&MetaSimulator{Webhook: &Webhook{URL: "http://[hidden", AppSecret: "hidden"}}, errWebhookURL.Error()},
	} {
		err := test.sim.Provision(caddy.Context{})
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("got %v, want %s", err, test.want)
		}
		if err := test.sim.Cleanup(); err != nil { // as Caddy does
			t.Error(err)
		}
	}
	if n, ok := couriers.References(processCourier); ok {
		t.Errorf("%d couriers are left", n)
	}
}

func TestHeadersAreLikeMetas(t *testing.T) {
	m := startMeta(t, new(MetaSimulator), false)
	ok, _ := m.do(m.request("15550104477"))
	throttled, body := m.do(m.request("15550100429"))
	if id := throttled.Header.Get("x-fb-trace-id"); id == "" || !bytes.Contains(body, []byte(`"fbtrace_id":"`+id+`"`)) {
		t.Errorf("x-fb-trace-id is not the fbtrace_id of %s", body)
	}
	if got := throttled.Header.Get("Retry-After"); got != "60" {
		t.Errorf("Retry-After is %q", got)
	}
	for resp, regain := range map[*http.Response]float64{ok: 0, throttled: 1} {
		var app map[string]int
		if err := json.Unmarshal([]byte(resp.Header.Get("x-app-usage")), &app); err != nil || app["call_count"] == 0 {
			t.Errorf("x-app-usage: %v, %v", app, err)
		}
		var business map[string][]map[string]any
		if err := json.Unmarshal([]byte(resp.Header.Get("x-business-use-case-usage")), &business); err != nil {
			t.Fatal(err)
		}
		for _, usages := range business {
			if len(usages) != 1 || usages[0]["estimated_time_to_regain_access"] != regain {
				t.Errorf("x-business-use-case-usage: %v", business)
			}
		}
		if got := resp.Header.Get("facebook-api-version"); got != "v23.0" {
			t.Errorf("facebook-api-version is %q", got)
		}
	}
}
