package caddytest

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestAuthorizationOfEveryShape(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	who := g.tenant(t, profile{})
	for _, c := range []struct {
		name   string
		values []string
		code   string
	}{
		{"none", nil, "AUTH_002"},
		{"empty", []string{""}, "AUTH_003"},
		{"spaces", []string{"   "}, "AUTH_003"},
		{"scheme alone", []string{"Bearer"}, "AUTH_003"},
		{"scheme and space", []string{"Bearer "}, "AUTH_003"},
		{"key alone", []string{who.key}, "AUTH_003"},
		{"lower case", []string{"bearer " + who.key}, "AUTH_003"},
		{"upper case", []string{"BEARER " + who.key}, "AUTH_003"},
		{"no space", []string{"Bearer" + who.key}, "AUTH_003"},
		{"tab", []string{"Bearer\t" + who.key}, "AUTH_003"},
		{"two spaces", []string{"Bearer  " + who.key}, "AUTH_003"},
		{"space in the key", []string{"Bearer " + who.key[:20] + " " + who.key[20:]}, "AUTH_003"},
		{"something behind the key", []string{"Bearer " + who.key + ", Basic x"}, "AUTH_003"},
		{"comma behind the key", []string{"Bearer " + who.key + ","}, "AUTH_001"},
		{"another scheme", []string{"Basic " + who.key}, "AUTH_003"},
		{"another scheme before", []string{"Basic x, Bearer " + who.key}, "AUTH_003"},
		{"two headers", []string{"Bearer " + who.key, "Bearer " + who.key}, "AUTH_003"},
		{"two headers, one of them bad", []string{"Basic x", "Bearer " + who.key}, "AUTH_003"},
		{"non-ASCII", []string{"Bearer " + who.key + "é"}, "AUTH_003"},
		{"non-ASCII space", []string{"Bearer\u00a0" + who.key}, "AUTH_003"},
		{"not UTF-8", []string{"Bearer \xff\xfe" + who.key}, "AUTH_003"},
		{"huge", []string{"Bearer " + strings.Repeat("k", 3000)}, "AUTH_001"},
		{"cut off", []string{"Bearer " + who.key[:len(who.key)-1]}, "AUTH_001"},
		{"one more", []string{"Bearer " + who.key + "0"}, "AUTH_001"},
		{"another letter case", []string{"Bearer " + strings.ToUpper(who.key)}, "AUTH_001"},
		{"quoted", []string{`Bearer "` + who.key + `"`}, "AUTH_001"},
		{"placeholder", []string{"Bearer {env.PATH}{env.PATH}"}, "AUTH_001"},
		{"SQL", []string{"Bearer '/**/OR/**/1=1;--------"}, "AUTH_001"},
		{"spaces behind", []string{"Bearer " + who.key + "  "}, ""}, // of no meaning in HTTP
	} {
		t.Run(c.name, func(t *testing.T) {
			req := g.request(t, http.MethodPost, messagePath, g.message(accepted))
			if c.values != nil {
				req.Header["Authorization"] = c.values
			}
			g.do(t, req).wantCode(t, c.code)
		})
	}
	if n := g.tally(t).sends(who); n != 1 {
		t.Errorf("%d messages reached Meta", n)
	}
}

// A good message is start and end, with whatever between them.
const start, end = `{"messaging_product":"whatsapp","to":"49151","type":"text"`, `,"text":{"body":"x"}}`

func nested(levels int) string {
	return strings.Repeat(`{"a":`, levels) + "1" + strings.Repeat("}", levels)
}

// What is wrong with a body.
const (
	notObject = "The request body must be one JSON object."
	notJSON   = "The request body is not valid JSON."
	trailing  = "The request body must be one JSON object with nothing behind it."
	deep      = "The request body is nested more than 32 levels deep."
)

func twice(name string) string     { return `The field \"` + name + `\" stands twice.` }
func lower(name string) string     { return `The field \"` + name + `\" must be written in lower case.` }
func forbidden(name string) string { return `The field \"` + name + `\" is not allowed.` }
func missing(name string) string   { return `The field \"` + name + `\" is missing.` }

// badBodies are REQ_001 with this description.
var badBodies = []struct{ name, body, description string }{
	{"empty", "", notObject},
	{"space", " \n", notObject},
	{"null", "null", notObject},
	{"string", `"x"`, notObject},
	{"number", `1`, notObject},
	{"array", "[" + start + end + "]", notObject},
	{"byte order mark", "\ufeff" + start + end, notObject},
	{"UTF-16", "\xff\xfe{\x00}\x00", notObject},
	{"gzip", "\x1f\x8b\x08\x00", notObject},
	{"form", "messaging_product=whatsapp&to=49151&type=text", notObject},
	{"comment", "/**/" + start + end, notObject},
	{"cut off", start, notJSON},
	{"cut off in a string", start[:10], notJSON},
	{"comma at the end", start + ",}", notJSON},
	{"single quotes", strings.ReplaceAll(start+end, `"`, `'`), notJSON},
	{"name without quotes", start + `,x:1}`, notJSON},
	{"not UTF-8", start + ",\"x\":\"\xff\"}", notJSON},
	{"not UTF-8 in a name", start + ",\"\xff\":1}", notJSON},
	{"half a surrogate", start + `,"x":"\ud800"}`, notJSON},
	{"control character", start + ",\"x\":\"\n\"}", notJSON},
	{"NaN", start + `,"x":NaN}`, notJSON},
	{"number with a zero", start + `,"x":01}`, notJSON},
	{"trailing brace", start + end + "}", trailing},
	{"two objects", start + end + start + end, trailing},
	{"trailing null character", start + end + "\x00", trailing},
	{"33 levels", start + `,"x":` + nested(32) + "}", deep},
	{"33 arrays", start + `,"x":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + "}", deep},
	{"20,000 levels", start + `,"x":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "}", deep},
	{"no product", `{"to":"49151","type":"text"}`, `The field \"messaging_product\" is missing: it must be \"whatsapp\".`},
	{"another product", strings.Replace(start+end, "whatsapp", "WhatsApp", 1), `The field \"messaging_product\" must be \"whatsapp\".`},
	{"product of another type", strings.Replace(start+end, `"whatsapp"`, `["whatsapp"]`, 1), `The field \"messaging_product\" must be \"whatsapp\".`},
	{"no recipient", `{"messaging_product":"whatsapp","type":"text"}`, `The field \"to\" or \"recipient\" is missing.`},
	{"null recipient", `{"messaging_product":"whatsapp","to":null,"type":"text"}`, `The field \"to\" or \"recipient\" is missing.`},
	{"no type", `{"messaging_product":"whatsapp","to":"49151"}`, missing("type")},
	{"no message id", `{"messaging_product":"whatsapp","status":"read"}`, missing("message_id")},
	{"another status", `{"messaging_product":"whatsapp","status":"delivered","message_id":"wamid.1"}`, `The field \"to\" or \"recipient\" is missing.`},
	{"twice to", start + `,"to":"49152"}`, twice("to")},
	{"twice type", start + `,"type":"text"}`, twice("type")},
	{"twice product", start + `,"messaging_product":"whatsapp"}`, twice("messaging_product")},
	{"twice callback data", start + `,"biz_opaque_callback_data":"a","biz_opaque_callback_data":"b"}`, twice("biz_opaque_callback_data")},
	{"twice, once escaped", start + `,"t\u006f":"49152"}`, twice("to")},
	{"upper case", start + `,"To":"49152"}`, lower("to")},
	{"upper case alone", `{"Messaging_Product":"whatsapp","to":"49151","type":"text"}`, lower("messaging_product")},
	{"Kelvin sign", start + `,"biz_opaque_callbac\u212a_data":"x"}`, lower("biz_opaque_callback_data")},
	{"access token", start + `,"access_token":"x"}`, forbidden("access_token")},
	{"access token, escaped", start + `,"access\u005ftoken":"x"}`, forbidden("access_token")},
	{"access token in upper case", start + `,"ACCESS_TOKEN":"x"}`, lower("access_token")},
	{"method", start + `,"method":"delete"}`, forbidden("method")},
	{"batch", start + `,"batch":[]}`, forbidden("batch")},
	{"ids", start + `,"ids":"1,2"}`, forbidden("ids")},
	{"application secret proof", start + `,"appsecret_proof":null}`, forbidden("appsecret_proof")},
}

func TestBodiesOfEveryShape(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	who := g.tenant(t, profile{})
	for _, c := range badBodies {
		t.Run(c.name, func(t *testing.T) {
			g.send(t, who.key, c.body).want(t, http.StatusBadRequest, failure("REQ_001", "BAD_REQUEST", c.description))
		})
	}
	if n := g.tally(t).sends(who); n != 0 {
		t.Errorf("%d messages reached Meta", n)
	}
	for name, body := range map[string]string{
		"32 levels":         start + `,"x":` + nested(31) + end,
		"huge numbers":      start + `,"x":[1e999999,-0.0e-9999,` + strings.Repeat("9", 10_000) + `]` + end,
		"field deeper down": start + `,"x":{"to":1,"TO":2,"to":3,"access_token":4}` + end,
		"repeated others":   start + `,"x":1,"x":2,"X":3` + end,
		"32 KiB name":       start + `,"` + strings.Repeat("x", 32<<10) + `":1` + end,
		"recipient":         strings.Replace(start, `"to":"49151"`, `"recipient":"US.13491208655302741918"`, 1) + end,
		"status of another": start + `,"status":"sent"` + end,
		"space around":      "\r\n\t " + start + end + " \n",
	} {
		t.Run(name, func(t *testing.T) { g.send(t, who.key, body).wantCode(t, "") })
	}
}

func TestBodiesAtTheLimit(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{site: under("small", "max_body_size 200B\nreverse_proxy {$SIMULATOR}")})
	who := g.tenant(t, profile{})
	for _, c := range []struct {
		path  string
		size  int
		code  string
		limit string
	}{
		{messagePath, 128 << 10, "", ""},
		{messagePath, 128<<10 + 1, "REQ_002", "131072 bytes"},
		{messagePath, 64 << 20, "REQ_002", "131072 bytes"},
		{"/small" + messagePath, 200, "", ""},
		{"/small" + messagePath, 201, "REQ_002", "200 bytes"},
	} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprint(c.path, c.size, chunked), func(t *testing.T) {
				req := g.request(t, http.MethodPost, c.path, start+strings.Repeat(" ", c.size-len(start+end))+end)
				req.Header.Set("Authorization", "Bearer "+who.key)
				if chunked {
					req.ContentLength = -1
				}
				a, err := g.tryDo(t, req)
				if err != nil {
					// A server that answers before it has read may cut the client off;
					// the answer is lost then.
					if c.size < 1<<20 {
						t.Error(err)
					}
					return
				}
				if a.wantCode(t, c.code); c.code != "" {
					a.want(t, http.StatusRequestEntityTooLarge, failure("REQ_002", "PAYLOAD_TOO_LARGE", "The request body is over the limit of "+c.limit+"."))
				}
			})
		}
	}
	if n := g.tally(t).sends(who); n != 4 {
		t.Errorf("%d messages reached Meta", n)
	}
}
