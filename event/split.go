package event

import (
	"errors"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	// maxChanges is how many changes a body may have. Meta sends up to 1,000.
	maxChanges = 10_000
	// maxObject and maxTime are how long the envelope's "object" and "time" may
	// be, in bytes as they stand in the body: both are repeated for every change.
	maxObject = 100
	maxTime   = 32
)

// refusal is why a body cannot be taken apart: a sentence for the operator that
// repeats nothing of the body.
type refusal string

func (r refusal) Error() string { return string(r) }

const (
	errNotJSON      = refusal("The body is not valid JSON.")
	errNotObject    = refusal("The body is not one JSON object.")
	errTrailing     = refusal("The body has something behind its JSON object.")
	errObject       = refusal(`The body has no text of up to 100 bytes as "object".`)
	errEntry        = refusal(`The body has no array as "entry", or an empty one.`)
	errEntryObject  = refusal("The body has an entry that is not a JSON object.")
	errChanges      = refusal(`The body has an entry without an array as "changes".`)
	errTooMany      = refusal("The body has more than 10,000 changes.")
	errNoChange     = refusal("The body has no change in it.")
	errTwiceObject  = refusal(`The body has "object" twice.`)
	errTwiceEntry   = refusal(`The body has "entry" twice.`)
	errTwiceID      = refusal(`The body has an entry with "id" twice.`)
	errTwiceTime    = refusal(`The body has an entry with "time" twice.`)
	errTwiceChanges = refusal(`The body has an entry with "changes" twice.`)
)

// member is one that must not stand twice in its object.
type member uint8

const (
	memberObject member = iota
	memberEntry
	memberID
	memberTime
	memberChanges
	memberField
	memberValue
	memberMetadata
	memberPhoneNumberID
)

// members is a set of them.
type members uint16

func (m members) has(a member) bool { return m&(1<<a) != 0 }

// again adds a member and tells whether it was there before.
func (m *members) again(a member) bool {
	before := m.has(a)
	*m |= 1 << a
	return before
}

// entry is what the changes of one of the envelope's entries have in common.
type entry struct {
	seen members
	waba string
	// long: the id is too long to be one, and left out.
	long bool
	// id and time are as they came; nil where there are none to pass on.
	id, time jsontext.Value
	// end is the number of changes up to and with those of this entry.
	end int
}

// splitter is a body being split.
type splitter struct {
	reader
	body   []byte
	seen   members
	object jsontext.Value
	// entries are those that have changes.
	entries []entry
	changes []Change
	// The changes' statuses and callbacks lie in one slice each.
	statuses  []Status
	callbacks []callback

	entry  entry        // being read
	change changeReader // being read
	status Status       // being read
}

// Split takes a webhook's body apart. The changes are in the order of the body
// and refer to it. An error is a sentence for the operator: the envelope is not
// one that has a single reading.
func Split(body []byte) ([]Change, error) {
	s := splitter{reader: newReader(body), body: body}
	if s.decoder.PeekKind() != '{' {
		return nil, s.refuse(errNotObject)
	}
	if err := s.members((*splitter).readBody); err != nil {
		return nil, err
	}
	if _, err := s.decoder.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errTrailing
	}
	switch {
	case !s.seen.has(memberObject):
		return nil, errObject
	case !s.seen.has(memberEntry):
		return nil, errEntry
	case len(s.changes) == 0:
		return nil, errNoChange
	}
	s.address()
	return s.changes, nil
}

// members reads an object and has each read the value behind each name.
func (s *splitter) members(each func(s *splitter, name []byte) error) error {
	if err := s.token(); err != nil {
		return err
	}
	for s.decoder.PeekKind() == '"' {
		name, err := s.value()
		if err != nil {
			return err
		}
		s.nameAt = s.offset() - len(name)
		if err := each(s, unquote(name)); err != nil {
			return err
		}
	}
	return s.token()
}

// items reads an array and has each read an item. It returns how many there were.
func (s *splitter) items(each func(s *splitter) error) (n int, err error) {
	if err := s.token(); err != nil {
		return 0, err
	}
	for ; s.decoder.PeekKind() != ']'; n++ {
		// An item that is none is an error to each, which ends the loop.
		if err := each(s); err != nil {
			return n, err
		}
	}
	return n, s.token()
}

// readBody reads a member of the body.
func (s *splitter) readBody(name []byte) error {
	switch string(name) {
	case "object":
		return s.readObject()
	case "entry":
		if s.seen.again(memberEntry) {
			return s.refuse(errTwiceEntry)
		}
		if s.decoder.PeekKind() != '[' {
			return s.refuse(errEntry)
		}
		n, err := s.items((*splitter).readEntry)
		if err == nil && n == 0 {
			return errEntry
		}
		return err
	default:
		return s.skip()
	}
}

// readObject reads what kind of object Meta reports on.
func (s *splitter) readObject() error {
	if s.seen.again(memberObject) {
		return s.refuse(errTwiceObject)
	}
	value, err := s.value()
	if err != nil {
		return err
	}
	if value.Kind() != '"' || len(value) > maxObject {
		return errObject
	}
	s.object = value
	return nil
}

// readEntry reads one of the entries.
func (s *splitter) readEntry() error {
	if s.decoder.PeekKind() != '{' {
		return s.refuse(errEntryObject)
	}
	first := len(s.changes)
	s.entry = entry{}
	if err := s.members((*splitter).readEntryMember); err != nil {
		return err
	}
	if !s.entry.seen.has(memberChanges) {
		return errChanges
	}
	if s.entry.end = len(s.changes); s.entry.end > first {
		s.entries = append(s.entries, s.entry)
	}
	return nil
}

// readEntryMember reads a member of an entry.
func (s *splitter) readEntryMember(name []byte) error {
	switch string(name) {
	case "id":
		return s.readEntryID()
	case "time":
		if s.entry.seen.again(memberTime) {
			return s.refuse(errTwiceTime)
		}
		value, err := s.value()
		if value.Kind() == '0' && len(value) <= maxTime {
			s.entry.time = value
		}
		return err
	case "changes":
		if s.entry.seen.again(memberChanges) {
			return s.refuse(errTwiceChanges)
		}
		if s.decoder.PeekKind() != '[' {
			return s.refuse(errChanges)
		}
		_, err := s.items((*splitter).readChange)
		return err
	default:
		return s.skip()
	}
}

// readEntryID reads the id of the business account.
func (s *splitter) readEntryID() error {
	e := &s.entry
	if e.seen.again(memberID) {
		return s.refuse(errTwiceID)
	}
	value, err := s.id(&e.waba)
	if err != nil {
		return err
	}
	if len(e.waba) > maxID {
		e.waba, e.long = "", true
		return nil
	}
	if kind := value.Kind(); kind == '"' || kind == '0' {
		e.id = value
	}
	return nil
}

// address gives the changes what stands around them in the body, which may
// stand behind them there.
func (s *splitter) address() {
	first := 0
	for _, e := range s.entries {
		head := s.head(e)
		for i := range s.changes[first:e.end] {
			c := &s.changes[first+i]
			c.WABA, c.head = e.waba, head
			switch {
			case c.Problem != "":
			case e.long:
				c.Problem = problemWABALong
			case c.WABA == "" && c.PhoneNumberID == "":
				c.Problem = problemNoAddress
			}
		}
		first = e.end
	}
}

// head returns the envelope of an entry up to the change.
func (s *splitter) head(e entry) string {
	head := make([]byte, 0, 64+len(s.object)+len(e.id)+len(e.time))
	head = append(append(head, `{"object":`...), s.object...)
	head = append(head, `,"entry":[{`...)
	if e.id != nil {
		head = append(append(append(head, `"id":`...), e.id...), ',')
	}
	if e.time != nil {
		head = append(append(append(head, `"time":`...), e.time...), ',')
	}
	return string(append(head, `"changes":[`...))
}
