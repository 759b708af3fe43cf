package caddytest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// gzipped is text in gzip.
func gzipped(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := io.WriteString(w, text)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Why a body was quarantined.
const (
	bodyNotJSON   = "The body is not valid JSON."
	bodyNotObject = "The body is not one JSON object."
	bodyTrailing  = "The body has something behind its JSON object."
)

// What is genuine and cannot be read is kept with its reason, and is nobody's.
func TestGenuineWebhooksThatCannotBeReadAreQuarantined(t *testing.T) {
	t.Parallel()
	g, endpoint, who := startWithEndpoint(t)
	one := g.userMessage(who)
	good := notification(who.waba, one)
	for _, c := range []struct{ name, body, reason string }{
		{"empty", "", bodyNotJSON},
		{"null", "null", bodyNotObject},
		{"array", "[" + good + "]", bodyNotObject},
		{"text", `"` + g.text() + `"`, bodyNotObject},
		{"cut off", good[:len(good)-1], bodyNotJSON},
		{"two", good + good, bodyTrailing},
		{"garbage behind", good + "x", bodyTrailing},
		{"not JSON", "<html>" + g.text() + "</html>", bodyNotJSON},
		{"no UTF-16", "\xff\xfe{\x00}\x00", bodyNotJSON},
		{"no object", strings.Replace(good, `"object"`, `"objekt"`, 1), `The body has no text of up to 100 bytes as "object".`},
		{"no entry", `{"object":"whatsapp_business_account"}`, `The body has no array as "entry", or an empty one.`},
		{"empty entry", `{"object":"whatsapp_business_account","entry":[]}`, `The body has no array as "entry", or an empty one.`},
		{"no changes", `{"object":"whatsapp_business_account","entry":[{"id":"1"}]}`, `The body has an entry without an array as "changes".`},
		{"empty changes", notification("1"), "The body has no change in it."},
		{"entry twice", strings.Replace(good, `"entry"`, `"entry":[{"changes":[]}],"entry"`, 1), `The body has "entry" twice.`},
		{"changes twice", strings.Replace(good, `"changes"`, `"changes":[],"changes"`, 1), `The body has an entry with "changes" twice.`},
		{"gzip", gzipped(t, good), bodyNotJSON},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(g.stored(t))
			req := g.webhook(t, c.body)
			if c.name == "gzip" {
				req.Header.Set("Content-Encoding", "gzip")
			}
			a := g.doWebhook(t, req)
			a.want(t, http.StatusOK, "")
			events := g.stored(t)
			if len(events) != before+1 {
				t.Fatalf("%d events are in quarantine, %d were", len(events), before)
			}
			want := outboxEvent{ID: events[before].ID, State: "quarantined", LastError: c.reason, Payload: c.body}
			if diff := cmp.Diff(want, events[before]); diff != "" {
				t.Error(diff)
			}
			if _, own := g.logged(t, a); len(own) != 1 || own[0].Message != "webhook quarantined, in part or whole" {
				t.Errorf("logged: %+v", own)
			}
		})
	}
	kept := g.stored(t)
	g.wantListed(t, kept)
	g.report(t, good)
	if d := endpoint.one(t); d.body != good {
		t.Error("something else was delivered")
	}
	g.awaitDelivered(t)
	if diff := cmp.Diff(kept, g.stored(t)); diff != "" {
		t.Error(diff)
	}
}

// wantListed fails the test unless the command line shows these events, which
// are quarantined, and leaves them there.
func (g *gateway) wantListed(t testing.TB, kept []outboxEvent) {
	t.Helper()
	listed := g.outbox(t, "--state", "quarantined")
	ignored := cmpopts.IgnoreFields(outboxEvent{}, "ReceivedAt", "Payload")
	if diff := cmp.Diff(kept, listed, ignored); diff != "" {
		t.Error(diff)
	}
	if dead := g.outbox(t, "--state", "dead"); len(dead) != 0 {
		t.Errorf("%d events are dead letters", len(dead))
	}
	for _, e := range []outboxEvent{kept[0], kept[1], kept[len(kept)-1]} {
		if payload := g.payload(t, e.ID); payload != e.Payload {
			t.Errorf("%d bytes are shown of the payload's %d", len(payload), len(e.Payload))
		}
	}
	if _, stderr, status := g.tryRun(t, "event", "replay", kept[0].ID); status != 1 || !strings.Contains(stderr, "not a dead letter") {
		t.Errorf("replaying what is quarantined: exit status %d: %s", status, stderr)
	}
}

// payload is the payload of an event in the outbox, as commands show it.
func (g *gateway) payload(t testing.TB, id string) string {
	t.Helper()
	var shown struct {
		Payload json.RawMessage `json:"payload"`
		Base64  []byte          `json:"payload_base64"`
	}
	g.runInto(t, &shown, "event", "show", id, "--payload")
	if shown.Payload != nil {
		return string(shown.Payload)
	}
	return string(shown.Base64)
}
