package redistest

import (
	"fmt"
	"net"
	"strconv"
	"testing"
)

const (
	// replicaCount and sentinelCount are what [StartSentinel] starts besides a master.
	replicaCount  = 2
	sentinelCount = 3
	// quorum is how many Sentinels have to find that the master is away.
	quorum = sentinelCount/2 + 1
)

// Sentinel is a master with its replicas, and the Sentinels that watch over them.
type Sentinel struct {
	// Name is what the Sentinels call the master.
	Name string
	// Nodes have the data: the first is the master when all begins.
	Nodes []*Server
	// Sentinels watch over them. Two of the three are enough for a failover.
	Sentinels []*Server

	t testing.TB
}

// StartSentinel starts a master, two replicas and three Sentinels, and returns when
// all know each other. A master that does not answer for a second is
// replaced. The options are for the nodes.
func StartSentinel(t testing.TB, options ...string) *Sentinel {
	t.Helper()
	s := &Sentinel{t: t, Name: "gateway"}
	master := Start(t, options...)
	s.Nodes = append(s.Nodes, master)
	for range replicaCount {
		s.Nodes = append(s.Nodes, startReplicaOf(master, options))
	}
	for _, replica := range s.Nodes[1:] {
		await(t, "a replica in step", replica.inStep)
	}
	for range sentinelCount {
		s.Sentinels = append(s.Sentinels, s.startSentinel(master))
	}
	s.WaitOK()
	return s
}

func (s *Sentinel) startSentinel(master *Server) *Server {
	s.t.Helper()
	options := []string{
		fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d %d", s.Name, master.port, quorum),
		fmt.Sprintf("sentinel down-after-milliseconds %s 1000", s.Name),
		fmt.Sprintf("sentinel failover-timeout %s 3000", s.Name),
	}
	if master.password != "" {
		options = append(options, fmt.Sprintf("sentinel auth-pass %s %s", s.Name, master.password))
	}
	sentinel := prepare(s.t, options, "--sentinel")
	// Sentinels look at the nodes, and tell each other, more often than they do by
	// themselves, and a computer that is busy does not put them off for half a minute.
	sentinel.afterwards = []any{"SENTINEL", "DEBUG", "INFO-PERIOD", 500, "PUBLISH-PERIOD", 250, "PING-PERIOD", 250, "ASK-PERIOD", 250, "TILT-PERIOD", 1000}
	return sentinel.first()
}

// URLs are those of the Sentinels.
func (s *Sentinel) URLs() []string { return urls(s.Sentinels) }

func urls(servers []*Server) []string {
	all := make([]string, len(servers))
	for i, server := range servers {
		all[i] = server.URL()
	}
	return all
}

// Master returns the node that all Sentinels that run say is the master, as soon as
// they agree.
func (s *Sentinel) Master() (master *Server) {
	s.t.Helper()
	await(s.t, "the Sentinels to agree", func() (err error) {
		master, err = s.agreed()
		return err
	})
	return master
}

// KillMaster kills the master and returns it.
func (s *Sentinel) KillMaster() *Server {
	s.t.Helper()
	old := s.Master()
	old.Kill()
	return old
}

// WaitForFailover returns the master that has taken the place of old, as soon as it
// takes writes and all Sentinels that run name it.
func (s *Sentinel) WaitForFailover(old *Server) (master *Server) {
	s.t.Helper()
	await(s.t, "another master than "+old.Addr(), func() (err error) {
		if master, err = s.agreed(); err != nil {
			return err
		}
		if master == old {
			return fmt.Errorf("the master is %s still", old.Addr())
		}
		replication, err := master.info("replication")
		if err == nil && replication["role"] != "master" {
			err = fmt.Errorf("the next master %s is a %s", master.Addr(), replication["role"])
		}
		return err
	})
	return master
}

// WaitOK returns when every server that runs and is not frozen is one of the
// Sentinels that know of each other, or the master that they agree on, or its replica
// and in step.
func (s *Sentinel) WaitOK() {
	s.t.Helper()
	await(s.t, "master, replicas and Sentinels to be well", s.well)
}

func (s *Sentinel) well() error {
	master, err := s.agreed()
	if err != nil {
		return err
	}
	for _, sentinel := range awake(s.Sentinels) {
		if err := s.knows(sentinel, master); err != nil {
			return err
		}
	}
	for _, node := range awake(s.Nodes) {
		if node == master {
			continue
		}
		if err := node.inStep(); err != nil {
			return err
		}
	}
	return nil
}

// agreed returns the master that all Sentinels that run name.
func (s *Sentinel) agreed() (master *Server, err error) {
	for _, sentinel := range awake(s.Sentinels) {
		addr, err := pairs(sentinel.Command("SENTINEL", "MASTER", s.Name))
		if err != nil {
			return nil, err
		}
		named := byAddr(s.Nodes, net.JoinHostPort(addr["ip"], addr["port"]))
		if named == nil || master != nil && named != master {
			return nil, fmt.Errorf("%s names %s:%s as the master, others do not", sentinel.Addr(), addr["ip"], addr["port"])
		}
		master = named
	}
	if master == nil {
		return nil, fmt.Errorf("no Sentinel runs")
	}
	return master, nil
}

// knows tells why a Sentinel could not replace the master by any of the replicas.
func (s *Sentinel) knows(sentinel, master *Server) error {
	view, err := pairs(sentinel.Command("SENTINEL", "MASTER", s.Name))
	if err != nil {
		return err
	}
	if view["flags"] != "master" || view["num-other-sentinels"] != strconv.Itoa(len(s.Sentinels)-1) {
		return fmt.Errorf("%s finds the master %s, and knows of %s other Sentinels", sentinel.Addr(), view["flags"], view["num-other-sentinels"])
	}
	if _, err := sentinel.Command("SENTINEL", "CKQUORUM", s.Name); err != nil {
		return err
	}
	answer, err := sentinel.Command("SENTINEL", "REPLICAS", s.Name)
	if err != nil {
		return err
	}
	replicas, _ := answer.([]any)
	states := make(map[*Server]string)
	for _, replica := range replicas {
		fields, err := pairs(replica, nil)
		if err != nil {
			return err
		}
		states[byAddr(s.Nodes, net.JoinHostPort(fields["ip"], fields["port"]))] = fields["flags"] + " " + fields["master-link-status"]
	}
	for _, node := range awake(s.Nodes) {
		if state := states[node]; node != master && state != "slave ok" {
			return fmt.Errorf("%s finds the replica %s %q", sentinel.Addr(), node.Addr(), state)
		}
	}
	return nil
}

// pairs reads an answer of names and values in turn.
func pairs(answer any, err error) (map[string]string, error) {
	if err != nil {
		return nil, err
	}
	list, ok := answer.([]any)
	if !ok {
		return nil, fmt.Errorf("the answer is a %T", answer)
	}
	fields := make(map[string]string, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		fields[fmt.Sprint(list[i])] = fmt.Sprint(list[i+1])
	}
	return fields, nil
}

// awake are the servers that run and are not frozen.
func awake(servers []*Server) (those []*Server) {
	for _, s := range servers {
		if s.awake() {
			those = append(those, s)
		}
	}
	return those
}

// byAddr returns the server with an address, or nil.
func byAddr(servers []*Server, addr string) *Server {
	for _, s := range servers {
		if s.Addr() == addr {
			return s
		}
	}
	return nil
}
