package tenant

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"strings"
	"sync"
)

// Key is an API key in the clear. It lives only while it is made and while a
// request is authenticated. Package fmt, encoders and loggers get a mask of it,
// except in an unexported field, where fmt cannot ask; string(k) is the key.
//
// A key of ours is "pk_" (production) or "sk_" (sandbox), 30 random base62
// characters, and 6 base62 characters of the CRC-32 (IEEE) of all that comes
// before. The checksum keeps mistyped keys from costing a look-up; it proves
// nothing.
type Key string

const (
	productionPrefix = "pk_"
	sandboxPrefix    = "sk_"
	randomLength     = 30
	checksumLength   = 6
	keyLength        = len(productionPrefix) + randomLength + checksumLength

	// minImported and maxKey bound what may be imported and looked up, in bytes.
	minImported = 16
	maxKey      = 512

	base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// ErrMalformedKey means that a key bears our format and fails its checksum, or
// that no key can look like that. Such a key needs no look-up.
var ErrMalformedKey = errors.New("malformed API key")

// NewKey makes a key from the system's random source.
func NewKey(sandbox bool) Key {
	prefix := productionPrefix
	if sandbox {
		prefix = sandboxPrefix
	}
	var b strings.Builder
	b.WriteString(prefix)
	var buf [1]byte
	for b.Len() < len(prefix)+randomLength {
		rand.Read(buf[:]) // never fails, see crypto/rand
		// 248 is the largest multiple of 62 in a byte; what is over it would favour some characters.
		if buf[0] < 248 {
			b.WriteByte(base62[buf[0]%62])
		}
	}
	sum := checksum(b.String())
	return Key(b.String() + string(sum[:]))
}

// ParseKey tells whether s can be an API key at all: a key of ours with the
// right checksum, or one made elsewhere, of 16 to 512 visible ASCII characters.
// Otherwise the error is [ErrMalformedKey].
func ParseKey(s string) (Key, error) {
	if len(s) < minImported || len(s) > maxKey {
		return "", ErrMalformedKey
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return "", ErrMalformedKey
		}
	}
	k := Key(s)
	if k.ours() {
		if sum := checksum(s[:keyLength-checksumLength]); string(sum[:]) != s[keyLength-checksumLength:] {
			return "", ErrMalformedKey
		}
	}
	return k, nil
}

// Sandbox tells whether the key is one of our sandbox keys, with which nothing
// is sent.
func (k Key) Sandbox() bool {
	return strings.HasPrefix(string(k), sandboxPrefix) && k.ours()
}

// Hint is the part of the key that may be shown later.
func (k Key) Hint() string {
	return string(k[:min(len(k), len(productionPrefix)+3)]) + "…"
}

const keyMask = "[API key]"

// Format hides the key from every verb of package fmt.
func (k Key) Format(f fmt.State, _ rune) { fmt.Fprint(f, keyMask) }

// MarshalText hides the key from encoders.
func (k Key) MarshalText() ([]byte, error) { return []byte(keyMask), nil }

// ours tells whether the key bears our checksum format, right or wrong.
func (k Key) ours() bool {
	if len(k) != keyLength || !strings.HasPrefix(string(k), productionPrefix) && !strings.HasPrefix(string(k), sandboxPrefix) {
		return false
	}
	for i := len(productionPrefix); i < len(k); i++ {
		if strings.IndexByte(base62, k[i]) < 0 {
			return false
		}
	}
	return true
}

// checksum is the CRC-32 of s in base62, most significant digit first, padded
// with zeros: 62^6 is over 2^32.
func checksum(s string) (digits [checksumLength]byte) {
	sum := ^uint32(0) // as crc32.ChecksumIEEE, which takes no string
	for i := range len(s) {
		sum = crc32.IEEETable[byte(sum)^s[i]] ^ sum>>8
	}
	sum = ^sum
	for i := len(digits) - 1; i >= 0; i-- {
		digits[i] = base62[sum%62]
		sum /= 62
	}
	return digits
}

// KeyDigest is HMAC-SHA256(pepper, key): what is stored and looked up instead
// of a key.
type KeyDigest [sha256.Size]byte

// String is the digest in lowercase hexadecimal.
func (d KeyDigest) String() string { return hex.EncodeToString(d[:]) }

// ParseKeyDigest reads 64 hexadecimal characters.
func ParseKeyDigest(s string) (KeyDigest, error) {
	var d KeyDigest
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(d) {
		return d, errors.New("a key digest is 64 hexadecimal characters")
	}
	copy(d[:], b)
	return d, nil
}

// Pepper is the secret under which keys are digested. It is safe for
// concurrent use; make one with [NewPepper].
type Pepper struct {
	digesters sync.Pool
}

// digester is a hash that was keyed once, with memory for what goes in and out.
type digester struct {
	mac hash.Hash
	in  [maxKey]byte
	out KeyDigest
}

// NewPepper takes the secret's bytes as they are.
func NewPepper(secret string) *Pepper {
	p := new(Pepper)
	p.digesters.New = func() any { return &digester{mac: hmac.New(sha256.New, []byte(secret))} }
	return p
}

// Digest returns the digest of k.
func (p *Pepper) Digest(k Key) KeyDigest { return p.sum(string(k)) }

// Fingerprint tells one pepper from another without giving it away, so that a
// store can refuse a pepper other than the one its keys were made with.
func (p *Pepper) Fingerprint() string {
	d := p.sum("caddy-whatsapp-gateway pepper fingerprint")
	return hex.EncodeToString(d[:8])
}

func (p *Pepper) sum(text string) KeyDigest {
	d := p.digesters.Get().(*digester)
	defer p.digesters.Put(d)
	in := append(d.in[:0], text...)
	defer clear(in)
	d.mac.Reset()
	d.mac.Write(in)
	d.mac.Sum(d.out[:0])
	return d.out
}
