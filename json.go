package gateway

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// scanner passes over JSON (RFC 8259) and decodes nothing, in one go, because
// every send waits for it. What it takes, package jsontext takes, too, with
// [jsontext.AllowDuplicateNames], and the other way round, but for what is nested
// too deep. Whoever makes one checks that the text is valid UTF-8.
type scanner struct {
	text []byte
	at   int
}

// next passes over white space and returns the byte behind it, 0 at the end.
func (s *scanner) next() byte {
	for ; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; c {
		case ' ', '\n', '\r', '\t':
		default:
			return c
		}
	}
	return 0
}

// take passes over c, if that comes next.
func (s *scanner) take(c byte) bool {
	if s.next() != c {
		return false
	}
	s.at++
	return true
}

// ended tells whether nothing but white space is left.
func (s *scanner) ended() bool {
	s.next()
	return s.at == len(s.text)
}

// object passes over an object, and calls visit with each name to pass over its value.
func (s *scanner) object(visit func(name jsontext.Value) error) error {
	if !s.take('{') {
		return errNotJSON
	}
	for more := !s.take('}'); more; {
		name, ok := s.quoted()
		if !ok || !s.take(':') {
			return errNotJSON
		}
		if err := visit(name); err != nil {
			return err
		}
		if more = s.take(','); !more && !s.take('}') {
			return errNotJSON
		}
	}
	return nil
}

// array passes over an array, and calls visit to pass over each element.
func (s *scanner) array(visit func() error) error {
	if !s.take('[') {
		return errNotJSON
	}
	for more := !s.take(']'); more; {
		if err := visit(); err != nil {
			return err
		}
		if more = s.take(','); !more && !s.take(']') {
			return errNotJSON
		}
	}
	return nil
}

// value passes over any value and returns it, if objects and arrays stand no more
// than so many levels deep in it.
func (s *scanner) value(levels int) (jsontext.Value, error) {
	c := s.next()
	start := s.at
	ok := true
	var err error
	switch {
	case (c == '{' || c == '[') && levels == 0:
		err = errTooDeep
	case c == '{':
		err = s.object(func(jsontext.Value) error { return s.skip(levels - 1) })
	case c == '[':
		err = s.array(func() error { return s.skip(levels - 1) })
	case c == '"':
		_, ok = s.quoted()
	case c == 't':
		ok = s.literal("true")
	case c == 'f':
		ok = s.literal("false")
	case c == 'n':
		ok = s.literal("null")
	default:
		ok = s.number()
	}
	if !ok {
		err = errNotJSON
	}
	return s.text[start:s.at], err
}

// skip is value without the value.
func (s *scanner) skip(levels int) error {
	_, err := s.value(levels)
	return err
}

func (s *scanner) literal(word string) bool {
	if !bytes.HasPrefix(s.text[s.at:], []byte(word)) {
		return false
	}
	s.at += len(word)
	return true
}

func (s *scanner) number() bool {
	s.is("-")
	if !s.is("0") && s.digits() == 0 {
		return false
	}
	if s.is(".") && s.digits() == 0 {
		return false
	}
	if s.is("eE") {
		s.is("+-")
		return s.digits() > 0
	}
	return true
}

// is passes over a byte that is one of these.
func (s *scanner) is(oneOf string) bool {
	if s.at == len(s.text) || strings.IndexByte(oneOf, s.text[s.at]) < 0 {
		return false
	}
	s.at++
	return true
}

// digits passes over digits and returns how many there were.
func (s *scanner) digits() (n int) {
	for ; s.at < len(s.text) && '0' <= s.text[s.at] && s.text[s.at] <= '9'; s.at++ {
		n++
	}
	return n
}

// quoted passes over a string and returns it as it is written, quotes and all.
func (s *scanner) quoted() (jsontext.Value, bool) {
	if s.next() != '"' {
		return nil, false
	}
	start := s.at
	for s.at++; ; {
		s.at += plain(s.text[s.at:])
		switch {
		case s.at == len(s.text):
			return nil, false
		case s.text[s.at] == '"':
			s.at++
			return s.text[start:s.at], true
		case s.text[s.at] != '\\' || !s.escape(): // a control character
			return nil, false
		}
	}
}

// plain is how many bytes at the front of b just stand for themselves in a string: they are
// no control characters, quotes or backslashes. It looks at eight at a time, because texts
// may be long: the highest bit of each byte in special then says whether that is one of them,
// up to the first, from which a borrow may be carried to those behind it. To exchange the
// quote and the space puts the quote next to the control characters.
func plain(b []byte) int {
	const (
		ones     = 0x0101010101010101
		highest  = ones * 0x80
		exchange = ones * ('"' ^ ' ')
	)
	n := 0
	for ; len(b)-n >= 8; n += 8 {
		word := binary.LittleEndian.Uint64(b[n:])
		backslash := word ^ ones*'\\'
		special := (((word ^ exchange) - ones*(' '+1)) | (backslash - ones)) &^ word & highest
		if special != 0 {
			return n + bits.TrailingZeros64(special)/8
		}
	}
	for n < len(b) && b[n] >= ' ' && b[n] != '"' && b[n] != '\\' {
		n++
	}
	return n
}

// escape passes over a backslash and what belongs to it: of a surrogate, its other half.
func (s *scanner) escape() bool {
	s.at++
	if s.is(`"\/bfnrt`) {
		return true
	}
	r, ok := s.codeUnit()
	if !ok || !utf16.IsSurrogate(r) {
		return ok
	}
	if !s.is(`\`) {
		return false
	}
	low, ok := s.codeUnit()
	return ok && utf16.DecodeRune(r, low) != utf8.RuneError
}

// codeUnit passes over a "u" and four hexadecimal digits.
func (s *scanner) codeUnit() (r rune, ok bool) {
	if !s.is("u") {
		return 0, false
	}
	for range 4 {
		if s.at == len(s.text) {
			return 0, false
		}
		digit := strings.IndexByte("0123456789abcdefABCDEF", s.text[s.at])
		if digit < 0 {
			return 0, false
		}
		if digit > 15 {
			digit -= 6
		}
		r = r<<4 | rune(digit)
		s.at++
	}
	return r, true
}

// unquoted is what a string says that the scanner has passed over.
func unquoted(quoted jsontext.Value) []byte {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1]
	}
	text, _ := jsontext.AppendUnquote(nil, quoted) // it is one
	return text
}
