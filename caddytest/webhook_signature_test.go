package caddytest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// wantNothingStored fails the test if anything that was refused was stored or
// delivered: a genuine event that follows is the first one to get out.
func (g *gateway) wantNothingStored(t testing.TB, who tenant, endpoint *receiver) {
	t.Helper()
	for _, e := range g.stored(t) {
		t.Errorf("an event was stored: %+v", e)
	}
	own := g.userMessage(who)
	g.report(t, notification(who.waba, own))
	if d := endpoint.one(t); d.body != notification(who.waba, own) {
		t.Errorf("another event was delivered: %s", g.masked(d.body))
	}
	g.awaitDelivered(t)
}

func TestForgedWebhooksAreRefusedAndNothingOfThemIsStored(t *testing.T) {
	t.Parallel()
	g, endpoint, who := startWithEndpoint(t)
	body := notification(who.waba, g.userMessage(who))
	right := signed(g.appSecret, body)
	for _, c := range []struct {
		name       string
		signatures []string
		status     int
		envelope   string
	}{
		{"none", nil, 401, wh002},
		{"empty", []string{""}, 403, wh003},
		{"prefix alone", []string{"sha256="}, 403, wh003},
		{"of another secret", []string{signed("another", body)}, 403, wh003},
		{"of the empty secret", []string{signed("", body)}, 403, wh003},
		{"of the verify token", []string{signed(g.verifyToken, body)}, 403, wh003},
		{"of the placeholder", []string{signed("{env.APP_SECRET}", body)}, 403, wh003},
		{"of another body", []string{signed(g.appSecret, body+" ")}, 403, wh003},
		{"of no body", []string{signed(g.appSecret, "")}, 403, wh003},
		{"without prefix", []string{right[len("sha256="):]}, 403, wh003},
		{"for another algorithm", []string{"sha1=" + right[len("sha256="):]}, 403, wh003},
		{"prefix in upper case", []string{"SHA256=" + right[len("sha256="):]}, 403, wh003},
		{"prefix and a space", []string{"sha256= " + right[len("sha256="):]}, 403, wh003},
		{"cut off", []string{right[:len(right)-2]}, 403, wh003},
		{"cut off in a byte", []string{right[:len(right)-1]}, 403, wh003},
		{"too long", []string{right + "00"}, 403, wh003},
		{"one bit off", []string{right[:len(right)-1] + string(hexDigit(right[len(right)-1]))}, 403, wh003},
		{"not hexadecimal", []string{"sha256=" + strings.Repeat("zz", 32)}, 403, wh003},
		{"in base64", []string{"sha256=" + base64.StdEncoding.EncodeToString([]byte(right))}, 403, wh003},
		{"twice in a header", []string{right + ", " + right}, 403, wh003},
		{"two headers, both right", []string{right, right}, 403, wh003},
		{"two headers, the first right", []string{right, signed("another", body)}, 403, wh003},
		{"two headers, the second right", []string{signed("another", body), right}, 403, wh003},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := g.webhook(t, body)
			req.Header.Del("X-Hub-Signature-256")
			for _, signature := range c.signatures {
				req.Header.Add("X-Hub-Signature-256", signature)
			}
			// What Meta also sends, and is not worth anything any more.
			req.Header.Set("X-Hub-Signature", right)
			g.doWebhook(t, req).want(t, c.status, c.envelope)
		})
	}
	g.wantNothingStored(t, who, endpoint)
}

// hexDigit is another digit than c.
func hexDigit(c byte) byte {
	if c == '0' {
		return '1'
	}
	return '0'
}

func TestABodyThatIsNotTheSignedOneByteForByteIsRefused(t *testing.T) {
	t.Parallel()
	g, endpoint, who := startWithEndpoint(t)
	body := notification(who.waba, g.userMessage(who))
	var indented bytes.Buffer
	if err := json.Indent(&indented, []byte(body), "", " "); err != nil {
		t.Fatal(err)
	}
	for name, changed := range map[string]string{
		"empty":               "",
		"cut off":             body[:len(body)-1],
		"one byte more":       body + "\n",
		"a byte order mark":   "\ufeff" + body,
		"indented":            indented.String(),
		"a space":             strings.Replace(body, ":", ": ", 1),
		"an escape":           strings.Replace(body, "messages", `m\u0065ssages`, 1),
		"a slash":             strings.Replace(body, "text", `te\/xt`, 1),
		"another sender":      strings.Replace(body, `"from":"49`, `"from":"48`, 1),
		"twice":               body + body,
		"a member more":       body[:len(body)-1] + `,"x":1}`,
		"an entry more":       strings.Replace(body, `"entry":[`, `"entry":[{},`, 1),
		"another letter case": strings.ToUpper(body),
	} {
		t.Run(name, func(t *testing.T) {
			if changed == body {
				t.Fatal("nothing was changed")
			}
			req := g.webhook(t, changed)
			req.Header.Set("X-Hub-Signature-256", signed(g.appSecret, body))
			g.doWebhook(t, req).want(t, http.StatusForbidden, wh003)
		})
	}
	g.wantNothingStored(t, who, endpoint)
}

// Hexadecimal digits mean the same in either letter case.
func TestASignatureInUpperCaseIsTaken(t *testing.T) {
	t.Parallel()
	g, endpoint, who := startWithEndpoint(t)
	body := notification(who.waba, g.userMessage(who))
	req := g.webhook(t, body)
	req.Header.Set("X-Hub-Signature-256", "sha256="+strings.ToUpper(signed(g.appSecret, body)[len("sha256="):]))
	g.doWebhook(t, req).want(t, http.StatusOK, "")
	endpoint.one(t)
}

func TestAnyOfSeveralAppSecretsMayHaveSigned(t *testing.T) {
	t.Parallel()
	const old, other = "the-old-app-secret", "another-app-s-secret"
	with := func(secrets string) settings {
		s := settings{env: []string{"OLD=" + old}}.withWebhooks()
		s.app = strings.Replace(s.app, "meta_app_secret", "meta_app_secret "+secrets, 1)
		return s
	}
	all, without := with("{env.OLD} "+other), with(other)
	g := newGateway(t, all)
	g.hide("app secret", old)
	g.hide("app secret", other)
	g.start(t)
	endpoint := startReceiver(t)
	who := g.tenant(t, profile{endpoint: endpoint})
	sign := func(secret string) answer {
		body := notification(who.waba, g.userMessage(who))
		req := g.webhook(t, body)
		req.Header.Set("X-Hub-Signature-256", signed(secret, body))
		return g.doWebhook(t, req)
	}
	for i, secret := range []string{old, other, g.appSecret} {
		sign(secret).want(t, http.StatusOK, "")
		endpoint.await(t, i+1)
	}
	g.reload(t, without)
	sign(old).want(t, http.StatusForbidden, wh003)
	sign(other).want(t, http.StatusOK, "")
	sign(g.appSecret).want(t, http.StatusOK, "")
	endpoint.await(t, 5)
	g.awaitDelivered(t)
	if attempts, taken := endpoint.counted(); attempts != 5 || taken != 5 {
		t.Errorf("%d attempts, %d events", attempts, taken)
	}
}

func TestWithoutAnAppSecretEveryWebhookIsRefused(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	body := notification("1")
	for _, secret := range []string{"", g.appSecret} {
		req := g.webhook(t, body)
		req.Header.Set("X-Hub-Signature-256", signed(secret, body))
		g.doWebhook(t, req).want(t, http.StatusForbidden, wh003)
	}
	req := g.webhook(t, body)
	req.Header.Del("X-Hub-Signature-256")
	g.doWebhook(t, req).want(t, http.StatusUnauthorized, wh002)
	if events := g.outbox(t); len(events) != 0 {
		t.Errorf("%d events were stored", len(events))
	}
}

// maxWebhook is the largest webhook that is taken, in bytes.
const maxWebhook = 4 << 20

func TestWebhooksAtTheLimit(t *testing.T) {
	t.Parallel()
	g, endpoint, who := startWithEndpoint(t)
	own := g.userMessage(who)
	padded := func(size int) string {
		return strings.Replace(notification(who.waba, own), `"entry"`, strings.Repeat(" ", size-len(notification(who.waba, own)))+`"entry"`, 1)
	}
	taken := 0
	for _, size := range []int{maxWebhook - 1, maxWebhook, maxWebhook + 1, 16 << 20} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprint(size, chunked), func(t *testing.T) {
				req := g.webhook(t, padded(size))
				if chunked {
					req.ContentLength = -1
				}
				a, err := g.tryWebhook(t, req)
				switch {
				case size <= maxWebhook:
					if err != nil {
						t.Fatal(err)
					}
					a.want(t, http.StatusOK, "")
					taken++
				case err == nil:
					a.want(t, http.StatusRequestEntityTooLarge, failure("REQ_002", "PAYLOAD_TOO_LARGE", "The request body is over the limit of 4194304 bytes."))
				case size < 2*maxWebhook:
					// Of larger ones a server that has not read them may lose the answer.
					t.Error(err)
				}
			})
		}
	}
	for _, d := range endpoint.await(t, taken) {
		if d.body != notification(who.waba, own) {
			t.Errorf("%d bytes were delivered", len(d.body))
		}
	}
	g.awaitDelivered(t)
	if events := g.stored(t); len(events) != 0 || taken != 4 {
		t.Errorf("%d webhooks were taken; %d events are in the outbox", taken, len(events))
	}
}

// A client that stalls is not waited for, and what it has sent is not taken for all.
func TestAWebhookThatStallsIsGivenUp(t *testing.T) {
	t.Parallel()
	g, endpoint, who := startWithEndpoint(t)
	body := notification(who.waba, g.userMessage(who))
	// The signature is that of the part that arrives.
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nX-Hub-Signature-256: %s\r\n", webhookPath, g.site, signed(g.appSecret, body))
	t.Run("all", func(t *testing.T) {
		for name, rest := range map[string]string{
			"length": fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body)+1, body),
			"chunks": fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(body), body),
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				for _, status := range g.wire(t, head+rest, false) {
					if status == http.StatusOK {
						t.Error("status 200")
					}
				}
			})
		}
	})
	g.wantNothingStored(t, who, endpoint)
}

func TestAWebhookWhoseSenderGoesAwayInTheBodyIsNotStored(t *testing.T) {
	t.Parallel()
	g, endpoint, who := startWithEndpoint(t)
	body := notification(who.waba, g.userMessage(who))
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nX-Hub-Signature-256: %s\r\n", webhookPath, g.site, signed(g.appSecret, body))
	for _, rest := range []string{
		fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body)+1, body),
		fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(body), body),
	} {
		for _, status := range g.wire(t, head+rest, true) {
			if status == http.StatusOK {
				t.Error("status 200")
			}
		}
	}
	g.wantNothingStored(t, who, endpoint)
}
