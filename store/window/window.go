// Package window counts what was admitted within a sliding second and minute, in
// bounded memory.
package window

import (
	"slices"
	"time"
)

const (
	// maxRuns bounds a window's memory: 16 bytes a run, 2 KiB a window.
	maxRuns = 128
	// fewRuns are in the window itself. Most windows have no more, and where there are very
	// many, each piece of memory of its own would cost the garbage collector.
	fewRuns = 2
)

// Window counts the admissions of a sliding span. It keeps them in runs of
// neighbours, each known by its newest member and gone when that one is out of
// the span, so it never counts too few, whatever the arrivals. A run holds at
// most limit/(maxRuns-1) members, rounded up, so it counts at most that many
// minus one too many: none at all for limits under maxRuns, under 1 % of any
// limit, and under 2 % where runs had to be merged. Merging by number and not by time is
// what keeps the error small for bursts as for steady traffic. The zero value is empty. It
// must not be copied.
type Window struct {
	// Total is how many it counts.
	Total int
	runs  []run // oldest first; in first while there are few
	first [fewRuns]run
}

// run is admissions that followed one another.
type run struct {
	newest time.Duration // when the newest of them was, since the epoch that the caller chose
	n      int32
}

// Expire forgets the runs that are out of the span ending at now. An admission
// exactly one span ago is out of it.
func (w *Window) Expire(now, span time.Duration) {
	i := 0
	for i < len(w.runs) && w.runs[i].newest <= now-span {
		w.Total -= int(w.runs[i].n)
		i++
	}
	switch {
	case i == 0:
	case i == len(w.runs): // whatever a burst has taken is given back
		w.runs = w.first[:0]
	default:
		w.runs = append(w.runs[:0], w.runs[i:]...)
	}
}

// Add counts one admission at now, which is not before any that came earlier.
func (w *Window) Add(now time.Duration, limit int) {
	w.Total++
	if last := len(w.runs) - 1; last >= 0 && int(w.runs[last].n) < runLength(limit) {
		w.runs[last] = run{newest: now, n: w.runs[last].n + 1}
		return
	}
	switch len(w.runs) {
	case 0:
		w.runs = w.first[:0]
	case maxRuns:
		w.merge()
	}
	w.runs = append(w.runs, run{newest: now, n: 1})
}

// merge makes one run of the two neighbours that have the fewest members
// together, which keeps runs short where they were not filled in order: after a
// restart, and after a change of the limit.
func (w *Window) merge() {
	best := 0
	for i := range len(w.runs) - 1 {
		if w.runs[i].n+w.runs[i+1].n < w.runs[best].n+w.runs[best+1].n {
			best = i
		}
	}
	w.runs[best+1].n += w.runs[best].n
	w.runs = slices.Delete(w.runs, best, best+1)
}

// Undo takes back the newest admission.
func (w *Window) Undo() {
	last := len(w.runs) - 1
	if last < 0 {
		return
	}
	w.Total--
	if w.runs[last].n--; w.runs[last].n == 0 {
		w.runs = w.runs[:last]
	}
}

// runLength is how many members a run may have under limit.
func runLength(limit int) int { return max(1, (limit+maxRuns-2)/(maxRuns-1)) }

// Windows are the two windows of an app. The zero value is empty. They must not be copied.
type Windows struct{ Second, Minute Window }

// Expire forgets what is out of the windows ending at now.
func (w *Windows) Expire(now time.Duration) {
	w.Second.Expire(now, time.Second)
	w.Minute.Expire(now, time.Minute)
}

// Add counts one admission at now under these limits.
func (w *Windows) Add(now time.Duration, perSecond, perMinute int) {
	w.Second.Add(now, perSecond)
	w.Minute.Add(now, perMinute)
}

// Undo takes back the newest admission.
func (w *Windows) Undo() {
	w.Second.Undo()
	w.Minute.Undo()
}
