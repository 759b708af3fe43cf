package caddytest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// logLine is what the tests read of a line of the log.
type logLine struct {
	Logger    string      `json:"logger"`
	Message   string      `json:"msg"`
	RequestID string      `json:"request_id"`
	Code      string      `json:"code"`
	AppID     string      `json:"app_id"`
	AccountID string      `json:"account_id"`
	Header    http.Header `json:"resp_headers"`
}

// logged waits for the access log's line about an answer and returns it, with
// the lines of the gateway's own about that request.
func (g *gateway) logged(t testing.TB, a answer) (access logLine, own []logLine) {
	t.Helper()
	id := a.header.Get("X-Request-Id")
	eventually(t, "the access log", func() error {
		own = nil
		for text := range strings.Lines(g.output()) {
			var line logLine
			if json.Unmarshal([]byte(text), &line) != nil {
				continue // still being written
			}
			switch {
			case line.RequestID == id:
				own = append(own, line)
			case line.Header.Get("X-Request-Id") == id:
				access = line
				return nil
			}
		}
		return fmt.Errorf("there is no line about request %s", id)
	})
	return access, own
}

func TestASendIsLoggedOnceWithItsCodeAppAndRequest(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	who := g.tenant(t, profile{})
	nobody := tenant{key: "nobody-has-this-key-3"}
	poor := g.tenant(t, profile{credit: "0"})
	for _, c := range []struct {
		who        tenant
		body, code string
	}{
		{who, g.message(accepted), ""},
		{nobody, g.message(accepted), "AUTH_001"},
		{poor, g.message(accepted), "BILL_001"},
		{who, "{}", "REQ_001"},
		{who, g.message(refused), "GW_001"},
		{who, g.message("9004"), "GW_001"},
	} {
		a := g.send(t, c.who.key, c.body)
		a.wantCode(t, c.code)
		access, own := g.logged(t, a)
		if access.Code != c.code || access.AppID != c.who.app || access.AccountID != c.who.account {
			t.Errorf("code %q: the access log has code %q, app %q, account %q", c.code, access.Code, access.AppID, access.AccountID)
		}
		if c.code == "" {
			if len(own) != 0 {
				t.Errorf("a success is logged: %+v", own)
			}
			continue
		}
		if len(own) != 1 {
			t.Errorf("code %s: %d lines", c.code, len(own))
			continue
		}
		line := own[0]
		if line.Code != c.code || line.AppID != c.who.app || line.Logger != "http.handlers.whatsapp_gateway" {
			t.Errorf("code %s: %+v", c.code, line)
		}
	}
}

// Whoever looks for a mistake turns debug on; it must not show more than it
// should. The harness looks for what must not be there.
func TestDebugLogsHoldNoSecret(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{global: "debug", handler: "upstream_timeout 2s"})
	who := g.tenant(t, profile{})
	for _, fate := range []string{accepted, refused, "9002", "9004", "9006", "9107", "9108", "9110"} {
		g.send(t, who.key, g.message(fate))
	}
	g.send(t, who.key, g.message(accepted), "is_fake=true")
	g.send(t, who.key, g.message(accepted)[1:])
	req := g.request(t, http.MethodPost, messagePath, g.message(accepted))
	req.Header["Authorization"] = []string{"Bearer " + who.key, "Bearer " + who.key}
	g.do(t, req)
	req = g.request(t, http.MethodPost, "/v1/wa/elsewhere", g.message(accepted))
	req.Header.Set("Authorization", "Bearer "+who.key)
	response, err := g.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readAnswer(response); err != nil {
		t.Fatal(err)
	}
	g.exec(t, "UPDATE api_keys SET expires_at = 'soon' WHERE id = ?", who.keyID)
	g.next(t, who.key, "AUTH_005")
	g.exec(t, "ALTER TABLE api_keys RENAME TO misplaced")
	g.next(t, who.key, "AUTH_004")
	if !strings.Contains(g.output(), `"level":"debug"`) {
		t.Error("nothing was logged for debugging")
	}
	if !strings.Contains(g.output(), `"User-Agent":["caddy-whatsapp-gateway"]`) {
		t.Error("what was sent to Meta was not logged for debugging")
	}
}

// Meta repeats a token that it does not take in an answer header of its own.
func TestDebugLogsHoldNoTokenThatMetaRepeats(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{global: "debug"})
	who := g.tenant(t, profile{})
	g.send(t, who.key, g.message("0190")).wantCode(t, "GW_001")
}
