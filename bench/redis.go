package main

import (
	"context"
	"os"
	"path/filepath"

	goredis "github.com/redis/go-redis/v9"
)

// redisServer is a redis-server of one target's own.
type redisServer struct {
	*process
	address string
}

// durable are the settings that docs/redis.md asks for; what asks for replicas needs
// other machines. When the log is written to the disk is an option.
var durable = []string{"--appendonly", "yes", "--maxmemory-policy", "noeviction", "--save", ""}

func (r *rig) startRedis(name string) (*redisServer, error) {
	s := new(redisServer)
	if err := freeAddresses(&s.address); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(r.dir, "redis")
	if err != nil {
		return nil, err
	}
	host, port := split(s.address)
	args := append([]string{"--bind", host, "--port", port, "--dir", dir, "--pidfile", filepath.Join(dir, "pid"), "--appendfsync", r.fsync}, durable...)
	if s.process, err = r.start(name, nil, "redis-server", args...); err != nil {
		return nil, err
	}
	return s, r.await(s.process, func() error {
		return s.use(r.ctx, func(c *goredis.Client) error { return c.Ping(r.ctx).Err() })
	})
}

func (s *redisServer) use(ctx context.Context, do func(*goredis.Client) error) error {
	c := goredis.NewClient(&goredis.Options{Addr: s.address})
	defer c.Close()
	return do(c.WithTimeout(patience))
}
