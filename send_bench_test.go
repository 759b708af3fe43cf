package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/deadline"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// benchAnswer is Meta's answer to every send of a benchmark.
const benchAnswer = `{"messaging_product":"whatsapp","contacts":[{"input":"+15550001111","wa_id":"15550001111"}],` +
	`"messages":[{"id":"wamid.HBgLMTU1NTAwMDExMTEVAgARGBI5QTNDQTVCM0Q0Q0Q2RTY3RTcA"}]}`

// benchBody is a send of this many bytes, or a few more.
func benchBody(size int) []byte {
	const before = `{"messaging_product":"whatsapp","recipient_type":"individual","to":"15550001111","type":"text","text":{"preview_url":false,"body":"`
	return []byte(before + strings.Repeat("x", max(0, size-len(before))) + `"}}`)
}

// quickGuest stands in for reverse_proxy and Meta: it hands the request to our
// transport, is answered at once, and allocates next to nothing.
type quickGuest struct {
	transport *Transport
	answer    http.Response
}

func newQuickGuest() *quickGuest {
	g := &quickGuest{answer: http.Response{StatusCode: http.StatusOK, Header: http.Header{
		"Content-Type": {"application/json"}, "Content-Length": {fmt.Sprint(len(benchAnswer))},
	}}}
	g.transport = &Transport{inner: g}
	return g
}

// RoundTrip implements http.RoundTripper.
func (g *quickGuest) RoundTrip(*http.Request) (*http.Response, error) { return &g.answer, nil }

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (g *quickGuest) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	answer, err := g.transport.RoundTrip(r)
	if err != nil {
		return err
	}
	w.WriteHeader(answer.StatusCode)
	_, err = w.Write(quickBody)
	return err
}

var quickBody = []byte(benchAnswer)

// quickWallet lets everything through at once.
type quickWallet struct{ store.Store }

func (quickWallet) Admit(_ context.Context, a store.Admission) (store.Decision, error) {
	return store.Decision{
		Second: store.Quota{Limit: a.Limits.PerSecond, Remaining: a.Limits.PerSecond - 1},
		Minute: store.Quota{Limit: a.Limits.PerMinute, Remaining: a.Limits.PerMinute - 1},
	}, nil
}

func (quickWallet) Capture(context.Context, store.HoldID, string) error { return nil }

// lane is a gateway whose guest answers at once, and who sends through it.
type lane struct {
	h    *Handler
	keys map[string]tenant.Key // by what is special about them
	// one after the other, what a client and Caddy would make anew
	content bytes.Reader
	header  http.Header
	answer  nullWriter
}

// nullWriter is the way back to a client that does not listen.
type nullWriter struct {
	header http.Header
	status int
}

func (w *nullWriter) Header() http.Header         { return w.header }
func (w *nullWriter) WriteHeader(status int)      { w.status = status }
func (w *nullWriter) Write(p []byte) (int, error) { return len(p), nil }

// SetReadDeadline is for [http.ResponseController].
func (w *nullWriter) SetReadDeadline(time.Time) error { return nil }

// newLane makes a gateway on a new database, with a wallet that lets everything
// through at once where it is to be quick.
func newLane(tb testing.TB, quick bool) *lane {
	tb.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	tb.Cleanup(cancel)
	path, err := json.Marshal(filepath.Join(tb.TempDir(), "gateway.db"))
	if err != nil {
		tb.Fatal(err)
	}
	a := &App{
		StoreRaw:  json.RawMessage(`{"backend":"sqlite","path":` + string(path) + `}`),
		RateLimit: &tenant.RateLimit{PerSecond: 1_000_000, PerMinute: 60_000_000},
	}
	if err := a.Provision(ctx); err != nil {
		tb.Fatal(err)
	}
	a.logger = zap.NewNop()
	if err := a.acquire(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(a.release)
	l := &lane{
		h: &Handler{
			app: a, meta: newQuickGuest(), logger: zap.NewNop(), reportsConnections: true,
			deadlines: deadline.New(defaultUpstreamTimeout), GraphVersion: defaultGraphVersion, MaxBodySize: defaultMaxBodySize, UpstreamTimeout: caddy.Duration(defaultUpstreamTimeout),
		},
		keys: make(map[string]tenant.Key), header: http.Header{"Authorization": nil}, answer: nullWriter{header: make(http.Header)},
	}
	l.fill(tb)
	if quick {
		a.store.Store = quickWallet{a.store.Store}
	}
	return l
}

// beside returns a lane for somebody else who sends through the same gateway.
func (l *lane) beside() *lane {
	return &lane{h: l.h, keys: l.keys, header: http.Header{"Authorization": make([]string, 1)}, answer: nullWriter{header: make(http.Header)}}
}

// fill makes an account with credit, one without, and their apps and keys.
func (l *lane) fill(tb testing.TB) {
	tb.Helper()
	a, ctx := l.h.app, tb.Context()
	pepper, ring, err := a.secrets()
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range []tenant.AccountID{"rich", "poor"} {
		if err := a.store.CreateAccount(ctx, tenant.Account{ID: name, Currency: "USD"}); err != nil {
			tb.Fatal(err)
		}
	}
	if _, err := a.store.Credit(ctx, "rich", 1_000_000_000_000_000, tenant.NewID("credit")); err != nil {
		tb.Fatal(err)
	}
	for name, app := range map[string]tenant.App{
		"good":           {AccountID: "rich"},
		"over the limit": {AccountID: "rich", RateLimit: &tenant.RateLimit{PerSecond: 1, PerMinute: 1}},
		"no balance":     {AccountID: "poor"},
		"no credentials": {AccountID: "rich", PhoneNumberID: "none"},
	} {
		app.ID = tenant.AppID("app_" + name)
		if app.PhoneNumberID == "" {
			app.PhoneNumberID = "106540352242922"
		}
		if app.AccessToken, err = ring.Seal(app.ID, strings.Repeat("EAAtoken", 25)); err != nil {
			tb.Fatal(err)
		}
		l.keys[name] = tenant.NewKey(false)
		key := tenant.APIKey{ID: tenant.KeyID("key_" + name), AppID: app.ID, Digest: pepper.Digest(l.keys[name])}
		if err := a.store.CreateApp(ctx, app); err != nil {
			tb.Fatal(err)
		}
		if err := a.store.CreateKey(ctx, key); err != nil {
			tb.Fatal(err)
		}
	}
	l.keys["unknown key"] = tenant.NewKey(false)
	l.keys["malformed key"] = "pk_" + tenant.Key(strings.Repeat("0", 36))
}

// request is what Caddy's server hands to the handler.
func (l *lane) request(authorization string, body []byte) *http.Request {
	l.header["Authorization"][0] = authorization
	l.content.Reset(body)
	clear(l.answer.header)
	r := &http.Request{
		Method: http.MethodPost, URL: messageURL, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: l.header,
		Body: io.NopCloser(&l.content), ContentLength: int64(len(body)), RemoteAddr: "127.0.0.1:12345", Host: "localhost", RequestURI: messagePath,
	}
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), &l.answer, benchServer)
}

var benchServer = new(caddyhttp.Server)

var messageURL = httptest.NewRequest(http.MethodPost, messagePath, nil).URL

// sending returns a function that sends once with the key of this name, and
// expects this status.
func (l *lane) sending(tb testing.TB, name string, body []byte, want int) func() {
	tb.Helper()
	authorization := bearer + string(l.keys[name])
	l.header["Authorization"] = make([]string, 1)
	return func() {
		r := l.request(authorization, body)
		if err := l.h.ServeHTTP(&l.answer, r, nil); err != nil || l.answer.status != want {
			tb.Fatalf("status %d, want %d: %v", l.answer.status, want, err)
		}
	}
}

// BenchmarkSend is a whole send without the network. What Caddy's server does to
// prepare a request is in it, and by itself in the first one.
func BenchmarkSend(b *testing.B) {
	b.Run("nothing but Caddy's preparation", func(b *testing.B) {
		l := newLane(b, true)
		l.header["Authorization"] = make([]string, 1)
		body := benchBody(300)
		b.ReportAllocs()
		for b.Loop() {
			l.request("", body)
		}
	})
	for _, size := range []int{300, 60 << 10} {
		for _, quick := range []bool{true, false} {
			wallet := "sqlite"
			if quick {
				wallet = "none"
			}
			b.Run(fmt.Sprintf("body=%d/wallet=%s", size, wallet), func(b *testing.B) {
				send := newLane(b, quick).sending(b, "good", benchBody(size), http.StatusOK)
				b.ReportAllocs()
				for b.Loop() {
					send()
				}
			})
		}
	}
}

// maxAllocations is how often a send may allocate, besides Caddy: in the pipeline and,
// while many send, in the store.
const maxAllocations = 40

func TestASendAllocatesLittle(t *testing.T) {
	if underRace {
		t.Skip("the race detector allocates, too")
	}
	l := newLane(t, false)
	body := benchBody(300)
	first := l.beside()
	caddys := testing.AllocsPerRun(100, func() { first.request("", body) })
	const senders, each = 64, 500
	var before, after runtime.MemStats
	send := func() {
		var all sync.WaitGroup
		for range senders {
			one := l.beside().sending(t, "good", body, http.StatusOK)
			all.Go(func() {
				for range each {
					one()
				}
			})
		}
		all.Wait()
	}
	send() // what is allocated once
	runtime.ReadMemStats(&before)
	send()
	runtime.ReadMemStats(&after)
	got := float64(after.Mallocs-before.Mallocs)/(senders*each) - caddys
	t.Logf("%.1f allocations a send, besides Caddy's %.0f", got, caddys)
	if got > maxAllocations {
		t.Errorf("%.1f allocations, which is more than %d", got, maxAllocations)
	}
}

// BenchmarkRefusal is a request that is refused.
func BenchmarkRefusal(b *testing.B) {
	for _, tc := range []struct {
		name   string
		body   []byte
		status int
	}{
		{"malformed key", benchBody(300), http.StatusUnauthorized},
		{"unknown key", benchBody(300), http.StatusUnauthorized},
		{"no credentials", benchBody(300), http.StatusUnauthorized},
		{"over the limit", benchBody(300), http.StatusTooManyRequests},
		{"no balance", benchBody(300), http.StatusPaymentRequired},
		{"good", []byte(`{"messaging_product":"whatsapp","type":"text"}`), http.StatusBadRequest},
	} {
		b.Run(strings.Replace(tc.name, "good", "bad body", 1), func(b *testing.B) {
			l := newLane(b, false)
			if tc.status == http.StatusTooManyRequests {
				l.sending(b, tc.name, tc.body, http.StatusOK)()
			}
			send := l.sending(b, tc.name, tc.body, tc.status)
			b.ReportAllocs()
			for b.Loop() {
				if tc.status == http.StatusTooManyRequests && b.Elapsed() > 50*time.Second {
					b.Fatal("the minute is over")
				}
				send()
			}
		})
	}
}

// BenchmarkStep is each step of a send by itself.
func BenchmarkStep(b *testing.B) {
	l := newLane(b, false)
	l.header["Authorization"] = make([]string, 1)
	authorization, body := bearer+string(l.keys["good"]), benchBody(300)
	fresh := &send{requestID: "id", start: time.Now()}
	r := l.request(authorization, body)
	for _, refusal := range []*failure{l.h.authenticate(r, fresh), l.h.examine(&l.answer, r, fresh)} {
		if refusal != nil {
			b.Fatal(refusal.code)
		}
	}
	pepper, ring, err := l.h.app.secrets()
	if err != nil {
		b.Fatal(err)
	}
	wallet := l.h.app.store.Store
	step := func(name string, f func(s *send) *failure) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s := *fresh
				if refusal := f(&s); refusal != nil {
					b.Fatal(refusal.code)
				}
			}
		})
	}
	step("digest", func(s *send) *failure { pepper.Digest(s.key); return nil })
	step("authenticate", func(s *send) *failure { return l.h.authenticate(r, s) })
	step("open", func(s *send) *failure { _, refusal := openCredentials(ring, &s.grant.App); return refusal })
	step("examine", func(s *send) *failure {
		l.content.Reset(body)
		return l.h.examine(&l.answer, r, s)
	})
	admit := func(s *send) *failure {
		refusal := l.h.admit(&l.answer, r, s, nil)
		l.h.app.store.end(s.hold)
		return refusal
	}
	step("admit/wallet=sqlite", admit)
	l.h.app.store.Store = quickWallet{wallet}
	step("admit/wallet=none", admit)
	step("forward", func(s *send) *failure { return l.h.forward(&l.answer, r, s) })
	step("judge", func(s *send) *failure {
		w := &recorder{header: make(http.Header)}
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(quickBody)
		return s.judge(w)
	})
	step("answer", func(s *send) *failure {
		s.answer = quickBody
		if err := s.writeSuccess(&l.answer); err != nil {
			b.Fatal(err)
		}
		return nil
	})
	l.h.app.store.Store = wallet
}
