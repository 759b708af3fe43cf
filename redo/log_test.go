package redo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

func open(t testing.TB, dir string) *Log {
	t.Helper()
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// killed returns a folder with what a process leaves behind that is killed now.
func killed(t *testing.T, l *Log) string {
	t.Helper()
	content, err := os.ReadFile(l.file.Name())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, filepath.Base(l.file.Name())), content, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// abandonedRecord returns a folder with a record of a process that was killed.
func abandonedRecord(t *testing.T) string {
	t.Helper()
	l := open(t, t.TempDir())
	defer l.Close()
	if _, err := l.Write([]byte("a record")); err != nil {
		t.Fatal(err)
	}
	return killed(t, l)
}

// taken returns what is abandoned in a folder.
func taken(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := Abandoned(t.Context(), dir, nil, func(records [][]byte) error {
		for _, r := range records {
			all = append(all, string(r))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return all
}

// files returns the names of what is in a folder.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestWhatIsNotDoneOutlivesAKill(t *testing.T) {
	l := open(t, t.TempDir())
	defer l.Close()
	waiting := make(map[string]Slot)
	for i := range 3 * Slots {
		if len(waiting) > 0 && rand.IntN(2) == 0 {
			for record, slot := range waiting {
				l.Done(slot)
				delete(waiting, record)
				break
			}
			continue
		}
		record := fmt.Sprint(i, strings.Repeat("x", rand.IntN(MaxSize-8)))
		slot, err := l.Write([]byte(record))
		if err != nil {
			t.Fatal(err)
		}
		waiting[record] = slot
	}
	dir := killed(t, l)
	left := taken(t, dir)
	for record := range waiting {
		if !slices.Contains(left, record) {
			t.Error("a record that was not done is lost")
		}
	}
	if len(left) != len(waiting) {
		t.Errorf("%d records are left of %d", len(left), len(waiting))
	}
	if again := taken(t, dir); len(again) > 0 || len(files(t, dir)) > 0 {
		t.Errorf("%d records are taken a second time, and there is %v", len(again), files(t, dir))
	}
}

func TestWhatIsDoneIsErased(t *testing.T) {
	l := open(t, t.TempDir())
	defer l.Close()
	for range 3 * Slots { // each in the same slot
		slot, err := l.Write([]byte("a record"))
		if err != nil || slot != 0 {
			t.Fatal(slot, err)
		}
		l.Done(slot)
	}
	if left := taken(t, killed(t, l)); len(left) != 0 {
		t.Errorf("%d records are left", len(left))
	}
}

func TestAFullLogSaysSo(t *testing.T) {
	l := open(t, t.TempDir())
	defer l.Close()
	var last Slot
	for i := range Slots {
		var err error
		if last, err = l.Write([]byte{byte(i), byte(i >> 8), 1}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Write([]byte("one more")); !errors.Is(err, ErrFull) {
		t.Errorf("error %v", err)
	}
	l.Done(last)
	if _, err := l.Write([]byte("one more")); err != nil {
		t.Error(err)
	}
	if left := taken(t, killed(t, l)); len(left) != Slots {
		t.Errorf("%d records are left of %d", len(left), Slots)
	}
}

func TestARecordIsNotTooLong(t *testing.T) {
	l := open(t, t.TempDir())
	defer l.Close()
	if _, err := l.Write(make([]byte, MaxSize)); err != nil {
		t.Error(err)
	}
	if _, err := l.Write(make([]byte, MaxSize+1)); !errors.Is(err, ErrTooLong) {
		t.Errorf("error %v", err)
	}
}

func TestCloseLeavesWhatIsNotDone(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	done, err := l.Write([]byte("done"))
	if err != nil {
		t.Fatal(err)
	}
	l.Done(done)
	if err := l.Close(); err != nil || len(files(t, dir)) > 0 {
		t.Errorf("closed with error %v, there is %v", err, files(t, dir))
	}
	l = open(t, dir)
	if _, err := l.Write([]byte("not done")); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if left := taken(t, dir); !slices.Equal(left, []string{"not done"}) {
		t.Errorf("left is %q", left)
	}
	if _, err := l.Write([]byte("too late")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a log that is closed was written to: error %v", err)
	}
}

func TestTheLogOfAProcessThatLivesIsLeftToIt(t *testing.T) {
	dir := t.TempDir()
	alive := open(t, dir)
	defer alive.Close()
	if _, err := alive.Write([]byte("mine")); err != nil {
		t.Fatal(err)
	}
	if left := taken(t, dir); len(left) > 0 {
		t.Errorf("%q was taken from a process that lives", left)
	}
	if err := Abandoned(t.Context(), dir, alive, nil); err != nil {
		t.Errorf("it is not left to itself: %v", err)
	}
}

func TestALogIsTakenByOne(t *testing.T) {
	dir := t.TempDir()
	for range 8 {
		l := open(t, dir)
		if _, err := l.Write([]byte(filepath.Base(l.file.Name()))); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	times := make(map[string]int)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			err := Abandoned(t.Context(), dir, nil, func(records [][]byte) error {
				mu.Lock()
				defer mu.Unlock()
				for _, r := range records {
					times[string(r)]++
				}
				runtime.Gosched()
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, n := range times {
		if n != 1 {
			t.Errorf("a log was taken %d times", n)
		}
	}
	if len(times) != 8 || len(files(t, dir)) > 0 {
		t.Errorf("%d logs of 8 were taken, left is %v", len(times), files(t, dir))
	}
}

func TestWhatIsNotTakenStays(t *testing.T) {
	dir := abandonedRecord(t)
	refusal := errors.New("not now")
	if err := Abandoned(t.Context(), dir, nil, func([][]byte) error { return refusal }); !errors.Is(err, refusal) {
		t.Errorf("error %v", err)
	}
	if left := taken(t, dir); len(left) != 1 {
		t.Errorf("%d records are left", len(left))
	}
}

func TestWhatCannotBeReadIsSetAside(t *testing.T) {
	dir := abandonedRecord(t)
	err := Abandoned(t.Context(), dir, nil, func([][]byte) error { return fmt.Errorf("nonsense: %w", ErrAside) })
	if names := files(t, dir); err != nil || len(names) != 1 || !strings.HasSuffix(names[0], ".redo.aside") {
		t.Errorf("error %v, there is %v", err, files(t, dir))
	}
	if left := taken(t, dir); len(left) > 0 {
		t.Error("it was taken again")
	}
}

// Who takes a log may fail.
func TestWhatSomebodyIsAtIsWaitedFor(t *testing.T) {
	dir := abandonedRecord(t)
	at, fail := make(chan bool), make(chan error)
	var others sync.WaitGroup
	others.Go(func() {
		err := Abandoned(t.Context(), dir, nil, func([][]byte) error { at <- true; return <-fail })
		if err == nil {
			t.Error("the failure is not told")
		}
	})
	<-at
	ended, end := context.WithCancel(t.Context())
	end()
	if err := Abandoned(ended, dir, nil, func([][]byte) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	times := 0
	others.Go(func() {
		err := Abandoned(t.Context(), dir, nil, func([][]byte) error { times++; return nil })
		if err != nil {
			t.Error(err)
		}
	})
	fail <- errors.New("not now")
	others.Wait()
	if times != 1 {
		t.Errorf("taken %d times", times)
	}
}

func TestNoFolderHasNothing(t *testing.T) {
	if left := taken(t, filepath.Join(t.TempDir(), "missing")); len(left) > 0 {
		t.Errorf("there is %q", left)
	}
}

func TestAFolderThatCannotBeMadeIsToldOf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); err == nil {
		t.Error("a file was taken for a folder")
	}
}

func TestTheFilesAreTheOwnersAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	l := open(t, dir)
	defer l.Close()
	for _, name := range append(files(t, dir), ".") {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, error %v", filepath.Ext(name), info.Mode(), err)
		}
	}
}

// A mapped file that somebody cuts off, or that the disk has no room for, faults.
func TestAFaultIsAnError(t *testing.T) {
	l := open(t, t.TempDir())
	defer l.Close()
	if err := os.Truncate(l.file.Name(), 0); err != nil {
		t.Fatal(err)
	}
	_, err := l.Write([]byte("a record"))
	if runtime.GOOS == "linux" && err == nil {
		t.Error("what is cut off was written to")
	}
	if len(l.free) != Slots && err != nil {
		t.Error("the slot is lost")
	}
}

func TestManyWriteAtATime(t *testing.T) {
	l := open(t, t.TempDir())
	defer l.Close()
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for j := range 500 {
				slot, err := l.Write(fmt.Appendf(nil, "%d-%d", i, j))
				if err != nil {
					t.Error(err)
					return
				}
				if j < 499 {
					l.Done(slot)
				}
			}
		})
	}
	all.Wait()
	left := taken(t, killed(t, l))
	for i := range 16 {
		if !slices.Contains(left, fmt.Sprintf("%d-499", i)) {
			t.Errorf("the last record of %d is lost", i)
		}
	}
}

func FuzzRecordsOfAFile(f *testing.F) {
	f.Add([]byte("a record"), []byte(nil), 3)
	f.Add(bytes.Repeat([]byte("x"), MaxSize), []byte{0xff, 0xff}, 0)
	f.Add([]byte{}, binary.BigEndian.AppendUint16(nil, MaxSize), 511)
	f.Fuzz(func(t *testing.T, record, noise []byte, at int) {
		decodeAll(noise) // which does not panic
		if len(record) == 0 || len(record) > MaxSize {
			return
		}
		content := make([]byte, 4*slotSize)
		copy(content[2*slotSize:], encode(nil, record))
		if found := decodeAll(content); len(found) != 1 || !bytes.Equal(found[0], record) {
			t.Errorf("%d records were found", len(found))
		}
		copy(content[2*slotSize:], encode(nil, record)[:min(max(at, 0), len(record))])
		copy(content, noise)
		for _, r := range decodeAll(content) {
			if len(r) > MaxSize {
				t.Error("a record is longer than its slot")
			}
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	l := open(b, b.TempDir())
	defer l.Close()
	record := make([]byte, 200)
	b.ReportAllocs()
	for b.Loop() {
		slot, err := l.Write(record)
		if err != nil {
			b.Fatal(err)
		}
		l.Done(slot)
	}
}
