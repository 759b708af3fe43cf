package delivery

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func TestLogsTellNoSecrets(t *testing.T) {
	s := openStore(t, nil)
	endpoint := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("X-Reply", "hunter2")
		http.Error(rw, "hunter2", http.StatusInternalServerError)
	}))
	endpoint.Close() // and so nobody listens there
	alive := endpointServer(t, func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "hunter2", http.StatusTeapot) })
	secrets := map[string]tenant.Secret{"X-Key": "hunter2"}
	addApp(t, s, "app_dead", tenant.Webhook{URL: endpoint.URL + "/hunter2?key=hunter2", Secret: "hunter2", Headers: secrets})
	addApp(t, s, "app_alive", tenant.Webhook{URL: alive.URL + "/hunter2?key=hunter2", Secret: "hunter2", Headers: secrets})
	addApp(t, s, "app_bad", tenant.Webhook{URL: alive.URL, Secret: "hunter2 hunter2", Headers: secrets})
	for _, app := range []tenant.AppID{"app_dead", "app_alive", "app_bad"} {
		event := store.Event{ID: store.NewEventID(), App: app, Name: tenant.EventRead, Payload: []byte(`"hunter2"`), State: store.Pending}
		if _, err := s.Receive(t.Context(), []store.Event{event}, nil); err != nil {
			t.Fatal(err)
		}
	}
	core, logs := observer.New(zap.DebugLevel)
	given := make(chan struct{}, 3)
	w := New(Config{Retry: []time.Duration{1}, AllowPrivateTargets: true}, s, zap.New(core), func(o Outcome) {
		if o.Result == store.GivenUp {
			given <- struct{}{}
		}
	})
	w.interval = time.Millisecond
	w.patience = 0
	stop := run(t, w)
	for range 3 {
		<-given
	}
	stop()
	want := map[string]string{"app_dead": "connection refused", "app_alive": "status 418"}
	for _, entry := range logs.All() {
		fields := entry.ContextMap()
		text := entry.Message
		for _, field := range entry.Context {
			text += " " + field.String
		}
		if strings.Contains(text, "hunter2") {
			t.Errorf("the log says: %s", text)
		}
		if reason := want[fields["app_id"].(string)]; reason != "" && fields["error"] != reason {
			t.Errorf("%v, want %q", fields, reason)
		}
	}
	if n := len(logs.All()); n != 6 {
		t.Errorf("%d entries, want one for each of six attempts", n)
	}
	for _, e := range left(t, s) {
		if strings.Contains(e.LastError, "hunter2") || e.LastError == "" {
			t.Errorf("%+v", e)
		}
	}
}
