package event

import (
	"bytes"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// reader reads the JSON of a body. Duplicate names and invalid UTF-8 are no
// errors to it. All errors are [errNotJSON], but for those of the functions
// that it calls.
type reader struct {
	decoder *jsontext.Decoder
	// nameAt is where the name of the member stands that is being read.
	nameAt int
	// words are texts that come again and again, so that each is stored once.
	words map[string]string
}

func newReader(body []byte) reader {
	return reader{
		// The decoder reads a bytes.Buffer in place, without a copy.
		decoder: jsontext.NewDecoder(bytes.NewBuffer(body), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)),
		words:   make(map[string]string),
	}
}

// offset returns where the reader stands: behind what was read last.
func (r *reader) offset() int { return int(r.decoder.InputOffset()) }

// value reads a value of any kind.
func (r *reader) value() (jsontext.Value, error) {
	value, err := r.decoder.ReadValue()
	if err != nil {
		return nil, errNotJSON
	}
	return value, nil
}

// skip reads a value that does not matter.
func (r *reader) skip() error {
	_, err := r.value()
	return err
}

// refuse reads a value that makes the whole body one to refuse, and returns why.
func (r *reader) refuse(why refusal) error {
	if err := r.skip(); err != nil {
		return err
	}
	return why
}

// token reads a bracket.
func (r *reader) token() error {
	if _, err := r.decoder.ReadToken(); err != nil {
		return errNotJSON
	}
	return nil
}

// text reads a string into to. Of a value of another kind, to becomes "".
func (r *reader) text(to *string) error {
	value, err := r.value()
	if err != nil {
		return err
	}
	*to = ""
	if value.Kind() == '"' {
		*to = string(unquote(value))
	}
	return nil
}

// word is text for what is likely to come again.
func (r *reader) word(to *string) error {
	value, err := r.value()
	if err != nil {
		return err
	}
	*to = ""
	if value.Kind() == '"' {
		*to = r.intern(unquote(value))
	}
	return nil
}

// id reads an id into to, which is a string or a number to Meta. Of a value of
// another kind, to becomes "".
func (r *reader) id(to *string) (jsontext.Value, error) {
	value, err := r.value()
	if err != nil {
		return nil, err
	}
	*to = ""
	switch value.Kind() {
	case '"':
		*to = r.intern(unquote(value))
	case '0':
		*to = r.intern(value)
	}
	return value, nil
}

// intern returns text as a string.
func (r *reader) intern(text []byte) string {
	if word, ok := r.words[string(text)]; ok {
		return word
	}
	word := string(text)
	r.words[word] = word
	return word
}

// unquote returns what a JSON string says. Where it can, it returns a part of value.
func unquote(value jsontext.Value) []byte {
	if bytes.IndexByte(value, '\\') < 0 && utf8.Valid(value) {
		return value[1 : len(value)-1]
	}
	// The error is that of invalid UTF-8, which has been replaced.
	text, _ := jsontext.AppendUnquote(nil, value)
	return text
}
