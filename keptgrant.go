package gateway

import (
	"encoding/binary"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// keptGrant is a grant as the cache has it: what a send needs of it, in one text. There may
// be very many, and the garbage collector goes through all memory that has pointers time and
// again; as records with a dozen pointers each, 100,000 of them took a tenth of what
// their sends cost.
type keptGrant struct {
	text string
	// refused is the grant itself where it has a refusal, which no text can hold.
	refused *openedGrant
}

// unpackedGrant is the memory of a grant that was kept.
type unpackedGrant struct {
	openedGrant
	grant   tenant.Grant
	limit   tenant.RateLimit
	expires time.Time
}

// packGrant writes numbers as varints (encoding/binary), the times among them as
// durations since an epoch, and behind them texts, whose lengths are among the numbers.
func packGrant(g *openedGrant, epoch time.Time) keptGrant {
	if g.refusal != nil {
		return keptGrant{refused: g}
	}
	app := &g.App
	texts := []string{string(g.KeyID), string(app.ID), string(app.AccountID), app.PhoneNumberID, g.authorization}
	b := make([]byte, 0, 64+len(texts[0])+len(texts[1])+len(texts[2])+len(texts[3])+len(texts[4]))
	add := func(numbers ...int64) {
		for _, n := range numbers {
			b = binary.AppendVarint(b, n)
		}
	}
	add(int64(g.generation), int64(g.expires.Sub(epoch)), int64(g.askAgain.Sub(epoch)), int64(g.watched))
	if limit := app.RateLimit; limit == nil {
		add(0)
	} else {
		add(1, int64(limit.PerSecond), int64(limit.PerMinute))
	}
	if at := g.ExpiresAt; at == nil {
		add(0)
	} else {
		add(1, at.Unix(), int64(at.Nanosecond()))
	}
	for _, text := range texts {
		add(int64(len(text)))
	}
	for _, text := range texts {
		b = append(b, text...)
	}
	return keptGrant{text: string(b)}
}

// unpack returns the grant. Its texts are parts of the one that is kept.
func (k keptGrant) unpack(epoch time.Time) *openedGrant {
	if k.refused != nil {
		return k.refused
	}
	r := textReader(k.text)
	u := new(unpackedGrant)
	u.Grant = &u.grant
	u.generation = uint64(r.number())
	u.openedGrant.expires = epoch.Add(time.Duration(r.number()))
	u.askAgain = epoch.Add(time.Duration(r.number()))
	u.watched = time.Duration(r.number())
	app := &u.grant.App
	if r.number() != 0 {
		u.limit = tenant.RateLimit{PerSecond: int(r.number()), PerMinute: int(r.number())}
		app.RateLimit = &u.limit
	}
	if r.number() != 0 {
		u.expires = time.Unix(r.number(), r.number())
		u.grant.ExpiresAt = &u.expires
	}
	var lengths [5]int
	for i := range lengths {
		lengths[i] = int(r.number())
	}
	u.grant.KeyID = tenant.KeyID(r.text(lengths[0]))
	app.ID = tenant.AppID(r.text(lengths[1]))
	app.AccountID = tenant.AccountID(r.text(lengths[2]))
	app.PhoneNumberID = r.text(lengths[3])
	u.authorization = r.text(lengths[4])
	u.token = u.authorization[len(bearer):]
	return &u.openedGrant
}

// textReader takes what packGrant has written from the front of a text.
type textReader string

// number reads a varint.
func (r *textReader) number() int64 {
	var u uint64
	for i, shift := 0, 0; ; i, shift = i+1, shift+7 {
		b := (*r)[i]
		u |= uint64(b&0x7f) << shift
		if b < 0x80 {
			*r = (*r)[i+1:]
			return int64(u>>1) ^ -int64(u&1)
		}
	}
}

func (r *textReader) text(length int) string {
	text := (*r)[:length]
	*r = (*r)[length:]
	return string(text)
}
