package caddytest

import (
	"crypto/tls"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAPrivateEndpointIsRefusedWhereItIsEntered(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	who := g.tenant(t, profile{})
	for url, want := range map[string]string{
		"http://127.0.0.1:1/hook":           "the webhook URL must begin with https://",
		"http://customer.example/hook":      "the webhook URL must begin with https://",
		"https://127.0.0.1:1/hook":          "the address in the webhook URL must be public",
		"https://[::1]/hook":                "the address in the webhook URL must be public",
		"https://10.1.2.3/hook":             "the address in the webhook URL must be public",
		"https://169.254.169.254/hook":      "the address in the webhook URL must be public",
		"https://[::ffff:127.0.0.1]/hook":   "the address in the webhook URL must be public",
		"https://[64:ff9b::7f00:1]/hook":    "the address in the webhook URL must be public",
		"https://[2002:7f00:1::]/hook":      "the address in the webhook URL must be public",
		"https://localhost/hook":            "the address in the webhook URL must be public",
		"https://2130706433/hook":           "the address in the webhook URL must be written in the usual way",
		"https://0x7f.1/hook":               "the address in the webhook URL must be written in the usual way",
		"https://user:pw@customer.example/": "the webhook URL must be without user and password",
		"file:///etc/passwd":                "the webhook URL must begin with https://",
	} {
		for _, args := range [][]string{
			{"app", "set", who.app, "--webhook-url", url},
			{"app", "create", "--account", who.account, "--name", "A", "--webhook-url", url},
		} {
			_, stderr, status := g.tryRun(t, args...)
			if status != 1 || !strings.Contains(stderr, want) || strings.Contains(stderr, url) {
				t.Errorf("%s %s %s: exit status %d: %s", args[0], args[1], url, status, stderr)
			}
		}
	}
	var apps []struct {
		URL *string `json:"webhook_url"`
	}
	g.runInto(t, &apps, "app", "list")
	if len(apps) != 1 || apps[0].URL != nil {
		t.Errorf("what was refused was stored: %d apps", len(apps))
	}
}

// That an endpoint got into the database while it was allowed is of no use to it.
func TestAPrivateEndpointIsNeverDialled(t *testing.T) {
	t.Parallel()
	allowed := settings{}.withWebhooks(quick)
	forbidden := allowed
	forbidden.app = strings.Replace(allowed.app, "allow_private_targets", "", 1)
	g := startGateway(t, allowed)
	plain, secure := startReceiver(t), newReceiver(t)
	secure.server.StartTLS()
	secure.url = secure.server.URL + "/hook"
	// A name that leads to this machine, of which no literal address tells.
	named := startReceiver(t)
	_, port, _ := strings.Cut(strings.TrimPrefix(named.server.URL, "http://"), ":")
	named.url = "https://localhost.:" + port + "/hook"
	for _, endpoint := range []*receiver{plain, secure, named} {
		t.Run(endpoint.url, func(t *testing.T) {
			g.reload(t, allowed)
			who := g.tenant(t, profile{endpoint: endpoint})
			g.reload(t, forbidden)
			before, dead := endpoint.dialled(), len(g.stored(t))
			g.report(t, notification(who.waba, g.userMessage(who)))
			g.awaitOutbox(t, "dead", dead+1)
			e := g.stored(t)[dead]
			if !strings.Contains(e.LastError, "public") && !strings.Contains(e.LastError, "https://") {
				t.Errorf("last error %q", e.LastError)
			}
			if n := endpoint.dialled() - before; n != 0 {
				t.Errorf("%d connections were made", n)
			}
		})
	}
	g.reload(t, allowed)
	g.run(t, "event", "replay", g.stored(t)[0].ID)
	plain.one(t)
}

// TLS is spoken to whoever has a certificate, and to nobody else.
func TestAnEndpointBehindTLS(t *testing.T) {
	t.Parallel()
	trusted, unknown := newReceiver(t), newReceiver(t)
	unknown.server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
	for _, r := range []*receiver{trusted, unknown} {
		r.server.EnableHTTP2 = true
		r.server.StartTLS()
		r.url = r.server.URL + "/hook"
	}
	authorities := filepath.Join(t.TempDir(), "authorities.pem")
	trustee := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: trusted.server.Certificate().Raw})
	if err := os.WriteFile(authorities, trustee, 0o600); err != nil {
		t.Fatal(err)
	}
	s := settings{env: []string{"SSL_CERT_FILE=" + authorities}}.withWebhooks(quick)
	g := startGateway(t, s)
	good, bad := g.tenant(t, profile{endpoint: trusted}), g.tenant(t, profile{endpoint: unknown})
	g.report(t, notification(good.waba, g.userMessage(good)))
	g.report(t, notification(bad.waba, g.userMessage(bad)))
	trusted.one(t)
	g.awaitOutbox(t, "dead", 1)
	if e := g.stored(t)[0]; e.AppID != bad.app || e.LastError != "TLS: certificate is signed by an unknown authority" {
		t.Errorf("%+v", e)
	}
	if attempts, _ := unknown.counted(); attempts != 0 {
		t.Error("an event was delivered to who has no certificate")
	}
}
