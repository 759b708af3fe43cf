package metasim

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// userID is a business-scoped user id, which begins with a country's code.
var userID = regexp.MustCompile(`^[A-Z]{2}\.[0-9A-Za-z.]{1,128}$`)

// userMessage is what a user writes.
type userMessage struct {
	PhoneNumberID string `json:"phone_number_id"`
	// From is a phone number or a business-scoped user id.
	From string `json:"from"`
	Text string `json:"text"`
	// Type is one of userContents. Empty means text.
	Type string `json:"type"`
}

// userContents are the types of message that a user can write, and what each
// makes of the text.
var userContents = map[string]func(text string) map[string]string{
	"text":   func(text string) map[string]string { return map[string]string{"body": text} },
	"button": func(text string) map[string]string { return map[string]string{"payload": text, "text": text} },
	"image": func(text string) map[string]string {
		return map[string]string{"caption": text, "id": "1003383421387256", "mime_type": "image/jpeg", "sha256": strings.Repeat("A", 43) + "="}
	},
	"reaction": func(text string) map[string]string {
		return map[string]string{"emoji": text, "message_id": newMessageID()}
	},
}

// fault says what is wrong with the message, or nothing. It fills in the type.
func (u *userMessage) fault() string {
	if u.Type == "" {
		u.Type = "text"
	}
	if !phoneNumberID.MatchString(u.PhoneNumberID) {
		return "phone_number_id must be up to 32 digits"
	}
	if digits := onlyDigits(u.From); !userID.MatchString(u.From) && (digits == "" || len(digits) > 32) {
		return "from must be a phone number, or a business-scoped user id such as US.13491208655302741918"
	}
	if u.Text == "" {
		return "text is required"
	}
	if _, ok := userContents[u.Type]; !ok {
		return "type must be one of " + strings.Join(slices.Sorted(maps.Keys(userContents)), ", ")
	}
	return ""
}

// body is the webhook that brings the message:
// https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/messages
func (u *userMessage) body(id string, at time.Time) []byte {
	who := user{Profile: profile{Name: profileName}}
	message := map[string]any{
		"id": id, "timestamp": unixTime(at), "type": u.Type, u.Type: userContents[u.Type](u.Text),
	}
	if userID.MatchString(u.From) {
		who.UserID, message["from_user_id"] = u.From, u.From
	} else {
		who.WhatsAppID = onlyDigits(u.From)
		message["from"] = who.WhatsAppID
	}
	return notify(u.PhoneNumberID, value{Contacts: []user{who}, Messages: []map[string]any{message}})
}
