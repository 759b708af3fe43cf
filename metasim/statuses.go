package metasim

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
)

// step is a status that a message gets. Meta sends the price with the status
// "sent" and with one of "delivered" and "read".
type step struct {
	status string
	priced bool
}

var (
	stepSent      = step{"sent", true}
	stepDelivered = step{"delivered", true}
	stepRead      = step{"read", false}
	stepReadOnly  = step{"read", true}
	stepFailed    = step{"failed", false}
)

// course is what happens to a message after it was accepted.
type course struct {
	steps []step
	// free means that even a template costs nothing.
	free bool
}

// usualCourse is the one of every accepted fate that is not in courses.
var usualCourse = course{steps: []step{stepSent, stepDelivered, stepRead}}

// courses are those of the fates that begin with 8, by their digits.
var courses = map[string]course{
	"8001": {steps: []step{stepSent, stepDelivered, stepDelivered, stepRead}},
	"8002": {steps: []step{stepSent, stepReadOnly}},
	"8003": {steps: []step{stepSent}},
	"8004": {steps: []step{stepSent, stepDelivered, stepRead}, free: true},
	"8005": {steps: []step{stepRead, stepDelivered, stepSent}},
	"8006": {steps: []step{stepSent, stepFailed}},
	"8007": {steps: []step{stepSent, stepFailed, stepDelivered}},
}

// courseOf is the course of a message with this fate.
func courseOf(f fate) course {
	if c, ok := courses[f.digits]; ok {
		return c
	}
	return usualCourse
}

// status is a step of a message as Meta tells it:
// https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/messages/status
type status struct {
	ID              string        `json:"id"`
	Status          string        `json:"status"`
	Timestamp       string        `json:"timestamp"`
	RecipientID     string        `json:"recipient_id"`
	RecipientUserID string        `json:"recipient_user_id,omitempty"`
	CallbackData    string        `json:"biz_opaque_callback_data,omitempty"`
	Conversation    *conversation `json:"conversation,omitempty"`
	Pricing         *price        `json:"pricing,omitempty"`
	Errors          []statusError `json:"errors,omitempty"`
}

// conversation goes with the price, although nothing depends on it any more.
type conversation struct {
	ID string `json:"id"`
	// ExpirationTimestamp comes with the status "sent" only.
	ExpirationTimestamp string `json:"expiration_timestamp,omitempty"`
	Origin              origin `json:"origin"`
}

// origin is a conversation's category.
type origin struct {
	Type string `json:"type"`
}

// price says whether a message costs something, not how much.
type price struct {
	Billable bool   `json:"billable"`
	Model    string `json:"pricing_model"`
	Type     string `json:"type"`
	Category string `json:"category"`
}

// statusError is why a message failed.
type statusError struct {
	Code    int         `json:"code"`
	Title   string      `json:"title"`
	Message string      `json:"message"`
	Details errorDetail `json:"error_data"`
	Href    string      `json:"href"`
}

// errorDetail is the sentence for people in an error.
type errorDetail struct {
	Details string `json:"details"`
}

// notDelivered is the error of every message that fails.
var notDelivered = statusError{
	Code: 131026, Title: "Message undeliverable", Message: "Message undeliverable",
	Details: errorDetail{Details: "Message Undeliverable."},
	Href:    "https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes/",
}

// templateCategories are the categories that the name of a template can choose,
// the first one that it contains. Any other template is marketing.
var templateCategories = []string{"authentication_international", "authentication", "utility"}

// priceOf is the price of a message that was sent to this edge.
func priceOf(m message, edge string, free bool) price {
	p := price{Billable: !free, Model: "PMP", Type: "regular", Category: "marketing"}
	switch {
	case m.kind != "template":
		return price{Model: "PMP", Type: "free_customer_service", Category: "service"}
	case edge == "marketing_messages":
		p.Category = "marketing_lite"
	default:
		for _, category := range templateCategories {
			if strings.Contains(m.template, category) {
				p.Category = category
				break
			}
		}
	}
	if free {
		p.Type = "free_entry_point"
	}
	return p
}

// report tells the steps of one accepted message.
type report struct {
	messageID, phoneNumberID, callbackData string
	// to has either of its ids.
	to    user
	price price
	at    time.Time
}

// newReport is the report on the message of this exchange, which was accepted
// just now.
func newReport(x *exchange, free bool) *report {
	to := x.message.contact()
	return &report{
		messageID: x.messageID, phoneNumberID: x.phoneNumberID, callbackData: x.message.callbackData,
		to:    user{Profile: profile{Name: profileName}, WhatsAppID: to.WhatsAppID, UserID: to.UserID},
		price: priceOf(x.message, x.edge, free),
		at:    time.Now(),
	}
}

// deliveries are the webhooks of these steps, one for each.
func (r *report) deliveries(to *Webhook, steps []step) []delivery {
	var all []delivery
	for _, s := range steps {
		all = append(all, delivery{to: to, body: func() []byte { return r.body(s) }})
	}
	return all
}

// body is the webhook for one step. All steps have the time at which the
// message was accepted. Meta leaves the contact out where a message failed.
func (r *report) body(s step) []byte {
	st := status{
		ID: r.messageID, Status: s.status, Timestamp: unixTime(r.at),
		RecipientID: r.to.WhatsAppID + r.to.UserID, RecipientUserID: r.to.UserID, CallbackData: r.callbackData,
	}
	v := value{Contacts: []user{r.to}}
	if s.priced {
		st.Conversation, st.Pricing = r.conversation(s), &r.price
	}
	if s == stepFailed {
		v.Contacts, st.Errors = nil, []statusError{notDelivered}
	}
	v.Statuses = []status{st}
	return notify(r.phoneNumberID, v)
}

// conversation is the same for all messages of a category between two parties.
func (r *report) conversation(s step) *conversation {
	sum := sha256.Sum256([]byte(r.phoneNumberID + " " + r.to.WhatsAppID + r.to.UserID + " " + r.price.Category))
	c := &conversation{ID: hex.EncodeToString(sum[:16]), Origin: origin{Type: r.price.Category}}
	if s == stepSent {
		c.ExpirationTimestamp = unixTime(r.at.Add(24 * time.Hour))
	}
	return c
}
