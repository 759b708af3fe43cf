package redis

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// ledgerPage is how many entries of the stream are read at a time.
const ledgerPage = 200

// Ledger implements [store.Store]. An account's ledger is a stream, whose ids are
// the times in microseconds; see [parseEntries].
func (s *Store) Ledger(ctx context.Context, account tenant.AccountID, since time.Time) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		if _, err := s.Balance(ctx, account); err != nil {
			yield(store.Entry{}, err)
			return
		}
		from := "-"
		if s.clock == nil && since.UnixMicro() > 0 {
			from = strconv.FormatInt(since.UnixMicro(), 10)
		}
		for {
			page, err := s.ledgerPage(ctx, account, from, ledgerPage)
			if err != nil {
				yield(store.Entry{}, err)
				return
			}
			for _, message := range page {
				entries, err := parseEntries(message, placeOf(account))
				if err != nil {
					yield(store.Entry{}, err)
					return
				}
				for _, e := range entries {
					if !e.At.Before(since) && !yield(e, nil) {
						return
					}
				}
			}
			if len(page) < ledgerPage {
				return
			}
			from = "(" + page[len(page)-1].ID
		}
	}
}

// ledgerPage reads some entries of an account's ledger.
func (s *Store) ledgerPage(ctx context.Context, account tenant.AccountID, from string, most int) (page []goredis.XMessage, err error) {
	err = s.try(ctx, func(ctx context.Context) error {
		page, err = s.client.XRangeN(ctx, s.base(placeOf(account))+"ledger:"+string(account), from, "+", int64(most)).Result()
		return err
	})
	return page, err
}

// firstEntry is when numbers begin, the year 2026 in microseconds: they are below 2^53,
// which every reader of JSON keeps as they are, until 2034.
const firstEntry = 1_767_225_600_000_000

// lower is what a small letter has and its capital has not.
const lower = 'a' - 'A'

// letters are the kinds in the scripts.
var letters = map[byte]store.Kind{
	'h': store.KindHold, 'c': store.KindCapture, 'r': store.KindRelease, 'd': store.KindCredit, 't': store.KindTemplateFee,
}

// streamTime is the time in an id of the stream.
func streamTime(id string) (int64, error) {
	digits, _, _ := strings.Cut(id, "-")
	at, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: an id in a ledger's stream", store.ErrCorrupt)
	}
	return at, nil
}

// parseEntries reads an entry of the stream, which is several of the ledger where one run of a script has made several.
// Its id is the time of the last of them, and each of the others was a microsecond before the next. b is what was
// available before the first. Of each there is in e the letter of its kind, and then app, amount, what it is about (a hold or
// an operation) and message, each behind its length. Where the letter is a capital, it is of one or several that have kind, app and amount in common: behind these
// there is their number in two bytes, then what each is about, and then the message of each. A number in the ledger is made of time and place, so
// that numbers grow over all accounts and none is there twice.
func parseEntries(m goredis.XMessage, p place) ([]store.Entry, error) {
	corrupt := func(what string) ([]store.Entry, error) {
		return nil, fmt.Errorf("%w: the ledger's entry %s: %s", store.ErrCorrupt, m.ID, what)
	}
	at, err := streamTime(m.ID)
	if err != nil {
		return nil, err
	}
	balance, err := strconv.ParseInt(fieldOf(m, "b"), 10, 64)
	if err != nil {
		return corrupt("no balance")
	}
	set := int64(-1) // by the clock of a test
	if text := fieldOf(m, "t"); text != "" {
		if set, err = strconv.ParseInt(text, 10, 64); err != nil {
			return corrupt("no time")
		}
	}
	var entries []store.Entry
	for r := (unpacker{rest: fieldOf(m, "e")}); r.rest != ""; {
		letter, first := r.byte(), len(entries)
		e := store.Entry{Kind: letters[letter|lower], AppID: tenant.AppID(r.text())}
		amount, err := strconv.ParseInt(r.text(), 10, 64)
		e.Amount = pricing.Micros(amount)
		n := 1
		if letter&lower == 0 {
			n = number(r.take(2))
		}
		for ; n > 0 && !r.short; n-- {
			e.ID = r.text()
			entries = append(entries, e)
		}
		for i := range entries[first:] {
			entries[first+i].MessageID = r.text()
		}
		if r.short || err != nil || e.Kind == "" || len(entries) == first {
			return corrupt("it cannot be parsed")
		}
	}
	if len(entries) == 0 {
		return corrupt("it is empty")
	}
	at -= int64(len(entries))
	for i := range entries {
		e := &entries[i]
		at++
		switch e.Kind {
		case store.KindHold, store.KindTemplateFee:
			balance -= int64(e.Amount)
		case store.KindRelease, store.KindCredit:
			balance += int64(e.Amount)
		}
		switch e.Kind {
		case store.KindHold, store.KindCapture, store.KindRelease:
			e.ID = store.HoldID(e.ID).EntryID(e.Kind)
		case store.KindTemplateFee:
			e.ID = store.TemplateFeeID(e.MessageID)
		}
		e.Seq, e.Balance, e.At = (at-firstEntry)*places+int64(p), pricing.Micros(balance), time.UnixMicro(at).UTC()
		if set >= 0 {
			e.At = time.UnixMicro(set).UTC()
		}
	}
	return entries, nil
}

func fieldOf(m goredis.XMessage, name string) string {
	text, _ := m.Values[name].(string)
	return text
}
