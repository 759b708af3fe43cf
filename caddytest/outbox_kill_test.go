package caddytest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// post is Meta's part: batches from a queue are posted until each was acknowledged.
type post struct {
	queue   chan *batch
	once    sync.Once
	working sync.WaitGroup
	// acknowledged are batches, broken posts whose connection broke before the answer.
	acknowledged, broken atomic.Int64
}

// startPost starts posting to g what is for these subscribers.
func (g *gateway) startPost(t *testing.T, to ...*subscriber) *post {
	p := &post{queue: make(chan *batch, 100_000)}
	for range 4 {
		p.working.Go(func() {
			for b := range p.queue {
				if err := poll(t.Context(), func() error { return p.try(t, g, b) }); err != nil {
					t.Errorf("a webhook was not taken: %v", err)
					continue
				}
				for _, s := range to {
					s.owe(b.letters)
				}
				p.acknowledged.Add(1)
			}
		})
	}
	t.Cleanup(p.end)
	return p
}

func (p *post) add(batches []*batch) {
	for _, b := range batches {
		p.queue <- b
	}
}

// await waits until so many batches have been acknowledged.
func (p *post) await(t *testing.T, n int) {
	t.Helper()
	awaitNone(t, "webhooks to be taken", func() int { return max(0, n-int(p.acknowledged.Load())) })
}

// end ends it once the queue is empty. What it posts after the test has ended fails at once.
func (p *post) end() {
	p.once.Do(func() { close(p.queue) })
	p.working.Wait()
}

func (p *post) try(t *testing.T, g *gateway, b *batch) error {
	a, err := g.tryWebhook(t, g.webhook(t, b.body))
	if err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
		p.broken.Add(1)
	}
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("status %d", a.status)
	}
	return err
}

// awaitNone waits until a number is 0, for as long as it changes.
func awaitNone(t *testing.T, what string, left func() int) {
	t.Helper()
	for before := left(); before > 0; before = left() {
		eventually(t, what, func() error {
			if left() == before {
				return fmt.Errorf("%d are left", before)
			}
			return nil
		})
	}
}

// template returns the body of a template message with this of the customer's.
func template(own string) string {
	callback := ""
	if own != "" {
		callback = fmt.Sprintf(`,"biz_opaque_callback_data":%q`, own)
	}
	return fmt.Sprintf(`{"messaging_product":"whatsapp","to":%q,"type":"template","template":{"name":"n","language":{"code":"en"}}%s}`,
		recipientOf(own), callback)
}

// sendTemplates sends messages of the subscribers, some of which a kill puts in
// doubt, and finds out which of them Meta has accepted.
func (g *gateway) sendTemplates(t *testing.T, p *pen, meta *gateway, busy []*subscriber, quiet *subscriber) {
	t.Helper()
	for range 3 {
		var loads []*load
		for _, s := range busy {
			var bodies []string
			for _, own := range owns {
				bodies = append(bodies, template(own))
			}
			loads = append(loads, g.startLoad(t, g.client, s.tenant, bodies...))
		}
		for _, l := range loads {
			l.await(t, 20+p.IntN(100))
		}
		g.kill()
		for _, l := range loads {
			l.running.Wait()
		}
		g.client.CloseIdleConnections()
		g.start(t)
	}
	long := strings.Repeat("x", 500) // leaves no room for a hold
	for _, s := range slices.Concat(busy, []*subscriber{quiet}) {
		for _, own := range slices.Concat(owns, []string{long}) {
			g.send(t, s.key, template(own)).wantCode(t, "")
		}
		s.sent = g.outgoing(t, p, meta, s)
	}
}

// outgoing returns the messages of a subscriber that Meta has accepted.
func (g *gateway) outgoing(t *testing.T, p *pen, meta *gateway, s *subscriber) (all []*outgoing) {
	t.Helper()
	charged := make(map[string]bool)
	for _, e := range g.ledger(t, s.account) {
		if e.Kind == "capture" {
			charged[e.MessageID] = true
		}
	}
	for _, m := range meta.tally(t).Messages {
		if m.PhoneNumberID != s.phone {
			continue
		}
		own := m.CallbackData
		if hold, rest, found := strings.Cut(own, ":"); len(hold) == len("hold_")+26 && strings.HasPrefix(hold, "hold_") {
			own = rest
			if !found {
				own = ""
			}
		}
		all = append(all, &outgoing{
			id: m.ID, callback: m.CallbackData, own: own, recipient: recipientOf(own),
			category: pick(p, "marketing", "utility", "authentication"), free: p.IntN(4) == 0, inDoubt: !charged[m.ID],
		})
	}
	return all
}

// letters returns n changes for a subscriber. Each of its messages has at least
// one status; some have the callback data of another's.
func (p *pen) letters(n int, s, other *subscriber, text string) (all []*letter) {
	for _, m := range s.sent {
		all = append(all, p.statuses(s, m))
	}
	for len(all) < n {
		var l *letter
		switch i := p.IntN(20); {
		case i < 11:
			var messages []*outgoing
			for range 1 + p.IntN(3) {
				messages = append(messages, pick(p, s.sent...))
			}
			l = p.statuses(s, messages...)
		case i < 14:
			l = p.userMessage(s, text, nil)
		case i < 15:
			l = p.userMessage(s, text, pick(p, s.sent...))
		case i < 17:
			l = p.ofAccount(s)
		case i < 18:
			l = p.astray(s)
		default:
			l = p.foreign(s, pick(p, other.sent...).callback)
		}
		all = append(all, l)
	}
	return all
}

// The shares of the three endpoints in the 10,000 changes. A slow endpoint gets 16
// events in 4.9 s: more would only make the test longer.
const (
	allChanges     = 10_000
	slowChanges    = 160
	failingChanges = 2_000
	repetitions    = 800
	// heldBack are events that the slow endpoint refuses until the healthy one has
	// all of its own: however slow the machine is, the one gets nothing from
	// waiting for the other.
	heldBack = 8
	slowness = 4900 * time.Millisecond
	// outboxKills is how often the gateway is killed while it receives and delivers.
	outboxKills = 10
)

// TestEverythingAcknowledgedIsDelivered kills the gateway again and again while
// Meta reports and endpoints are healthy, slow and failing. OUTBOX_SEED repeats
// what is sent in which batches.
func TestEverythingAcknowledgedIsDelivered(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	if given := os.Getenv("OUTBOX_SEED"); given != "" {
		var err error
		if seed, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("OUTBOX_SEED=%d", seed)
	p := &pen{Rand: rand.New(rand.NewPCG(seed, 0))}

	meta, s := startMeta(t, "slow_answer 50ms")
	card := t.TempDir() + "/prices.csv"
	if err := os.WriteFile(card, []byte(prices), 0o600); err != nil {
		t.Fatal(err)
	}
	s.app = "rate_card " + card
	g := startGateway(t, s.withWebhooks("retry 100ms 200ms 500ms"+strings.Repeat(" 1s", 60)))
	healthy, slow, failing := g.subscribe(t), g.subscribe(t), g.subscribe(t, "messages", "message_status", "account")
	all := []*subscriber{healthy, slow, failing}
	for _, own := range owns {
		g.keepPrivate("recipient", recipientOf(own))
	}
	g.sendTemplates(t, p, meta, []*subscriber{healthy, failing}, slow)

	text := g.text()
	early := p.letters(slowChanges, slow, healthy, text)
	late := append(p.letters(failingChanges, failing, healthy, text),
		p.letters(allChanges-slowChanges-failingChanges, healthy, failing, text)...)
	letters := append(slices.Clone(early), late...)
	for range repetitions {
		late = append(late, pick(p, late...))
	}
	p.Shuffle(len(late), func(i, j int) { late[i], late[j] = late[j], late[i] })
	for _, sub := range all {
		sub.expect(letters)
	}
	var healthyHasAll atomic.Bool
	healthy.answerWith(healthy.take)
	failing.answerWith(failing.failHalf)
	slow.answerWith(slow.slowly(early, &healthyHasAll))

	g.postAndKill(t, p, all, p.batches(early), p.batches(late))

	awaitNone(t, "the healthy endpoint's events", healthy.owing)
	if slow.owing() < heldBack {
		t.Errorf("the slow endpoint has all but %d events", slow.owing())
	}
	t.Logf("the healthy endpoint has all of its %d events, %d of the slow one's %d and %d of the failing one's %d are outstanding",
		len(healthy.want), slow.owing(), len(slow.want), failing.owing(), len(failing.want))
	healthyHasAll.Store(true)
	awaitNone(t, "the failing endpoint's events", failing.owing)
	awaitNone(t, "the slow endpoint's events", slow.owing)
	g.awaitEmptyOutbox(t, letters)
	for _, sub := range all {
		sub.wantAll(t)
		g.wantBooks(t, meta, sub, letters)
	}
}

// postAndKill posts everything, the early batches before the late ones, and
// kills the gateway while it receives or delivers the late ones.
func (g *gateway) postAndKill(t *testing.T, p *pen, to []*subscriber, early, late []*batch) {
	t.Helper()
	post := g.startPost(t, to...)
	post.add(early)
	post.await(t, len(early))
	for kill := range outboxKills {
		acknowledged := int(post.acknowledged.Load())
		share := late[len(late)*kill/outboxKills : len(late)*(kill+1)/outboxKills]
		post.add(share)
		if p.IntN(2) == 0 {
			post.await(t, acknowledged+p.IntN(len(share)+1))
		} else {
			awaitSome(t, to, p.IntN(400))
		}
		g.kill()
		g.client.CloseIdleConnections()
		g.start(t)
	}
	post.end()
	t.Logf("%d webhooks: %d posts were cut off", len(early)+len(late), post.broken.Load())
}

// awaitSome waits for n more deliveries, or until the healthy endpoint, which
// comes first, has all it is owed.
func awaitSome(t *testing.T, to []*subscriber, n int) {
	t.Helper()
	count := func() (all int) {
		for _, s := range to {
			attempts, _ := s.counted()
			all += attempts
		}
		return all
	}
	before := count()
	eventually(t, "some deliveries", func() error {
		if now := count(); now < before+n && to[0].owing() > 0 {
			return fmt.Errorf("%d of %d have come", now-before, n)
		}
		return nil
	})
}

// awaitEmptyOutbox waits until nothing is to be delivered any more, and checks
// that nothing was given up, and what nobody gets is in quarantine.
func (g *gateway) awaitEmptyOutbox(t *testing.T, letters []*letter) {
	t.Helper()
	db := g.open(t)
	defer db.Close()
	awaitNone(t, "pending events", func() (n int) {
		if err := db.QueryRowContext(t.Context(), "SELECT (SELECT count(*) FROM outbox WHERE state = 'pending') + (SELECT count(*) FROM outbox_recent)").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	})
	for _, state := range []string{"pending", "dead"} {
		if left := g.outbox(t, "--state", state); len(left) > 0 {
			t.Errorf("%d events are %s, the first of them %+v", len(left), state, left[0])
		}
	}
	astray := 0
	for _, l := range letters {
		if l.to == nil {
			astray++
		}
	}
	quarantined := g.outbox(t, "--state", "quarantined")
	if len(quarantined) < astray {
		t.Errorf("%d events are quarantined of %d that nobody gets", len(quarantined), astray)
	}
	for _, e := range quarantined {
		if e.AppID != "" || !strings.HasPrefix(e.LastError, "no app ") {
			t.Fatalf("quarantined: %+v", e)
		}
	}
}
