package main

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
)

// machine says on what and with what this was measured.
func (r *rig) machine() string {
	lines := []string{
		fmt.Sprintf("%s, %d cores, Linux %s; databases on %s", processor(), runtime.NumCPU(), kernel(), fileSystem(r.settings.dir)),
		"Caddy " + r.caddyVersion() + ", nginx " + version("nginx", "-v") + ", HAProxy " + version("haproxy", "-v") +
			", Redis " + version("redis-server", "--version") + ", wrk " + version("wrk", "-v"),
		fmt.Sprintf("%d rounds of %v for each target, in turns; %d connections, each with one request under way; %d cores for each target. "+
			"The table shows medians; ratios are within a round: median (lowest..highest)", r.rounds, r.duration, r.connections, cores),
		"CPU a request is that of the target's own processes. Redis: `appendonly yes`, `appendfsync " + r.fsync + "`, for everybody who uses it. No access logs",
	}
	return "# Benchmark\n\n- " + strings.Join(lines, "\n- ") + "\n"
}

// caddyVersion is what the binary was built from.
func (r *rig) caddyVersion() string {
	info, err := buildinfo.ReadFile(r.caddy)
	if err != nil {
		return "?"
	}
	for _, module := range info.Deps {
		if module.Path == "github.com/caddyserver/caddy/v2" {
			return module.Version + " (" + info.GoVersion + ")"
		}
	}
	return info.GoVersion
}

var versionNumber = regexp.MustCompile(`[0-9]+\.[0-9]+\.[0-9]+`)

// version is the first number of that form that a program says.
func version(program, flag string) string {
	out, _ := exec.Command(program, flag).CombinedOutput() // wrk fails when it is asked
	if number := versionNumber.Find(out); number != nil {
		return string(number)
	}
	return "(not installed)"
}

func processor() string {
	document, _ := os.ReadFile("/proc/cpuinfo") // without it we do not know
	for line := range strings.Lines(string(document)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease") // as above
	return strings.TrimSpace(string(release))
}

// fileSystems are those that one is likely to meet, by their magic (statfs(2)).
var fileSystems = map[int64]string{
	0xef53: "ext4", 0x58465342: "XFS", 0x9123683e: "Btrfs", 0x794c7630: "overlayfs", 0x2fc12fc1: "ZFS",
	0x01021994: "tmpfs, **where durability costs nothing**",
}

func fileSystem(dir string) string {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		return "?"
	}
	magic := int64(stat.Type)
	if name, ok := fileSystems[magic]; ok {
		return name
	}
	return fmt.Sprintf("file system %#x", magic)
}
