package metasim

import (
	"net/http"
	"strings"
	"sync"
)

const (
	// maxSends is how many sends are kept one by one.
	maxSends = 200_000

	// maxKept is how long what is kept of a send may be, in bytes: room for
	// 512 characters of whatever script.
	maxKept = 4 * maxCallbackData
)

// processTally outlives every configuration, as Meta's books outlive a
// restart of the gateway.
var processTally = newTally(maxSends)

// tally counts sends. It is safe for concurrent use.
type tally struct {
	limit int

	mu                       sync.Mutex
	accepted, refused, reads int
	// sends are the newest ones; once there are limit of them, oldest is where
	// the next one goes.
	sends  []send
	oldest int
	last   *lastRequest
}

// send is one counted send; it was refused where it has no message id.
type send struct {
	acceptedMessage
	accepted bool
}

// acceptedMessage is a message that Meta would deliver.
type acceptedMessage struct {
	ID              string `json:"id"`
	PhoneNumberID   string `json:"phone_number_id"`
	CallbackData    string `json:"biz_opaque_callback_data"`
	AuthorizationOK bool   `json:"authorization_ok"`
}

// lastRequest is what came in last.
type lastRequest struct {
	Method        string      `json:"method"`
	Host          string      `json:"host"`
	Protocol      string      `json:"protocol"`
	Path          string      `json:"path"`
	Query         string      `json:"query"`
	ContentLength int64       `json:"content_length"`
	Headers       http.Header `json:"headers"`
	Body          []byte      `json:"body"` // base64 in JSON
}

// summary is what a tally tells.
type summary struct {
	Accepted     int               `json:"accepted"`
	Refused      int               `json:"refused"`
	Reads        int               `json:"reads"`
	Dropped      int               `json:"dropped"`
	Messages     []acceptedMessage `json:"messages"`
	PhoneNumbers map[string]counts `json:"phone_numbers"`
	CallbackData map[string]counts `json:"callback_data"`
	// Webhooks is not the tally's own.
	Webhooks webhookCounts `json:"webhooks"`
}

// counts are the sends that have something in common.
type counts struct {
	Accepted int `json:"accepted"`
	Refused  int `json:"refused"`
}

// plus is c with one more send.
func (c counts) plus(accepted bool) counts {
	if accepted {
		c.Accepted++
	} else {
		c.Refused++
	}
	return c
}

func newTally(limit int) *tally { return &tally{limit: limit} }

// accept counts a message that was accepted.
func (t *tally) accept(m acceptedMessage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.accepted++
	t.keep(send{acceptedMessage: m, accepted: true})
}

// refuse counts a send that was not accepted.
func (t *tally) refuse(phoneNumberID, callbackData string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refused++
	t.keep(send{acceptedMessage: acceptedMessage{PhoneNumberID: phoneNumberID, CallbackData: callbackData}})
}

// read counts a read receipt.
func (t *tally) read() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reads++
}

// keep needs the lock. What is too long for Meta is refused, and kept without
// that text, so that the tally's memory has a bound.
func (t *tally) keep(s send) {
	if len(s.CallbackData) > maxKept {
		s.CallbackData = ""
	}
	if len(s.PhoneNumberID) > maxKept {
		s.PhoneNumberID = ""
	}
	if len(t.sends) < t.limit {
		t.sends = append(t.sends, s)
		return
	}
	t.sends[t.oldest] = s
	t.oldest = (t.oldest + 1) % t.limit
}

// keepLast remembers a request as it came in: the path is the one of the
// request line, whatever handlers before this one made of it.
func (t *tally) keepLast(r *http.Request, body []byte) {
	path, query, _ := strings.Cut(r.RequestURI, "?")
	last := &lastRequest{
		Method: r.Method, Host: r.Host, Protocol: r.Proto, Path: path, Query: query,
		ContentLength: r.ContentLength, Headers: r.Header.Clone(), Body: body,
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = last
}

// lastRequest is what keepLast was told last, or nil.
func (t *tally) lastRequest() *lastRequest {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}

// forget makes the tally as new.
func (t *tally) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.accepted, t.refused, t.reads = 0, 0, 0
	t.sends, t.oldest, t.last = nil, 0, nil
}

// summarize counts what is kept, outside the lock, because it may be much.
func (t *tally) summarize() summary {
	t.mu.Lock()
	s := summary{Accepted: t.accepted, Refused: t.refused, Reads: t.reads}
	sends := append(append(make([]send, 0, len(t.sends)), t.sends[t.oldest:]...), t.sends[:t.oldest]...)
	t.mu.Unlock()

	s.Dropped = s.Accepted + s.Refused - len(sends)
	s.Messages = []acceptedMessage{}
	s.PhoneNumbers, s.CallbackData = map[string]counts{}, map[string]counts{}
	for _, one := range sends {
		if one.accepted {
			s.Messages = append(s.Messages, one.acceptedMessage)
		}
		s.PhoneNumbers[one.PhoneNumberID] = s.PhoneNumbers[one.PhoneNumberID].plus(one.accepted)
		if one.CallbackData != "" {
			s.CallbackData[one.CallbackData] = s.CallbackData[one.CallbackData].plus(one.accepted)
		}
	}
	return s
}
