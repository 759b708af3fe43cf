package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	// Imported for nothing but to have go test notice when it changes.
	_ "github.com/connexease/caddy-whatsapp-gateway"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// TestMain is also the stub and the proxy, which the benchmark starts from its own
// program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		exit(roles[os.Args[1]](os.Args[2:]))
	}
	os.Exit(m.Run())
}

// TestEverySeriesRuns runs all of the benchmark, briefly. What it measures then says
// nothing about time; that every target does its job, and that every charge was made, is
// checked on the way.
func TestEverySeriesRuns(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts some forty processes")
	}
	for _, err := range []error{missing("wrk"), onLinux()} {
		if err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	caddy := filepath.Join(dir, "caddy")
	build := exec.Command("go", "build", "-ldflags", "-w -s", "-o", caddy, "./cmd/caddy") // as make does, so that it is there
	build.Dir, build.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building Caddy: %v\n%s", err, out)
	}
	s := settings{connections: 8, caddy: caddy, dir: dir, series: seriesNames()}
	s.brief()
	var out bytes.Buffer
	if err := run(t.Context(), s, &out); err != nil {
		t.Fatal(err)
	}
	tables := regexp.MustCompile(`(?m)^## (.*)$`).FindAllStringSubmatch(out.String(), -1)
	var titles []string
	for _, table := range tables {
		titles = append(titles, table[1])
	}
	for _, want := range wantedTitles() {
		if !slices.Contains(titles, want) {
			t.Errorf("there is no table %q", want)
		}
	}
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "- Not measured") {
			t.Log(line) // a peer that is not installed
		}
	}
	s.against, s.series = caddy, []string{"main"}
	out.Reset()
	if err := run(t.Context(), s, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"other build, bare", "other build, embedded"} {
		if !strings.Contains(out.String(), "| "+want+" |") {
			t.Errorf("no row of %q", want)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "wagw-bench*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func wantedTitles() []string {
	titles := []string{
		"Sends, 300 bytes, Meta answers at once", "Sends, 300 bytes, Meta takes 20ms, half load", "Refused requests", "Webhooks, embedded",
		"Scale, embedded", "Books: sends that Meta accepted, and base fees that were charged", "Bars",
	}
	if missing("redis-server") == nil {
		titles = append(titles, "Scale, on Redis")
	}
	return titles
}

func onLinux() error {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		return fmt.Errorf("what processes take is read from /proc: %w", err)
	}
	return nil
}

func TestOptionsThatMeasureNothingAreNamed(t *testing.T) {
	for args, want := range map[string]string{
		"-apps 1":                 "-apps must be at least 2, not 1",
		"-rounds 0":               "-rounds must be at least 1, not 0",
		"-brief -keys -1":         "-keys must be at least 1, not -1",
		"-series main,everything": "-series takes some of",
	} {
		if err := bench(t.Context(), strings.Fields(args)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}

// The proxy knows no limits, and not the tenant that has one.
func TestATargetThatDoesNotDoItsJobIsNotMeasured(t *testing.T) {
	r := &rig{ctx: t.Context(), dir: t.TempDir(), out: io.Discard}
	t.Cleanup(r.stopAll)
	var err error
	if r.stub, err = r.startStub("stub", 0); err != nil {
		t.Fatal(err)
	}
	proxy, err := r.reverseProxy()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.check(proxy); err != nil {
		t.Errorf("with what it does: %v", err)
	}
	proxy.does.limits = true
	if err := r.check(proxy); err == nil {
		t.Error("it was taken for one with limits")
	}
}

func TestTheStubTellsTokensApart(t *testing.T) {
	one, other := []byte(phoneNumber(10, 1)), []byte(phoneNumber(10, 2))
	for _, c := range []struct {
		token string
		want  bool
	}{
		{tokenOf(string(one)), true},
		{tokenOf(string(other)), false},
		{tokenOf(string(one)) + "x", false},
		{"", false},
	} {
		if got := isTokenOf([]byte(c.token), one); got != c.want {
			t.Errorf("token of %d characters: %v", len(c.token), got)
		}
	}
}

func TestRefusedKeysAreRefusedForWhatTheirRowSays(t *testing.T) {
	for range 200 {
		key := tenant.NewKey(false)
		if _, err := tenant.ParseKey(string(key)); err != nil {
			t.Fatalf("an unknown key would not be looked up: %v", err)
		}
		if _, err := tenant.ParseKey(string(misspelt(key))); err == nil {
			t.Fatal("a misspelt key would be looked up")
		}
	}
}

// Requests of one file have one length, and differ.
func TestWebhooksAreDistinctAndOfOneLength(t *testing.T) {
	for _, h := range hookKinds() {
		first, last := h.signed(0, phoneNumber(10, 0), "secret"), h.signed(99_999, phoneNumber(10, 0), "secret")
		if len(first) != len(last) || bytes.Equal(first, last) {
			t.Errorf("%s, %d in each: %d and %d bytes", h.name, h.events, len(first), len(last))
		}
	}
	if id := store.HoldID(pastHold(1)); !id.Valid() {
		t.Errorf("the statuses return %s, which no hold is called", id)
	}
}

func TestAMessageHasTheLengthAskedFor(t *testing.T) {
	for _, size := range []int{smallBody, largeBody} {
		if got := len(message(size)); got != size {
			t.Errorf("%d bytes, not %d", got, size)
		}
	}
}

func TestFiguresOfWrkAreRead(t *testing.T) {
	got, err := parseFigures("Running\nfigures 100 2000000 1 2 3 4 5 600 700\n")
	want := figures{requests: 100, duration: 2e9, broken: 10, refused: 5, p50: 600e3, p99: 700e3}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(figures{})); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	for _, out := range []string{"", "figures 0 1 0 0 0 0 0 0 0\n", "figures x\n"} {
		if _, err := parseFigures(out); err == nil {
			t.Errorf("%q was taken for figures", out)
		}
	}
}

func TestRatiosAreTakenWithinARound(t *testing.T) {
	a := &probe{samples: []sample{{cpu: 10}, {cpu: 40}, {cpu: 90}}}
	b := &probe{samples: []sample{{cpu: 10}, {cpu: 20}, {cpu: 30}}}
	if diff := cmp.Diff(spread{2, 1, 3}, a.against(b, cpu, ratio), cmp.AllowUnexported(spread{})); diff != "" {
		t.Error(diff)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("the median is %v", got)
	}
}

func TestATableIsMarkdown(t *testing.T) {
	var out bytes.Buffer
	table := newTable("a", "b", "c")
	table.add("x", "1", "2")
	(&rig{out: &out}).print("T", table)
	want := "## T\n\n| a | b | c |\n| --- | ---: | ---: |\n| x | 1 | 2 |\n\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestAProcessIsReadWhileItRuns(t *testing.T) {
	if err := onLinux(); err != nil {
		t.Skip(err)
	}
	r := &rig{ctx: t.Context(), dir: t.TempDir(), out: io.Discard}
	p, err := r.start("a shell", nil, "sh", "-c", "sleep 60 & wait")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.stopAll)
	err = r.await(p, func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", p.cmd.Process.Pid))
		if err == nil && len(bytes.TrimSpace(children)) == 0 {
			err = fmt.Errorf("no child yet")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if u, err := p.usage(); err != nil || u.resident == 0 {
		t.Errorf("%+v, %v", u, err)
	}
	p.stop()
	if u, err := p.usage(); err == nil {
		t.Errorf("a process that has ended takes %+v", u)
	}
}
