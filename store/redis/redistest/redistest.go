// Package redistest runs real redis-server processes for tests, as
// net/http/httptest runs servers: one of them, with TLS or without, a master with
// its replica, one that Sentinels watch over, or a Cluster.
//
// Every server has a port of 127.0.0.1 and a directory of its own, keeps both for
// as long as the test lasts, however often it ends and starts again, and is gone
// when the test is over. What goes wrong with a server fails the test, so methods
// are for the test's own goroutine, except [Server.Command].
package redistest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	// patience is how long a server may take for anything before the test fails.
	patience = 45 * time.Second
	// commandTimeout bounds a command, which a frozen server does not answer.
	commandTimeout = 5 * time.Second
)

// Start starts one server, which has every write on disk before it answers. Each
// option is a line of redis.conf, such as "maxmemory 10mb"; two dashes before it
// are allowed.
func Start(t testing.TB, options ...string) *Server {
	t.Helper()
	return newServer(t, append(durable(), options...))
}

// StartReplicated starts a master and its replica, and returns when the replica
// has what the master has. The options are for both.
func StartReplicated(t testing.TB, options ...string) (master, replica *Server) {
	t.Helper()
	master = Start(t, options...)
	replica = startReplicaOf(master, options)
	await(t, "a replica in step", replica.inStep)
	return master, replica
}

// startReplicaOf starts a replica and does not wait for it to be in step.
func startReplicaOf(master *Server, options []string) *Server {
	master.t.Helper()
	return Start(master.t, append(options[:len(options):len(options)], "replicaof 127.0.0.1 "+strconv.Itoa(master.port))...)
}

// durable are the options of every server that has data.
func durable() []string {
	return []string{
		`save ""`,
		"appendonly yes",
		"appendfsync always",
		"auto-aof-rewrite-percentage 0",
		"repl-diskless-sync yes",
		"repl-diskless-sync-delay 0",
		"repl-ping-replica-period 1",
	}
}

// Addr is the host and port that the server listens on.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// URL is the server's, with its password where it has one.
func (s *Server) URL() string {
	u := url.URL{Scheme: "redis", Host: s.Addr()}
	if s.tls != nil {
		u.Scheme = "rediss"
	}
	if s.password != "" {
		u.User = url.UserPassword("", s.password)
	}
	return u.String()
}

// Command has the server run a command, on a connection of its own, and returns its
// answer as go-redis does. It fails where there is none within five seconds. A
// command must not end the server: that is what [Server.Stop] is for.
func (s *Server) Command(args ...any) (any, error) {
	var answer any
	err := s.use(commandTimeout, func(ctx context.Context, c *redis.Client) (err error) {
		answer, err = c.Do(ctx, args...).Result()
		return err
	})
	return answer, err
}

// use calls do with a client, which is new because a connection may be to a
// process that is no more.
func (s *Server) use(timeout time.Duration, do func(context.Context, *redis.Client) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	client := redis.NewClient(&redis.Options{
		Addr:      s.Addr(),
		Password:  s.password,
		TLSConfig: s.tls,
		// Nothing is sent but what is asked for, so that it can be counted.
		Protocol:                 2,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		MaxRetries:               -1,
		DialerRetries:            1,
		PoolSize:                 1,
		ContextTimeoutEnabled:    true,
		ReadTimeout:              timeout,
		WriteTimeout:             timeout,
	})
	defer client.Close()
	return do(ctx, client)
}

// FlushScripts makes the server forget all scripts, as a restart does.
func (s *Server) FlushScripts() {
	s.t.Helper()
	if _, err := s.Command("SCRIPT", "FLUSH", "SYNC"); err != nil {
		s.t.Fatalf("flushing the scripts of %s: %v", s.Addr(), err)
	}
}

// CommandStats returns how often the server has run each command, by its name in
// lower case such as "get" or "script|load", since it started or since
// [Server.ResetCommandStats]. Commands in scripts count, too, and so do those of this
// package: "ping" and "info" while it waits for a server, and a "hello" before each.
func (s *Server) CommandStats() map[string]int64 {
	s.t.Helper()
	section, err := s.info("commandstats")
	if err != nil {
		s.t.Fatalf("asking %s for its statistics: %v", s.Addr(), err)
	}
	stats := make(map[string]int64, len(section))
	for name, figures := range section {
		calls, _, _ := strings.Cut(strings.TrimPrefix(figures, "calls="), ",")
		n, err := strconv.ParseInt(calls, 10, 64)
		if err != nil {
			s.t.Fatalf("%s counts %s as %q", s.Addr(), name, figures)
		}
		stats[strings.TrimPrefix(name, "cmdstat_")] = n
	}
	return stats
}

// ResetCommandStats has [Server.CommandStats] begin at nothing.
func (s *Server) ResetCommandStats() {
	s.t.Helper()
	if _, err := s.Command("CONFIG", "RESETSTAT"); err != nil {
		s.t.Fatalf("resetting the statistics of %s: %v", s.Addr(), err)
	}
}

// info returns a section of what INFO tells.
func (s *Server) info(section string) (map[string]string, error) {
	answer, err := s.Command("INFO", section)
	if err != nil {
		return nil, err
	}
	text, ok := answer.(string)
	if !ok {
		return nil, fmt.Errorf("INFO is answered with a %T", answer)
	}
	return parseFields(text), nil
}

// parseFields reads lines of names and values between which there is a colon.
func parseFields(text string) map[string]string {
	fields := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && !strings.HasPrefix(name, "#") {
			fields[name] = value
		}
	}
	return fields
}

// inStep tells why a server is not a replica that has what its master has.
func (s *Server) inStep() error {
	replication, err := s.info("replication")
	if err != nil {
		return err
	}
	if replication["role"] != "slave" || replication["master_link_status"] != "up" {
		return fmt.Errorf("%s has the role %q, and its link to a master is %q", s.Addr(), replication["role"], replication["master_link_status"])
	}
	return nil
}

// await returns when reason finds none why what is waited for is not there.
func await(t testing.TB, what string, reason func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := reason()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waiting for %s: %v", what, err)
		}
	}
}
