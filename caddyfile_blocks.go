package gateway

import (
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// parseOptions reads a block whose words are these, of which the repeatable ones may stand
// more than once.
func parseOptions[T any](d *caddyfile.Dispenser, to *T, options map[string]func(*T, *caddyfile.Dispenser) error, repeatable ...string) error {
	return parseBlock(d, func(word string) error {
		parse, ok := options[word]
		if !ok {
			return d.Errf("unrecognized option: %s", word)
		}
		return parse(to, d)
	}, repeatable...)
}

// parseCore reads the option core.
func parseCore(a *App, d *caddyfile.Dispenser) error {
	begin := caddyfile.NewDispenser([]caddyfile.Token{d.Token()}) // for an error that is known at the end
	begin.Next()
	args := d.RemainingArgs()
	if len(args) != 1 {
		return d.Errf("core has %d arguments and takes 1", len(args))
	}
	a.Core = &CoreService{URL: args[0]}
	if err := parseOptions(d, a.Core, coreOptions); err != nil {
		return err
	}
	if a.Core.Token == "" {
		return begin.Err("core needs a token")
	}
	config := a.coreConfig()
	if secretPlaceholder.MatchString(config.Token) {
		config.Token = "to-be-resolved"
	}
	if err := config.Validate(); err != nil {
		return begin.WrapErr(err)
	}
	return nil
}

// coreOptions are the words of the block core.
var coreOptions = map[string]func(*CoreService, *caddyfile.Dispenser) error{
	"token": func(c *CoreService, d *caddyfile.Dispenser) error {
		args, err := arguments(d, 1, 1)
		if err == nil && args[0] == "" {
			err = d.Err("token is empty")
		}
		if err != nil {
			return err
		}
		c.Token = args[0]
		return nil
	},
	"timeout": func(c *CoreService, d *caddyfile.Dispenser) error {
		args, err := arguments(d, 1, 1)
		if err != nil {
			return err
		}
		c.Timeout, err = parseDuration(d, args[0])
		return err
	},
}

// deliveryOptions are the words of the block delivery.
var deliveryOptions = map[string]func(*Delivery, *caddyfile.Dispenser) error{
	"timeout": func(o *Delivery, d *caddyfile.Dispenser) error {
		args, err := arguments(d, 1, 1)
		if err != nil {
			return err
		}
		o.Timeout, err = parseDuration(d, args[0])
		return err
	},
	"concurrency": func(o *Delivery, d *caddyfile.Dispenser) error {
		args, err := arguments(d, 1, 2)
		if err != nil {
			return err
		}
		for i, arg := range args {
			n, err := strconv.Atoi(arg)
			if err != nil || n < 1 {
				return d.Errf("concurrency takes whole numbers of at least 1, not %s", arg)
			}
			*[]*int{&o.Concurrency, &o.ConcurrencyPerEndpoint}[i] = n
		}
		return nil
	},
	"retry": func(o *Delivery, d *caddyfile.Dispenser) error {
		args, err := arguments(d, 1, maxRetries)
		if err != nil {
			return err
		}
		for _, arg := range args {
			delay, err := parseDuration(d, arg)
			if err != nil {
				return err
			}
			o.Retry = append(o.Retry, delay)
		}
		return nil
	},
	"allow_private_targets": func(o *Delivery, d *caddyfile.Dispenser) error {
		o.AllowPrivateTargets = true
		_, err := arguments(d, 0, 0)
		return err
	},
}
