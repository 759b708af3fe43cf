// Package event takes the body of a webhook of Meta's apart. One body reports
// up to hundreds of changes, of different numbers and accounts; each is for
// somebody else and is delivered by itself, in an envelope like Meta's own and
// with the bytes that Meta wrote.
//
// What decides where a change begins and ends must be unambiguous, or the body
// is refused as a whole. What is inside a change is Meta's: it is read as far
// as it can be understood, and passed on as it is.
package event

import "github.com/connexease/caddy-whatsapp-gateway/tenant"

const (
	// maxID is how long the id of a number or a business account and the name of
	// a field may be, in bytes.
	maxID = 64
	// maxMessageID is how long the id of a message may be that is charged, in bytes.
	maxMessageID = 256
)

// Change is one thing that Meta reports. It refers to the body that it was
// split from, which must not be modified for as long as the change is in use.
type Change struct {
	// WABA is the id of the WhatsApp business account; empty where there is none.
	WABA string
	// Field is what kind of change it is, in Meta's words.
	Field string
	// PhoneNumberID is the number that it is about; empty where there is none.
	PhoneNumberID string
	// Events is what it is to those who subscribe, in the order of
	// [tenant.Events]; at least one. The slice is shared and must not be modified.
	Events []tenant.Event
	// Statuses are those of messages that were sent, without those that do not
	// say which message they are of.
	Statuses []Status
	// Problem is a sentence why the change can be nobody's. It repeats nothing of
	// the body. Empty: there is none.
	Problem string

	// head is the envelope up to the change, raw the change.
	head string
	raw  []byte
	// callbacks are the members that [Change.Envelope] may rewrite, in their order.
	callbacks []callback
}

// Status is what became of a message. What Meta does not say, or says in an
// unexpected type, is zero; where it says a thing twice, the last counts.
type Status struct {
	// MessageID is Meta's id of the message; not empty, and at most 256 bytes.
	MessageID string
	// State is "sent", "delivered", "read", "failed", "played", or another word.
	State string
	// Recipient is who the message went to.
	Recipient string
	// CallbackData is the value of biz_opaque_callback_data, without escapes.
	CallbackData string
	// Billable and Category are what Meta says of the price.
	Billable bool
	Category string
}

// Why a change can be nobody's. What decides whose it is must not stand twice.
const (
	problemNotObject  = "The change is not a JSON object."
	problemNoField    = `The change has no text as "field".`
	problemFieldLong  = `The change's "field" is over 64 bytes long.`
	problemPhoneLong  = "The id of the change's phone number is over 64 bytes long."
	problemWABALong   = "The id of the change's business account is over 64 bytes long."
	problemNoAddress  = "The change names neither a phone number nor a business account."
	problemTwiceField = `The change has "field" twice.`
	problemTwiceValue = `The change has "value" twice.`
	problemTwiceMeta  = `The change has "metadata" twice.`
	problemTwicePhone = `The change has "phone_number_id" twice.`
)

// fieldMessages is the field whose content decides which events a change is.
const fieldMessages = "messages"

// byField are the events of changes whose field alone decides. All other
// fields, known or not, are [tenant.EventAccount]. Source: Meta's reference of
// webhook fields for WhatsApp business accounts.
var byField = map[string][]tenant.Event{
	"message_template_status_update":     {tenant.EventTemplateStatus},
	"message_template_quality_update":    {tenant.EventTemplateStatus},
	"message_template_components_update": {tenant.EventTemplateStatus},
	"template_category_update":           {tenant.EventTemplateStatus},
}

// account is what every change is that is nothing else.
var account = []tenant.Event{tenant.EventAccount}

// content is a set of what stands in a change of [fieldMessages].
type content uint8

const (
	hasMessages content = 1 << iota
	hasStatus           // of any state but read
	hasRead
)

// byContent are the events of changes of [fieldMessages].
var byContent = [...][]tenant.Event{
	0:                                 account, // only errors, or nothing
	hasMessages:                       {tenant.EventMessages},
	hasStatus:                         {tenant.EventMessageStatus},
	hasMessages | hasStatus:           {tenant.EventMessages, tenant.EventMessageStatus},
	hasRead:                           {tenant.EventRead},
	hasMessages | hasRead:             {tenant.EventMessages, tenant.EventRead},
	hasStatus | hasRead:               {tenant.EventMessageStatus, tenant.EventRead},
	hasMessages | hasStatus | hasRead: {tenant.EventMessages, tenant.EventMessageStatus, tenant.EventRead},
}

// eventsOf returns which events a change is.
func eventsOf(field string, has content) []tenant.Event {
	if field == fieldMessages {
		return byContent[has]
	}
	if events, ok := byField[field]; ok {
		return events
	}
	return account
}
