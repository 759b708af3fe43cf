package caddytest

import (
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
)

var (
	wh001 = failure("WH_001", "FORBIDDEN", "Invalid verification token.")
	wh002 = failure("WH_002", "UNAUTHORIZED", "Missing signature header.")
	wh003 = failure("WH_003", "FORBIDDEN", "Invalid signature.")
	wh004 = failure("WH_004", "INTERNAL_ERROR", "The event was not stored. Please deliver it again.")
)

// handshake is Meta's request to verify the webhook, with this query.
func (g *gateway) handshake(t testing.TB, method, query string) *http.Request {
	t.Helper()
	req := g.request(t, method, webhookPath, "")
	req.URL.RawQuery = query
	return req
}

func TestTheHandshakeIsAnsweredWithTheChallengeAlone(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks())
	token := url.QueryEscape(g.verifyToken)
	for _, c := range []struct{ name, query, challenge string }{
		{"Meta's own", "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=" + token, "1158201444"},
		{"another order, and more", "a=b&hub.verify_token=" + token + "&hub.challenge=1&hub.mode=subscribe&hub.topic=x", "1"},
		{"escaped", "hub.mode=%73ubscribe&hub%2Echallenge=%3Cb%3E%26%22%0D%0Aé&hub%2everify_token=%" + "76" + token[1:], "<b>&\"\r\né"},
		{"no challenge", "hub.mode=subscribe&hub.verify_token=" + token, ""},
		{"two challenges", "hub.mode=subscribe&hub.challenge=1&hub.challenge=2&hub.verify_token=" + token, "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			response, err := g.client.Do(g.handshake(t, http.MethodGet, c.query))
			if err != nil {
				t.Fatal(err)
			}
			a, err := readAnswer(response)
			if err != nil {
				t.Fatal(err)
			}
			a.want(t, http.StatusOK, c.challenge)
			if got := a.header.Get("Content-Type"); got != "text/plain; charset=utf-8" {
				t.Errorf("Content-Type %q", got)
			}
			// Whatever the challenge is, no browser takes it for a page.
			if got := a.header.Get("X-Content-Type-Options"); got != "nosniff" {
				t.Errorf("X-Content-Type-Options %q", got)
			}
			if got := a.header.Get("X-Request-Id"); !requestID.MatchString(got) {
				t.Errorf("X-Request-Id %q", got)
			}
		})
	}
}

func TestAWrongHandshakeIsWH001(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks())
	const rest = "hub.mode=subscribe&hub.challenge=1158201444"
	token := "hub.verify_token=" + g.verifyToken
	for name, query := range map[string]string{
		"nothing":                       "",
		"no token":                      rest,
		"empty token":                   rest + "&hub.verify_token=",
		"wrong token":                   rest + "&hub.verify_token=wrong",
		"token cut off":                 rest + "&" + token[:len(token)-1],
		"token and more":                rest + "&" + token + "x",
		"token in lower case":           rest + "&" + strings.ToLower(token),
		"token twice":                   rest + "&" + token + "&" + token,
		"right token, then a wrong one": rest + "&" + token + "&hub.verify_token=wrong",
		"wrong token, then the right":   rest + "&hub.verify_token=wrong&" + token,
		"no mode":                       "hub.challenge=1&" + token,
		"empty mode":                    "hub.mode=&hub.challenge=1&" + token,
		"another mode":                  "hub.mode=unsubscribe&hub.challenge=1&" + token,
		"mode in upper case":            "hub.mode=Subscribe&hub.challenge=1&" + token,
		"broken escape":                 rest + "&x=%zz&" + token,
		"semicolon":                     "a=b;" + rest + "&" + token,
		"placeholder":                   rest + "&hub.verify_token={env.VERIFY_TOKEN}",
	} {
		t.Run(name, func(t *testing.T) {
			g.do(t, g.handshake(t, http.MethodGet, query)).want(t, http.StatusForbidden, wh001)
		})
	}
}

func TestWithoutAVerifyTokenEveryHandshakeIsWH001(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	for _, query := range []string{
		"", "hub.mode=subscribe&hub.challenge=1", "hub.mode=subscribe&hub.challenge=1&hub.verify_token=",
		"hub.mode=subscribe&hub.challenge=1&hub.verify_token=" + g.verifyToken,
	} {
		g.do(t, g.handshake(t, http.MethodGet, query)).want(t, http.StatusForbidden, wh001)
	}
}

func TestAnotherMethodOnTheWebhookIsREQ003(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks())
	body := notification("1")
	methods := []string{"HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get", "post"}
	g.wantMethodsRefused(t, methods, "GET, POST", func(method string) *http.Request {
		req := g.webhook(t, body)
		req.Method = method
		req.URL.RawQuery = "hub.mode=subscribe&hub.challenge=1&hub.verify_token=" + g.verifyToken
		return req
	})
	if events := g.outbox(t); len(events) != 0 {
		t.Errorf("%d events were stored", len(events))
	}
}

// demo prepares a gateway with the configuration that `make run` serves.
func demo(t testing.TB) *gateway {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "Caddyfile.demo"))
	if err != nil {
		t.Fatal(err)
	}
	g := configured(t, "import "+path+"\n")
	g.settings.env = []string{
		"CADDY_ADMIN=unix/" + g.admin(),
		"GATEWAY_ADDRESS=http://" + g.site, "GATEWAY_URL=http://" + g.site,
		"META_SIMULATOR_ADDRESS=" + g.simulator, "META_URL=http://" + g.simulator,
		"WEBHOOK_RECEIVER_ADDRESS=" + freeAddress(t), "DELIVERY_TARGETS=allow_private_targets",
		"WEBHOOK_VERIFY_TOKEN=" + g.verifyToken, "META_APP_SECRET=" + g.appSecret,
	}
	return g
}

// That the token is in no log is what the harness looks for in the end, as in
// every other test.
func TestTheVerifyTokenIsInNoLogOfTheShippedConfiguration(t *testing.T) {
	t.Parallel()
	g := demo(t)
	g.start(t)
	token := g.verifyToken
	escaped := "%76" + token[1:] // the same token
	for _, c := range []struct {
		method, query string
		status        int
	}{
		{"GET", "hub.mode=subscribe&hub.challenge=1&hub.verify_token=" + token, 200},
		{"GET", "hub.mode=subscribe&hub.challenge=1&hub%2Everify_token=" + escaped, 200},
		{"GET", "hub.mode=subscribe&hub.challenge=1&%68ub.verify%5ftoken=" + token, 200},
		{"GET", "hub.mode=nothing&hub.verify_token=" + token, 403},
		{"GET", "hub.mode=subscribe&hub.verify_token=" + token + "&hub.verify_token=" + token, 403},
		{"GET", "hub.mode=subscribe&x=%zz&hub.verify_token=" + token, 403},
		{"GET", "hub.mode=subscribe&hub.verify_token=" + token + ";hub.challenge=1", 403},
		{"POST", "hub.verify_token=" + token, 401},
		{"DELETE", "hub.verify_token=" + token, 405},
		{"HEAD", "hub.verify_token=" + token, 405},
	} {
		response, err := g.client.Do(g.handshake(t, c.method, c.query))
		if err != nil {
			t.Fatal(err)
		}
		a, err := readAnswer(response)
		if err != nil {
			t.Fatal(err)
		}
		if a.status != c.status {
			t.Errorf("%s %s: status %d, want %d", c.method, strings.ReplaceAll(c.query, token, "TOKEN"), a.status, c.status)
		}
		if access, _ := g.logged(t, a); access.Logger == "" {
			t.Errorf("%s: not in the access log", c.method)
		}
	}
	if !strings.Contains(g.output(), "hub.verify_token=REDACTED") {
		t.Error("the access log does not say that a token was there")
	}
}
