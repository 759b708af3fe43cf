package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

const (
	// bodyTimeout is how long a client may take to upload a body.
	bodyTimeout = 30 * time.Second
	// maxFirstRead is how much memory a body gets before any of it has arrived.
	maxFirstRead = 8 << 10
	// maxGrowth is how many times as much it gets once that is full.
	maxGrowth = 15
	// usualBody is what a body of unknown length gets at first.
	usualBody = 2 << 10
	// spareRoom is more than a body needs for the hold's id.
	spareRoom = 128
	// maxNesting is how deep objects and arrays may stand in one another.
	maxNesting = 32
	// maxOpaque is how long Meta lets biz_opaque_callback_data be, in characters.
	maxOpaque = 512
	// holdSeparator stands between our hold id and the customer's own
	// biz_opaque_callback_data, where there is one.
	holdSeparator = ":"
)

// field is a member of the request's top-level object that the gateway reads.
// The zero value is any other one, which is Meta's to judge.
type field uint8

const (
	messagingProduct field = iota + 1
	recipientTo
	recipientID
	messageType
	messageStatus
	messageIDField
	opaqueData
	// forbidden are parameters of the Graph API that change what a request
	// means or whose it is: Graph takes parameters from a JSON body, too.
	forbidden
)

// fields are the members that the gateway reads.
var fields = []struct {
	name  string
	field field
}{
	{"messaging_product", messagingProduct},
	{"to", recipientTo},
	{"recipient", recipientID},
	{"type", messageType},
	{"status", messageStatus},
	{"message_id", messageIDField},
	{"biz_opaque_callback_data", opaqueData},
	{"access_token", forbidden},
	{"appsecret_proof", forbidden},
	{"batch", forbidden},
	{"ids", forbidden},
	{"method", forbidden},
}

// message is what the gateway knows of a request body.
type message struct {
	body []byte
	// seen and present have a bit for every field that is there, and for those
	// that are neither null nor "".
	seen, present uint16
	// receipt: the body marks a message as read or shows a typing indicator. It
	// is forwarded as it is and never charged.
	receipt bool
	// opaque is where the value of biz_opaque_callback_data stands, where it is there.
	opaque span
	// end is where the closing brace stands.
	end int
}

// span is body[start:end].
type span struct{ start, end int }

func (m *message) has(f field) bool { return m.present&(1<<f) != 0 }

// readBody reads a request's body of up to limit bytes, for as long as timeout.
// It does not trust a length that the client has only announced.
func readBody(w http.ResponseWriter, r *http.Request, limit int64, timeout time.Duration) ([]byte, *failure) {
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	// A server that knows no deadlines is left to its own timeouts.
	controller := http.NewResponseController(w)
	_ = controller.SetReadDeadline(time.Now().Add(timeout))
	defer func() { _ = controller.SetReadDeadline(time.Time{}) }()

	announced := int(r.ContentLength)
	if announced < 0 {
		announced = usualBody
	}
	body := make([]byte, 0, min(announced, maxFirstRead)+spareRoom)
	for {
		n, err := r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case int64(len(body)) > limit:
			return nil, tooLarge(limit)
		case err == io.EOF:
			return body, nil
		case err != nil:
			return nil, brokenOff(err)
		case cap(body)-len(body) < spareRoom/2:
			body = slices.Grow(body, min(max(announced-len(body), len(body)), maxGrowth*len(body))+spareRoom)
		}
	}
}

// brokenOff is the failure for a body that could not be read to its end.
func brokenOff(err error) *failure {
	if over := (*http.MaxBytesError)(nil); errors.As(err, &over) { // of Caddy's request_body
		return tooLarge(over.Limit)
	}
	return bodyRefused.because("The request body could not be read to its end.")
}

func tooLarge(limit int64) *failure {
	return bodyTooLarge.because(fmt.Sprintf("The request body is over the limit of %d bytes.", limit))
}

// sentence is an error that is a description for the client. It repeats nothing
// of the body but the names of fields that the gateway knows.
type sentence string

func (s sentence) Error() string { return string(s) }

const (
	errNotObject = sentence("The request body must be one JSON object.")
	errNotJSON   = sentence("The request body is not valid JSON.")
	errTrailing  = sentence("The request body must be one JSON object with nothing behind it.")
)

var errTooDeep = sentence(fmt.Sprintf("The request body is nested more than %d levels deep.", maxNesting))

// parseMessage finds out whether body is one unambiguous JSON object with the
// fields that a message needs. The error, if any, is a [sentence].
func parseMessage(body []byte) (message, error) {
	m := message{body: body}
	s := scanner{text: body}
	if s.next() != '{' {
		return m, errNotObject
	}
	if !utf8.Valid(body) {
		return m, errNotJSON
	}
	if err := s.object(func(name jsontext.Value) error { return m.readMember(&s, name) }); err != nil {
		return m, err
	}
	m.end = s.at - 1
	if !s.ended() {
		return m, errTrailing
	}
	return m, m.check()
}

// readMember reads the value of one member of the top-level object.
func (m *message) readMember(s *scanner, name jsontext.Value) error {
	f, err := lookUpField(string(unquoted(name)))
	if err != nil {
		return err
	}
	// The top-level object is the first level.
	value, err := s.value(maxNesting - 1)
	switch {
	case err != nil:
		return err
	case f == 0:
		return nil
	case f == forbidden:
		return sentence(fmt.Sprintf("The field %q is not allowed.", unquoted(name)))
	case m.seen&(1<<f) != 0:
		return sentence(fmt.Sprintf("The field %q stands twice.", unquoted(name)))
	}
	m.seen |= 1 << f
	if string(value) != "null" && string(value) != `""` {
		m.present |= 1 << f
	}
	return m.readField(f, value, span{s.at - len(value), s.at})
}

// readField looks at the value of a field, which stands at at.
func (m *message) readField(f field, value jsontext.Value, at span) error {
	switch f {
	case messagingProduct:
		if !isString(value, "whatsapp") {
			return sentence(`The field "messaging_product" must be "whatsapp".`)
		}
	case messageStatus:
		m.receipt = isString(value, "read")
	case opaqueData:
		m.opaque = at
	}
	return nil
}

// check tells what a body lacks.
func (m *message) check() error {
	if !m.has(messagingProduct) {
		return sentence(`The field "messaging_product" is missing: it must be "whatsapp".`)
	}
	addressed := m.has(recipientTo) || m.has(recipientID)
	switch {
	case m.receipt && (addressed || m.has(messageType)):
		// One reader would mark a message as read, another would send one.
		return sentence(`The field "status" with "read" goes with "message_id" alone, not with "to", "recipient" or "type".`)
	case m.receipt && !m.has(messageIDField):
		return sentence(`The field "message_id" is missing.`)
	case m.receipt:
		return nil
	case !addressed:
		return sentence(`The field "to" or "recipient" is missing.`)
	case !m.has(messageType):
		return sentence(`The field "type" is missing.`)
	}
	return nil
}

// withHold returns the body with the hold's id in front of what the customer
// has in biz_opaque_callback_data, and everything else as it was, byte for
// byte. Where both would not fit, or the value is nothing to put a text in
// front of, it returns the body unchanged. It takes the body over.
func (m *message) withHold(id store.HoldID) []byte {
	if m.seen&(1<<opaqueData) == 0 {
		// A message has required fields, so a comma is due.
		return splice(m.body, span{m.end, m.end}, `,"biz_opaque_callback_data":"`, string(id), `"`)
	}
	value := jsontext.Value(m.body[m.opaque.start:m.opaque.end])
	switch value.Kind() {
	case 'n':
		return splice(m.body, m.opaque, `"`, string(id), `"`)
	case '"':
		if len(id)+len(holdSeparator)+utf8.RuneCount(unquoted(value)) > maxOpaque {
			return m.body
		}
		inside := m.opaque.start + 1
		return splice(m.body, span{inside, inside}, "", string(id), holdSeparator)
	default:
		return m.body
	}
}

// splitHold returns the hold's id that withHold has put in front of a callback
// data, and how many bytes of that are the gateway's. There may be none.
func splitHold(callbackData string) (id store.HoldID, length int) {
	if len(callbackData) < store.HoldIDLength {
		return "", 0
	}
	id, own := store.HoldID(callbackData[:store.HoldIDLength]), callbackData[store.HoldIDLength:]
	switch {
	case !id.Valid():
		return "", 0
	case own == "":
		return id, store.HoldIDLength
	case strings.HasPrefix(own, holdSeparator):
		return id, store.HoldIDLength + len(holdSeparator)
	default:
		return "", 0
	}
}

// splice returns body with an id, and what stands around it, in place of what stands at
// at. It needs no other memory than body's, if there is room behind that.
func splice(body []byte, at span, before, id, after string) []byte {
	text := make([]byte, 0, 2*store.HoldIDLength)
	text = append(append(append(text, before...), id...), after...)
	return slices.Replace(body, at.start, at.end, text...)
}

// lookUpField returns which field a name means. A name that differs from a
// field's by nothing but case is refused: who reads it which way is anyone's guess.
func lookUpField(name string) (field, error) {
	for i := range fields {
		if fields[i].name == name {
			return fields[i].field, nil
		}
	}
	for _, f := range fields {
		if strings.EqualFold(name, f.name) {
			return 0, sentence(fmt.Sprintf("The field %q must be written in lower case.", f.name))
		}
	}
	return 0, nil
}

// isString tells whether a JSON value is the string s, however it is escaped.
func isString(value jsontext.Value, s string) bool {
	return value.Kind() == '"' && string(unquoted(value)) == s
}
