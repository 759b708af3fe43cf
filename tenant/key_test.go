package tenant

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
)

// Their checksums were computed with Python's zlib.crc32.
const (
	productionKey = "pk_0123456789ABCDEFGHIJabcdefghij0xH4Qt"
	sandboxKey    = "sk_0123456789ABCDEFGHIJabcdefghij22Be2A"
	paddedKey     = "pk_00000000000000000000000000023700ZTDN" // whose checksum begins with zeros
)

func TestNewKeyParses(t *testing.T) {
	seen := make(map[Key]bool)
	characters := make(map[byte]int)
	for i := range 2_000 {
		sandbox := i%2 == 1
		k := NewKey(sandbox)
		if seen[k] {
			t.Fatal("a key was made twice")
		}
		seen[k] = true
		if prefix := map[bool]string{false: "pk_", true: "sk_"}[sandbox]; !strings.HasPrefix(string(k), prefix) || len(k) != 39 {
			t.Fatalf("a key with sandbox=%v is %d characters and begins %q", sandbox, len(k), string(k[:3]))
		}
		if got, err := ParseKey(string(k)); err != nil || got != k {
			t.Fatalf("a new key does not parse: %v", err)
		}
		if k.Sandbox() != sandbox {
			t.Fatalf("Sandbox is %v", k.Sandbox())
		}
		for _, c := range []byte(k[3:33]) {
			characters[c]++
		}
	}
	// 60,000 characters: each of the 62 is expected 968 times, with a standard deviation of 31.
	for _, c := range []byte(base62) {
		if n := characters[c]; n < 968-6*31 || n > 968+6*31 {
			t.Errorf("%q was drawn %d times out of 60000", c, n)
		}
	}
}

func TestKeysThatCanExistParse(t *testing.T) {
	for _, tc := range []struct {
		name, key string
		sandbox   bool
	}{
		{"production", productionKey, false},
		{"sandbox", sandboxKey, true},
		{"checksum that begins with zeros", paddedKey, false},
		{"imported, 16 characters", strings.Repeat("a", 16), false},
		{"imported, 512 characters", strings.Repeat("~", 512), false},
		{"imported, every visible character", visible(), false},
		{"imported, our prefix and another length", productionKey + "0", false},
		{"imported, our sandbox prefix and another length", sandboxKey[:38], false},
		{"imported, our length and another alphabet", "sk_" + strings.Repeat("-", 36), false},
		{"imported, our length and another prefix", "xk_" + productionKey[3:], false},
	} {
		k, err := ParseKey(tc.key)
		if err != nil || string(k) != tc.key {
			t.Errorf("%s: %v", tc.name, err)
		}
		if k.Sandbox() != tc.sandbox {
			t.Errorf("%s: Sandbox is %v", tc.name, k.Sandbox())
		}
	}
}

func visible() string {
	var b strings.Builder
	for c := byte('!'); c <= '~'; c++ {
		b.WriteByte(c)
	}
	return b.String()
}

func TestKeysThatCannotExistAreRefused(t *testing.T) {
	for name, key := range map[string]string{
		"empty":                     "",
		"15 characters":             strings.Repeat("a", 15),
		"513 characters":            strings.Repeat("a", 513),
		"sandbox key as production": "pk_" + sandboxKey[3:],
		"production key as sandbox": "sk_" + productionKey[3:],
		"two characters swapped":    "pk_1023456789" + productionKey[13:],
		"letter case changed":       strings.ToLower(productionKey),
		"space within":              strings.Repeat("a", 20) + " " + strings.Repeat("a", 20),
		"space behind":              productionKey + " ",
		"newline behind":            productionKey + "\n",
		"NUL":                       strings.Repeat("a", 20) + "\x00",
		"DEL":                       strings.Repeat("a", 20) + "\x7f",
		"beyond ASCII":              strings.Repeat("ä", 10),
		"invalid UTF-8":             strings.Repeat("\xff", 20),
	} {
		if k, err := ParseKey(key); !errors.Is(err, ErrMalformedKey) || k != "" {
			t.Errorf("%s: %v, want ErrMalformedKey", name, err)
		}
	}
}

// A change that leaves our alphabet makes a key that might have been imported:
// it is looked up and not found. Any other is refused without a look-up.
func TestEveryChangedCharacterFailsTheChecksum(t *testing.T) {
	for _, key := range []string{productionKey, sandboxKey, paddedKey} {
		b := []byte(key)
		for i := len(productionPrefix); i < len(b); i++ {
			was := b[i]
			for _, c := range []byte(base62) {
				if b[i] = c; c == was {
					continue
				}
				if _, err := ParseKey(string(b)); !errors.Is(err, ErrMalformedKey) {
					t.Errorf("%q instead of character %d is accepted", c, i)
				}
			}
			b[i] = was
		}
	}
}

func TestKeyIsNeverPrinted(t *testing.T) {
	k := Key(productionKey)
	type nested struct {
		Name string
		Key  Key
		Keys []Key
		Map  map[Key]Key
		Any  any
		Ptr  *Key
	}
	n := nested{"n", k, []Key{k}, map[Key]Key{k: k}, k, &k}
	for _, verb := range []string{"%v", "%s", "%q", "%x", "%X", "% x", "%+v", "%#v", "%T %[1]v", "%d", "%c", "%60s", "%.5s", "%t"} {
		for _, v := range []any{k, &k, n, &n, []Key{k}, [1]Key{k}, map[string]Key{"a": k}, []any{n}, fmt.Errorf("with %v", k)} {
			out := fmt.Sprintf(verb, v)
			for i := 0; i+8 <= len(k); i++ {
				if part := string(k[i : i+8]); strings.Contains(out, part) || strings.Contains(strings.ToLower(out), fmt.Sprintf("%x", part)) {
					t.Errorf("%s of a %T shows the key from its character %d", verb, v, i)
					break
				}
			}
		}
	}
	if got := fmt.Sprint(k); got != "[API key]" {
		t.Errorf("a key prints as %q", got)
	}
	fmt.Fprintln(io.Discard, Key(""))
}

func TestHintShowsTheStartOnly(t *testing.T) {
	for key, want := range map[Key]string{
		productionKey:                 "pk_012…",
		Key(strings.Repeat("ab", 10)): "ababab…",
		"pk_":                         "pk_…",
		"":                            "…",
	} {
		if got := key.Hint(); got != want {
			t.Errorf("hint %q, want %q", got, want)
		}
	}
}

// Other programs compute digests too: these were computed with Python's hmac.
func TestDigestIsHMACSHA256(t *testing.T) {
	p := NewPepper("pepper")
	const want = "9b1a8542edeccb5165abc22c267f4d37a85e7fc038464a732ca54f8acd29d331"
	for range 3 { // a hash that is used again must have been reset
		if got := p.Digest("imported-key-0123456789").String(); got != want {
			t.Errorf("digest %s, want %s", got, want)
		}
		if got := p.Fingerprint(); got != "42d66f64921f1337" {
			t.Errorf("fingerprint %s", got)
		}
	}
	other := NewPepper("pepper2")
	if other.Digest("imported-key-0123456789").String() == want || other.Fingerprint() == p.Fingerprint() {
		t.Error("another pepper makes the same digest")
	}
}

func TestPepperIsSafeForConcurrentUse(t *testing.T) {
	p := NewPepper("pepper")
	keys := make([]Key, 16)
	want := make([]KeyDigest, len(keys))
	for i := range keys {
		keys[i] = NewKey(false)
		want[i] = p.Digest(keys[i])
	}
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			for range 200 {
				if p.Digest(keys[i]) != want[i] {
					t.Error("a digest differs under concurrency")
				}
			}
		})
	}
	wg.Wait()
}

func TestKeyDigestParses(t *testing.T) {
	d := NewPepper("pepper").Digest(productionKey)
	if got, err := ParseKeyDigest(d.String()); err != nil || got != d {
		t.Errorf("ParseKeyDigest(%v) = %v, %v", d, got, err)
	}
	for _, s := range []string{"", "00", d.String()[:63], d.String()[:62], d.String() + "00", "g" + d.String()[1:], " " + d.String()} {
		if _, err := ParseKeyDigest(s); err == nil {
			t.Errorf("%d characters that are no digest parse", len(s))
		}
	}
}

func FuzzParseKey(f *testing.F) {
	for _, s := range []string{productionKey, sandboxKey, paddedKey, "", "pk_", strings.Repeat("a", 16), "sk_" + productionKey[3:], productionKey + "\n", visible()} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseKey(s)
		if err != nil {
			if !errors.Is(err, ErrMalformedKey) || k != "" {
				t.Errorf("unexpected error: %v", err)
			}
			return
		}
		if string(k) != s {
			t.Error("the key is not the text that was parsed")
		}
		if len(s) < 16 || len(s) > 512 || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' }) {
			t.Errorf("%d characters that no key can have were accepted", len(s))
		}
		if k.Sandbox() && !strings.HasPrefix(s, "sk_") {
			t.Error("a sandbox key begins otherwise")
		}
		if sum := checksum(s[:min(len(s), 33)]); k.ours() && string(sum[:]) != s[33:] {
			t.Error("a key of ours was accepted with a wrong checksum")
		}
		if strings.Contains(fmt.Sprintf("%v%s%q%x%+v%#v", k, k, k, k, k, k), s) {
			t.Error("the key is printed")
		}
		k.Hint()
	})
}
