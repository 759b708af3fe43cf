package delivery

import (
	"encoding/base64"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func TestCheckURL(t *testing.T) {
	long := "https://example.com/" + strings.Repeat("a", maxURL)
	for _, c := range []struct {
		url             string
		public, private bool // whether it is taken, without and with private targets
	}{
		{"https://example.com", true, true},
		{"https://example.com./", true, true},
		{"https://EXAMPLE.com:8443/hook?a=b%20c", true, true},
		{"https://xn--bcher-kva.example/", true, true},
		{"https://a_b.example.com/", true, true},
		{"https://8.8.8.8/", true, true},
		{"https://[2606:4700::1111]:444/", true, true},
		{long[:maxURL], true, true},

		{"http://example.com/", false, true},
		{"https://127.0.0.1/", false, true},
		{"http://127.0.0.1:8080/hook", false, true},
		{"https://[::1]/", false, true},
		{"https://[::ffff:8.8.8.8]/", false, true},
		{"https://[fe80::1%25eth0]/", false, true},
		{"https://169.254.169.254/latest/meta-data", false, true},
		{"https://localhost/", false, true},
		{"https://Localhost.:443/", false, true},
		{"https://hook.localhost/", false, true},

		{"", false, false},
		{"example.com", false, false},
		{"//example.com/", false, false},
		{"https:example.com", false, false},
		{"https://", false, false},
		{"https:///hook", false, false},
		{"https://:443/", false, false},
		{"ftp://example.com/", false, false},
		{"javascript:alert(1)", false, false},
		{"https://user@example.com/", false, false},
		{"https://user:password@example.com/", false, false},
		{"https://@example.com/", false, false},
		{"https://example.com/#fragment", false, false},
		{"https://example.com/#", false, false},
		{"https://example.com:0/", false, false},
		{"https://example.com:65536/", false, false},
		{"https://example.com:443a/", false, false},
		{"https://exa mple.com/", false, false},
		{"https://example.com/a b", false, false},
		{"https://example.com/\n", false, false},
		{"https://exämple.com/", false, false},
		{"https://１２７.０.０.１/", false, false},
		{"https://example..com/", false, false},
		{"https://example.com\\@127.0.0.1/", false, false},
		{"https://a*b.example.com/", false, false},
		{"https://" + strings.Repeat("a", 64) + ".com/", false, false},
		{"https://" + strings.Repeat("a.", 130) + "com/", false, false},
		{"https://127.1/", false, false},
		{"https://2130706433/", false, false},
		{"https://0x7f000001/", false, false},
		{"https://0X7F.0.0.1/", false, false},
		{"https://0177.0.0.01/", false, false},
		{"https://127.0.0.1./", false, false},
		{"https://8.8.8.8./", false, false},
		{"https://[::1/", false, false},
		{long, false, false},
	} {
		if err := CheckURL(c.url, false); (err == nil) != c.public {
			t.Errorf("%q: %v", c.url, err)
		}
		if err := CheckURL(c.url, true); (err == nil) != c.private {
			t.Errorf("%q with private targets: %v", c.url, err)
		}
	}
}

func FuzzCheckURL(f *testing.F) {
	for _, seed := range []string{
		"https://example.com/hook", "https://8.8.8.8:1/", "https://127.0.0.1/", "https://[::ffff:1.2.3.4]/", "https://0x7f.1/",
		"https://a@b/", "https://a%2eb/", "https://[fe80::1%25a]/", "http://h#", "https://1.2.3.4.:443",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if err := CheckURL(raw, false); err != nil {
			return
		}
		if err := CheckURL(raw, true); err != nil {
			t.Fatalf("%q is taken only where less is allowed: %v", raw, err)
		}
		u, err := url.Parse(raw)
		if err != nil || u.Scheme != "https" || u.User != nil || u.Fragment != "" || u.Hostname() == "" {
			t.Fatalf("%q was taken", raw)
		}
		if ip, err := netip.ParseAddr(u.Hostname()); err == nil && !reachable(ip) {
			t.Fatalf("%q was taken", raw)
		}
	})
}

func TestCheckHeader(t *testing.T) {
	for _, c := range []struct{ name, value string }{
		{"X-Team", "a"}, {"x-team", "a b\tc"}, {"Cookie", "a=b; c=d"}, {"X_Team", "a"}, {"X", ""}, {"X-Gate", "\"quoted\""},
		{"X-" + strings.Repeat("a", maxHeaderName-2), strings.Repeat("b", maxHeaderValue)},
	} {
		if err := CheckHeader(c.name, c.value); err != nil {
			t.Errorf("%q: %v", c.name, err)
		}
	}
	const secret = "hunter2"
	for _, c := range []struct{ name, value string }{
		{"", secret}, {"X Team", secret}, {"X-Team:", secret}, {"X-Tëam", secret}, {"X-Team\r\n", secret}, {"X(Team)", secret}, {"\x7f", secret},
		{strings.Repeat("a", maxHeaderName+1), secret},
		{"X-Team", secret + "\r\nX-Evil: 1"}, {"X-Team", secret + "\x00"}, {"X-Team", " " + secret}, {"X-Team", secret + " "},
		{"X-Team", secret + "ü"}, {"X-Team", secret + "\xff"}, {"X-Team", secret + strings.Repeat("a", maxHeaderValue)},
		{"Authorization", secret}, {"authorization", secret}, {"Content-Type", secret}, {"CONTENT-LENGTH", secret}, {"Content-Encoding", secret},
		{"Host", secret}, {"Connection", secret}, {"Transfer-Encoding", secret}, {"TE", secret}, {"Trailer", secret}, {"Upgrade", secret},
		{"Expect", secret}, {"Proxy-Authorization", secret}, {"Keep-Alive", secret}, {"webhook-id", secret}, {"Webhook-Signature", secret},
		{"X-Gateway-Event", secret}, {"User-Agent", secret}, {"Accept-Encoding", secret}, {"Idempotency-Key", secret}, {"x-idempotency-key", secret},
		{"HTTP2-Settings", secret},
	} {
		if err := CheckHeader(c.name, c.value); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %q is answered %v", c.name, c.value, err)
		}
	}
}

func TestCheckSecret(t *testing.T) {
	encoded := func(n int) string { return keyPrefix + base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for _, s := range []string{"s", "!~", strings.Repeat("s", maxSecret), encoded(1), encoded(32), encoded(100), "WHSEC_", "whsec"} {
		if err := CheckSecret(tenant.Secret(s)); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{
		"", "with space", "with\ttab", "with\nline", "ümlaut", "\xff", "\x00", strings.Repeat("s", maxSecret+1),
		keyPrefix, keyPrefix + "not-base64-at-all-not-base64-at-all", encoded(32) + "=", strings.TrimRight(encoded(32), "="),
	} {
		if err := CheckSecret(tenant.Secret(s)); err == nil || s != "" && s != keyPrefix && strings.Contains(err.Error(), s) {
			t.Errorf("%q is answered %v", s, err)
		}
	}
}

func TestCheckWebhook(t *testing.T) {
	headers := func(n int) map[string]tenant.Secret {
		all := make(map[string]tenant.Secret)
		for i := range n {
			all["X-"+strings.Repeat("a", i+1)] = "value"
		}
		return all
	}
	for _, c := range []struct {
		name  string
		hook  tenant.Webhook
		taken bool
	}{
		{"all there", tenant.Webhook{URL: "https://example.com", Secret: "secret", Headers: headers(maxHeaders)}, true},
		{"no secret", tenant.Webhook{URL: "https://example.com"}, true},
		{"no URL", tenant.Webhook{Secret: "secret"}, false},
		{"bad secret", tenant.Webhook{URL: "https://example.com", Secret: "a b"}, false},
		{"bad header", tenant.Webhook{URL: "https://example.com", Headers: map[string]tenant.Secret{"Host": "a"}}, false},
		{"too many headers", tenant.Webhook{URL: "https://example.com", Headers: headers(maxHeaders + 1)}, false},
		{"a header twice", tenant.Webhook{URL: "https://example.com", Headers: map[string]tenant.Secret{"x-a": "a", "X-A": "b"}}, false},
	} {
		if err := CheckWebhook(&c.hook, false); (err == nil) != c.taken {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
