package metasim

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func templateTo(to, name string) string {
	return fmt.Sprintf(`{"messaging_product":"whatsapp","to":%q,"type":"template","template":{"name":%q}}`, to, name)
}

func TestStatusesAreAsMetaSendsThem(t *testing.T) {
	hook := newReceiver(t)
	m := startMeta(t, &MetaSimulator{Webhook: hook.webhook()}, false)
	before := time.Now().Unix()
	m.do(m.post(sendPath, `{"messaging_product":"whatsapp","to":"+1 555 010 4477","type":"template","template":{"name":"x"},"biz_opaque_callback_data":"hold_1 a/b"}`))
	id := strings.ReplaceAll(m.counted().Messages[0].ID, "/", `\/`)
	const (
		head = `{"object":"whatsapp_business_account","entry":[{"id":"9106540352242922","changes":[{"value":{"messaging_product":"whatsapp",` +
			`"metadata":{"display_phone_number":"15552242922","phone_number_id":"106540352242922"},` +
			`"contacts":[{"profile":{"name":"Zo\u00eb Example"},"wa_id":"15550104477"}],"statuses":[{"id":"%s","status":"%s","timestamp":"%d",` +
			`"recipient_id":"15550104477","biz_opaque_callback_data":"hold_1 a\/b"`
		expires = `,"conversation":{"id":"2c5f324b569ab5f2afa6ff5faac8ff56","expiration_timestamp":"%d","origin":{"type":"marketing"}}`
		origin  = `,"conversation":{"id":"2c5f324b569ab5f2afa6ff5faac8ff56","origin":{"type":"marketing"}}`
		price   = `,"pricing":{"billable":true,"pricing_model":"PMP","type":"regular","category":"marketing"}`
		tail    = `}]},"field":"messages"}]}]}`
	)
	for i, name := range []string{"sent", "delivered", "read"} {
		got := hook.next()
		at, err := strconv.ParseInt(got.status(t).Timestamp, 10, 64)
		if err != nil || at < before || at > time.Now().Unix() {
			t.Errorf("timestamp is %q", got.status(t).Timestamp)
		}
		rest := []string{fmt.Sprintf(expires, at+24*60*60) + price, origin + price, ""}[i]
		if diff := cmp.Diff(fmt.Sprintf(head, id, name, at)+rest+tail, string(got.body)); diff != "" {
			t.Error(diff)
		}
		if got.path != "POST /hook" {
			t.Errorf("path is %q", got.path)
		}
		got.header.Del("X-Hub-Signature-256") // the receiver has checked it
		want := http.Header{
			"Accept": {"*/*"}, "Content-Type": {"application/json"}, "User-Agent": {"facebookexternalua"},
			"Content-Length": {fmt.Sprint(len(got.body))},
		}
		if diff := cmp.Diff(want, got.header); diff != "" {
			t.Error(diff)
		}
	}
}

// TestEveryAcceptedFateHasStatuses drives the whole table with a message that
// costs something. Plus and minus stand for prices that are and are not
// billable.
func TestEveryAcceptedFateHasStatuses(t *testing.T) {
	special := map[string]string{
		"8001": "sent+ delivered+ delivered+ read",
		"8002": "sent+ read+",
		"8003": "sent+",
		"8004": "sent- delivered- read",
		"8005": "read delivered+ sent+",
		"8006": "sent+ failed",
		"8007": "sent+ failed delivered+",
	}
	for _, f := range fates {
		t.Run(f.digits, func(t *testing.T) {
			hook := newReceiver(t)
			m := startMeta(t, &MetaSimulator{Webhook: hook.webhook(), SlowAnswer: 1}, false)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				resp, err := m.Client().Do(m.post(sendPath, templateTo("1555010"+f.digits, "x")).WithContext(ctx))
				if err == nil {
					resp.Body.Close()
				}
			}()
			want, isSpecial := special[f.digits]
			if !isSpecial && f.accepted {
				want = "sent+ delivered+ read"
			}
			var got []string
			for _, s := range hook.statuses(len(strings.Fields(want))) {
				got = append(got, s.short())
				if s.RecipientID != "1555010"+f.digits {
					t.Errorf("recipient_id is %q", s.RecipientID)
				}
			}
			if !f.accepted {
				waitFor(t, func() bool { return m.counted().Refused == 1 })
			}
			cancel() // some fates have no answer
			<-answered
			if diff := cmp.Diff(want, strings.Join(got, " ")); diff != "" {
				t.Error(diff)
			}
			waitFor(t, func() bool { return m.counted().Webhooks.Pending == 0 })
			if got := m.counted().Webhooks; got != (webhookCounts{Sent: len(strings.Fields(want))}) {
				t.Errorf("counted %+v", got)
			}
		})
	}
}

func TestCoursesBelongToFates(t *testing.T) {
	for _, f := range fates {
		if _, ok := courses[f.digits]; ok != strings.HasPrefix(f.digits, "8") {
			t.Errorf("%s has a course of its own: %t", f.digits, ok)
		}
	}
	for digits := range courses {
		if !fateByDigits[digits].accepted {
			t.Errorf("%s is not accepted", digits)
		}
	}
}

func TestFailureHasAnErrorAndNoContact(t *testing.T) {
	hook := newReceiver(t)
	m := startMeta(t, &MetaSimulator{Webhook: hook.webhook()}, false)
	m.do(m.request("15550108006"))
	hook.next()
	got := hook.next().value(t)
	want := []statusError{{
		Code: 131026, Title: "Message undeliverable", Message: "Message undeliverable",
		Details: errorDetail{"Message Undeliverable."},
		Href:    "https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes/",
	}}
	if diff := cmp.Diff(want, got.Statuses[0].Errors); diff != "" || got.Contacts != nil {
		t.Errorf("contacts %v, errors %s", got.Contacts, diff)
	}
}

// TestStatusesDoNotWaitForTheAnswer has a message that never gets one.
func TestStatusesDoNotWaitForTheAnswer(t *testing.T) {
	hook := newReceiver(t)
	m := startMeta(t, &MetaSimulator{Webhook: hook.webhook()}, false)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		resp, err := m.Client().Do(m.request("15550109103").WithContext(ctx))
		if err == nil {
			resp.Body.Close()
		}
		done <- err
	}()
	hook.statuses(3)
	select {
	case err := <-done:
		t.Fatalf("the message was answered: %v", err)
	default:
	}
	cancel()
	<-done
}

func TestPrices(t *testing.T) {
	const marketing = "/v23.0/" + phoneID + "/marketing_messages"
	regular := func(category string) price { return price{true, "PMP", "regular", category} }
	for _, test := range []struct {
		name, path, body string
		want             price
	}{
		{"text", sendPath, textTo("15550104477"), price{false, "PMP", "free_customer_service", "service"}},
		{"text that is not billable", sendPath, textTo("15550108004"), price{false, "PMP", "free_customer_service", "service"}},
		{"template", sendPath, templateTo("15550104477", "summer_sale"), regular("marketing")},
		{"utility", sendPath, templateTo("15550104477", "my_utility_1"), regular("utility")},
		{"authentication", sendPath, templateTo("15550104477", "authentication"), regular("authentication")},
		{
			"international authentication", sendPath, templateTo("15550104477", "authentication_international_utility"),
			regular("authentication_international"),
		},
		{"marketing message", marketing, templateTo("15550104477", "utility"), regular("marketing_lite")},
		{"template that is not billable", sendPath, templateTo("15550108004", "utility"), price{false, "PMP", "free_entry_point", "utility"}},
		{"marketing message that is not billable", marketing, templateTo("15550108004", "x"), price{false, "PMP", "free_entry_point", "marketing_lite"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			hook := newReceiver(t)
			m := startMeta(t, &MetaSimulator{Webhook: hook.webhook()}, false)
			m.do(m.post(test.path, test.body))
			for _, s := range hook.statuses(3) {
				want := &test.want
				if s.Status == "read" {
					want = nil
				}
				if diff := cmp.Diff(want, s.Pricing); diff != "" {
					t.Errorf("%s: %s", s.Status, diff)
				}
			}
		})
	}
}

func TestCallbackDataComesBackUntouched(t *testing.T) {
	hook := newReceiver(t)
	m := startMeta(t, &MetaSimulator{Webhook: hook.webhook()}, false)
	for _, data := range []string{"hold_1 theirs", `"/\<&>`, "ş😀\u2028\x7f\u0001", strings.Repeat("ş", maxCallbackData), ""} {
		m.do(m.post(sendPath, string(metaJSON(map[string]any{
			"messaging_product": "whatsapp", "to": "1", "type": "text", "text": map[string]string{}, "biz_opaque_callback_data": data,
		}))))
		for range 3 {
			got := hook.next()
			if got.status(t).CallbackData != data || strings.Contains(string(got.body), "biz_opaque") != (data != "") {
				t.Errorf("sent %q, got %s", data, got.body)
			}
		}
	}
}

func TestStatusOfAMessageToAUserID(t *testing.T) {
	const id = "US.13491208655302741918"
	hook := newReceiver(t)
	m := startMeta(t, &MetaSimulator{Webhook: hook.webhook()}, false)
	m.do(m.post("/v23.0/42/messages", `{"messaging_product":"whatsapp","recipient":"`+id+`","type":"text","text":{}}`))
	got := hook.next().value(t)
	if got.Statuses[0].RecipientID != id || got.Statuses[0].RecipientUserID != id {
		t.Errorf("got %+v", got.Statuses[0])
	}
	if diff := cmp.Diff([]user{{Profile: profile{profileName}, UserID: id}}, got.Contacts); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(metadata{"15550000042", "42"}, got.Metadata); diff != "" {
		t.Error(diff)
	}
}
