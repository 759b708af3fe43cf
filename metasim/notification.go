package metasim

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// profileName is the name of every user. It is not ASCII, as names may be.
const profileName = "Zoë Example"

// notification is the body of a webhook:
// https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/overview
type notification struct {
	Object string  `json:"object"`
	Entry  []entry `json:"entry"`
}

// entry is what happened to one WhatsApp business account.
type entry struct {
	ID      string   `json:"id"`
	Changes []change `json:"changes"`
}

// change is one event, or several of the same kind.
type change struct {
	Value value  `json:"value"`
	Field string `json:"field"`
}

// value is a change of the field "messages".
type value struct {
	MessagingProduct string           `json:"messaging_product"`
	Metadata         metadata         `json:"metadata"`
	Contacts         []user           `json:"contacts,omitempty"`
	Messages         []map[string]any `json:"messages,omitempty"`
	Statuses         []status         `json:"statuses,omitempty"`
}

// metadata names the business's phone number.
type metadata struct {
	DisplayPhoneNumber string `json:"display_phone_number"`
	PhoneNumberID      string `json:"phone_number_id"`
}

// user is somebody on WhatsApp: UserID is there for who is known by a
// business-scoped user id, WhatsAppID for who is known by a phone number.
type user struct {
	Profile    profile `json:"profile"`
	WhatsAppID string  `json:"wa_id,omitempty"`
	UserID     string  `json:"user_id,omitempty"`
}

// profile is what a user says of himself.
type profile struct {
	Name string `json:"name"`
}

// notify is the body of a webhook with one change of this phone number.
func notify(phoneNumberID string, v value) []byte {
	v.MessagingProduct = "whatsapp"
	v.Metadata = metadata{DisplayPhoneNumber: displayPhoneNumber(phoneNumberID), PhoneNumberID: phoneNumberID}
	return metaJSON(notification{
		Object: "whatsapp_business_account",
		Entry:  []entry{{ID: accountID(phoneNumberID), Changes: []change{{Value: v, Field: "messages"}}}},
	})
}

// accountID is the made up WhatsApp business account of a phone number: its ID
// with a 9 in front.
func accountID(phoneNumberID string) string { return "9" + phoneNumberID }

// displayPhoneNumber is a made up number for a phone number ID: its last seven
// digits behind the area code 555, which nobody has.
func displayPhoneNumber(phoneNumberID string) string {
	last := phoneNumberID[max(0, len(phoneNumberID)-7):]
	return fmt.Sprintf("1555%07s", last)
}

// unixTime is a timestamp of Meta's.
func unixTime(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }

// metaJSON writes JSON as Meta's webhooks do, all in ASCII and with escaped
// slashes, so that nobody comes to rely on anything else. What is passed in
// can always be written.
func metaJSON(v any) []byte {
	plain, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	escaped := make([]byte, 0, len(plain)+len(plain)/8)
	for len(plain) > 0 {
		c, size := utf8.DecodeRune(plain)
		plain = plain[size:]
		switch {
		case c == '/': // JSON has it in strings only
			escaped = append(escaped, `\/`...)
		case c < utf8.RuneSelf:
			escaped = append(escaped, byte(c))
		default:
			for _, unit := range utf16.AppendRune(nil, c) {
				escaped = fmt.Appendf(escaped, `\u%04x`, unit)
			}
		}
	}
	return escaped
}
