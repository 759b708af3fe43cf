// Command bench measures the gateway beside what a user would run instead of it:
// bare Caddy, nginx, HAProxy, and a reverse proxy written in Go. All are real
// processes on 127.0.0.1, in front of a stub of Meta, under the same load. Another build
// of the gateway can take their place.
//
// Times depend on the machine and on what else it does; ratios within one round
// do much less, so those are what is compared. CPU is the process's own, from
// /proc, because load generator, stub and target share the cores. It runs on Linux,
// and needs wrk, nginx with its Lua module, haproxy and redis-server; a peer that is
// not there is left out, and the output says so.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// roles are what this program is when it is started by itself.
var roles = map[string]func(args []string) error{
	"stub":  runStub,
	"proxy": runProxy,
}

func main() {
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		exit(roles[os.Args[1]](os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(bench(ctx, os.Args[1:]))
}

func exit(err error) {
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// settings say what is measured, and how long.
type settings struct {
	// rounds is how often each target is measured, duration how long each time.
	rounds   int
	duration time.Duration
	// connections are those of the closed loop; each has one request under way.
	connections int
	// series are the names of those to run.
	series []string
	// caddy is the binary under test, against another one that takes the place of the peers where there is one, and
	// dir where everything is kept while it runs.
	caddy, against, dir string
	// apps, keys and ledger are the largest numbers of the scale series, redisApps
	// that of its part on Redis.
	apps, redisApps, keys, ledger int
	// limited is how many apps share the load where limits are compared: so many that
	// none reaches an ordinary limit.
	limited int
	// strangers is how many different keys are looked up in vain.
	strangers int
	// webhooks is how many distinct ones are signed for each size.
	webhooks int
	// fsync is when Redis's log is written to the disk: always, everysec or no.
	fsync string
	// delay is what the slow Meta waits before it answers.
	delay time.Duration
}

// brief is long enough to see that everything works, and says nothing about time.
func (s *settings) brief() {
	s.rounds, s.duration, s.delay, s.fsync = 1, 100*time.Millisecond, 20*time.Millisecond, "everysec"
	s.apps, s.redisApps, s.keys, s.ledger, s.limited, s.strangers, s.webhooks = 60, 20, 2_000, 5_000, 20, 500, 50
}

// tooFew names the options whose numbers are too small to measure anything: half of the apps are
// a case of their own, and so two at least.
func tooFew(f *flag.FlagSet) (err error) {
	f.VisitAll(func(o *flag.Flag) {
		least := 1
		if o.Name == "apps" {
			least = 2
		}
		if n, ok := o.Value.(flag.Getter).Get().(int); ok && n < least {
			err = errors.Join(err, fmt.Errorf("-%s must be at least %d, not %d", o.Name, least, n))
		}
	})
	return err
}

func bench(ctx context.Context, args []string) error {
	var s settings
	var brief bool
	var series, output string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&s.rounds, "rounds", 3, "how often each target is measured")
	f.DurationVar(&s.duration, "duration", 5*time.Second, "how long each time")
	f.IntVar(&s.connections, "connections", 16, "connections of the load generator")
	f.StringVar(&series, "series", strings.Join(seriesNames(), ","), "which `series` to run, separated by commas")
	f.StringVar(&output, "o", "", "a `file` that gets the tables, too")
	f.StringVar(&s.caddy, "caddy", "bin/caddy", "the Caddy under test")
	f.StringVar(&s.against, "against", "", "another build of it, a `binary` that is measured in place of the peers")
	f.StringVar(&s.dir, "dir", os.TempDir(), "where databases are kept meanwhile; the disk is part of what is measured")
	f.IntVar(&s.apps, "apps", 100_000, "the most apps of the scale series")
	f.IntVar(&s.redisApps, "redis-apps", 10_000, "the most apps of its part on Redis")
	f.IntVar(&s.keys, "keys", 1_000_000, "the keys that are stored and not used")
	f.IntVar(&s.ledger, "ledger", 10_000_000, "the ledger's entries")
	f.IntVar(&s.limited, "limited", 256, "the apps that share the load where limits are compared")
	f.IntVar(&s.strangers, "strangers", 100_000, "the keys that are looked up in vain")
	f.IntVar(&s.webhooks, "webhooks", 100_000, "distinct webhooks with one event; a hundredth of them with 100")
	f.StringVar(&s.fsync, "fsync", "everysec", "`appendfsync` of every Redis: always, everysec or no")
	f.DurationVar(&s.delay, "delay", 100*time.Millisecond, "how long the slow Meta takes")
	f.BoolVar(&brief, "brief", false, "everything once and small, to see that it works")
	if err := f.Parse(args); err != nil {
		return err
	}
	if err := tooFew(f); err != nil {
		return err
	}
	if brief {
		s.brief()
	}
	for name := range strings.SplitSeq(series, ",") {
		if !slices.Contains(seriesNames(), name) {
			return fmt.Errorf("-series takes some of %s, not %q", strings.Join(seriesNames(), ","), name)
		}
		s.series = append(s.series, name)
	}
	out := io.Writer(os.Stdout)
	if output != "" {
		file, err := os.Create(output)
		if err != nil {
			return err
		}
		defer file.Close()
		out = io.MultiWriter(out, file)
	}
	return run(ctx, s, out)
}
