package caddytest

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"testing"

	_ "modernc.org/sqlite" // the driver
)

// recipient returns a German phone number that no other test uses. The last four
// digits choose its fate at the simulator; see package metasim.
func (g *gateway) recipient(fate string) string {
	number := fmt.Sprintf("49151%06d%s", rand.N(1_000_000), fate)
	g.keepPrivate("recipient", number)
	return number
}

// text returns a text that no other test uses.
func (g *gateway) text() string {
	text := fmt.Sprintf("the text of message %016x", rand.Uint64())
	g.keepPrivate("message text", text)
	return text
}

// The fates that most tests need.
const (
	accepted = "0000"
	refused  = "1026"
)

// message returns the body of a text message whose recipient has this fate.
func (g *gateway) message(fate string) string {
	return fmt.Sprintf(`{"messaging_product":"whatsapp","to":%q,"type":"text","text":{"body":%q}}`, g.recipient(fate), g.text())
}

// tally is what the simulator counted.
type tally struct {
	Accepted int `json:"accepted"`
	Refused  int `json:"refused"`
	Reads    int `json:"reads"`
	Messages []struct {
		ID            string `json:"id"`
		PhoneNumberID string `json:"phone_number_id"`
		CallbackData  string `json:"biz_opaque_callback_data"`
	} `json:"messages"`
	PhoneNumbers map[string]struct {
		Accepted int `json:"accepted"`
		Refused  int `json:"refused"`
	} `json:"phone_numbers"`
	Webhooks struct {
		Sent      int    `json:"sent"`
		Failed    int    `json:"failed"`
		Pending   int    `json:"pending"`
		LastError string `json:"last_error"`
	} `json:"webhooks"`
}

// sends is how many sends of a tenant have reached the simulator, whatever it
// answered them.
func (s tally) sends(who tenant) int {
	n := s.PhoneNumbers[who.phone]
	return n.Accepted + n.Refused
}

// tally returns what the simulator has counted since its process started.
func (g *gateway) tally(t testing.TB) (s tally) {
	t.Helper()
	g.simulated(t, "/_simulator/accepted", &s)
	return s
}

// received is a request as it came in at Meta.
type received struct {
	Method        string      `json:"method"`
	Host          string      `json:"host"`
	Path          string      `json:"path"`
	Query         string      `json:"query"`
	ContentLength int64       `json:"content_length"`
	Headers       http.Header `json:"headers"`
	Body          []byte      `json:"body"`
}

// last returns the last request that came in at the simulator. It is of use
// where no other test shares the gateway.
func (g *gateway) last(t testing.TB) (r received) {
	t.Helper()
	g.simulated(t, "/_simulator/last", &r)
	return r
}

func (g *gateway) simulated(t testing.TB, path string, v any) {
	t.Helper()
	response, err := g.client.Get("http://" + g.simulator + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		t.Fatalf("%s: status %d: %v", path, response.StatusCode, err)
	}
}

// open opens the gateway's database beside the gateway. The caller closes it.
func (g *gateway) open(t testing.TB) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: g.database}).EscapedPath()+"?_pragma=busy_timeout(30000)")
	if err != nil {
		t.Fatal(err)
	}
	return db
}
