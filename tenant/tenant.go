// Package tenant holds the records of those who send: accounts that pay, apps
// that own a WhatsApp number, keys that programs present, and the grant that
// sums up what a key may do. It does no I/O.
package tenant

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
)

// AccountID names an account: who pays. The zero value is no account.
type AccountID string

// AppID names an app: a WhatsApp number, its Meta token and its limits.
type AppID string

// KeyID names an API key without being one: it may be shown and logged.
type KeyID string

// SealedToken is an access token of Meta's, encrypted as package seal does it.
// The zero value is no token.
type SealedToken string

// Account is a prepaid wallet's owner.
type Account struct {
	ID   AccountID
	Name string
	// Currency is an ISO 4217 code, in upper case.
	Currency  string
	CreatedAt time.Time
}

// RateLimit is how many requests an app may make in any second and in any
// minute. Both are positive.
type RateLimit struct {
	PerSecond int `json:"per_second"`
	PerMinute int `json:"per_minute"`
}

// Validate says what is wrong with the limits, if anything.
func (l RateLimit) Validate() error {
	if l.PerSecond < 1 || l.PerMinute < 1 {
		return fmt.Errorf("rate limits must be at least 1, not %d a second and %d a minute", l.PerSecond, l.PerMinute)
	}
	return nil
}

// App is one WhatsApp number of a customer. Every field but ID may be empty;
// which answer a missing one leads to is said with the field.
type App struct {
	ID AppID `json:"id"`
	// Name is the operator's word for the app.
	Name string `json:"name,omitempty"`
	// AccountID is who pays; without it a send is answered BILL_002.
	AccountID AccountID `json:"account_id,omitempty"`
	// RateLimit is the app's own; nil means the configured default.
	RateLimit *RateLimit `json:"rate_limit,omitempty"`
	// WABAID is Meta's id of the WhatsApp Business Account.
	WABAID string `json:"waba_id,omitempty"`
	// PhoneNumberID is Meta's id of the number; without it a send is answered WABA_001.
	PhoneNumberID string `json:"phone_number_id,omitempty"`
	// AccessToken is Meta's token, sealed for this app; without it a send is answered WABA_001.
	AccessToken SealedToken `json:"access_token,omitempty"`
	// Webhook is where the app's events go; nil means that it gets none.
	Webhook   *Webhook  `json:"webhook,omitempty"`
	CreatedAt time.Time `json:"-"`
}

// APIKey is what a store keeps of a key: enough to recognise it, not enough to
// use it.
type APIKey struct {
	ID     KeyID
	AppID  AppID
	Name   string
	Digest KeyDigest
	// Hint is the start of the key ("pk_ab…"), for people to tell keys apart.
	Hint      string
	CreatedAt time.Time
	// ExpiresAt is when the key stops working; the zero time is never.
	ExpiresAt time.Time
	// RevokedAt is when the key was revoked; the zero time is not revoked.
	RevokedAt time.Time
}

// Grant is what one API key may do. Its JSON form is the one that the Core
// Service answers.
type Grant struct {
	KeyID KeyID `json:"key_id"`
	// ExpiresAt is when the key stops working; nil is never.
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	App       App        `json:"app"`
}

// Expired tells whether the key has stopped working at now.
func (g *Grant) Expired(now time.Time) bool {
	return g.ExpiresAt != nil && !now.Before(*g.ExpiresAt)
}

// idEncoding keeps the order of the bytes that it encodes, which base64 does not.
var idEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// IDLength is the number of characters behind the prefix of an id made by [NewID].
const IDLength = 26

// NewID returns a unique id such as "acct_06d8k2…": the prefix, an underscore
// and a version 7 UUID (RFC 9562), so that ids made later sort behind those
// made earlier and an index grows at its end.
func NewID(prefix string) string {
	return newID(prefix, uuid.Must(uuid.NewV7()))
}

// NewHintedID is [NewID] with a number in it that [Hint] finds again.
func NewHintedID(prefix string, hint byte) string {
	id := uuid.Must(uuid.NewV7())
	id[len(id)-1] = hint
	return newID(prefix, id)
}

// Hint returns the number that an id of [NewHintedID] was made with. Of any other
// id it is any number.
func Hint(id string) byte {
	if b, ok := decodeID(id); ok {
		return b[len(b)-1]
	}
	return 0
}

// DerivedID returns an id that looks like one of [NewID] and is always the same
// for the same seed. It is a version 8 UUID (RFC 9562) and sorts anywhere.
func DerivedID(prefix, seed string) string {
	sum := sha256.Sum256([]byte(seed))
	id := uuid.UUID(sum[:16])
	id[6] = id[6]&0x0f | derivedVersion<<4
	id[8] = id[8]&0x3f | 0x80 // the variant of RFC 9562
	return newID(prefix, id)
}

// IsDerivedID tells an id of [DerivedID] from one of [NewID].
func IsDerivedID(id string) bool {
	b, ok := decodeID(id)
	return ok && b[6]>>4 == derivedVersion
}

// decodeID returns the bytes behind the prefix of an id.
func decodeID(id string) (b uuid.UUID, ok bool) {
	_, digits, _ := strings.Cut(id, "_")
	if len(digits) != IDLength {
		return b, false
	}
	n, err := idEncoding.Decode(b[:], []byte(strings.ToLower(digits)))
	return b, err == nil && n == len(b)
}

const derivedVersion = 8

func newID(prefix string, id uuid.UUID) string {
	text := make([]byte, 0, 2*IDLength)
	text = append(append(text, prefix...), '_')
	return string(idEncoding.AppendEncode(text, id[:]))
}
