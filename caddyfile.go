package gateway

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/dustin/go-humanize"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// moduleName is what the app, the option and the directive are called.
const moduleName = "whatsapp_gateway"

func init() {
	httpcaddyfile.RegisterGlobalOption(moduleName, parseApp)
	httpcaddyfile.RegisterHandlerDirective(moduleName, parseHandler)
	httpcaddyfile.RegisterDirectiveOrder(moduleName, httpcaddyfile.Before, "respond")
}

// parseApp reads the global option.
func parseApp(d *caddyfile.Dispenser, existing any) (any, error) {
	if existing != nil {
		d.Next()
		return nil, d.Errf("the %s option stands twice", moduleName)
	}
	app := new(App)
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: moduleName, Value: caddyconfig.JSON(app, nil)}, nil
}

// UnmarshalCaddyfile sets up the app from Caddyfile tokens. Syntax:
//
//	whatsapp_gateway {
//		store          <backend> [...]
//		core           <base-url> {
//			token   <secret>
//			timeout <duration>
//		}
//		key_cache       <duration> [<negative duration>]
//		key_cache_stale <duration>
//		key_pepper     <secret>
//		encryption_key <key-id> <base64 of 32 bytes>
//		rate_limit     <per-second> <per-minute>
//		base_fee       <decimal>
//		rate_card      <csv file>
//		in_doubt       <duration> capture|release
//		webhook_verify_token <secret>
//		meta_app_secret      <secret>...
//		delivery {
//			timeout     <duration>
//			concurrency <n> [<n per endpoint>]
//			retry       <duration>...
//			allow_private_targets
//		}
//	}
//
// encryption_key may stand more than once; the first one encrypts.
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the option's name
	if d.NextArg() {
		return d.ArgErr()
	}
	return parseOptions(d, a, appOptions, "encryption_key")
}

// appOptions are the words of the global option; each function stands on its
// word and reads what belongs to it.
var appOptions = map[string]func(*App, *caddyfile.Dispenser) error{
	"store": func(a *App, d *caddyfile.Dispenser) error {
		if !d.NextArg() {
			return d.ArgErr()
		}
		backend := d.Val()
		module, err := caddyfile.UnmarshalModule(d, "whatsapp_gateway.stores."+backend)
		if err != nil {
			return err
		}
		a.StoreRaw = caddyconfig.JSONModuleObject(module, "backend", backend, nil)
		return nil
	},
	"key_cache": func(a *App, d *caddyfile.Dispenser) error {
		args, err := arguments(d, 1, 2)
		if err != nil {
			return err
		}
		if a.KeyCache.Lifetime, err = parseDuration(d, args[0]); err != nil || len(args) == 1 {
			return err
		}
		a.KeyCache.NegativeLifetime, err = parseDuration(d, args[1])
		return err
	},
	"key_cache_stale": func(a *App, d *caddyfile.Dispenser) error {
		args, err := arguments(d, 1, 1)
		if err != nil {
			return err
		}
		a.KeyCacheStale, err = parseDuration(d, args[0])
		return err
	},
	"key_pepper": func(a *App, d *caddyfile.Dispenser) error {
		args, err := arguments(d, 1, 1)
		if err != nil {
			return err
		}
		a.KeyPepper = args[0]
		return nil
	},
	"encryption_key": func(a *App, d *caddyfile.Dispenser) error {
		args, err := arguments(d, 2, 2)
		if err != nil {
			return err
		}
		a.EncryptionKeys = append(a.EncryptionKeys, EncryptionKey{ID: args[0], Secret: args[1]})
		return nil
	},
	"rate_limit": func(a *App, d *caddyfile.Dispenser) error {
		args, err := arguments(d, 2, 2)
		if err != nil {
			return err
		}
		perSecond, err1 := strconv.Atoi(args[0])
		perMinute, err2 := strconv.Atoi(args[1])
		limit := tenant.RateLimit{PerSecond: perSecond, PerMinute: perMinute}
		if err1 != nil || err2 != nil || limit.Validate() != nil {
			return d.Err("rate_limit takes two whole numbers of at least 1: per second and per minute")
		}
		a.RateLimit = &limit
		return nil
	},
	"base_fee": func(a *App, d *caddyfile.Dispenser) error {
		args, err := arguments(d, 1, 1)
		if err != nil {
			return err
		}
		fee, err := pricing.Parse(args[0])
		if err != nil {
			return d.WrapErr(err)
		}
		if fee < 0 {
			return d.Err("base_fee cannot be negative")
		}
		a.BaseFee = &fee
		return nil
	},
	"rate_card": func(a *App, d *caddyfile.Dispenser) error {
		args, err := arguments(d, 1, 1)
		if err != nil {
			return err
		}
		a.RateCard = args[0]
		return nil
	},
	"webhook_verify_token": func(a *App, d *caddyfile.Dispenser) error {
		args, err := arguments(d, 1, 1)
		if err == nil && args[0] == "" {
			err = d.Err("webhook_verify_token is empty")
		}
		if err != nil {
			return err
		}
		a.WebhookVerifyToken = args[0]
		return nil
	},
	"meta_app_secret": func(a *App, d *caddyfile.Dispenser) error {
		args, err := arguments(d, 1, maxAppSecrets)
		a.MetaAppSecrets = args
		return err
	},
	"delivery": func(a *App, d *caddyfile.Dispenser) error {
		if d.NextArg() {
			return d.ArgErr()
		}
		return parseOptions(d, &a.Delivery, deliveryOptions)
	},
	"core": parseCore,
	"in_doubt": func(a *App, d *caddyfile.Dispenser) error {
		args, err := arguments(d, 2, 2)
		if err != nil {
			return err
		}
		if args[1] != inDoubtCapture && args[1] != inDoubtRelease {
			return d.Errf("in_doubt ends in capture or release, not %s", args[1])
		}
		a.InDoubt.Outcome = args[1]
		a.InDoubt.After, err = parseDuration(d, args[0])
		return err
	},
}

// parseBlock has parse read each word of a block, none of which may stand twice
// unless it is named here.
func parseBlock(d *caddyfile.Dispenser, parse func(word string) error, repeatable ...string) error {
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		if seen[word] && !slices.Contains(repeatable, word) {
			return d.Errf("%s stands twice", word)
		}
		seen[word] = true
		if err := parse(word); err != nil {
			return err
		}
	}
	return nil
}

// parseHandler reads the site directive.
func parseHandler(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	return handler, handler.unmarshalCaddyfile(h)
}

// unmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	whatsapp_gateway [<matcher>] {
//		graph_version    <vNN.N>
//		max_body_size    <size>
//		upstream_timeout <duration>
//		reverse_proxy    [<upstream>...] { ... }
//	}
//
// The last one takes whatever Caddy's own reverse_proxy does.
func (h *Handler) unmarshalCaddyfile(helper httpcaddyfile.Helper) error {
	d := helper.Dispenser
	d.Next() // the directive's name
	if d.NextArg() {
		return d.ArgErr()
	}
	return parseBlock(d, func(word string) error { return h.unmarshalOption(helper, word) })
}

func (h *Handler) unmarshalOption(helper httpcaddyfile.Helper, word string) error {
	d := helper.Dispenser
	if word == "reverse_proxy" {
		guest := new(reverseproxy.Handler)
		if err := guest.UnmarshalCaddyfile(d.NewFromNextSegment()); err != nil {
			return err
		}
		if err := guest.FinalizeUnmarshalCaddyfile(helper); err != nil {
			return err
		}
		h.ReverseProxyRaw = caddyconfig.JSONModuleObject(guest, "handler", "reverse_proxy", nil)
		return nil
	}
	option, ok := handlerOptions[word]
	if !ok {
		return d.Errf("unrecognized option: %s", word)
	}
	args, err := arguments(d, 1, 1)
	if err != nil {
		return err
	}
	if err := option(h, args[0]); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// handlerOptions are the words of the directive that take one argument.
var handlerOptions = map[string]func(*Handler, string) error{
	"graph_version": func(h *Handler, value string) error {
		h.GraphVersion = value
		return checkGraphVersion(value)
	},
	"max_body_size": func(h *Handler, value string) error {
		size, err := humanize.ParseBytes(value)
		if err != nil || size == 0 || size > maxBodySize {
			return fmt.Errorf("max_body_size is a size such as 128KiB, up to %d MiB, not %s", maxBodySize>>20, value)
		}
		h.MaxBodySize = int64(size)
		return nil
	},
	"upstream_timeout": func(h *Handler, value string) error {
		timeout, err := caddy.ParseDuration(value)
		if err == nil && timeout <= 0 {
			err = fmt.Errorf("upstream_timeout must be positive, not %s", value)
		}
		h.UpstreamTimeout = caddy.Duration(timeout)
		return err
	},
}

// arguments returns what stands behind a word, which has to be from least to
// most arguments and no block. The error repeats none of them: they may be secret.
func arguments(d *caddyfile.Dispenser, least, most int) ([]string, error) {
	word := d.Val()
	args := d.RemainingArgs()
	if len(args) < least || len(args) > most {
		takes := strconv.Itoa(least)
		switch {
		case most == least+1:
			takes += " or " + strconv.Itoa(most)
		case most > least:
			takes += " to " + strconv.Itoa(most)
		}
		return nil, d.Errf("%s has %d arguments and takes %s", word, len(args), takes)
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		return nil, d.Errf("%s takes no block", word)
	}
	return args, nil
}

// parseDuration reads a duration of Caddy's, which may be in days and must be positive.
func parseDuration(d *caddyfile.Dispenser, s string) (caddy.Duration, error) {
	duration, err := caddy.ParseDuration(s)
	if err != nil {
		return 0, d.WrapErr(err)
	}
	if duration <= 0 {
		return 0, d.Errf("a duration must be positive, not %s", s)
	}
	return caddy.Duration(duration), nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*App)(nil)
