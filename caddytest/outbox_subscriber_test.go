package caddytest

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// subscriber is a customer with an endpoint, which knows what it has to get.
type subscriber struct {
	tenant
	*receiver
	// waba is the id of its business account, events are those it has subscribed
	// to; none means all.
	waba   string
	events []string
	// sent are its messages that Meta has accepted.
	sent []*outgoing

	mu sync.Mutex
	// want is the event of each payload that has to arrive; owed are those of
	// acknowledged webhooks that have not, got those that have, with how often.
	want map[string]string
	owed map[string]bool
	got  map[string]int
	// strange is how many deliveries have come that it must not get.
	strange int

	masked func(string) string
}

// subscribe makes a customer with an endpoint.
func (g *gateway) subscribe(t testing.TB, events ...string) *subscriber {
	t.Helper()
	s := &subscriber{
		tenant: g.tenant(t, plenty), receiver: startReceiver(t), events: events,
		want: make(map[string]string), owed: make(map[string]bool), got: make(map[string]int), masked: g.masked,
	}
	s.waba = "2" + s.phone[1:]
	args := []string{
		"app", "set", s.app, "--webhook-url", s.url,
		"--webhook-secret-file", g.file(t, "secret", s.secret),
	}
	if len(events) > 0 {
		args = append(args, "--events", strings.Join(events, ","))
	}
	g.hide("webhook secret", s.secret)
	g.run(t, args...)
	return s
}

// name is under which name it gets what is all of these events; empty is not at all.
func (s *subscriber) name(is func(event string) bool) string {
	for _, event := range eventNames {
		if is(event) && (len(s.events) == 0 || slices.Contains(s.events, event)) {
			return event
		}
	}
	return ""
}

// expect says what has to arrive in the end.
func (s *subscriber) expect(letters []*letter) {
	for _, l := range letters {
		if l.to == s && l.event != "" {
			s.want[l.payload] = l.event
		}
	}
}

// owe says what has to arrive because the webhook with it was acknowledged.
func (s *subscriber) owe(letters []*letter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range letters {
		if l.to == s && l.event != "" && s.got[l.payload] == 0 {
			s.owed[l.payload] = true
		}
	}
}

// owing is how much of that has not arrived.
func (s *subscriber) owing() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.owed)
}

// take notes an event that has arrived and is taken.
func (s *subscriber) take(d delivered) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	if event, ok := s.want[d.body]; !ok || event != d.event {
		if s.strange++; s.strange <= 3 { // the rest is probably alike
			s.t.Errorf("a delivery to %s as %q, wanted as %q:\n%s", s.app, d.event, event, s.masked(d.body))
		}
	}
	s.got[d.body]++
	delete(s.owed, d.body)
	return reply{}
}

// failHalf fails every other time.
func (s *subscriber) failHalf(d delivered) reply {
	if rand.IntN(2) == 0 {
		return reply{status: http.StatusInternalServerError}
	}
	return s.take(d)
}

// slowly takes everything after a while, and a part of it only once it may.
func (s *subscriber) slowly(letters []*letter, may *atomic.Bool) func(delivered) reply {
	back := make(map[string]bool)
	for _, l := range slices.Backward(letters) {
		if l.event != "" && len(back) < heldBack {
			back[l.payload] = true
		}
	}
	return func(d delivered) reply {
		timer := time.NewTimer(slowness)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-d.gone:
			return reply{status: http.StatusInternalServerError}
		}
		if back[d.body] && !may.Load() {
			return reply{status: http.StatusInternalServerError}
		}
		return s.take(d)
	}
}

// wantAll fails the test unless everything has arrived.
func (s *subscriber) wantAll(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	missing, again := 0, 0
	for payload := range s.want {
		if s.got[payload] == 0 {
			missing++
		}
		again += max(0, s.got[payload]-1)
	}
	attempts, _ := s.counted()
	t.Logf("%d events in %d attempts, %d of them again", len(s.want), attempts, again)
	if missing > 0 || s.strange > 0 {
		t.Errorf("%d events have not arrived, %d must not have arrived", missing, s.strange)
	}
}
