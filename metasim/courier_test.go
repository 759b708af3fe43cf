package metasim

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

// ownCourier returns a courier that retries soon.
func ownCourier(t *testing.T) *courier {
	t.Helper()
	c := newCourier()
	c.firstDelay = time.Millisecond
	t.Cleanup(func() { _ = c.Destruct() })
	return c
}

// saying is a webhook with this body.
func saying(to *Webhook, body string) delivery {
	return delivery{to: to, body: func() []byte { return []byte(body) }}
}

func TestWebhookIsRepeatedUntilItIsTaken(t *testing.T) {
	hook := newReceiver(t)
	// A redirect is an answer like any other that is not 2xx.
	statuses := []int{500, 302, 404, 204}
	c := ownCourier(t)
	c.attempts = 1000 // this test may be slow in changing the answer
	hook.answer.Store(int32(statuses[0]))
	c.bring(saying(hook.webhook(), "{}"))
	for i, status := range statuses {
		got := hook.next()
		// The next attempt may be on its way before the answer is changed.
		for got.answered != status {
			got = hook.next()
		}
		if string(got.body) != "{}" || got.path != "POST /hook" {
			t.Errorf("attempt %d is %s with %q", i, got.path, got.body)
		}
		if i+1 < len(statuses) {
			hook.answer.Store(int32(statuses[i+1]))
		}
	}
	waitFor(t, func() bool { return c.tell().Pending == 0 })
	got := c.tell()
	if got.Sent != 1 || got.Failed != 0 || got.Retried < 3 || got.LastError != "status 404" {
		t.Errorf("counted %+v", got)
	}
}

// TestFirstAttemptsAreInOrder refuses the first webhook of a message once.
func TestFirstAttemptsAreInOrder(t *testing.T) {
	var refused atomic.Bool
	bodies := make(chan string, 4)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) == "1" && refused.CompareAndSwap(false, true) {
			w.WriteHeader(http.StatusInternalServerError)
		}
		bodies <- string(body)
	}))
	defer hook.Close()
	c := ownCourier(t)
	to := &Webhook{URL: hook.URL, AppSecret: appSecret}
	c.bring(saying(to, "1"), saying(to, "2"), saying(to, "3"))
	var firsts []string
	seen := map[string]int{}
	for range 4 {
		body := <-bodies
		if seen[body]++; seen[body] == 1 {
			firsts = append(firsts, body)
		}
	}
	if diff := cmp.Diff([]string{"1", "2", "3"}, firsts); diff != "" {
		t.Error(diff)
	}
	if seen["1"] != 2 {
		t.Errorf("got %v", seen)
	}
}

func TestWebhookIsGivenUpAtLast(t *testing.T) {
	hook := newReceiver(t)
	hook.answer.Store(http.StatusForbidden)
	c := ownCourier(t)
	c.attempts = 3
	c.bring(saying(hook.webhook(), "{}"))
	waitFor(t, func() bool { return c.tell().Pending == 0 })
	want := webhookCounts{Retried: 2, Failed: 1, LastError: "status 403"}
	if diff := cmp.Diff(want, c.tell()); diff != "" {
		t.Error(diff)
	}
	if got := len(hook.got); got != 3 {
		t.Errorf("%d attempts", got)
	}
	c.forget()
	if diff := cmp.Diff(webhookCounts{}, c.tell()); diff != "" {
		t.Error(diff)
	}
}

func TestReceiverThatIsDown(t *testing.T) {
	c := ownCourier(t)
	c.attempts = 2
	secretURL := "http://user:hidden@" + freeAddress(t) + "/"
	c.bring(saying(&Webhook{URL: secretURL, AppSecret: appSecret}, "{}"))
	waitFor(t, func() bool { return c.tell().Pending == 0 })
	want := webhookCounts{Retried: 1, Failed: 1, LastError: "no answer"}
	if diff := cmp.Diff(want, c.tell()); diff != "" {
		t.Error(diff)
	}
}

func TestWhatDoesNotFitIsDropped(t *testing.T) {
	release := make(chan struct{})
	hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer hook.Close()
	c := ownCourier(t)
	c.limit = 4
	to := &Webhook{URL: hook.URL, AppSecret: appSecret}
	one := saying(to, "{}")
	for i, want := range []bool{true, false, true, false} {
		if got := c.bring([][]delivery{{one, one, one}, {one, one}, {one}, {one}}[i]...); got != want {
			t.Errorf("sequence %d is taken: %t", i, got)
		}
	}
	if got := c.tell(); got.Failed != 3 || got.Pending != 4 {
		t.Errorf("counted %+v", got)
	}
	close(release)
	waitFor(t, func() bool { return c.tell().Pending == 0 })
	if got := c.tell(); got.Sent != 4 || got.Failed != 3 {
		t.Errorf("counted %+v", got)
	}
}

func TestSixteenAreUnderWayAtMost(t *testing.T) {
	release := make(chan struct{})
	var now, most atomic.Int32
	hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		<-release
	}))
	defer hook.Close()
	c := ownCourier(t)
	to := &Webhook{URL: hook.URL, AppSecret: appSecret}
	for range 50 {
		c.bring(saying(to, "{}"))
	}
	waitFor(t, func() bool { return now.Load() == maxAtOnce })
	close(release)
	waitFor(t, func() bool { return c.tell().Sent == 50 })
	if got := most.Load(); got != maxAtOnce {
		t.Errorf("%d at once", got)
	}
}

func TestEndlessAnswerIsNotReadToItsEnd(t *testing.T) {
	written := make(chan int, 1)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		total, block := 0, bytes.Repeat([]byte("x"), 64<<10)
		for {
			n, err := w.Write(block)
			if total += n; err != nil {
				written <- total
				return
			}
		}
	}))
	defer hook.Close()
	c := ownCourier(t)
	c.bring(saying(&Webhook{URL: hook.URL, AppSecret: appSecret}, "{}"))
	const buffers = 64 << 20 // far more than those of sockets, far less than 10 seconds bring
	if total := <-written; total > buffers {
		t.Errorf("%d bytes were taken", total)
	}
	waitFor(t, func() bool { return c.tell().Sent == 1 })
}

func TestRetryDelays(t *testing.T) {
	var total time.Duration
	var got []time.Duration
	for n := 1; n < maxAttempts; n++ {
		delay := retryDelay(firstRetryDelay, n)
		total += delay
		got = append(got, delay/time.Millisecond)
	}
	if diff := cmp.Diff([]time.Duration{100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000}, got); diff != "" {
		t.Error(diff)
	}
	if total > 2*time.Minute {
		t.Errorf("all together are %v", total)
	}
}

// TestNothingIsLeftAfterTheLastCleanup stops a simulator while webhooks are under
// way, one waits for its next attempt and more are queued.
func TestNothingIsLeftAfterTheLastCleanup(t *testing.T) {
	reached := make(chan struct{}, 1000)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil && bytes.Contains(body, []byte(`"15550104477"`)) {
			w.WriteHeader(http.StatusInternalServerError)
			reached <- struct{}{}
			return
		}
		reached <- struct{}{}
		<-r.Context().Done()
	}))
	defer hook.Close()
	before := goleak.IgnoreCurrent()
	sims := []*MetaSimulator{{Webhook: &Webhook{URL: hook.URL, AppSecret: appSecret}}, {}}
	for _, sim := range sims {
		if err := sim.Provision(caddy.Context{}); err != nil {
			t.Fatal(err)
		}
	}
	if sims[0].courier != sims[1].courier {
		t.Error("two simulators have two couriers")
	}
	x := &exchange{phoneNumberID: phoneID, message: message{to: "15550104477"}}
	c := sims[0].courier
	c.bring(newReport(x, false).deliveries(sims[0].Webhook, []step{stepSent})...)
	<-reached
	x.message.to = "15550105588"
	for range 2 * maxAtOnce {
		c.bring(newReport(x, false).deliveries(sims[0].Webhook, usualCourse.steps)...)
	}
	for range maxAtOnce - 1 { // one worker may have the retry
		<-reached
	}
	// All connections are in use, so that this one leaves another behind.
	if _, err := c.post(t.Context(), sims[0].Webhook, []byte(`"15550104477"`)); err != nil {
		t.Error(err)
	}
	if err := sims[0].Cleanup(); err != nil {
		t.Error(err)
	}
	if c.open.Err() != nil {
		t.Error("the courier was closed though a simulator has it")
	}
	if err := sims[1].Cleanup(); err != nil {
		t.Error(err)
	}
	if c.bring(saying(sims[0].Webhook, "{}")) {
		t.Error("a closed courier takes a webhook")
	}
	if c.open.Err() == nil {
		t.Error("what is under way goes on")
	}
	waitFor(t, func() bool { return goleak.Find(before) == nil })
}

func TestWebhookThatIsClosedInMidAttempt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		cancel()
		<-r.Context().Done()
	}))
	defer hook.Close()
	c := ownCourier(t)
	if _, err := c.post(ctx, &Webhook{URL: hook.URL + "/hidden", AppSecret: appSecret}, nil); err == nil || strings.Contains(err.Error(), "hidden") {
		t.Errorf("got %v", err)
	}
}
