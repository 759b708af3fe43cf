package caddytest

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode/utf8"
)

// letter is one change of Meta's: what is posted, and what has to come of it.
type letter struct {
	// entry are the members of the entry around it but for its changes, change
	// are its bytes there.
	entry, change string
	// to is whose it is; nil is nobody's, which is quarantined.
	to *subscriber
	// event is the name it has to arrive under; empty where it must not arrive.
	event string
	// payload is what has to arrive.
	payload string
	// charges are the messages whose template fees it makes due.
	charges []*outgoing
}

// outgoing is a message that Meta has accepted.
type outgoing struct {
	id string
	// callback is what Meta returns in its statuses, own the customer's part of that.
	callback, own string
	// recipient and category decide on the price.
	recipient, category string
	// free: Meta never calls it billable.
	free bool
	// inDoubt: the gateway does not know yet that Meta has accepted it.
	inDoubt bool
}

// owns are what customers have in biz_opaque_callback_data, which Meta returns.
// The first is nothing at all. A message's recipient depends on it, so that both
// sides of the test know it.
var owns = []string{
	"", "order-17", "hold_:", "a:b:c", `é"\/€😀` + "\n", "hold_00000000000000000000000000",
	"hold_00000000000000000000000000:17", strings.Repeat("é", 400),
}

// recipientOf is who gets the messages with this of the customer's.
func recipientOf(own string) string {
	i := max(0, slices.Index(owns, own))
	fate := []string{accepted, "9109"}[i%2]
	return []string{"4915100000", "1876000000", "1202000000", "9995000000"}[i%4] + fate
}

// pen writes what Meta could have written, at random.
type pen struct {
	*rand.Rand
	serial int
}

func pick[T any](p *pen, from ...T) T { return from[p.IntN(len(from))] }

// shuffled returns the same members in another order.
func (p *pen) shuffled(members ...string) []string {
	p.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	return members
}

// object returns a JSON object in one of several layouts.
func (p *pen) object(members ...string) string {
	return layouts[p.IntN(len(layouts))].object(members)
}

// layout is the white space in an object.
type layout struct{ open, comma, end string }

var layouts = []layout{{"{", ",", "}"}, {"{", ",", "}"}, {"{ ", ", ", " }"}, {"{\r\n\t", ",\r\n\t", "\n}"}}

func (l layout) object(members []string) string {
	return l.open + strings.Join(members, l.comma) + l.end
}

// quoted writes a JSON string with as few escapes as there can be, or with as many.
func (p *pen) quoted(text string) string {
	plain, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	if p.IntN(2) == 0 {
		return string(plain)
	}
	var b strings.Builder
	for _, c := range string(plain) {
		switch {
		case c == '/':
			b.WriteString(`\/`)
		case c >= 0x10000:
			c -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+c>>10, 0xdc00+c&0x3ff)
		case c >= utf8.RuneSelf:
			fmt.Fprintf(&b, `\u%04X`, c)
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

// noise is what only somebody who passes on the bytes gets right.
func (p *pen) noise() string {
	p.serial++
	return fmt.Sprintf(`"serial":%d,"noise":%s`, p.serial, pick(p,
		`"\u00e9\/\ud800\u0000"`, "\"\xff\xfe\"", `1.0e+2`, `123456789012345678901234567890`, `{"a":1,"a":2}`,
		`[ null ,true, {} ]`, `"é\u20ac😀"`, `-0`, `""`, `"biz_opaque_callback_data"`))
}

// number is the metadata of a phone number.
func (p *pen) number(phone string) string {
	return `"metadata":` + p.object(p.shuffled(`"display_phone_number":"15550001111"`, fmt.Sprintf(`"phone_number_id":%q`, phone))...)
}

// write returns a letter with a change of this field. value are the members of
// the change's value and want the same as they have to arrive.
func (p *pen) write(to *subscriber, entry, field string, value, want []string) *letter {
	l := layouts[p.IntN(len(layouts))]
	members := func(value []string) []string {
		return []string{`"value":` + l.object(value), fmt.Sprintf(`"field":%q`, field)}
	}
	posted, arrives := members(value), members(want)
	if p.IntN(2) == 0 {
		slices.Reverse(posted)
		slices.Reverse(arrives)
	}
	return &letter{
		entry: entry, change: l.object(posted), to: to,
		payload: `{"object":"whatsapp_business_account","entry":[{` + entry + `,"changes":[` + l.object(arrives) + `]}]}`,
	}
}

// entryOf are the members of an entry of an account.
func (p *pen) entryOf(waba string) string {
	entry := fmt.Sprintf(`"id":%q`, waba)
	if p.IntN(3) == 0 {
		entry += `,"time":1760000000`
	}
	return entry
}

// statuses returns a change with statuses of these messages, which are s's.
func (p *pen) statuses(s *subscriber, messages ...*outgoing) *letter {
	var posted, arrive, states []string
	var charges []*outgoing
	for _, m := range messages {
		state := pick(p, "sent", "delivered", "delivered", "delivered", "read", "read", "failed", "played")
		a, b, charge := p.status(m, state)
		posted, arrive, states = append(posted, a), append(arrive, b), append(states, state)
		if charge {
			charges = append(charges, m)
		}
	}
	number, noise := p.number(s.phone), p.noise()
	value := func(statuses []string) []string {
		return []string{number, `"statuses":[` + strings.Join(statuses, ", ") + `]`, noise}
	}
	l := p.write(s, p.entryOf(s.waba), "messages", value(posted), value(arrive))
	l.charges = charges
	l.event = s.name(func(event string) bool {
		switch event {
		case "read":
			return slices.Contains(states, "read")
		case "message_status":
			return slices.ContainsFunc(states, func(state string) bool { return state != "read" })
		default:
			return false
		}
	})
	return l
}

// status returns a status as Meta posts it and as it has to arrive, and whether
// it makes the message's template fee due.
func (p *pen) status(m *outgoing, state string) (posted, arrives string, charge bool) {
	members := []string{
		fmt.Sprintf(`"id":%q`, m.id), fmt.Sprintf(`"status":%q`, state), `"timestamp":"1760000000"`, fmt.Sprintf(`"recipient_id":%q`, m.recipient),
	}
	billable := !m.free && p.IntN(2) == 0
	switch {
	case billable || p.IntN(2) == 0:
		members = append(members, `"pricing":`+p.object(p.shuffled(
			fmt.Sprintf(`"billable":%v`, billable), `"pricing_model":"PMP"`, `"type":"regular"`, fmt.Sprintf(`"category":%q`, m.category))...))
	default:
		members = append(members, `"errors":[]`)
	}
	p.shuffled(members...)
	with, without := slices.Clone(members), members
	// Meta returns what was sent along. One that does not is still understood,
	// unless nothing else says whose message it is.
	if m.callback != "" && (m.inDoubt || p.IntN(10) > 0) {
		at := 1 + p.IntN(len(members))
		value := p.quoted(m.callback)
		with = slices.Insert(with, at, `"biz_opaque_callback_data":`+value)
		if own := `"` + strings.TrimPrefix(value[1:], strings.TrimSuffix(m.callback, m.own)); m.own != "" {
			without = slices.Insert(without, at, `"biz_opaque_callback_data":`+own)
		}
	}
	l := layouts[p.IntN(len(layouts))]
	return l.object(with), l.object(without), billable && (state == "delivered" || state == "read")
}

// foreign returns a change with statuses of messages that nobody here has sent.
// What they return is theirs, even if it looks like a hold, or is somebody else's.
func (p *pen) foreign(s *subscriber, elsewhere string) *letter {
	p.serial++
	m := &outgoing{
		id: fmt.Sprintf("wamid.foreign%d", p.serial), recipient: recipientOf(""), category: "marketing",
		callback: pick(p, "", "theirs", "hold_0123456789abcdefghijklmnop", "hold_0123456789abcdefghijklmnop:x", elsewhere),
	}
	m.own = m.callback
	l := p.statuses(s, m)
	l.charges = nil
	return l
}

// userMessage returns a change in which a user writes to s, perhaps with a
// status of a message of s's beside it.
func (p *pen) userMessage(s *subscriber, text string, m *outgoing) *letter {
	p.serial++
	value := []string{p.number(s.phone), p.noise(), fmt.Sprintf(`"messages":[%s]`, p.object(p.shuffled(
		fmt.Sprintf(`"id":"wamid.user%d"`, p.serial), fmt.Sprintf(`"from":%q`, recipientOf("")), `"type":"text"`,
		`"text":`+p.object(`"body":`+p.quoted(text)))...))}
	want, charge := slices.Clone(value), false
	if m != nil {
		var posted, arrives string
		posted, arrives, charge = p.status(m, "read")
		value, want = append(value, `"statuses":[`+posted+`]`), append(want, `"statuses":[`+arrives+`]`)
	}
	l := p.write(s, pick(p, p.entryOf(s.waba), `"id":"0"`), "messages", value, want)
	l.event = s.name(func(event string) bool { return event == "messages" || event == "read" && m != nil })
	if charge {
		l.charges = []*outgoing{m}
	}
	return l
}

// accountFields are the fields of changes that have no number, with their event.
var accountFields = map[string]string{
	"message_template_status_update":  "message_template_status",
	"message_template_quality_update": "message_template_status",
	"template_category_update":        "message_template_status",
	"account_update":                  "account",
	"phone_number_quality_update":     "account",
	"a_field_of_next_year":            "account",
}

// ofAccount returns a change of the account as a whole.
func (p *pen) ofAccount(s *subscriber) *letter {
	field := pick(p, "message_template_status_update", "message_template_quality_update", "template_category_update",
		"account_update", "phone_number_quality_update", "a_field_of_next_year")
	value := []string{p.noise(), `"event":"APPROVED"`}
	l := p.write(s, p.entryOf(s.waba), field, value, value)
	l.event = s.name(func(event string) bool { return event == accountFields[field] })
	return l
}

// astray returns a change that no app is there for, although its account may be.
func (p *pen) astray(s *subscriber) *letter {
	value := []string{p.noise()}
	if p.IntN(2) == 0 {
		return p.write(nil, `"id":"1234"`, "account_update", value, value)
	}
	value = append(value, p.number("4321"))
	return p.write(nil, p.entryOf(s.waba), "messages", value, value)
}

// batches puts letters into webhooks of 1 to 1,000 changes.
func (p *pen) batches(letters []*letter) (all []*batch) {
	for len(letters) > 0 {
		n := min(len(letters), int(math.Exp(p.Float64()*math.Log(1000)))+1, 1000)
		all = append(all, &batch{letters: letters[:n], body: p.body(letters[:n])})
		letters = letters[n:]
	}
	return all
}

// batch is one webhook.
type batch struct {
	letters []*letter
	body    string
}

// body returns a webhook with these changes. Neighbours may share an entry.
func (p *pen) body(letters []*letter) string {
	var entries []string
	for len(letters) > 0 {
		var changes []string
		entry := letters[0].entry
		for len(letters) > 0 && letters[0].entry == entry && (len(changes) == 0 || p.IntN(8) > 0) {
			changes, letters = append(changes, letters[0].change), letters[1:]
		}
		entries = append(entries, p.object(p.shuffled(entry, `"changes":[`+strings.Join(changes, pick(p, ",", " ,\n"))+`]`)...))
	}
	return p.object(p.shuffled(`"object":"whatsapp_business_account"`, `"entry":[`+strings.Join(entries, ",")+`]`)...)
}
