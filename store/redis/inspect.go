package redis

import (
	"bufio"
	"context"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// inspectInterval is how often a server is asked again that did not answer.
const inspectInterval = 5 * time.Second

// concern is a setting of Redis's with which money can be lost.
type concern struct {
	worry   func(info map[string]string) bool
	message string
}

var concerns = []concern{
	{
		func(i map[string]string) bool { return i["maxmemory"] != "0" && i["maxmemory_policy"] != "noeviction" },
		"redis may evict wallets when its memory is full: set maxmemory-policy to noeviction",
	},
	{
		func(i map[string]string) bool { return i["aof_enabled"] == "0" },
		"redis keeps no append-only file, so a crash of its machine loses money: set appendonly to yes",
	},
}

// inspect looks at Redis's settings once it answers, and warns of those with which
// money can be lost.
func (s *Store) inspect() {
	for {
		ctx, cancel := context.WithTimeout(s.closing, s.timeout)
		infos, err := s.infos(ctx)
		cancel()
		if err == nil {
			for _, c := range concerns {
				for _, info := range infos {
					if c.worry(info) {
						s.log().Warn(c.message, zap.String("redis_version", info["redis_version"]))
						break
					}
				}
			}
			return
		}
		select {
		case <-time.After(inspectInterval):
		case <-s.closing.Done():
			return
		}
	}
}

// infos are what each master tells of itself.
func (s *Store) infos(ctx context.Context) (all []map[string]string, err error) {
	ask := func(ctx context.Context, client *goredis.Client) (map[string]string, error) {
		text, err := client.Info(ctx).Result()
		return parseInfo(text), err
	}
	switch c := s.client.(type) {
	case *goredis.ClusterClient:
		var mu sync.Mutex
		err = c.ForEachMaster(ctx, func(ctx context.Context, node *goredis.Client) error {
			info, err := ask(ctx, node)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, info)
			return err
		})
	case *goredis.Client:
		var info map[string]string
		info, err = ask(ctx, c)
		all = append(all, info)
	}
	return all, err
}

// parseInfo reads the answer to INFO.
func parseInfo(text string) map[string]string {
	info := make(map[string]string)
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		if name, value, ok := strings.Cut(strings.TrimSpace(lines.Text()), ":"); ok {
			info[name] = value
		}
	}
	return info
}
