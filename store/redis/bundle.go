package redis

import (
	"bytes"
	"encoding/binary"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

// The kinds of requests, as the script knows them.
const (
	kindCheck = iota
	kindCount
	kindHold
	kindCapture
	kindRelease
)

// request is what the script of a send is asked.
type request struct {
	kind    byte
	hold    store.HoldID
	message string
	// terms are what an admission is about. Of a capture, they are what its hold was, where that is to be made anew.
	terms packed
}

// head adds what a bundle of requests like this one begins with.
func (r *request) head(q packed, n int) packed {
	q = binary.BigEndian.AppendUint16(append(q, r.kind), uint16(n))
	q = append(q, flag(r.message != ""))
	if !r.settles() {
		q = append(q, r.terms...)
	}
	return q
}

// settles tells whether it is about a hold that was made before.
func (r *request) settles() bool { return r.kind >= kindCapture }

// packed is a bundle of this one alone.
func (r *request) packed(q packed) packed {
	q = r.head(q, 1).text(string(r.hold))
	if r.message != "" {
		q = q.text(r.message)
	}
	if r.settles() {
		q = append(q, r.terms...)
	}
	return q
}

// like tells whether requests are the same but for their holds and messages, and these of the same lengths and of the same days: the
// script then reads, decides and enters once what is so for all of them.
func (r *request) like(o *request) bool {
	return r.kind == o.kind && len(r.message) == len(o.message) && len(r.hold) == len(o.hold) && daysOf(r.hold) == daysOf(o.hold) &&
		bytes.Equal(r.terms, o.terms) && !(r.settles() && len(r.terms) > 0)
}

// daysOf are the digits of a hold's id that tell in which period it was made.
func daysOf(id store.HoldID) store.HoldID {
	const from, to = len("hold_"), len("hold_") + 4
	return id[min(from, len(id)):min(to, len(id))]
}

// bundle is jobs of a group that ask alike, in one place: one argument of the script, with one answer.
type bundle struct {
	jobs   []*job
	buffer packed
}

// takes tells whether a job can be one of the bundle.
func (b *bundle) takes(j *job) bool {
	first := b.jobs[0]
	return first.args[argBase] == j.args[argBase] && first.request.like(&j.request)
}

// MarshalBinary is what go-redis writes of a bundle.
func (b *bundle) MarshalBinary() ([]byte, error) {
	first := &b.jobs[0].request
	b.buffer = first.head(b.buffer[:0], len(b.jobs))
	for _, j := range b.jobs {
		j.written = true
		b.buffer = b.buffer.text(string(j.request.hold))
	}
	for _, j := range b.jobs {
		if first.message != "" {
			b.buffer = b.buffer.text(j.request.message)
		}
	}
	return b.buffer, nil
}

func (b *bundle) clear() {
	clear(b.jobs)
	b.jobs = b.jobs[:0]
}

// Answers of a bundle of several requests begin with one of these, or with the capital of a verdict that all have. That has behind it what is left of
// the limits for the last one, and by how much more it is for each before. An empty answer has none for any of them.
const (
	allSettled = 'S'
	eachAlone  = '*' // and then each behind its length; an empty one is to be asked for alone
)

// answer gives each job its part of the script's answer, as it would be alone, or tells that it is to be sent again by itself.
func (b *bundle) answer(reply string, again func(*job)) {
	u := unpacker{rest: reply}
	var kind byte
	var second, minute, more int
	if len(b.jobs) > 1 && reply != "" {
		if kind = u.byte(); kind != allSettled && kind != eachAlone {
			second, minute, more = number(u.take(7)), number(u.take(7)), int(u.byte())
		}
	}
	for i, j := range b.jobs {
		own := ""
		switch {
		case len(b.jobs) == 1:
			own, u.rest = reply, ""
		case reply == "":
		case kind == allSettled:
			own = settled
		case kind == eachAlone:
			own = u.take(uint64(u.byte()))
		default:
			before := (len(b.jobs) - 1 - i) * more
			own = string(append(make(packed, 0, lengthOfReply), kind|lower).number(second + before).number(minute + before))
		}
		j.command.SetVal(own)
	}
	for _, j := range b.jobs {
		if j.err = nil; u.short || u.rest != "" {
			j.err = unexpected(reply)
		} else if j.command.Val() == "" {
			again(j)
		}
	}
}
