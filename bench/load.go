package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed load.lua
var loadScript []byte

// load is a file of requests, all of the same length, that wrk sends over and over.
type load struct {
	file        string
	size, count int
	next        int // where the next round begins
}

// newLoad writes the requests that next returns until it returns nil.
func (r *rig) newLoad(name string, next func(i int) []byte) (*load, error) {
	r.loads++
	l := &load{file: filepath.Join(r.dir, fmt.Sprintf("%d-%s.requests", r.loads, name))}
	f, err := os.Create(l.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var block bytes.Buffer
	for request := next(0); request != nil; request = next(l.count) {
		if l.count > 0 && len(request) != l.size {
			return nil, fmt.Errorf("request %d of %s has %d bytes and the others have %d", l.count, name, len(request), l.size)
		}
		l.size = len(request)
		l.count++
		block.Write(request)
		if block.Len() >= 1<<20 {
			if _, err := block.WriteTo(f); err != nil {
				return nil, err
			}
		}
	}
	_, err = block.WriteTo(f)
	return l, err
}

// httpPost is one request in the form that goes over the wire.
func httpPost(path, key string, body []byte) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		path, key, len(body), body)
}

// message is a text message of Meta's, so many bytes long.
func message(size int) []byte {
	const before, after = `{"messaging_product":"whatsapp","recipient_type":"individual","to":"12025550100","type":"text","text":{"preview_url":false,"body":"`, `"}}`
	return []byte(before + strings.Repeat("Your order is on its way. ", size)[:size-len(before)-len(after)] + after)
}

// The lengths of bodies.
const (
	smallBody = 300
	largeBody = 60 << 10
)

// once is a load of one request.
func once(request []byte) func(int) []byte {
	return func(i int) []byte {
		if i > 0 {
			return nil
		}
		return request
	}
}

// figures are what wrk has measured.
type figures struct {
	requests int
	duration time.Duration
	// broken are requests without a complete answer, refused those with a status of 400 or more.
	broken, refused int
	p50, p99        time.Duration
}

func (f figures) perSecond() float64 { return float64(f.requests) / f.duration.Seconds() }

// errNoAnswer means that not one request was answered.
var errNoAnswer = errors.New("not one request was answered")

// drive has wrk send the probe's load for so long, in a closed loop. Where the machine is so
// busy that nothing is answered in that time, it takes longer.
func (r *rig) drive(p *probe, duration time.Duration) (figures, error) {
	f, err := r.driveOnce(p, duration)
	if errors.Is(err, errNoAnswer) && duration < patience/4 {
		return r.drive(p, 2*duration)
	}
	return f, err
}

func (r *rig) driveOnce(p *probe, duration time.Duration) (figures, error) {
	l := p.load
	script := filepath.Join(r.dir, "load.lua")
	if err := os.WriteFile(script, loadScript, 0o600); err != nil {
		return figures{}, err
	}
	// Its durations are whole seconds. Told to end (as by Ctrl-C) it does so in time.
	cmd := exec.CommandContext(r.ctx, "wrk", "-t1", "-c"+strconv.Itoa(p.connections), "-d"+strconv.Itoa(int(duration/time.Second)+60)+"s",
		"--timeout", "10s", "--latency", "-s", script, "http://"+p.address)
	cmd.Env = append(os.Environ(), "REQUESTS="+l.file, "SIZE="+strconv.Itoa(l.size), "FIRST="+strconv.Itoa(l.next),
		"CONNECTIONS="+strconv.Itoa(p.connections), "SPREAD="+strconv.Itoa(int(p.spread/time.Millisecond)))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return figures{}, err
	}
	timer := time.AfterFunc(duration, func() { _ = cmd.Process.Signal(os.Interrupt) })
	defer timer.Stop()
	if err := cmd.Wait(); err != nil {
		return figures{}, fmt.Errorf("wrk: %w: %s", err, &out)
	}
	f, err := parseFigures(out.String())
	l.next = (l.next + f.requests) % l.count
	return f, err
}

// parseFigures reads the line that the script prints.
func parseFigures(out string) (f figures, err error) {
	_, line, ok := strings.Cut(out, "figures ")
	if !ok {
		return f, fmt.Errorf("wrk printed no figures: %s", out)
	}
	var n [9]int
	for i, field := range strings.Fields(line) {
		if i == len(n) {
			break
		}
		if n[i], err = strconv.Atoi(field); err != nil {
			return f, fmt.Errorf("wrk printed %q: %w", line, err)
		}
	}
	f = figures{
		requests: n[0], duration: time.Duration(n[1]) * time.Microsecond,
		broken: n[2] + n[3] + n[4] + n[5], refused: n[6],
		p50: time.Duration(n[7]) * time.Microsecond, p99: time.Duration(n[8]) * time.Microsecond,
	}
	if f.requests == 0 {
		return f, fmt.Errorf("%w: %s", errNoAnswer, out)
	}
	return f, nil
}
