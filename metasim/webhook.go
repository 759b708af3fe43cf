package metasim

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"
)

// userAgent is what Meta's webhooks call themselves.
const userAgent = "facebookexternalua"

// errWebhookURL does not repeat the URL, which may hold a password.
var errWebhookURL = errors.New("webhook: the URL must begin with http:// or https:// and name a host")

// Webhook is where the simulator tells what becomes of messages. Placeholders
// such as {env.NAME} and {file.PATH} are replaced in both of its parts when the
// configuration is loaded.
type Webhook struct {
	// URL gets a POST for every event; http is as good as https.
	URL string `json:"url,omitempty"`

	// AppSecret is the key of the signature in X-Hub-Signature-256.
	AppSecret string `json:"app_secret,omitempty"`
}

// resolve replaces placeholders and refuses what cannot be used. No error
// contains a value.
func (h *Webhook) resolve(repl *caddy.Replacer) error {
	for _, part := range []struct {
		name  string
		value *string
	}{{"url", &h.URL}, {"app_secret", &h.AppSecret}} {
		resolved, err := repl.ReplaceOrErr(*part.value, true, true)
		if err != nil {
			return fmt.Errorf("webhook: %s: %w", part.name, err)
		}
		if resolved == "" {
			return fmt.Errorf("webhook: %s is empty", part.name)
		}
		*part.value = resolved
	}
	return checkURL(h.URL)
}

// checkURL refuses a URL that no webhook can be sent to.
func checkURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return errWebhookURL
	}
	return nil
}

// request is a webhook with this body as Meta sends it. The signature covers
// the raw bytes:
// https://developers.facebook.com/docs/graph-api/webhooks/getting-started#validate-payloads
func (h *Webhook) request(ctx context.Context, body []byte) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(body))
	if err != nil {
		return nil, errWebhookURL
	}
	mac := hmac.New(sha256.New, []byte(h.AppSecret))
	mac.Write(body)
	r.Header.Set("Accept", "*/*")
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", userAgent)
	r.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	return r, nil
}
