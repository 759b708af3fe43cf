package caddytest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// webhookPath is where Meta reports.
const webhookPath = "/v1/wa/webhook"

// startWithEndpoint starts a gateway that takes webhooks, with a tenant whose
// events go to an endpoint.
func startWithEndpoint(t testing.TB) (*gateway, *receiver, tenant) {
	t.Helper()
	g := startGateway(t, settings{}.withWebhooks())
	endpoint := startReceiver(t)
	return g, endpoint, g.tenant(t, profile{endpoint: endpoint})
}

// signed is the signature of a body under an app secret, as Meta writes it.
func signed(secret, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	io.WriteString(mac, body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// webhook is a genuine webhook of Meta's that a test may change before it is sent.
func (g *gateway) webhook(t testing.TB, body string) *http.Request {
	t.Helper()
	req := g.request(t, http.MethodPost, webhookPath, body)
	req.Header.Set("X-Hub-Signature-256", signed(g.appSecret, body))
	return req
}

// report sends a genuine webhook, expects it to be taken, and returns the answer.
func (g *gateway) report(t testing.TB, body string) answer {
	t.Helper()
	a := g.doWebhook(t, g.webhook(t, body))
	if a.status != http.StatusOK {
		t.Fatalf("status %d with code %q", a.status, a.Errors.Code)
	}
	return a
}

// doWebhook sends a webhook and checks what holds for every answer to one.
func (g *gateway) doWebhook(t testing.TB, req *http.Request) answer {
	t.Helper()
	a, err := g.tryWebhook(t, req)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// tryWebhook is doWebhook for a connection that may break.
func (g *gateway) tryWebhook(t testing.TB, req *http.Request) (answer, error) {
	t.Helper()
	response, err := g.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	a, err := readAnswer(response)
	switch {
	case err != nil:
		return a, err
	case a.status != http.StatusOK:
		g.check(t, &a)
	case a.body != "" || !requestID.MatchString(a.header.Get("X-Request-Id")):
		t.Errorf("status 200 with X-Request-Id %q and %d bytes of body", a.header.Get("X-Request-Id"), len(a.body))
	}
	return a, nil
}

// notification is the body of a webhook: changes of one WABA.
func notification(waba string, changes ...string) string {
	return `{"object":"whatsapp_business_account","entry":[{"id":"` + waba + `","changes":[` + strings.Join(changes, ",") + `]}]}`
}

// change is a change of a number's; members stand behind its metadata.
func change(field, phone, members string) string {
	if members != "" {
		members = "," + members
	}
	return fmt.Sprintf(`{"value":{"messaging_product":"whatsapp","metadata":{"display_phone_number":"15550001111","phone_number_id":%q}%s},"field":%q}`,
		phone, members, field)
}

// userMessage is a change in which a user writes.
func (g *gateway) userMessage(who tenant) string {
	return change("messages", who.phone, fmt.Sprintf(`"messages":[{"from":%q,"id":"wamid.user","timestamp":"1760000000","type":"text","text":{"body":%q}}]`,
		g.recipient(accepted), g.text()))
}

// longMessage is one that the embedded store keeps as a row of its own from the first.
func (g *gateway) longMessage(who tenant) string {
	return strings.Replace(g.userMessage(who), `"body":"`, `"body":"`+strings.Repeat("long ", 5_000), 1)
}

// statuses is a change with these statuses.
func statuses(who tenant, all ...string) string {
	return change("messages", who.phone, `"statuses":[`+strings.Join(all, ",")+`]`)
}

// status is one status of a message; members stand behind the rest.
func status(message, state, recipient string, members ...string) string {
	return strings.Join(append([]string{
		fmt.Sprintf(`{"id":%q,"status":%q,"timestamp":"1760000000","recipient_id":%q`, message, state, recipient),
	}, members...), ",") + "}"
}

// priced is the member of a status with what Meta says of the price.
func priced(billable bool, category string) string {
	return fmt.Sprintf(`"pricing":{"billable":%v,"pricing_model":"PMP","type":"regular","category":%q}`, billable, category)
}

// callback is the member of a status with what was sent along.
func callback(text string) string { return fmt.Sprintf(`"biz_opaque_callback_data":%q`, text) }

// outboxEvent is one event in the outbox.
type outboxEvent struct {
	ID        string `json:"id"`
	AppID     string `json:"app_id"`
	Event     string `json:"event"`
	State     string `json:"state"`
	Attempts  int    `json:"attempts"`
	LastError string `json:"last_error"`
	// ReceivedAt and NextAttemptAt are what commands print.
	ReceivedAt    time.Time  `json:"received_at"`
	NextAttemptAt *time.Time `json:"next_attempt_at"`
	// Payload is what only the database tells.
	Payload string `json:"-"`
}

// outbox is what the command line lists, oldest first.
func (g *gateway) outbox(t testing.TB, filter ...string) (events []outboxEvent) {
	t.Helper()
	g.runInto(t, &events, append([]string{"event", "list"}, filter...)...)
	return events
}

// stored is what has not been delivered, as the database has it, oldest first. On
// Redis it is what the command line lists, without payloads.
func (g *gateway) stored(t testing.TB) (events []outboxEvent) {
	t.Helper()
	if g.onRedis() {
		return g.outbox(t)
	}
	db := g.open(t)
	defer db.Close()
	var recent int
	if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM outbox_recent").Scan(&recent); err != nil {
		t.Fatal(err)
	}
	if recent > 0 {
		g.outbox(t) // which has it entered
	}
	rows, err := db.QueryContext(t.Context(),
		"SELECT id, ifnull(app_id, ''), event, state, attempts, ifnull(last_error, ''), payload FROM outbox ORDER BY seq")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var e outboxEvent
		if err := rows.Scan(&e.ID, &e.AppID, &e.Event, &e.State, &e.Attempts, &e.LastError, &e.Payload); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return events
}

// awaitOutbox waits until so many events of a state are in the outbox.
func (g *gateway) awaitOutbox(t testing.TB, state string, n int) {
	t.Helper()
	eventually(t, fmt.Sprint(n, " events that are ", state), func() error {
		found := 0
		for _, e := range g.stored(t) {
			if e.State == state {
				found++
			}
		}
		if found != n {
			return fmt.Errorf("there are %d", found)
		}
		return nil
	})
}

// awaitDelivered waits until nothing is to be delivered any more.
func (g *gateway) awaitDelivered(t testing.TB) {
	t.Helper()
	g.awaitOutbox(t, "pending", 0)
}

// metric returns a value of the admin API's metrics, by its name with labels. A
// metric that is not there is 0.
func (g *gateway) metric(t testing.TB, name string) (value float64) {
	t.Helper()
	for line := range strings.Lines(g.askAdmin(t, "/metrics")) {
		if text, ok := strings.CutPrefix(line, "whatsapp_gateway_"+name+" "); ok {
			if _, err := fmt.Sscan(text, &value); err != nil {
				t.Fatal(err)
			}
		}
	}
	return value
}

// awaitReports waits until the simulator's webhooks have been taken.
func (g *gateway) awaitReports(t testing.TB, sent int) {
	t.Helper()
	eventually(t, "the simulator's webhooks", func() error {
		n := g.tally(t).Webhooks
		if n.Failed > 0 {
			return fmt.Errorf("%d were given up: %s", n.Failed, n.LastError)
		}
		if n.Pending > 0 || n.Sent < sent {
			return fmt.Errorf("%d of %d were taken, %d are under way", n.Sent, sent, n.Pending)
		}
		return nil
	})
}

// logHas waits until a line of the log has all of these texts.
func (g *gateway) logHas(t testing.TB, texts ...string) {
	t.Helper()
	eventually(t, "a line in the log", func() error {
	lines:
		for line := range strings.Lines(g.output()) {
			for _, text := range texts {
				if !strings.Contains(line, text) {
					continue lines
				}
			}
			return nil
		}
		return errors.New("there is none with " + strings.Join(texts, " and "))
	})
}
