package caddytest

import (
	"database/sql"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
)

// Webhooks that come while Redis is away are taken, kept over the ends of processes,
// and delivered in their order.
func TestWebhooksWaitForRedis(t *testing.T) {
	t.Parallel()
	const before, after = 12, 8
	server := redistest.Start(t)
	meta := startArrivals(t)
	s := settings{common: onFailing(server), proxy: "reverse_proxy " + meta.address, handler: "upstream_timeout 20s"}.
		withWebhooks("concurrency 1 1", "retry 1s 1s 1s 1s 1s")
	g := startGateway(t, s)
	endpoint := startReceiver(t)
	who := g.tenant(t, profile{endpoint: endpoint, events: "messages"})
	// A send that is in doubt: Meta has read it and does not answer.
	meta.play(who, reset)
	g.send(t, who.key, g.message(accepted)).wantCode(t, "GW_001")
	open := g.openHolds(t, who.account)
	if len(open) != 1 {
		t.Fatalf("%d holds are open", len(open))
	}
	server.Kill()

	var want []string
	report := func(n int) {
		var longest time.Duration
		for range n {
			body := notification(who.waba, g.userMessage(who))
			began := time.Now()
			g.report(t, body)
			longest = max(longest, time.Since(began))
			want = append(want, body)
		}
		t.Logf("webhooks were acknowledged after %v at most", longest.Round(time.Millisecond))
	}
	report(before)
	for id := range open {
		g.report(t, notification(who.waba, statuses(who, status("wamid.doubt", "sent", g.recipient(accepted), callback("hold_"+id)))))
	}
	g.kill()
	g.client.CloseIdleConnections()
	g.start(t)
	report(after)
	server.Start()

	got := make([]string, 0, len(want))
	for _, d := range endpoint.await(t, len(want)) {
		got = append(got, d.body)
	}
	if !slices.Equal(got, want) {
		for i := range got {
			if place := slices.Index(want, got[i]); place != i {
				t.Errorf("delivery %d is webhook %d", i+1, place+1)
			}
		}
	}
	g.awaitSettled(t, who, 1)
	g.awaitDelivered(t)
	eventually(t, "the journal to be empty", func() error {
		if n := g.metric(t, "journal_records"); n != 0 {
			return fmt.Errorf("%v records are left", n)
		}
		return nil
	})
	if attempts, _ := endpoint.counted(); attempts != len(want) {
		t.Errorf("%d deliveries of %d webhooks", attempts, len(want))
	}
}

// What can neither be stored nor journaled is not acknowledged, and Meta repeats it.
func TestAWebhookThatNobodyCanKeepIsWH004(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := onFailing(server)
	journal := t.TempDir()
	c.redis = append(c.redis, "journal "+journal)
	g := startGateway(t, settings{common: c}.withWebhooks())
	endpoint := startReceiver(t)
	who := g.tenant(t, profile{endpoint: endpoint})
	db, err := sql.Open("sqlite", "file:"+filepath.Join(journal, "journal.db")+"?_pragma=busy_timeout(30000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	change := func(statement string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	change("CREATE TRIGGER broken BEFORE INSERT ON records BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
	server.Kill()
	body := notification(who.waba, g.userMessage(who))
	began := time.Now()
	g.doWebhook(t, g.webhook(t, body)).want(t, http.StatusInternalServerError, wh004)
	t.Logf("WH_004 after %v", time.Since(began).Round(time.Millisecond))
	change("DROP TRIGGER broken")
	g.report(t, body)
	server.Start()
	endpoint.one(t)
	g.awaitDelivered(t)
}
