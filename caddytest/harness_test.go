// Package caddytest tests the gateway from outside: a Caddy process as
// operators run it, its command line, real sockets on both sides of it. It
// knows nothing of the product's packages but what is published.
//
// A test starts a [gateway], makes a [tenant] on it and sends. When the test
// ends, the harness fails it if the process has had a data race or a panic, or
// if any key, token, recipient or text that the test used is in its logs.
package caddytest

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	// Imported for nothing but to have go test notice when they change.
	_ "github.com/connexease/caddy-whatsapp-gateway"
	_ "github.com/connexease/caddy-whatsapp-gateway/metasim"
)

// caddy is the binary under test, built under the race detector.
var caddy string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "caddytest")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	caddy = filepath.Join(dir, "caddy")
	build := exec.Command("go", "build", "-race", "-o", caddy, "./cmd/caddy")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=1") // the race detector needs it
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building Caddy: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// deadline bounds every wait. It is only reached when something is wrong.
const deadline = 60 * time.Second

// eventually waits until done returns nil. Once the deadline has passed, the
// test fails with done's last error.
func eventually(t testing.TB, what string, done func() error) {
	t.Helper()
	if err := poll(t.Context(), done); err != nil {
		t.Fatalf("waiting for %s: %v", what, err)
	}
}

// errGone is final for poll: the process that was waited for has ended.
var errGone = errors.New("the process has ended")

// poll calls done until it returns nil or errGone.
func poll(ctx context.Context, done func() error) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := done()
		if err == nil || errors.Is(err, errGone) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// gateway is one Caddy process: the gateway on one site and a simulated Meta on
// another. Its fields never change; the process does, with start, stop and kill.
type gateway struct {
	settings settings
	// site and simulator are the addresses of the two, host and port.
	site, simulator string
	// dir has everything that the process reads and writes.
	dir string
	// config is the Caddyfile.
	config string
	// database is the file of the store, where Caddy's data directory has it by default.
	database string
	// log is everything that the processes of this gateway wrote to standard
	// output and standard error, one after the other, access log included.
	log string
	// verifyToken and appSecret are what Meta presents and signs with.
	verifyToken, appSecret string
	// client keeps connections to this gateway; it follows no redirect.
	client *http.Client

	*secrets

	mu      sync.Mutex
	process *process
}

// process is a running Caddy.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has ended, whyever
}

// newGateway prepares a gateway and does not start it.
func newGateway(t testing.TB, s settings) *gateway {
	t.Helper()
	// Shorter than t.TempDir, because the path of a socket has 108 characters at most.
	dir, err := os.MkdirTemp("", "wagw")
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{
		settings:  s,
		site:      freeAddress(t),
		simulator: freeAddress(t),
		dir:       dir,
		config:    filepath.Join(dir, "Caddyfile"),
		database:  filepath.Join(dir, "data", "caddy", "whatsapp_gateway", "gateway.db"),
		log:       filepath.Join(dir, "caddy.log"),

		secrets:     new(secrets),
		verifyToken: "verify-" + crand.Text(),
		appSecret:   "secret-" + crand.Text(),
		client: &http.Client{
			Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 256},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Timeout:       deadline,
		},
	}
	if c := s.common; c != nil {
		g.secrets, g.verifyToken, g.appSecret = c.secrets, c.verifyToken, c.appSecret
	}
	g.hide("verify token", g.verifyToken)
	g.hide("app secret", g.appSecret)
	if err := os.WriteFile(g.config, []byte(g.caddyfile(s)), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.client.CloseIdleConnections()
		g.kill()
		g.inspect(t)
		os.RemoveAll(dir)
	})
	return g
}

// startGateway prepares a gateway and returns when it answers.
func startGateway(t testing.TB, s settings) *gateway {
	t.Helper()
	g := newGateway(t, s)
	g.start(t)
	return g
}

// admin is the socket of Caddy's admin API.
func (g *gateway) admin() string { return filepath.Join(g.dir, "admin.sock") }

// environment is that of every process of this gateway.
func (g *gateway) environment() []string {
	env := append(os.Environ(), []string{
		"HOME=" + g.dir,
		"XDG_DATA_HOME=" + filepath.Join(g.dir, "data"),
		"XDG_CONFIG_HOME=" + filepath.Join(g.dir, "config"),
		// For lines of the settings.
		"SIMULATOR=" + g.simulator,
		"SITE=" + g.site,
		"VERIFY_TOKEN=" + g.verifyToken,
		"APP_SECRET=" + g.appSecret,
		// A report in a file is found whatever becomes of the process. Without
		// the last word each process would take a second to end.
		"GORACE=log_path=" + filepath.Join(g.dir, "race") + " atexit_sleep_ms=0",
	}...)
	if c := g.settings.common; c != nil {
		env = append(env, c.environment()...)
	}
	return append(env, g.settings.env...)
}

// start starts the process and returns when it serves.
func (g *gateway) start(t testing.TB) {
	t.Helper()
	if err := g.launch(t.Context()); err != nil {
		t.Fatalf("starting Caddy: %v\n%s", err, g.masked(g.output()))
	}
}

// startFails starts the process, expects it to give up, and returns what it wrote.
// Until it does it may serve: Caddy starts its apps in any order.
func (g *gateway) startFails(t testing.TB) string {
	t.Helper()
	_ = g.launch(t.Context())
	select {
	case <-g.running().exited:
	case <-time.After(deadline):
		t.Fatal("Caddy started")
	}
	return g.output()
}

func (g *gateway) launch(ctx context.Context) error {
	log, err := os.OpenFile(g.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p := &process{cmd: exec.Command(caddy, "run", "--config", g.config), exited: make(chan struct{})}
	p.cmd.Dir, p.cmd.Env = g.dir, g.environment()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	g.mu.Lock()
	g.process = p
	g.mu.Unlock()
	return poll(ctx, g.ready(p))
}

// ready tells whether p serves both sites and its admin API.
func (g *gateway) ready(p *process) func() error {
	return func() error {
		select {
		case <-p.exited:
			return errGone
		default:
		}
		for _, url := range []string{"http://" + g.site + "/", "http://" + g.simulator + "/_simulator/accepted"} {
			if err := g.get(url); err != nil {
				return err
			}
		}
		conn, err := net.Dial("unix", g.admin())
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

func (g *gateway) get(url string) error {
	response, err := g.client.Get(url)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return errors.Join(err, response.Body.Close())
}

// running returns the process, or nil where there is none.
func (g *gateway) running() *process {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.process
}

// signal sends sig to the process, if there is one, and waits for its end.
func (g *gateway) signal(sig os.Signal) {
	p := g.running()
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(sig) // an error means that it has ended already
	<-p.exited
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.process == p {
		g.process = nil
	}
}

// kill ends the process at once, as a power failure would, and waits for its end.
func (g *gateway) kill() { g.signal(syscall.SIGKILL) }

// stop asks the process to end, as an operator does, and waits until it has.
func (g *gateway) stop() { g.signal(syscall.SIGTERM) }

// restart stops the process and starts it again, on the same addresses and files.
func (g *gateway) restart(t testing.TB) {
	t.Helper()
	g.stop()
	g.start(t)
}

// reload loads the configuration with other settings into the running process,
// as `caddy reload --force` does: unchanged settings are loaded anew, too.
func (g *gateway) reload(t testing.TB, s settings) {
	t.Helper()
	if err := g.tryReload(t.Context(), s); err != nil {
		t.Fatalf("reloading: %v", err)
	}
	g.client.CloseIdleConnections() // the old server is about to
	g.awaitNewListener(t)
}

// awaitNewListener waits until new connections are the new server's: until the
// old one's listener is closed, the kernel gives it some, and resets those that
// it has not accepted.
func (g *gateway) awaitNewListener(t testing.TB) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: deadline}
	answers := 0
	eventually(t, "the new server", func() error {
		response, err := client.Get("http://" + g.site + "/")
		if err != nil {
			answers = 0
			return err
		}
		response.Body.Close()
		if answers++; answers < 3 {
			return errors.New("it has answered too few times")
		}
		return nil
	})
}

// adminTransport reaches Caddy's admin API, whatever host a request names. It
// keeps no connection.
func (g *gateway) adminTransport() *http.Transport {
	return &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", g.admin())
	}}
}

func (g *gateway) tryReload(ctx context.Context, s settings) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1/load", strings.NewReader(g.caddyfile(s)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "text/caddyfile")
	req.Header.Set("Cache-Control", "must-revalidate")
	response, err := (&http.Client{Transport: g.adminTransport(), Timeout: deadline}).Do(req)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", response.StatusCode, g.masked(string(body)))
	}
	return err
}

// output is what the processes of this gateway have written so far.
func (g *gateway) output() string {
	log, err := os.ReadFile(g.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err.Error()
	}
	return string(log)
}

// addresses are those given out by freeAddress.
var addresses sync.Map

// freeAddress returns an address on which nobody listens. Its port is under
// those that the system gives to outgoing connections, so that none of them
// takes it before Caddy does, or while Caddy restarts.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.N(22_000))
		if _, taken := addresses.LoadOrStore(address, true); taken {
			continue
		}
		if listener, err := net.Listen("tcp", address); err == nil {
			_ = listener.Close()
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}
