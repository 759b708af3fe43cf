// Package seal encrypts Meta's access tokens at rest under a ring of keys, of
// which the first encrypts and any decrypts, so that keys can be rotated.
//
// A sealed token is "v1.<key-id>.<payload>", the payload being base64url
// without padding of nonce(12) ‖ ciphertext ‖ tag(16): AES-256-GCM with a
// random nonce and the app's id in UTF-8 as additional data, so that a token
// copied to another app does not open.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// KeySize is the length of an encryption key in bytes.
const KeySize = 32

const version = "v1"

// overhead is what a payload has beside the token: nonce and tag, in bytes.
const overhead = 12 + 16

var (
	// ErrMalformed means that a sealed token does not have the form described above.
	ErrMalformed = errors.New("sealed token is malformed")
	// ErrUnknownKey means that the ring has no key of the id that the token names.
	ErrUnknownKey = errors.New("sealed token is under a key that is not configured")
	// ErrDecrypt means that the token was changed, belongs to another app, or
	// was sealed under another key of the same id.
	ErrDecrypt = errors.New("sealed token does not decrypt")
)

// keyID allows what can stand between two points of a sealed token.
var keyID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Ring holds encryption keys. It is safe for concurrent use. The zero value
// has no key and opens nothing.
type Ring struct {
	ids   []string
	aeads map[string]cipher.AEAD
}

// Add puts a key behind those already in the ring; the first one added
// encrypts. id is 1 to 64 letters, digits, hyphens and underscores; secret is
// standard base64 of [KeySize] bytes. No error repeats the secret.
func (r *Ring) Add(id, secret string) error {
	if !keyID.MatchString(id) {
		return fmt.Errorf("encryption key id %s must be 1 to 64 letters, digits, hyphens or underscores", PrintableID(id))
	}
	if slices.Contains(r.ids, id) {
		return fmt.Errorf("encryption key id %s is used twice", PrintableID(id))
	}
	key, err := base64.StdEncoding.DecodeString(secret)
	if err != nil || len(key) != KeySize {
		return fmt.Errorf("encryption key %s must be base64 of %d bytes", PrintableID(id), KeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return err
	}
	if r.aeads == nil {
		r.aeads = make(map[string]cipher.AEAD)
	}
	r.ids = append(r.ids, id)
	r.aeads[id] = aead
	return nil
}

// PrintableID is a key's id for an error: one that is long may be the secret, in
// the wrong place.
func PrintableID(id string) string {
	if len(id) > 16 {
		return "(of " + strconv.Itoa(len(id)) + " characters)"
	}
	return strconv.Quote(id)
}

// Seal encrypts token for app under the first key. It fails only where the
// ring is empty.
func (r *Ring) Seal(app tenant.AppID, token string) (tenant.SealedToken, error) {
	if len(r.ids) == 0 {
		return "", ErrUnknownKey
	}
	id := r.ids[0]
	// The AEAD makes the nonce and puts it in front of what it returns.
	payload := r.aeads[id].Seal(nil, nil, []byte(token), []byte(app))
	return tenant.SealedToken(version + "." + id + "." + base64.RawURLEncoding.EncodeToString(payload)), nil
}

// Open decrypts a token sealed for app. Errors are [ErrMalformed],
// [ErrUnknownKey] and [ErrDecrypt]; none repeats any part of the token.
func (r *Ring) Open(app tenant.AppID, sealed tenant.SealedToken) (string, error) {
	v, rest, _ := strings.Cut(string(sealed), ".")
	id, payload, ok := strings.Cut(rest, ".")
	if v != version || !ok {
		return "", ErrMalformed
	}
	// Strict refuses a second spelling of the same bytes.
	b, err := base64.RawURLEncoding.Strict().DecodeString(payload)
	if err != nil || strings.ContainsAny(payload, "\r\n") || len(b) < overhead || !keyID.MatchString(id) {
		return "", ErrMalformed
	}
	aead := r.aeads[id]
	if aead == nil {
		return "", ErrUnknownKey
	}
	token, err := aead.Open(nil, nil, b, []byte(app))
	if err != nil {
		return "", ErrDecrypt
	}
	return string(token), nil
}

// Current tells whether the token is sealed under the key that encrypts now.
func (r *Ring) Current(sealed tenant.SealedToken) bool {
	return len(r.ids) > 0 && strings.HasPrefix(string(sealed), version+"."+r.ids[0]+".")
}
