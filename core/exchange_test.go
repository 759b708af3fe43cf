package core_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/core"
	"github.com/connexease/caddy-whatsapp-gateway/core/coretest"
	"github.com/connexease/caddy-whatsapp-gateway/store"
)

// errAway stands for any error that says that the service could not be asked.
var errAway = errors.New("away")

func kind(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		return store.ErrNotFound
	case errors.Is(err, store.ErrCorrupt):
		return store.ErrCorrupt
	case errors.Is(err, errWrong):
		return errWrong
	}
	return errAway
}

func status(code int) coretest.Fault { return coretest.Fault{Status: code, Body: `{"echo":1}`} }

func TestFaults(t *testing.T) {
	s, client := service(t)
	for _, tc := range []struct {
		name   string
		fault  coretest.Fault
		lookUp error
		report error
	}{
		{"none", coretest.Fault{}, nil, nil},
		{"down", coretest.Down, errAway, errAway},
		{"500", coretest.Error, errAway, errAway},
		{"HTML", coretest.HTML, store.ErrCorrupt, store.ErrCorrupt},
		{"half a JSON", coretest.HalfJSON, store.ErrCorrupt, store.ErrCorrupt},
		{"404", coretest.NotFound, store.ErrNotFound, errAway},
		{"404 HTML", coretest.Fault{Status: http.StatusNotFound, Body: coretest.HTML.Body}, store.ErrNotFound, errAway},
		{"400", status(http.StatusBadRequest), errAway, errAway},
		{"401", status(http.StatusUnauthorized), errAway, errAway},
		{"403", status(http.StatusForbidden), errAway, errAway},
		{"410", status(http.StatusGone), errAway, errAway},
		{"429", status(http.StatusTooManyRequests), errAway, errAway},
		{"502", status(http.StatusBadGateway), errAway, errAway},
		{"503", status(http.StatusServiceUnavailable), errAway, errAway},
		{"300", status(http.StatusMultipleChoices), errAway, errAway},
		{"another JSON", coretest.Fault{Status: http.StatusOK, Body: `{"echo":1}`}, store.ErrCorrupt, nil},
		{"a JSON array", coretest.Fault{Status: http.StatusOK, Body: `["echo"]`}, store.ErrCorrupt, nil},
		{"an empty answer", coretest.Fault{Status: http.StatusOK}, store.ErrCorrupt, nil},
		{"no content", coretest.Fault{Status: http.StatusNoContent}, store.ErrCorrupt, errAway},
		{"accepted for later", status(http.StatusAccepted), store.ErrCorrupt, errAway},
	} {
		s.Set(tc.fault)
		for route, call := range calls {
			err, want := call(t.Context(), client), tc.lookUp
			if route == coretest.Ledger {
				want = tc.report
			}
			if kind(err) != want {
				t.Errorf("%s: %s: %v, want %v", tc.name, route, err, want)
			}
			checkNoSecret(t, err)
			if err != nil && !strings.Contains(err.Error(), string(route)) {
				t.Errorf("%s: the error does not name %s: %v", tc.name, route, err)
			}
		}
	}
	s.Heal()
	for route, call := range calls {
		if err := call(t.Context(), client); err != nil {
			t.Errorf("healed: %s: %v", route, err)
		}
	}
	if n := len(s.Entries()); n != 1 {
		t.Errorf("%d entries were stored of one", n)
	}
}

func TestTheWrongTokenIsNoAnswer(t *testing.T) {
	s := coretest.New("another-token")
	fill(t, s)
	client, _ := serve(t, s)
	for route, call := range calls {
		err := call(t.Context(), client)
		if kind(err) != errAway || !strings.Contains(err.Error(), "401") {
			t.Errorf("%s: %v", route, err)
		}
		checkNoSecret(t, err)
	}
}

func TestTheTimeoutBoundsTheWholeExchange(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"no header": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"no body": func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"a byte now and then": func(w http.ResponseWriter, r *http.Request) {
			every := time.NewTicker(core.DefaultTimeout / 4)
			defer every.Stop()
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, " ")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-every.C:
				case <-r.Context().Done():
				}
			}
		},
		"an endless 500": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			client := inBubble(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				handler(w, r)
			}), nil)
			for route, call := range calls {
				began := time.Now()
				err := call(t.Context(), client)
				if took := time.Since(began); kind(err) != errAway || took != core.DefaultTimeout {
					t.Errorf("%s: %s: %v after %v", name, route, err, took)
				}
				if errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s: %s: a timeout of the client's looks like the caller's", name, route)
				}
				checkNoSecret(t, err)
			}
		})
	}
}

func TestSlowIsAnsweredWithinTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := coretest.New(token)
		fill(t, s)
		client := inBubble(t, s, nil)
		for delay, want := range map[time.Duration]error{core.DefaultTimeout - 1: nil, core.DefaultTimeout + 1: errAway} {
			s.Set(coretest.Slow(delay))
			for route, call := range calls {
				if err := call(t.Context(), client); kind(err) != want {
					t.Errorf("%s, %v: %v", route, delay, err)
				}
			}
		}
	})
}

func TestTheCallersContextIsHonoured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := coretest.New(token)
		s.Set(coretest.Fault{Until: make(chan struct{})})
		client := inBubble(t, s, nil)
		for route, call := range calls {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			began := time.Now()
			if err := call(ctx, client); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
				t.Errorf("%s: %v after %v", route, err, time.Since(began))
			}
			cancel()
			asked := s.Requests(route)
			if err := call(ctx, client); !errors.Is(err, context.DeadlineExceeded) || s.Requests(route) != asked {
				t.Errorf("%s, when it had ended: %v, %d requests", route, err, s.Requests(route)-asked)
			}
		}
	})
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var followed atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
	defer elsewhere.Close()
	for _, code := range []int{301, 302, 303, 307, 308} {
		client, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+"/echo", code)
		}))
		for route, call := range calls {
			err := call(t.Context(), client)
			if kind(err) != errAway || !strings.Contains(err.Error(), fmt.Sprint(code)) {
				t.Errorf("%s: %v", route, err)
			}
			checkNoSecret(t, err)
		}
	}
	if followed.Load() != 0 {
		t.Errorf("%d redirects were followed", followed.Load())
	}
}

func TestAnswersOverTheLimitAreNotRead(t *testing.T) {
	const document = `{"key_id":"key_1","app":{"id":"app_1"}}`
	var size int
	client, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, document+strings.Repeat(" ", size-len(document)))
	}))
	size = core.MaxAnswer
	if _, err := client.Grant(t.Context(), digest); err != nil {
		t.Errorf("an answer of the largest size: %v", err)
	}
	for _, size = range []int{core.MaxAnswer + 1, 8 * core.MaxAnswer} {
		if _, err := client.Grant(t.Context(), digest); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestAnEndlessAnswerIsLeft(t *testing.T) {
	const most = 64 * core.MaxAnswer
	written, chunk := make(chan int, 1), make([]byte, 64<<10)
	client, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		total := 0
		for total < most {
			n, err := w.Write(chunk)
			if total += n; err != nil {
				break
			}
		}
		written <- total
	}))
	for route, call := range calls {
		if err := call(t.Context(), client); kind(err) != store.ErrCorrupt {
			t.Errorf("%s: %v", route, err)
		}
		if n := <-written; n >= most {
			t.Errorf("%s: all %d bytes were taken", route, n)
		}
	}
}

// An answer that breaks off in transit says nothing about what is stored there.
func TestAnAnswerCutInTransitIsNotCorrupt(t *testing.T) {
	client, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, `{"key_id":"key_1"`)
	}))
	for route, call := range calls {
		if err := call(t.Context(), client); kind(err) != errAway {
			t.Errorf("%s: %v", route, err)
		}
	}
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	s := coretest.New(token)
	fill(t, s)
	var opened atomic.Int64
	server := httptest.NewUnstartedServer(s)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	client := newClient(t, core.Config{URL: server.URL, Token: token, Timeout: time.Minute})
	for _, fault := range []coretest.Fault{{}, coretest.Error, coretest.HTML, coretest.NotFound, coretest.HalfJSON, {}} {
		s.Set(fault)
		for _, call := range calls {
			_ = call(t.Context(), client)
		}
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("%d connections were opened", n)
	}
}

func TestHTTP2IsSpoken(t *testing.T) {
	s := coretest.New(token)
	fill(t, s)
	var major atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		major.Store(int64(r.ProtoMajor))
		s.ServeHTTP(w, r)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	client := newClient(t, core.Config{URL: server.URL, Token: token, Timeout: time.Minute})
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	client.Trust(pool)
	for route, call := range calls {
		if err := call(t.Context(), client); err != nil || major.Load() != 2 {
			t.Errorf("%s: %v, HTTP/%d", route, err, major.Load())
		}
	}
	s.Set(coretest.Down)
	for route, call := range calls {
		err := call(t.Context(), client)
		if kind(err) != errAway {
			t.Errorf("down: %s: %v", route, err)
		}
		checkNoSecret(t, err)
	}
}

// What the other side writes never comes back in an error.
func TestErrorsRepeatNothing(t *testing.T) {
	tlsServer := httptest.NewUnstartedServer(http.NotFoundHandler())
	tlsServer.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that fail
	tlsServer.StartTLS()
	defer tlsServer.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for name, url := range map[string]string{
		"an unknown authority":  tlsServer.URL,
		"no TLS":                strings.Replace(plain.URL, "http:", "https:", 1),
		"nobody there":          gone.URL,
		"a status line of text": raw(t, "HTTP/1.1 echo echo\r\n\r\n"),
		"no HTTP":               raw(t, "220 echo ESMTP\r\n"),
		"a header of text":      raw(t, "HTTP/1.1 200 OK\r\necho\r\n\r\n"),
		"two lengths":           raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\necho!"),
		"a length of text":      raw(t, "HTTP/1.1 200 OK\r\nContent-Length: echo\r\n\r\n"),
		"a bad chunk":           raw(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\necho\r\n"),
		"a large header":        raw(t, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("echo", 50_000)+"\r\n\r\n"),
		"nothing":               raw(t, ""),
	} {
		client := newClient(t, core.Config{URL: url, Token: token, Timeout: time.Minute})
		for route, call := range calls {
			err := call(t.Context(), client)
			if kind(err) != errAway {
				t.Errorf("%s: %s: %v", name, route, err)
			}
			checkNoSecret(t, err)
		}
	}
}

// raw is a server that answers every request with the same bytes and closes.
func raw(t *testing.T, answer string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4<<10))
			_, _ = io.WriteString(conn, answer)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	return "http://" + listener.Addr().String()
}
