package redis

import (
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// UnmarshalCaddyfile sets up the store from Caddyfile tokens. Syntax:
//
//	store redis <url>... {
//		mode       single|cluster|sentinel <master>
//		key_prefix <prefix>
//		timeout    <duration>
//		journal    <dir>
//	}
func (b *Backend) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the store's name
	b.URLs = d.RemainingArgs()
	if len(b.URLs) == 0 {
		return d.Err("store redis needs at least one URL")
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		parse, ok := blockOptions[word]
		if !ok {
			return d.Errf("unrecognized option: %s", word)
		}
		if seen[word] {
			return d.Errf("%s stands twice", word)
		}
		seen[word] = true
		if err := parse(b, d); err != nil {
			return err
		}
	}
	return b.checkCaddyfile(d)
}

// checkCaddyfile finds what is wrong while file and line are known. What
// placeholders stand for is not looked up here.
func (b *Backend) checkCaddyfile(d *caddyfile.Dispenser) error {
	for _, text := range b.URLs {
		if placeholder.MatchString(text) {
			if err := checkMode(len(b.URLs), b.Mode, b.Master); err != nil {
				return d.Errf("store redis: %w", err)
			}
			return nil
		}
	}
	if _, err := ParseURLs(b.URLs, b.Mode, b.Master); err != nil {
		return d.Errf("store redis: %w", err)
	}
	return nil
}

// blockOptions are the words of the block; each function stands on its word and reads
// what belongs to it.
var blockOptions = map[string]func(*Backend, *caddyfile.Dispenser) error{
	"mode": func(b *Backend, d *caddyfile.Dispenser) error {
		args, err := arguments(d, 1, 2)
		if err != nil {
			return err
		}
		b.Mode = args[0]
		if len(args) == 2 {
			b.Master = args[1]
		}
		switch b.Mode {
		case modeSingle, modeCluster:
			if len(args) == 2 {
				return d.Errf("mode %s takes nothing else", b.Mode)
			}
		case modeSentinel:
			if b.Master == "" {
				return d.Err("mode sentinel needs the master's name")
			}
		default:
			return d.Errf("mode is single, cluster or sentinel, not %s", b.Mode)
		}
		return nil
	},
	"key_prefix": func(b *Backend, d *caddyfile.Dispenser) error {
		args, err := arguments(d, 1, 1)
		if err != nil {
			return err
		}
		if err := checkPrefix(args[0]); err != nil {
			return d.WrapErr(err)
		}
		b.KeyPrefix = args[0]
		return nil
	},
	"timeout": func(b *Backend, d *caddyfile.Dispenser) error {
		args, err := arguments(d, 1, 1)
		if err != nil {
			return err
		}
		timeout, err := caddy.ParseDuration(args[0])
		if err != nil {
			return d.WrapErr(err)
		}
		if timeout <= 0 {
			return d.Errf("timeout must be positive, not %s", args[0])
		}
		b.Timeout = caddy.Duration(timeout)
		return nil
	},
	"journal": func(b *Backend, d *caddyfile.Dispenser) error {
		args, err := arguments(d, 1, 1)
		if err != nil {
			return err
		}
		if args[0] == "" {
			return d.Err("journal is empty")
		}
		b.Journal = args[0]
		return nil
	},
}

// arguments returns what stands behind a word, which has to be from least to most
// arguments and no block.
func arguments(d *caddyfile.Dispenser, least, most int) ([]string, error) {
	word := d.Val()
	args := d.RemainingArgs()
	if len(args) < least || len(args) > most {
		takes := strconv.Itoa(least)
		if most > least {
			takes += " or " + strconv.Itoa(most)
		}
		return nil, d.Errf("%s has %d arguments and takes %s", word, len(args), takes)
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		return nil, d.Errf("%s takes no block", word)
	}
	return args, nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Backend)(nil)
