package caddytest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// rawRequest is a whole request for a message as it goes over the wire, and
// where its body begins.
func (g *gateway) rawRequest(key, body string, headers ...string) (request string, bodyAt int) {
	lines := append([]string{
		"POST " + messagePath + " HTTP/1.1", "Host: " + g.site, "Content-Type: application/json", "Authorization: Bearer " + key,
	}, headers...)
	head := strings.Join(lines, "\r\n") + "\r\n\r\n"
	return head + body, len(head)
}

// dial connects to the gateway and writes text.
func (g *gateway) dial(t testing.TB, text string) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", g.site)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn
}

// handled is how many requests for messages the gateway has answered or given up.
func (g *gateway) handled() (n int) {
	for line := range strings.Lines(g.output()) {
		if strings.Contains(line, `"handled request"`) && strings.Contains(line, `"uri":"`+messagePath) {
			n++
		}
	}
	return n
}

// awaitHandled waits until the gateway has done with this many requests.
func (g *gateway) awaitHandled(t testing.TB, n int) {
	t.Helper()
	eventually(t, "every request to end", func() error {
		if got := g.handled(); got < n {
			return fmt.Errorf("%d of %d have ended", got, n)
		}
		return nil
	})
}

// awaitSends waits until this many sends of a tenant have reached the simulator.
func (g *gateway) awaitSends(t testing.TB, who tenant, n int) {
	t.Helper()
	eventually(t, "the sends to reach Meta", func() error {
		if got := g.tally(t).sends(who); got != n {
			return fmt.Errorf("%d sends have reached it, want %d", got, n)
		}
		return nil
	})
}

// awaitNoHolds waits until every hold of a tenant has an outcome.
func (g *gateway) awaitNoHolds(t testing.TB, who tenant) {
	t.Helper()
	eventually(t, "every hold to be settled", func() error {
		if open := len(g.openHolds(t, who.account)); open > 0 {
			return fmt.Errorf("%d are open", open)
		}
		return nil
	})
}

func TestAClientThatGoesAwayInMidSendIsStillCharged(t *testing.T) {
	t.Parallel()
	// The answer takes long enough for the gateway to notice that nobody waits for it.
	g := startGateway(t, settings{simulator: "slow_answer 1s", global: "servers {\nprotocols h1 h2c\n}"})
	whole := func(t *testing.T, who tenant) net.Conn {
		body := g.message("9109")
		request, _ := g.rawRequest(who.key, body, fmt.Sprintf("Content-Length: %d", len(body)))
		return g.dial(t, request)
	}
	for name, send := range map[string]func(t *testing.T, who tenant) (goAway func()){
		"closes": func(t *testing.T, who tenant) func() {
			conn := whole(t, who)
			return func() { conn.Close() }
		},
		"resets": func(t *testing.T, who tenant) func() {
			conn := whole(t, who)
			return func() { reset(conn) }
		},
		"cancels a stream of HTTP/2": func(t *testing.T, who tenant) func() {
			transport := overHTTP2()
			t.Cleanup(transport.CloseIdleConnections)
			ctx, cancel := context.WithCancel(t.Context())
			t.Cleanup(cancel)
			req := g.request(t, http.MethodPost, messagePath, g.message("9109")).WithContext(ctx)
			req.Header.Set("Authorization", "Bearer "+who.key)
			ended := make(chan error, 1)
			go func() {
				_, err := transport.RoundTrip(req) //nolint:bodyclose // there is no response
				ended <- err
			}()
			return func() {
				cancel()
				if err := <-ended; !errors.Is(err, context.Canceled) {
					t.Errorf("the request ended with %v", err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			who := g.tenant(t, profile{})
			goAway := send(t, who)
			g.awaitSends(t, who, 1)
			goAway()
			g.awaitNoHolds(t, who)
			if a := g.audit(t, g, who); a.captured != 1 || a.accepted != 1 || a.unnamed != 0 {
				t.Errorf("%+v", a)
			}
		})
	}
}

// Whenever a client hangs up, its message is either not sent and not charged or
// both, and nothing stays in between.
func TestClientsThatHangUpAtAnyTimeLeaveNothingInDoubt(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{simulator: "slow_answer 20ms"})
	who := g.tenant(t, plenty)
	const clients = 100
	bodies := []string{g.message(accepted), g.message("9109"), g.message(refused)}
	for i := range clients {
		body := bodies[i%len(bodies)]
		request, _ := g.rawRequest(who.key, body, fmt.Sprintf("Content-Length: %d", len(body)))
		conn := g.dial(t, request)
		switch {
		case i%10 == 0: // in the middle of the answer
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Error(err)
			}
		case i%2 == 0: // when the gateway is idle, whereas the others meet it busy
			g.awaitHandled(t, i/2)
		}
		conn.Close()
	}
	g.awaitHandled(t, clients)
	g.awaitNoHolds(t, who)
	a := g.audit(t, g, who)
	t.Logf("%d clients, %d messages accepted: %d captured, %d released", clients, a.accepted, a.captured, a.released)
	if a.accepted != a.captured || a.captured == 0 {
		t.Errorf("%d messages accepted, %d captured", a.accepted, a.captured)
	}
}

func TestAClientThatGoesAwayInMidUploadSendsNothing(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	who := g.tenant(t, profile{})
	body := g.message(accepted)
	requests := 0
	for _, headers := range [][]string{
		{fmt.Sprintf("Content-Length: %d", len(body))},
		{fmt.Sprintf("Content-Length: %d", len(body)+1)}, // a whole message, and one byte is still due
		{"Transfer-Encoding: chunked"},
	} {
		for _, goAway := range []func(net.Conn) bool{func(c net.Conn) bool { return c.Close() == nil }, reset} {
			upload := body
			if headers[0] == "Transfer-Encoding: chunked" {
				upload = fmt.Sprintf("%x\r\n%s\r\n", len(body), body) // and no last chunk
			} else if strings.HasSuffix(headers[0], fmt.Sprint(len(body))) {
				upload = body[:len(body)/2]
			}
			request, _ := g.rawRequest(who.key, upload, append(headers, "Expect: 100-continue")...)
			conn := g.dial(t, request)
			// The gateway has asked for the body, so it has the request.
			continued := make([]byte, len("HTTP/1.1 100"))
			if _, err := io.ReadFull(conn, continued); err != nil {
				t.Fatal(err)
			}
			goAway(conn)
			requests++
			g.awaitHandled(t, requests)
		}
	}
	if n := g.tally(t).sends(who); n != 0 {
		t.Errorf("%d messages reached Meta", n)
	}
	if ledger := g.ledger(t, who.account); len(ledger) != 1 {
		t.Errorf("%d entries in the ledger, where only the credit should be", len(ledger))
	}
	a := g.send(t, who.key, body)
	a.wantCode(t, "")
	if a.remaining(t) != 4799 {
		t.Errorf("%d of 4800 remain", a.remaining(t))
	}
}
