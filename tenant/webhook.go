package tenant

import (
	"slices"
	"time"
)

// Event is a kind of what Meta reports. An app subscribes to any set of them.
type Event string

// The events. What one change of Meta's reports may be several of them.
const (
	// EventMessages means that a user wrote.
	EventMessages Event = "messages"
	// EventMessageStatus means that a message was sent, delivered, or failed.
	EventMessageStatus Event = "message_status"
	// EventRead means that a message was read.
	EventRead Event = "read"
	// EventTemplateStatus means that a template changed.
	EventTemplateStatus Event = "message_template_status"
	// EventAccount is everything else about the account or the number.
	EventAccount Event = "account"
)

// Events are all there are. A change that is several is delivered under the
// name of the first that the app has subscribed to.
var Events = []Event{EventMessages, EventMessageStatus, EventRead, EventTemplateStatus, EventAccount}

// Secret is a text that printing shows as "***". The zero value is no secret.
type Secret string

// String implements fmt.Stringer.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return s.String() }

// Webhook is where and how an app's events are delivered.
type Webhook struct {
	// URL is the endpoint. Empty: nothing is delivered.
	URL string `json:"url,omitempty"`
	// Secret is the bearer token of each delivery, and what it is signed with.
	// Without one, deliveries have neither.
	Secret Secret `json:"secret,omitempty"`
	// Events are those subscribed to; none means all.
	Events []Event `json:"events,omitempty"`
	// Headers are sent with each delivery, beside the gateway's own. Their values
	// may be secrets.
	Headers map[string]Secret `json:"headers,omitempty"`
	// DisabledAt is when the endpoint answered that it is gone (410); nil is never.
	DisabledAt *time.Time `json:"disabled_at,omitempty"`
}

// Subscription returns under which name an app gets a change that is all of
// these events. Not ok means that it gets nothing.
func (w *Webhook) Subscription(events []Event) (name Event, ok bool) {
	if w == nil || w.URL == "" {
		return "", false
	}
	for _, event := range Events {
		if slices.Contains(events, event) && (len(w.Events) == 0 || slices.Contains(w.Events, event)) {
			return event, true
		}
	}
	return "", false
}
