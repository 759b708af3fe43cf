package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
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

// fields are the members that the gateway reads, by name.
var fields = map[string]field{
	"messaging_product":        messagingProduct,
	"to":                       recipientTo,
	"recipient":                recipientID,
	"type":                     messageType,
	"status":                   messageStatus,
	"message_id":               messageIDField,
	"biz_opaque_callback_data": opaqueData,
	"access_token":             forbidden,
	"appsecret_proof":          forbidden,
	"batch":                    forbidden,
	"ids":                      forbidden,
	"method":                   forbidden,
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

	var body bytes.Buffer
	body.Grow(int(min(max(r.ContentLength, 0), maxFirstRead)) + bytes.MinRead)
	_, err := body.ReadFrom(io.LimitReader(r.Body, limit+1))
	if over := (*http.MaxBytesError)(nil); errors.As(err, &over) { // of Caddy's request_body
		return nil, tooLarge(over.Limit)
	}
	if err != nil {
		return nil, bodyRefused.because("The request body could not be read to its end.")
	}
	if int64(body.Len()) > limit {
		return nil, tooLarge(limit)
	}
	return body.Bytes(), nil
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

// parseMessage finds out whether body is one unambiguous JSON object with the
// fields that a message needs. The error, if any, is a [sentence].
func parseMessage(body []byte) (message, error) {
	m := message{body: body}
	decoder := jsontext.NewDecoder(bytes.NewBuffer(body), jsontext.AllowDuplicateNames(true))
	if start, err := decoder.ReadToken(); err != nil || start.Kind() != '{' {
		return m, errNotObject
	}
	for decoder.PeekKind() == '"' {
		if err := m.readMember(decoder); err != nil {
			return m, err
		}
	}
	if end, err := decoder.ReadToken(); err != nil || end.Kind() != '}' {
		return m, errNotJSON
	}
	m.end = int(decoder.InputOffset()) - 1
	if _, err := decoder.ReadToken(); !errors.Is(err, io.EOF) {
		return m, errTrailing
	}
	return m, m.check()
}

// readMember reads one member of the top-level object.
func (m *message) readMember(decoder *jsontext.Decoder) error {
	token, err := decoder.ReadToken()
	if err != nil {
		return errNotJSON
	}
	name := token.String()
	f, err := lookUpField(name)
	if err != nil {
		return err
	}
	value, err := decoder.ReadValue()
	if err != nil {
		return errNotJSON
	}
	// The top-level object is the first level.
	if 1+nesting(value) > maxNesting {
		return sentence(fmt.Sprintf("The request body is nested more than %d levels deep.", maxNesting))
	}
	switch {
	case f == 0:
		return nil
	case f == forbidden:
		return sentence(fmt.Sprintf("The field %q is not allowed.", name))
	case m.seen&(1<<f) != 0:
		return sentence(fmt.Sprintf("The field %q stands twice.", name))
	}
	m.seen |= 1 << f
	if string(value) != "null" && string(value) != `""` {
		m.present |= 1 << f
	}
	end := int(decoder.InputOffset())
	return m.readField(f, value, span{end - len(value), end})
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
// front of, it returns the body unchanged.
func (m *message) withHold(id store.HoldID) []byte {
	if m.seen&(1<<opaqueData) == 0 {
		// A message has required fields, so a comma is due.
		return splice(m.body, span{m.end, m.end}, `,"biz_opaque_callback_data":"`+string(id)+`"`)
	}
	value := jsontext.Value(m.body[m.opaque.start:m.opaque.end])
	switch value.Kind() {
	case 'n':
		return splice(m.body, m.opaque, `"`+string(id)+`"`)
	case '"':
		own, err := jsontext.AppendUnquote(nil, value)
		if err != nil || len(id)+len(holdSeparator)+utf8.RuneCount(own) > maxOpaque {
			return m.body
		}
		inside := m.opaque.start + 1
		return splice(m.body, span{inside, inside}, string(id)+holdSeparator)
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

// splice returns body with text in place of what stands at at.
func splice(body []byte, at span, text string) []byte {
	out := make([]byte, 0, len(body)+len(text))
	out = append(out, body[:at.start]...)
	out = append(out, text...)
	return append(out, body[at.end:]...)
}

// lookUpField returns which field a name means. A name that differs from a
// field's by nothing but case is refused: who reads it which way is anyone's guess.
func lookUpField(name string) (field, error) {
	if f, ok := fields[name]; ok {
		return f, nil
	}
	for known := range fields {
		if strings.EqualFold(name, known) {
			return 0, sentence(fmt.Sprintf("The field %q must be written in lower case.", known))
		}
	}
	return 0, nil
}

// isString tells whether a JSON value is the string s, however it is escaped.
func isString(value jsontext.Value, s string) bool {
	if value.Kind() != '"' {
		return false
	}
	text, err := jsontext.AppendUnquote(nil, value)
	return err == nil && string(text) == s
}

// nesting returns how deep objects and arrays stand in one another in a valid
// JSON value: 0 for a string, 1 for an object of strings.
func nesting(value jsontext.Value) int {
	depth, deepest := 0, 0
	for i := 0; i < len(value); i++ {
		switch value[i] {
		case '{', '[':
			depth++
			deepest = max(deepest, depth)
		case '}', ']':
			depth--
		case '"':
			for i++; value[i] != '"'; i++ {
				if value[i] == '\\' {
					i++
				}
			}
		}
	}
	return deepest
}
