package event

import (
	"bytes"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// tail is the envelope behind the change.
const tail = "]}]}"

// callback is a member "biz_opaque_callback_data" of a status.
type callback struct {
	// name and value are where they begin in the change, end is where the value
	// has ended.
	name, value, end int
	// text is what the value says.
	text string
}

// Envelope returns the body to deliver: the change in an envelope like the one
// that it came in, with the entry's id where it has one and its time where that
// is a number.
//
// The change has the bytes that Meta sent, save that the gateway's part of
// biz_opaque_callback_data is taken out again. For the value of each such
// member, ours says how many bytes of it, at its front, are the gateway's: with 0
// it stays as it is; with all of them the member is gone; with any other number,
// which must not split a character, the rest stays. A nil ours takes nothing out.
func (c *Change) Envelope(ours func(callbackData string) int) []byte {
	out := make([]byte, 0, len(c.head)+len(c.raw)+len(tail))
	out = append(out, c.head...)
	done := 0 // so much of the change is dealt with
	if ours != nil {
		for _, m := range c.callbacks {
			if n := ours(m.text); n > 0 {
				out, done = c.cut(append(out, c.raw[done:m.name]...), m, n)
			}
		}
	}
	out = append(out, c.raw[done:]...)
	return append(out, tail...)
}

// cut takes n bytes off the value of m. What is in front of m is in out already.
// It returns how much of the change is dealt with then.
func (c *Change) cut(out []byte, m callback, n int) (rest []byte, done int) {
	if n >= len(m.text) {
		return c.remove(out, m)
	}
	ours, own := m.text[:n], m.text[n:]
	inside := m.value + 1
	if after := inside + n; after < m.end && string(c.raw[inside:after]) == ours && !strings.Contains(ours, `\`) {
		return append(out, c.raw[m.name:inside]...), after
	}
	// Escapes in our part: there is no telling where it ends but by reading it.
	out = append(out, c.raw[m.name:m.value]...)
	out, _ = jsontext.AppendQuote(out, own) // invalid UTF-8 is replaced
	return out, m.end
}

// remove takes out m and one comma, if there is any: that in front of it, or,
// where it is the first member now, that behind it.
func (c *Change) remove(out []byte, m callback) (rest []byte, done int) {
	const space = " \t\r\n"
	front := bytes.TrimRight(out, space)
	if last := len(front) - 1; front[last] == ',' {
		return front[:last], m.end
	}
	if behind := bytes.TrimLeft(c.raw[m.end:], space); behind[0] == ',' {
		return out, len(c.raw) - len(behind) + 1
	}
	return out, m.end
}
