package caddytest

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAWebhookIsLoggedWithItsCode(t *testing.T) {
	t.Parallel()
	g, _, who := startWithEndpoint(t)
	unsigned := g.webhook(t, "{}")
	unsigned.Header.Del("X-Hub-Signature-256")
	forged := g.webhook(t, "{}")
	forged.Header.Set("X-Hub-Signature-256", signed("another", "{}"))
	for _, c := range []struct {
		req           *http.Request
		code, message string
	}{
		{g.webhook(t, notification(who.waba, g.userMessage(who))), "", ""},
		{g.handshake(t, http.MethodGet, "hub.mode=subscribe"), "WH_001", "webhook refused"},
		{unsigned, "WH_002", "webhook refused"},
		{forged, "WH_003", "webhook refused"},
		{g.webhook(t, strings.Repeat(" ", maxWebhook+1)), "REQ_002", "webhook refused"},
		{g.handshake(t, http.MethodDelete, ""), "REQ_003", "webhook refused"},
		{g.webhook(t, "{}"), "", "webhook quarantined, in part or whole"},
	} {
		a := g.doWebhook(t, c.req)
		a.wantCode(t, c.code)
		access, own := g.logged(t, a)
		if access.Code != c.code {
			t.Errorf("code %q: the access log has %q", c.code, access.Code)
		}
		switch {
		case c.message == "":
			if len(own) != 0 {
				t.Errorf("what is as it should be is logged: %+v", own)
			}
		case len(own) != 1:
			t.Errorf("code %q: %d lines", c.code, len(own))
		case own[0].Code != c.code || own[0].Message != c.message || own[0].Logger != "http.handlers.whatsapp_gateway":
			t.Errorf("code %q: %+v", c.code, own[0])
		}
	}
}

// The harness looks for what must not be in the log.
func TestDebugLogsHoldNothingThatWebhooksSay(t *testing.T) {
	t.Parallel()
	s := settings{global: "debug"}.withWebhooks(quick).withReports().withPrices(t)
	g := startGateway(t, s)
	endpoint, failing, gone, nowhere := startReceiver(t), startReceiver(t), startReceiver(t), startReceiver(t)
	endpoint.header = map[string]string{"X-Api-Key": "the-endpoint-s-own-key"}
	for _, r := range []*receiver{endpoint, failing, gone, nowhere} {
		token := fmt.Sprintf("token-%016x", rand.Uint64())
		g.hide("query of an endpoint", token)
		r.url += "?token=" + token
	}
	text := g.text()
	failing.answerWith(func(d delivered) reply {
		return reply{status: http.StatusBadRequest, header: http.Header{"X-Error": {text}}}
	})
	gone.answerAlways(http.StatusGone)
	nowhere.server.Close()
	for _, r := range []*receiver{endpoint, failing, gone, nowhere} {
		p := rich
		p.endpoint = r
		who := g.tenant(t, p)
		g.report(t, notification(who.waba, g.userMessage(who), g.userMessage(who), "[]"))
		g.send(t, who.key, g.template(accepted, "offer", callback(g.text()))).wantCode(t, "")
		g.send(t, who.key, g.template("9110", "offer", callback(g.text()))).wantCode(t, "GW_001")
		forged := g.webhook(t, notification(who.waba, g.userMessage(who)))
		forged.Header.Set("X-Hub-Signature-256", signed(g.verifyToken, "x"))
		g.doWebhook(t, forged).wantCode(t, "WH_003")
	}
	g.report(t, "<"+g.text()+">")
	g.do(t, g.handshake(t, http.MethodGet, "hub.verify_token="+g.verifyToken)).wantCode(t, "WH_001")
	g.awaitReports(t, 24)
	g.awaitDelivered(t)
	dead := g.stored(t)
	for _, e := range dead {
		if e.State == "dead" && strings.Contains(e.LastError, text) {
			t.Errorf("the endpoint's own text is in the last error: %s", e.LastError)
		}
	}
	if len(dead) == 0 || !strings.Contains(g.output(), `"level":"debug"`) {
		t.Errorf("nothing was logged for debugging, or nothing has failed")
	}
	// Neither lists nor apps show what is theirs: the harness looks at those, too.
	for _, args := range [][]string{{"event", "list"}, {"event", "show", dead[0].ID}, {"app", "list"}, {"app", "list", "--json"}} {
		if stdout := g.run(t, args...); strings.Contains(stdout, text) || g.masked(stdout) != stdout {
			t.Errorf("%s %s shows too much: %s", args[0], args[1], g.masked(stdout))
		}
	}
}

func TestTheMetricsOfWebhooks(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks(quick))
	endpoint := startReceiver(t)
	who := g.tenant(t, profile{endpoint: endpoint})
	all := func() map[string]float64 {
		values := make(map[string]float64)
		for _, name := range []string{
			`webhooks_total{code=""}`, `webhooks_total{code="WH_001"}`, `webhooks_total{code="WH_003"}`,
			`events_total{event="messages",state="pending"}`, `events_total{event="read",state="pending"}`, `events_total{event="",state="quarantined"}`,
			`deliveries_total{result="delivered"}`, `deliveries_total{result="failed"}`, `deliveries_total{result="given_up"}`,
		} {
			if value := g.metric(t, name); value != 0 {
				values[name] = value
			}
		}
		return values
	}
	if got := all(); len(got) != 0 {
		t.Errorf("before anything has happened: %v", got)
	}
	g.report(t, notification(who.waba, g.userMessage(who), statuses(who, status("wamid.1", "read", "49")), "1", g.userMessage(who)))
	endpoint.await(t, 3)
	g.awaitDelivered(t)
	endpoint.answerAlways(http.StatusTeapot)
	g.report(t, notification(who.waba, g.userMessage(who)))
	g.awaitOutbox(t, "dead", 1)
	g.report(t, "")
	g.do(t, g.handshake(t, http.MethodGet, "")).wantCode(t, "WH_001")
	forged := g.webhook(t, "")
	forged.Header.Set("X-Hub-Signature-256", "sha256=")
	g.doWebhook(t, forged).wantCode(t, "WH_003")
	want := map[string]float64{
		`webhooks_total{code=""}`: 3, `webhooks_total{code="WH_001"}`: 1, `webhooks_total{code="WH_003"}`: 1,
		`events_total{event="messages",state="pending"}`: 3, `events_total{event="read",state="pending"}`: 1, `events_total{event="",state="quarantined"}`: 2,
		`deliveries_total{result="delivered"}`: 3, `deliveries_total{result="failed"}`: 2, `deliveries_total{result="given_up"}`: 1,
	}
	if diff := cmp.Diff(want, all()); diff != "" {
		t.Error(diff)
	}
	g.reload(t, settings{}.withWebhooks(quick))
	if diff := cmp.Diff(want, all()); diff != "" {
		t.Errorf("after a reload: %s", diff)
	}
	// No label tells of a tenant.
	metrics := g.askAdmin(t, "/metrics")
	for _, private := range []string{who.app, who.account, who.phone, who.waba} {
		if slices.ContainsFunc(strings.Split(metrics, "\n"), func(line string) bool { return strings.Contains(line, private) }) {
			t.Errorf("%s is in the metrics", private)
		}
	}
}
