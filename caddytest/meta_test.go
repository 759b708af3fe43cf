package caddytest

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
)

// upstreamText is what an upstream writes that nobody else may see.
const upstreamText = "only-for-the-gateway"

// Parts of what follows.
const (
	head      = "HTTP/1.1 200 OK\nContent-Type: application/json\n"
	ambiguous = `"retry_safe":false`
	status200 = `"meta_status":200,"retry_safe":false`
)

// unclearAnswers are answers after which nobody knows whether the message was sent.
var unclearAnswers = []struct {
	name        string
	script      script
	description string
	params      string
}{
	{"reset", reset, broken, ambiguous},
	{"closed", func(net.Conn) bool { return false }, broken, ambiguous},
	{"not HTTP", lines("220 " + upstreamText + " ESMTP"), broken, ambiguous},
	{"malformed status", lines("HTTP/1.1 two-hundred " + upstreamText), broken, ambiguous},
	{"malformed header", lines("HTTP/1.1 200 OK\n" + upstreamText + "\n\n" + acceptance), broken, ambiguous},
	{"two lengths", lines(head + "Content-Length: 5\nContent-Length: 6\n\n" + acceptance), broken, ambiguous},
	{"cut off before its length", lines(head + "Content-Length: 1000\n\n" + acceptance), broken, status200},
	{"cut off between chunks", lines(head + "Transfer-Encoding: chunked\n\n5\r\nabcde\r\n"), broken, status200},
	{"malformed chunk", lines(head + "Transfer-Encoding: chunked\n\nzz\r\n" + acceptance), broken, status200},
	{"half, and nothing says so", lines(head + "Connection: close\n\n" + acceptance[:50]), unclear, status200},
	{"switching protocols", lines("HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: websocket\n\n" + acceptance), "", ""},
	{"empty", lines(head + "Connection: close\nContent-Length: 0\n\n"), unclear, status200},
	{"no content", lines("HTTP/1.1 204 No Content\nConnection: close\n\n"), unclear, `"meta_status":204,"retry_safe":false`},
	{"HTML and 200", withJSON("200 OK", "<html>"+upstreamText+"</html>"), unclear, status200},
	{"HTML and 500", lines("HTTP/1.1 500 Oops\nContent-Type: text/html\nConnection: close\n\n<html>" + upstreamText + "</html>"), unclear, `"meta_status":500,"retry_safe":false`},
	{"garbage", withJSON("200 OK", "\xff\x00{"+upstreamText), unclear, status200},
	{"trailing garbage", withJSON("200 OK", acceptance+upstreamText), unclear, status200},
	{"null", withJSON("200 OK", "null"), unclear, status200},
	{"array", withJSON("200 OK", "["+acceptance+"]"), unclear, status200},
	{"no messages", withJSON("200 OK", `{"messaging_product":"whatsapp"}`), unclear, status200},
	{"empty messages", withJSON("200 OK", `{"messages":[]}`), unclear, status200},
	{"empty id", withJSON("200 OK", `{"messages":[{"id":""}]}`), unclear, status200},
	{"id of another type", withJSON("200 OK", `{"messages":[{"id":["`+upstreamText+`"]}]}`), unclear, status200},
	{"receipt for a message", withJSON("200 OK", `{"success":true}`), unclear, status200},
	{"error of another type", withJSON("500 Oops", `{"error":"`+upstreamText+`"}`), unclear, `"meta_status":500,"retry_safe":false`},
	{"empty error", withJSON("400 Bad Request", `{"error":{}}`), unclear, `"meta_status":400,"retry_safe":false`},
	{"nested too deep", withJSON("200 OK", strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000)), unclear, status200},
	{"accepted, and another status", withJSON("500 Oops", acceptance), unclear, `"meta_status":500,"retry_safe":false`},
	{"redirect", lines("HTTP/1.1 302 Found\nLocation: /elsewhere\nConnection: close\nContent-Length: 0\n\n"), unclear, `"meta_status":302,"retry_safe":false`},
	{"redirect that keeps the method", lines("HTTP/1.1 307 Temporary Redirect\nLocation: /elsewhere\nConnection: close\nContent-Length: 0\n\n"), unclear, `"meta_status":307,"retry_safe":false`},
	{"gzip that is none", lines(head + "Content-Encoding: gzip\nConnection: close\n\n" + acceptance), unclear, status200},
	{"unknown coding", lines(head + "Content-Encoding: br\nConnection: close\n\n" + acceptance), unclear, status200},
	{"10 MiB", lines(head + "Connection: close\n\n" + acceptance + strings.Repeat(" ", 10<<20)), oversize, status200},
	{"10 MiB and a length", lines(head + "Content-Length: 10485760\n\n" + strings.Repeat(" ", 10<<20)), oversize, status200},
	{"20 MiB of headers", lines(head + "X-A: " + strings.Repeat("x", 20<<20) + "\n\n" + acceptance), broken, ambiguous},
	{"endless informational answers", raw(strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 100)), broken, ambiguous},
}

func TestAnswersThatDoNotTellTheFate(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	g := behind(t, u, settings{})
	who := g.tenant(t, profile{})
	var outcomes []outcome
	g.hide("text of the upstream's", upstreamText)
	for _, c := range unclearAnswers {
		t.Run(c.name, func(t *testing.T) {
			u.play(who, c.script)
			a := g.send(t, who.key, g.message(accepted))
			if c.description != "" {
				a.want(t, http.StatusBadGateway, gw001(c.description, c.params))
			}
			a.wantCode(t, "GW_001")
			if a.Errors.Params["retry_safe"] != false {
				t.Errorf("retry_safe %v", a.Errors.Params["retry_safe"])
			}
			outcomes = append(outcomes, outcome{c.name, inDoubt})
			u.wantSends(t, who, len(outcomes)) // it is not sent twice
		})
	}
	g.wantOutcomes(t, who, outcomes...)
}

func TestAnswersThatAreAcceptancesHoweverTheyCome(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	g := behind(t, u, settings{})
	who := g.tenant(t, profile{})
	var outcomes []outcome
	for name, s := range map[string]script{
		"chunked":           lines("HTTP/1.1 200 OK\nConnection: close\nTransfer-Encoding: chunked\n\n5\r\n" + acceptance[:5] + "\r\nf0\r\n" + acceptance[5:] + strings.Repeat(" ", 0xf0-len(acceptance)+5) + "\r\n0\r\n\r\n"),
		"HTTP/1.0":          lines("HTTP/1.0 200 OK\n\n" + acceptance),
		"no content type":   lines("HTTP/1.1 200 OK\nConnection: close\n\n" + acceptance),
		"early hints":       raw("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + acceptance),
		"identity":          lines("HTTP/1.1 200 OK\nContent-Encoding: identity\nConnection: close\n\n" + acceptance),
		"no trace":          withJSON("200 OK", `{"messages":[{"id":"wamid.1","message_status":"held_for_quality_assessment"}]}`),
		"user id":           withJSON("200 OK", `{"messaging_product":"whatsapp","contacts":[{"input":"US.1","user_id":"US.1"}],"messages":[{"id":"wamid.1"}]}`),
		"other types":       withJSON("200 OK", `{"messaging_product":1,"contacts":null,"messages":[{"id":"wamid.1","message_status":{}}],"success":"yes"}`),
		"null for an error": withJSON("200 OK", `{"messages":[{"id":"wamid.1"}],"error":null}`),
	} {
		t.Run(name, func(t *testing.T) {
			u.play(who, s)
			a := g.send(t, who.key, g.message(accepted))
			a.wantCode(t, "")
			outcomes = append(outcomes, outcome{name, captured})
			u.wantSends(t, who, len(outcomes))
			if a.messageID() == "" {
				t.Error("no message id in the answer")
			}
		})
	}
	g.wantOutcomes(t, who, outcomes...)
}

// An upstream that closes kept-alive connections at the wrong moment must not
// make the gateway send a message a second time.
func TestAMessageIsNotSentAgainOnAnotherConnection(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	g := behind(t, u, settings{})
	who := g.tenant(t, profile{})
	kept := func(c net.Conn) bool {
		_, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(acceptance), acceptance)
		return err == nil
	}
	const rounds = 20
	for range rounds {
		u.play(who, kept)
		g.send(t, who.key, g.message(accepted)).wantCode(t, "")
		u.play(who, func(net.Conn) bool { return false })
		g.send(t, who.key, g.message(accepted)).want(t, http.StatusBadGateway, gw001(broken, ambiguous))
	}
	u.wantSends(t, who, 2*rounds)
	g.wantBalance(t, who.account, balance{available: 1_000_000 - 2*rounds*fee, held: rounds * fee, captured: rounds * fee})
}

func TestASlowMetaTimesOut(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	g := behind(t, u, settings{handler: "upstream_timeout 500ms"})
	who := g.tenant(t, profile{})
	var outcomes []outcome
	for name, begun := range map[string]string{
		"before the answer":      "",
		"in the status line":     "HTTP/1.1 200",
		"behind an early hint":   "HTTP/1.1 103 Early Hints\r\n\r\n",
		"behind the headers":     "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
		"in the body":            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + acceptance,
		"between the two chunks": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			u.play(who, stall(begun))
			params := ambiguous
			if strings.HasPrefix(begun, "HTTP/1.1 200 OK\r\n") {
				params = status200
			}
			g.send(t, who.key, g.message(accepted)).want(t, http.StatusBadGateway, gw001(timedOut, params))
			outcomes = append(outcomes, outcome{name, inDoubt})
			u.wantSends(t, who, len(outcomes))
		})
	}
	g.wantOutcomes(t, who, outcomes...)
}
