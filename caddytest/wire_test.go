package caddytest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// wire sends bytes to the gateway as they are and returns the status of each
// answer, until the gateway closes the connection. The client closes its half
// only where it is said to: net/http takes that for a client that has gone.
func (g *gateway) wire(t testing.TB, request string, closes bool) (statuses []int) {
	t.Helper()
	c, err := net.Dial("tcp", g.site)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.WriteString(c, request) // a server may answer and close before it has read all
		if closes {
			_ = c.(*net.TCPConn).CloseWrite()
		}
	}()
	in := bufio.NewReader(c)
	for {
		response, err := http.ReadResponse(in, nil)
		if err != nil {
			return statuses
		}
		_, err = io.Copy(io.Discard, response.Body)
		statuses = append(statuses, response.StatusCode)
		if err != nil {
			return statuses
		}
	}
}

// targets are what may stand in the first line of a request, with the status
// that it gets without and with a key. PHONE is the tenant's phone number ID.
var targets = []struct {
	target           string
	anonymous, known int
}{
	{"/v1/wa/message", 401, 200},
	{"/v1/wa/message?", 401, 200},
	{"/v1/wa/message?/../x", 401, 200},
	{"/v1/wa/%6dessage", 401, 200},
	{"/%76%31/wa/message", 401, 200},
	{"http://127.0.0.1/v1/wa/message", 401, 200},
	{"http://graph.facebook.com/v1/wa/message", 401, 200},
	{"/v1/wa/message/", 404, 404},
	{"//v1/wa/message", 404, 404},
	{"/v1//wa/message", 404, 404},
	{"/v1/wa//message", 404, 404},
	{"/v1/wa/./message", 404, 404},
	{"/v1/wa/x/../message", 404, 404},
	{"/../v1/wa/message", 404, 404},
	{"/v1/wa/x/%2e%2e/message", 404, 404},
	{"/v1/wa/message/..", 404, 404},
	{"/V1/WA/MESSAGE", 404, 404},
	{"/v1/wa/Message", 404, 404},
	{"/v1/wa/message;a=b", 404, 404},
	{"/v1/wa;a=b/message", 404, 404},
	{"/v1/wa/message%20", 404, 404},
	{"/v1/wa/message%00", 404, 404},
	{"/v1/wa/message%0d%0a", 404, 404},
	{"/v1/wa/message%3f", 404, 404},
	{"/v1/wa/message%2f", 404, 404},
	{"/v1/wa/message%23", 404, 404},
	{"/v1/wa/message.json", 404, 404},
	{"/v1/wa/messages", 404, 404},
	{"/v1/wa/%256dessage", 404, 404},
	{"/v1\\wa\\message", 404, 404},
	{"/v1/wa/webhook", 401, 401}, // which is Meta's alone
	{"/v1/wa/webhook/", 404, 404},
	{"/v23.0/PHONE/messages", 404, 404},
	{"/v23.0/PHONE/marketing_messages", 404, 404},
	{"http://graph.facebook.com/v23.0/PHONE/messages", 404, 404},
	{"//graph.facebook.com/v23.0/PHONE/messages", 404, 404},
	{"/_simulator/accepted", 404, 404},
	{"/v1/wa/%zzmessage", 400, 400},
	{"/v1/wa/message /", 400, 400},
	{"v1/wa/message", 400, 400},
}

func TestPathsAroundTheRouteReachNobodyUnauthenticated(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	who := g.tenant(t, profile{})
	for _, c := range targets {
		target := strings.Replace(c.target, "PHONE", who.phone, 1)
		for _, key := range []string{"", "Authorization: Bearer " + who.key + "\r\n"} {
			want, charged := c.anonymous, 0
			if key != "" {
				want = c.known
			}
			if want == http.StatusOK {
				charged = 1
			}
			before := g.tally(t).sends(who)
			body := g.message(accepted)
			got := g.wire(t, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%sConnection: close\r\nContent-Length: %d\r\n\r\n%s", target, key, len(body), body), false)
			if len(got) != 1 || got[0] != want {
				t.Errorf("%q, with key %v: status %v, want %d", c.target, key != "", got, want)
			}
			if n := g.tally(t).sends(who) - before; n != charged {
				t.Errorf("%q, with key %v: %d messages reached Meta", c.target, key != "", n)
			}
		}
	}
}

// smuggled is a second request that must never be taken for one of its own.
func smuggled(who tenant, body string) string {
	return fmt.Sprintf("POST /v1/wa/message HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", who.key, len(body), body)
}

func TestRequestsThatCanBeReadInTwoWaysAreNotSent(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	who := g.tenant(t, profile{})
	body := g.message(accepted)
	length := fmt.Sprintf("Content-Length: %d\r\n", len(body))
	chunks := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	head := "POST /v1/wa/message HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + who.key + "\r\nConnection: close\r\n"
	for name, request := range map[string]string{
		"two lengths":                       head + length + "Content-Length: 1\r\n\r\n" + body,
		"two lengths in one":                head + fmt.Sprintf("Content-Length: %d, 1\r\n\r\n", len(body)) + body,
		"signed length":                     head + fmt.Sprintf("Content-Length: +%d\r\n\r\n", len(body)) + body,
		"negative length":                   head + "Content-Length: -1\r\n\r\n" + body,
		"length in hexadecimal":             head + fmt.Sprintf("Content-Length: 0x%x\r\n\r\n", len(body)) + body,
		"huge length":                       head + "Content-Length: 99999999999999999999\r\n\r\n" + body,
		"length too long":                   head + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body)+1) + body,
		"no length":                         head + "\r\n" + body,
		"unknown coding":                    head + "Transfer-Encoding: xchunked\r\n\r\n" + chunks,
		"two codings":                       head + "Transfer-Encoding: gzip, chunked\r\n\r\n" + chunks,
		"two coding headers":                head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + chunks,
		"coding with a length, not chunked": head + length + "Transfer-Encoding: identity\r\n\r\n" + body,
		"coding with a control":             head + length + "Transfer-Encoding: \x0bchunked\r\n\r\n" + body,
		"space before the colon":            head + length + "Transfer-Encoding : chunked\r\n\r\n" + body,
		"folded header":                     head + length + "X: y\r\n Transfer-Encoding: chunked\r\nbroken\r\n\r\n" + body,
		"chunk of a bad size":               head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n" + body + "\r\n0\r\n\r\n",
		"chunk of a negative size":          head + "Transfer-Encoding: chunked\r\n\r\n-1\r\n" + body + "\r\n0\r\n\r\n",
		"chunk longer than its size":        head + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body)-1, body),
		"no last chunk":                     head + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(body), body),
		"both, and the length is the body":  head + length + "Transfer-Encoding: chunked\r\n\r\n" + body + "\r\n",
		"both, and no chunk":                head + "Content-Length: " + fmt.Sprint(5+len(smuggled(who, body))) + "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled(who, body),
		"line feed in a name":               head + length + "X\n: 1\r\n\r\n" + body,
		"two hosts":                         head + length + "Host: y\r\n\r\n" + body,
		"no host":                           strings.Replace(head, "Host: 127.0.0.1\r\n", "", 1) + length + "\r\n" + body,
		"HTTP/3 on a socket":                strings.Replace(head, "HTTP/1.1", "HTTP/3.0", 1) + length + "\r\n" + body,
		"HTTP/0.9":                          "POST /v1/wa/message\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			before := g.tally(t).sends(who)
			// Of these the gateway waits for the rest.
			closes := name == "length too long" || name == "no last chunk"
			for _, status := range g.wire(t, request, closes) {
				if status == http.StatusOK {
					t.Error("status 200")
				}
			}
			if n := g.tally(t).sends(who) - before; n != 0 {
				t.Errorf("%d messages reached Meta", n)
			}
		})
	}
	g.wantBalance(t, who.account, balance{available: 1_000_000})
}
