package seal

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const app tenant.AppID = "app_größe"

const token = "EAAG-example-token"

// secret returns a key of which every byte is b.
func secret(b byte) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, KeySize))
}

// ring returns a ring of the given ids, each with a key of its own.
func ring(t testing.TB, ids ...string) *Ring {
	t.Helper()
	r := new(Ring)
	for i, id := range ids {
		if err := r.Add(id, secret(byte(i+1))); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func seal(t testing.TB, r *Ring, token string) tenant.SealedToken {
	t.Helper()
	s, err := r.Seal(app, token)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// payload cuts a sealed token into what stands before its payload and the bytes of it.
func payload(t testing.TB, s tenant.SealedToken) (string, []byte) {
	t.Helper()
	at := strings.LastIndexByte(string(s), '.') + 1
	b, err := base64.RawURLEncoding.DecodeString(string(s[at:]))
	if err != nil {
		t.Fatal(err)
	}
	return string(s[:at]), b
}

func TestSealedTokenOpens(t *testing.T) {
	r := ring(t, "k1", "k2")
	for _, token := range []string{token, "", "\x00\xff", strings.Repeat("x", 5_000)} {
		s := seal(t, r, token)
		got, err := r.Open(app, s)
		if err != nil || got != token {
			t.Errorf("a token of %d bytes does not come back: %v", len(token), err)
		}
		head, b := payload(t, s)
		if head != "v1.k1." || len(b) != 12+len(token)+16 {
			t.Errorf("sealed token begins %q and has %d bytes of payload", head, len(b))
		}
	}
}

// sealedElsewhere was sealed by this Python, which is written by the format alone:
//
//	from base64 import urlsafe_b64encode
//	from cryptography.hazmat.primitives.ciphers.aead import AESGCM
//	key, nonce = bytes(range(32)), bytes(range(100, 112))
//	sealed = nonce + AESGCM(key).encrypt(nonce, b"EAAG-example-token", "app_größe".encode())
//	print("v1.k-1_A." + urlsafe_b64encode(sealed).rstrip(b"=").decode())
const sealedElsewhere tenant.SealedToken = "v1.k-1_A.ZGVmZ2hpamtsbW5vDVqfIVSMLv9TEjON9xEFliesUbCK8LaNjQe56xQ32LnVzg"

// ringElsewhere has the key that [sealedElsewhere] is under.
func ringElsewhere(t testing.TB) *Ring {
	t.Helper()
	r := new(Ring)
	if err := r.Add("k-1_A", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTokenSealedElsewhereOpens(t *testing.T) {
	got, err := ringElsewhere(t).Open(app, sealedElsewhere)
	if err != nil || got != token {
		t.Errorf("got a token of %d bytes, %v", len(got), err)
	}
}

func TestTokenIsSealedAnewEachTime(t *testing.T) {
	r := ring(t, "k1")
	seen := make(map[tenant.SealedToken]bool)
	for range 100 {
		s := seal(t, r, token)
		if seen[s] {
			t.Fatal("the same token was sealed to the same text: its nonce was used twice")
		}
		seen[s] = true
	}
}

func TestEveryChangedBitIsRefused(t *testing.T) {
	r := ring(t, "k1")
	head, b := payload(t, seal(t, r, token))
	for i := range len(b) * 8 {
		b[i/8] ^= 1 << (i % 8)
		if _, err := r.Open(app, tenant.SealedToken(head+base64.RawURLEncoding.EncodeToString(b))); !errors.Is(err, ErrDecrypt) {
			t.Errorf("bit %d changed: %v, want ErrDecrypt", i, err)
		}
		b[i/8] ^= 1 << (i % 8)
	}
}

func TestEveryChangedCharacterIsRefused(t *testing.T) {
	r := ring(t, "k1")
	s := []byte(seal(t, r, token+"!")) // of which the last character has bits to spare
	for i, was := range s {
		for c := range 256 {
			if s[i] = byte(c); s[i] == was {
				continue
			}
			if _, err := r.Open(app, tenant.SealedToken(s)); err == nil {
				t.Errorf("%q instead of character %d opens", s[i], i)
			}
		}
		s[i] = was
	}
	for i := range s {
		if _, err := r.Open(app, tenant.SealedToken(s[:i])); err == nil {
			t.Errorf("the first %d characters open", i)
		}
	}
}

func TestTokenOpensForItsAppAndKeyOnly(t *testing.T) {
	sealed := seal(t, ring(t, "k1"), token)
	for _, tc := range []struct {
		name string
		ring *Ring
		app  tenant.AppID
		want error
	}{
		{"as sealed", ring(t, "k1"), app, nil},
		{"another app", ring(t, "k1"), "app_other", ErrDecrypt},
		{"no app", ring(t, "k1"), "", ErrDecrypt},
		{"another key of the same id", ring(t, "k0", "k1"), app, ErrDecrypt},
		{"the same key under another id", ring(t, "k2"), app, ErrUnknownKey},
		{"no keys", new(Ring), app, ErrUnknownKey},
	} {
		got, err := tc.ring.Open(tc.app, sealed)
		if !errors.Is(err, tc.want) || (got == token) != (tc.want == nil) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
		if err != nil && (got != "" || strings.Contains(err.Error(), string(sealed[6:12]))) {
			t.Errorf("%s: a part of the token is in the answer", tc.name)
		}
	}
}

func TestMalformedTokensAreRefused(t *testing.T) {
	r := ring(t, "k1")
	sealed := string(seal(t, r, token+"!")) // 47 bytes: base64 of them could be padded, and has bits to spare
	head, b := payload(t, tenant.SealedToken(sealed))
	body := sealed[len(head):]
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, body[len(body)-1])
	for name, s := range map[string]string{
		"empty":            "",
		"no points":        "v1",
		"one point":        "v1.k1",
		"another version":  "v2" + sealed[2:],
		"upper case":       "V1" + sealed[2:],
		"no version":       sealed[2:],
		"space before":     " " + sealed,
		"space behind":     sealed + " ",
		"a point behind":   sealed + ".",
		"padding":          sealed + "=",
		"newline behind":   sealed + "\n",
		"newline within":   sealed[:20] + "\n" + sealed[20:],
		"return within":    sealed[:20] + "\r" + sealed[20:],
		"standard base64":  head + base64.RawStdEncoding.EncodeToString(append([]byte{0xff, 0xff, 0xff}, b...)),
		"bits to spare":    sealed[:len(sealed)-1] + alphabet[last+1:last+2],
		"a character more": sealed + "AA",
	} {
		if _, err := r.Open(app, tenant.SealedToken(s)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
	for _, length := range []int{0, 11, 12, 27} { // shorter than nonce and tag
		if _, err := r.Open(app, tenant.SealedToken(head+base64.RawURLEncoding.EncodeToString(b[:length]))); err == nil {
			t.Errorf("a payload of %d bytes opens", length)
		}
	}
}

func TestFirstKeySealsAndEveryKeyOpens(t *testing.T) {
	before := new(Ring)
	if err := before.Add("old", secret(2)); err != nil {
		t.Fatal(err)
	}
	rotated := ring(t, "new", "old") // where old has the same secret
	old, fresh := seal(t, before, token), seal(t, rotated, token)
	for _, tc := range []struct {
		sealed  tenant.SealedToken
		current bool
	}{{old, false}, {fresh, true}, {"", false}, {"v1.newer.AAAA", false}, {"v2.new.AAAA", false}} {
		if got := rotated.Current(tc.sealed); got != tc.current {
			t.Errorf("Current is %v for a token that begins %.7q", got, tc.sealed)
		}
	}
	for _, s := range []tenant.SealedToken{old, fresh} {
		if got, err := rotated.Open(app, s); err != nil || got != token {
			t.Errorf("a token that begins %.7q: %v", s, err)
		}
	}
	if _, err := before.Open(app, fresh); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("a key that is not there: %v, want ErrUnknownKey", err)
	}
}

func TestEmptyRingSealsNothing(t *testing.T) {
	r := new(Ring)
	if s, err := r.Seal(app, token); !errors.Is(err, ErrUnknownKey) || s != "" {
		t.Errorf("Seal with no key: %v", err)
	}
	if r.Current("v1..AAAA") {
		t.Error("a token is current with no key")
	}
}

func TestUnfitKeysAreRefused(t *testing.T) {
	r := ring(t, "taken")
	for _, tc := range []struct{ name, id, secret string }{
		{"no id", "", secret(9)},
		{"a point in the id", "k.1", secret(9)},
		{"a newline behind the id", "k1\n", secret(9)},
		{"a long id", strings.Repeat("k", 65), secret(9)},
		{"a letter beyond ASCII", "kß", secret(9)},
		{"a taken id", "taken", secret(9)},
		{"no secret", "k1", ""},
		{"no base64", "k1", "hunter2-hunter2-hunter2-hunter2!"},
		{"31 bytes", "k1", base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{9}, 31))},
		{"33 bytes", "k1", base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{9}, 33))},
		{"16 bytes", "k1", base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{9}, 16))},
		{"no padding", "k1", strings.TrimRight(secret(9), "=")},
		{"base64url", "k1", base64.URLEncoding.EncodeToString(bytes.Repeat([]byte{0xff}, KeySize))},
	} {
		err := r.Add(tc.id, tc.secret)
		if err == nil {
			t.Errorf("%s: accepted", tc.name)
		} else if tc.secret != "" && strings.Contains(err.Error(), tc.secret) {
			t.Errorf("%s: the error repeats the secret", tc.name)
		}
	}
	if !r.Current(seal(t, r, token)) {
		t.Error("the ring does not seal any more")
	}
	if err := r.Add(strings.Repeat("k", 64), secret(9)); err != nil {
		t.Errorf("an id of 64 characters: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	r := ringElsewhere(f)
	for _, s := range []tenant.SealedToken{
		sealedElsewhere, sealedElsewhere + "=", sealedElsewhere + "\n", sealedElsewhere[:40],
		"", "v1", "v1.k1.", "v1.k2.AAAA", "v1...", "v1.k-1_A.", "v1.k-1_A.A",
	} {
		f.Add(string(s), string(app))
	}
	f.Fuzz(func(t *testing.T, s, forApp string) {
		got, err := r.Open(tenant.AppID(forApp), tenant.SealedToken(s))
		switch {
		case err == nil:
			// It has no other spelling, and without the key no other can be made.
			if s != string(sealedElsewhere) || forApp != string(app) || got != token {
				t.Error("a text that was not sealed opens")
			}
		case !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnknownKey) && !errors.Is(err, ErrDecrypt):
			t.Errorf("unexpected error: %v", err)
		case got != "":
			t.Error("a token is returned beside an error")
		}
	})
}

func FuzzSeal(f *testing.F) {
	r := ring(f, "k1")
	f.Add(token, string(app))
	f.Add("", "")
	f.Fuzz(func(t *testing.T, token, forApp string) {
		s, err := r.Seal(tenant.AppID(forApp), token)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.Open(tenant.AppID(forApp), s); err != nil || got != token {
			t.Errorf("a sealed token does not open: %v", err)
		}
		if _, err := r.Open(tenant.AppID(forApp+"x"), s); !errors.Is(err, ErrDecrypt) {
			t.Errorf("opened for another app: %v, want ErrDecrypt", err)
		}
	})
}
