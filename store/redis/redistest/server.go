package redistest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Server is a redis-server, with its data or as a Sentinel.
type Server struct {
	t           testing.TB
	program     string
	dir         string
	arguments   []string // of the program
	options     []string // lines of redis.conf
	afterwards  []any    // a command that makes a server quicker, where it knows it
	password    string
	tls         *tls.Config // of clients; nil: the server speaks no TLS
	port        int
	reservation io.Closer

	mu      sync.Mutex
	process *process // nil: none runs
	frozen  bool
}

// process is a run of the program.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has ended
}

// over tells whether the process has ended.
func (p *process) over() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// programs are those that can be run, the preferred one first.
var programs = []string{"redis-server", "valkey-server"}

// greeting bounds each of the attempts to reach a server that starts.
const greeting = time.Second

// errGone: the process ended.
var errGone = errors.New("it has ended")

// newServer starts a server.
func newServer(t testing.TB, options []string, arguments ...string) *Server {
	t.Helper()
	return prepare(t, options, arguments...).first()
}

// prepare returns a server that has not started yet.
func prepare(t testing.TB, options []string, arguments ...string) *Server {
	t.Helper()
	s := &Server{t: t, dir: t.TempDir(), arguments: arguments}
	for _, name := range programs {
		if path, err := exec.LookPath(name); err == nil {
			s.program = path
			break
		}
	}
	if s.program == "" {
		t.Fatal("redis-server is not in PATH, and tests need it: install it (with apt-get install redis-server, or brew install redis)")
	}
	for _, line := range options {
		line = strings.TrimPrefix(line, "--")
		if password, ok := strings.CutPrefix(line, "requirepass "); ok {
			s.password = password
			s.options = append(s.options, "masterauth "+password)
		}
		s.options = append(s.options, line)
	}
	t.Cleanup(s.close)
	return s
}

// first starts the server for the first time. Another program may be quicker to
// listen on the port that it was to have; then it gets another.
func (s *Server) first() *Server {
	s.t.Helper()
	for attempt := 1; ; attempt++ {
		err := s.configure()
		if err == nil {
			err = s.launch()
		}
		if err == nil {
			return s
		}
		s.end(syscall.SIGKILL)
		if attempt == 5 || !s.portTaken() {
			s.t.Fatalf("starting %s on %s: %v\n%s", s.program, s.Addr(), err, s.lastWords())
		}
	}
}

// portTaken tells whether the server could not listen because somebody else does.
func (s *Server) portTaken() bool { return strings.Contains(s.lastWords(), "Address already in use") }

// configure gives the server a port and writes its configuration. Redis itself
// rewrites that when it is told to replicate another.
func (s *Server) configure() error {
	if s.reservation != nil {
		s.reservation.Close()
		s.reservation = nil
	}
	port, reservation, err := reserve()
	if err != nil {
		return err
	}
	s.port, s.reservation = port, reservation
	if err := os.RemoveAll(s.log()); err != nil {
		return err
	}
	listen := []string{"port " + strconv.Itoa(port)}
	if s.tls != nil {
		listen = []string{"port 0", "tls-port " + strconv.Itoa(port), "tls-cert-file certificate.pem", "tls-key-file key.pem", "tls-auth-clients no"}
	}
	lines := append(append(listen, "bind 127.0.0.1", "daemonize no"), s.options...)
	return os.WriteFile(filepath.Join(s.dir, "redis.conf"), []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}

// Start starts the server again after it has ended, on the same port with the same
// data, and returns when it answers.
func (s *Server) Start() {
	s.t.Helper()
	if s.running() != nil {
		s.t.Fatalf("the server on %s runs already", s.Addr())
	}
	if err := s.launch(); err != nil {
		s.end(syscall.SIGKILL)
		s.t.Fatalf("starting %s on %s: %v\n%s", s.program, s.Addr(), err, s.lastWords())
	}
}

func (s *Server) launch() error {
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p := &process{cmd: exec.Command(s.program, append([]string{"redis.conf"}, s.arguments...)...), exited: make(chan struct{})}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr, p.cmd.SysProcAttr = s.dir, log, log, attributes()
	if err := p.cmd.Start(); err != nil {
		return err
	}
	s.mu.Lock()
	s.process, s.frozen = p, false
	s.mu.Unlock()
	go func() {
		_ = p.cmd.Wait() // a process that is killed ends with an error
		close(p.exited)
	}()
	if err := s.ready(p); err != nil {
		return err
	}
	if s.afterwards != nil {
		_, _ = s.Command(s.afterwards...) // an older server does not know it
	}
	return nil
}

// ready returns when p answers.
func (s *Server) ready(p *process) error {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.answers(p)
		if err == nil {
			return nil
		}
		if p.over() {
			return errGone
		}
		select {
		case <-p.exited:
		case <-deadline.C:
			return err
		case <-tick.C:
		}
	}
}

// answers tells why p is not what answers on the server's port, with its data loaded.
func (s *Server) answers(p *process) error {
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		return err
	}
	conn.Close()
	return s.use(greeting, func(ctx context.Context, c *redis.Client) error {
		if err := c.Ping(ctx).Err(); err != nil {
			return err
		}
		text, err := c.Info(ctx, "server").Result()
		if err != nil {
			return err
		}
		if id := parseFields(text)["process_id"]; id != strconv.Itoa(p.cmd.Process.Pid) {
			return fmt.Errorf("process %s answers", id)
		}
		return nil
	})
}

// Stop asks the server to end, as an operator does, and waits until it has. A
// frozen one is thawed. A master waits up to ten seconds for replicas that lag.
func (s *Server) Stop() {
	s.t.Helper()
	s.mustEnd(syscall.SIGTERM)
}

// Kill ends the server at once, as a power failure would, and waits for its end.
func (s *Server) Kill() {
	s.t.Helper()
	s.mustEnd(syscall.SIGKILL)
}

func (s *Server) mustEnd(sig syscall.Signal) {
	s.t.Helper()
	p := s.running()
	if p == nil {
		s.t.Fatalf("the server on %s does not run", s.Addr())
	}
	if p.over() {
		s.t.Fatalf("the server on %s ended by itself\n%s", s.Addr(), s.lastWords())
	}
	if !s.end(sig) {
		s.t.Fatalf("the server on %s does not end\n%s", s.Addr(), s.lastWords())
	}
}

// end sends a signal after which there is no process any more, and tells whether
// there is none. A process that is killed takes with it what it has forked.
func (s *Server) end(sig syscall.Signal) bool {
	p := s.running()
	if p == nil {
		return true
	}
	to := p.cmd.Process.Pid
	if sig == syscall.SIGKILL {
		to = -to
	}
	_ = syscall.Kill(to, sig) // an error means that it has ended already
	_ = syscall.Kill(to, syscall.SIGCONT)
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	select {
	case <-p.exited:
	case <-deadline.C:
		return false
	}
	s.mu.Lock()
	s.process, s.frozen = nil, false
	s.mu.Unlock()
	return true
}

// Freeze stops the server in its tracks until [Server.Thaw]: what connects to it is
// connected, what is sent to it arrives, and nothing is answered. It returns when
// nothing moves any more.
func (s *Server) Freeze() {
	s.t.Helper()
	p := s.signal(syscall.SIGSTOP, true)
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(p.cmd.Process.Pid, &status, syscall.WUNTRACED, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || !status.Stopped() {
			s.t.Fatalf("the server on %s ended instead of freezing (%v)\n%s", s.Addr(), err, s.lastWords())
		}
		return
	}
}

// Thaw has a frozen server go on, with what has been sent to it meanwhile.
func (s *Server) Thaw() {
	s.t.Helper()
	s.signal(syscall.SIGCONT, false)
}

func (s *Server) signal(sig syscall.Signal, frozen bool) *process {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil || s.frozen == frozen {
		s.t.Fatalf("the server on %s does not run, or is frozen or thawed already", s.Addr())
	}
	if err := syscall.Kill(s.process.cmd.Process.Pid, sig); err != nil {
		s.t.Fatalf("signalling the server on %s: %v\n%s", s.Addr(), err, s.lastWords())
	}
	s.frozen = frozen
	return s.process
}

// running returns the process, or nil where there is none.
func (s *Server) running() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process
}

// awake tells whether the server runs and is not frozen.
func (s *Server) awake() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process != nil && !s.frozen
}

// close ends the server with the test. One that has ended by itself fails it.
func (s *Server) close() {
	if p := s.running(); p != nil && p.over() {
		s.t.Errorf("the server on %s ended by itself\n%s", s.Addr(), s.lastWords())
	}
	if !s.end(syscall.SIGKILL) {
		s.t.Errorf("the server on %s cannot be killed", s.Addr())
	}
	if s.reservation != nil {
		s.reservation.Close()
	}
}

func (s *Server) log() string { return filepath.Join(s.dir, "redis.log") }

// lastWords returns the end of the server's log.
func (s *Server) lastWords() string {
	text, err := os.ReadFile(s.log())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}
