package metasim

import (
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("meta_simulator", parseCaddyfile)
	httpcaddyfile.RegisterDirectiveOrder("meta_simulator", httpcaddyfile.Before, "respond")
}

func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	m := new(MetaSimulator)
	return m, m.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the simulator from Caddyfile tokens. Syntax:
//
//	meta_simulator [<matcher>] {
//		access_token <token>...    # the only good ones; default: any that begins with EAA
//		slow_answer  <duration>    # how long a slow answer takes; default 2s
//		webhook <url> <app-secret> # where statuses and user messages go; default: nowhere
//	}
//
// access_token may be given several times. Tokens, the URL and the app secret
// take {env.NAME} and {file.PATH}.
func (m *MetaSimulator) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if d.NextArg() {
		return d.ArgErr()
	}
	for d.NextBlock(0) {
		switch d.Val() {
		case "access_token":
			tokens := d.RemainingArgs()
			if len(tokens) == 0 {
				return d.ArgErr()
			}
			m.AccessTokens = append(m.AccessTokens, tokens...)
		case "slow_answer":
			var value string
			if !d.AllArgs(&value) {
				return d.ArgErr()
			}
			if m.SlowAnswer != 0 {
				return d.Err("slow_answer is already set")
			}
			duration, err := caddy.ParseDuration(value)
			if err != nil {
				return d.Errf("slow_answer: %v", err)
			}
			if duration <= 0 {
				return d.Err("slow_answer must be positive")
			}
			m.SlowAnswer = caddy.Duration(duration)
		case "webhook":
			if err := m.unmarshalWebhook(d); err != nil {
				return err
			}
		default:
			return d.Errf("meta_simulator does not know %q", d.Val())
		}
	}
	return nil
}

// unmarshalWebhook checks a URL only where it has no placeholders, which stand
// for something else later.
func (m *MetaSimulator) unmarshalWebhook(d *caddyfile.Dispenser) error {
	var h Webhook
	if !d.AllArgs(&h.URL, &h.AppSecret) {
		return d.ArgErr()
	}
	if m.Webhook != nil {
		return d.Err("webhook is already set")
	}
	if h.AppSecret == "" {
		return d.Err("webhook: app_secret is empty")
	}
	if !strings.Contains(h.URL, "{") {
		if err := checkURL(h.URL); err != nil {
			return d.WrapErr(err)
		}
	}
	m.Webhook = &h
	return nil
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*MetaSimulator)(nil)
)
