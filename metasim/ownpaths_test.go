package metasim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUserWritesOnRequest(t *testing.T) {
	const (
		byPhone = `"contacts":[{"profile":{"name":"Zo\u00eb Example"},"wa_id":"15550104477"}],"messages":[{`
		byID    = `"contacts":[{"profile":{"name":"Zo\u00eb Example"},"user_id":"US.1349120865"}],"messages":[{`
	)
	for _, test := range []struct{ name, request, want string }{
		{
			"text", `{"phone_number_id":"106540352242922","from":"+1 555 010 4477","text":"Günaydın \"/"}`,
			byPhone + `"from":"15550104477","id":"%s","text":{"body":"G\u00fcnayd\u0131n \"\/"},"timestamp":"%s","type":"text"}]`,
		},
		{
			"button", `{"phone_number_id":"106540352242922","from":"15550104477","text":"yes","type":"button"}`,
			byPhone + `"button":{"payload":"yes","text":"yes"},"from":"15550104477","id":"%s","timestamp":"%s","type":"button"}]`,
		},
		{
			"business-scoped user id", `{"phone_number_id":"106540352242922","from":"US.1349120865","text":"hello"}`,
			byID + `"from_user_id":"US.1349120865","id":"%s","text":{"body":"hello"},"timestamp":"%s","type":"text"}]`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			hook := newReceiver(t)
			m := startMeta(t, &MetaSimulator{Webhook: hook.webhook()}, false)
			resp, body := m.do(m.post("/_simulator/message", test.request))
			var answer struct{ ID string }
			if err := json.Unmarshal(body, &answer); err != nil || resp.StatusCode != http.StatusOK || !strings.HasPrefix(answer.ID, "wamid.") {
				t.Fatalf("status %d: %s", resp.StatusCode, body)
			}
			got := hook.next()
			at, _ := got.value(t).Messages[0]["timestamp"].(string)
			if _, err := strconv.ParseInt(at, 10, 64); err != nil {
				t.Error(err)
			}
			want := `{"object":"whatsapp_business_account","entry":[{"id":"9106540352242922","changes":[{"value":{"messaging_product":"whatsapp",` +
				`"metadata":{"display_phone_number":"15552242922","phone_number_id":"106540352242922"},` +
				fmt.Sprintf(test.want, strings.ReplaceAll(answer.ID, "/", `\/`), at) + `},"field":"messages"}]}]}`
			if diff := cmp.Diff(want, string(got.body)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEveryTypeOfUserMessage(t *testing.T) {
	hook := newReceiver(t)
	m := startMeta(t, &MetaSimulator{Webhook: hook.webhook()}, false)
	for kind := range userContents {
		m.do(m.post("/_simulator/message", fmt.Sprintf(`{"phone_number_id":"1","from":"2","text":"hello","type":%q}`, kind)))
		got := hook.next().value(t).Messages[0]
		content, _ := json.Marshal(got[kind])
		if got["type"] != kind || !strings.Contains(string(content), `"hello"`) {
			t.Errorf("%s: got %v", kind, got)
		}
	}
}

func TestBadRequestsForUserMessages(t *testing.T) {
	const shape = "the body must be a JSON object with the strings phone_number_id, from, text and, if need be, type"
	hook := newReceiver(t)
	m := startMeta(t, &MetaSimulator{Webhook: hook.webhook()}, false)
	for body, want := range map[string]string{
		``:                                   shape,
		`[]`:                                 shape,
		`{} {}`:                              shape,
		`{"phone_number_id":1}`:              shape,
		`{"phone_number_id":"1","body":"x"}`: shape,
		`{"from":"1","text":"x"}`:            "phone_number_id must be up to 32 digits",
		`{"phone_number_id":"1a","from":"1","text":"x"}`:             "phone_number_id must be up to 32 digits",
		`{"phone_number_id":"1","text":"x"}`:                         "from must be a phone number, or a business-scoped user id such as US.13491208655302741918",
		`{"phone_number_id":"1","from":"me","text":"x"}`:             "from must be a phone number, or a business-scoped user id such as US.13491208655302741918",
		`{"phone_number_id":"1","from":"2"}`:                         "text is required",
		`{"phone_number_id":"1","from":"2","text":"x","type":"fax"}`: "type must be one of button, image, reaction, text",
	} {
		resp, answer := m.do(m.post("/_simulator/message", body))
		if diff := cmp.Diff(map[string]any{"error": want}, object(t, answer)); diff != "" || resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: status %d: %s", body, resp.StatusCode, diff)
		}
	}
	if got := m.counted().Webhooks; got != (webhookCounts{}) {
		t.Errorf("counted %+v", got)
	}
}

func TestAnyBytesAreSignedAndSentAsTheyAre(t *testing.T) {
	hook := newReceiver(t)
	m := startMeta(t, &MetaSimulator{Webhook: hook.webhook()}, false)
	for _, body := range []string{"{\"a\" : \"\\u00fc\"}\n", "{\"half", "\xff\x00", "", strings.Repeat(" ", 5<<20)} {
		for _, status := range []int{200, 401, 302} {
			hook.answer.Store(int32(status))
			resp, answer := m.do(m.post("/_simulator/webhook", body))
			if want := fmt.Sprintf(`{"status":%d}`, status); resp.StatusCode != http.StatusOK || string(answer) != want {
				t.Errorf("status %d: %s, want %s", resp.StatusCode, answer, want)
			}
			if got := hook.next(); string(got.body) != body || got.header.Get("Content-Type") != "application/json" {
				t.Errorf("%d bytes became %d", len(body), len(got.body))
			}
		}
	}
	if got := m.counted().Webhooks; got != (webhookCounts{}) {
		t.Errorf("counted %+v", got)
	}
	if resp, _ := m.do(m.post("/_simulator/webhook", strings.Repeat(" ", maxRawWebhook+1))); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("too large: status %d", resp.StatusCode)
	}
	hook.Close()
	if resp, answer := m.do(m.post("/_simulator/webhook", "{}")); resp.StatusCode != http.StatusBadGateway || strings.Contains(string(answer), "127.0.0.1") {
		t.Errorf("nobody there: status %d: %s", resp.StatusCode, answer)
	}
}

func TestOwnPathsWithoutAWebhook(t *testing.T) {
	m := startMeta(t, new(MetaSimulator), false)
	for _, path := range []string{"/_simulator/message", "/_simulator/webhook"} {
		resp, body := m.do(m.post(path, `{"phone_number_id":"1","from":"2","text":"x"}`))
		if resp.StatusCode != http.StatusNotFound || string(body) != `{"error":"no webhook is configured"}` {
			t.Errorf("%s: status %d: %s", path, resp.StatusCode, body)
		}
	}
	if resp, body := m.do(m.post("/_simulator/accepted", "")); resp.StatusCode != http.StatusNotFound || !strings.Contains(string(body), "POST /_simulator/webhook") {
		t.Errorf("wrong method: status %d: %s", resp.StatusCode, body)
	}
	m.do(m.request("15550104477"))
	if got := m.counted().Webhooks; got != (webhookCounts{}) {
		t.Errorf("counted %+v", got)
	}
}

func TestJSONIsEscapedAsMetaDoes(t *testing.T) {
	for plain, want := range map[string]string{
		"a/b":          `"a\/b"`,
		"Zoë":          `"Zo\u00eb"`,
		"😀":            `"\ud83d\ude00"`,
		`\/`:           `"\\\/"`,
		"<\u2028\x7f>": "\"\\u003c\\u2028\x7f\\u003e\"",
	} {
		got := metaJSON(plain)
		var back string
		if err := json.Unmarshal(got, &back); err != nil || back != plain || string(got) != want {
			t.Errorf("%q became %s, and that %q: %v", plain, got, back, err)
		}
	}
}
