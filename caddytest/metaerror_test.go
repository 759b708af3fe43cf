package caddytest

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// params are those of GW_001, as JSON has them.
type params = map[string]any

// metaErrors are Meta's errors and what becomes of them.
var metaErrors = []struct {
	name, status, body string
	description        string
	params             params
}{
	{
		"least", "400 Bad Request", `{"error":{"message":"m","type":"OAuthException","code":100,"fbtrace_id":"A1"}}`, "m",
		params{"meta_code": 100.0, "meta_type": "OAuthException", "meta_status": 400.0, "fbtrace_id": "A1", "retry_safe": true},
	},
	{
		"everything", "400 Bad Request", `{"error":{"message":"(#131047) Re-engagement message","type":"OAuthException","code":131047,"error_subcode":2494010,` +
			`"error_data":{"messaging_product":"whatsapp","details":"24 hours"},"fbtrace_id":"A1","is_transient":false,"error_user_title":"t","error_user_msg":"u"}}`,
		"(#131047) Re-engagement message",
		params{
			"meta_code": 131047.0, "meta_subcode": 2494010.0, "meta_type": "OAuthException", "meta_status": 400.0,
			"meta_details": "24 hours", "fbtrace_id": "A1", "retry_safe": true,
		},
	},
	{
		"code 0", "401 Unauthorized", `{"error":{"message":"m","type":"OAuthException","code":0,"fbtrace_id":"A1"}}`, "m",
		params{"meta_code": 0.0, "meta_type": "OAuthException", "meta_status": 401.0, "fbtrace_id": "A1", "retry_safe": true},
	},
	{
		"status 200", "200 OK", `{"error":{"message":"m","code":190}}`, "m",
		params{"meta_code": 190.0, "meta_status": 200.0, "retry_safe": true},
	},
	{
		"verbatim", "400 Bad Request", `{"error":{"message":"<b>\"Ünï\\code\u0021\" &amp;\n\ud83d\ude00\u2028</b>","code":100,"error_data":{"details":"<&>"}}}`,
		"<b>\"Ünï\\code!\" &amp;\n😀\u2028</b>",
		params{"meta_code": 100.0, "meta_status": 400.0, "meta_details": "<&>", "retry_safe": true},
	},
	{
		"no message", "400 Bad Request", `{"error":{"code":131000,"error_data":{"details":"d"}}}`,
		"Meta refused the message without saying why.",
		params{"meta_code": 131000.0, "meta_status": 400.0, "meta_details": "d", "retry_safe": false},
	},
	{
		"no code", "500 Internal Server Error", `{"error":{"message":"m"}}`, unclear,
		params{"meta_status": 500.0, "retry_safe": false},
	},
	{
		"other types", "400 Bad Request", `{"error":{"message":"m","type":7,"code":100,"error_subcode":"x","error_data":"legacy","fbtrace_id":9,"extra":[{}]},"__www_request_id__":1}`, "m",
		params{"meta_code": 100.0, "meta_status": 400.0, "retry_safe": true},
	},
	{
		"code of another type", "500 Internal Server Error", `{"error":{"message":"m","code":"131000"}}`, unclear,
		params{"meta_status": 500.0, "retry_safe": false},
	},
	{
		"unknown error", "500 Internal Server Error", `{"error":{"message":"An unknown error occurred","code":1,"is_transient":true}}`, "An unknown error occurred",
		params{"meta_code": 1.0, "meta_status": 500.0, "retry_safe": false},
	},
	{
		"service down", "503 Service Unavailable", `{"error":{"message":"Service temporarily unavailable","code":2,"is_transient":true}}`, "Service temporarily unavailable",
		params{"meta_code": 2.0, "meta_status": 503.0, "retry_safe": false},
	},
}

func TestMetasErrorsAreTranslated(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	g := behind(t, u, settings{})
	who := g.tenant(t, profile{})
	var outcomes []outcome
	for _, c := range metaErrors {
		t.Run(c.name, func(t *testing.T) {
			u.play(who, withJSON(c.status, c.body))
			a := g.send(t, who.key, g.message(accepted))
			want := problem{Code: "GW_001", Group: "UPSTREAM_ERROR", Description: c.description, Params: c.params}
			if diff := cmp.Diff(want, a.Errors); diff != "" || a.status != http.StatusBadGateway {
				t.Errorf("status %d: %s", a.status, diff)
			}
			fate := released
			if c.params["meta_code"] == nil { // this may be anybody's error
				fate = inDoubt
			}
			outcomes = append(outcomes, outcome{c.name, fate})
			u.wantSends(t, who, len(outcomes))
		})
	}
	g.wantOutcomes(t, who, outcomes...)
}

// What an error repeats of a secret is masked, wherever it stands and however it
// is written. That no key and no token is in any answer or log line is checked
// for every test; here are the ways that are not theirs.
func TestSecretsInMetasErrorsAreMasked(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	g := behind(t, u, settings{})
	who := g.tenant(t, profile{})
	another := "EAA" + strings.Repeat("zZ9", 20)
	g.hide("another token", another)
	// Enough of a token to know it by, and not all of it.
	g.hide("beginning of the token", who.token[:20])
	var escaped strings.Builder
	for _, c := range who.token {
		escaped.WriteString(`\u00` + strings.ToLower(string("0123456789ABCDEF"[c>>4])+string("0123456789ABCDEF"[c&15])))
	}
	for _, c := range []struct{ name, text, want string }{
		{"token", "Malformed access token " + who.token, "Malformed access token ***"},
		{"token twice", who.token + " and " + who.token + "!", "*** and ***!"},
		{"token in quotes", "x='" + who.token + "'", "x='***'"},
		{"escaped token", "token " + escaped.String(), "token ***"},
		{"shortened token", "token " + who.token[:20] + "...", "token ***..."},
		{"key", "key " + who.key, "key ***"},
		{"another token", "token " + another + ".", "token ***."},
		{"no secret", "EAA, k_ and pk_1 are none", "EAA, k_ and pk_1 are none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u.play(who, lines("HTTP/1.1 400 Bad Request\nx-fb-trace-id: "+strings.ReplaceAll(c.text, "\\", "")+"\nConnection: close\n\n"+
				`{"error":{"message":"`+c.text+`","type":"`+c.text+`","code":190,"error_data":{"details":"`+c.text+`"},"fbtrace_id":"`+c.text+`"}}`))
			a := g.send(t, who.key, g.message(accepted))
			if got := a.Errors.Description; got != c.want {
				t.Errorf("description %q, want %q", g.masked(got), c.want)
			}
			for _, param := range []string{"meta_type", "meta_details", "fbtrace_id"} {
				if got := a.Errors.Params[param]; got != c.want {
					t.Errorf("%s %q, want %q", param, g.masked(got.(string)), c.want)
				}
			}
		})
	}
	// An acceptance is given back byte for byte, and an answer that is not
	// understood not at all.
	u.play(who, withJSON("500 Oops", who.token))
	g.send(t, who.key, g.message(accepted)).wantCode(t, "GW_001")
	u.play(who, lines("HTTP/1.1 200 "+who.token+"\n"+who.token+": "+who.token+"\nConnection: close\n\n"+who.token))
	g.send(t, who.key, g.message(accepted)).wantCode(t, "GW_001")
}
