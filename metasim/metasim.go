// Package metasim is a Meta for tests and demonstrations: the Caddy module
// http.handlers.meta_simulator answers sends as the WhatsApp Cloud API does,
// fails in the ways that Meta and networks fail, tells in signed webhooks what
// becomes of the messages, and counts, so that what Meta accepted can be
// compared with what was charged.
//
// It must never face the internet: it shows the last request, access token,
// recipient and text included, to whoever asks, and signs whatever it is given.
//
// # Fates
//
// The last four digits of the recipient (to, or else recipient) choose what
// becomes of a message. The codes of Meta's own errors are the last four
// digits of Meta's code; those that begin with 9 are trouble on the way, 90
// where the message is refused, 91 where it is accepted; those that begin with
// 8 are accepted like any other and are kept for what happens after that.
//
//	0000  accepted  as is every recipient whose digits are not in this table
//	0190  refused   code 190, and the texts of the error contain the access token of the request
//	0429  refused   code 130429, throttled
//	1016  refused   code 131016, Meta is down: an error with every optional member
//	1026  refused   code 131026, not on WhatsApp
//	1047  refused   code 131047, more than 24 hours since the user wrote
//	1052  refused   code 131052, media cannot be downloaded
//	1053  refused   code 131053, media cannot be uploaded
//	2001  refused   code 132001, unknown template
//	8001  accepted  delivered twice
//	8002  accepted  read without delivered
//	8003  accepted  never delivered
//	8004  accepted  not billable
//	8005  accepted  out of order: read, then delivered, then sent
//	8006  accepted  failed after sent
//	8007  accepted  delivered after failed
//	9001  refused   the connection is reset before the request was read
//	9002  refused   the connection is reset after the request was read
//	9003  refused   no answer until the client goes away
//	9004  refused   status 500 with an HTML page
//	9005  refused   status 200 without a message id
//	9006  refused   status 200 with a body that is not JSON
//	9102  accepted  the connection is reset after the request was read
//	9103  accepted  no answer until the client goes away
//	9107  accepted  the answer is compressed with gzip, asked for or not
//	9108  accepted  the answer has 10 MiB
//	9109  accepted  the answer takes as long as slow_answer says
//	9110  accepted  the answer ends in the middle of its body
//
// A recipient stands in the body, so that the simulator has to read it to find
// 9001. A phone number ID that ends in 9001 is reset before a byte of the body
// is asked for; the headers, and what the server's buffer took in with them,
// have been read even then. A reset is a TCP RST on HTTP/1 (a plain close where
// the listener hides its TCP socket, as with HTTP/2 turned off) and a stream
// reset on HTTP/2. A Caddy that is told to exit waits for clients that get no
// answer, unless grace_period is set.
//
// # Webhooks
//
// Where a webhook is configured, every message that was accepted gets the
// statuses sent, delivered and read, unless its fate begins with 8. Each status
// is a POST of its own. Nothing waits for the answer to the message: a status
// may arrive before it, and arrives where that answer is lost.
//
// Names are made up. The business account is the phone number ID with a 9 in
// front; the display phone number is 1555 and the last seven digits of that ID.
// A template is billable, and of category marketing, unless its name contains
// authentication_international, authentication or utility; the edge
// marketing_messages makes it marketing_lite. Anything else is free and of
// category service. The price comes with sent and delivered, or with sent and read
// where there is no delivered. A failed message has code 131026. All statuses of a
// message have the time at which it was accepted. JSON is escaped to ASCII,
// slashes included, as Meta's is; a reader has to decode it.
//
// The statuses of a message are sent for the first time in the order of its
// fate. An answer other than 2xx, or none within 10 seconds, means that the same
// bytes are sent again, after 100 milliseconds and then twice as long each time,
// up to 30 seconds; other webhooks do not wait for that, so that a status that is
// repeated may arrive after later ones. After 12 attempts a webhook is given up.
// At most 100,000 wait; what comes on top is dropped. What waits survives a
// reload of the configuration, with the URL and secret that it began with, and is
// lost when the last simulator goes.
//
//	POST /_simulator/message  {"phone_number_id":…,"from":…,"text":…,"type":…} makes a user write, and answers {"id":<message id>}
//	POST /_simulator/webhook  signs the body, sends exactly that, once, and answers {"status":<status of the answer>}
//
// from is a phone number or a business-scoped user id; type is text, which is
// what it means to leave it out, button, image or reaction. The answer comes
// when the message is queued. What is sent by /_simulator/webhook is not
// counted.
//
// # Counting
//
//	GET /_simulator/accepted     {"accepted":N,"refused":N,"reads":N,"dropped":N,"messages":[…],"phone_numbers":{…},"callback_data":{…},"webhooks":{…}}
//	DELETE /_simulator/accepted  forgets everything
//	GET /_simulator/last         {"method":…,"host":…,"protocol":…,"path":…,"query":…,"content_length":N,"headers":{…},"body":<base64>}
//
// accepted and refused are sends: every POST to a messages path is one or the
// other, but for the read receipts that succeeded and for clients that broke
// off in the middle of the body. messages lists what was accepted, oldest
// first, each with id, phone_number_id, biz_opaque_callback_data and
// authorization_ok. phone_numbers and callback_data have the number of accepted
// and refused sends for each phone number ID and each biz_opaque_callback_data.
// A message is counted before its answer is written. The newest 200,000 sends
// are kept; dropped says how many older ones are in the totals only. All
// simulators of a process share one count, which survives a reload of the
// configuration.
//
// webhooks is {"sent":N,"retried":N,"failed":N,"pending":N,"last_error":…}: those
// that were answered with 2xx, the attempts but for the first ones, those that
// were given up or dropped, and those that are not decided. last_error says why
// the last attempt that failed did so, if any has. Forgetting does not touch what
// is pending.
//
// last is what came in, byte for byte (of the body the first 4 MiB), whatever
// its path.
package metasim

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const (
	// tokenPrefix begins every access token of Meta's.
	tokenPrefix = "EAA"

	// defaultSlowAnswer is how long a slow answer takes where nothing else is configured.
	defaultSlowAnswer = 2 * time.Second

	// maxBody is how much of a request is read, in bytes. It is several times
	// what the gateway lets through by default.
	maxBody = 4 << 20
)

// messagesPath tells version, phone number ID and edge of a path for messages.
var messagesPath = regexp.MustCompile(`^/(v[0-9]{1,3}\.[0-9])/([^/]+)/(messages|marketing_messages)$`)

// phoneNumberID is what Meta gives out: digits, some 15 of them.
var phoneNumberID = regexp.MustCompile(`^[0-9]{1,32}$`)

func init() {
	caddy.RegisterModule(MetaSimulator{})
}

// MetaSimulator answers every request that reaches it as Meta's Graph API
// would; it calls no next handler. See the package documentation for what it
// does with which recipient.
type MetaSimulator struct {
	// AccessTokens are the only good ones. Empty means that any token that
	// begins with "EAA" is good. Placeholders such as {env.NAME} are replaced
	// when the configuration is loaded.
	AccessTokens []string `json:"access_token,omitempty"`

	// SlowAnswer is how long a slow answer takes. Zero means 2 seconds.
	SlowAnswer caddy.Duration `json:"slow_answer,omitempty"`

	// Webhook gets what becomes of messages. Nil means that nobody is told.
	Webhook *Webhook `json:"webhook,omitempty"`

	sends *tally
	// courier is nil until Provision has succeeded.
	courier *courier
}

// CaddyModule returns the Caddy module information.
func (MetaSimulator) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.meta_simulator",
		New: func() caddy.Module { return new(MetaSimulator) },
	}
}

// Provision fills in defaults and resolves placeholders.
func (m *MetaSimulator) Provision(caddy.Context) (err error) {
	repl := caddy.NewReplacer()
	for i, token := range m.AccessTokens {
		resolved, err := repl.ReplaceOrErr(token, true, true)
		if err != nil {
			return fmt.Errorf("access_token: %w", err)
		}
		if resolved == "" {
			return errors.New("access_token is empty")
		}
		m.AccessTokens[i] = resolved
	}
	if m.SlowAnswer < 0 {
		return errors.New("slow_answer is negative")
	}
	if m.SlowAnswer == 0 {
		m.SlowAnswer = caddy.Duration(defaultSlowAnswer)
	}
	if m.Webhook != nil {
		if err := m.Webhook.resolve(repl); err != nil {
			return err
		}
	}
	m.sends = processTally
	m.courier, err = sharedCourier()
	return err
}

// Cleanup gives up the courier. Requests that outlive the configuration find it
// closed, or at work for the next one.
func (m *MetaSimulator) Cleanup() error {
	if m.courier == nil {
		return nil
	}
	return releaseCourier()
}

// ServeHTTP answers as Meta would, or for the simulator's own paths says what
// was counted.
func (m *MetaSimulator) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if strings.HasPrefix(r.URL.Path, ownPaths) {
		return m.serveOwn(w, r)
	}
	x := &exchange{w: w, r: r, slowAnswer: time.Duration(m.SlowAnswer)}
	x.route()
	isSend := x.edge != "" && r.Method == http.MethodPost
	if isSend && strings.HasSuffix(x.phoneNumberID, resetUnread) {
		m.sends.keepLast(r, nil)
		m.sends.refuse(x.phoneNumberID, "")
		return reset(x)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	m.sends.keepLast(r, body)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		if isSend {
			m.sends.refuse(x.phoneNumberID, "")
		}
		return x.fail(errTooLarge)
	}
	if err != nil {
		return caddyhttp.Error(http.StatusBadRequest, err)
	}
	if x.edge == "" {
		return x.fail(unknownPath(r.URL.Path))
	}
	if !isSend {
		return x.fail(unsupportedMethod(r.Method, x.phoneNumberID))
	}
	return m.serveMessage(x, body)
}

// serveMessage answers one POST to a messages path and counts it.
func (m *MetaSimulator) serveMessage(x *exchange, body []byte) error {
	x.message = parseMessage(x.r.Header.Get("Content-Type"), body)
	fault := m.authorize(x)
	if fault == nil && !phoneNumberID.MatchString(x.phoneNumberID) {
		fault = new(unsupportedMethod(http.MethodPost, x.phoneNumberID))
	}
	if fault == nil {
		fault = x.message.fault(x.edge)
	}
	if fault != nil {
		m.sends.refuse(x.phoneNumberID, x.message.callbackData)
		return x.fail(*fault)
	}
	if x.message.isRead() {
		m.sends.read()
		return x.answer(http.StatusOK, map[string]bool{"success": true})
	}
	fate := fateOf(x.message.address())
	if !fate.accepted {
		m.sends.refuse(x.phoneNumberID, x.message.callbackData)
		return fate.answer(x)
	}
	x.messageID = newMessageID()
	m.sends.accept(acceptedMessage{
		ID:              x.messageID,
		PhoneNumberID:   x.phoneNumberID,
		CallbackData:    x.message.callbackData,
		AuthorizationOK: true, // nothing gets here without
	})
	if m.Webhook != nil {
		c := courseOf(fate)
		m.courier.bring(newReport(x, c.free).deliveries(m.Webhook, c.steps)...)
	}
	return fate.answer(x)
}

// authorize says what is wrong with the access token, if anything, and keeps it.
func (m *MetaSimulator) authorize(x *exchange) *graphError {
	scheme, token, _ := strings.Cut(x.r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return &errNoToken
	}
	x.token = token
	if len(m.AccessTokens) == 0 && strings.HasPrefix(token, tokenPrefix) || slices.Contains(m.AccessTokens, token) {
		return nil
	}
	return &errBadToken
}

// exchange is one request and what is known of it when it is answered.
type exchange struct {
	w          http.ResponseWriter
	r          *http.Request
	slowAnswer time.Duration

	// version, phoneNumberID and edge are the parts of the path; all are empty
	// where it is not a path for messages.
	version, phoneNumberID, edge string

	token     string
	message   message
	messageID string
}

// route takes the path apart.
func (x *exchange) route() {
	if parts := messagesPath.FindStringSubmatch(x.r.URL.Path); parts != nil {
		x.version, x.phoneNumberID, x.edge = parts[1], parts[2], parts[3]
	}
}

// Interface guards
var (
	_ caddy.Provisioner           = (*MetaSimulator)(nil)
	_ caddy.CleanerUpper          = (*MetaSimulator)(nil)
	_ caddyhttp.MiddlewareHandler = (*MetaSimulator)(nil)
)
