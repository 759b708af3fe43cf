package redis

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// gatewayOn opens a store as a gateway does, which does not wait for long, and the books.
func gatewayOn(t testing.TB, server *redistest.Server) (*Store, *books) {
	t.Helper()
	o := testOptions(t, "single", "", server.URL())
	b := newBooks(t, o)
	o.Timeout = short
	return open(t, o), b
}

// served waits until a store makes holds, and captures the one that it made.
func (b *books) served(s *Store) {
	b.t.Helper()
	var id store.HoldID
	eventually(b.t, "redis serves", func() bool {
		a := b.admission()
		id = a.HoldID
		_, err := s.Admit(b.t.Context(), a)
		return err == nil
	})
	noError(b.t, eventuallyDone(b.t, func() error { return s.Capture(b.t.Context(), id, "wamid.served") }))
}

// eventuallyDone repeats a step as long as Redis is away, as its callers do.
func eventuallyDone(t testing.TB, step func() error) (err error) {
	t.Helper()
	eventually(t, "redis takes it", func() bool {
		err = step()
		return err == nil || ours(err)
	})
	return err
}

// nothingLeft waits until a store has given back what it has to.
func (s *Store) nothingLeft(t testing.TB) {
	t.Helper()
	eventually(t, "holds are given back", func() bool {
		s.forsake.mu.Lock()
		defer s.forsake.mu.Unlock()
		return len(s.forsake.holds) == 0
	})
}

func TestAStoreOpensWithoutRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	o := testOptions(t, "single", "", server.URL())
	b := newBooks(t, o)
	app, key := someApp(t, b.Store)
	server.Kill()

	o.Timeout = short
	s := open(t, o)
	forsaken := b.wantAway(s)
	if err := s.Capture(t.Context(), forsaken, "wamid.1"); err == nil || ours(err) {
		t.Errorf("capture: %v", err)
	}
	if _, err := s.Grant(t.Context(), key.Digest); err == nil || ours(err) {
		t.Errorf("grant: %v", err)
	}
	if _, err := s.AppsWithNumber(t.Context(), app.PhoneNumberID); err == nil || ours(err) {
		t.Errorf("apps: %v", err)
	}
	if _, err := s.Receive(t.Context(), outboxEvents(app.ID, 1), nil); err == nil || ours(err) {
		t.Errorf("receive: %v", err)
	}

	server.Start()
	b.served(s)
	s.nothingLeft(t)
	if st := b.audit(); len(st.Open) != 0 || st.Captured[forsaken] != "" {
		t.Errorf("the holds are %+v", st)
	}
	if g, err := s.Grant(t.Context(), key.Digest); err != nil || g.App.ID != app.ID {
		t.Errorf("grant: %v", err)
	}
}

func TestAHoldOutlastsRedisAndIsSettledOnce(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s, b := gatewayOn(t, server)
	other, _ := Open(t.Context(), Options{Connection: connectionTo(t, server), KeyPrefix: s.prefix, Timeout: short, Serving: true})
	t.Cleanup(func() { other.Close() })

	captured, released, elsewhere := b.hold(s), b.hold(s), b.hold(s)
	server.Kill()
	steps := []func() error{
		func() error { return s.Capture(t.Context(), captured, "wamid.1") },
		func() error { return s.Release(t.Context(), released) },
		func() error { return other.Capture(t.Context(), elsewhere, "wamid.2") },
	}
	for _, step := range steps {
		began := time.Now()
		if err := step(); err == nil || ours(err) {
			t.Errorf("without redis: %v", err)
		}
		if took := time.Since(began); took > soon {
			t.Errorf("it was answered after %v", took)
		}
	}
	server.Start()
	for range 2 {
		for _, step := range steps {
			noError(t, eventuallyDone(t, step))
		}
	}
	st := b.wantHolds(2, 1, 0)
	if st.Captured[captured] != "wamid.1" || st.Captured[elsewhere] != "wamid.2" || !st.Released[released] {
		t.Errorf("the holds are %+v", st)
	}
	wantError(t, "releasing what was captured", s.Release(t.Context(), captured), store.ErrConflict)
}

// What Redis has been sent before it froze it does when it thaws. Whoever asked has
// long been told that it is away.
func TestAHoldThatIsMadeTooLateIsGivenBack(t *testing.T) {
	t.Parallel()
	const callers = 10
	server := redistest.Start(t)
	s, b := gatewayOn(t, server)
	var warm sync.WaitGroup // as many connections as there will be callers
	for range callers {
		warm.Go(func() { _ = s.client.BLPop(t.Context(), 100*time.Millisecond, s.key("nothing")).Err() })
	}
	warm.Wait()
	b.hold(s)

	server.Freeze()
	ids := make([]store.HoldID, callers)
	var calls sync.WaitGroup
	for i := range callers {
		calls.Go(func() { ids[i] = b.wantAway(s) })
	}
	calls.Wait()
	server.Thaw()
	for _, id := range ids {
		eventually(t, "a hold is given back", func() bool {
			state := b.state(id)
			return state == "forsaken" || state == "release"
		})
	}

	st := b.audit()
	for _, id := range ids {
		if st.Open[id] || st.Captured[id] != "" {
			t.Errorf("a hold that was answered with an error is open or captured")
		}
	}
	if len(st.Open) != 1 {
		t.Errorf("%d holds are open, want the one of before", len(st.Open))
	}
	if len(st.Released) == 0 {
		t.Error("redis has made none of the holds after it thawed")
	}
	t.Logf("%d of %d holds were made after all, and given back", len(st.Released), callers)
	for _, id := range ids {
		if err := s.Capture(t.Context(), id, "wamid.1"); !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrConflict) {
			t.Errorf("capturing what was given back: %v", err)
		}
	}
	b.wantHolds(0, len(st.Released), 1)
}

func TestAHoldThatWasGivenUpIsNotMadeAfterwards(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s, b := gatewayOn(t, server)
	a := b.admission()
	before := b.audit()
	// The script that gives back is quicker than the one that makes the hold.
	s.forsake.add(a.HoldID, placeOf(a.Account))
	s.nothingLeft(t)
	eventually(t, "it is given up", func() bool { return b.state(a.HoldID) == "forsaken" })
	if d, err := s.Admit(t.Context(), a); !errors.Is(err, errForsaken) {
		t.Errorf("the late hold is answered %+v, %v", d, err)
	}
	s.nothingLeft(t)
	if after := b.audit(); len(after.Open)+len(after.Released) != len(before.Open)+len(before.Released) || b.state(a.HoldID) != "forsaken" {
		t.Errorf("the holds are %+v, and the state is %q", after, b.state(a.HoldID))
	}
	windows := command(t, server, "EXISTS", s.base(placeOf(a.Account))+"windows:"+string(a.App))
	if windows != int64(0) {
		t.Error("a hold that was not made counts in the windows")
	}
}

func TestACaptureThatIsMadeTooLateIsMadeOnce(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s, b := gatewayOn(t, server)
	captured, released := b.hold(s), b.hold(s)
	server.Freeze()
	capture := func() error { return s.Capture(t.Context(), captured, "wamid.1") }
	release := func() error { return s.Release(t.Context(), released) }
	for range 3 { // as the journal does
		for _, step := range []func() error{capture, release} {
			if err := step(); err == nil || ours(err) {
				t.Errorf("of a frozen redis: %v", err)
			}
		}
	}
	server.Thaw()
	for range 2 {
		noError(t, eventuallyDone(t, capture))
		noError(t, eventuallyDone(t, release))
	}
	if st := b.wantHolds(1, 1, 0); st.Captured[captured] != "wamid.1" || !st.Released[released] {
		t.Errorf("the holds are %+v", st)
	}
}

// The test is alone: it counts goroutines.
func TestNobodyHangsOnAFrozenRedis(t *testing.T) {
	const callers = 500
	server := redistest.Start(t)
	o := testOptions(t, "single", "", server.URL())
	b := newBooks(t, o)
	held := b.hold(b.Store)
	noError(t, b.Close())
	before := goleak.IgnoreCurrent()

	o.Timeout = short
	s, err := Open(t.Context(), o)
	noError(t, err)
	eventually(t, "redis serves", func() bool { _, err := s.Balance(t.Context(), b.account); return err == nil })
	server.Freeze()
	calls := []func() error{
		func() error { _, err := s.Admit(t.Context(), b.admission()); return err },
		func() error { return s.Capture(t.Context(), held, "wamid.1") },
		func() error { _, err := s.Balance(t.Context(), b.account); return err },
		func() error { _, err := s.Receive(t.Context(), outboxEvents("app_1", 1), nil); return err },
		func() error { _, err := s.InDoubt(t.Context(), time.Unix(0, 0), store.Captured); return err },
		func() error { _, err := s.Grant(t.Context(), tenant.KeyDigest{1}); return err },
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var longest time.Duration
	for i := range callers {
		all.Go(func() {
			began := time.Now()
			err := calls[i%len(calls)]()
			took := time.Since(began)
			mu.Lock()
			defer mu.Unlock()
			longest = max(longest, took)
			if err == nil || ours(err) {
				t.Errorf("call %d: %v", i%len(calls), err)
			}
		})
	}
	all.Wait()
	t.Logf("the last of %d callers had an answer after %v", callers, longest.Round(time.Millisecond))
	if longest > soon {
		t.Errorf("a caller waited for %v, at a timeout of %v", longest, short)
	}
	began := time.Now()
	noError(t, s.Close())
	if took := time.Since(began); took > soon {
		t.Errorf("closing took %v", took)
	}
	if err := s.Capture(t.Context(), held, "wamid.1"); !errors.Is(err, store.ErrClosed) {
		t.Errorf("after closing: %v", err)
	}
	// A pool of go-redis's that could not connect looks once a second whether it is closed.
	eventually(t, "all goroutines end", func() bool { return goleak.Find(before) == nil })
	server.Thaw()
}

func TestAGatewayWithoutRedisJudgesByItsShare(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s, b := gatewayOn(t, server)
	other, err := Open(t.Context(), Options{Connection: connectionTo(t, server), KeyPrefix: s.prefix, Timeout: short, Serving: true})
	noError(t, err)
	t.Cleanup(func() { other.Close() })
	eventually(t, "the gateways know of each other", func() bool { return s.share.gateways.Load() == 2 && other.share.gateways.Load() == 2 })
	server.Kill()

	a := b.admission()
	a.Limits = tenant.RateLimit{PerSecond: 1000, PerMinute: 10}
	const share = 5
	for i := range share {
		a.HoldID = store.NewHoldIDFor(b.account)
		d, err := s.Admit(t.Context(), a)
		if err == nil || ours(err) {
			t.Errorf("without redis: %v", err)
		}
		if !d.ByShare || d.Minute != (store.Quota{Limit: 10, Remaining: share - 1 - i}) || d.Second.Limit != 1000 {
			t.Errorf("decision %d is %+v", i, d)
		}
	}
	a.HoldID = store.NewHoldIDFor(b.account)
	d, err := s.Admit(t.Context(), a)
	if err != nil || !d.ByShare || d.Verdict != store.OverMinute || d.Minute != (store.Quota{Limit: 10}) {
		t.Errorf("beyond the share: %+v, %v", d, err)
	}
	a.App = tenant.AppID(tenant.NewID("app"))
	if d, err := s.Admit(t.Context(), a); err == nil || d.Minute.Remaining != share-1 {
		t.Errorf("another app: %+v, %v", d, err)
	}

	server.Start()
	b.served(s)
	s.nothingLeft(t)
	b.wantHolds(1, 0, 0)
}

func TestAnotherPrefixIsAnotherStore(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s, b := gatewayOn(t, server)
	app, key := someApp(t, s)
	held := b.hold(s)
	_, err := s.Receive(t.Context(), outboxEvents(app.ID, 1), nil)
	noError(t, err)
	other := open(t, testOptions(t, "single", "", server.URL()))
	before := contents(t, server, other.prefix)

	if d, err := other.Admit(t.Context(), b.admission()); err != nil || d.Verdict != store.NoAccount {
		t.Errorf("an admission is answered %+v, %v", d, err)
	}
	wantError(t, "capture", other.Capture(t.Context(), held, "wamid.1"), store.ErrNotFound)
	_, err = other.Grant(t.Context(), key.Digest)
	wantError(t, "grant", err, store.ErrNotFound)
	_, err = other.App(t.Context(), app.ID)
	wantError(t, "app", err, store.ErrNotFound)
	_, err = other.Balance(t.Context(), b.account)
	wantError(t, "balance", err, store.ErrNotFound)
	n, err := other.InDoubt(t.Context(), time.Now().Add(time.Hour), store.Captured)
	if n != 0 || err != nil {
		t.Errorf("%d holds are in doubt, %v", n, err)
	}
	if backlog, err := other.Backlog(t.Context()); len(backlog) != 0 || err != nil {
		t.Errorf("the backlog is %v, %v", backlog, err)
	}
	for _, key := range changed(before, contents(t, server, other.prefix)) {
		if !strings.Contains(key, "gateways") && !strings.Contains(key, ":home:") {
			t.Errorf("%s was written", key)
		}
	}
	b.wantHolds(0, 0, 1)
}

func TestStepsGoOnWhenScriptsAreForgotten(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s, b := gatewayOn(t, server)
	forgetting := func() *Store { server.FlushScripts(); return s }
	var messages []string
	for _, message := range []string{"wamid.1", "wamid.2", "wamid.3"} {
		id := b.hold(forgetting())
		noError(t, forgetting().Capture(t.Context(), id, message))
		messages = append(messages, message)
	}
	noError(t, forgetting().Release(t.Context(), b.hold(s)))
	b.hold(s)
	if n, err := forgetting().InDoubt(t.Context(), time.Now().Add(time.Hour), store.Captured); n != 1 || err != nil {
		t.Errorf("%d holds were in doubt, %v", n, err)
	}
	forgetting()
	results, err := s.Receive(t.Context(), nil, []store.Status{{MessageID: messages[0], TemplateFee: map[string]pricing.Micros{"USD": testFee}}})
	if err != nil || results[0].Fee != store.FeeCharged {
		t.Errorf("a status is answered %+v, %v", results, err)
	}
	// Another forgets them all the time.
	ctx, cancel := context.WithCancel(t.Context())
	var flusher sync.WaitGroup
	flusher.Go(func() {
		for ctx.Err() == nil {
			_, _ = server.Command("SCRIPT", "FLUSH", "SYNC")
		}
	})
	for range 50 {
		noError(t, s.Capture(t.Context(), b.hold(s), ""))
	}
	cancel()
	flusher.Wait()
	b.wantHolds(54, 1, 0)
}
