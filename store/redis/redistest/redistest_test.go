package redistest_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// want fails the test unless s answers a command with want.
func want(t *testing.T, s *redistest.Server, want any, command ...any) {
	t.Helper()
	got, err := s.Command(command...)
	if err != nil {
		t.Fatalf("%v on %s: %v", command, s.Addr(), err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%v on %s (-want +got):\n%s", command, s.Addr(), diff)
	}
}

func TestDataOutlivesItsServer(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	before := s.URL()
	want(t, s, "OK", "SET", "k", "killed")
	s.Kill()
	if _, err := s.Command("PING"); err == nil {
		t.Error("a killed server answers")
	}
	s.Start()
	want(t, s, "killed", "GET", "k")
	want(t, s, "OK", "SET", "k", "stopped")
	s.Stop()
	s.Start()
	want(t, s, "stopped", "GET", "k")
	if s.URL() != before {
		t.Errorf("%s has become %s", before, s.URL())
	}
}

func TestOptionsAndPassword(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, "--maxmemory 10mb", "requirepass hunter2", "appendfsync everysec")
	want(t, s, []any{"maxmemory", "10485760"}, "CONFIG", "GET", "maxmemory")
	want(t, s, []any{"appendfsync", "everysec"}, "CONFIG", "GET", "appendfsync")
	options, err := redis.ParseURL(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	for password, works := range map[string]bool{options.Password: true, "": false} {
		options.Password = password
		client := redis.NewClient(options)
		if err := client.Ping(t.Context()).Err(); (err == nil) != works {
			t.Errorf("with the password %q: %v", password, err)
		}
		client.Close()
	}
}

func TestOnlyItsOwnRootsTrustAServerWithTLS(t *testing.T) {
	t.Parallel()
	s := redistest.StartTLS(t)
	options, err := redis.ParseURL(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	ping := func(roots *x509.CertPool) error {
		options.TLSConfig.RootCAs = roots
		client := redis.NewClient(options)
		defer client.Close()
		return client.Ping(t.Context()).Err()
	}
	if err := ping(s.Roots()); err != nil {
		t.Errorf("with its own roots: %v", err)
	}
	if err := ping(x509.NewCertPool()); !errors.As(err, new(x509.UnknownAuthorityError)) {
		t.Errorf("without roots: %v", err)
	}
	text, err := os.ReadFile(s.CertificateFile())
	if err != nil || !x509.NewCertPool().AppendCertsFromPEM(text) {
		t.Errorf("the file of the certificate: %v\n%s", err, text)
	}
}

func TestFrozenServerAnswersLater(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s.Freeze()
	if _, err := io.WriteString(conn, "SET k v\r\n"); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, len("+OK\r\n"))
	conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := conn.Read(answer); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the frozen server answers %q (%v)", answer[:n], err)
	}
	s.Thaw()
	conn.SetReadDeadline(time.Time{})
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "+OK\r\n" {
		t.Fatalf("the thawed server answers %q (%v)", answer, err)
	}
	want(t, s, "v", "GET", "k")
	for _, end := range []func(){s.Kill, s.Stop} {
		s.Freeze()
		end()
		s.Start()
		want(t, s, "v", "GET", "k")
	}
	s.Freeze() // and the test's end is no trouble
}

func TestCommandStatsCountCommands(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	script := "return redis.call('GET', KEYS[1])"
	sha, err := s.Command("SCRIPT", "LOAD", script)
	if err != nil {
		t.Fatal(err)
	}
	s.ResetCommandStats()
	want(t, s, "OK", "SET", "k", "v")
	want(t, s, "v", "GET", "k")
	want(t, s, "v", "EVALSHA", sha, 1, "k")
	got := s.CommandStats()
	for _, own := range []string{"hello", "config|resetstat", "config"} { // before Redis 7 there are no subcommands
		delete(got, own)
	}
	if diff := cmp.Diff(map[string]int64{"set": 1, "get": 2, "evalsha": 1}, got); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	s.FlushScripts()
	if _, err := s.Command("EVALSHA", sha, 1, "k"); !redis.HasErrorPrefix(err, "NOSCRIPT") {
		t.Errorf("a script that was flushed: %v", err)
	}
}

func TestReplicaHasWhatItsMasterHas(t *testing.T) {
	t.Parallel()
	master, replica := redistest.StartReplicated(t, "requirepass hunter2")
	want(t, master, "OK", "SET", "k", "v")
	want(t, master, int64(1), "WAIT", 1, 0)
	want(t, replica, "v", "GET", "k")
	if _, err := replica.Command("SET", "k", "w"); !redis.HasErrorPrefix(err, "READONLY") {
		t.Errorf("writing to the replica: %v", err)
	}
}

func TestSentinelsReplaceAMaster(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinel(t)
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: s.Name, SentinelAddrs: addrs(s.Sentinels)})
	defer client.Close()
	if err := client.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	want(t, s.Master(), int64(2), "WAIT", 2, 0)
	old := s.KillMaster()
	master := s.WaitForFailover(old)
	want(t, master, "OK", "SET", "k", "w")
	want(t, master, int64(1), "WAIT", 1, 0)
	old.Start()
	s.WaitOK()
	want(t, old, "w", "GET", "k")
	if s.Master() != master {
		t.Errorf("%s is the master, not %s", s.Master().Addr(), master.Addr())
	}
	if len(s.URLs()) != 3 {
		t.Errorf("the Sentinels are %q", s.URLs())
	}
}

func TestClusterReplacesAMaster(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs(c.Nodes)})
	defer client.Close()
	masters := make(map[*redistest.Server]bool)
	for i := range 16 {
		key := fmt.Sprintf("{%d}", i)
		if err := client.Set(t.Context(), key, "v", 0).Err(); err != nil {
			t.Fatal(err)
		}
		masters[c.MasterOf(key)] = true
		want(t, c.MasterOf(key), "v", "GET", key)
	}
	if len(masters) != 3 {
		t.Errorf("%d masters have the keys", len(masters))
	}
	old, replica := c.MasterOf("{7}"), c.ReplicaOf("{7}")
	want(t, old, int64(1), "WAIT", 1, 0)
	old.Freeze()
	master := c.WaitForFailover("{7}", old)
	if master != replica {
		t.Errorf("%s has taken the place of %s, and not its replica %s", master.Addr(), old.Addr(), replica.Addr())
	}
	want(t, master, "v", "GET", "{7}")
	old.Thaw()
	c.WaitOK()
	if c.MasterOf("{7}") != master || c.ReplicaOf("{7}") != old {
		t.Error("the thawed master is not the replica of its successor")
	}
	master.Kill()
	if next := c.WaitForFailover("{7}", master); next != old {
		t.Errorf("%s has taken the place of %s", next.Addr(), master.Addr())
	}
	want(t, old, "v", "GET", "{7}")
}

// addrs are the addresses of servers.
func addrs(servers []*redistest.Server) (all []string) {
	for _, s := range servers {
		all = append(all, s.Addr())
	}
	return all
}
