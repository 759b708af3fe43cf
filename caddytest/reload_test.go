package caddytest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// askAdmin gets a path of Caddy's admin API.
func (g *gateway) askAdmin(t testing.TB, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := g.adminTransport().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// resources is what a process has open.
type resources struct{ goroutines, files int }

var goroutineTotal = regexp.MustCompile(`^goroutine profile: total ([0-9]+)\n`)

// resources counts what the process has open once nothing of an earlier load is
// left: a reload closes every kept connection.
func (g *gateway) resources(t testing.TB) (r resources) {
	t.Helper()
	profile := goroutineTotal.FindStringSubmatch(g.askAdmin(t, "/debug/pprof/goroutine?debug=1"))
	if profile == nil {
		t.Fatal("no goroutine profile")
	}
	r.goroutines, _ = strconv.Atoi(profile[1]) // digits, by the expression
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.running().cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	r.files = len(files)
	return r
}

// reloads is how often the configuration is reloaded under load, and
// reloadInterval the time between two.
const (
	reloads        = 30
	reloadInterval = 500 * time.Millisecond
)

// overHTTP2 returns a transport that speaks HTTP/2 without TLS.
func overHTTP2() *http.Transport {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	return transport
}

// Over HTTP/2 no send may fail: a server that stops says which requests it has
// not read, and the client sends them again. HTTP/1 has no such word. There
// net/http closes the connections on which a request is just arriving, and
// Linux resets those that a closing socket has not accepted yet; what is not
// answered for these reasons must not be sent either.
func TestReloadsUnderLoad(t *testing.T) {
	t.Parallel()
	meta, s := startMeta(t, "slow_answer 1200ms")
	// A send that a reload overtakes leaves its connection to Meta in a pool
	// that nobody uses any more, until it has been idle for long enough.
	s.proxy += " {\ntransport http {\nkeepalive 1s\n}\n}"
	s.global = "servers {\nprotocols h1 h2c\n}"
	g := startGateway(t, s)
	before := g.resources(t)
	who := g.tenant(t, plenty)

	quick, slow := g.message(accepted), g.message("9109")
	loads := make(map[string]*load)
	for name, transport := range map[string]*http.Transport{
		"HTTP/1":                             new(http.Transport),
		"HTTP/1, a connection for each send": {DisableKeepAlives: true},
		"HTTP/2":                             overHTTP2(),
	} {
		loads[name] = g.startLoad(t, &http.Client{Transport: transport, Timeout: deadline}, who, quick, quick, slow, slow)
	}
	tick := time.NewTicker(reloadInterval)
	defer tick.Stop()
	for i := range reloads {
		<-tick.C
		s.app, s.handler = fmt.Sprintf("key_cache %ds", 30+i), fmt.Sprintf("upstream_timeout %ds", 20+i%2)
		g.reload(t, s)
	}
	sent := 0
	for name, load := range loads {
		load.stop()
		load.wantOnly200(t)
		sent += load.count()
		t.Logf("%s: %d sends answered, %d not", name, load.count(), load.unanswered)
		if name == "HTTP/2" && load.unanswered > 0 {
			t.Errorf("%d sends over HTTP/2 failed", load.unanswered)
		}
	}
	if a := g.audit(t, meta, who); a.captured != sent || a.accepted != sent || a.inDoubt != 0 || a.released != 0 {
		t.Errorf("%d sends answered: %d accepted, %d captured, %d released, %d in doubt", sent, a.accepted, a.captured, a.released, a.inDoubt)
	}
	g.reload(t, s)
	// What leaks once a reload is more than this. The store keeps up to 8
	// connections for reading, of two files each.
	eventually(t, "goroutines and files to be freed", func() error {
		now := g.resources(t)
		if now.goroutines > before.goroutines+10 || now.files > before.files+16 {
			return fmt.Errorf("%+v are open, %+v were", now, before)
		}
		t.Logf("open after %d reloads: %+v, before: %+v", reloads, now, before)
		return nil
	})
}

// asynchronously sends and returns a function that waits for the answer. The
// error is that of a connection that broke.
func (g *gateway) asynchronously(t testing.TB, key, body string) func() (answer, error) {
	var a answer
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		a, err = g.trySend(t, messagePath, key, body)
	}()
	return func() (answer, error) {
		<-done
		return a, err
	}
}

// arrivals is a Meta that tells of every message and answers when it is told to.
type arrivals struct {
	*upstream
	arrived, answer chan struct{}
}

func startArrivals(t testing.TB) arrivals {
	return arrivals{startUpstream(t), make(chan struct{}), make(chan struct{})}
}

// hold keeps the messages of a tenant, until each is answered in this way.
func (m arrivals) hold(t testing.TB, who tenant, answer script) {
	m.play(who, func(c net.Conn) bool {
		for _, step := range []chan struct{}{m.arrived, m.answer} {
			select {
			case step <- struct{}{}:
			case <-t.Context().Done():
				return false
			}
		}
		return answer(c)
	})
}

// A send that is at Meta is finished in the store where it has begun, whatever
// becomes of the configuration and of the client's connection.
func TestAReloadToAnotherDatabaseAndBack(t *testing.T) {
	t.Parallel()
	meta := startArrivals(t)
	s := settings{proxy: "reverse_proxy " + meta.address}
	g := startGateway(t, s)
	who := g.tenant(t, profile{})
	meta.hold(t, who, withJSON("200 OK", acceptance))
	for _, name := range []string{"finished under the other", "finished back under the first"} {
		t.Run(name, func(t *testing.T) {
			elsewhere := s
			elsewhere.app = "store sqlite " + filepath.Join(g.dir, "elsewhere", "gateway.db")
			before := len(g.ledger(t, who.account))
			wait := g.asynchronously(t, who.key, g.message(accepted))
			<-meta.arrived
			g.reload(t, elsewhere)
			g.send(t, who.key, g.message(accepted)).want(t, http.StatusUnauthorized, auth001)
			if name == "finished back under the first" {
				g.reload(t, s)
				g.send(t, who.key, g.message(accepted), "is_fake=true").wantCode(t, "")
			}
			<-meta.answer
			a, err := wait()
			if err != nil || a.messageID() != "wamid.accepted" {
				t.Errorf("status %d, %v", a.status, err)
			}
			g.reload(t, s)
			ledger := g.ledger(t, who.account)
			if len(ledger) != before+2 || ledger[before].Kind != "hold" || ledger[before+1].Kind != "capture" {
				t.Errorf("%+v", ledger[before:])
			}
		})
	}
}

func TestABrokenConfigurationLeavesTheOldOneRunning(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	who := g.tenant(t, profile{})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	sends := 0
	for name, s := range map[string]settings{
		"unknown word":        {app: "stores sqlite"},
		"unset secret":        {app: "key_pepper {env.NOBODY_HAS_SET_THIS}"},
		"another pepper":      {app: "key_pepper other-than-before"},
		"no database":         {app: "store sqlite " + filepath.Dir(g.database)},
		"another app's fault": {sites: "http://:" + port + " {\nbind 127.0.0.1\nrespond ok\n}"},
	} {
		t.Run(name, func(t *testing.T) {
			wait := g.asynchronously(t, who.key, g.message(accepted))
			if err := g.tryReload(t.Context(), s); err == nil {
				t.Error("it was loaded")
			}
			if a, err := wait(); err != nil || a.status != http.StatusOK {
				t.Errorf("a send during the attempt: status %d, %v", a.status, err)
			}
			g.send(t, who.key, g.message(accepted)).wantCode(t, "")
			sends += 2
		})
	}
	if a := g.audit(t, g, who); a.captured != sends || a.accepted != sends {
		t.Errorf("%d sends: %+v", sends, a)
	}
	g.reload(t, settings{})
	g.send(t, who.key, g.message(accepted)).wantCode(t, "")
}

func TestSendsUnderWayAreFinishedBeforeTheProcessEnds(t *testing.T) {
	t.Parallel()
	const long, short = "10s", "100ms"
	for _, c := range []struct {
		name, grace string
		reload      bool
		// answered: the client's connection lives as long as the send.
		answered bool
	}{
		{"within the grace period", long, false, true},
		{"beyond the grace period", short, false, false},
		{"of an earlier configuration", long, true, true},
		{"of an earlier configuration, beyond the grace period", short, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			meta := startArrivals(t)
			s := settings{proxy: "reverse_proxy " + meta.address, global: "grace_period " + c.grace}
			g := startGateway(t, s)
			who := g.tenant(t, profile{})
			meta.hold(t, who, withJSON("200 OK", acceptance))
			wait := g.asynchronously(t, who.key, g.message(accepted))
			<-meta.arrived
			if c.reload {
				g.reload(t, s)
			}
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				g.stop()
			}()
			sign := "servers shutting down"
			if !c.answered {
				sign = "server graceful shutdown" // which has timed out
			}
			eventually(t, "the exit to begin", func() error {
				exit := strings.Index(g.output(), "exiting; byeee")
				if exit < 0 || !strings.Contains(g.output()[exit:], sign) {
					return errors.New("it has not")
				}
				return nil
			})
			select {
			case <-stopped:
				t.Error("the process has ended while a send was at Meta")
			case <-meta.answer:
			}
			a, err := wait()
			if c.answered && (err != nil || a.status != http.StatusOK) {
				t.Errorf("status %d, %v", a.status, err)
			}
			<-stopped
			g.wantOutcomes(t, who, outcome{"the send", captured})
		})
	}
}
