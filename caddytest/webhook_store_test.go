package caddytest

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// An endpoint that does not answer keeps neither Meta waiting nor anybody else's
// events.
func TestAcknowledgingDoesNotWaitForEndpoints(t *testing.T) {
	t.Parallel()
	// Nothing of this test is over by itself.
	g := startGateway(t, settings{}.withWebhooks("timeout 5m"))
	slow, healthy := startReceiver(t), startReceiver(t)
	var hanging atomic.Int64
	release := make(chan struct{})
	slow.answerWith(func(d delivered) reply {
		hanging.Add(1)
		defer hanging.Add(-1)
		select {
		case <-release:
			return reply{}
		case <-d.gone:
			t.Error("a delivery was given up")
			return reply{status: http.StatusInternalServerError}
		}
	})
	held, other := g.tenant(t, profile{endpoint: slow}), g.tenant(t, profile{endpoint: healthy})
	own, neighbours := g.userMessage(held), g.userMessage(other)
	const events, atOnce = 50, 16 // by default
	for i := range events {
		g.report(t, notification(held.waba, own))
		g.report(t, notification(other.waba, neighbours))
		healthy.await(t, i+1)
	}
	slow.awaitAttempts(t, atOnce)
	// All were acknowledged while none of these had an answer.
	if n := hanging.Load(); n != atOnce {
		t.Errorf("%d deliveries are under way, want %d", n, atOnce)
	}
	if _, taken := slow.counted(); taken != 0 {
		t.Errorf("%d were answered", taken)
	}
	close(release)
	slow.await(t, events)
	g.awaitDelivered(t)
}

// A stop does not wait for an endpoint longer than for an attempt, and what was
// not delivered is delivered by the next process.
func TestWhatIsNotDeliveredIsDeliveredAfterARestart(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*gateway){"stop": (*gateway).stop, "kill": (*gateway).kill} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := startGateway(t, settings{}.withWebhooks("timeout 1s", "retry 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s"))
			endpoint := startReceiver(t)
			who := g.tenant(t, profile{endpoint: endpoint})
			endpoint.answerWith(hang)
			g.report(t, notification(who.waba, g.userMessage(who)))
			first := endpoint.awaitAttempts(t, 1)[0]
			end(g)
			endpoint.answerAlways(http.StatusOK)
			g.client.CloseIdleConnections()
			g.start(t)
			if d := endpoint.one(t); d.id != first.id || d.attempt < 2 {
				t.Errorf("delivered was %s and not %s", d.id, first.id)
			}
			g.awaitDelivered(t)
		})
	}
}

// A webhook is stored as a whole or not at all, with what it means for the wallets.
func TestAWebhookThatCannotBeStoredIsWH004(t *testing.T) {
	t.Parallel()
	for name, failing := range map[string]string{
		"events":         "CREATE TRIGGER broken BEFORE INSERT ON outbox_recent BEGIN SELECT RAISE(FAIL, 'disk is full'); END",
		"the last event": "CREATE TRIGGER broken BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'disk is full'); END",
		"the ledger":     "CREATE TRIGGER broken BEFORE INSERT ON ledger WHEN NEW.kind = 'template_fee' BEGIN SELECT RAISE(FAIL, 'disk is full'); END",
		"accounts":       "CREATE TRIGGER broken BEFORE UPDATE ON accounts BEGIN SELECT RAISE(ROLLBACK, 'disk is full'); END",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := startGateway(t, settings{}.withWebhooks().withPrices(t))
			endpoint := startReceiver(t)
			p := rich
			p.endpoint = endpoint
			who := g.tenant(t, p)
			m := g.sendTemplate(t, who, g.recipient(accepted))
			body := notification(who.waba, g.userMessage(who), statuses(who, m.status("delivered", priced(true, "marketing"))), g.longMessage(who))
			g.wantFees(t, who, map[string]int64{}) // which has the send entered in the ledger
			g.exec(t, failing)
			a := g.doWebhook(t, g.webhook(t, body))
			a.want(t, http.StatusInternalServerError, wh004)
			if _, own := g.logged(t, a); len(own) != 1 || own[0].Code != "WH_004" || own[0].Message != "webhook not stored" {
				t.Errorf("logged: %+v", own)
			}
			g.wantFees(t, who, map[string]int64{})
			g.exec(t, "DROP TRIGGER broken")
			if kept := g.stored(t); len(kept) != 0 {
				t.Errorf("%d events were stored", len(kept))
			}
			g.report(t, body) // as Meta does
			endpoint.await(t, 3)
			g.awaitDelivered(t)
			if attempts, _ := endpoint.counted(); attempts != 3 {
				t.Errorf("%d deliveries", attempts)
			}
			g.wantFees(t, who, map[string]int64{m.id: marketingFee})
		})
	}
}

// Apps that cannot be read are no reason to drop what is for them.
func TestAWebhookWhoseAppsCannotBeReadIsWH004(t *testing.T) {
	t.Parallel()
	g, endpoint, who := startWithEndpoint(t)
	body := notification(who.waba, g.userMessage(who))
	g.exec(t, "ALTER TABLE apps RENAME TO misplaced")
	g.doWebhook(t, g.webhook(t, body)).want(t, http.StatusInternalServerError, wh004)
	g.exec(t, "ALTER TABLE misplaced RENAME TO apps")
	eventually(t, "the webhook to be stored", func() error {
		if a := g.doWebhook(t, g.webhook(t, body)); a.status != http.StatusOK {
			return fmt.Errorf("status %d", a.status)
		}
		return nil
	})
	endpoint.one(t)
}

// What Meta has said counts whether or not it waits for the answer.
func TestAWebhookIsStoredThoughMetaHasGone(t *testing.T) {
	t.Parallel()
	g, endpoint, who := startWithEndpoint(t)
	body := notification(who.waba, g.userMessage(who))
	undo := lockDatabase(t, g) // so that it cannot be stored before
	conn := g.dial(t, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nX-Hub-Signature-256: %s\r\nContent-Length: %d\r\n\r\n%s",
		webhookPath, g.site, signed(g.appSecret, body), len(body), body))
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	undo()
	endpoint.one(t)
	g.awaitDelivered(t)
}

// A program that holds the database's write lock does not make Meta wait for ever.
func TestADatabaseLockedForLongIsWH004(t *testing.T) {
	t.Parallel()
	g, endpoint, who := startWithEndpoint(t)
	body := notification(who.waba, g.userMessage(who))
	undo := lockDatabase(t, g)
	g.doWebhook(t, g.webhook(t, body)).want(t, http.StatusInternalServerError, wh004)
	undo()
	eventually(t, "the webhook to be stored", func() error {
		if a := g.doWebhook(t, g.webhook(t, body)); a.status != http.StatusOK {
			return fmt.Errorf("status %d", a.status)
		}
		return nil
	})
	endpoint.await(t, 1)
}

// reporting is a Meta that reports without a pause, and remembers what was taken.
type reporting struct {
	client   *http.Client
	stopping chan struct{}
	running  sync.WaitGroup

	mu sync.Mutex
	// taken and refused are the bodies of the webhooks answered 200 and otherwise;
	// of those unanswered nobody knows.
	taken, refused, unanswered []string
	statuses                   map[int]int
}

// startReporting starts so many clients, each of which sends one webhook after
// the other, of one event with this padding. No two are alike.
func (g *gateway) startReporting(t testing.TB, client *http.Client, clients int, who tenant, padding string) *reporting {
	r := &reporting{client: client, stopping: make(chan struct{}), statuses: make(map[int]int)}
	for i := range clients {
		r.running.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-r.stopping:
					return
				default:
				}
				id := fmt.Sprintf("wamid.%p.%d.%d", r, i, n)
				r.send(t, g, notification(who.waba, statuses(who, status(id, "sent", "49151", callback(padding)))))
			}
		})
	}
	return r
}

// send sends one webhook.
func (r *reporting) send(t testing.TB, g *gateway, body string) {
	var a answer
	response, err := r.client.Do(g.webhook(t, body))
	if err == nil {
		a, err = readAnswer(response)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil:
		r.unanswered = append(r.unanswered, body)
	case a.status == http.StatusOK:
		r.taken = append(r.taken, body)
	default:
		r.refused = append(r.refused, body)
	}
	r.statuses[a.status]++
}

// await waits until so many answers have this status.
func (r *reporting) await(t testing.TB, status, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d answers with status %d", n, status), func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.statuses[status] < n {
			return fmt.Errorf("there are %d", r.statuses[status])
		}
		return nil
	})
}

// stop lets every client finish what it is at.
func (r *reporting) stop() {
	close(r.stopping)
	r.running.Wait()
	r.client.CloseIdleConnections()
}

// wantDelivered waits until each of these has been delivered.
func (r *receiver) wantDelivered(t testing.TB, bodies []string) {
	t.Helper()
	eventually(t, "every acknowledged event to be delivered", func() error {
		got := make(map[string]bool)
		for _, d := range r.received() {
			got[d.body] = true
		}
		missing := 0
		for _, body := range bodies {
			if !got[body] {
				missing++
			}
		}
		if missing > 0 {
			return fmt.Errorf("%d of %d are missing", missing, len(bodies))
		}
		return nil
	})
}

func TestAFullDiskIsWH004AndLosesNothing(t *testing.T) {
	t.Parallel()
	for _, d := range disks(t) {
		t.Run(d.name, func(t *testing.T) {
			database := filepath.Join(d.dir, "gateway.db")
			g := newGateway(t, settings{app: "store sqlite " + database}.withWebhooks("timeout 1s"))
			g.database = database
			g.start(t)
			endpoint := startReceiver(t)
			who := g.tenant(t, profile{endpoint: endpoint})
			g.report(t, notification(who.waba, g.userMessage(who)))
			endpoint.await(t, 1)

			d.fill(t, g)
			var taken, refused []string
			for _, clients := range []int{8, 1} {
				r := g.startReporting(t, g.client, clients, who, strings.Repeat("x", 4000))
				r.await(t, http.StatusInternalServerError, 20*clients)
				r.stop()
				if len(r.unanswered) > 0 || r.statuses[http.StatusOK]+r.statuses[http.StatusInternalServerError] != len(r.taken)+len(r.refused) {
					t.Errorf("answers %v, %d without", r.statuses, len(r.unanswered))
				}
				taken, refused = append(taken, r.taken...), append(refused, r.refused...)
			}
			g.doWebhook(t, g.webhook(t, refused[0])).want(t, http.StatusInternalServerError, wh004)

			d.empty(t, g)
			for _, body := range refused {
				eventually(t, "the webhook to be stored", func() error {
					if a := g.doWebhook(t, g.webhook(t, body)); a.status != http.StatusOK {
						return fmt.Errorf("status %d", a.status)
					}
					return nil
				})
			}
			endpoint.wantDelivered(t, append(taken, refused...))
			g.awaitDelivered(t)
			attempts, _ := endpoint.counted()
			t.Logf("%d webhooks were taken before the disk was full, %d refused; %d deliveries in the end", len(taken), len(refused), attempts)
		})
	}
}

// Of what was acknowledged nothing is lost by a reload, whichever configuration
// has taken it and whichever delivers it.
func TestReloadsLoseNoAcknowledgedEvent(t *testing.T) {
	t.Parallel()
	with := func(lines ...string) settings {
		s := settings{global: "servers {\nprotocols h1 h2c\n}"}.withWebhooks(lines...)
		return s
	}
	g := startGateway(t, with())
	endpoint := startReceiver(t)
	var n atomic.Int64
	endpoint.answerWith(func(delivered) reply {
		if n.Add(1)%10 == 0 {
			return reply{status: http.StatusServiceUnavailable}
		}
		return reply{}
	})
	who := g.tenant(t, profile{endpoint: endpoint})
	all := map[string]*reporting{
		"HTTP/1": g.startReporting(t, &http.Client{Transport: new(http.Transport), Timeout: deadline}, 2, who, "x"),
		"HTTP/1, a connection for each webhook": g.startReporting(t,
			&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: deadline}, 2, who, "x"),
		"HTTP/2": g.startReporting(t, &http.Client{Transport: overHTTP2(), Timeout: deadline}, 2, who, "x"),
	}
	tick := time.NewTicker(reloadInterval)
	defer tick.Stop()
	for i := range 10 {
		<-tick.C
		g.reload(t, with(fmt.Sprintf("retry %dms 1s 1s 1s 1s", 100+i)))
	}
	var taken []string
	for name, r := range all {
		r.stop()
		if len(r.refused) > 0 || len(r.taken) == 0 || name == "HTTP/2" && len(r.unanswered) > 0 {
			t.Errorf("%s: %d webhooks were refused, %d taken, %d not answered", name, len(r.refused), len(r.taken), len(r.unanswered))
		}
		t.Logf("%s: %d webhooks taken, %d not answered", name, len(r.taken), len(r.unanswered))
		taken = append(taken, r.taken...)
	}
	endpoint.wantDelivered(t, taken)
	g.awaitDelivered(t)
	if kept := g.stored(t); len(kept) != 0 {
		t.Errorf("%d events are kept", len(kept))
	}
}

// A reload to other secrets, endpoints or limits counts at once, and a broken one
// changes nothing.
func TestABrokenReloadLeavesTheDeliveriesRunning(t *testing.T) {
	t.Parallel()
	s := settings{}.withWebhooks()
	g := startGateway(t, s)
	endpoint := startReceiver(t)
	who := g.tenant(t, profile{endpoint: endpoint})
	for i, broken := range []string{"rate_card /does/not/exist", "nonsense", "key_pepper {env.NOBODY_HAS_SET_THIS}", "key_pepper another"} {
		worse := s
		worse.app += "\n" + broken
		if err := g.tryReload(t.Context(), worse); err == nil {
			t.Errorf("%s was loaded", broken)
		}
		g.report(t, notification(who.waba, g.userMessage(who)))
		endpoint.await(t, i+1)
	}
	g.awaitDelivered(t)
	if attempts, _ := endpoint.counted(); attempts != 4 {
		t.Error("an event was delivered twice")
	}
}
