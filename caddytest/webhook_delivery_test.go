package caddytest

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var unixSeconds = regexp.MustCompile(`^[0-9]{10}$`)

// The receiver checks Authorization, the signature and the app's own headers in
// every test; here it is all that there is.
func TestTheHeadersOfADelivery(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks())
	for name, secret := range map[string]string{
		"a key in base64":        "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
		"a text":                 "a-text-for-a-secret!",
		"none":                   "",
		"what looks like base64": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
	} {
		t.Run(name, func(t *testing.T) {
			endpoint := startReceiver(t)
			endpoint.secret = secret
			endpoint.header = map[string]string{"X-Team": "a team's value", "x-UPPER": "another value: of 'it'"}
			endpoint.url += "?tenant=a%20b&x"
			who := g.tenant(t, profile{endpoint: endpoint})
			own := g.userMessage(who)
			g.report(t, notification(who.waba, own))
			d := endpoint.one(t)
			got := make(map[string]string)
			for name, values := range d.header {
				got[name] = strings.Join(values, " and ")
			}
			if !unixSeconds.MatchString(got["Webhook-Timestamp"]) {
				t.Errorf("webhook-timestamp %q", got["Webhook-Timestamp"])
			}
			want := map[string]string{
				"Content-Type": "application/json", "Content-Length": strconv.Itoa(len(d.body)), "User-Agent": "caddy-whatsapp-gateway",
				"X-Gateway-Event": "messages", "Webhook-Id": d.id, "Webhook-Timestamp": got["Webhook-Timestamp"],
				"X-Team": "a team's value", "X-Upper": "another value: of 'it'",
			}
			if secret != "" {
				// What it says is verified by the receiver.
				want["Authorization"], want["Webhook-Signature"] = "Bearer "+secret, got["Webhook-Signature"]
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(g.masked(diff))
			}
			if secret != "" && !strings.HasPrefix(got["Webhook-Signature"], "v1,") {
				t.Error("the signature has another version")
			}
		})
	}
}

// quick is a schedule for tests, with three attempts in all.
const quick = "retry 100ms 100ms"

func TestAFailedDeliveryIsRepeatedAsTheSameEvent(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks(quick))
	endpoint := startReceiver(t)
	who := g.tenant(t, profile{endpoint: endpoint})
	for _, status := range []int{500, 503, 400, 401, 404, 429, 301} {
		before, _ := endpoint.counted()
		endpoint.answerWith(func(d delivered) reply {
			if d.attempt == 1 {
				return reply{status: status}
			}
			return reply{status: http.StatusAccepted}
		})
		g.report(t, notification(who.waba, g.userMessage(who)))
		g.awaitDelivered(t)
		got := endpoint.received()[before:]
		// The receiver compares body and name of attempts with the same id.
		if len(got) != 2 || got[0].id != got[1].id || got[1].attempt != 2 {
			t.Errorf("status %d: %d attempts", status, len(got))
		}
	}
	if kept := g.stored(t); len(kept) != 0 {
		t.Errorf("%d events are kept", len(kept))
	}
}

func TestAfterTheLastAttemptAnEventIsADeadLetterThatCanBeReplayed(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks(quick))
	endpoint, other := startReceiver(t), startReceiver(t)
	who, another := g.tenant(t, profile{endpoint: endpoint}), g.tenant(t, profile{endpoint: other})
	endpoint.answerAlways(http.StatusServiceUnavailable)
	other.answerAlways(http.StatusForbidden)
	for range 3 {
		g.report(t, notification(who.waba, g.userMessage(who)))
	}
	g.report(t, notification(another.waba, g.userMessage(another)))
	g.awaitOutbox(t, "dead", 4)
	if attempts, _ := endpoint.counted(); attempts != 9 {
		t.Errorf("%d attempts for 3 events", attempts)
	}
	dead := g.outbox(t, "--app", who.app)
	for _, e := range dead {
		want := outboxEvent{ID: e.ID, AppID: who.app, Event: "messages", State: "dead", Attempts: 3, LastError: "status 503", ReceivedAt: e.ReceivedAt}
		if diff := cmp.Diff(want, e); diff != "" {
			t.Error(diff)
		}
	}
	endpoint.answerAlways(http.StatusOK)
	if stdout := g.run(t, "event", "replay", dead[1].ID); !strings.Contains(stdout, "1") {
		t.Errorf("replaying one: %s", stdout)
	}
	if d := endpoint.one(t); d.id != dead[1].ID {
		t.Errorf("%s was delivered and not %s", d.id, dead[1].ID)
	}
	g.awaitDelivered(t)
	// One that is unknown keeps the others from being replayed.
	if _, stderr, status := g.tryRun(t, "event", "replay", dead[0].ID, dead[1].ID); status != 1 || !strings.Contains(stderr, dead[1].ID) {
		t.Errorf("replaying what was delivered: exit status %d: %s", status, stderr)
	}
	g.awaitOutbox(t, "dead", 3)
	var replayed struct{ Replayed int }
	if g.runInto(t, &replayed, "event", "replay", "--app", who.app); replayed.Replayed != 2 {
		t.Errorf("%d events were replayed", replayed.Replayed)
	}
	for _, d := range endpoint.await(t, 3) {
		if !slices.ContainsFunc(dead, func(e outboxEvent) bool { return e.ID == d.id }) {
			t.Errorf("%s was delivered", d.id)
		}
	}
	g.awaitDelivered(t)
	if left := g.stored(t); len(left) != 1 || left[0].AppID != another.app || left[0].LastError != "status 403" {
		t.Errorf("left are %+v", left)
	}
}

// A replayed event has all of its attempts again.
func TestAReplayedEventThatFailsAgainIsADeadLetterAgain(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks(quick))
	endpoint := startReceiver(t)
	who := g.tenant(t, profile{endpoint: endpoint})
	endpoint.answerAlways(http.StatusInternalServerError)
	g.report(t, notification(who.waba, g.userMessage(who)))
	g.awaitOutbox(t, "dead", 1)
	g.run(t, "event", "replay", "--app", who.app)
	endpoint.awaitAttempts(t, 6)
	g.awaitOutbox(t, "dead", 1)
	if attempts, _ := endpoint.counted(); attempts != 6 {
		t.Errorf("%d attempts", attempts)
	}
}

func TestARedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks(quick))
	endpoint, elsewhere := startReceiver(t), startReceiver(t)
	who := g.tenant(t, profile{endpoint: endpoint})
	redirects := []int{301, 302, 303, 307, 308}
	for _, status := range redirects {
		before, _ := endpoint.counted()
		endpoint.answerWith(func(delivered) reply {
			return reply{status: status, header: http.Header{"Location": {elsewhere.url}}}
		})
		g.report(t, notification(who.waba, g.userMessage(who)))
		endpoint.awaitAttempts(t, before+3)
	}
	g.awaitOutbox(t, "dead", len(redirects))
	for i, e := range g.stored(t) {
		if e.LastError != fmt.Sprint("status ", redirects[i]) {
			t.Errorf("%d: %s", redirects[i], e.LastError)
		}
	}
	if n := elsewhere.dialled(); n != 0 {
		t.Errorf("%d connections to where the redirects lead", n)
	}
}

func TestRetryAfterIsHonouredUpToAnHour(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks("retry 1m 1m"))
	endpoint := startReceiver(t)
	who := g.tenant(t, profile{endpoint: endpoint})
	for _, c := range []struct {
		name, value string
		// The next attempt is due between these after the first, give or take the
		// time that the machine takes.
		least, most time.Duration
	}{
		{"seconds", "1800", 30 * time.Minute, 30 * time.Minute},
		{"a date", time.Now().Add(30 * time.Minute).UTC().Format(http.TimeFormat), 25 * time.Minute, 30 * time.Minute},
		{"an hour", "3600", time.Hour, time.Hour},
		{"more than an hour", "86400", time.Hour, time.Hour},
		{"more than fits", strings.Repeat("9", 30), time.Hour, time.Hour},
		{"a date in a year", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat), time.Hour, time.Hour},
		{"less than the schedule", "1", 48 * time.Second, 72 * time.Second},
		{"a date that has passed", "Wed, 21 Oct 2015 07:28:00 GMT", 48 * time.Second, 72 * time.Second},
		{"nonsense", "soon", 48 * time.Second, 72 * time.Second},
		{"negative", "-1800", 48 * time.Second, 72 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			endpoint.answerWith(func(delivered) reply {
				return reply{status: http.StatusServiceUnavailable, header: http.Header{"Retry-After": {c.value}}}
			})
			g.report(t, notification(who.waba, g.userMessage(who)))
			var e outboxEvent
			eventually(t, "the attempt to have failed", func() error {
				events := g.outbox(t)
				if e = events[len(events)-1]; e.Attempts != 1 {
					return fmt.Errorf("there were %d", e.Attempts)
				}
				return nil
			})
			if e.State != "pending" || e.LastError != "status 503" || e.NextAttemptAt == nil {
				t.Fatalf("%+v", e)
			}
			if after := e.NextAttemptAt.Sub(e.ReceivedAt); after < c.least || after > c.most+deadline {
				t.Errorf("the next attempt is due after %v", after)
			}
		})
	}
}

// shownWebhook is what `app show` tells of an app's endpoint.
type shownWebhook struct {
	URL        *string    `json:"webhook_url"`
	DisabledAt *time.Time `json:"webhook_disabled_at"`
}

func TestAnEndpointThatIsGoneIsDisabledUntilItIsSetAgain(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks("retry 1h"))
	endpoint, neighbour := startReceiver(t), startReceiver(t)
	who := g.tenant(t, profile{endpoint: endpoint})
	near := g.tenant(t, profile{endpoint: neighbour})
	show := func() (shown shownWebhook) {
		g.runInto(t, &shown, "app", "show", who.app)
		return shown
	}
	g.report(t, notification(who.waba, g.userMessage(who)))
	endpoint.await(t, 1)
	if shown := show(); shown.DisabledAt != nil {
		t.Error("an endpoint that works is disabled")
	}

	endpoint.answerWith(func(d delivered) reply {
		if strings.Contains(d.body, "not yet") {
			return reply{status: http.StatusServiceUnavailable} // due in an hour
		}
		return reply{status: http.StatusGone}
	})
	g.report(t, notification(who.waba, statuses(who, status("wamid.not yet", "sent", "49"))))
	endpoint.awaitAttempts(t, 2)
	eventually(t, "the first one to wait for its next attempt", func() error {
		if waiting := g.stored(t); len(waiting) != 1 || waiting[0].Attempts != 1 {
			return errors.New("its attempt is not settled")
		}
		return nil
	})
	g.report(t, notification(who.waba, g.userMessage(who)))
	g.awaitOutbox(t, "dead", 2) // what waited for its next attempt, too
	if shown := show(); shown.DisabledAt == nil || shown.URL == nil {
		t.Error("the endpoint is not disabled, or its URL is lost")
	}
	attempts, _ := endpoint.counted()
	connections := endpoint.dialled()
	g.report(t, notification(who.waba, g.userMessage(who)))
	g.report(t, notification(near.waba, g.userMessage(near)))
	neighbour.one(t)
	g.awaitOutbox(t, "dead", 3)
	if now, _ := endpoint.counted(); now != attempts || endpoint.dialled() != connections {
		t.Error("an endpoint that is disabled was dialled")
	}

	endpoint.answerAlways(http.StatusOK)
	_, stderr, status := g.tryRun(t, "event", "replay", "--app", who.app)
	if status != 1 || !strings.Contains(stderr, "410") {
		t.Errorf("a replay while it is disabled: exit status %d, %s", status, stderr)
	}
	g.run(t, "app", "set", who.app, "--webhook-url", endpoint.url)
	if shown := show(); shown.DisabledAt != nil {
		t.Error("the endpoint is still disabled")
	}
	g.report(t, notification(who.waba, g.userMessage(who)))
	endpoint.await(t, 2)
	g.run(t, "event", "replay", "--app", who.app)
	endpoint.await(t, 5)
	g.awaitDelivered(t)
	if kept := g.stored(t); len(kept) != 0 {
		t.Errorf("%d events are kept", len(kept))
	}
}
