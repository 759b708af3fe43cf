package caddytest

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// receiver is a customer's endpoint on this machine. It keeps what is delivered,
// fails the test for any delivery that is not as published, and answers 200
// until it is told otherwise.
//
// url, secret and header may be changed before a tenant gets the endpoint.
type receiver struct {
	// url is the endpoint.
	url string
	// secret is the webhook secret; empty is none.
	secret string
	// header are the app's own headers.
	header map[string]string

	t      testing.TB
	server *httptest.Server

	mu sync.Mutex
	// answer is called for every delivery, by many goroutines at a time.
	answer func(delivered) reply
	// attempts are all deliveries in the order in which they came, taken those
	// answered with 2xx in the order of the answers.
	attempts, taken []delivered
	// first is the first attempt of each event, by its id, and tries how many there were.
	first       map[string]delivered
	tries       map[string]int
	connections int
}

// delivered is one POST to an endpoint.
type delivered struct {
	// id and event are in its headers.
	id, event string
	// attempt counts those of the event that came in here, from 1.
	attempt int
	header  http.Header
	body    string
	// gone is closed once nobody waits for the answer any more.
	gone <-chan struct{}
}

// reply is what an endpoint answers; the zero value is 200.
type reply struct {
	status int
	header http.Header
}

// startReceiver starts an endpoint that ends with the test.
func startReceiver(t testing.TB) *receiver {
	t.Helper()
	r := newReceiver(t)
	r.server.Start()
	r.url = r.server.URL + "/hook"
	return r
}

// newReceiver prepares an endpoint; its server is yet to be started.
func newReceiver(t testing.TB) *receiver {
	t.Helper()
	var key [32]byte
	rand.Read(key[:]) // it never fails
	r := &receiver{
		secret: "whsec_" + base64.StdEncoding.EncodeToString(key[:]),
		t:      t,
		answer: func(delivered) reply { return reply{} },
		first:  make(map[string]delivered),
		tries:  make(map[string]int),
	}
	r.server = httptest.NewUnstartedServer(r)
	r.server.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are meant to fail
	r.server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.connections++
		}
	}
	t.Cleanup(func() {
		r.server.CloseClientConnections() // what hangs would be waited for
		r.server.Close()
	})
	return r
}

// ServeHTTP implements http.Handler.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the gateway has been killed
	}
	d := delivered{
		id: req.Header.Get("Webhook-Id"), event: req.Header.Get("X-Gateway-Event"),
		header: req.Header, body: string(body), gone: req.Context().Done(),
	}
	r.mu.Lock()
	r.tries[d.id]++
	d.attempt = r.tries[d.id]
	if d.attempt == 1 {
		r.first[d.id] = d
	}
	r.attempts = append(r.attempts, d)
	first, answer := r.first[d.id], r.answer
	r.mu.Unlock()

	for _, fault := range r.faults(req, d) {
		r.t.Errorf("delivery %s, attempt %d: %s", d.id, d.attempt, fault)
	}
	if first.body != d.body || first.event != d.event {
		r.t.Errorf("delivery %s, attempt %d: not what it was before", d.id, d.attempt)
	}
	said := answer(d)
	said.status = cmp.Or(said.status, http.StatusOK)
	if said.status/100 == 2 {
		r.mu.Lock()
		r.taken = append(r.taken, d)
		r.mu.Unlock()
	}
	maps.Copy(w.Header(), said.header)
	w.WriteHeader(said.status)
}

var eventID = regexp.MustCompile(`^evt_[0-9a-v]{26}$`)

// eventNames are those that are published.
var eventNames = []string{"messages", "message_status", "read", "message_template_status", "account"}

// faults says in which ways a delivery is not as published.
func (r *receiver) faults(req *http.Request, d delivered) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if req.Method != http.MethodPost || "http://"+req.Host+req.RequestURI != strings.Replace(r.url, "https://", "http://", 1) {
		fault("%s to another place", req.Method)
	}
	if !eventID.MatchString(d.id) || !slices.Contains(eventNames, d.event) {
		fault("webhook-id %q, event %q", d.id, d.event)
	}
	want := map[string]string{"Content-Type": "application/json", "User-Agent": "caddy-whatsapp-gateway", "Authorization": "Bearer " + r.secret}
	if r.secret == "" {
		want["Authorization"], want["Webhook-Signature"] = "", ""
	}
	maps.Copy(want, r.header)
	for name, value := range want {
		if got := strings.Join(d.header.Values(name), ", "); got != value {
			fault("header %s is not as it should be", name)
		}
	}
	if r.secret != "" {
		verifier, err := r.verifier()
		if err == nil {
			err = verifier.Verify([]byte(d.body), d.header)
		}
		if err != nil {
			fault("%v", err)
		}
	}
	var envelope struct {
		Object string
		Entry  []struct{ Changes []json.RawMessage }
	}
	if err := json.Unmarshal([]byte(d.body), &envelope); err != nil || envelope.Object == "" ||
		len(envelope.Entry) != 1 || len(envelope.Entry[0].Changes) != 1 {
		fault("a body that is not an envelope with one change")
	}
	return faults
}

// verifier is Standard Webhooks' own.
func (r *receiver) verifier() (*standardwebhooks.Webhook, error) {
	if strings.HasPrefix(r.secret, "whsec_") {
		return standardwebhooks.NewWebhook(r.secret)
	}
	return standardwebhooks.NewWebhookRaw([]byte(r.secret))
}

// answerWith says what the endpoint answers from now on. The function may block.
func (r *receiver) answerWith(answer func(delivered) reply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

// answerAlways says so for all deliveries.
func (r *receiver) answerAlways(status int) {
	r.answerWith(func(delivered) reply { return reply{status: status} })
}

// hang is an answer that does not come.
func hang(d delivered) reply {
	<-d.gone
	return reply{status: http.StatusInternalServerError}
}

// received returns all deliveries so far, whatever they were answered.
func (r *receiver) received() []delivered {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.attempts)
}

// counted is how many deliveries have come so far, and how many of them were taken.
func (r *receiver) counted() (attempts, taken int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.attempts), len(r.taken)
}

// dialled is how many connections have come so far.
func (r *receiver) dialled() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.connections
}

// await waits until so many deliveries were taken, and returns all that were.
func (r *receiver) await(t testing.TB, n int) []delivered {
	t.Helper()
	eventually(t, fmt.Sprint(n, " events to be delivered"), func() error {
		if _, taken := r.counted(); taken < n {
			return fmt.Errorf("%d were", taken)
		}
		return nil
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.taken)
}

// awaitAttempts waits until so many deliveries have come, and returns all that have.
func (r *receiver) awaitAttempts(t testing.TB, n int) []delivered {
	t.Helper()
	eventually(t, fmt.Sprint(n, " attempts"), func() error {
		if attempts, _ := r.counted(); attempts < n {
			return fmt.Errorf("there were %d", attempts)
		}
		return nil
	})
	return r.received()
}

// one waits for a delivery and fails the test unless it is the only one taken.
func (r *receiver) one(t testing.TB) delivered {
	t.Helper()
	taken := r.await(t, 1)
	if len(taken) != 1 {
		t.Fatalf("%d events were delivered", len(taken))
	}
	return taken[0]
}
