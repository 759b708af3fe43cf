package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

const (
	// masterCount masters have a replica each.
	masterCount = 3
	slotCount   = 16384
)

// Cluster is a Redis Cluster of three masters with a replica each.
type Cluster struct {
	// Nodes are all of them: when all begins, the first three are the masters, in
	// the order of their slots, and the last three their replicas in the same order.
	Nodes []*Server

	t testing.TB
}

// StartCluster starts a Cluster and returns when it serves all slots and the replicas
// have what their masters have. A master that does not answer for a second is
// replaced. The options are for all nodes.
func StartCluster(t testing.TB, options ...string) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	for range 2 * masterCount {
		c.Nodes = append(c.Nodes, newServer(t, append(append(durable(),
			"cluster-enabled yes",
			"cluster-node-timeout 1000",
			// A replica is never too far behind to be promoted.
			"cluster-replica-validity-factor 0",
		), options...)))
	}
	ids := make([]string, len(c.Nodes))
	for i, node := range c.Nodes {
		if err := c.introduce(i, node, &ids[i]); err != nil {
			t.Fatalf("making %s part of a Cluster: %v\n%s", node.Addr(), err, node.lastWords())
		}
	}
	for i, replica := range c.Nodes[masterCount:] {
		await(t, "a replica to know its master", func() error {
			_, err := replica.Command("CLUSTER", "REPLICATE", ids[i])
			return err
		})
	}
	c.WaitOK()
	return c
}

// introduce gives a node its epoch, its slots if it is to be a master, and everyone
// who came before it to meet.
func (c *Cluster) introduce(i int, node *Server, id *string) error {
	return node.use(commandTimeout, func(ctx context.Context, client *redis.Client) (err error) {
		if *id, err = client.Do(ctx, "CLUSTER", "MYID").Text(); err != nil {
			return err
		}
		if err := client.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(); err != nil {
			return err
		}
		if i < masterCount {
			if err := client.ClusterAddSlotsRange(ctx, i*slotCount/masterCount, (i+1)*slotCount/masterCount-1).Err(); err != nil {
				return err
			}
		}
		for _, other := range c.Nodes[:i] {
			if err := client.ClusterMeet(ctx, "127.0.0.1", strconv.Itoa(other.port)).Err(); err != nil {
				return err
			}
		}
		return nil
	})
}

// URLs are those of all nodes.
func (c *Cluster) URLs() []string { return urls(c.Nodes) }

// MasterOf returns the master of a key's slot, as soon as all nodes that run agree
// on it. It may be one that has been killed and not replaced yet.
func (c *Cluster) MasterOf(key string) (master *Server) {
	c.t.Helper()
	await(c.t, "the nodes to agree", func() (err error) {
		master, err = c.agreed(key)
		return err
	})
	return master
}

// ReplicaOf returns the replica of the master of a key's slot.
func (c *Cluster) ReplicaOf(key string) (replica *Server) {
	c.t.Helper()
	await(c.t, "a replica for "+key, func() error {
		node, err := c.agreed(key)
		if err != nil {
			return err
		}
		replication, err := node.info("replication")
		if err != nil {
			return err
		}
		_, port, _ := strings.Cut(replication["slave0"], "port=")
		port, _, _ = strings.Cut(port, ",")
		if replica = byAddr(c.Nodes, "127.0.0.1:"+port); replica == nil {
			return fmt.Errorf("%s has none", node.Addr())
		}
		return nil
	})
	return replica
}

// WaitForFailover returns the master of a key's slot that has taken the place of old,
// as soon as all nodes that run agree on it and serve all slots.
func (c *Cluster) WaitForFailover(key string, old *Server) (master *Server) {
	c.t.Helper()
	await(c.t, "another master than "+old.Addr(), func() (err error) {
		if master, err = c.agreed(key); err != nil {
			return err
		}
		if master == old {
			return fmt.Errorf("the master is %s still", old.Addr())
		}
		for _, node := range awake(c.Nodes) {
			if err := serves(node); err != nil {
				return err
			}
		}
		return nil
	})
	return master
}

// WaitOK returns when every node that runs and is not frozen finds that all slots are
// served and that nobody else who runs is away, and every replica among them is in step.
func (c *Cluster) WaitOK() {
	c.t.Helper()
	await(c.t, "the Cluster to be well", c.well)
}

func (c *Cluster) well() error {
	for _, node := range awake(c.Nodes) {
		if err := serves(node); err != nil {
			return err
		}
		replication, err := node.info("replication")
		if err != nil {
			return err
		}
		if replication["role"] == "slave" {
			if err := node.inStep(); err != nil {
				return err
			}
		}
		if err := c.acquainted(node); err != nil {
			return err
		}
	}
	return nil
}

// serves tells why a node does not find that all slots are served.
func serves(node *Server) error {
	answer, err := node.Command("CLUSTER", "INFO")
	if err != nil {
		return err
	}
	fields := parseFields(fmt.Sprint(answer))
	if fields["cluster_state"] != "ok" || fields["cluster_slots_ok"] != strconv.Itoa(slotCount) {
		return fmt.Errorf("%s finds that the state is %q, and %s slots are served", node.Addr(), fields["cluster_state"], fields["cluster_slots_ok"])
	}
	return nil
}

// acquainted tells why a node does not know who else runs. A line of CLUSTER NODES
// has an id, an address, flags, the master's id, three numbers and the link's state.
func (c *Cluster) acquainted(node *Server) error {
	answer, err := node.Command("CLUSTER", "NODES")
	if err != nil {
		return err
	}
	found := make(map[*Server]bool)
	for line := range strings.Lines(fmt.Sprint(answer)) {
		fields := strings.Fields(line)
		if len(fields) < 8 {
			return fmt.Errorf("%s describes a node in %d words", node.Addr(), len(fields))
		}
		addr, _, _ := strings.Cut(fields[1], "@")
		flags := strings.TrimPrefix(fields[2], "myself,")
		found[byAddr(c.Nodes, addr)] = (flags == "master" || flags == "slave") && fields[7] == "connected"
	}
	for _, other := range awake(c.Nodes) {
		if !found[other] {
			return fmt.Errorf("%s does not know %s well", node.Addr(), other.Addr())
		}
	}
	return nil
}

// agreed returns the node that all that run say is the master of a key's slot.
func (c *Cluster) agreed(key string) (master *Server, err error) {
	for _, node := range awake(c.Nodes) {
		named, err := c.masterAs(node, key)
		if err != nil {
			return nil, err
		}
		if master != nil && named != master {
			return nil, errors.New("the nodes do not agree on a master")
		}
		master = named
	}
	if master == nil {
		return nil, errors.New("no node runs")
	}
	return master, nil
}

// masterAs returns whom a node takes for the master of a key's slot.
func (c *Cluster) masterAs(node *Server, key string) (*Server, error) {
	slot, err := node.Command("CLUSTER", "KEYSLOT", key)
	if err != nil {
		return nil, err
	}
	answer, err := node.Command("CLUSTER", "SLOTS")
	if err != nil {
		return nil, err
	}
	wanted, _ := slot.(int64)
	ranges, _ := answer.([]any)
	for _, r := range ranges {
		first, last, addr, err := parseRange(r)
		if err != nil {
			return nil, err
		}
		if first <= wanted && wanted <= last {
			if master := byAddr(c.Nodes, addr); master != nil {
				return master, nil
			}
		}
	}
	return nil, fmt.Errorf("%s knows of no master of slot %d", node.Addr(), wanted)
}

// parseRange reads one of the answers of CLUSTER SLOTS: the first slot, the last,
// and the nodes that have them, of which the master comes first.
func parseRange(answer any) (first, last int64, addr string, err error) {
	if fields, ok := answer.([]any); ok && len(fields) > 2 {
		from, isFrom := fields[0].(int64)
		to, isTo := fields[1].(int64)
		node, isNode := fields[2].([]any)
		if isFrom && isTo && isNode && len(node) > 1 {
			return from, to, net.JoinHostPort(fmt.Sprint(node[0]), fmt.Sprint(node[1])), nil
		}
	}
	return 0, 0, "", fmt.Errorf("%v are no slots", answer)
}
