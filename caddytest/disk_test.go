package caddytest

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// lockDatabase holds the write lock, as a shell with a forgotten transaction
// does, until undo is called.
func lockDatabase(t *testing.T, g *gateway) (undo func()) {
	db := g.open(t)
	t.Cleanup(func() { db.Close() })
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	return func() {
		if _, err := conn.ExecContext(t.Context(), "ROLLBACK"); err != nil {
			t.Error(err)
		}
	}
}

// failSettlements makes every capture and release fail until undo is called.
func failSettlements(t *testing.T, g *gateway) (undo func()) {
	// In the ledger's tail, a row that begins with a capture or a release.
	g.exec(t, `CREATE TRIGGER broken BEFORE INSERT ON ledger WHEN NEW.kind IN ('capture', 'release')
		BEGIN SELECT RAISE(FAIL, 'disk I/O error'); END`)
	g.exec(t, `CREATE TRIGGER broken_tail BEFORE INSERT ON ledger_tail WHEN hex(substr(NEW.records, 2, 1)) IN (hex('c'), hex('r'))
		BEGIN SELECT RAISE(FAIL, 'disk I/O error'); END`)
	return func() {
		g.exec(t, "DROP TRIGGER broken_tail")
		g.exec(t, "DROP TRIGGER broken")
	}
}

// The client gets its answer whether or not the store takes the outcome, which
// is written once it can be.
func TestAnOutcomeThatCannotBeWrittenIsWrittenLater(t *testing.T) {
	t.Parallel()
	const locked = "a capture, while the database is locked"
	const refusal = `{"error":{"message":"no","type":"OAuthException","code":100}}`
	for _, c := range []struct {
		name   string
		refuse func(*testing.T, *gateway) (undo func())
		answer script
		code   string
		want   fate
		reload bool
	}{
		{locked, lockDatabase, withJSON("200 OK", acceptance), "", captured, false},
		{"a capture that fails", failSettlements, withJSON("200 OK", acceptance), "", captured, false},
		{"a capture that fails, over a reload", failSettlements, withJSON("200 OK", acceptance), "", captured, true},
		{"a release that fails", failSettlements, withJSON("400 Bad Request", refusal), "GW_001", released, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			meta := startArrivals(t)
			s := settings{proxy: "reverse_proxy " + meta.address}
			g := startGateway(t, s)
			who := g.tenant(t, profile{})
			meta.hold(t, who, c.answer)
			wait := g.asynchronously(t, who.key, g.message(accepted))
			<-meta.arrived
			undo := c.refuse(t, g)
			<-meta.answer
			a, err := wait()
			if err != nil {
				t.Fatal(err)
			}
			a.wantCode(t, c.code)
			if c.name != locked { // when nobody can look
				if open := g.openHolds(t, who.account); len(open) != 1 {
					t.Errorf("%d holds are open", len(open))
				}
			}
			if c.reload {
				g.reload(t, s)
			}
			undo()
			g.awaitNoHolds(t, who)
			g.wantOutcomes(t, who, outcome{"the send", c.want})
			if ledger := g.ledger(t, who.account); ledger[len(ledger)-1].MessageID != a.messageID() {
				t.Errorf("settled for the message %q", ledger[len(ledger)-1].MessageID)
			}
		})
	}
}

// A process that ends does not wait for a store that has failed: what it knows is in the log
// that outlives it.
func TestAnOutcomeThatCannotBeWrittenBeforeTheExitIsWrittenAtTheNextStart(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	who := g.tenant(t, profile{})
	undo := failSettlements(t, g)
	a := g.send(t, who.key, g.message(accepted))
	a.wantCode(t, "")
	g.stop()
	undo()
	g.client.CloseIdleConnections()
	g.start(t)
	g.wantOutcomes(t, who, outcome{"the send", captured})
	if ledger := g.ledger(t, who.account); ledger[len(ledger)-1].MessageID != a.messageID() {
		t.Error("it is charged for no message")
	}
	g.send(t, who.key, g.message(accepted)).wantCode(t, "")
}

// disk is where a database is, and can be made full.
type disk struct {
	name, dir string
	// fill leaves room for a few messages more, empty makes room again.
	fill, empty func(*testing.T, *gateway)
}

// room is how much space a full disk has left when a test begins to fill it, in bytes.
const room = 256 << 10

// disks are a limit on the size of files, which any user may set, and a small
// file system where the test may mount one.
func disks(t *testing.T) []disk {
	limit := func(t *testing.T, g *gateway, size string) {
		t.Helper()
		pid := fmt.Sprint(g.running().cmd.Process.Pid)
		if out, err := exec.CommandContext(t.Context(), "prlimit", "--pid", pid, "--fsize="+size+":").CombinedOutput(); err != nil {
			t.Fatalf("prlimit: %v: %s", err, out)
		}
	}
	all := []disk{{
		name: "the largest file", dir: t.TempDir(),
		fill: func(t *testing.T, g *gateway) {
			wal, err := os.Stat(g.database + "-wal")
			if err != nil {
				t.Fatal(err)
			}
			limit(t, g, fmt.Sprint(wal.Size()+room))
		},
		empty: func(t *testing.T, g *gateway) { limit(t, g, "unlimited") },
	}}
	dir := t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16m")
	if errors.Is(err, syscall.EPERM) {
		return all
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	filler := filepath.Join(dir, "filler")
	return append(all, disk{
		name: "a small file system", dir: dir,
		fill: func(t *testing.T, _ *gateway) {
			var fs syscall.Statfs_t
			if err := syscall.Statfs(dir, &fs); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filler, make([]byte, int64(fs.Bavail)*fs.Bsize-room), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		empty: func(t *testing.T, _ *gateway) {
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
		},
	})
}

func TestAFullDiskIsBILL003AndLosesNothing(t *testing.T) {
	t.Parallel()
	for _, d := range disks(t) {
		t.Run(d.name, func(t *testing.T) {
			database := filepath.Join(d.dir, "gateway.db")
			g := newGateway(t, settings{app: "store sqlite " + database})
			g.database = database
			g.start(t)
			who := g.tenant(t, plenty)
			g.send(t, who.key, g.message(accepted)).wantCode(t, "")

			d.fill(t, g)
			sent, refused := 1, 0
			// The more clients there are, the more a commit writes: what is too much
			// for many may do for one, and a sandbox send writes least.
			for _, clients := range []int{8, 1} {
				load := g.startLoad(t, g.client, who, repeat(clients, g.message(accepted))...)
				eventually(t, "the disk to be full", func() error {
					if n := load.with(http.StatusInternalServerError); n < 20*clients {
						return fmt.Errorf("%d of %d answers are of that", n, load.count())
					}
					return nil
				})
				load.stop()
				sent, refused = sent+load.with(http.StatusOK), refused+load.with(http.StatusInternalServerError)
				if load.unanswered > 0 || load.with(http.StatusOK)+load.with(http.StatusInternalServerError) != load.count() {
					t.Errorf("answers %v, %d sends without", load.answers, load.unanswered)
				}
			}
			g.send(t, who.key, g.message(accepted)).want(t, http.StatusInternalServerError, bill003)
			g.sendUntil(t, http.StatusInternalServerError, who.key, g.message(accepted), "is_fake=true").
				want(t, http.StatusInternalServerError, bill003)
			if got := g.tally(t).sends(who); got != sent {
				t.Errorf("%d messages have reached Meta, %d were answered", got, sent)
			}

			d.empty(t, g)
			g.sendUntil(t, http.StatusOK, who.key, g.message(accepted))
			g.awaitNoHolds(t, who)
			a := g.audit(t, g, who)
			t.Logf("%d sent before the disk was full, %d refused, %d captured in the end", sent, refused, a.captured)
			if a.accepted != sent+1 || a.captured != sent+1 {
				t.Errorf("%d sent: %+v", sent+1, a)
			}
		})
	}
}
