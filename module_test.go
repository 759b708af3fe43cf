package gateway

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

func TestEarlyDataIsNotSent(t *testing.T) {
	h := &Handler{logger: zap.NewNop()}
	r := httptest.NewRequest(http.MethodPost, messagePath, nil)
	r.TLS = &tls.ConnectionState{HandshakeComplete: false}
	replacer := caddy.NewReplacer()
	r = r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, replacer))
	w := httptest.NewRecorder()
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
		t.Error("it went on")
		return nil
	})
	if err := h.ServeHTTP(w, r, next); err != nil {
		t.Fatal(err)
	}
	var envelope errorEnvelope
	if err := json.Unmarshal(w.Body.Bytes(), &envelope); err != nil {
		t.Fatal(err)
	}
	if w.Code != http.StatusTooEarly || envelope.Errors.Code != "REQ_004" {
		t.Errorf("status %d, code %s", w.Code, envelope.Errors.Code)
	}
}

func TestIDsOfSandboxSendsAreUnique(t *testing.T) {
	seen := make(map[string]bool)
	for range 10_000 {
		answer := string(fakeAnswer())
		if seen[answer] {
			t.Fatalf("%s twice", answer)
		}
		seen[answer] = true
	}
}
