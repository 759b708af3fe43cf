package redis

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// serverTime is the CPU time that a redis-server has taken, of user and system.
func serverTime(b *testing.B, server *redistest.Server) (sum time.Duration) {
	b.Helper()
	info := parseInfo(command(b, server, "INFO", "cpu").(string))
	for _, kind := range []string{"used_cpu_user", "used_cpu_sys"} {
		seconds, err := strconv.ParseFloat(info[kind], 64)
		noError(b, err)
		sum += time.Duration(seconds * float64(time.Second))
	}
	return sum
}

// clockTick is the unit of times in /proc.
const clockTick = 10 * time.Millisecond

// ownTime is that of this process.
func ownTime(b *testing.B) time.Duration {
	b.Helper()
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		b.Skip("there is no /proc: ", err)
	}
	_, rest, _ := bytes.Cut(stat, []byte(") ")) // the name may have spaces
	f := strings.Fields(string(rest))
	user, err := strconv.ParseInt(f[11], 10, 64)
	noError(b, err)
	system, err := strconv.ParseInt(f[12], 10, 64)
	noError(b, err)
	return time.Duration(user+system) * clockTick
}

// BenchmarkSend is a send as the store sees it, the hold and its capture, for which nobody waits, of one to 64 senders at
// once. server-µs/op is the CPU time that redis-server takes for one, own-µs/op
// that of this process.
func BenchmarkSend(b *testing.B) {
	for _, row := range []benchmarked{
		{"always", 16, 1, 1, roomy},
		{"always", 1, 1, 1, roomy},
		{"everysec", 64, 1, 1, roomy},
		{"everysec", 16, 1, 1, roomy},
		{"everysec", 4, 1, 1, roomy},
		{"everysec", 1, 1, 1, roomy},
		{"everysec", 16, 1, 1000, roomy},
		{"everysec", 16, 1, 1000, tenant.RateLimit{PerSecond: 80, PerMinute: 4800}},
		{"everysec", 16, 1000, 1, roomy},
	} {
		name := fmt.Sprintf("fsync=%s/senders=%d/accounts=%d/apps=%d/limit=%d", row.fsync, row.senders, row.accounts, row.apps, row.limits.PerSecond)
		b.Run(name, row.run)
	}
}

// benchmarked is how a benchmark sends.
type benchmarked struct {
	fsync   string // appendfsync
	senders int
	// accounts, with so many apps each
	accounts, apps int
	limits         tenant.RateLimit
}

func (k benchmarked) run(b *testing.B) {
	server := redistest.Start(b, "appendfsync "+k.fsync)
	bs := newBooks(b, testOptions(b, "single", "", server.URL()))
	apps := make(chan *books, k.accounts*k.apps)
	for range k.accounts {
		payer := openBooks(b, bs.Store, tenant.AccountID(tenant.NewID("acct")), pricing.Micros(b.N+k.apps)*testFee)
		for range k.apps {
			apps <- &books{bs.Store, b, payer.account, tenant.AppID(tenant.NewID("app"))}
		}
	}
	var captures sync.WaitGroup
	send := func() {
		next := <-apps
		apps <- next
		a := next.admission()
		a.Limits = k.limits
		if d, err := bs.Admit(b.Context(), a); err != nil || d.Verdict != store.Admitted {
			b.Errorf("%+v, %v", d, err)
		}
		captures.Add(1)
		bs.CapturePatiently(a.HoldID, messageOf(a.HoldID), func(err error) {
			if err != nil {
				b.Error(err)
			}
			captures.Done()
		})
	}
	for range k.accounts * k.apps {
		send() // what is looked up once is looked up
	}
	serverBefore, ownBefore := serverTime(b, server), ownTime(b)
	b.ReportAllocs()
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var senders sync.WaitGroup
	for range k.senders {
		senders.Go(func() {
			for left.Add(-1) >= 0 {
				send()
			}
		})
	}
	senders.Wait()
	captures.Wait()
	b.StopTimer()
	for unit, took := range map[string]time.Duration{"server-µs/op": serverTime(b, server) - serverBefore, "own-µs/op": ownTime(b) - ownBefore} {
		b.ReportMetric(float64(took.Nanoseconds())/1e3/float64(b.N), unit)
	}
}
