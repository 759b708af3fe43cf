package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// rig is one run of the benchmark: the processes, and what was measured so far.
type rig struct {
	settings
	ctx       context.Context
	dir       string // this run's own
	out       io.Writer
	processes []*process
	groups    int // given to sets of tenants so far
	loads     int // files written so far
	stub      *stub

	// targets are those of the main table; bare and embedded, shared among them, are
	// Caddy's reverse_proxy and the gateway on each store.
	targets                []*target
	bare, embedded, shared *target
	// measured are the probes of the series that ran, by series and name.
	measured map[string]*probe
	hooks    []*hookSeries
	// gateways are those whose books are checked at the end.
	gateways []*gateway
	notes    []string // what is said below the tables
	bars     []bar
}

// series are the parts of the benchmark, in the order in which they run.
var series = []struct {
	name string
	run  func(*rig) error
}{
	{"main", (*rig).mainSeries},
	{"delay", (*rig).delaySeries},
	{"refused", (*rig).refusedSeries},
	{"webhooks", (*rig).webhookSeries},
	{"scale", (*rig).scaleSeries},
	{"scale-redis", (*rig).scaleRedisSeries},
}

func seriesNames() (names []string) {
	for _, s := range series {
		names = append(names, s.name)
	}
	return names
}

// run starts what is compared, checks that it does its job, and runs the series. In the
// end, or when ctx ends, nothing of it is left.
func run(ctx context.Context, s settings, out io.Writer) (err error) {
	dir, err := os.MkdirTemp(s.dir, "wagw-bench")
	if err != nil {
		return err
	}
	r := &rig{settings: s, ctx: ctx, dir: dir, out: out, measured: make(map[string]*probe)}
	defer func() {
		r.stopAll()
		if removed := os.RemoveAll(dir); err == nil {
			err = removed
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	for _, binary := range []*string{&r.caddy, &r.against} {
		if *binary == "" {
			continue
		}
		if *binary, err = filepath.Abs(*binary); err != nil {
			return err
		}
		if _, err := os.Stat(*binary); err != nil {
			return fmt.Errorf("there is no Caddy to measure: %w", err)
		}
	}
	if err := missing("wrk"); err != nil {
		return err
	}
	if r.stub, err = r.startStub("stub", r.delay); err != nil {
		return err
	}
	if err := r.startTargets(); err != nil {
		return err
	}
	r.printf("%s\n", r.machine())
	for _, part := range series {
		if !slices.Contains(r.series, part.name) {
			continue
		}
		r.progress("series %s", part.name)
		if err := part.run(r); err != nil {
			return fmt.Errorf("series %s: %w", part.name, err)
		}
	}
	if err := r.checkBooks(); err != nil {
		return err
	}
	r.printNotes()
	r.printBars()
	return nil
}

func (r *rig) printf(format string, args ...any) { fmt.Fprintf(r.out, format, args...) }

// progress tells whoever waits what is being done.
func (r *rig) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "# "+format+"\n", args...)
}

// note adds a line to those below the tables.
func (r *rig) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// noteOnce does so unless it is there.
func (r *rig) noteOnce(format string, args ...any) {
	if note := fmt.Sprintf(format, args...); !slices.Contains(r.notes, note) {
		r.notes = append(r.notes, note)
	}
}

func (r *rig) printNotes() {
	if len(r.notes) == 0 {
		return
	}
	r.printf("## Notes\n\n")
	for _, note := range r.notes {
		r.printf("- %s\n", note)
	}
	r.printf("\n")
}

// group returns the number of the next set of tenants; see [phoneNumber].
func (r *rig) group() int {
	r.groups++
	return firstGroup + r.groups - 1
}
