package delivery

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const (
	// maxURL, maxHeaderName and maxHeaderValue bound what an app brings, in bytes.
	maxURL         = 2048
	maxHeaderName  = 128
	maxHeaderValue = 4096
	// maxHeaders is how many headers of its own an app may have.
	maxHeaders = 32
	// maxSecret is what the longest secret has, in bytes.
	maxSecret = 512
	// keyPrefix begins a secret that has its key in base64. Standard Webhooks asks
	// for 24 to 64 bytes; its libraries take any, and so does this.
	keyPrefix = "whsec_"
)

// CheckWebhook says what is wrong with a webhook as a whole, if anything; see
// [CheckURL], [CheckSecret] and [CheckHeader]. One without a secret is fine.
func CheckWebhook(w *tenant.Webhook, allowPrivate bool) error {
	if err := CheckURL(w.URL, allowPrivate); err != nil {
		return err
	}
	if w.Secret != "" {
		if err := CheckSecret(w.Secret); err != nil {
			return err
		}
	}
	if len(w.Headers) > maxHeaders {
		return fmt.Errorf("a webhook can have at most %d headers", maxHeaders)
	}
	seen := make(map[string]bool, len(w.Headers))
	for name, value := range w.Headers {
		if err := CheckHeader(name, string(value)); err != nil {
			return err
		}
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		if seen[canonical] {
			return fmt.Errorf("the header %s is there twice", canonical)
		}
		seen[canonical] = true
	}
	return nil
}

// CheckURL says what keeps a URL from being an endpoint, if anything. It must be
// https and, where it has an address in place of a name, that must be public;
// allowPrivate lifts both. What a name resolves to is looked at when it is
// dialled. The error does not repeat the URL.
func CheckURL(raw string, allowPrivate bool) error {
	if len(raw) > maxURL {
		return fmt.Errorf("the webhook URL must have at most %d characters", maxURL)
	}
	if strings.ContainsFunc(raw, func(r rune) bool { return !visible(r) }) {
		return errors.New("the webhook URL must consist of ASCII characters without spaces")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return errors.New("the webhook URL cannot be parsed")
	}
	switch {
	case u.Scheme != "https" && !allowPrivate:
		return errors.New("the webhook URL must begin with https://")
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("the webhook URL must begin with https:// or http://")
	case u.User != nil:
		return errors.New("the webhook URL must be without user and password")
	case strings.Contains(raw, "#"):
		return errors.New("the webhook URL must be without a fragment")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("the port of the webhook URL must be between 1 and 65535")
		}
	}
	return checkHost(u.Hostname(), allowPrivate)
}

// checkHost says what is wrong with the host of a URL.
func checkHost(host string, allowPrivate bool) error {
	if ip, err := netip.ParseAddr(host); err == nil {
		if !allowPrivate && !publicAddress(ip) {
			return errors.New("the address in the webhook URL must be public")
		}
		return nil
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	labels := strings.Split(name, ".")
	if name == "" || len(name) > 253 || slices.ContainsFunc(labels, badLabel) {
		return errors.New("the webhook URL must have a host name, an international one in its ASCII form")
	}
	last := labels[len(labels)-1]
	if number(last) {
		// Some resolvers take 127.1, 0x7f.0.0.1 and 2130706433 for an address.
		return errors.New("the address in the webhook URL must be written in the usual way")
	}
	if last == "localhost" && !allowPrivate {
		return errors.New("the address in the webhook URL must be public")
	}
	return nil
}

// badLabel tells whether this cannot be a part of a host name. The underscore
// is not allowed there, but in use.
func badLabel(label string) bool {
	return label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != ""
}

// number tells whether a label is a decimal, octal or hexadecimal number, as
// the last part of an IPv4 address is and that of a name never.
func number(label string) bool {
	if digits, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(digits, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

// ownHeaders are those that an app cannot have: the gateway's own, those of the
// connection, and those that make net/http or the endpoint repeat a request.
var ownHeaders = []string{
	"Accept-Encoding", "Authorization", "Connection", "Expect", "Host", "Http2-Settings", "Idempotency-Key",
	"Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "User-Agent", "X-Idempotency-Key",
}

// ownPrefixes are how more of them begin.
var ownPrefixes = []string{"Content-", "Proxy-", "Webhook-", "X-Gateway-"}

// CheckHeader says what keeps a header from being sent with each delivery, if
// anything. The error does not repeat the value.
func CheckHeader(name, value string) error {
	if name == "" || len(name) > maxHeaderName || strings.ContainsFunc(name, func(r rune) bool { return !token(r) }) {
		return fmt.Errorf("the name of a header must be 1 to %d letters, digits and hyphens", maxHeaderName)
	}
	canonical := textproto.CanonicalMIMEHeaderKey(name)
	own := slices.Contains(ownHeaders, canonical) ||
		slices.ContainsFunc(ownPrefixes, func(prefix string) bool { return strings.HasPrefix(canonical, prefix) })
	if own {
		return fmt.Errorf("the header %s is set by the gateway", canonical)
	}
	if len(value) > maxHeaderValue {
		return fmt.Errorf("the value of the header %s must have at most %d characters", canonical, maxHeaderValue)
	}
	valid := func(r rune) bool { return visible(r) || r == ' ' || r == '\t' }
	if strings.Trim(value, " \t") != value || strings.ContainsFunc(value, func(r rune) bool { return !valid(r) }) {
		return fmt.Errorf("the value of the header %s must be ASCII text without spaces around it", canonical)
	}
	return nil
}

// CheckSecret says what keeps a secret from being one of a webhook, if anything.
// One that begins with whsec_ has the key in base64, as Standard Webhooks has it.
func CheckSecret(s tenant.Secret) error {
	if s == "" || len(s) > maxSecret || strings.ContainsFunc(string(s), func(r rune) bool { return !visible(r) }) {
		return fmt.Errorf("a webhook secret must be 1 to %d ASCII characters without spaces", maxSecret)
	}
	if _, err := signingKey(s); err != nil {
		return err
	}
	return nil
}

// signingKey returns what deliveries are signed with.
func signingKey(s tenant.Secret) ([]byte, error) {
	encoded, ok := strings.CutPrefix(string(s), keyPrefix)
	if !ok {
		return []byte(s), nil
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(key) == 0 {
		return nil, fmt.Errorf("a webhook secret that begins with %s must go on in base64", keyPrefix)
	}
	return key, nil
}

// visible tells whether this is a visible ASCII character. An invalid byte is not.
func visible(r rune) bool { return r > ' ' && r < 0x7f }

// token tells whether this may be in the name of a header (RFC 9110, section 5.6.2).
func token(r rune) bool {
	return visible(r) && !strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
}
