package caddytest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// behind starts a gateway in front of an upstream of the test's own.
func behind(t testing.TB, u *upstream, s settings) *gateway {
	t.Helper()
	s.proxy = "reverse_proxy " + u.address
	return startGateway(t, s)
}

// one returns the one request of a tenant that came in.
func (u *upstream) one(t testing.TB, who tenant) wireRequest {
	t.Helper()
	all := u.received(who)
	if len(all) != 1 {
		t.Fatalf("%d requests came in", len(all))
	}
	return all[0]
}

// hostileHeaders are what a client may send and Meta must not get.
var hostileHeaders = http.Header{
	"Accept":              {"text/html"},
	"Accept-Encoding":     {"gzip, br"},
	"Content-Type":        {"text/plain; charset=latin1"},
	"Cookie":              {"session=1"},
	"Connection":          {"X-Custom"},
	"Expect":              {"100-continue"},
	"Forwarded":           {"for=192.0.2.1"},
	"Idempotency-Key":     {"1"},
	"If-Match":            {"*"},
	"Proxy-Authorization": {"Basic eDp5"},
	"Te":                  {"trailers"},
	"User-Agent":          {"a customer's program"},
	"Via":                 {"1.1 proxy"},
	"X-Custom":            {"1"},
	"X-Forwarded-For":     {"192.0.2.1"},
	"X-Forwarded-Host":    {"customer.example"},
	"X-Forwarded-Proto":   {"https"},
	"X-Idempotency-Key":   {"1"},
	"X-Real-Ip":           {"192.0.2.1"},
	"X-Request-Id":        {"theirs"},
}

func TestNothingOfTheClientsReachesMetaButTheBody(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	g := behind(t, u, settings{handler: "graph_version v19.0"})
	for _, c := range []struct {
		name, query, path string
		chunked           bool
	}{
		{name: "message", path: "messages"},
		{name: "chunked", path: "messages", chunked: true},
		{name: "query", query: "access_token=x&method=delete&batch=[]&fields=id&is_fake=false", path: "messages"},
		{name: "marketing message", query: "mmlite=true", path: "marketing_messages"},
		{name: "no marketing message", query: "mmlite=false", path: "messages"},
	} {
		t.Run(c.name, func(t *testing.T) {
			who := g.tenant(t, profile{})
			u.play(who, withJSON("200 OK", acceptance))
			req := g.request(t, http.MethodPost, messagePath, g.message(accepted))
			req.Header = maps.Clone(hostileHeaders)
			req.Header.Set("Authorization", "Bearer "+who.key)
			req.URL.RawQuery = c.query
			if c.chunked {
				req.ContentLength = -1
			}
			g.do(t, req).wantCode(t, "")

			got := u.one(t, who)
			if want := "POST /v19.0/" + who.phone + "/" + c.path + " HTTP/1.1"; got.line != want {
				t.Errorf("request %q, want %q", got.line, want)
			}
			want := []string{
				"Accept: application/json",
				"Authorization: Bearer " + who.token,
				fmt.Sprintf("Content-Length: %d", len(got.body)),
				"Content-Type: application/json",
				"Host: " + u.address,
				"User-Agent: caddy-whatsapp-gateway",
			}
			slices.Sort(got.header)
			if diff := cmp.Diff(want, got.header); diff != "" {
				t.Error(g.masked(diff))
			}
		})
	}
}

func TestOnlyTheListedHeadersOfMetasReachTheClient(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	g := behind(t, u, settings{})
	for _, status := range []string{"200 OK", "400 Bad Request"} {
		body := acceptance
		if status != "200 OK" {
			body = `{"error":{"message":"no","type":"OAuthException","code":100,"fbtrace_id":"A1"}}`
		}
		who := g.tenant(t, profile{})
		u.play(who, lines("HTTP/1.1 "+status+`
Content-Type: text/javascript; charset=UTF-8
Connection: close
x-fb-trace-id: A1
x-business-use-case-usage: {"1":[{"call_count":1}]}
x-app-usage: {"call_count":2}
Retry-After: 7
x-fb-rev: 1
Set-Cookie: a=b
Server: Meta
Via: 1.1 meta
Alt-Svc: h3=":443"
Location: https://example.com/
WWW-Authenticate: OAuth "Facebook Platform"
X-Request-Id: theirs
X-RateLimit-sec-Limit: 1
X-RateLimit-min-Remaining: 0
X-Custom: 1
Access-Control-Allow-Origin: *
Strict-Transport-Security: max-age=1

`+body))
		a := g.send(t, who.key, g.message(accepted))
		got := a.header.Clone()
		for _, name := range []string{"Date", "X-Request-Id", "Content-Length", "X-Ratelimit-Sec-Remaining"} {
			got.Del(name) // checked elsewhere, or Caddy's own
		}
		want := http.Header{
			"Content-Type":              {"application/json; charset=utf-8"},
			"Retry-After":               {"7"},
			"Server":                    {"Caddy"},
			"X-App-Usage":               {`{"call_count":2}`},
			"X-Business-Use-Case-Usage": {`{"1":[{"call_count":1}]}`},
			"X-Fb-Trace-Id":             {"A1"},
			"X-Ratelimit-Min-Limit":     {"4800"},
			"X-Ratelimit-Min-Remaining": {"4799"},
			"X-Ratelimit-Sec-Limit":     {"80"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", status, diff)
		}
	}
}

func TestMetasJSONIsGivenBackByteForByte(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	g := behind(t, u, settings{})
	who := g.tenant(t, profile{})
	for _, data := range []string{
		acceptance,
		"{ \"messages\" : [ { \"id\":\"wamid.\\u0041<&>\" } ],\n \"big\": 123456789012345678901234567890.0e1, \"b\":1, \"b\":2, \"\u00e9\": \"\\ud83d\\ude00\" }",
	} {
		u.play(who, withJSON("200 OK", data))
		g.send(t, who.key, g.message(accepted)).want(t, http.StatusOK, `{"isSuccess":true,"data":`+data+`}`)
	}
}

var holdID = regexp.MustCompile(`hold_[0-9a-z]{26}`)

func TestTheBodyIsForwardedByteForByteSaveTheHoldID(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	g := behind(t, u, settings{})
	const start = `{"messaging_product":"whatsapp","to":"49151","type":"text"`
	// Together with a hold id and the colon, so many characters are the 512 that
	// Meta takes.
	const room = 512 - len("hold_") - 26 - len(":")
	who := g.tenant(t, profile{})
	var outcomes []outcome
	var holds []string
	// HOLD stands for the hold id in what Meta is to get.
	for _, c := range []struct{ name, body, want string }{
		{"absent", start + `}`, start + `,"biz_opaque_callback_data":"HOLD"}`},
		{"absent, with space around", " \r\n\t" + start + " }\n ", " \r\n\t" + start + ` ,"biz_opaque_callback_data":"HOLD"}` + "\n "},
		{"null", start + `,"biz_opaque_callback_data":null}`, start + `,"biz_opaque_callback_data":"HOLD"}`},
		{"own", start + `,"biz_opaque_callback_data":"own"}`, start + `,"biz_opaque_callback_data":"HOLD:own"}`},
		{"own first", `{"biz_opaque_callback_data" : "own" ,` + start[1:] + `}`, `{"biz_opaque_callback_data" : "HOLD:own" ,` + start[1:] + `}`},
		{"escapes", start + `,"biz_opaque_callback_data":"\"\\\n\u0000é\ud83d\ude00"}`, start + `,"biz_opaque_callback_data":"HOLD:\"\\\n\u0000é\ud83d\ude00"}`},
		{"escaped name", start + `,"biz_opaque_callback_dat\u0061":"own"}`, start + `,"biz_opaque_callback_dat\u0061":"HOLD:own"}`},
		{"just fits", start + `,"biz_opaque_callback_data":"` + strings.Repeat("é", room) + `"}`,
			start + `,"biz_opaque_callback_data":"HOLD:` + strings.Repeat("é", room) + `"}`},
		{"just too long", start + `,"biz_opaque_callback_data":"` + strings.Repeat("é", room+1) + `"}`,
			start + `,"biz_opaque_callback_data":"` + strings.Repeat("é", room+1) + `"}`},
		{"not a string", start + `,"biz_opaque_callback_data":{"a":[1]}}`, start + `,"biz_opaque_callback_data":{"a":[1]}}`},
		{"deeper down", start + `,"text":{"biz_opaque_callback_data":"own"}}`,
			start + `,"text":{"biz_opaque_callback_data":"own"},"biz_opaque_callback_data":"HOLD"}`},
		{"odd JSON", start + `, "n":-0.10e+400 ,"x":[ ],"x":{"y":1,"y":2},"\u0000":"<&>\/\u00e9` + "é\u2028" + `"}`,
			start + `, "n":-0.10e+400 ,"x":[ ],"x":{"y":1,"y":2},"\u0000":"<&>\/\u00e9` + "é\u2028" + `","biz_opaque_callback_data":"HOLD"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			u.play(who, withJSON("200 OK", acceptance))
			g.send(t, who.key, c.body).wantCode(t, "")
			outcomes = append(outcomes, outcome{c.name, captured})
			u.wantSends(t, who, len(outcomes))
			got := u.received(who)[len(outcomes)-1].body
			hold := holdID.FindString(got)
			if want := strings.ReplaceAll(c.want, "HOLD", hold); got != want {
				t.Errorf("Meta got  %s\nand not   %s", got, want)
			}
			if strings.Contains(c.want, "HOLD") {
				holds = append(holds, hold)
			}
		})
	}
	g.wantOutcomes(t, who, outcomes...)
	for _, e := range g.ledger(t, who.account) {
		holds = slices.DeleteFunc(holds, func(id string) bool { return id == e.ID })
	}
	if len(holds) > 0 {
		t.Errorf("ids of no holds: %q", holds)
	}
}

func TestMarkAsReadIsForwardedAsItIsAndNeverCharged(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	g := behind(t, u, settings{})
	for _, body := range []string{
		`{ "messaging_product" : "whatsapp", "status":"read", "message_id":"wamid.1" }`,
		`{"status":"read","message_id":"wamid.1","typing_indicator":{"type":"text"},"messaging_product":"whatsapp"}`,
		`{"messaging_product":"whatsapp","status":"\u0072ead","message_id":"wamid.1","biz_opaque_callback_data":"own"}`,
	} {
		who := g.tenant(t, profile{})
		u.play(who, withJSON("200 OK", `{"success":true}`))
		g.send(t, who.key, body).want(t, http.StatusOK, `{"isSuccess":true,"data":{"success":true}}`)
		if got := u.one(t, who).body; got != body {
			t.Errorf("Meta got %s\nand not  %s", got, body)
		}
		// Nor is it where Meta's answer is lost.
		u.play(who, reset)
		g.send(t, who.key, body).wantCode(t, "GW_001")
		g.wantBalance(t, who.account, balance{available: 1_000_000})
	}
}

var fakeData = regexp.MustCompile(`^\{"isSuccess":true,"data":\{"messaging_product":"whatsapp","messages":\[\{"id":"wamid\.FAKE_([0-9]{19})"\}\]\}\}$`)

func TestAFakeSendIsCheckedAndNeitherSentNorCharged(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	who := g.tenant(t, profile{})
	sandbox := g.tenant(t, profile{sandbox: true, noCredentials: true})
	if !strings.HasPrefix(sandbox.key, "sk_") || !strings.HasPrefix(who.key, "pk_") {
		t.Error("keys do not begin as published")
	}
	ids := make(map[string]bool)
	for range 20 {
		for _, a := range []answer{
			g.send(t, who.key, g.message(accepted), "is_fake=true"),
			g.send(t, who.key, g.message(accepted), "is_fake=true", "mmlite=true"),
			g.send(t, sandbox.key, g.message(accepted)),
			g.send(t, sandbox.key, `{"messaging_product":"whatsapp","status":"read","message_id":"wamid.1"}`, "is_fake=false"),
		} {
			parts := fakeData.FindStringSubmatch(a.body)
			if a.status != http.StatusOK || parts == nil {
				t.Fatalf("status %d: %s", a.status, a.body)
			}
			if ids[parts[1]] {
				t.Errorf("the id %s is given twice", parts[1])
			}
			ids[parts[1]] = true
		}
	}
	g.send(t, sandbox.key, `{}`).wantCode(t, "REQ_001")
	g.send(t, who.key, g.tooLarge(), "is_fake=true").wantCode(t, "REQ_002")
	g.run(t, "account", "credit", sandbox.account, "-1")
	g.send(t, sandbox.key, g.message(accepted)).wantCode(t, "BILL_001")

	g.wantBalance(t, who.account, balance{available: 1_000_000})
	if s := g.tally(t); s.Accepted+s.Refused+s.Reads != 0 {
		t.Errorf("Meta was called: %d accepted, %d refused, %d reads", s.Accepted, s.Refused, s.Reads)
	}
	for _, query := range []string{"is_fake=1", "is_fake=True", "is_fake=", "is_fake=true&is_fake=false", "is_fake=true;x", "mmlite=1", "%zz"} {
		g.send(t, who.key, g.message(accepted), query).wantCode(t, "REQ_001")
	}
	if n := g.tally(t).sends(who); n != 0 {
		t.Errorf("%d messages reached Meta", n)
	}
}

// A tenant's data must not be what another tenant's messages are sent with.
func TestEachTenantSendsWithItsOwnCredentials(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	for range 3 {
		who := g.tenant(t, profile{})
		g.send(t, who.key, g.message(accepted)).wantCode(t, "")
		last := g.last(t)
		if got := last.Headers.Get("Authorization"); got != "Bearer "+who.token {
			t.Error("another token")
		}
		if last.Path != "/v23.0/"+who.phone+"/messages" {
			t.Errorf("path %s", last.Path)
		}
		var body struct {
			Data string `json:"biz_opaque_callback_data"`
		}
		if err := json.Unmarshal(last.Body, &body); err != nil || !holdID.MatchString(body.Data) {
			t.Errorf("biz_opaque_callback_data %q, %v", body.Data, err)
		}
	}
}
