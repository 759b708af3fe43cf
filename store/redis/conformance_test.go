package redis

import (
	"os"
	"regexp"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/store/storetest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		// A dial of go-redis's that is not needed any more ends within a second.
		err := goleak.Find()
		for range 5 {
			if err != nil {
				err = goleak.Find()
			}
		}
		if err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			code = 1
		}
	}
	os.Exit(code)
}

// patience is the timeout of stores that a test does not want to be away, however
// loaded the machine is.
const patience = 20 * time.Second

// testOptions are those of a store on the servers at these URLs, for a new prefix.
func testOptions(t testing.TB, mode, master string, urls ...string) Options {
	t.Helper()
	connection, err := ParseURLs(urls, mode, master)
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Connection: connection, Cluster: mode == "cluster",
		KeyPrefix: tenant.NewID("test"), Timeout: patience, Serving: true,
	}
}

// open opens a store.
func open(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// onTestClock is a harness whose stores have a clock of the test's.
func onTestClock(o func(testing.TB) Options) storetest.Harness {
	return storetest.Harness{Open: func(t *testing.T) *storetest.Instance {
		clock := storetest.NewClock()
		o := o(t)
		o.Clock = clock.Now
		return &storetest.Instance{
			Store:  open(t, o),
			Reopen: func() store.Store { return open(t, o) },
			Now:    clock.Now, Advance: clock.Advance,
		}
	}}
}

func run(t *testing.T, o func(testing.TB) Options) {
	storetest.Run(t, onTestClock(o))
	t.Run("follower", func(t *testing.T) { storetest.RunFollower(t, onTestClock(o)) })
}

func TestConformanceOnOneRedis(t *testing.T) {
	server := redistest.Start(t, "appendfsync everysec")
	run(t, func(t testing.TB) Options { return testOptions(t, "single", "", server.URL()) })
}

// ofWindows are the checks of windows. By Redis's clock they are judged end to end,
// by when requests began and ended.
var ofWindows = regexp.MustCompile("window|minute|limit|quota|refused|repeated hold")

// Redis's own clock is that of this machine.
func TestConformanceByRedissClock(t *testing.T) {
	server := redistest.Start(t, "appendfsync everysec")
	storetest.Run(t, storetest.Harness{
		RealTime: true,
		Skip:     ofWindows.MatchString,
		Open: func(t *testing.T) *storetest.Instance {
			o := testOptions(t, "single", "", server.URL())
			return &storetest.Instance{
				Store:  open(t, o),
				Reopen: func() store.Store { return open(t, o) },
				Now:    time.Now,
				Advance: func(d time.Duration) {
					<-time.After(d)
				},
			}
		},
	})
}

func TestConformanceOnCluster(t *testing.T) {
	cluster := redistest.StartCluster(t, "appendfsync everysec")
	run(t, func(t testing.TB) Options { return testOptions(t, "cluster", "", cluster.URLs()...) })
}

func TestConformanceThroughSentinel(t *testing.T) {
	sentinel := redistest.StartSentinel(t, "appendfsync everysec")
	run(t, func(t testing.TB) Options { return testOptions(t, "sentinel", sentinel.Name, sentinel.URLs()...) })
}
