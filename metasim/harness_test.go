package metasim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// These are made up: nothing in this package's tests leaves the machine.
const (
	goodToken = "EAAtest0token"
	phoneID   = "106540352242922"
	sendPath  = "/v23.0/" + phoneID + "/messages"
)

// meta is a simulator behind a real server, with a tally of its own.
type meta struct {
	*httptest.Server
	t *testing.T
	// left gets a value whenever the simulator is done with a request.
	left chan struct{}
}

func startMeta(t *testing.T, sim *MetaSimulator, http2 bool) *meta {
	t.Helper()
	if err := sim.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Cleanup(); err != nil {
			t.Error(err)
		}
	})
	sim.sends = newTally(maxSends)
	m := &meta{t: t, left: make(chan struct{}, 10_000)}
	m.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { m.left <- struct{}{} }()
		if err := sim.ServeHTTP(w, r, nil); err != nil {
			t.Errorf("ServeHTTP: %v", err)
		}
	}))
	if http2 {
		m.EnableHTTP2 = true
		m.StartTLS()
	} else {
		m.Start()
	}
	t.Cleanup(m.Close)
	return m
}

// request returns a good send to this recipient.
func (m *meta) request(to string) *http.Request {
	return m.post(sendPath, textTo(to))
}

func (m *meta) post(path, body string) *http.Request {
	r, err := http.NewRequestWithContext(m.t.Context(), http.MethodPost, m.URL+path, strings.NewReader(body))
	if err != nil {
		m.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+goodToken)
	r.Header.Set("Content-Type", "application/json")
	return r
}

func (m *meta) do(r *http.Request) (*http.Response, []byte) {
	m.t.Helper()
	resp, err := m.Client().Do(r)
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	return resp, body
}

// counted asks the simulator what it counted.
func (m *meta) counted() summary {
	m.t.Helper()
	return counted(m.t, m.Client(), m.URL)
}

func counted(t *testing.T, client *http.Client, url string) (s summary) {
	t.Helper()
	getJSON(t, client, url+"/_simulator/accepted", &s)
	return s
}

func getJSON(t *testing.T, client *http.Client, url string, v any) {
	t.Helper()
	resp, err := client.Get(url)
	// A Caddy that has just reloaded may reset connections that its old listener
	// had not accepted yet; the kernel's queue of them is finite.
	for range 1000 {
		if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
			break
		}
		resp, err = client.Get(url)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: status %d", url, resp.StatusCode)
	}
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		t.Fatal(err)
	}
}

func textTo(to string) string {
	return fmt.Sprintf(`{"messaging_product":"whatsapp","to":%q,"type":"text","text":{"body":"hello"}}`, to)
}

func object(t *testing.T, body []byte) (v map[string]any) {
	t.Helper()
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	return v
}

// withoutChance is an answer without what is random in it.
func withoutChance(t *testing.T, body []byte) map[string]any {
	t.Helper()
	v := object(t, body)
	if e, ok := v["error"].(map[string]any); ok {
		if id, _ := e["fbtrace_id"].(string); !strings.HasPrefix(id, "A") {
			t.Errorf("fbtrace_id is %q", id)
		}
		delete(e, "fbtrace_id")
	}
	if messages, ok := v["messages"].([]any); ok && len(messages) == 1 {
		one := messages[0].(map[string]any)
		if id, _ := one["id"].(string); !strings.HasPrefix(id, "wamid.") {
			t.Errorf("message id is %q", id)
		}
		one["id"] = "wamid."
	}
	return v
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// receive waits for the simulator to be done with a request.
func (m *meta) receive() {
	m.t.Helper()
	select {
	case <-m.left:
	case <-time.After(10 * time.Second):
		m.t.Fatal("the simulator still holds the request")
	}
}

// isCut tells whether a request ended without an answer, but not because the
// test gave up on it.
func isCut(err error) bool {
	return err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// waitFor asks again and again until it is so; asking is a request of its own,
// which leaves others time to run.
func waitFor(t *testing.T, so func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !so(); {
		if time.Now().After(end) {
			t.Error("it did not come about")
			return
		}
	}
}
