package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis"
	"github.com/connexease/caddy-whatsapp-gateway/store/sqlite"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// gateway is a Caddy with the gateway, on a database or a Redis of its own.
type gateway struct {
	*target
	dir    string
	config config
	caddy  string // the binary
	// started is how long it took from its start to the first send that was accepted.
	started time.Duration
	seeded  int // sends in the ledger that it began with
}

// config is what the Caddyfile of a gateway is made from.
type config struct {
	Fast, Slow         string // where it listens
	MetaFast, MetaSlow string
	// Redis is the address of the server, or else Database the file.
	Redis, Database    string
	Journal            string
	Pepper, Encryption string
	AppSecret          string
}

// messagePath is where the gateway takes messages.
func messagePath(string) string { return "/v1/wa/message" }

// plan says what a gateway's store has before it starts.
type plan struct {
	apps    int
	limits  tenant.RateLimit
	hook    string // where events go; empty is nowhere
	onRedis bool
	// keys and entries are stored in addition and never used: keys of the first
	// active app, and ledger entries of its account.
	keys, entries int
	caddy         string // the binary; empty is the one under test
}

// newGateway starts a gateway as planned and waits until it has sent a message.
func (r *rig) newGateway(name string, p plan) (*gateway, error) {
	g := &gateway{target: &target{name: name, path: messagePath, does: checks{true, true, true}, tenants: r.newTenants(p.apps)}}
	g.target.gateway = g
	g.seeded, g.caddy = p.entries/2, cmp.Or(p.caddy, r.caddy)
	g.dir = filepath.Join(r.dir, fmt.Sprintf("gateway%d", g.tenants.group))
	if err := os.Mkdir(g.dir, 0o700); err != nil {
		return nil, err
	}
	if err := freeAddresses(&g.fast, &g.slow); err != nil {
		return nil, err
	}
	s := newSecrets()
	g.config = config{
		Fast: g.fast, Slow: g.slow, MetaFast: r.stub.fast, MetaSlow: r.stub.slow,
		Database: filepath.Join(g.dir, "gateway.db"), Journal: filepath.Join(g.dir, "journal"),
		Pepper: s.pepper, Encryption: s.encryption, AppSecret: "bench-app-secret",
	}
	if p.onRedis {
		server, err := r.startRedis("redis of " + name)
		if err != nil {
			return nil, err
		}
		g.config.Redis, g.redis = server.address, server.process
	}
	if err := g.prepare(r.ctx, s, p); err != nil {
		return nil, fmt.Errorf("preparing %s: %w", name, err)
	}
	r.gateways = append(r.gateways, g)
	return g, r.launch(g)
}

// prepare fills the store. The durability of what is seeded is none of what is measured.
func (g *gateway) prepare(ctx context.Context, s secrets, p plan) error {
	st, err := g.open(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(g.tenants.seed(ctx, st, s, p.limits, p.hook), st.Close()); err != nil {
		return err
	}
	if p.keys == 0 && p.entries == 0 {
		return nil
	}
	return fill(ctx, g.config.Database, g.tenants.active[0].phone, p.keys, p.entries)
}

// open opens the store to administer it, as the command line does.
func (g *gateway) open(ctx context.Context) (store.Store, error) {
	if g.config.Redis == "" {
		return sqlite.Open(ctx, g.config.Database, sqlite.Options{})
	}
	connection, err := redis.ParseURLs([]string{"redis://" + g.config.Redis}, "single", "")
	if err != nil {
		return nil, err
	}
	return redis.Open(ctx, redis.Options{Connection: connection, Timeout: patience})
}

// launch starts the process and waits until it has sent a message.
func (r *rig) launch(g *gateway) (err error) {
	file := filepath.Join(g.dir, "Caddyfile")
	if err := writePeer(file, "gateway.Caddyfile", g.config); err != nil {
		return err
	}
	start := time.Now()
	if g.process, err = r.start(g.name, caddyEnv(g.dir), g.caddy, "run", "--config", file, "--adapter", "caddyfile"); err != nil {
		return err
	}
	err = r.await(g.process, func() error {
		return g.expect(g.tenants.active[0], smallBody, http.StatusOK)
	})
	if err != nil {
		return err
	}
	g.started = time.Since(start)
	return g.rest()
}

// caddyEnv keeps what Caddy keeps in a directory of ours.
func caddyEnv(dir string) []string {
	return []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}
}

// rest notes what a target takes before any load.
func (t *target) rest() error {
	u, err := t.process.usage()
	t.idle = u.resident
	return err
}
