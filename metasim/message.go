package metasim

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxCallbackData is the limit of biz_opaque_callback_data, in characters.
const maxCallbackData = 512

// messageTypes are the values of type that Meta takes, in its own order.
var messageTypes = []string{
	"audio", "contacts", "document", "image", "interactive", "location",
	"reaction", "sticker", "template", "text", "video",
}

// message is what the simulator reads of a request's body.
type message struct {
	product, to, recipient, kind string
	status, readID               string
	callbackData                 string
	// template is the name of the template, if it is one.
	template string
	// hasContent means that the member that type names is there.
	hasContent bool
}

// parseMessage reads a body as leniently as Meta: of a repeated member the last
// one counts, a number passes for a string, and what cannot be read at all is a
// message without members, which is what Meta says of it too.
func parseMessage(contentType string, body []byte) message {
	var members map[string]json.RawMessage // a map, because Meta tells letter cases apart
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil || mediaType != "application/json" || json.Unmarshal(body, &members) != nil {
		return message{}
	}
	m := message{
		product:      text(members["messaging_product"]),
		to:           text(members["to"]),
		recipient:    text(members["recipient"]),
		kind:         strings.ToLower(text(members["type"])),
		status:       text(members["status"]),
		readID:       text(members["message_id"]),
		callbackData: text(members["biz_opaque_callback_data"]),
	}
	content := members[m.kind]
	m.hasContent = len(content) > 0 && (content[0] == '{' || content[0] == '[')
	if m.kind == "template" {
		m.template = templateName(content)
	}
	return m
}

// templateName is empty where there is none.
func templateName(content json.RawMessage) string {
	var members map[string]json.RawMessage
	if json.Unmarshal(content, &members) != nil {
		return ""
	}
	return text(members["name"])
}

// text is the value of a string or a number; of anything else it is empty.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var n json.Number
	if json.Unmarshal(raw, &n) == nil {
		return n.String()
	}
	return ""
}

// isRead tells whether this is a read receipt (with or without a typing
// indicator) and not a message to send.
func (m message) isRead() bool { return m.status == "read" }

// address is who is to get the message; to counts where both are given.
func (m message) address() string {
	if m.to != "" {
		return m.to
	}
	return m.recipient
}

// contact is whom Meta takes the address for.
func (m message) contact() contact {
	c := contact{Input: m.address()}
	if m.to != "" {
		c.WhatsAppID = onlyDigits(m.to)
	} else {
		c.UserID = m.recipient
	}
	return c
}

// fault is Meta's first objection to the message, or nil.
func (m message) fault(edge string) *graphError {
	required := func(name string) *graphError {
		return parameterFault("The parameter %s is required.", name)
	}
	if m.product == "" {
		return required("messaging_product")
	}
	if !strings.EqualFold(m.product, "whatsapp") {
		return parameterFault("Param messaging_product must be one of {WHATSAPP} - got %q.", m.product)
	}
	if utf8.RuneCountInString(m.callbackData) > maxCallbackData {
		return parameterFault("Param biz_opaque_callback_data must be at most %d characters long.", maxCallbackData)
	}
	if m.isRead() {
		if m.readID == "" {
			return required("message_id")
		}
		return nil
	}
	if m.address() == "" {
		return required("to")
	}
	if m.kind == "" {
		return required("type")
	}
	types := messageTypes
	if edge == "marketing_messages" {
		types = []string{"template"}
	}
	if !slices.Contains(types, m.kind) {
		return parameterFault("Param type must be one of {%s} - got %q.", strings.ToUpper(strings.Join(types, ", ")), m.kind)
	}
	if !m.hasContent {
		return required(m.kind)
	}
	return nil
}

// parameterFault is Meta's code 100, for a parameter that is missing or wrong.
func parameterFault(format string, args ...any) *graphError {
	return &graphError{
		status:  http.StatusBadRequest,
		Message: "(#100) " + fmt.Sprintf(format, args...),
		Type:    oauthException,
		Code:    100,
	}
}
