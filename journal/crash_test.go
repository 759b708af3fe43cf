package journal

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// The test binary runs itself as another process, in one of the roles.
const (
	roleVariable   = "JOURNAL_TEST_ROLE"
	folderVariable = "JOURNAL_TEST_FOLDER"
)

// roles get the journal's folder and return the exit code.
var roles = map[string]func(dir string) int{"append": appendUntilKilled, "fill": fillDisk}

func process(t *testing.T, role, dir string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+role, folderVariable+"="+dir)
	cmd.Stderr = os.Stderr
	return cmd
}

// appendUntilKilled says of every record that it is kept, once it is.
func appendUntilKilled(dir string) int {
	j, err := Open(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var said sync.Mutex
	for g := range 8 {
		go func() {
			for n := 0; ; n++ {
				body := fmt.Sprintf("%d %d %d", os.Getpid(), g, n)
				if err := j.Append(context.Background(), Record{Kind: "k", Body: []byte(body)}); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				said.Lock()
				fmt.Println(body)
				said.Unlock()
			}
		}()
	}
	select {}
}

func TestWhatWasAppendedOutlastsAKill(t *testing.T) {
	dir := t.TempDir()
	witness := open(t, dir) // another process that has it open
	var kept []string
	for round := range 5 {
		cmd := process(t, "append", dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			kept = append(kept, lines.Text())
			if n == 100*(round+1) {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("the process ended by itself: %v", err)
		}
		if round == 2 { // from here on, each kill leaves the file to nobody
			if err := witness.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	// What was put in last in each process may be there without having been said.
	place := make(map[string]int)
	for i, body := range drain(t, open(t, dir)) {
		place[body] = i
	}
	last := make(map[string]int)
	for _, body := range kept {
		at, ok := place[body]
		if !ok {
			t.Fatalf("%s was kept and is gone", body)
		}
		writer := body[:strings.LastIndexByte(body, ' ')]
		if before, ok := last[writer]; ok && at <= before {
			t.Fatalf("%s is not in its order", body)
		}
		last[writer] = at
	}
	t.Logf("%d were kept before the kills, %d are there", len(kept), len(place))
}

// fillDisk appends until files may not grow, which is what a full disk looks like,
// and then with room again.
func fillDisk(dir string) int {
	if err := fillAndEmptyDisk(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func fillAndEmptyDisk(dir string) error {
	ctx := context.Background()
	j, err := Open(dir)
	if err != nil {
		return err
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	setLimit := func(size uint64) error {
		return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: size, Max: limit.Max})
	}
	if err := setLimit(4 << 20); err != nil {
		return err
	}
	body := bytes.Repeat([]byte("x"), 10_000)
	kept, refused := 0, 0
	put := func() error {
		err := j.Append(ctx, Record{Kind: "k", Body: fmt.Appendf(nil, "%d %s", kept, body)})
		if err == nil {
			kept++
		} else {
			refused++
		}
		return err
	}
	for refused < 20 {
		if err := put(); err != nil && !strings.Contains(err.Error(), j.path) {
			return fmt.Errorf("the error does not name the file: %w", err)
		}
		if kept > 10_000 {
			return errors.New("the disk does not become full")
		}
	}
	if n, err := j.Len(ctx); err != nil || n != kept || j.Waiting() != int64(kept) {
		return fmt.Errorf("%d records on a full disk, %v, want %d", n, err, kept)
	}
	if err := setLimit(limit.Cur); err != nil {
		return err
	}
	for range 20 {
		if err := put(); err != nil {
			return fmt.Errorf("with room again: %w", err)
		}
	}
	fmt.Println(kept)
	return j.Close()
}

func TestAFullDiskRefusesAndKeepsWhatItHas(t *testing.T) {
	dir := t.TempDir()
	out, err := process(t, "fill", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	var kept int
	if _, err := fmt.Sscan(string(out), &kept); err != nil {
		t.Fatal(err)
	}
	bodies := drain(t, open(t, dir))
	if len(bodies) != kept || kept < 30 {
		t.Fatalf("%d records, want %d", len(bodies), kept)
	}
	for i, body := range bodies {
		if !strings.HasPrefix(body, fmt.Sprintf("%d x", i)) || !strings.HasSuffix(body, "x") {
			t.Fatalf("record %d is another", i)
		}
	}
}

func TestAFailedCommitLeavesNothing(t *testing.T) {
	j := open(t, t.TempDir())
	add(t, j, "a")
	failure := errors.New("the disk fails")
	err := j.do(t.Context(), &operation{apply: func(w *writer) error {
		if _, err := w.insert.Exec("k", []byte("b"), 0); err != nil {
			t.Error(err)
		}
		return failure
	}})
	if !errors.Is(err, failure) {
		t.Fatal(err)
	}
	wantLen(t, j, 1)
	add(t, j, "c")
	wantBodies(t, next(t, j, 10), "a", "c")
}

func diskUse(t *testing.T, dir string) (size int64) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	return size
}

func TestTheFileDoesNotKeepItsLargestSize(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	other := open(t, dir)
	large := strings.Repeat("x", 100_000)
	for round := range 3 {
		add(t, j, "poison")
		for range 200 {
			add(t, j, large)
		}
		peak := diskUse(t, dir)
		poison := next(t, j, 1)[0]
		if err := j.Fail(t.Context(), poison.ID, "stays"); err != nil {
			t.Fatal(err)
		}
		if n := len(drain(t, j)); n != 200 {
			t.Fatalf("%d records", n)
		}
		if err := j.Done(t.Context(), 1<<40); err != nil { // the writer has its turn once more
			t.Fatal(err)
		}
		if left := diskUse(t, dir); peak < 20_000_000 || left > 1_000_000 {
			t.Errorf("round %d: %d bytes are left of %d", round, left, peak)
		}
		wantLen(t, j, round+1)
	}
	add(t, other, "b")
	wantBodies(t, next(t, j, 10), "b")
}

func TestADamagedFileIsNamedAndLeftAlone(t *testing.T) {
	whole := t.TempDir()
	j := open(t, whole)
	for range 200 {
		add(t, j, strings.Repeat("x", 1_000))
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(whole, "journal.db"))
	if err != nil {
		t.Fatal(err)
	}
	overwritten := bytes.Clone(file)
	for i := 4_096; i < len(file)-4_096; i++ {
		overwritten[i] = byte(i * 7)
	}
	onePage := bytes.Clone(file)
	copy(onePage[len(file)/2/4_096*4_096:], bytes.Repeat([]byte{0xff}, 4_096))
	for name, content := range map[string][]byte{
		"one page":             onePage,
		"another kind of file": []byte(strings.Repeat("this is no database\n", 500)),
		"cut off":              file[:len(file)/2],
		"overwritten":          overwritten,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "journal.db")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), path) || !errors.Is(err, errDamaged) {
				t.Errorf("opened: %v", err)
			}
			if left, err := os.ReadFile(path); err != nil || !bytes.Equal(left, content) {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
}

func TestOtherFilesAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"of another program": {"PRAGMA application_id = 1; CREATE TABLE t (x)", "another program"},
		"of a newer release": {"PRAGMA user_version = 1000", "newer release"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j := open(t, dir)
			if err := j.do(t.Context(), &operation{apply: func(w *writer) error { return w.exec(c.script) }}); err != nil {
				t.Fatal(err)
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("opened: %v", err)
			}
		})
	}
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(blocked); err == nil || !strings.Contains(err.Error(), blocked) {
		t.Errorf("a file in place of the folder: %v", err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "journal.db"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a folder in place of the file: %v", err)
	}
}
