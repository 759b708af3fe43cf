package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of times in /proc/<pid>/stat: USER_HZ, which is 100 on
// every architecture that Go runs on (proc_pid_stat(5)).
const clockTick = 10 * time.Millisecond

// usage is what a process and its children take.
type usage struct {
	// cpu is all time so far, in user and in system, children that have ended included.
	cpu time.Duration
	// resident is memory in bytes (VmRSS); what children share is counted once each.
	resident int64
}

// usage reads what the process takes now.
func (p *process) usage() (usage, error) { return usageOf(p.cmd.Process.Pid) }

func usageOf(pid int) (usage, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return usage{}, err
	}
	// The second field is a name in parentheses, with anything in it; the third is
	// the first of these.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 22 {
		return usage{}, fmt.Errorf("%s/stat has %d fields", dir, len(fields)+2)
	}
	var u usage
	for _, field := range fields[11:15] { // utime, stime, cutime, cstime
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return usage{}, err
		}
		u.cpu += time.Duration(ticks) * clockTick
	}
	pages, err := strconv.ParseInt(fields[21], 10, 64)
	if err != nil {
		return usage{}, err
	}
	u.resident = pages * int64(os.Getpagesize())
	children, err := os.ReadFile(dir + "/task/" + strconv.Itoa(pid) + "/children")
	if err != nil {
		return usage{}, err
	}
	for _, child := range strings.Fields(string(children)) {
		id, err := strconv.Atoi(child)
		if err != nil {
			return usage{}, err
		}
		if of, err := usageOf(id); err == nil { // otherwise it has just ended
			u.cpu += of.cpu
			u.resident += of.resident
		}
	}
	return u, nil
}

// peak remembers the most memory that a process takes until stop is called.
func (p *process) peak() (stop func() int64) {
	end, most := make(chan struct{}), make(chan int64)
	go func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		highest := int64(0)
		for {
			if u, err := p.usage(); err == nil {
				highest = max(highest, u.resident)
			}
			select {
			case <-tick.C:
			case <-end:
				most <- highest
				return
			}
		}
	}()
	return func() int64 {
		close(end)
		return <-most
	}
}
