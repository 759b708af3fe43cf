package delivery

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// serve makes an inbox an endpoint.
func serve(t testing.TB, b *inbox) (url string) {
	t.Helper()
	return endpointServer(t, b.ServeHTTP).URL
}

func TestEveryEventIsDeliveredOnce(t *testing.T) {
	s := openStore(t, nil)
	b := newInbox(always(http.StatusOK))
	addApp(t, s, "app_1", tenant.Webhook{URL: serve(t, b)})
	ids := receive(t, s, "app_1", 300)
	// Two workers are at it for a while when the configuration is reloaded.
	one, two := quick(Config{PerEndpoint: 4}, s, nil), quick(Config{PerEndpoint: 4}, s, nil)
	stopOne, stopTwo := run(t, one), run(t, two)
	b.waitFor(t, ids)
	stopOne()
	ids = append(ids, receive(t, s, "app_1", 100)...)
	b.waitFor(t, ids)
	stopTwo()
	for id, times := range b.arrived {
		if times != 1 {
			t.Errorf("%s was delivered %d times", id, times)
		}
	}
	if rest := left(t, s); len(rest) > 0 || len(b.arrived) != len(ids) {
		t.Errorf("%d arrived of %d, %d are left", len(b.arrived), len(ids), len(rest))
	}
	if b.most > 8 {
		t.Errorf("%d attempts at a time", b.most)
	}
}

func TestHangingEndpointDelaysNoOther(t *testing.T) {
	s := openStore(t, nil)
	hanging, healthy := newInbox(nil), newInbox(always(http.StatusOK))
	released := make(chan struct{})
	hanging.answer = func(*http.Request) int {
		<-released
		return http.StatusOK
	}
	addApp(t, s, "app_hanging", tenant.Webhook{URL: serve(t, hanging)})
	addApp(t, s, "app_healthy", tenant.Webhook{URL: serve(t, healthy)})
	receive(t, s, "app_hanging", 100)
	w := quick(Config{Concurrency: 24, PerEndpoint: 16}, s, nil)
	stop := run(t, w)
	hanging.wait(t, "the hanging endpoint had all its slots", func() bool { return hanging.underWay == 16 })
	ids := receive(t, s, "app_healthy", 100)
	w.Wake("app_healthy", "app_hanging")
	healthy.waitFor(t, ids)
	if requests, _, most := hanging.tally(); requests != 16 || most != 16 {
		t.Errorf("%d attempts at the hanging endpoint, %d at a time", requests, most)
	}
	close(released)
	hanging.wait(t, "the hanging endpoint went on", func() bool { return len(hanging.arrived) == 100 })
	stop()
	if rest := left(t, s); len(rest) > 0 {
		t.Errorf("%d events are left", len(rest))
	}
}

func TestConcurrencyIsLimitedOverall(t *testing.T) {
	s := openStore(t, nil)
	b := newInbox(always(http.StatusOK))
	url := serve(t, b)
	var ids []store.EventID
	for _, app := range []tenant.AppID{"app_1", "app_2", "app_3"} {
		addApp(t, s, app, tenant.Webhook{URL: url})
		ids = append(ids, receive(t, s, app, 30)...)
	}
	run(t, quick(Config{Concurrency: 4, PerEndpoint: 3}, s, nil))
	b.waitFor(t, ids)
	if _, _, most := b.tally(); most > 4 {
		t.Errorf("%d attempts at a time", most)
	}
}

func TestFailedEventIsTriedAgain(t *testing.T) {
	s := openStore(t, nil)
	b := newInbox(nil)
	b.answer = func(*http.Request) int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return []int{500, 302, 404, 200}[b.requests-1]
	}
	addApp(t, s, "app_1", tenant.Webhook{URL: serve(t, b)})
	receive(t, s, "app_1", 1)
	var mu sync.Mutex
	var outcomes []store.AttemptResult
	stop := run(t, quick(Config{Retry: []time.Duration{1, 1, 1}}, s, func(o Outcome) {
		mu.Lock()
		defer mu.Unlock()
		outcomes = append(outcomes, o.Result)
		if o.Events != 1 || o.Duration <= 0 {
			t.Errorf("%+v", o)
		}
	}))
	b.wait(t, "the fourth attempt", func() bool { return b.requests == 4 })
	stop()
	if rest := left(t, s); len(rest) > 0 {
		t.Errorf("%+v is left", rest)
	}
	if want := []store.AttemptResult{store.Failed, store.Failed, store.Failed, store.Delivered}; !slices.Equal(outcomes, want) {
		t.Errorf("the outcomes are %v", outcomes)
	}
}

func TestEventIsGivenUpAfterItsLastAttempt(t *testing.T) {
	s := openStore(t, nil)
	b := newInbox(always(http.StatusBadGateway))
	addApp(t, s, "app_1", tenant.Webhook{URL: serve(t, b)})
	receive(t, s, "app_1", 2)
	given := make(chan struct{}, 2)
	stop := run(t, quick(Config{Retry: []time.Duration{1, 1}}, s, func(o Outcome) {
		if o.Result == store.GivenUp {
			given <- struct{}{}
		}
	}))
	<-given
	<-given
	stop()
	for _, e := range left(t, s) {
		if e.State != store.Dead || e.Attempts != 3 || e.LastError != "status 502" || b.arrived[e.ID] != 3 {
			t.Errorf("%+v arrived %d times", e, b.arrived[e.ID])
		}
	}
}

func TestRetryAfterPutsOffTheNextAttempt(t *testing.T) {
	s := openStore(t, nil)
	endpoint := endpointServer(t, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Retry-After", "600")
		rw.WriteHeader(http.StatusTooManyRequests)
	})
	addApp(t, s, "app_1", tenant.Webhook{URL: endpoint.URL})
	receive(t, s, "app_1", 1)
	failed := make(chan struct{})
	began := time.Now()
	stop := run(t, quick(Config{Retry: []time.Duration{1}}, s, func(Outcome) { close(failed) }))
	<-failed
	stop()
	if e := left(t, s)[0]; e.NextAttemptAt.Before(began.Add(600*time.Second)) || e.NextAttemptAt.After(time.Now().Add(600*time.Second)) {
		t.Errorf("due again %v after the start", e.NextAttemptAt.Sub(began))
	}
}

func TestGoneEndpointIsDisabled(t *testing.T) {
	s := openStore(t, nil)
	b := newInbox(always(http.StatusGone))
	addApp(t, s, "app_1", tenant.Webhook{URL: serve(t, b), Secret: "secret"})
	receive(t, s, "app_1", 50)
	buried := make(chan int, 100)
	w := quick(Config{PerEndpoint: 1}, s, func(o Outcome) { buried <- o.Events })
	stop := run(t, w)
	for n := 0; n < 50; {
		n += <-buried
	}
	receive(t, s, "app_1", 5) // too late
	for n := 0; n < 5; {
		n += <-buried
	}
	stop()
	app, err := s.App(t.Context(), "app_1")
	if err != nil || app.Webhook.DisabledAt == nil || app.Webhook.Secret != "secret" {
		t.Errorf("%+v, %v", app.Webhook, err)
	}
	if b.requests != 1 {
		t.Errorf("%d requests", b.requests)
	}
	reasons := make(map[string]int)
	for _, e := range left(t, s) {
		reasons[string(e.State)+": "+e.LastError]++
	}
	if reasons["dead: status 410"] != 1 || reasons["dead: "+whyDisabled] != 54 {
		t.Errorf("%v", reasons)
	}
}

func TestGoneEndpointThatWasReplacedDisablesNothing(t *testing.T) {
	s := openStore(t, nil)
	replacement := newInbox(always(http.StatusOK))
	url := serve(t, replacement)
	old := newInbox(func(*http.Request) int {
		setURL(t, s, "app_1", url)
		return http.StatusGone
	})
	addApp(t, s, "app_1", tenant.Webhook{URL: serve(t, old)})
	ids := receive(t, s, "app_1", 1)
	stop := run(t, quick(Config{Retry: []time.Duration{1}}, s, nil))
	replacement.waitFor(t, ids)
	stop()
	if app, err := s.App(t.Context(), "app_1"); err != nil || app.Webhook.DisabledAt != nil {
		t.Errorf("%+v, %v", app.Webhook, err)
	}
}

func TestEventsWithoutEndpointAreBuried(t *testing.T) {
	s := openStore(t, nil)
	if err := s.CreateApp(t.Context(), tenant.App{ID: "app_none", CreatedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	addApp(t, s, "app_empty", tenant.Webhook{Secret: "secret"})
	want := map[tenant.AppID]string{"app_none": whyNoURL, "app_empty": whyNoURL, "app_unknown": whyNoApp}
	for app := range want {
		receive(t, s, app, 2)
	}
	buried := make(chan int, 10)
	stop := run(t, quick(Config{}, s, func(o Outcome) { buried <- o.Events }))
	for n := 0; n < 6; {
		n += <-buried
	}
	stop()
	for _, e := range left(t, s) {
		if e.State != store.Dead || e.LastError != want[e.App] {
			t.Errorf("%+v", e)
		}
	}
}

func TestWakeNeedsNoLookOver(t *testing.T) {
	s := openStore(t, nil)
	b := newInbox(always(http.StatusOK))
	addApp(t, s, "app_1", tenant.Webhook{URL: serve(t, b)})
	addApp(t, s, "app_2", tenant.Webhook{URL: serve(t, b)})
	w := quick(Config{}, s, nil)
	w.Wake("app_1", "app_unknown") // before it works
	ids := receive(t, s, "app_1", 1)
	w.interval = time.Hour
	stop := run(t, w)
	b.waitFor(t, ids) // by the first look-over
	for range 20 {
		ids = receive(t, s, "app_2", 3)
		w.Wake("app_2")
		b.waitFor(t, ids)
	}
	stop()
	w.Wake("app_1") // when it works no more
}

func TestRunEndsAfterWhatIsUnderWay(t *testing.T) {
	s := openStore(t, nil)
	b := newInbox(nil)
	released := make(chan struct{})
	b.answer = func(*http.Request) int {
		<-released
		return http.StatusOK
	}
	addApp(t, s, "app_1", tenant.Webhook{URL: serve(t, b)})
	receive(t, s, "app_1", 10)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	before := goleak.IgnoreCurrent()
	w := quick(Config{PerEndpoint: 3}, s, nil)
	go func() {
		defer close(ended)
		w.Run(ctx)
	}()
	b.wait(t, "all slots were taken", func() bool { return b.underWay == 3 })
	cancel()
	w.Wake("app_1")
	select {
	case <-ended:
		t.Error("Run returned with attempts under way")
	default:
	}
	close(released)
	<-ended
	if rest := left(t, s); len(rest) != 7 || b.requests != 3 {
		t.Errorf("after %d requests %d events are left", b.requests, len(rest))
	}
	if claimed, _, err := s.Claim(t.Context(), "app_1", 10, time.Minute); err != nil || len(claimed) != 7 {
		t.Errorf("%d can be claimed, %v", len(claimed), err)
	}
	goleak.VerifyNone(t, before, serverSide)
}

// serverSide are goroutines of a test's servers.
var serverSide = goleak.IgnoreAnyFunction("net/http.(*conn).serve")

func TestRunWaitsForHangingAttemptsNoLongerThanTheirTimeout(t *testing.T) {
	s := openStore(t, nil)
	started := make(chan struct{}, 100)
	addApp(t, s, "app_1", tenant.Webhook{URL: endpointServer(t, func(rw http.ResponseWriter, r *http.Request) {
		started <- struct{}{}
		hang(rw, r)
	}).URL})
	receive(t, s, "app_1", 20)
	before := goleak.IgnoreCurrent()
	stop := run(t, quick(Config{Timeout: 100 * time.Millisecond, PerEndpoint: 5}, s, nil))
	<-started
	stop()
	goleak.VerifyNone(t, before, serverSide)
	failed := 0
	for _, e := range left(t, s) {
		if e.State != store.Pending {
			t.Errorf("%+v", e)
		}
		failed += e.Attempts
	}
	if failed == 0 {
		t.Error("the attempt under way was not recorded")
	}
	if claimed, _, err := s.Claim(t.Context(), "app_1", 20, time.Minute); err != nil || len(claimed) != 20-failed {
		t.Errorf("%d failed, %d can be claimed, %v", failed, len(claimed), err)
	}
}

func TestClaimsOfAKilledWorkerAreTakenUpAgain(t *testing.T) {
	var ahead atomic.Int64
	s := openStore(t, func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	b := newInbox(always(http.StatusOK))
	addApp(t, s, "app_1", tenant.Webhook{URL: serve(t, b)})
	killed := receive(t, s, "app_1", 10)
	if claimed, _, err := s.Claim(t.Context(), "app_1", 10, time.Hour); err != nil || len(claimed) != 10 {
		t.Fatalf("%d claimed, %v", len(claimed), err)
	}
	others := receive(t, s, "app_1", 10)
	stop := run(t, quick(Config{}, s, nil))
	b.waitFor(t, others)
	if _, arrived, _ := b.tally(); arrived != 10 {
		t.Errorf("%d arrived while 10 are claimed", arrived)
	}
	ahead.Store(int64(time.Hour))
	b.waitFor(t, killed)
	stop()
	if rest := left(t, s); len(rest) > 0 {
		t.Errorf("%d events are left", len(rest))
	}
}
