package metasim

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

const appSecret = "app0secret"

// receiver is where a simulator's webhooks go.
type receiver struct {
	*httptest.Server
	t *testing.T
	// answer is the status of all answers.
	answer atomic.Int32
	got    chan received
}

// received is one webhook.
type received struct {
	header   http.Header
	path     string
	body     []byte
	answered int
}

// newReceiver answers 200 until it is told otherwise. It checks every
// signature.
func newReceiver(t *testing.T) *receiver {
	t.Helper()
	h := &receiver{t: t, got: make(chan received, 10_000)}
	h.answer.Store(http.StatusOK)
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the simulator has been stopped
		}
		mac := hmac.New(sha256.New, []byte(appSecret))
		mac.Write(body)
		if got, want := r.Header.Get("X-Hub-Signature-256"), "sha256="+hex.EncodeToString(mac.Sum(nil)); got != want {
			t.Errorf("signature is %q, want %q", got, want)
		}
		status := int(h.answer.Load())
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		h.got <- received{header: r.Header, path: r.Method + " " + r.RequestURI, body: body, answered: status}
	}))
	t.Cleanup(h.Close)
	return h
}

// webhook is a configuration that sends here.
func (h *receiver) webhook() *Webhook { return &Webhook{URL: h.URL + "/hook", AppSecret: appSecret} }

// next waits for a webhook.
func (h *receiver) next() received {
	h.t.Helper()
	select {
	case got := <-h.got:
		return got
	case <-time.After(10 * time.Second):
		h.t.Fatal("no webhook has come")
		panic("unreachable")
	}
}

// statuses waits for so many webhooks and returns what each says.
func (h *receiver) statuses(n int) (all []status) {
	h.t.Helper()
	for range n {
		all = append(all, h.next().status(h.t))
	}
	return all
}

// value is the one change in a webhook.
func (r received) value(t *testing.T) value {
	t.Helper()
	var n notification
	if err := json.Unmarshal(r.body, &n); err != nil {
		t.Fatalf("%v in %q", err, r.body)
	}
	if len(n.Entry) != 1 || len(n.Entry[0].Changes) != 1 {
		t.Fatalf("not one change in %q", r.body)
	}
	return n.Entry[0].Changes[0].Value
}

// status is the one status in a webhook.
func (r received) status(t *testing.T) status {
	t.Helper()
	v := r.value(t)
	if len(v.Statuses) != 1 {
		t.Fatalf("not one status in %q", r.body)
	}
	return v.Statuses[0]
}

// short is a status in a word, with "+" where it has a price that is billable
// and "-" where the price is not.
func (s status) short() string {
	switch {
	case s.Pricing == nil:
		return s.Status
	case s.Pricing.Billable:
		return s.Status + "+"
	}
	return s.Status + "-"
}
