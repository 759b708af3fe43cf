package redis

import (
	"errors"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
)

// Nothing that was not asked may look like an answer that there is nothing.
func TestCommandsWithoutAConnectionHaveAnError(t *testing.T) {
	server := redistest.Start(t, "requirepass right")
	cluster := redistest.StartCluster(t, "requirepass right")
	clients := map[string]goredis.UniversalClient{
		"one": goredis.NewClient(&goredis.Options{Addr: server.Addr(), Password: "wrong", MaxRetries: -1}),
		"cluster": goredis.NewClusterClient(&goredis.ClusterOptions{
			Addrs: []string{cluster.Nodes[0].Addr()}, Password: "wrong", MaxRetries: -1,
		}),
	}
	for name, client := range clients {
		t.Cleanup(func() { client.Close() })
		if cluster, ok := client.(*goredis.ClusterClient); ok {
			cluster.OnNewNode(func(node *goredis.Client) { node.AddHook(watch{}) })
		} else {
			client.AddHook(watch{})
		}
		pipe := client.Pipeline()
		get, script := pipe.Get(t.Context(), "a"), pipe.Eval(t.Context(), "return nil", []string{"b"})
		execute(t.Context(), pipe)
		for _, err := range []error{get.Err(), script.Err()} {
			if err == nil || errors.Is(err, goredis.Nil) || answered(err) {
				t.Errorf("%s: a command that was not sent is answered %v", name, err)
			}
			if !hasCode(err, refusals) {
				t.Errorf("%s: the error does not say why: %v", name, err)
			}
		}
	}
	wrong := testOptions(t, "single", "", server.URL())
	wrong.Connection.Password = "wrong"
	s := open(t, wrong)
	if apps, err := s.AppsWithNumber(t.Context(), "1"); err == nil {
		t.Errorf("AppsWithNumber without a connection: %v and no error", apps)
	}
	if _, err := s.Backlog(t.Context()); !errors.As(err, new(awayError)) {
		t.Errorf("Backlog without a connection: %v, want an error that says that redis is away", err)
	}
}
