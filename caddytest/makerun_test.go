package caddytest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// clone copies what git has of the repository, and what it would be given, into
// an empty directory.
func clone(t *testing.T) string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = ".."
	files, err := list.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	dir := t.TempDir()
	for name := range strings.SplitSeq(strings.TrimSuffix(string(files), "\x00"), "\x00") {
		from, to := filepath.Join("..", name), filepath.Join(dir, name)
		content, err := os.ReadFile(from)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted, and git has not been told
		}
		var info fs.FileInfo
		if err == nil {
			info, err = os.Stat(from)
		}
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o700)
		}
		if err == nil {
			err = os.WriteFile(to, content, info.Mode().Perm())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// transcript is what a command writes. It is safe for concurrent use.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *transcript) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *transcript) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// workplace is a clone in which to type commands.
type workplace struct {
	dir string
	env []string
	// site, meta and receiver are where the gateway, the simulator and the
	// customer's endpoint listen.
	site, meta, receiver string
}

// command is a shell command as somebody types it: a process group of its own,
// which Ctrl-C goes to.
func (w workplace) command(t *testing.T, line string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
	cmd.Dir, cmd.Env = w.dir, w.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// output runs a command to its end and returns what it writes.
func (w workplace) output(t *testing.T, line string) string {
	t.Helper()
	cmd := w.command(t, line)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	return string(out)
}

var (
	demoKey   = regexp.MustCompile(`\bpk_[0-9A-Za-z]{36}\b`)
	curlLine  = regexp.MustCompile(`(?m)^curl .*$`)
	fakeReply = regexp.MustCompile(`^\{"isSuccess":true,"data":\{"messaging_product":"whatsapp","messages":\[\{"id":"wamid\.FAKE_[0-9]+"\}\]\}\}$`)
	eventLine = regexp.MustCompile(`"handled request".*"event":"([a-z_]+)"`)
	sentReply = regexp.MustCompile(`^\{"isSuccess":true,"data":\{.*"messages":\[\{"id":"(wamid\.[^"]+)"\}\]\}\}\n?$`)
)

// makeRun types `make run`, does what a newcomer does with what it prints, and
// ends it with Ctrl-C. It returns what `make run` wrote to standard output; log is
// what it has written to standard error so far.
func (w workplace) makeRun(t *testing.T, during func(stdout string, log func() string)) (stdout string) {
	t.Helper()
	var out, errs transcript
	cmd := w.command(t, "exec make run")
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // make tells of the interrupt in its own way
	}()
	defer func() {
		_ = cmd.Cancel() // an error means that nobody is left
		<-ended
	}()
	eventually(t, "make run to serve", func() error {
		if !w.running(cmd) {
			t.Fatalf("make run has ended:\n%s", withoutKey(out.String()+errs.String()))
		}
		if !strings.Contains(errs.String(), "serving initial configuration") {
			return errors.New("it does not yet")
		}
		return nil
	})
	key := demoKey.FindString(out.String())
	if key == "" {
		t.Fatalf("no key in %q", out.String())
	}
	during(out.String(), errs.String)

	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-ended
	if strings.Contains(errs.String(), key) {
		t.Error("the key is in the log")
	}
	if !strings.Contains(errs.String(), "shutdown complete") || w.running(cmd) {
		t.Errorf("Caddy did not shut down in order:\n%s", withoutKey(errs.String()))
	}
	for _, address := range []string{w.site, w.meta, w.receiver} {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			t.Errorf("somebody still listens on %s", address)
		}
	}
	return out.String()
}

// running tells whether any process of a command's is left.
func (w workplace) running(cmd *exec.Cmd) bool { return syscall.Kill(-cmd.Process.Pid, 0) == nil }

// withoutKey is text that may be shown.
func withoutKey(text string) string { return demoKey.ReplaceAllString(text, "[API key]") }

// demoPart is what the demo prints, without what make and Go do before it.
func demoPart(t *testing.T, stdout string) string {
	t.Helper()
	i := strings.Index(stdout, "The demo's API key")
	if i < 0 {
		t.Fatalf("no demo in %q", withoutKey(stdout))
	}
	return stdout[i:]
}

// tryCurl runs the two lines that the demo prints and checks the answers, and
// that the statuses of what was sent arrive at the customer's endpoint.
func (w workplace) tryCurl(t *testing.T, stdout string, log func() string) {
	t.Helper()
	lines := curlLine.FindAllString(stdout, -1)
	if len(lines) != 2 {
		t.Fatalf("%d curl lines", len(lines))
	}
	if got := w.output(t, lines[0]); !fakeReply.MatchString(got) {
		t.Errorf("the sandbox send: %s", got)
	}
	reply := w.output(t, lines[1])
	id := sentReply.FindStringSubmatch(reply)
	if id == nil || strings.Contains(reply, "FAKE") {
		t.Fatalf("the send: %s", reply)
	}
	if accepted := w.output(t, "curl -sS http://"+w.meta+"/_simulator/accepted"); !strings.Contains(accepted, `"id":"`+id[1]+`"`) {
		t.Errorf("the simulator does not know the message %s", id[1])
	}
	eventually(t, "sent, delivered and read in the endpoint's access log", func() error {
		got := make(map[string]int)
		for _, name := range eventLine.FindAllStringSubmatch(log(), -1) {
			got[name[1]]++
		}
		if diff := cmp.Diff(map[string]int{"message_status": 2, "read": 1}, got); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
	if !strings.Contains(stdout, "http://"+w.receiver+"/") {
		t.Error("the demo does not say where the events go")
	}
}

func TestMakeRun(t *testing.T) {
	t.Parallel()
	site, meta, receiver, admin := freeAddress(t), freeAddress(t), freeAddress(t), freeAddress(t)
	_, port, _ := net.SplitHostPort(site)
	data := t.TempDir()
	w := workplace{dir: clone(t), site: site, meta: meta, receiver: receiver, env: append(os.Environ(),
		"XDG_DATA_HOME="+filepath.Join(data, "data"), "XDG_CONFIG_HOME="+filepath.Join(data, "config"),
		"GATEWAY_ADDRESS=:"+port, "META_SIMULATOR_ADDRESS="+meta, "META_URL=http://"+meta, "CADDY_ADMIN="+admin,
		"WEBHOOK_RECEIVER_ADDRESS="+receiver,
	)}
	const demo = "bin/caddy whatsapp-gateway demo --config Caddyfile.demo"
	inventory := func() []string {
		var all []string
		for _, what := range []string{"account list", "app list", "key list --app app_demo", "account ledger acct_demo", "event list"} {
			all = append(all, w.output(t, "bin/caddy whatsapp-gateway --config Caddyfile.demo --json "+what))
		}
		return all
	}
	var made []string
	first := w.makeRun(t, func(stdout string, log func() string) {
		made = inventory()
		if again := w.output(t, demo); again != demoPart(t, stdout) {
			t.Error("the demo prints something else the second time")
		}
		if diff := cmp.Diff(made, inventory()); diff != "" {
			t.Errorf("the second demo has changed: %s", diff)
		}
		w.tryCurl(t, stdout, log)
	})
	second := w.makeRun(t, func(stdout string, log func() string) {
		w.tryCurl(t, stdout, log)
		// Nothing was made anew but what the two sends cost, and no event is left.
		if now := inventory(); !slices.Equal(now[1:3], made[1:3]) || strings.Count(now[3], `"capture"`) != 2 || strings.Count(now[3], `"credit"`) != 1 || now[4] != made[4] {
			t.Errorf("after the second run: %s", fmt.Sprint(now))
		}
	})
	if demoPart(t, first) != demoPart(t, second) {
		t.Error("make run prints something else the second time")
	}
}
