package delivery

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// BenchmarkDelivery gives the events a second that come from a store on disk to
// an endpoint of this machine, signed, with as many apps as it says.
func BenchmarkDelivery(b *testing.B) {
	for _, apps := range []int{1, 16} {
		b.Run(fmt.Sprintf("apps=%d", apps), func(b *testing.B) {
			s := openStore(b, nil)
			var arrived atomic.Int64
			all := make(chan struct{})
			endpoint := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				if arrived.Add(1) == int64(b.N) {
					close(all)
				}
			}))
			defer endpoint.Close()
			payload := []byte(`{"object":"whatsapp_business_account","entry":["` + strings.Repeat("a", 600) + `"]}`)
			events := make([]store.Event, b.N)
			for i := range events {
				app := tenant.AppID(fmt.Sprintf("app_%d", i%apps))
				events[i] = store.Event{ID: store.NewEventID(), App: app, Name: tenant.EventMessageStatus, Payload: payload, State: store.Pending}
			}
			for i := range apps {
				addApp(b, s, tenant.AppID(fmt.Sprintf("app_%d", i)), tenant.Webhook{URL: endpoint.URL, Secret: "secret"})
			}
			if _, err := s.Receive(b.Context(), events, nil); err != nil {
				b.Fatal(err)
			}
			w := New(Config{AllowPrivateTargets: true}, s, zap.NewNop(), nil)
			b.ResetTimer()
			stop := run(b, w)
			<-all
			stop()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
