package main

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"text/template"

	goredis "github.com/redis/go-redis/v9"
)

//go:embed peers
var peers embed.FS

// writePeer writes a configuration of a peer, filled in.
func writePeer(file, name string, values any) error {
	parsed, err := template.ParseFS(peers, "peers/"+name)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := parsed.Execute(&out, values); err != nil {
		return err
	}
	return os.WriteFile(file, out.Bytes(), 0o600)
}

func split(address string) (host, port string) {
	host, port, _ = net.SplitHostPort(address) // ours have both
	return host, port
}

// nginxModules is where Debian has them.
const nginxModules = "/usr/lib/nginx/modules"

// peer is what the configurations of the peers are made from.
type peer struct {
	*target
	Dir, User, Modules   string
	Cores                int
	Fast, Slow           string // where it listens
	MetaFast, MetaSlow   string
	Token                string // bare Caddy's only one
	Active, Strict, Poor credentials
	Servers              []server

	RedisHost, RedisPort, Admit string
	Fee                         int64
}

// credentials are a tenant's, as the peers know it.
type credentials struct {
	Key, Token, Account string
}

// server is one address to listen on, and where it leads.
type server struct{ Listen, Upstream, Meta string }

func credentialsOf(c customer) credentials {
	return credentials{string(c.key), tokenOf(c.phone), c.phone}
}

// messagesPath is where Meta takes messages for a number.
func messagesPath(phone string) string { return "/v23.0/" + phone + "/messages" }

// newPeer prepares a peer with one active tenant and those for the checks.
func (r *rig) newPeer(name string, does checks) (*peer, error) {
	t := &target{name: name, path: messagesPath, does: does, tenants: r.newTenants(1)}
	p := &peer{target: t, Cores: cores, Modules: nginxModules, MetaFast: r.stub.fast, MetaSlow: r.stub.slow, Fee: int64(baseFee)}
	p.Active, p.Strict, p.Poor = credentialsOf(t.tenants.active[0]), credentialsOf(t.tenants.strict), credentialsOf(t.tenants.poor)
	p.Token = p.Active.Token
	p.Dir = filepath.Join(r.dir, fmt.Sprintf("peer%d", t.tenants.group))
	if os.Geteuid() == 0 { // nginx's workers would be nobody, who may not write here
		if u, err := user.Current(); err == nil {
			p.User = u.Username
		}
	}
	if err := freeAddresses(&t.fast, &t.slow); err != nil {
		return nil, err
	}
	p.Fast, p.Slow = t.fast, t.slow
	p.Servers = []server{{t.fast, "fast", r.stub.fast}, {t.slow, "slow", r.stub.slow}}
	return p, os.Mkdir(p.Dir, 0o700)
}

func (p *peer) file(name string) string { return filepath.Join(p.Dir, name) }

// run starts the peer's program and waits for both addresses.
func (r *rig) run(p *peer, env []string, program string, args ...string) (_ *target, err error) {
	if p.process, err = r.start(p.name, env, program, args...); err != nil {
		return nil, err
	}
	for _, address := range []string{p.fast, p.slow} {
		if err := r.awaitPort(p.process, address); err != nil {
			return nil, err
		}
	}
	return p.target, p.rest()
}

// bareCaddy is a build of Caddy whose gateway has nothing to do.
func (r *rig) bareCaddy(name, binary string) (*target, error) {
	p, err := r.newPeer(name, checks{})
	if err != nil {
		return nil, err
	}
	if err := writePeer(p.file("Caddyfile"), "bare.Caddyfile", p); err != nil {
		return nil, err
	}
	return r.run(p, caddyEnv(p.Dir), binary, "run", "--config", p.file("Caddyfile"), "--adapter", "caddyfile")
}

func (r *rig) nginxNative() (*target, error) {
	p, err := r.newPeer("nginx, `map` and `limit_req`", checks{keys: true, limits: true})
	if err != nil {
		return nil, err
	}
	if err := writePeer(p.file("nginx.conf"), "nginx.conf", p); err != nil {
		return nil, err
	}
	return r.run(p, nil, "nginx", "-p", p.Dir, "-e", "stderr", "-c", p.file("nginx.conf"))
}

func (r *rig) nginxLua() (*target, error) {
	p, err := r.newPeer("nginx, Lua and Redis", checks{keys: true, limits: true, balance: true})
	if err != nil {
		return nil, err
	}
	server, err := r.startRedis("redis of " + p.name)
	if err != nil {
		return nil, err
	}
	p.redis = server.process
	p.RedisHost, p.RedisPort = split(server.address)
	err = server.use(r.ctx, func(c *goredis.Client) error { return p.seed(r, c) })
	if err != nil {
		return nil, err
	}
	for file, name := range map[string]string{"nginx.conf": "nginx-lua.conf", "access.lua": "access.lua"} {
		if err := writePeer(p.file(file), name, p); err != nil {
			return nil, err
		}
	}
	return r.run(p, nil, "nginx", "-p", p.Dir, "-e", "stderr", "-c", p.file("nginx.conf"))
}

// seed gives Redis the script and what it needs to know of the tenants.
func (p *peer) seed(r *rig, c *goredis.Client) error {
	script, err := peers.ReadFile("peers/admit.lua")
	if err != nil {
		return err
	}
	if p.Admit, err = c.ScriptLoad(r.ctx, string(script)).Result(); err != nil {
		return err
	}
	pipe := c.Pipeline()
	for _, t := range []struct {
		credentials
		second, minute int
		balance        int64
	}{
		{p.Active, generous.PerSecond, generous.PerMinute, int64(plenty)},
		{p.Strict, strictLimit.PerSecond, strictLimit.PerMinute, int64(plenty)},
		{p.Poor, generous.PerSecond, generous.PerMinute, p.Fee},
	} {
		pipe.HSet(r.ctx, "key:"+t.Key, "token", t.Token, "account", t.Account, "second", t.second, "minute", t.minute)
		pipe.Set(r.ctx, "balance:"+t.Account, t.balance, 0)
	}
	_, err = pipe.Exec(r.ctx)
	return err
}

func (r *rig) haproxy() (*target, error) {
	p, err := r.newPeer("HAProxy, map and stick-table", checks{keys: true, limits: true})
	if err != nil {
		return nil, err
	}
	tokens := fmt.Sprintf("%s %s\n%s %s\n", p.Active.Key, p.Active.Token, p.Strict.Key, p.Strict.Token)
	limits := fmt.Sprintf("%s %d\n%s %d\n", p.Active.Key, generous.PerSecond, p.Strict.Key, strictLimit.PerSecond)
	for name, content := range map[string]string{"tokens.map": tokens, "limits.map": limits} {
		if err := os.WriteFile(p.file(name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	if err := writePeer(p.file("haproxy.cfg"), "haproxy.cfg", p); err != nil {
		return nil, err
	}
	return r.run(p, nil, "haproxy", "-db", "-q", "-f", p.file("haproxy.cfg"))
}

func (r *rig) reverseProxy() (*target, error) {
	p, err := r.newPeer("Go, `httputil.ReverseProxy`", checks{keys: true})
	if err != nil {
		return nil, err
	}
	tokens, err := json.Marshal(map[string]string{p.Active.Key: p.Active.Token})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(p.file("tokens.json"), tokens, 0o600); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return r.run(p, nil, self, "proxy", "-tokens", p.file("tokens.json"), p.fast, r.stub.fast, p.slow, r.stub.slow)
}

// startSelf starts this program in another role.
func (r *rig) startSelf(name string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return r.start(name, nil, self, args...)
}

// missing says why a program cannot be run here, if it cannot.
func missing(program string, files ...string) error {
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("%s is not installed", program)
	}
	for _, file := range files {
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("%s is not installed with %s", program, filepath.Base(file))
		}
	}
	return nil
}
