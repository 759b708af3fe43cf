package sqlite

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// record is one step of a hold as a row of ledger_tail has it: that it was made, or
// its outcome.
type record struct {
	kind store.Kind // hold, capture or release
	hold store.HoldID
	// Of a hold:
	account tenant.AccountID
	app     tenant.AppID
	amount  pricing.Micros
	// Of a capture, where it is known:
	messageID string
	// As in the ledger:
	seq     int64
	balance pricing.Micros
	at      int64 // microseconds since 1970
}

// recordKinds are the first bytes of records. They are never given another meaning.
var recordKinds = map[byte]store.Kind{'h': store.KindHold, 'c': store.KindCapture, 'r': store.KindRelease}

// append writes a record behind others: the first byte of its kind's name, then
// texts, each after its length, and numbers, all of these as varints
// (encoding/binary).
func (r *record) append(b []byte) []byte {
	b = append(b, r.kind[0])
	b = appendText(b, string(r.hold))
	b = binary.AppendVarint(b, r.seq)
	b = binary.AppendVarint(b, int64(r.balance))
	b = binary.AppendVarint(b, r.at)
	switch r.kind {
	case store.KindHold:
		b = appendText(b, string(r.account))
		b = appendText(b, string(r.app))
		b = binary.AppendVarint(b, int64(r.amount))
	case store.KindCapture:
		b = appendText(b, r.messageID)
	}
	return b
}

func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// readRecords hands out the records of one row of ledger_tail.
func readRecords(b []byte, yield func(*record) error) error {
	for len(b) > 0 {
		kind, ok := recordKinds[b[0]]
		if !ok {
			return fmt.Errorf("a record is of the unknown kind %q", b[0])
		}
		rest := reader{b: b[1:]}
		r := record{kind: kind, hold: store.HoldID(rest.text()), seq: rest.number(), balance: pricing.Micros(rest.number()), at: rest.number()}
		switch kind {
		case store.KindHold:
			r.account, r.app, r.amount = tenant.AccountID(rest.text()), tenant.AppID(rest.text()), pricing.Micros(rest.number())
		case store.KindCapture:
			r.messageID = rest.text()
		}
		if rest.short {
			return errors.New("a record is cut off")
		}
		if err := yield(&r); err != nil {
			return err
		}
		b = rest.b
	}
	return nil
}

// reader takes texts and numbers from the front of bytes.
type reader struct {
	b     []byte
	short bool // there was less than was asked for
}

func (r *reader) text() string {
	length, n := binary.Uvarint(r.b)
	if n <= 0 || length > uint64(len(r.b)-n) {
		r.b, r.short = nil, true
		return ""
	}
	text := string(r.b[n : n+int(length)])
	r.b = r.b[n+int(length):]
	return text
}

func (r *reader) number() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.b, r.short = nil, true
		return 0
	}
	r.b = r.b[n:]
	return v
}
