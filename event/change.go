package event

import (
	"bytes"
	"cmp"
)

// stateRead is the state of a message that was read.
const stateRead = "read"

// changeReader is a change being read.
type changeReader struct {
	*Change
	seen members
	has  content
	// at is where the change stands in the body.
	at int
}

// readChange reads a change and adds it.
func (s *splitter) readChange() error {
	if len(s.changes) == maxChanges {
		return s.refuse(errTooMany)
	}
	s.changes = append(s.changes, Change{Events: account})
	c := &s.changes[len(s.changes)-1]
	if s.decoder.PeekKind() != '{' {
		c.Problem = problemNotObject
		value, err := s.value()
		c.raw = value
		return err
	}
	// Between here and the brace there are white space and a comma at most.
	at := s.offset()
	at += bytes.IndexByte(s.body[at:], '{')
	s.change = changeReader{Change: c, at: at}
	statuses, callbacks := len(s.statuses), len(s.callbacks)
	if err := s.members((*splitter).readChangeMember); err != nil {
		return err
	}
	c.raw = s.body[at:s.offset():s.offset()]
	c.Statuses = s.statuses[statuses:len(s.statuses):len(s.statuses)]
	c.callbacks = s.callbacks[callbacks:len(s.callbacks):len(s.callbacks)]
	c.Events = eventsOf(c.Field, s.change.has)
	if !s.change.seen.has(memberField) {
		s.problem(problemNoField)
	}
	return nil
}

// problem notes why the change can be nobody's. The first reason counts.
func (s *splitter) problem(why string) {
	s.change.Problem = cmp.Or(s.change.Problem, why)
}

// readChangeMember reads a member of a change.
func (s *splitter) readChangeMember(name []byte) error {
	switch string(name) {
	case "field":
		if s.change.seen.again(memberField) {
			s.problem(problemTwiceField)
		}
		return s.readField()
	case "value":
		if s.change.seen.again(memberValue) {
			s.problem(problemTwiceValue)
		}
		return s.inner((*splitter).readValueMember)
	default:
		return s.skip()
	}
}

// inner reads an object like [splitter.members], and skips what is none.
func (s *splitter) inner(each func(s *splitter, name []byte) error) error {
	if s.decoder.PeekKind() != '{' {
		return s.skip()
	}
	return s.members(each)
}

// readField reads what kind of change it is.
func (s *splitter) readField() error {
	if s.decoder.PeekKind() != '"' {
		s.problem(problemNoField)
		return s.skip()
	}
	c := s.change.Change
	if err := s.word(&c.Field); err != nil {
		return err
	}
	if len(c.Field) > maxID {
		c.Field = ""
		s.problem(problemFieldLong)
	}
	return nil
}

// readValueMember reads a member of a change's value.
func (s *splitter) readValueMember(name []byte) error {
	switch string(name) {
	case "metadata":
		if s.change.seen.again(memberMetadata) {
			s.problem(problemTwiceMeta)
		}
		return s.inner((*splitter).readMetadataMember)
	case "messages":
		value, err := s.value()
		if value.Kind() == '[' && bytes.TrimLeft(value[1:], " \t\r\n")[0] != ']' {
			s.change.has |= hasMessages
		}
		return err
	case "statuses":
		if s.decoder.PeekKind() != '[' {
			return s.skip()
		}
		_, err := s.items((*splitter).readStatus)
		return err
	default:
		return s.skip()
	}
}

// readMetadataMember reads a member of the metadata, which name the number.
func (s *splitter) readMetadataMember(name []byte) error {
	if string(name) != "phone_number_id" {
		return s.skip()
	}
	if s.change.seen.again(memberPhoneNumberID) {
		s.problem(problemTwicePhone)
	}
	c := s.change.Change
	if _, err := s.id(&c.PhoneNumberID); err != nil {
		return err
	}
	if len(c.PhoneNumberID) > maxID {
		c.PhoneNumberID = ""
		s.problem(problemPhoneLong)
	}
	return nil
}

// readStatus reads a status and adds it.
func (s *splitter) readStatus() error {
	if s.decoder.PeekKind() != '{' {
		return s.skip()
	}
	s.status = Status{}
	if err := s.members((*splitter).readStatusMember); err != nil {
		return err
	}
	if s.status.State == stateRead {
		s.change.has |= hasRead
	} else {
		s.change.has |= hasStatus
	}
	if id := s.status.MessageID; id != "" && len(id) <= maxMessageID {
		s.statuses = append(s.statuses, s.status)
	}
	return nil
}

// readStatusMember reads a member of a status.
func (s *splitter) readStatusMember(name []byte) error {
	status := &s.status
	switch string(name) {
	case "id":
		return s.text(&status.MessageID)
	case "status":
		return s.word(&status.State)
	case "recipient_id":
		return s.text(&status.Recipient)
	case "biz_opaque_callback_data":
		return s.readCallback()
	case "pricing":
		status.Billable, status.Category = false, ""
		return s.inner((*splitter).readPricingMember)
	default:
		return s.skip()
	}
}

// readCallback reads what was sent along with the message.
func (s *splitter) readCallback() error {
	name := s.nameAt
	isText := s.decoder.PeekKind() == '"'
	value, err := s.value()
	if err != nil {
		return err
	}
	s.status.CallbackData = ""
	if !isText {
		return nil
	}
	s.status.CallbackData = string(unquote(value))
	end := s.offset()
	s.callbacks = append(s.callbacks, callback{
		name:  name - s.change.at,
		value: end - len(value) - s.change.at,
		end:   end - s.change.at,
		text:  s.status.CallbackData,
	})
	return nil
}

// readPricingMember reads a member of what Meta says of the price.
func (s *splitter) readPricingMember(name []byte) error {
	switch string(name) {
	case "billable":
		value, err := s.value()
		s.status.Billable = value.Kind() == 't'
		return err
	case "category":
		return s.word(&s.status.Category)
	default:
		return s.skip()
	}
}
