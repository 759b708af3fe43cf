package gateway

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const (
	benchSecret = "an app secret"
	benchNumber = "1000000%02d"
)

// benchGateway returns a handler on a new database with apps whose events go to
// url. Events are delivered once its app is started.
func benchGateway(b *testing.B, apps int, url string) *Handler {
	b.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	b.Cleanup(cancel)
	path, err := json.Marshal(filepath.Join(b.TempDir(), "gateway.db"))
	if err != nil {
		b.Fatal(err)
	}
	a := &App{
		StoreRaw:       json.RawMessage(`{"backend":"sqlite","path":` + string(path) + `}`),
		MetaAppSecrets: []string{benchSecret},
		Delivery:       Delivery{AllowPrivateTargets: true},
	}
	if err := a.Provision(ctx); err != nil {
		b.Fatal(err)
	}
	a.logger = zap.NewNop()
	if err := a.acquire(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		a.release()
		<-appsInUse.none() // deliveries under way have the database open
	})
	account := tenant.Account{ID: "acct_bench", Currency: "USD"}
	if err := a.store.CreateAccount(ctx, account); err != nil {
		b.Fatal(err)
	}
	for i := range apps {
		app := tenant.App{
			ID: tenant.AppID(fmt.Sprintf("app_bench%d", i)), AccountID: account.ID, PhoneNumberID: fmt.Sprintf(benchNumber, i),
			Webhook: &tenant.Webhook{URL: fmt.Sprintf("%s/%d", url, i), Secret: "webhook-secret"},
		}
		if err := a.store.CreateApp(ctx, app); err != nil {
			b.Fatal(err)
		}
	}
	return &Handler{app: a, logger: zap.NewNop()}
}

// signedBody is a webhook and its signature.
type signedBody struct {
	body      []byte
	signature string
}

// sign returns a webhook with these changes, which go to one app after the other.
func sign(apps int, changes []string) signedBody {
	for i, change := range changes {
		changes[i] = fmt.Sprintf(`{"value":{"messaging_product":"whatsapp","metadata":{"display_phone_number":"15550001111","phone_number_id":%q},%s},"field":"messages"}`,
			fmt.Sprintf(benchNumber, i%apps), change)
	}
	body := []byte(`{"object":"whatsapp_business_account","entry":[{"id":"2000000","changes":[` + strings.Join(changes, ",") + `]}]}`)
	mac := hmac.New(sha256.New, []byte(benchSecret))
	mac.Write(body)
	return signedBody{body, signaturePrefix + hex.EncodeToString(mac.Sum(nil))}
}

// post posts a webhook and expects it to be acknowledged.
func (s signedBody) post(b *testing.B, h *Handler) {
	r := httptest.NewRequest(http.MethodPost, webhookPath, bytes.NewReader(s.body))
	r.Header.Set(signatureHeader, s.signature)
	r = r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer()))
	w := httptest.NewRecorder()
	if err := h.ServeHTTP(w, r, nil); err != nil || w.Code != http.StatusOK {
		b.Errorf("status %d: %v", w.Code, err)
	}
}

// userMessages are n changes in which users write.
func userMessages(n int) (changes []string) {
	for i := range n {
		changes = append(changes, fmt.Sprintf(`"contacts":[{"profile":{"name":"A"},"wa_id":"491510000%04d"}],`+
			`"messages":[{"from":"491510000%04d","id":"wamid.user%d","timestamp":"1760000000","type":"text","text":{"body":"Hello, is my order on its way?"}}]`, i, i, i))
	}
	return changes
}

// deliveredStatuses are n changes with a billable status of a message that was
// sent and captured before. The first to be received charges for it.
func deliveredStatuses(b *testing.B, h *Handler, n int) (changes []string) {
	b.Helper()
	limits := tenant.RateLimit{PerSecond: 1_000_000, PerMinute: 1_000_000}
	if _, err := h.app.store.Credit(b.Context(), "acct_bench", 1_000_000_000_000, tenant.NewID("credit")); err != nil {
		b.Fatal(err)
	}
	for i := range n {
		hold, message := store.NewHoldID(), "wamid."+tenant.NewID("m")
		_, err := h.app.store.Admit(b.Context(), store.Admission{
			Mode: store.Hold, App: "app_bench0", Account: "acct_bench", Limits: limits, Fee: 1000, HoldID: hold,
		})
		if err != nil {
			b.Fatal(err)
		}
		if err := h.app.store.Capture(b.Context(), hold, message); err != nil {
			b.Fatal(err)
		}
		changes = append(changes, fmt.Sprintf(`"statuses":[{"id":%q,"status":"delivered","timestamp":"1760000000","recipient_id":"491510000%04d",`+
			`"biz_opaque_callback_data":"%s:order-%d","conversation":{"id":"c","origin":{"type":"marketing"}},`+
			`"pricing":{"billable":true,"pricing_model":"PMP","type":"regular","category":"marketing"}}]`, message, i, hold, i))
	}
	return changes
}

// BenchmarkAcknowledge is what Meta waits for: a webhook is verified, split,
// routed, charged and stored on disk. Nothing is delivered.
func BenchmarkAcknowledge(b *testing.B) {
	for _, kind := range []string{"messages", "statuses"} {
		for _, changes := range []int{1, 100} {
			for _, callers := range []int{1, 16} {
				b.Run(fmt.Sprintf("%s/changes=%d/callers=%d", kind, changes, callers), func(b *testing.B) {
					h := benchGateway(b, 1, "http://127.0.0.1:1")
					events := userMessages(changes)
					if kind == "statuses" {
						events = deliveredStatuses(b, h, changes)
					}
					body := sign(1, events)
					b.ReportAllocs()
					b.ResetTimer()
					inParallel(b, callers, func() { body.post(b, h) })
					b.ReportMetric(float64(b.N*changes)/b.Elapsed().Seconds(), "events/s")
				})
			}
		}
	}
}

// inParallel calls f b.N times, so many at a time.
func inParallel(b *testing.B, callers int, f func()) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var running sync.WaitGroup
	for range callers {
		running.Go(func() {
			for left.Add(-1) >= 0 {
				f()
			}
		})
	}
	running.Wait()
}

// BenchmarkDeliver is the whole way from Meta to endpoints on this machine, which
// answer at once. An operation is one event.
func BenchmarkDeliver(b *testing.B) {
	for _, apps := range []int{1, 16} {
		b.Run(fmt.Sprintf("endpoints=%d", apps), func(b *testing.B) {
			var delivered atomic.Int64
			news := make(chan struct{}, 1)
			endpoint := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				delivered.Add(1)
				select {
				case news <- struct{}{}:
				default:
				}
			}))
			defer endpoint.Close()
			h := benchGateway(b, apps, endpoint.URL)
			if err := h.app.Start(); err != nil {
				b.Fatal(err)
			}
			defer func() {
				if err := h.app.Stop(); err != nil {
					b.Error(err)
				}
			}()
			const changes = 100
			// What waits is bounded, as it is in an outbox that keeps up.
			const most = 2_000
			body := sign(apps, userMessages(changes))
			posted := 0
			b.ReportAllocs()
			b.ResetTimer()
			for posted < b.N || int(delivered.Load()) < posted {
				if posted < b.N && posted-int(delivered.Load()) < most {
					body.post(b, h)
					posted += changes
					continue
				}
				select {
				case <-news:
				case <-time.After(time.Minute):
					b.Fatalf("%d of %d events were delivered", delivered.Load(), posted)
				}
			}
			b.ReportMetric(float64(posted)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
