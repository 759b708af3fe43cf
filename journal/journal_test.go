package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(roles[role](os.Getenv(folderVariable)))
	}
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

func open(t testing.TB, dir string) *Journal {
	t.Helper()
	j, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

func add(t testing.TB, j *Journal, bodies ...string) {
	t.Helper()
	for _, body := range bodies {
		if err := j.Append(t.Context(), Record{Kind: "capture", Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
}

func next(t testing.TB, j *Journal, most int) []Record {
	t.Helper()
	records, err := j.Next(t.Context(), most)
	if err != nil {
		t.Fatal(err)
	}
	return records
}

// drain takes everything out and returns the bodies.
func drain(t testing.TB, j *Journal) (bodies []string) {
	t.Helper()
	for {
		records := next(t, j, 1_000)
		if len(records) == 0 {
			return bodies
		}
		ids := make([]int64, len(records))
		for i, r := range records {
			bodies, ids[i] = append(bodies, string(r.Body)), r.ID
		}
		if err := j.Done(t.Context(), ids...); err != nil {
			t.Fatal(err)
		}
	}
}

func wantBodies(t testing.TB, records []Record, want ...string) {
	t.Helper()
	var got []string
	for _, r := range records {
		got = append(got, string(r.Body))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func wantLen(t testing.TB, j *Journal, want int) {
	t.Helper()
	if n := j.Waiting(); n != int64(want) {
		t.Errorf("%d are waiting, want %d", n, want)
	}
	if n, err := j.Len(t.Context()); err != nil || n != want {
		t.Errorf("Len: %d, %v, want %d", n, err, want)
	}
}

func TestRecordsComeOldestFirstUntilTheyAreDone(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	add(t, j, "a", "b", "c", "d")
	for range 2 {
		wantBodies(t, next(t, j, 3), "a", "b", "c")
	}
	records := next(t, j, 10)
	if err := j.Done(t.Context(), records[0].ID, records[2].ID, records[2].ID, 1<<40); err != nil {
		t.Fatal(err)
	}
	wantBodies(t, next(t, j, 10), "b", "d")
	wantBodies(t, next(t, j, 0))
	wantLen(t, j, 2)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, dir)
	wantLen(t, j, 2)
	add(t, j, "e")
	wantBodies(t, next(t, j, 10), "b", "d", "e")
}

func TestARecordComesBackAsItWas(t *testing.T) {
	j := open(t, t.TempDir())
	now := time.Date(2026, 11, 1, 12, 0, 0, 123_456_000, time.UTC)
	j.clock = func() time.Time { return now }
	want := []Record{{Kind: "webhook", Body: []byte("\x00\xff'; --")}, {Kind: "", Body: []byte{}}}
	for i, r := range want {
		if err := j.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		want[i].At = now
	}
	if diff := cmp.Diff(want, next(t, j, 10), cmpopts.IgnoreFields(Record{}, "ID"), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func TestAnIDIsNeverGivenAgain(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	var last int64
	for range 3 {
		add(t, j, "a")
		records := next(t, j, 1)
		if records[0].ID <= last {
			t.Fatalf("id %d after %d", records[0].ID, last)
		}
		last = records[0].ID
		drain(t, j)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = open(t, dir)
	}
}

func TestNextIsBoundedBySize(t *testing.T) {
	j := open(t, t.TempDir())
	for _, size := range []int{NextSize - 1, 1, 1, NextSize + 1, 0} {
		add(t, j, strings.Repeat("x", size))
	}
	for _, want := range []int{2, 1, 1, 1} {
		records := next(t, j, 10)
		if len(records) != want {
			t.Fatalf("%d records, want %d", len(records), want)
		}
		for _, r := range records {
			if err := j.Done(t.Context(), r.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	wantLen(t, j, 0)
}

func TestAFailedRecordRestsAndHoldsUpNothing(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	now := time.Now()
	clock := func() time.Time { return now }
	j.clock = clock
	add(t, j, "poison", "b")
	poison := next(t, j, 1)[0]
	rest := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60}
	for i, minutes := range rest {
		if err := j.Fail(t.Context(), poison.ID, fmt.Sprint("reason ", i)); err != nil {
			t.Fatal(err)
		}
		wantBodies(t, next(t, j, 10), "b")
		now = now.Add(minutes*time.Minute - time.Millisecond)
		wantBodies(t, next(t, j, 10), "b")
		now = now.Add(time.Millisecond)
		wantBodies(t, next(t, j, 10), "b", "poison")
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = open(t, dir)
		j.clock = clock
	}
	got := next(t, j, 10)[1]
	if got.Attempts != len(rest) || got.LastError != "reason 7" || !got.At.Equal(poison.At) {
		t.Errorf("%+v", got)
	}
	wantLen(t, j, 2)
	for range 80 { // as many as would overflow
		if err := j.Fail(t.Context(), poison.ID, "again"); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(maxRetry)
	wantBodies(t, next(t, j, 10), "b", "poison")
	if err := j.Fail(t.Context(), 1<<40, "nobody"); err != nil {
		t.Fatal(err)
	}
	if err := j.Done(t.Context(), poison.ID); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"b"}, drain(t, j)); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func TestAppendsAtOnceAreAllThereInTheirOrders(t *testing.T) {
	const writers, each = 32, 50
	j := open(t, t.TempDir())
	var wg sync.WaitGroup
	var taken [][2]int
	var appended atomic.Int64
	for g := range writers {
		wg.Go(func() {
			for n := range each {
				if err := j.Append(t.Context(), Record{Kind: "k", Body: fmt.Appendf(nil, "%d %d", g, n)}); err != nil {
					t.Error(err)
				}
				appended.Add(1)
			}
		})
	}
	wg.Go(func() { // takes out while others put in
		for len(taken) < writers*each && !t.Failed() {
			for _, body := range drain(t, j) {
				var one [2]int
				if _, err := fmt.Sscan(body, &one[0], &one[1]); err != nil {
					t.Error(err)
				}
				taken = append(taken, one)
			}
		}
	})
	wg.Wait()
	var turn [writers]int
	for _, one := range taken {
		if turn[one[0]] != one[1] {
			t.Fatalf("record %d of writer %d came when %d was next", one[1], one[0], turn[one[0]])
		}
		turn[one[0]]++
	}
	wantLen(t, j, 0)
}

func TestTwoOpenersShareOneJournal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new folder % with ? odd # name")
	const openers, each = 8, 40
	var journals [openers]*Journal
	var wg sync.WaitGroup
	for i := range journals {
		wg.Go(func() { // one of them makes the file
			var err error
			if journals[i], err = Open(dir); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	defer func() {
		for _, j := range journals {
			if err := j.Close(); err != nil {
				t.Error(err)
			}
		}
	}()
	for i, j := range journals {
		wg.Go(func() {
			for n := range each {
				if err := j.Append(t.Context(), Record{Body: fmt.Appendf(nil, "%d %d", i, n)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, j := range journals {
		if n, err := j.Len(t.Context()); err != nil || n != openers*each {
			t.Fatalf("%d records, %v", n, err)
		}
		wantLen(t, j, openers*each)
	}
	bodies := drain(t, journals[0])
	slices.Sort(bodies)
	if n := len(slices.Compact(bodies)); n != openers*each {
		t.Errorf("%d records came, want %d", n, openers*each)
	}
	add(t, journals[1], "late")
	wantBodies(t, next(t, journals[2], 1), "late")
	if n := journals[2].Waiting(); n != 1 {
		t.Errorf("%d are waiting", n)
	}
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j := open(t, dir)
	add(t, j, "a")
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is %v", path, info.Mode())
		}
		seen++
		return err
	})
	if err != nil || seen != 4 { // the folder, the file, -wal, -shm
		t.Errorf("%d files, %v", seen, err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("closing leaves %v, %v", left, err)
	}
}

func TestAClosedJournalSaysSo(t *testing.T) {
	j := open(t, t.TempDir())
	for range 2 {
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, nextErr := j.Next(t.Context(), 1)
	_, lenErr := j.Len(t.Context())
	for call, err := range map[string]error{
		"Append": j.Append(t.Context(), Record{}), "Done": j.Done(t.Context(), 1), "Fail": j.Fail(t.Context(), 1, ""),
		"Next": nextErr, "Len": lenErr,
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", call, err)
		}
	}
}

func TestAppendsDuringCloseAreThereOrRefused(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	var wg sync.WaitGroup
	var kept atomic.Int64
	started := make(chan struct{}, 16)
	for range 16 {
		wg.Go(func() {
			for n := 0; ; n++ {
				err := j.Append(t.Context(), Record{})
				if err == nil {
					kept.Add(1)
				} else if !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
				if n == 0 {
					started <- struct{}{}
				}
				if err != nil {
					return
				}
			}
		})
	}
	for range 16 {
		<-started
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	wantLen(t, open(t, dir), int(kept.Load()))
}

func TestAnEndedContextWaitsForNothing(t *testing.T) {
	j := open(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := j.Next(ctx, 1)
	for call, err := range map[string]error{"Append": j.Append(ctx, Record{}), "Next": err} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", call, err)
		}
	}
	wantLen(t, j, 0)
}
