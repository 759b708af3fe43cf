package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// process is a program that was started for the benchmark, in a process group of
// its own.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string        // the file with what it wrote
	done chan struct{} // closed when it has ended, whyever
}

// cores is how many a target may use, the same for all.
var cores = min(2, runtime.NumCPU())

// patience is how long a process may take to be ready, or to end.
const patience = 60 * time.Second

// start starts a program. What it writes goes to a file in the rig's directory.
func (r *rig) start(name string, env []string, program string, args ...string) (*process, error) {
	p := &process{
		name: name,
		cmd:  exec.Command(program, args...),
		log:  filepath.Join(r.dir, strconv.Itoa(len(r.processes))+".log"),
		done: make(chan struct{}),
	}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd.Dir = r.dir
	p.cmd.Env = append(append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(cores)), env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us; we end it
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	r.processes = append(r.processes, p)
	return p, nil
}

// stop asks the process to end, and kills it with all its children where it does not.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended already
	select {
	case <-p.done:
	case <-time.After(patience / 6):
	}
	p.kill()
}

// kill ends the process and its children at once.
func (p *process) kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // as above
	<-p.done
}

// stopAll stops those started last first, so that nothing misses what it talks to.
func (r *rig) stopAll() {
	for _, p := range slices.Backward(r.processes) {
		p.stop()
	}
}

// await calls ready until it returns nil or the process has ended.
func (r *rig) await(p *process, ready func() error) error {
	ctx, cancel := context.WithTimeout(r.ctx, patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", p.name, err)
		case <-p.done:
			return fmt.Errorf("%s has ended: %s", p.name, p.lastWords())
		}
	}
}

// awaitPort waits until the process accepts connections.
func (r *rig) awaitPort(p *process, address string) error {
	return r.await(p, func() error {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// lastWords are the end of what the process wrote.
func (p *process) lastWords() string {
	const most = 2000
	f, err := os.Open(p.log)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	words, err := io.ReadAll(f)
	return string(words) + errorText(err)
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// freeAddress returns an address on which nothing listens.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// freeAddresses fills in some.
func freeAddresses(to ...*string) error {
	var errs []error
	for _, address := range to {
		var err error
		*address, err = freeAddress()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
