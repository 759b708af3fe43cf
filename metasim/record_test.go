package metasim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCountsWhatWasAcceptedAndRefused(t *testing.T) {
	m := startMeta(t, new(MetaSimulator), false)
	send := func(phoneID, to, data string) {
		m.do(m.post("/v23.0/"+phoneID+"/messages", fmt.Sprintf(
			`{"messaging_product":"whatsapp","to":%q,"type":"text","text":{},"biz_opaque_callback_data":%q}`, to, data)))
	}
	send("111", "15550104477", "hold_1 theirs")
	send("111", "15550104477", "hold_1 theirs")
	send("111", "15550101026", "hold_2")
	send("222", "15550109004", "hold_2")
	send("222", "15550104477", "")
	m.do(m.post(sendPath, `{"messaging_product":"whatsapp","status":"read","message_id":"wamid.1"}`))

	got := m.counted()
	ids := map[string]bool{}
	for i := range got.Messages {
		ids[got.Messages[i].ID] = true
		got.Messages[i].ID = ""
	}
	if len(ids) != 3 {
		t.Errorf("ids are not unique: %v", ids)
	}
	want := summary{
		Accepted: 3, Refused: 2, Reads: 1,
		Messages: []acceptedMessage{
			{PhoneNumberID: "111", CallbackData: "hold_1 theirs", AuthorizationOK: true},
			{PhoneNumberID: "111", CallbackData: "hold_1 theirs", AuthorizationOK: true},
			{PhoneNumberID: "222", AuthorizationOK: true},
		},
		PhoneNumbers: map[string]counts{"111": {Accepted: 2, Refused: 1}, "222": {Accepted: 1, Refused: 1}},
		CallbackData: map[string]counts{"hold_1 theirs": {Accepted: 2}, "hold_2": {Refused: 2}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	forget, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, m.URL+"/_simulator/accepted", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, _ := m.do(forget); resp.StatusCode != http.StatusNoContent {
		t.Errorf("DELETE: status %d", resp.StatusCode)
	}
	want = summary{Messages: []acceptedMessage{}, PhoneNumbers: map[string]counts{}, CallbackData: map[string]counts{}}
	if diff := cmp.Diff(want, m.counted()); diff != "" {
		t.Error(diff)
	}
}

func TestMessageIsListedBeforeItsAnswer(t *testing.T) {
	m := startMeta(t, new(MetaSimulator), false)
	var racers sync.WaitGroup
	for range 8 {
		racers.Go(func() {
			for range 50 {
				_, body := m.do(m.request("15550104477"))
				var answer acceptance
				if err := json.Unmarshal(body, &answer); err != nil {
					t.Error(err)
					return
				}
				if !slices.ContainsFunc(m.counted().Messages, func(a acceptedMessage) bool { return a.ID == answer.Messages[0].ID }) {
					t.Errorf("%s was answered and is not listed", answer.Messages[0].ID)
				}
			}
		})
	}
	racers.Wait()
	got := m.counted()
	ids := map[string]bool{}
	for _, one := range got.Messages {
		ids[one.ID] = true
	}
	if got.Accepted != 400 || len(ids) != 400 {
		t.Errorf("accepted %d with %d different ids, want 400", got.Accepted, len(ids))
	}
}

func TestOldSendsAreDroppedFromTheListOnly(t *testing.T) {
	tally := newTally(3)
	for i := range 5 {
		tally.accept(acceptedMessage{ID: fmt.Sprint(i), PhoneNumberID: "111"})
	}
	tally.refuse("111", strings.Repeat("x", maxKept+1))
	want := summary{
		Accepted: 5, Refused: 1, Dropped: 3,
		Messages:     []acceptedMessage{{ID: "3", PhoneNumberID: "111"}, {ID: "4", PhoneNumberID: "111"}},
		PhoneNumbers: map[string]counts{"111": {Accepted: 2, Refused: 1}},
		CallbackData: map[string]counts{},
	}
	if diff := cmp.Diff(want, tally.summarize()); diff != "" {
		t.Error(diff)
	}
}

func TestLastRequestIsShownAsItCameIn(t *testing.T) {
	m := startMeta(t, new(MetaSimulator), false)
	if resp, _ := m.do(must(http.NewRequestWithContext(t.Context(), http.MethodGet, m.URL+"/_simulator/last", nil))); resp.StatusCode != 404 {
		t.Errorf("before any request: status %d", resp.StatusCode)
	}
	body := "{\"to\" : \"1\",\n\"\xff\":\"\x00\"}"
	r := m.post("/v23.0/%31/nowhere?access_token=x&a=%20", body)
	r.Header = http.Header{"Authorization": {"Bearer x"}, "User-Agent": {"gateway"}, "X-Two": {"1", "2"}}
	m.do(r)
	var got lastRequest
	getJSON(t, m.Client(), m.URL+"/_simulator/last", &got)
	want := lastRequest{
		Method: "POST", Host: strings.TrimPrefix(m.URL, "http://"), Protocol: "HTTP/1.1",
		Path: "/v23.0/%31/nowhere", Query: "access_token=x&a=%20", ContentLength: int64(len(body)),
		Headers: http.Header{
			"Accept-Encoding": {"gzip"}, "Authorization": {"Bearer x"}, "Content-Length": {fmt.Sprint(len(body))},
			"User-Agent": {"gateway"}, "X-Two": {"1", "2"},
		},
		Body: []byte(body),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
