package delivery

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

// ample is a timeout that no test waits for.
const ample = time.Minute

// poster is a worker without a store, for single attempts at loopback addresses.
func poster(t testing.TB, c Config) *Worker {
	t.Helper()
	c.AllowPrivateTargets = true
	if c.Timeout == 0 {
		c.Timeout = ample
	}
	w := New(c, nil, zap.NewNop(), nil)
	t.Cleanup(func() {
		w.transport.CloseIdleConnections()
		w.dialer.closeAll()
	})
	return w
}

// endpointServer serves an endpoint until the test ends. It does not wait for
// handlers, which may hang on purpose until their request is given up.
func endpointServer(t testing.TB, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// hang answers nothing until the request has been given up.
func hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // only then the server sees the other side go
	<-r.Context().Done()
}

func event(payload string) *store.Event {
	return &store.Event{ID: store.NewEventID(), App: "app_1", Name: tenant.EventMessages, Payload: []byte(payload)}
}

func TestDeliveryCarriesItsHeadersAndBody(t *testing.T) {
	var got *http.Request
	var body []byte
	endpoint := endpointServer(t, func(rw http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		rw.WriteHeader(http.StatusNoContent)
	})
	e := event(`{"object":"whatsapp_business_account"}`)
	hook := &tenant.Webhook{
		URL: endpoint.URL + "/hook?team=a", Secret: "s3cret",
		Headers: map[string]tenant.Secret{"x-team": "a", "X-Key": "b c"},
	}
	before := time.Now().Unix()
	if failed := poster(t, Config{}).post(hook, e); failed != nil {
		t.Fatal(failed.reason)
	}
	if got.Method != http.MethodPost || got.URL.String() != "/hook?team=a" || !bytes.Equal(body, e.Payload) {
		t.Errorf("%s %s %q", got.Method, got.URL, body)
	}
	if at := got.Header.Get("webhook-timestamp"); at < fmt.Sprint(before) || at > fmt.Sprint(time.Now().Unix()) {
		t.Errorf("timestamp %q", at)
	}
	want := http.Header{
		"Content-Type": {"application/json"}, "Content-Length": {fmt.Sprint(len(e.Payload))}, "User-Agent": {userAgent},
		"X-Gateway-Event": {"messages"}, "Webhook-Id": {string(e.ID)}, "Authorization": {"Bearer s3cret"},
		"X-Team": {"a"}, "X-Key": {"b c"},
		"Webhook-Timestamp": got.Header["Webhook-Timestamp"], "Webhook-Signature": got.Header["Webhook-Signature"],
	}
	if diff := cmp.Diff(want, got.Header); diff != "" {
		t.Error(diff)
	}
}

func TestDeliveryWithoutSecretIsNotSigned(t *testing.T) {
	endpoint := endpointServer(t, func(_ http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"Authorization", "Webhook-Signature"} {
			if value, ok := r.Header[name]; ok {
				t.Errorf("%s: %s", name, value)
			}
		}
	})
	if failed := poster(t, Config{}).post(&tenant.Webhook{URL: endpoint.URL}, event("{}")); failed != nil {
		t.Error(failed.reason)
	}
}

func TestSignatureIsThatOfStandardWebhooks(t *testing.T) {
	encoded := "whsec_" + base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))
	plain, _ := standardwebhooks.NewWebhookRaw([]byte("any-text"))
	standard, err := standardwebhooks.NewWebhook(encoded)
	if err != nil {
		t.Fatal(err)
	}
	for secret, verifier := range map[string]*standardwebhooks.Webhook{"any-text": plain, encoded: standard} {
		endpoint := endpointServer(t, func(_ http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if err := verifier.Verify(body, r.Header); err != nil {
				t.Error(err)
			}
			if err := verifier.Verify(append(body, ' '), r.Header); err == nil {
				t.Error("another body has the same signature")
			}
			if signature := r.Header.Get("webhook-signature"); !strings.HasPrefix(signature, "v1,") {
				t.Errorf("signature %q", signature)
			}
		})
		if failed := poster(t, Config{}).post(&tenant.Webhook{URL: endpoint.URL, Secret: tenant.Secret(secret)}, event(`{"a":"ü"}`)); failed != nil {
			t.Error(failed.reason)
		}
	}
}

func TestStatusDecides(t *testing.T) {
	for status, want := range map[int]*failure{
		200: nil, 201: nil, 202: nil, 204: nil, 299: nil,
		304: {reason: "status 304"}, 400: {reason: "status 400"}, 401: {reason: "status 401"}, 404: {reason: "status 404"},
		410: {reason: "status 410", gone: true}, 429: {reason: "status 429", retryAfter: 7 * time.Second},
		500: {reason: "status 500"}, 503: {reason: "status 503", retryAfter: time.Hour}, 999: {reason: "status 999"},
	} {
		endpoint := endpointServer(t, func(rw http.ResponseWriter, _ *http.Request) {
			switch status {
			case 429:
				rw.Header().Set("Retry-After", "7")
			case 503:
				rw.Header().Set("Retry-After", "99999999999999999999999")
			}
			rw.WriteHeader(status)
		})
		got := poster(t, Config{}).post(&tenant.Webhook{URL: endpoint.URL}, event("{}"))
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(failure{})); diff != "" {
			t.Errorf("%d: %s", status, diff)
		}
	}
}

// write sends a part of an answer at once.
func write(rw http.ResponseWriter, part []byte) error {
	if _, err := rw.Write(part); err != nil {
		return err
	}
	return http.NewResponseController(rw).Flush()
}

func TestWhatFollowsTheStatusDoesNotMatter(t *testing.T) {
	for name, rest := range map[string]http.HandlerFunc{
		"slow": func(rw http.ResponseWriter, r *http.Request) {
			_ = write(rw, []byte("{"))
			hang(rw, r)
		},
		"endless": func(rw http.ResponseWriter, _ *http.Request) {
			for write(rw, make([]byte, 1<<10)) == nil {
			}
		},
		"10 MiB": func(rw http.ResponseWriter, _ *http.Request) {
			_ = write(rw, make([]byte, 10<<20))
		},
		"broken off": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", "100")
			_ = write(rw, []byte("{"))
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint := endpointServer(t, rest)
			if failed := poster(t, Config{}).post(&tenant.Webhook{URL: endpoint.URL}, event("{}")); failed != nil {
				t.Error(failed.reason)
			}
		})
	}
}

func TestEndpointThatDoesNotAnswerIsTimedOut(t *testing.T) {
	endpoint := endpointServer(t, hang)
	w := poster(t, Config{Timeout: 50 * time.Millisecond})
	failed := w.post(&tenant.Webhook{URL: endpoint.URL}, event("{}"))
	if failed == nil || failed.reason != "no answer within 50ms" {
		t.Errorf("%+v", failed)
	}
}

// rawEndpoint answers every connection in its own way.
func rawEndpoint(t *testing.T, answer func(net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				answer(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return l.Addr().String()
}

func TestFailuresOfTheConnectionAreClassified(t *testing.T) {
	readSome := func(c net.Conn) { _, _ = c.Read(make([]byte, 1<<10)) }
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, c := range []struct{ name, url, want string }{
		{"nobody listens", "http://" + closed.Addr().String(), "connection refused"},
		{"reset", "http://" + rawEndpoint(t, func(c net.Conn) {
			readSome(c)
			_ = c.(*net.TCPConn).SetLinger(0)
		}), "connection reset"},
		{"closed", "http://" + rawEndpoint(t, readSome), "connection closed without an answer"},
		{"not HTTP", "http://" + rawEndpoint(t, func(c net.Conn) {
			readSome(c)
			_, _ = io.WriteString(c, "220 the-password-is-swordfish ESMTP\r\n")
		}), "no valid answer"},
		{"endless headers", "http://" + rawEndpoint(t, func(c net.Conn) {
			readSome(c)
			_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for err == nil {
				_, err = io.WriteString(c, "X-More: more\r\n")
			}
		}), "no valid answer"},
		{"plain HTTP where TLS is expected", "https://" + rawEndpoint(t, func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			readSome(c)
		}), "TLS: the endpoint does not speak it"},
		{"not a URL", "http://[::1/secret", "the webhook URL cannot be parsed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			failed := poster(t, Config{}).post(&tenant.Webhook{URL: c.url}, event("{}"))
			if failed == nil || failed.reason != c.want {
				t.Errorf("%+v, want %q", failed, c.want)
			}
		})
	}
}

func TestNameThatDoesNotExistIsSaidSo(t *testing.T) {
	w := poster(t, Config{})
	w.dialer.Resolver = newNameServer(t, nil)
	failed := w.post(&tenant.Webhook{URL: "https://nowhere.example/secret-path"}, event("{}"))
	if failed == nil || failed.reason != "name not found" {
		t.Errorf("%+v", failed)
	}
}

func TestBadRecordFailsWithItsReason(t *testing.T) {
	for _, hook := range []tenant.Webhook{
		{URL: "ftp://example.com/hunter2"},
		{URL: "https://user:hunter2@example.com"},
		{URL: "https://example.com", Secret: "hunter2\r\nX-Evil: 1"},
		{URL: "https://example.com", Secret: "whsec_hunter2"},
		{URL: "https://example.com", Headers: map[string]tenant.Secret{"Host": "hunter2"}},
		{URL: "https://example.com", Headers: map[string]tenant.Secret{"X-A": "hunter2\n"}},
		{URL: "https://example.com", Headers: map[string]tenant.Secret{"X-A\x00hunter2": "b"}},
	} {
		failed := poster(t, Config{}).post(&hook, event("{}"))
		if failed == nil || failed.reason == "" || strings.Contains(failed.reason, "hunter2") || len(failed.reason) > maxReason {
			t.Errorf("%+v", failed)
		}
	}
}

// trusting makes a worker trust the certificate of a test's server.
func trusting(w *Worker, s *httptest.Server) *Worker {
	w.transport.TLSClientConfig.RootCAs = x509.NewCertPool()
	w.transport.TLSClientConfig.RootCAs.AddCert(s.Certificate())
	return w
}

// tlsServer serves an endpoint with TLS.
func tlsServer(t *testing.T, h http.HandlerFunc, configure func(*httptest.Server)) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = zap.NewStdLog(zap.NewNop())
	s.TLS = new(tls.Config)
	configure(s)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func TestCertificateIsVerified(t *testing.T) {
	s := tlsServer(t, func(http.ResponseWriter, *http.Request) {}, func(*httptest.Server) {})
	hook := &tenant.Webhook{URL: s.URL}
	failed := poster(t, Config{}).post(hook, event("{}"))
	if failed == nil || failed.reason != "TLS: certificate is signed by an unknown authority" {
		t.Errorf("of an unknown authority: %+v", failed)
	}
	if failed := trusting(poster(t, Config{}), s).post(hook, event("{}")); failed != nil {
		t.Error(failed.reason)
	}
	other := &tenant.Webhook{URL: strings.Replace(s.URL, "127.0.0.1", "other.test", 1)}
	w := trusting(poster(t, Config{}), s)
	w.dialer.Resolver = newNameServer(t, addresses("127.0.0.1"))
	if failed := w.post(other, event("{}")); failed == nil || failed.reason != "TLS: certificate is for another name" {
		t.Errorf("of another name: %+v", failed)
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	s := tlsServer(t, func(http.ResponseWriter, *http.Request) {}, func(s *httptest.Server) {
		s.TLS.MinVersion, s.TLS.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	})
	failed := trusting(poster(t, Config{}), s).post(&tenant.Webhook{URL: s.URL}, event("{}"))
	if failed == nil || failed.reason != "TLS: handshake failed" {
		t.Errorf("%+v", failed)
	}
}

func TestHTTP2IsSpokenWhereTheEndpointDoes(t *testing.T) {
	var protocol atomic.Value
	s := tlsServer(t, func(_ http.ResponseWriter, r *http.Request) { protocol.Store(r.Proto) },
		func(s *httptest.Server) { s.EnableHTTP2 = true })
	if failed := trusting(poster(t, Config{}), s).post(&tenant.Webhook{URL: s.URL, Secret: "secret"}, event("{}")); failed != nil {
		t.Fatal(failed.reason)
	}
	if protocol.Load() != "HTTP/2.0" {
		t.Errorf("%v was spoken", protocol.Load())
	}
}

func TestConnectionIsUsedAgain(t *testing.T) {
	var mu sync.Mutex
	var clients []string
	endpoint := endpointServer(t, func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		clients = append(clients, r.RemoteAddr)
		rw.WriteHeader(http.StatusInternalServerError - 300*(len(clients)%2))
		_, _ = rw.Write(make([]byte, maxAnswer-1))
	})
	w := poster(t, Config{})
	for range 4 {
		w.post(&tenant.Webhook{URL: endpoint.URL}, event("{}"))
	}
	if len(clients) != 4 || len(slices.Compact(clients)) != 1 {
		t.Errorf("requests came from %v", clients)
	}
}

func TestClosedIdleConnectionIsNoFailure(t *testing.T) {
	endpoint := rawEndpoint(t, func(c net.Conn) {
		buffer := make([]byte, 4<<10)
		_, _ = c.Read(buffer)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		_, _ = c.Read(buffer) // and so the second request is read and not answered
	})
	w := poster(t, Config{})
	for i := range 3 {
		if failed := w.post(&tenant.Webhook{URL: "http://" + endpoint}, event("{}")); failed != nil {
			t.Errorf("attempt %d: %s", i+1, failed.reason)
		}
	}
}
