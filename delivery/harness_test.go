package delivery

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/sqlite"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// openStore opens an empty store until the test ends.
func openStore(t testing.TB, clock func() time.Time) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "gateway.db"), sqlite.Options{Exclusive: true, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// addApp makes an app with a webhook.
func addApp(t testing.TB, s *sqlite.Store, id tenant.AppID, hook tenant.Webhook) {
	t.Helper()
	if err := s.CreateApp(t.Context(), tenant.App{ID: id, Webhook: &hook, CreatedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
}

// setURL gives an app another endpoint.
func setURL(t testing.TB, s *sqlite.Store, id tenant.AppID, url string) {
	t.Helper()
	_, err := s.UpdateApp(context.Background(), id, func(a *tenant.App) error {
		a.Webhook = &tenant.Webhook{URL: url}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// receive stores n new events of an app.
func receive(t testing.TB, s *sqlite.Store, app tenant.AppID, n int) []store.EventID {
	t.Helper()
	events := make([]store.Event, n)
	ids := make([]store.EventID, n)
	for i := range events {
		ids[i] = store.NewEventID()
		events[i] = store.Event{ID: ids[i], App: app, Name: tenant.EventMessages, Payload: []byte(`{"entry":[]}`), State: store.Pending}
	}
	if _, err := s.Receive(t.Context(), events, nil); err != nil {
		t.Fatal(err)
	}
	return ids
}

// left returns what is in the outbox.
func left(t testing.TB, s *sqlite.Store) []store.Event {
	t.Helper()
	var events []store.Event
	for e, err := range s.Events(t.Context(), store.EventFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}

// quick is a worker that looks over the outbox often.
func quick(c Config, s Store, observe func(Outcome)) *Worker {
	c.AllowPrivateTargets = true
	if c.Timeout == 0 {
		c.Timeout = ample
	}
	w := New(c, s, zap.NewNop(), observe)
	w.interval, w.patience = time.Millisecond, 0
	return w
}

// run has a worker work until stop is called, which waits for its end, or the
// test ends.
func run(t testing.TB, w *Worker) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(stop)
	return stop
}

// inbox is an endpoint that tells what arrived.
type inbox struct {
	answer func(*http.Request) int

	mu       sync.Mutex
	arrived  map[store.EventID]int
	requests int
	underWay int
	most     int // that were under way at a time
	changed  chan struct{}
}

func newInbox(answer func(*http.Request) int) *inbox {
	return &inbox{answer: answer, arrived: make(map[store.EventID]int), changed: make(chan struct{})}
}

// always answers every request with the same status.
func always(status int) func(*http.Request) int { return func(*http.Request) int { return status } }

// ServeHTTP implements http.Handler.
func (b *inbox) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	b.note(func() {
		b.requests++
		b.arrived[store.EventID(r.Header.Get("webhook-id"))]++
		b.underWay++
		b.most = max(b.most, b.underWay)
	})
	status := b.answer(r)
	b.note(func() { b.underWay-- })
	rw.WriteHeader(status)
}

func (b *inbox) note(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
	close(b.changed)
	b.changed = make(chan struct{})
}

// tally returns how many requests there were, of how many events, and how many
// were under way at a time since the last call.
func (b *inbox) tally() (requests, events, most int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	most, b.most = b.most, b.underWay
	return b.requests, len(b.arrived), most
}

// wait waits until a condition on what arrived holds.
func (b *inbox) wait(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for {
		b.mu.Lock()
		ok, changed := holds(), b.changed
		b.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-t.Context().Done():
			t.Fatalf("the test ended before %s", what)
		}
	}
}

// waitFor waits until each of these has arrived.
func (b *inbox) waitFor(t testing.TB, ids []store.EventID) {
	t.Helper()
	b.wait(t, "all events arrived", func() bool {
		return !slices.ContainsFunc(ids, func(id store.EventID) bool { return b.arrived[id] == 0 })
	})
}

// wire is a network of one host in the memory of the process, so that time can
// stand still while nothing happens on it.
type wire struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// Accept implements net.Listener.
func (l *wire) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *wire) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *wire) Addr() net.Addr { return new(net.UnixAddr) }

// overWire connects a worker to a handler, whatever the URL. The caller stops
// the server after the worker.
func overWire(w *Worker, h http.Handler) (stop func()) {
	l := &wire{conns: make(chan net.Conn), closed: make(chan struct{})}
	w.transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		select {
		case l.conns <- theirs:
			return ours, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	server := &http.Server{Handler: h}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			panic(err)
		}
	}()
	return func() {
		server.Close()
		<-ended
	}
}
